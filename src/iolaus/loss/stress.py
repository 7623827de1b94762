"""Stress of multidimensional scaling. https://en.wikipedia.org/wiki/Multidimensional_scaling ."""

from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F


class Stress(nn.Module):
    """The mean or sum over pairs of (||W_i - W_j||^2 - D_ij)^2.

    The mean keeps the same learning rate for any number of pairs in a batch.

    Args:
        reduction: `mean` or `sum`.

    Shape:
        output: (N,) squared distances ||W_i - W_j||^2 of N pairs; target: (N,) given ones D_ij; loss: ().

    Raises:
        ValueError: for shapes that differ, which would be compared all with all.
    """

    def __init__(self, reduction: Literal["mean", "sum"] = "mean"):
        super().__init__()
        self.reduction = reduction

    def forward(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss."""
        if output.shape != target.shape:
            raise ValueError(f"stress compares pairs: received {tuple(output.shape)} and {tuple(target.shape)}")
        return F.mse_loss(output, target, reduction=self.reduction)
