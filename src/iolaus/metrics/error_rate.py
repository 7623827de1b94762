"""Word and character error rate of transcripts. https://en.wikipedia.org/wiki/Word_error_rate ."""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torchmetrics import Metric


class ErrorRate(Metric, ABC):
    """Substitutions, insertions and deletions from references to predictions, over the references' length.

    Of several references the one with the fewest errors counts. Where all references are empty, it is the number of errors: 0 for empty
    predictions; torchmetrics gives NaN or infinity. Sums have names of their own for words and characters: with torchmetrics', whose
    names are the same, a MetricCollection takes both rates for one for good if they agree on the first batch.

    Args:
        base: the settings that every torchmetrics Metric has.

    Shape:
        preds: N sentences; target: N sentences, or N lists of sentences.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    unit: str

    def __init__(self, **base: Any):
        super().__init__(**base)
        self.add_state(f"{self.unit}_errors", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state(f"{self.unit}s", torch.tensor(0), dist_reduce_fx="sum")

    @abstractmethod
    def split(self, sentence: str) -> Sequence[str]:
        """The units of a sentence."""

    def update(self, preds: Sequence[str], target: Sequence[str | Sequence[str]]) -> None:
        """Count a batch."""
        errors = total = 0
        for pred, given in zip(preds, target, strict=True):
            units, references = self.split(pred), [given] if isinstance(given, str) else given
            found = [(edit_distance(units, r), len(r)) for r in map(self.split, references)]
            fewest, length = min(found, key=lambda pair: pair[0])
            errors, total = errors + fewest, total + length
        setattr(self, f"{self.unit}_errors", getattr(self, f"{self.unit}_errors") + errors)
        setattr(self, f"{self.unit}s", getattr(self, f"{self.unit}s") + total)

    def compute(self) -> torch.Tensor:
        """The rate, a 0-d tensor, which is above 1 where insertions are many."""
        errors, total = getattr(self, f"{self.unit}_errors"), getattr(self, f"{self.unit}s")
        return errors / total.clamp_min(1)


class WordErrorRate(ErrorRate):
    """Error rate of words, which white space separates; see ErrorRate."""

    unit = "word"

    def split(self, sentence: str) -> Sequence[str]:
        """The words."""
        return sentence.split()


class CharErrorRate(ErrorRate):
    """Error rate of characters, spaces included; see ErrorRate."""

    unit = "char"

    def split(self, sentence: str) -> Sequence[str]:
        """The characters."""
        return sentence


def edit_distance(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    """Fewest substitutions, insertions and deletions from one to the other.

    A column of the table of distances is two whole numbers with a bit for each item of b, whether the distance there goes up or down;
    so the cost is a few operations for each item of a. Myers, J. ACM 46, 1999, in the form of Hyyro, 2003.
    """
    if not b:
        return len(a)
    every, last = (1 << len(b)) - 1, 1 << (len(b) - 1)
    places: dict[Hashable, int] = {}
    for i, item in enumerate(b):
        places[item] = places.get(item, 0) | 1 << i
    up, down, distance = every, 0, len(b)
    for item in a:
        same = places.get(item, 0)
        diagonal = (((same & up) + up) ^ up) | same | down
        right_up, right_down = down | ~(diagonal | up), up & diagonal
        distance += bool(right_up & last) - bool(right_down & last)
        right_up, right_down = right_up << 1 | 1, right_down << 1
        up, down = (right_down | ~(diagonal | right_up)) & every, right_up & diagonal & every
    return distance
