"""Means and second moments of targets, predictions and errors, in float64 and in a form that does not cancel."""

from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
from torchmetrics import Metric

from iolaus.functional.float64 import to_float64

TARGET, PRED, ERROR = range(3)  # rows of the means
# The pairs of those whose products are summed; the last one is the covariance of targets and predictions.
LEFT, RIGHT = [TARGET, PRED, ERROR, TARGET], [TARGET, PRED, ERROR, PRED]
ROWS = 1 + 3 + len(LEFT)

Multioutput = Literal["uniform_average", "variance_weighted", "raw_values"]


class Moments(Metric, ABC):
    """A score that follows from moments up to the second one, each output for itself.

    Sums of squares minus the square of a sum lose all digits of a small variance around a large mean. Here each batch is reduced to its
    count, its means and the products of deviations from these means, and batches are merged as such. The result is the same for any
    batching and any number of processes. In a MetricCollection all such scores share one state.

    Args:
        multioutput: how several outputs become one number: their mean, their mean weighted by the targets' variance, or not at all.
        num_outputs: numbers that a target consists of.
        base: the settings that every torchmetrics Metric has.

    Shape:
        preds and target: (N, num_outputs), or (N,) for one output.

    Raises:
        ValueError: for an unknown multioutput.

    Reference:
        Chan, Golub, LeVeque, The American Statistician 37, 1983.
    """

    is_differentiable = True
    higher_is_better: bool | None = True
    full_state_update = False
    undefined_because = "there are fewer than two samples, or all targets are equal"
    moments: torch.Tensor

    def __init__(self, multioutput: Multioutput = "uniform_average", num_outputs: int = 1, **base: Any):
        super().__init__(**base)
        if multioutput not in ("uniform_average", "variance_weighted", "raw_values"):
            raise ValueError(
                f"multioutput must be uniform_average, variance_weighted or raw_values; received {multioutput!r}"
            )
        self.multioutput = multioutput
        self.add_state("moments", torch.zeros(ROWS, num_outputs, dtype=torch.float64), dist_reduce_fx=merge_moments)

    def update(self, preds: torch.Tensor, target: torch.Tensor) -> None:
        """Add a batch."""
        if preds.shape != target.shape:
            raise ValueError(f"preds and target must have one shape; received {preds.shape} and {target.shape}")
        if len(target):
            batch = batch_moments(*(to_float64(part).reshape(len(part), -1) for part in (preds, target)))
            self.moments = merge_moments(torch.stack([self.moments.expand_as(batch), batch]))

    def compute(self) -> torch.Tensor:
        """The score, a 0-d tensor, or (num_outputs,) for raw_values; NaN where it is not defined."""
        count, means, products = self.moments[0], self.moments[1:4], self.moments[4:]
        scores = self.scores(count, means, products).masked_fill(count < 2, float("nan"))
        variances = products[TARGET]
        if self.multioutput == "raw_values":
            return scores
        if self.multioutput == "variance_weighted" and variances.any():
            return (scores * variances).sum() / variances.sum()
        return scores.mean()

    @abstractmethod
    def scores(self, count: torch.Tensor, means: torch.Tensor, products: torch.Tensor) -> torch.Tensor:
        """The score of each output.

        Args:
            count: samples, (T,).
            means: of target, prediction and error, (3, T).
            products: sums of products of deviations: target's, prediction's and error's squares, target times prediction, (4, T).
        """


def batch_moments(preds: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Moments of one batch.

    Shape:
        preds and target: (N, T) float64; output: (ROWS, T).
    """
    values = torch.stack([target, preds, target - preds])
    first = values[:, 0]  # subtracted before the mean is taken, so that equal values have no deviation at all
    around = values - first[:, None]
    shift = around.mean(1)
    deviations = around - shift[:, None]
    products = (deviations[LEFT] * deviations[RIGHT]).sum(1)
    return torch.cat([torch.full_like(shift[:1], len(target)), first + shift, products])


def merge_moments(parts: torch.Tensor) -> torch.Tensor:
    """Moments of all samples from those of parts of them.

    Shape:
        parts: (K, ROWS, T); output: (ROWS, T).
    """
    counts, means, products = parts[:, 0], parts[:, 1:4], parts[:, 4:]
    total = counts.sum(0)
    largest = counts.argmax(0).expand(1, 3, -1)
    origin = means.gather(
        0, largest
    )  # the mean of a part that is not empty; parts of equal means then merge without rounding
    shifts = means - origin
    shift = (shifts * (counts / total.clamp_min(1))[:, None]).sum(0)
    away = shifts - shift
    products = products.sum(0) + (counts[:, None] * away[:, LEFT] * away[:, RIGHT]).sum(0)
    return torch.cat([total[None], origin[0] + shift, products])


def share_explained(unexplained: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
    """1 - unexplained / total; for targets that are all equal 1 where nothing is unexplained and 0 elsewhere, as in scikit-learn."""
    is_constant = total == 0
    share = 1 - unexplained / total.masked_fill(is_constant, 1)
    return share.where(~is_constant, (unexplained == 0).to(share))
