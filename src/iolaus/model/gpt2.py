"""GPT-2, a decoder-only transformer with learned positions. Radford and others, https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from iolaus.model.layers.checkpointing import Policy, checkpoint_blocks


class GPT2(nn.Module):
    """Embeddings of tokens and positions, blocks of causal attention and a feed-forward part, a last norm, logits of the next token.

    Layer norms come first in each part, the activation is GELU by the hyperbolic tangent, the output layer shares the embedding's
    weights.

    Args:
        vocab_size: number of tokens.
        input_shape: (T,), the longest window; as many positions are learned.
        hidden_dim: size of the vectors.
        num_layers: blocks.
        num_heads: must divide hidden_dim.
        dropout: of the embeddings, of the attention's weights, and on what each part adds.
        activation_checkpointing: what the blocks keep for the backward pass; see checkpoint_blocks.

    Shape:
        input: (B, T') int64 tokens, T' at most T; output: (B, T', vocab_size) logits.

    Raises:
        ValueError: when num_heads does not divide hidden_dim.
    """

    def __init__(
        self,
        vocab_size: int,
        input_shape: Sequence[int],
        hidden_dim: int = 128,
        num_layers: int = 4,
        num_heads: int = 4,
        dropout: float = 0.1,
        activation_checkpointing: Policy = "none",
    ):
        super().__init__()
        if hidden_dim % num_heads:
            raise ValueError(f"num_heads must divide hidden_dim={hidden_dim}; received {num_heads}")
        (length,) = input_shape
        self.embedding = nn.Embedding(vocab_size, hidden_dim)
        self.positions = nn.Embedding(length, hidden_dim)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(hidden_dim, num_heads, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(hidden_dim)
        self.head = nn.Linear(hidden_dim, vocab_size, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        for name, weight in self.named_parameters():
            if name.endswith(("attention.output.weight", "down.weight")):
                nn.init.normal_(
                    weight, std=0.02 / (2 * num_layers) ** 0.5
                )  # so that the sum does not grow with the blocks
        self.head.weight = self.embedding.weight
        checkpoint_blocks(self, activation_checkpointing)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits of each next token."""
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.dropout(self.embedding(tokens) + self.positions(positions))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class Block(nn.Module):
    """x + attention(norm(x)), then x + down(gelu(up(norm(x)))); see GPT2."""

    def __init__(self, dim: int, num_heads: int, dropout: float):
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, num_heads, dropout)
        self.feedforward_norm = nn.LayerNorm(dim)
        self.up = nn.Linear(dim, 4 * dim)
        self.down = nn.Linear(4 * dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, D) to (B, T, D)."""
        x = x + self.dropout(self.attention(self.attention_norm(x)))
        return x + self.dropout(self.down(F.gelu(self.up(self.feedforward_norm(x)), approximate="tanh")))


class Attention(nn.Module):
    """Causal self-attention whose queries, keys and values come from one product; see GPT2."""

    def __init__(self, dim: int, num_heads: int, dropout: float):
        super().__init__()
        self.head_dim = dim // num_heads
        self.dropout = dropout
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.output = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, D) to (B, T, D)."""
        query, key, value = (
            part.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for part in self.query_key_value(x).chunk(3, -1)
        )
        mixed = F.scaled_dot_product_attention(
            query, key, value, dropout_p=self.dropout if self.training else 0.0, is_causal=True
        )
        return self.output(mixed.transpose(1, 2).flatten(2))
