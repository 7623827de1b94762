"""Accuracy in which each class counts the same, however rare it is."""

from typing import Any

import torch
from torchmetrics.classification import MulticlassStatScores


class BalancedAccuracy(MulticlassStatScores):
    """Mean recall of the classes that occur; NaN without samples. As scikit-learn's balanced_accuracy_score.

    Args:
        num_classes: number of classes.
        validate_args: whether each update looks at all labels and predictions for values out of range.
        base: the settings that every torchmetrics Metric has.

    Shape:
        preds: (N, num_classes) probabilities or (N,) classes; target: (N,).
    """

    higher_is_better = True
    undefined_because = "there are no samples"

    def __init__(self, num_classes: int, validate_args: bool = False, **base: Any):
        super().__init__(num_classes=num_classes, average=None, validate_args=validate_args, **base)

    def compute(self) -> torch.Tensor:
        """The mean, a 0-d tensor, or (K,) for K members of a stack."""
        hits, _, _, missed = (part.double() for part in self._final_state())
        return (hits / (hits + missed)).nanmean(-1)
