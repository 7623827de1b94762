"""Click-through rate: of what was shown, and of what a ranking would show."""

from typing import Any

import torch
from torchmetrics import Metric

from iolaus.metrics.ranking import Ranking


class ClickThroughRate(Metric):
    """sum w c / sum w over impressions with clicks c and weights w; 0 where the weights sum to 0.

    Args:
        num_tasks: rates that are computed side by side.
        base: the settings that every torchmetrics Metric has.

    Shape:
        clicks: (N,), or (num_tasks, N) for several tasks; weights: a number or the same shape; compute: (), or (num_tasks,).

    Raises:
        ValueError: for no tasks, and for clicks or weights of another shape.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    clicks: torch.Tensor
    impressions: torch.Tensor

    def __init__(self, num_tasks: int = 1, **base: Any):
        super().__init__(**base)
        if num_tasks < 1:
            raise ValueError(f"num_tasks must be at least 1; received {num_tasks}")
        self.num_tasks = num_tasks
        self.add_state("clicks", torch.zeros(num_tasks), dist_reduce_fx="sum")
        self.add_state("impressions", torch.zeros(num_tasks), dist_reduce_fx="sum")

    def update(self, clicks: torch.Tensor, weights: torch.Tensor | float = 1.0) -> None:
        """Add impressions."""
        expected = 1 if self.num_tasks == 1 else 2
        if clicks.ndim != expected or (expected == 2 and len(clicks) != self.num_tasks):
            shape = "(N,)" if expected == 1 else f"({self.num_tasks}, N)"
            raise ValueError(f"clicks must have the shape {shape}; received {tuple(clicks.shape)}")
        if isinstance(weights, torch.Tensor) and weights.ndim and weights.shape != clicks.shape:
            raise ValueError(
                f"weights must have the clicks' shape {tuple(clicks.shape)}; received {tuple(weights.shape)}"
            )
        clicks = clicks.to(self.clicks)
        weights = torch.as_tensor(weights).to(clicks).expand_as(clicks)
        self.clicks = self.clicks + (weights * clicks).sum(-1)
        self.impressions = self.impressions + weights.sum(-1)

    def compute(self) -> torch.Tensor:
        """The rate of each task."""
        nothing = self.impressions == 0
        rates = (self.clicks / self.impressions.masked_fill(nothing, 1)).masked_fill(nothing, 0)
        return rates[0] if self.num_tasks == 1 else rates


class TopClickThroughRate(Ranking):
    """Share of clicks among the top_k best scored candidates of every query, those without clicks included.

    Args:
        top_k: candidates of a query that would be shown.
        base: the settings that every torchmetrics Metric has.

    Shape:
        preds: (N,) scores; target: (N,) clicks, 0 or 1; indexes: (N,) query of each. See Ranking for ties.

    Raises:
        ValueError: if no candidate would be shown.
    """

    def __init__(self, top_k: int = 1, **base: Any):
        super().__init__(top_k, **base)

    def compute(self) -> torch.Tensor:
        """The share, a 0-d tensor."""
        _, ranks, clicks = self.ranked()
        return clicks[self.is_shown(ranks)].float().mean()
