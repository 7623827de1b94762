"""Connectionist temporal classification. Graves and others, https://www.cs.toronto.edu/~graves/icml_2006.pdf."""

import torch
from torch import nn
from torch.nn import functional as F


class CTC(nn.Module):
    """torch's CTC loss of padded batches: -log of the chance of a transcript over all its alignments, over its length.

    Frames beyond a recording's length and the transcripts' padding have no influence. The loss is the mean over the batch.

    Args:
        blank: the token that stands for none.
        zero_infinity: whether transcripts that are too long for their recording count 0; their loss is infinite otherwise.

    Shape:
        output: logits (B, T, V) and lengths (B,); target: (B, L), padded by -100; loss: ().
    """

    def __init__(self, blank: int = 0, zero_infinity: bool = True):
        super().__init__()
        self.blank = blank
        self.zero_infinity = zero_infinity

    def forward(self, output: tuple[torch.Tensor, torch.Tensor], target: torch.Tensor) -> torch.Tensor:
        """The loss."""
        logits, lengths = output
        is_token = target != -100
        at_least_single = torch.promote_types(logits.dtype, torch.float32)  # half precision cannot hold long alignments
        return F.ctc_loss(
            logits.log_softmax(-1, dtype=at_least_single).transpose(0, 1),
            target.masked_fill(~is_token, self.blank),
            lengths,
            is_token.sum(1),
            blank=self.blank,
            zero_infinity=self.zero_infinity,
        )
