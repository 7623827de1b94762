"""Sequence to sequence by gated recurrent units with attention. Luong, Pham and Manning, https://arxiv.org/abs/1508.04025."""

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

Memory = tuple[
    torch.Tensor, torch.Tensor, torch.Tensor
]  # states (B, S, D), where sources are (B, S), first state (B, D)


class Seq2SeqGRU(nn.Module):
    """A bidirectional encoder, a decoder, and attention of each decoder state to all encoder states.

    With decoder state h and encoder states m: a = softmax(h W m), c = sum a m, and the next token's logits are read from
    tanh(U [h; c]).

    Args:
        vocab_size: number of tokens of both sides.
        hidden_dim: size of vectors and states, even.
        dropout: of the embeddings and of what the logits are read from.
        pad: token that fills sources up.

    Shape:
        sources: (B, S) int64, padded at their ends; tokens: (B, L) int64, what is known of the targets; output: (B, L, vocab_size).

    Raises:
        ValueError: for an odd hidden_dim.
    """

    def __init__(self, vocab_size: int, hidden_dim: int = 128, dropout: float = 0.1, pad: int = 0):
        super().__init__()
        if hidden_dim % 2:
            raise ValueError(f"hidden_dim must be even, half of it for each direction; received {hidden_dim}")
        self.pad = pad
        self.embedding = nn.Embedding(vocab_size, hidden_dim)
        self.encoder = nn.GRU(hidden_dim, hidden_dim // 2, batch_first=True, bidirectional=True)
        self.first = nn.Linear(hidden_dim, hidden_dim)
        self.decoder = nn.GRU(hidden_dim, hidden_dim, batch_first=True)
        self.query = nn.Linear(hidden_dim, hidden_dim, bias=False)
        self.joined = nn.Linear(2 * hidden_dim, hidden_dim)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden_dim, vocab_size)

    def forward(self, source: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Logits of each next token."""
        return self.decode(self.encode(source), tokens)

    def encode(self, source: torch.Tensor) -> Memory:
        """What the decoder needs of the sources, tensors whose first dimension is the batch."""
        known = source != self.pad
        packed = pack_padded_sequence(
            self.dropout(self.embedding(source)), known.sum(1).cpu(), batch_first=True, enforce_sorted=False
        )
        states, last = self.encoder(packed)
        padded, _ = pad_packed_sequence(states, batch_first=True, total_length=source.shape[1])
        return padded, known, self.first(last.transpose(0, 1).flatten(1)).tanh()

    def decode(self, memory: Memory, tokens: torch.Tensor) -> torch.Tensor:
        """Logits after each of the tokens."""
        states, context, _ = self._attend(memory, tokens)
        return self.head(self.dropout(self.joined(torch.cat([states, context], -1)).tanh()))

    def attention(self, source: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """How much each token's prediction looks at each source token: (B, L, S), rows of sum 1."""
        return self._attend(self.encode(source), tokens)[2]

    def _attend(self, memory: Memory, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        encoded, known, first = memory
        states, _ = self.decoder(self.dropout(self.embedding(tokens)), first[None])
        scores = self.query(states) @ encoded.transpose(1, 2)
        weights = scores.masked_fill(~known[:, None], float("-inf")).softmax(-1)
        return states, weights @ encoded, weights
