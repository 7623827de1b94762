"""Negative log-likelihood of real targets with a learned spread. Nix and Weigend, https://doi.org/10.1109/ICNN.1994.374138."""

import torch
from torch import nn


class GaussianNLL(nn.Module):
    """The mean of (log v + (y - y_hat)^2 / v) / 2, with one learned variance v for each target.

    With several targets the ones that cannot be predicted well weigh less. It is torch.nn.GaussianNLLLoss of that variance.

    Args:
        num_targets: real numbers of a target.
        full: whether the constant log(2 pi) / 2 is added.
        eps: least variance.

    Shape:
        output, target: (B, num_targets); loss: ().
    """

    def __init__(self, num_targets: int, full: bool = False, eps: float = 1e-6):
        super().__init__()
        self.log_variance = nn.Parameter(torch.zeros(num_targets))
        self.loss = nn.GaussianNLLLoss(full=full, eps=eps)

    def forward(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss."""
        return self.loss(output, target, self.log_variance.exp().expand_as(output))
