"""Standardisation as a layer: the numbers it needs travel in the checkpoint with the weights."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn


class Standardize(nn.Module):
    """(x - mean) / deviation, the identity until `fit`.

    Mean and deviation stay in float32 when a module is turned to half precision: in a half, a mean of 5000 is off by up to 16.

    Args:
        shape: of mean and deviation; broadcast against the trailing dimensions of the input.

    Shape:
        input: (B, ...), any dtype; output: the same shape, in the dtype that the module was turned to.
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, shape: Sequence[int]):
        super().__init__()
        self.register_buffer("mean", torch.zeros(*shape))
        self.register_buffer("deviation", torch.ones(*shape))
        self.output_dtype = self.mean.dtype

    def _apply(self, fn: Callable[..., torch.Tensor], recurse: bool = True) -> Any:
        turned = fn(torch.empty(0, dtype=self.output_dtype, device=self.mean.device))
        self.output_dtype = turned.dtype
        is_half = turned.dtype in (torch.float16, torch.bfloat16)
        return super()._apply((lambda part: part.to(turned.device)) if is_half else fn, recurse)

    @torch.no_grad()
    def fit(self, mean: torch.Tensor, deviation: torch.Tensor) -> None:
        """Set mean and deviation."""
        self.mean.copy_(mean)
        self.deviation.copy_(deviation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Into units of the deviation; what is new memory is written over, and nothing is rounded before the mean is off."""
        dtype = self.mean.dtype
        centred = x - self.mean if x.dtype in (dtype, torch.float64) else x.to(dtype).sub_(self.mean)
        standardized = centred.div_(self.deviation)
        return standardized if standardized.dtype == self.output_dtype else standardized.to(self.output_dtype)

    def inverse(self, x: torch.Tensor) -> torch.Tensor:
        """Back into the original unit, in the dtype of x or the buffers', whichever is wider."""
        return x * self.deviation.to(x.device) + self.mean.to(x.device)
