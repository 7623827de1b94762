"""Mean and deviation by which inputs and targets are standardised."""

import torch

from iolaus.data.order import BLOCK


def mean_and_deviation(
    values: torch.Tensor, rows: torch.Tensor, per_channel: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation over rows (and pixels), in blocks, so that no float copy of the whole is made."""
    dims = [0, *range(2, values.ndim)] if per_channel else [0]
    total = squares = torch.zeros(())
    count = 0
    for block in rows.split(BLOCK):
        x = values.index_select(0, block).double()
        if count == 0:
            shift = x.mean(dims, keepdim=True)  # near the mean, so that the squares keep their digits
        total = total + (x - shift).sum(dims, keepdim=True)
        squares = squares + (x - shift).square().sum(dims, keepdim=True)
        count += x.numel() // shift.numel()
    mean = total / count
    deviation = (squares / count - mean.square()).clamp_min(0).sqrt()
    deviation = torch.where(deviation > 1e-7 * (mean + shift).abs().clamp_min(1e-30), deviation, 1.0)
    return (mean + shift)[0].float(), deviation[0].float()
