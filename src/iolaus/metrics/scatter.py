"""Predictions against targets, for a picture."""

from typing import Any

import torch
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class Scatter(Metric):
    """Pairs of target and prediction, the first `max_points` of them.

    Args:
        max_points: how many pairs are kept at most.
        base: the settings that every torchmetrics Metric has.

    Shape:
        preds and target: (N, T); compute: two tensors (at most max_points, T), targets first.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False
    preds: list[torch.Tensor]
    target: list[torch.Tensor]

    def __init__(self, max_points: int = 10_000, **base: Any):
        super().__init__(**base)
        self.max_points = max_points
        self.add_state("preds", [], dist_reduce_fx="cat")
        self.add_state("target", [], dist_reduce_fx="cat")

    def update(self, preds: torch.Tensor, target: torch.Tensor) -> None:
        """Add pairs while there is room."""
        room = self.max_points - sum(len(p) for p in self.preds)
        if room > 0:
            self.preds.append(preds[:room])
            self.target.append(target[:room])

    def compute(self) -> tuple[torch.Tensor, torch.Tensor]:
        """All pairs kept."""
        return dim_zero_cat(self.target), dim_zero_cat(self.preds)
