"""Area under the ROC curve, averaged over the classes that occur."""

from typing import Any

import torch
from torchmetrics.classification import MulticlassAUROC
from torchmetrics.utilities import dim_zero_cat

MOST_ELEMENTS = 2**20  # of scores that are sorted together


class AUROC(MulticlassAUROC):
    """Mean over classes of the area under each class's ROC curve against the rest.

    A class without samples, or without samples of other classes, has no ROC curve and is left out; torchmetrics counts it as 0,
    which pulls the mean down on small splits. Without any curve the value is NaN.

    Args:
        num_classes: number of classes.
        validate_args: whether each update looks at all labels and predictions for values out of range.
        base: the settings that every torchmetrics Metric has.

    Shape:
        preds: (N, num_classes) probabilities or logits; target: (N,).
    """

    undefined_because = "the split has samples of one class only"

    def __init__(self, num_classes: int, validate_args: bool = False, **base: Any):
        super().__init__(num_classes, average=None, thresholds=None, validate_args=validate_args, **base)

    def compute(self) -> torch.Tensor:  # type: ignore[override]
        """The mean, a 0-d tensor."""
        target = dim_zero_cat(self.target)
        kept = (
            self.preds if isinstance(self.preds, list) else [self.preds]
        )  # one tensor once processes have gathered theirs
        # A few curves at a time, from what is kept batch by batch: the whole in one piece would take the predictions' memory twice.
        step = max(MOST_ELEMENTS // max(len(target), 1), 1)
        parts = [
            areas(
                torch.cat([part[:, first : first + step] for part in kept]),
                target[:, None] == torch.arange(first, min(first + step, self.num_classes), device=target.device),
            )
            for first in range(0, self.num_classes, step)
        ]
        return torch.cat(parts).nanmean().float()

    def of_many(self, preds: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The value of each of K sets of predictions, (K,), at once; what was updated does not count.

        Shape:
            preds: (K, N, num_classes); target: (K, N).
        """
        is_class = target[..., None] == torch.arange(self.num_classes, device=target.device)
        columns = [part.transpose(0, 1).flatten(1) for part in (preds, is_class)]
        return areas(*columns).view(len(preds), self.num_classes).nanmean(1).float()


def areas(scores: torch.Tensor, positive: torch.Tensor) -> torch.Tensor:
    """Area under the ROC curve of each column: the share of pairs of a positive and a negative that are in order, ties counting half.

    It is the Mann-Whitney statistic, from the sum of the positives' ranks; equal scores have their mean rank.

    Shape:
        scores: (N, M); positive: (N, M) bool; output: (M,) float64, NaN where a column has but one kind.

    Reference:
        Hanley and McNeil, https://doi.org/10.1148/radiology.143.1.7063747
    """
    ordered, order = scores.sort(0)
    place = torch.arange(len(scores), device=scores.device)[:, None].expand_as(order)
    begins = torch.ones_like(positive)
    begins[1:] = ordered[1:] != ordered[:-1]
    ends = torch.ones_like(positive)
    ends[:-1] = begins[1:]
    first = place.where(begins, 0).cummax(0).values
    last = place.where(ends, len(scores)).flip(0).cummin(0).values.flip(0)
    rank = (first + last).double() / 2 + 1
    num_positive = positive.sum(0).double()
    surplus = (rank * positive.gather(0, order)).sum(0) - num_positive * (num_positive + 1) / 2
    return surplus / (num_positive * (len(scores) - num_positive))
