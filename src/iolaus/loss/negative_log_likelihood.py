"""Negative log-likelihood after a log-softmax."""

import torch
from torch import nn


class NegativeLogLikelihood(nn.Module):
    """`torch.nn.NLLLoss` of the log-softmax of logits: the same number as cross entropy, in its two steps.

    Args:
        weight: of each class; None: equal.

    Shape:
        output: (B, C) logits; target: (B,) classes; loss: ().
    """

    def __init__(self, weight: list[float] | None = None):
        super().__init__()
        self.log_softmax = nn.LogSoftmax(1)
        self.nll = nn.NLLLoss(None if weight is None else torch.tensor(weight))

    def forward(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss."""
        return self.nll(self.log_softmax(output), target)
