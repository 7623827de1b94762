"""Share of sentences that are predicted word for word."""

from collections.abc import Sequence
from typing import Any

import torch
from torchmetrics import Metric


class ExactMatch(Metric):
    """Share of sentences that equal their reference, or one of them; NaN without sentences.

    Args:
        base: the settings that every torchmetrics Metric has.

    Shape:
        preds: N sentences; target: N sentences, or N lists of sentences.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    matches: torch.Tensor
    sentences: torch.Tensor

    def __init__(self, **base: Any):
        super().__init__(**base)
        self.add_state("matches", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("sentences", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, preds: Sequence[str], target: Sequence[str | Sequence[str]]) -> None:
        """Count a batch."""
        pairs = zip(preds, target, strict=True)
        self.matches = self.matches + sum(p == t if isinstance(t, str) else p in t for p, t in pairs)
        self.sentences = self.sentences + len(preds)

    def compute(self) -> torch.Tensor:
        """The share, a 0-d tensor."""
        return self.matches / self.sentences
