"""Points of a map as weights: the whole of a model for multidimensional scaling. https://en.wikipedia.org/wiki/Multidimensional_scaling."""

import torch
from torch import nn
from torch.nn import functional as F


class Points(nn.Module):
    """||W_i - W_j||^2 for pairs (i, j) of N points W in d dimensions.

    A map that begins small unfolds along its longest axes first, and ends in the same place for more seeds than one of points that
    begin far apart.

    Args:
        num_points: N.
        dim: d.
        std: deviation of the normal distribution that the points begin from.

    Shape:
        points: (N, d); i and j: (B,) whole numbers; output: (B,).

    Raises:
        ValueError: for no point or no dimension.
    """

    def __init__(self, num_points: int, dim: int = 2, std: float = 0.1):
        super().__init__()
        if num_points < 1 or dim < 1:
            raise ValueError(f"num_points and dim must be positive; received {num_points} and {dim}")
        self.points = nn.Parameter(torch.randn(num_points, dim) * std)

    def forward(self, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        """Squared distances."""
        return (F.embedding(i, self.points) - F.embedding(j, self.points)).square().sum(-1)
