"""Cross entropy with a softmax in clusters of frequent and rare classes. Grave and others, https://arxiv.org/abs/1609.04309."""

from collections.abc import Sequence

import torch
from torch import nn


class AdaptiveSoftmax(nn.AdaptiveLogSoftmaxWithLoss):
    """torch.nn.AdaptiveLogSoftmaxWithLoss: the outputs are features, and the weights of the classes are a part of the loss.

    Args:
        in_features: number of the model's outputs.
        n_classes: number of classes, from the most frequent to the rarest.
        cutoffs: where clusters begin; None: one, at half of the classes.
        div_value: by which each further cluster's inner size is smaller than that of the one before; 1: all are in_features.
        head_bias: whether the first cluster has a bias.

    Shape:
        output: (B, in_features); target: (B,) classes; loss: ().

    Raises:
        ValueError: for cutoffs that do not ascend below the number of classes, a div_value that leaves a cluster without features.
    """

    def __init__(
        self,
        in_features: int,
        n_classes: int,
        cutoffs: Sequence[int] | None = None,
        div_value: float = 1.0,
        head_bias: bool = False,
    ):
        ends = list(cutoffs or [n_classes // 2])
        if in_features // div_value ** len(ends) < 1:
            raise ValueError(
                f"div_value leaves nothing of {in_features} features for cluster {len(ends)}; received {div_value}"
            )
        super().__init__(in_features, n_classes, ends, div_value, head_bias)

    def forward(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """The loss."""
        return super().forward(output, target).loss
