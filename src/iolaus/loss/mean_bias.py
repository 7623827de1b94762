"""Mean bias error: whether predictions are too low or too high on average."""

import torch
from torch import nn


class MeanBias(nn.Module):
    """mean(y - y_hat): positive where predictions are too low.

    It has no minimum, errors of both signs cancel; it is a measure to look at rather than to train with.

    Shape:
        output, target: (B, ...), equal; loss: ().
    """

    def forward(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss."""
        return (target - output).mean()
