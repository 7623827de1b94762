"""Standardisation as a layer: the numbers it needs travel in the checkpoint with the weights."""

from collections.abc import Sequence

import torch
from torch import nn


class Standardize(nn.Module):
    """(x - mean) / deviation, the identity until `fit`.

    Args:
        shape: of mean and deviation; broadcast against the trailing dimensions of the input.

    Shape:
        input: (B, ...), any dtype; output: the same shape, the dtype of the buffers.
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, shape: Sequence[int]):
        super().__init__()
        self.register_buffer("mean", torch.zeros(*shape))
        self.register_buffer("deviation", torch.ones(*shape))

    @torch.no_grad()
    def fit(self, mean: torch.Tensor, deviation: torch.Tensor) -> None:
        """Set mean and deviation."""
        self.mean.copy_(mean)
        self.deviation.copy_(deviation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Into units of the deviation; what is new memory is written over."""
        dtype = self.mean.dtype
        centred = x - self.mean if x.dtype == dtype else x.to(dtype).sub_(self.mean)
        return centred.div_(self.deviation)

    def inverse(self, x: torch.Tensor) -> torch.Tensor:
        """Back into the original unit."""
        return x * self.deviation + self.mean
