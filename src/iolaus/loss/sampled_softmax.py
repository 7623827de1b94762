"""Cross entropy over sampled candidates. Jean and others, https://arxiv.org/abs/1412.2007."""

import torch
from torch import nn
from torch.nn import functional as F


class SampledSoftmax(nn.Module):
    """The mean over clicked candidates i of -log(exp(s_i / t) / (exp(s_i / t) + sum over unclicked j of the row of exp(s_j / t))).

    Other clicked candidates of the row do not compete. Without a click the loss is 0.

    Args:
        temperature: t; small ones look at the best scored unclicked candidates alone.

    Shape:
        output: (B, C) scores of C candidates; target: (B, C) clicks, 1 or 0; loss: ().

    Raises:
        ValueError: for a temperature that is not above 0.
    """

    def __init__(self, temperature: float = 1.0):
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature must be above 0; received {temperature}")
        self.temperature = temperature

    def forward(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss."""
        clicked, scores = target > 0, output / self.temperature
        unclicked = scores.masked_fill(clicked, -torch.inf).logsumexp(1, keepdim=True)
        return (F.softplus(unclicked - scores) * clicked).sum() / clicked.sum().clamp_min(1)
