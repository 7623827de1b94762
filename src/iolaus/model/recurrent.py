"""Recurrent networks over sequences: plain, LSTM and GRU. Hochreiter and Schmidhuber 1997; Cho and others, https://arxiv.org/abs/1406.1078."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from iolaus.model.layers.sequence import as_sequence, sequence_shape


class Recurrent(nn.Module):
    """A recurrent network reads a sequence; a linear layer maps its last state to the outputs.

    An image is read row by row from the top, each row with its channels one step; a row of numbers is read number by number. Tokens
    are read as learned vectors, and there each state has its outputs: what comes next.

    Args:
        cell: RNN (tanh), LSTM or GRU.
        input_shape: shape of one input.
        output_dim: number of outputs.
        vocab_size: number of tokens, where inputs are tokens; None for other inputs.
        hidden_dim: size of the state.
        num_layers: recurrent layers on top of one another.
        bidirectional: whether a second network reads from the end; the last states of both are joined.
        dropout: between layers.

    Shape:
        input: (B, C, H, W), (B, T, D) or (B, F), output: (B, output_dim); or input: (B, T) int64 tokens, output: (B, T, output_dim).

    Raises:
        ValueError: for dropout with a single layer, where there is nothing between; for reading tokens from both ends.
    """

    def __init__(
        self,
        cell: Literal["RNN", "LSTM", "GRU"],
        input_shape: Sequence[int],
        output_dim: int,
        vocab_size: int | None = None,
        hidden_dim: int = 128,
        num_layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
    ):
        super().__init__()
        if dropout and num_layers == 1:
            raise ValueError(f"dropout acts between layers; received {dropout} with num_layers=1")
        if bidirectional and vocab_size is not None:
            raise ValueError("bidirectional must be false for tokens: what comes next would be known")
        self.embedding = nn.Embedding(vocab_size, hidden_dim) if vocab_size is not None else None
        self.recurrent = getattr(nn, cell)(
            hidden_dim if vocab_size is not None else sequence_shape(input_shape)[1],
            hidden_dim,
            num_layers,
            batch_first=True,
            dropout=dropout,
            bidirectional=bidirectional,
        )
        self.head = nn.Linear(hidden_dim * (1 + bidirectional), output_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores of each output; of tokens, at each step."""
        if self.embedding is not None:
            return self.head(self.recurrent(self.embedding(x))[0])
        _, last = self.recurrent(as_sequence(x))
        state = last[0] if isinstance(last, tuple) else last  # an LSTM has a cell besides
        directions = 1 + self.recurrent.bidirectional
        return self.head(state[-directions:].transpose(0, 1).flatten(1))
