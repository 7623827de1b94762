"""Sum of squared errors, the loss of least squares."""

import torch
from torch import nn


class SumOfSquares(nn.Module):
    """sum (y - y_hat)^2, or half of it, whose gradient is the error itself.

    Args:
        half: whether to take half of the sum.

    Shape:
        output, target: (B, ...), equal; loss: (), which grows with the batch.
    """

    reduction = "sum"

    def __init__(self, half: bool = False):
        super().__init__()
        self.factor = 0.5 if half else 1.0

    def forward(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss."""
        return self.factor * (target - output).square().sum()
