"""Mean bias error: how much predictions are too small on average."""

from typing import Any

import torch
from torchmetrics import Metric


class MeanBiasError(Metric):
    """mean(target - preds): above 0 where predictions are too small; NaN without samples.

    Args:
        base: the settings that every torchmetrics Metric has.

    Shape:
        preds and target: (N, ...).
    """

    is_differentiable = True
    higher_is_better = None  # the best value is 0
    full_state_update = False
    sum_bias: torch.Tensor
    num_biases: torch.Tensor

    def __init__(self, **base: Any):
        super().__init__(**base)
        self.add_state("sum_bias", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("num_biases", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, preds: torch.Tensor, target: torch.Tensor) -> None:
        """Add a batch."""
        self.sum_bias = self.sum_bias + (target - preds).sum()
        self.num_biases = self.num_biases + target.numel()

    def compute(self) -> torch.Tensor:
        """The mean, a 0-d tensor."""
        return self.sum_bias / self.num_biases
