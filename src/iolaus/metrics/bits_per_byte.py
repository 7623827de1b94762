"""Bits that a language model needs for a byte of text, which compares models with different tokens."""

import math
from typing import Any

import torch
from torchmetrics.text import Perplexity


class BitsPerByte(Perplexity):
    """log2(perplexity) / bytes_per_token; NaN without tokens.

    With bytes as tokens it is the cross entropy in base 2. In a MetricCollection it shares perplexity's sums, so both cost one update.

    Args:
        ignore_index: target that marks padding, which does not count.
        bytes_per_token: mean length of a token in bytes of UTF-8.
        base: the settings that every torchmetrics Metric has.

    Shape:
        preds: (B, T, V) logits of V tokens; target: (B, T).

    Raises:
        ValueError: for tokens without length.
    """

    def __init__(self, ignore_index: int | None = -100, bytes_per_token: float = 1.0, **base: Any):
        super().__init__(ignore_index=ignore_index, **base)
        if bytes_per_token <= 0:
            raise ValueError(f"bytes_per_token must be above 0; received {bytes_per_token}")
        self.bytes_per_token = bytes_per_token

    def compute(self) -> torch.Tensor:
        """The number of bits, a 0-d tensor."""
        # Not by way of the perplexity, which overflows above 88 nats.
        return self.total_log_probs / self.count / (math.log(2) * self.bytes_per_token)
