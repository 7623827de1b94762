"""Coefficient of determination, also of a split too small to have one."""

from typing import Any

import torch
from torchmetrics.regression import R2Score


class R2(R2Score):
    """1 - sum (y - p)^2 / sum (y - mean y)^2; NaN for fewer than two samples, where torchmetrics stops the run.

    Args:
        adjusted: number of inputs to adjust for; 0: not adjusted.
        multioutput: how several targets are averaged.
        base: the settings that every torchmetrics Metric has.

    Shape:
        preds and target: (N, T).
    """

    def __init__(self, adjusted: int = 0, multioutput: str = "uniform_average", **base: Any):
        super().__init__(adjusted=adjusted, multioutput=multioutput, **base)

    def compute(self) -> torch.Tensor:
        """The score, a 0-d tensor."""
        if self.total < 2:
            return torch.tensor(float("nan"), device=self.total.device)
        return super().compute()
