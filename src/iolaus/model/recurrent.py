"""Recurrent networks over sequences: plain, LSTM and GRU. Hochreiter and Schmidhuber 1997; Cho and others, https://arxiv.org/abs/1406.1078."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from iolaus.model.layers.sequence import as_sequence, sequence_shape


class Recurrent(nn.Module):
    """A recurrent network reads a sequence; a linear layer maps its last state, or the mean of its states, to the outputs.

    An image is read row by row from the top, each row with its channels one step; a row of numbers is read number by number. Tokens
    are read as learned vectors. Where the target is tokens too, each state has its outputs: what comes next.

    Args:
        cell: RNN (tanh), LSTM or GRU.
        input_shape: shape of one input.
        output_dim: number of outputs.
        vocab_size: number of tokens, where inputs are tokens; None for other inputs.
        hidden_dim: size of the state.
        num_layers: recurrent layers on top of one another.
        bidirectional: whether a second network reads from the end; the last states of both are joined.
        dropout: between layers.
        target_kind: kind of the target; inputs and targets that are both tokens have an output at each step.
        pooling: state of a sequence that has one output: last, of both directions where there are two, or the mean over all steps.

    Shape:
        input: (B, C, H, W), (B, T, D), (B, F) or (B, T) int64 tokens; output: (B, output_dim), and for tokens that follow
            (B, T, output_dim).

    Raises:
        ValueError: for dropout with a single layer, where there is nothing between; for tokens that follow and are read from both ends; for
            an unknown pooling.
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
        target_kind: str = "tokens",
        pooling: Literal["last", "mean"] = "last",
    ):
        super().__init__()
        self.is_stepwise = vocab_size is not None and target_kind == "tokens"
        self.pooling = pooling
        if dropout and num_layers == 1:
            raise ValueError(f"dropout acts between layers; received {dropout} with num_layers=1")
        if pooling not in ("last", "mean"):
            raise ValueError(f"pooling must be last or mean; received {pooling!r}")
        if bidirectional and self.is_stepwise:
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
        """Scores of each output; of tokens that follow, at each step."""
        states, last = self.recurrent(as_sequence(x) if self.embedding is None else self.embedding(x))
        if self.is_stepwise:
            return self.head(states)
        if self.pooling == "mean":
            return self.head(states.mean(1))
        state = last[0] if isinstance(last, tuple) else last  # an LSTM has a cell besides
        directions = 1 + self.recurrent.bidirectional
        return self.head(state[-directions:].transpose(0, 1).flatten(1))
