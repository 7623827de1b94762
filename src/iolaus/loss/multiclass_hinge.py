"""Multiclass hinge loss of support vector machines. Weston and Watkins, ESANN 1999."""

import torch
from torch import nn


class MulticlassHinge(nn.Module):
    """The mean over samples of sum_{j != y} max(0, s_j - s_y + margin).

    `torch.nn.MultiMarginLoss` is the same divided by the number of classes.

    Args:
        margin: by which the true class's score must be ahead.

    Shape:
        output: (B, C) scores; target: (B,) classes; loss: ().
    """

    def __init__(self, margin: float = 1.0):
        super().__init__()
        self.margin = margin

    def forward(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss."""
        true = output.gather(1, target[:, None])
        margins = (output - true + self.margin).clamp_min(0)
        return (margins.sum(1) - self.margin).mean()  # the true class's own term is the margin
