"""Stress of a map: how far its distances are from the given ones. Kruskal, Psychometrika 29, 1964."""

from typing import Any

import torch
from torchmetrics import Metric


class RawStress(Metric):
    """Sum over pairs of (p - t)^2, of squared distances p on the map and t as given.

    Args:
        base: the settings that every torchmetrics Metric has.

    Shape:
        preds and target: (N,) squared distances of N pairs.
    """

    is_differentiable = True
    higher_is_better = False
    full_state_update = False
    squared_stress: torch.Tensor
    squared_distances: torch.Tensor

    def __init__(self, **base: Any):
        super().__init__(**base)
        self.add_state("squared_stress", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("squared_distances", torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, preds: torch.Tensor, target: torch.Tensor) -> None:
        """Add pairs."""
        self.squared_stress = self.squared_stress + (preds - target).square().sum()
        self.squared_distances = self.squared_distances + target.square().sum()

    def compute(self) -> torch.Tensor:
        """The sum, a 0-d tensor."""
        return self.squared_stress


class NormalizedStress(RawStress):
    """sqrt(sum (p - t)^2 / sum t^2), which has no unit: 0 for a perfect map, 1 for all points in one place.

    In a MetricCollection it shares the sums of the raw stress.

    Args:
        base: the settings that every torchmetrics Metric has.

    Shape:
        preds and target: (N,) squared distances of N pairs.
    """

    def compute(self) -> torch.Tensor:
        """The root, a 0-d tensor."""
        return (self.squared_stress / self.squared_distances).sqrt()
