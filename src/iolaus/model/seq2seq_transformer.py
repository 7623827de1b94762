"""Sequence to sequence by a transformer. Vaswani and others, https://arxiv.org/abs/1706.03762; layer norm first: https://arxiv.org/abs/2002.04745."""

import math
from typing import Any

import torch
from torch import nn

from iolaus.model.layers.checkpointing import Policy, checkpoint_blocks

Memory = tuple[torch.Tensor, torch.Tensor]  # states (B, S, D), where sources are (B, S)


class Seq2SeqTransformer(nn.Module):
    """Encoder and decoder layers over shared embeddings with sinusoids for positions; the logits share the embeddings' weights.

    Args:
        vocab_size: number of tokens of both sides.
        hidden_dim: size of the vectors.
        num_layers: of the encoder, and of the decoder.
        num_heads: of each attention; must divide hidden_dim.
        feedforward_dim: width inside the layers.
        dropout: in the layers and of the embeddings.
        pad: token that fills sources up.
        activation_checkpointing: what the blocks keep for the backward pass; see checkpoint_blocks.

    Shape:
        sources: (B, S) int64, padded at their ends; tokens: (B, L) int64, what is known of the targets; output: (B, L, vocab_size).

    Raises:
        ValueError: when num_heads does not divide hidden_dim, or hidden_dim is odd.
    """

    def __init__(
        self,
        vocab_size: int,
        hidden_dim: int = 64,
        num_layers: int = 2,
        num_heads: int = 4,
        feedforward_dim: int = 128,
        dropout: float = 0.1,
        pad: int = 0,
        activation_checkpointing: Policy = "none",
    ):
        super().__init__()
        if hidden_dim % num_heads or hidden_dim % 2:
            raise ValueError(f"num_heads must divide an even hidden_dim={hidden_dim}; received {num_heads}")
        self.pad = pad
        self.hidden_dim = hidden_dim
        self.embedding = nn.Embedding(vocab_size, hidden_dim)
        nn.init.normal_(self.embedding.weight, std=hidden_dim**-0.5)
        shape = (hidden_dim, num_heads, feedforward_dim, dropout, "relu")
        make = {"batch_first": True, "norm_first": True}
        encoders = [nn.TransformerEncoderLayer(*shape, **make) for _ in range(num_layers)]  # type: ignore[arg-type]
        self.encoder_layers = nn.ModuleList(encoders)
        self.encoder_norm = nn.LayerNorm(hidden_dim)
        decoders = [nn.TransformerDecoderLayer(*shape, **make) for _ in range(num_layers)]  # type: ignore[arg-type]
        self.decoder_layers = nn.ModuleList(decoders)
        self.decoder_norm = nn.LayerNorm(hidden_dim)
        self.dropout = nn.Dropout(dropout)
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        checkpoint_blocks(self, activation_checkpointing)

    def forward(self, source: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Logits of each next token."""
        return self.decode(self.encode(source), tokens)

    def encode(self, source: torch.Tensor) -> Memory:
        """What the decoder needs of the sources, tensors whose first dimension is the batch."""
        known = source != self.pad
        x = self._embedded(source)
        for layer in self.encoder_layers:
            x = layer(x, src_key_padding_mask=~known)
        return self.encoder_norm(x), known

    def decode(self, memory: Memory, tokens: torch.Tensor) -> torch.Tensor:
        """Logits after each of the tokens."""
        encoded, known = memory
        x = self._embedded(tokens)
        ahead = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        for layer in self.decoder_layers:
            x = layer(x, encoded, tgt_mask=ahead, tgt_is_causal=True, memory_key_padding_mask=~known)
        return self.decoder_norm(x) @ self.embedding.weight.T + self.bias

    def attention(self, source: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """How much each token's prediction looks at each source token, the last layer's heads' mean: (B, L, S), rows of sum 1."""
        across: nn.Module = self.decoder_layers[-1].multihead_attn  # type: ignore[assignment]
        seen: list[torch.Tensor] = []

        def asked(_: nn.Module, arguments: Any, named: dict[str, Any]) -> Any:
            return arguments, {**named, "need_weights": True}

        hooks = [
            across.register_forward_pre_hook(asked, with_kwargs=True),
            across.register_forward_hook(lambda _, __, output: seen.append(output[1])),
        ]
        try:
            self(source, tokens)
        finally:
            for hook in hooks:
                hook.remove()
        return seen[0]

    def _embedded(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens) * math.sqrt(self.hidden_dim)
        return self.dropout(x + sinusoids(tokens.shape[1], self.hidden_dim, x))


def sinusoids(length: int, dim: int, like: torch.Tensor) -> torch.Tensor:
    """Sines, then cosines, of position / 10000^(2 i / dim).

    Shape:
        output: (length, dim).
    """
    rates = torch.exp(-math.log(10_000.0) * torch.arange(0, dim, 2, device=like.device) / dim)
    angles = torch.arange(length, device=like.device)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], -1).to(like.dtype)
