"""A generalised additive model of step functions. Hastie and Tibshirani, https://doi.org/10.1214/ss/1177013604."""

import math
from collections.abc import Sequence

import torch
from torch import nn


class Additive(nn.Module):
    """The sum over features of one learned vector for the bin that the feature falls into.

    Inputs are expected standardised: bins are equally wide between -3 and 3, the outermost reach on. A batch touches few of the vectors, so
    that their gradient may be sparse, as SparseAdam wants it.

    Args:
        input_shape: shape of one input, of F numbers.
        output_dim: number of outputs.
        num_bins: of each feature.
        sparse: whether the gradient is a sparse tensor; for optim=sparse_adam, sgd and adagrad.

    Shape:
        input: (B, *input_shape); output: (B, output_dim).

    Raises:
        ValueError: for fewer than two bins.
    """

    def __init__(self, input_shape: Sequence[int], output_dim: int, num_bins: int = 32, sparse: bool = False):
        super().__init__()
        if num_bins < 2:
            raise ValueError(f"num_bins must be at least 2; received {num_bins}")
        features = math.prod(input_shape)
        self.num_bins = num_bins
        self.vectors = nn.EmbeddingBag(features * num_bins, output_dim, mode="sum", sparse=sparse)
        nn.init.normal_(self.vectors.weight, std=1 / math.sqrt(features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores of each output."""
        x = x.flatten(1)
        bins = ((x + 3) / 6 * self.num_bins).long().clamp(0, self.num_bins - 1)
        return self.vectors(bins + torch.arange(x.shape[1], device=x.device) * self.num_bins)
