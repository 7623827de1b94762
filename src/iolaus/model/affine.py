"""A linear model and a perceptron from bare parameters and primitives: what `linear` and `mlp` are made of."""

import math
from collections.abc import Sequence

import torch
from torch import nn


class Affine(nn.Module):
    """x @ weight + bias.

    The weight lies the other way round than that of torch.nn.Linear, and is drawn from the same distribution, U(-1/sqrt(in), 1/sqrt(in)).

    Args:
        in_dim: size of the input's last dimension.
        out_dim: size of the output's.

    Shape:
        weight: (in, out); bias: (out,); input: (..., in); output: (..., out).
    """

    def __init__(self, in_dim: int, out_dim: int):
        super().__init__()
        bound = 1 / math.sqrt(in_dim)
        self.weight = nn.Parameter(torch.empty(in_dim, out_dim).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(out_dim).uniform_(-bound, bound))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The product and the sum."""
        return x @ self.weight + self.bias


class AffineNetwork(nn.Module):
    """Affine layers on the flattened input, max(0, x) between them.

    Args:
        input_shape: shape of one input.
        output_dim: number of outputs.
        hidden_dims: widths between; none: a linear model.

    Shape:
        input: (B, *input_shape); output: (B, output_dim).
    """

    def __init__(self, input_shape: Sequence[int], output_dim: int, hidden_dims: Sequence[int] = ()):
        super().__init__()
        widths = [math.prod(input_shape), *hidden_dims, output_dim]
        self.layers = nn.ModuleList(map(Affine, widths[:-1], widths[1:]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores of each output."""
        x = x.flatten(1)
        for number, layer in enumerate(self.layers):
            x = layer(x if number == 0 else x.clamp_min(0))
        return x
