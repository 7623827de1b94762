"""Pairs of sentences as tokens: what data sets for translation have in common."""

import logging
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch.utils.data import Dataset

from iolaus.data.base import SPLITS, DataModule
from iolaus.data.memory import InMemory, Ragged
from iolaus.errors import UserError
from iolaus.functional.tokens import BOS, EOS, NO_TARGET, PAD, SPECIAL, UNKNOWN

log = logging.getLogger("iolaus")

TokenKind = Literal["characters", "words"]


class Pairs(InMemory):
    """Sources, and targets from their beginning token to their end token.

    Args:
        source: tokens of each source.
        target: tokens of each target, BOS and EOS among them.

    Shape:
        batch: sources (B, S), padded by PAD; targets but for their last token (B, L), padded by PAD; the same but for their first token
            (B, L), padded by -100. All int64.
    """

    def __init__(self, source: Ragged, target: Ragged):
        self.source = source
        self.target = target
        self.lengths = source.lengths + target.lengths

    def __len__(self) -> int:
        return len(self.source)

    def take(self, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Pairs by their numbers."""
        source, _ = self.source.padded(rows, PAD)
        target, lengths = self.target.padded(rows, PAD)
        steps = torch.arange(1, target.shape[1], device=target.device)
        following = target[:, 1:].where(steps < lengths[:, None], NO_TARGET)
        return source.long(), target[:, :-1].long(), following.long()

    def parts(self) -> list[torch.Tensor]:
        """Tokens and where each sentence begins."""
        return [self.source.values, self.source.offsets, self.target.values, self.target.offsets]

    def to(self, device: torch.device) -> Self:
        """The same on a device."""
        return type(self)(self.source.to(device), self.target.to(device))


class SentencePairs(DataModule):
    """Pairs of sentences; a subclass implements `read`. One vocabulary, of the training split, serves both sides.

    Args:
        source_tokens: what a source is cut into: characters, or words between spaces.
        target_tokens: the same for targets.
        max_vocab: most tokens; the rarest above it, and those that the training split does not have, become one unknown token.
        max_length: tokens of a sentence; pairs with a longer one are left out, and a line says how many.
        base: the settings that every data set has.

    Raises:
        UserError: when no pair is left.
    """

    cuts_itself = True

    def __init__(
        self,
        source_tokens: TokenKind = "words",
        target_tokens: TokenKind = "words",
        max_vocab: int = 10_000,
        max_length: int = 200,
        **base: Any,
    ):
        super().__init__(**base)
        self.source_tokens = source_tokens
        self.target_tokens = target_tokens
        self.max_vocab = max_vocab
        self.max_length = max_length
        self._set_vocab([])

    @abstractmethod
    def read(self) -> dict[str, list[tuple[str, str]]]:
        """Pairs of source and target, of the split `train` at least; the others are cut from it where they are not given."""

    def load(self) -> dict[str, Dataset]:
        pairs = self.read()
        for name in ("test", "val"):
            if name not in pairs and self.is_held_out(name):
                total = sum(len(p) for p in pairs.values())
                stay, cut = self.hold_out_rows(name, None, len(pairs["train"]), total)
                pairs[name] = [pairs["train"][row] for row in cut.tolist()]
                pairs["train"] = [pairs["train"][row] for row in stay.tolist()]
        if not self.vocab:
            counts: Counter[str] = Counter()
            for source, target in pairs["train"]:
                counts.update(_cut(source, self.source_tokens))
                counts.update(_cut(target, self.target_tokens))
            # sorted, so that it depends on what the split holds and not on its order
            common = sorted(counts, key=lambda token: (-counts[token], token))[: self.max_vocab - len(SPECIAL)]
            self._set_vocab([*SPECIAL, *common])
        self.vocab_size = len(self.vocab)
        return {name: self._encoded(pairs[name]) for name in SPLITS if name in pairs}

    def _encoded(self, pairs: Sequence[tuple[str, str]]) -> Pairs:
        kept = []
        for source, target in pairs:
            tokens = self.encode(source), [BOS, *self._numbered(_cut(target, self.target_tokens)), EOS]
            if tokens[0] and max(map(len, tokens)) <= self.max_length + 2:
                kept.append(tokens)
        if not kept:
            raise UserError(f"data.max_length: no pair of at most {self.max_length} tokens on each side is left")
        if len(kept) < len(pairs):
            log.info(
                "%d of %d pairs are empty or longer than data.max_length=%d and left out",
                len(pairs) - len(kept),
                len(pairs),
                self.max_length,
            )
        return Pairs(Ragged.of(s for s, _ in kept), Ragged.of(t for _, t in kept))

    def encode(self, text: str) -> list[int]:
        """A source as tokens."""
        return self._numbered(_cut(text, self.source_tokens))

    def decode(self, tokens: Sequence[int]) -> str:
        """Tokens of a target, up to its end, as text."""
        words = []
        for token in tokens:
            if token == EOS:
                break
            if token not in (PAD, BOS, NO_TARGET):
                words.append(self.vocab[token])
        return ("" if self.target_tokens == "characters" else " ").join(words)

    def source_text(self, tokens: Sequence[int]) -> list[str]:
        """The tokens of a source as texts, without what pads them."""
        return [self.vocab[token] for token in tokens if token != PAD]

    def _numbered(self, tokens: Sequence[str]) -> list[int]:
        return [self._numbers.get(token, UNKNOWN) for token in tokens]

    def _set_vocab(self, vocab: list[str]) -> None:
        self.vocab = vocab
        self._numbers = {token: number for number, token in enumerate(vocab)}

    def new_items(self, source: Path | str) -> Iterator[str]:
        """Each line of a file, or a text, to translate."""
        if isinstance(source, str):
            yield source
            return
        with source.open(encoding="utf-8") as file:
            try:
                for line in file:
                    if line.strip():
                        yield line.rstrip("\n")
            except UnicodeDecodeError:
                raise UserError(f"{source}: is not text in UTF-8") from None

    def state_dict(self) -> dict[str, Any]:
        return {"vocab": list(self.vocab)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._set_vocab(list(state_dict["vocab"]))


def _cut(text: str, kind: TokenKind) -> list[str]:
    return list(text.strip()) if kind == "characters" else text.split()
