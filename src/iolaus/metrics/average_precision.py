"""Average precision of the positive class: the area under its precision-recall curve, summed in steps."""

from collections.abc import Sequence
from typing import Any

import torch
from torchmetrics.classification import MulticlassAveragePrecision
from torchmetrics.utilities import dim_zero_cat

from iolaus.metrics.positive import positive_index


class AveragePrecision(MulticlassAveragePrecision):
    """sum_n (R_n - R_{n-1}) P_n over thresholds, of the positive class of two; NaN where the split has no sample of it.

    A guess by chance has the share of positive samples, however rare they are; the area under the ROC curve has 0.5 then.

    Args:
        num_classes: number of classes, which must be 2.
        positive: the positive class; None: the second one.
        class_names: names of the classes; None: 0 and 1.
        validate_args: whether each update looks at all labels and predictions for values out of range.
        base: the settings that every torchmetrics Metric has.

    Shape:
        preds: (N, 2) probabilities or logits; target: (N,).

    Raises:
        ValueError: for another number of classes, or a positive class that is none of them.
    """

    undefined_because = "the split has no sample of the positive class"

    def __init__(
        self,
        num_classes: int,
        positive: str | float | None = None,
        class_names: Sequence[str] | None = None,
        validate_args: bool = False,
        **base: Any,
    ):
        super().__init__(num_classes, average=None, thresholds=None, validate_args=validate_args, **base)
        self.positive = positive_index(num_classes, positive, class_names)

    def compute(self) -> torch.Tensor:  # type: ignore[override]
        """The value, a 0-d tensor."""
        return self.of_many(dim_zero_cat(self.preds)[None], dim_zero_cat(self.target)[None])[0]

    def of_many(self, preds: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The value of each of K sets of predictions, (K,), at once; what was updated does not count.

        Shape:
            preds: (K, N, 2); target: (K, N).
        """
        return average_precisions(preds[..., self.positive].T, (target == self.positive).T).float()


def average_precisions(scores: torch.Tensor, positive: torch.Tensor) -> torch.Tensor:
    """Average precision of each column: the mean over its positives of the precision at their score, ties included.

    Shape:
        scores: (N, M); positive: (N, M) bool; output: (M,) float64, NaN where a column has no positive.
    """
    ordered, order = scores.sort(0, descending=True)
    hits = positive.gather(0, order).double()
    place = torch.arange(len(scores), device=scores.device)[:, None].expand_as(order)
    ends = torch.ones_like(positive)
    ends[:-1] = ordered[1:] != ordered[:-1]
    end = place.where(ends, len(scores)).flip(0).cummin(0).values.flip(0)  # of the samples with the same score
    precision = hits.cumsum(0).gather(0, end) / (end + 1)
    return (precision * hits).sum(0) / hits.sum(0)
