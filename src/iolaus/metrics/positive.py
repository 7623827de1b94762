"""Scores of the positive one of two classes, which averages over both classes hide where it is rare."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torchmetrics.classification import MulticlassStatScores

from iolaus.functional.classes import find_class


class PositiveScore(MulticlassStatScores):
    """A score of the positive class of two.

    Args:
        num_classes: number of classes, which must be 2.
        positive: the positive class; None: the second one.
        class_names: names of the classes; None: 0 and 1.
        validate_args: whether each update looks at all labels and predictions for values out of range.
        base: the settings that every torchmetrics Metric has.

    Shape:
        preds: (N, 2) probabilities or (N,) classes; target: (N,).

    Raises:
        ValueError: for another number of classes, or a positive class that is none of them.
    """

    higher_is_better = True
    undefined_because = "the split has no sample of the positive class"

    def __init__(
        self,
        num_classes: int,
        positive: str | float | None = None,
        class_names: Sequence[str] | None = None,
        validate_args: bool = False,
        **base: Any,
    ):
        super().__init__(num_classes=num_classes, average=None, validate_args=validate_args, **base)
        self.positive = positive_index(num_classes, positive, class_names)

    @abstractmethod
    def score(self, hits: torch.Tensor, wrong: torch.Tensor, missed: torch.Tensor) -> torch.Tensor:
        """The score, from the numbers of true positives, false positives and false negatives, float64."""

    def compute(self) -> torch.Tensor:
        """The score, a 0-d tensor, or (K,) for K members of a stack."""
        hits, wrong, _, missed = (part[..., self.positive].double() for part in self._final_state())
        return self.score(hits, wrong, missed)


class PositivePrecision(PositiveScore):
    """TP / (TP + FP); 0 where the positive class is never predicted. See PositiveScore."""

    def score(self, hits: torch.Tensor, wrong: torch.Tensor, missed: torch.Tensor) -> torch.Tensor:
        """As the class says."""
        return hits / (hits + wrong).clamp_min(1)


class PositiveRecall(PositiveScore):
    """TP / (TP + FN), also called sensitivity; NaN where the split has no sample of the positive class. See PositiveScore."""

    def score(self, hits: torch.Tensor, wrong: torch.Tensor, missed: torch.Tensor) -> torch.Tensor:
        """As the class says."""
        return hits / (hits + missed)


class PositiveF1(PositiveScore):
    """2 TP / (2 TP + FP + FN); NaN where the positive class neither occurs nor is predicted. See PositiveScore."""

    def score(self, hits: torch.Tensor, wrong: torch.Tensor, missed: torch.Tensor) -> torch.Tensor:
        """As the class says."""
        return 2 * hits / (2 * hits + wrong + missed)


def positive_index(num_classes: int, positive: str | float | None, class_names: Sequence[str] | None) -> int:
    """The number of the positive class.

    Raises:
        ValueError: for another number of classes than two, or a name that is none of theirs.
    """
    if num_classes != 2:
        raise ValueError(f"num_classes must be 2, as one class is positive and one is not; received {num_classes}")
    if positive is None:
        return 1
    names = class_names or range(num_classes)
    number = find_class(positive, names)
    if number is None:
        raise ValueError(f"positive must be one of {', '.join(map(str, names))}; received {positive!r}")
    return number
