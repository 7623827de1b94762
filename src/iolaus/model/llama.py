"""A decoder-only transformer of the Llama kind. Touvron and others, https://arxiv.org/abs/2302.13971 and https://arxiv.org/abs/2307.09288."""

import torch
from torch import nn
from torch.nn import functional as F

from iolaus.model.layers.checkpointing import Policy, checkpoint_blocks


class Llama(nn.Module):
    """Token embedding, blocks of causal attention and a gated feed-forward part, a last norm, logits of the next token.

    Norms are by the root mean square (https://arxiv.org/abs/1910.07467), positions are rotations
    (https://arxiv.org/abs/2104.09864), several query heads share one of keys and values (https://arxiv.org/abs/2305.13245), the
    feed-forward part is SwiGLU (https://arxiv.org/abs/2002.05202).

    Args:
        vocab_size: number of tokens.
        hidden_dim: size of the vectors.
        num_layers: blocks.
        num_heads: of queries; must divide hidden_dim into heads of an even size.
        num_kv_heads: of keys and values; must divide num_heads; None: as many.
        feedforward_dim: width inside the feed-forward part; None: 8/3 of hidden_dim, up to a multiple of 32.
        dropout: on what each part adds.
        rotary_base: of the rotations' wavelengths.
        norm_eps: added to the mean square.
        tied: whether the output layer shares the embedding's weights.
        activation_checkpointing: what the blocks keep for the backward pass; see checkpoint_blocks.

    Shape:
        input: (B, T) int64 tokens; output: (B, T, vocab_size) logits.

    Raises:
        ValueError: for numbers of heads that do not divide.
    """

    def __init__(
        self,
        vocab_size: int,
        hidden_dim: int = 128,
        num_layers: int = 4,
        num_heads: int = 4,
        num_kv_heads: int | None = 2,
        feedforward_dim: int | None = None,
        dropout: float = 0.0,
        rotary_base: float = 10000.0,
        norm_eps: float = 1e-5,
        tied: bool = True,
        activation_checkpointing: Policy = "none",
    ):
        super().__init__()
        if hidden_dim % num_heads or (hidden_dim // num_heads) % 2:
            raise ValueError(
                f"num_heads must divide hidden_dim={hidden_dim} into heads of an even size; received {num_heads}"
            )
        kv_heads = num_kv_heads or num_heads
        if num_heads % kv_heads:
            raise ValueError(f"num_kv_heads must divide num_heads={num_heads}; received {kv_heads}")
        inner = feedforward_dim or -(-8 * hidden_dim // 3 // 32) * 32
        self.head_dim = hidden_dim // num_heads
        self.rotary_base = rotary_base
        self.embedding = nn.Embedding(vocab_size, hidden_dim)
        self.blocks = nn.ModuleList(
            Block(hidden_dim, num_heads, kv_heads, inner, dropout, norm_eps) for _ in range(num_layers)
        )
        self.norm = nn.RMSNorm(hidden_dim, norm_eps)
        self.head = nn.Linear(hidden_dim, vocab_size, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        for name, weight in self.named_parameters():
            if name.endswith(("attention.output.weight", "feedforward.down.weight")):
                nn.init.normal_(
                    weight, std=0.02 / (2 * num_layers) ** 0.5
                )  # so that the sum does not grow with the blocks
        if tied:
            self.head.weight = self.embedding.weight
        checkpoint_blocks(self, activation_checkpointing)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits of each next token."""
        x = self.embedding(tokens)
        rotation = rotations(tokens.shape[1], self.head_dim, self.rotary_base, x)
        for block in self.blocks:
            x = block(x, rotation)
        return self.head(self.norm(x))


class Block(nn.Module):
    """x + attention(norm(x)), then x + feedforward(norm(x)); see Llama."""

    def __init__(self, dim: int, num_heads: int, num_kv_heads: int, inner: int, dropout: float, eps: float):
        super().__init__()
        self.attention_norm = nn.RMSNorm(dim, eps)
        self.attention = Attention(dim, num_heads, num_kv_heads)
        self.feedforward_norm = nn.RMSNorm(dim, eps)
        self.feedforward = SwiGLU(dim, inner)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
        """(B, T, D) to (B, T, D)."""
        x = x + self.dropout(self.attention(self.attention_norm(x), rotation))
        return x + self.dropout(self.feedforward(self.feedforward_norm(x)))


class Attention(nn.Module):
    """Causal self-attention in which groups of query heads share keys and values; see Llama."""

    def __init__(self, dim: int, num_heads: int, num_kv_heads: int):
        super().__init__()
        self.head_dim = dim // num_heads
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(dim, num_kv_heads * self.head_dim, bias=False)
        self.value = nn.Linear(dim, num_kv_heads * self.head_dim, bias=False)
        self.output = nn.Linear(dim, dim, bias=False)

    def forward(self, x: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
        """(B, T, D) to (B, T, D)."""
        query, key, value = (
            part(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(
            rotate(query, rotation), rotate(key, rotation), value, is_causal=True, enable_gqa=True
        )
        return self.output(mixed.transpose(1, 2).flatten(2))


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, dim: int, inner: int):
        super().__init__()
        self.gate = nn.Linear(dim, inner, bias=False)
        self.up = nn.Linear(dim, inner, bias=False)
        self.down = nn.Linear(inner, dim, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., D) to (..., D)."""
        return self.down(F.silu(self.gate(x)) * self.up(x))


def rotations(length: int, dim: int, base: float, like: torch.Tensor) -> torch.Tensor:
    """Cosine and sine of position * base^(-2 i / dim), in float32, then as `like`.

    Shape:
        output: (2, length, dim / 2).
    """
    frequency = base ** (-torch.arange(0, dim, 2, device=like.device, dtype=torch.float32) / dim)
    angle = torch.arange(length, device=like.device, dtype=torch.float32)[:, None] * frequency
    return torch.stack([angle.cos(), angle.sin()]).to(like.dtype)


def rotate(x: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
    """Turn each pair of the i-th numbers of both halves by its angle, so that products depend on distances alone.

    Shape:
        x: (B, heads, T, dim); rotation: (2, T, dim / 2); output: as x.
    """
    first, second = x.chunk(2, -1)
    cos, sin = rotation
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)
