"""Coefficient of determination."""

from typing import Any

import torch

from iolaus.metrics.moments import ERROR, TARGET, Moments, Multioutput, share_explained


class R2(Moments):
    """1 - sum (y - p)^2 / sum (y - mean y)^2; NaN for fewer than two samples.

    Where all targets are equal it is 1 for predictions without error and 0 for others, as in scikit-learn.

    Args:
        adjusted: number of inputs to adjust for; 0: not adjusted.
        multioutput: how several targets are averaged; see Moments.
        num_outputs: numbers that a target consists of.
        base: the settings that every torchmetrics Metric has.

    Shape:
        preds and target: (N, num_outputs).

    Raises:
        ValueError: for a negative number of inputs, or an unknown multioutput.
    """

    def __init__(
        self, adjusted: int = 0, multioutput: Multioutput = "uniform_average", num_outputs: int = 1, **base: Any
    ):
        super().__init__(multioutput, num_outputs, **base)
        if adjusted < 0:
            raise ValueError(f"adjusted must be a number of inputs, at least 0; received {adjusted}")
        self.adjusted = adjusted

    def scores(self, count: torch.Tensor, means: torch.Tensor, products: torch.Tensor) -> torch.Tensor:
        """As the class says, (T,)."""
        return share_explained(products[ERROR] + count * means[ERROR].square(), products[TARGET])

    def compute(self) -> torch.Tensor:
        """The score, a 0-d tensor, or (num_outputs,) for raw_values; not adjusted where there are too few samples for it."""
        score, count = super().compute(), self.moments[0, 0]
        left = count - self.adjusted - 1
        return 1 - (1 - score) * (count - 1) / left if self.adjusted and left > 0 else score
