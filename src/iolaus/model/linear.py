"""A linear layer on the flattened input: logistic regression, least squares."""

import math
from collections.abc import Sequence

import torch
from torch import nn


class Linear(nn.Module):
    """y = x W^T + b on the flattened input.

    Args:
        input_shape: shape of one input.
        output_dim: number of outputs.
        bias: whether b is learned; without it, b = 0.

    Shape:
        input: (B, *input_shape); output: (B, output_dim).
    """

    def __init__(self, input_shape: Sequence[int], output_dim: int, bias: bool = True):
        super().__init__()
        self.linear = nn.Linear(math.prod(input_shape), output_dim, bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores of each output."""
        return self.linear(x.flatten(1))
