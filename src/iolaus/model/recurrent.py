"""Recurrent networks over sequences: plain, LSTM and GRU. Hochreiter and Schmidhuber 1997; Cho and others, https://arxiv.org/abs/1406.1078."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from iolaus.model.layers.sequence import as_sequence, sequence_shape


class Recurrent(nn.Module):
    """A recurrent network reads a sequence; a linear layer maps its last state to the outputs.

    An image is read row by row from the top, each row with its channels one step; a row of numbers is read number by number.

    Args:
        cell: RNN (tanh), LSTM or GRU.
        input_shape: shape of one input.
        output_dim: number of outputs.
        hidden_dim: size of the state.
        num_layers: recurrent layers on top of one another.
        bidirectional: whether a second network reads from the end; the last states of both are joined.
        dropout: between layers.

    Shape:
        input: (B, C, H, W), (B, T, D) or (B, F); output: (B, output_dim).

    Raises:
        ValueError: for dropout with a single layer, where there is nothing between.
    """

    def __init__(
        self,
        cell: Literal["RNN", "LSTM", "GRU"],
        input_shape: Sequence[int],
        output_dim: int,
        hidden_dim: int = 128,
        num_layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
    ):
        super().__init__()
        if dropout and num_layers == 1:
            raise ValueError(f"dropout acts between layers; received {dropout} with num_layers=1")
        self.recurrent = getattr(nn, cell)(
            sequence_shape(input_shape)[1],
            hidden_dim,
            num_layers,
            batch_first=True,
            dropout=dropout,
            bidirectional=bidirectional,
        )
        self.head = nn.Linear(hidden_dim * (1 + bidirectional), output_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores of each output."""
        _, last = self.recurrent(as_sequence(x))
        state = last[0] if isinstance(last, tuple) else last  # an LSTM has a cell besides
        directions = 1 + self.recurrent.bidirectional
        return self.head(state[-directions:].transpose(0, 1).flatten(1))
