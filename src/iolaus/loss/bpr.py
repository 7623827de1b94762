"""Bayesian personalised ranking. Rendle and others, https://arxiv.org/abs/1205.2618."""

import torch
from torch import nn
from torch.nn import functional as F


class BPR(nn.Module):
    """The mean of -log sigmoid(s_i - s_j) over all pairs of a clicked candidate i and an unclicked one j of the same row.

    Without such a pair the loss is 0.

    Shape:
        output: (B, C) scores of C candidates; target: (B, C) clicks, 1 or 0; loss: ().
    """

    def forward(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss."""
        clicked = target > 0
        rows = clicked.nonzero()[
            :, 0
        ]  # a row of candidates for each click, where (B, C, C) pairs would be mostly masked
        pairs = ~clicked[rows]
        losses = F.softplus(output[rows] - output[clicked][:, None])
        return (losses * pairs).sum() / pairs.sum().clamp_min(1)
