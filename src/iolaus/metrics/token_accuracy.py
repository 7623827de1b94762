"""Share of tokens that a language model predicts."""

from typing import Any

import torch
from torchmetrics import Metric


class TokenAccuracy(Metric):
    """Share of tokens whose largest logit is the target's; NaN without tokens.

    Args:
        ignore_index: target that marks padding, which does not count.
        base: the settings that every torchmetrics Metric has.

    Shape:
        preds: (B, T, V) logits of V tokens; target: (B, T).
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    correct_tokens: torch.Tensor
    tokens: torch.Tensor

    def __init__(self, ignore_index: int = -100, **base: Any):
        super().__init__(**base)
        self.ignore_index = ignore_index
        # Whole numbers: float32 would stop counting at 2^24 tokens.
        self.add_state("correct_tokens", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("tokens", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, preds: torch.Tensor, target: torch.Tensor) -> None:
        """Count a batch."""
        counts = target != self.ignore_index
        self.correct_tokens = self.correct_tokens + ((preds.argmax(-1) == target) & counts).sum()
        self.tokens = self.tokens + counts.sum()

    def compute(self) -> torch.Tensor:
        """The share, a 0-d tensor."""
        return self.correct_tokens / self.tokens
