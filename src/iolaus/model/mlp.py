"""Multilayer perceptron. Rumelhart, Hinton and Williams, https://doi.org/10.1038/323533a0."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn


class MLP(nn.Module):
    """Linear layers with an activation between them, on the flattened input.

    Args:
        input_shape: shape of one input.
        output_dim: number of outputs.
        hidden_dims: width of each hidden layer; none makes it linear.
        activation: name of an activation of torch.nn.
        dropout: probability that a hidden unit is left out in training.
        norm: before each activation, BatchNorm1d or LayerNorm; None: none.

    Shape:
        input: (B, *input_shape); output: (B, output_dim).

    Raises:
        ValueError: for an activation that torch.nn does not have.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        output_dim: int,
        hidden_dims: Sequence[int] = (128, 64),
        activation: str = "ReLU",
        dropout: float = 0.0,
        norm: Literal["BatchNorm1d", "LayerNorm"] | None = None,
    ):
        super().__init__()
        if not hasattr(nn.modules.activation, activation):
            raise ValueError(f"activation must be a class of torch.nn, such as ReLU or GELU; received {activation!r}")
        layers: list[nn.Module] = []
        width = math.prod(input_shape)
        for hidden in hidden_dims:
            layers.append(nn.Linear(width, hidden))
            if norm:
                layers.append(getattr(nn, norm)(hidden))
            layers.append(getattr(nn, activation)())
            if dropout:
                layers.append(nn.Dropout(dropout))
            width = hidden
        self.layers = nn.Sequential(nn.Flatten(), *layers, nn.Linear(width, output_dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores of each output."""
        return self.layers(x)
