"""Transformer encoder. Vaswani and others, https://arxiv.org/abs/1706.03762; layer norm first: Xiong and others, https://arxiv.org/abs/2002.04745."""

from collections.abc import Sequence

import torch
from torch import nn

from iolaus.model.layers.checkpointing import Policy, checkpoint_blocks
from iolaus.model.layers.sequence import as_sequence, sequence_shape


class Transformer(nn.Module):
    """Steps of a sequence as vectors with learned positions, encoder layers with self-attention, and a linear layer on their mean.

    An image is a sequence of its rows; a row of numbers is a sequence of numbers, each told apart by its position. Tokens become learned
    vectors.

    Args:
        input_shape: shape of one input.
        output_dim: number of outputs.
        hidden_dim: size of the vectors.
        num_layers: encoder layers.
        num_heads: of the attention; must divide hidden_dim.
        feedforward_dim: width inside the layers.
        dropout: in the layers.
        activation: relu or gelu.
        activation_checkpointing: what the blocks keep for the backward pass; see checkpoint_blocks.
        vocab_size: number of tokens, where inputs are tokens; None for other inputs.

    Shape:
        input: (B, C, H, W), (B, T, D), (B, F) or (B, T) int64 tokens; output: (B, output_dim).

    Raises:
        ValueError: when num_heads does not divide hidden_dim.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        output_dim: int,
        hidden_dim: int = 64,
        num_layers: int = 2,
        num_heads: int = 4,
        feedforward_dim: int = 128,
        dropout: float = 0.1,
        activation: str = "gelu",
        activation_checkpointing: Policy = "none",
        vocab_size: int | None = None,
    ):
        super().__init__()
        if hidden_dim % num_heads:
            raise ValueError(f"num_heads must divide hidden_dim={hidden_dim}; received {num_heads}")
        steps, size = sequence_shape(input_shape)
        self.embedding: nn.Module
        self.embedding = nn.Linear(size, hidden_dim) if vocab_size is None else nn.Embedding(vocab_size, hidden_dim)
        self.positions = nn.Parameter(0.02 * torch.randn(steps, hidden_dim))
        layers = [
            nn.TransformerEncoderLayer(
                hidden_dim, num_heads, feedforward_dim, dropout, activation, batch_first=True, norm_first=True
            )
            for _ in range(num_layers)
        ]
        self.encoder = nn.Sequential(*layers, nn.LayerNorm(hidden_dim))
        self.head = nn.Linear(hidden_dim, output_dim)
        checkpoint_blocks(self, activation_checkpointing)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores of each output."""
        x = x if isinstance(self.embedding, nn.Embedding) else as_sequence(x)
        x = self.embedding(x) + self.positions
        return self.head(self.encoder(x).mean(1))
