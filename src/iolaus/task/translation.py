"""Learning to write one sentence for another, token by token. Sutskever and others, https://arxiv.org/abs/1409.3215."""

from collections.abc import Sequence
from typing import Any, Literal

import torch

from iolaus.exhibits import Exhibit, Heatmap, Table
from iolaus.functional.decoding import beam_search, greedy
from iolaus.functional.tokens import BOS, EOS, NO_TARGET, PAD
from iolaus.metrics.scores import Measured
from iolaus.task.base import Graph, Task

MOST_SENTENCES = 100  # of the validation that are translated for a look
MOST_TICKS = 30  # tokens of a source whose names can be read along an axis


class Translation(Task):
    """The model reads the source and is trained to give each target token from those before it; validation and test decode on their own.

    The model has `encode(source) -> memory`, a tuple of tensors whose first dimension is the batch, and `decode(memory, tokens) -> logits`;
    where it has `attention(source, tokens)`, a figure shows it.

    Args:
        decoding: greedy, the likeliest token each time, or beam search.
        beam_width: sequences that a beam search follows.
        length_penalty: power of the length that a beam search divides scores by.
        max_length: tokens of a translation at most.
        parts: model, loss, metrics, optimizer and scheduler; see Task.

    Shape:
        batch: sources (B, S), known tokens of the targets (B, L), tokens that follow (B, L) with -100 where there is none;
        output of a step: (B, L, V) logits; of an evaluation: (B, L') tokens.
    """

    def __init__(
        self,
        decoding: Literal["greedy", "beam"] = "greedy",
        beam_width: int = 4,
        length_penalty: float = 1.0,
        max_length: int = 100,
        **parts: Any,
    ):
        super().__init__(**parts)
        self.decoding = decoding
        self.beam_width = beam_width
        self.length_penalty = length_penalty
        self.max_length = max_length
        self._tested: list[tuple[torch.Tensor, ...]] = []  # sources, translations and references of the test

    def forward(self, source: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Logits of each next token."""
        return self.model(source, tokens)

    def step(self, batch: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        source, tokens, target = batch
        output = self(source, tokens)
        return self.loss(output.flatten(0, 1), target.flatten()), output, target

    def evaluate(self, batch: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        loss, _, target = self.step(batch)
        return loss, self.translate(batch[0]), target

    def size(self, target: torch.Tensor) -> torch.Tensor:
        return (target != NO_TARGET).sum()

    def to_metrics(self, output: torch.Tensor, target: torch.Tensor) -> Measured:
        decode = self.trainer.datamodule.decode  # type: ignore[attr-defined]
        return [decode(row) for row in output.tolist()], [decode(row) for row in target.tolist()], {}

    def example(self, n: int) -> tuple[torch.Tensor, ...]:
        source = torch.full((n, 2), EOS, device=self.device)
        return source, torch.full((n, 1), BOS, device=self.device), torch.full((n, 1), EOS, device=self.device)

    @torch.no_grad()
    def translate(self, source: torch.Tensor) -> torch.Tensor:
        """Tokens for each source, (B, L), padded after their end."""
        model: Any = self.model
        memory = model.encode(source)

        def following(tokens: torch.Tensor, owner: torch.Tensor) -> torch.Tensor:
            return model.decode(tuple(part[owner] for part in memory), tokens)[:, -1]

        search = (following, len(source), BOS, EOS, self.max_length)
        if self.decoding == "greedy":
            return greedy(*search, device=source.device)
        found, _ = beam_search(*search, self.beam_width, self.length_penalty, device=source.device)
        return found[:, 0]

    def on_test_epoch_start(self) -> None:
        self._tested = []

    def test_step(self, batch: Any, batch_idx: int) -> None:
        output, target = self.score(self.test_scores, batch, self._is_spare("test", batch_idx))
        self._tested.append((batch[0].cpu(), output.cpu(), target.cpu()))

    def show(self, data: Any, split: str = "test") -> dict[str, Exhibit]:
        """A table of sentences, those that went wrong first, and what the longest translation that is legible looked at."""
        translated = self._tested if split == "test" else self._translated(data, split)
        rows = [
            (self._source(data, source), data.decode(tokens), data.decode(reference))
            for batch in translated
            for source, tokens, reference in zip(*(part.tolist() for part in batch), strict=True)
        ]
        rows.sort(key=lambda row: row[1] == row[2])
        wrong = sum(row[1] != row[2] for row in rows)
        caption = f"{wrong} of {len(rows)} differ from the reference; they come first."
        shown: dict[str, Exhibit] = {"translations": Table(["source", "prediction", "reference"], rows, caption)}
        sources = [source[source != PAD][None] for batch in translated for source in batch[0]]
        legible = [source for source in sources if source.shape[1] <= MOST_TICKS]
        if legible and hasattr(self.model, "attention"):
            shown["attention"] = self._attention(max(legible, key=lambda source: source.shape[1]).to(self.device), data)
        return shown

    def _translated(self, data: Any, split: str) -> list[tuple[torch.Tensor, ...]]:
        """Sources, translations and references of some sentences of a split."""
        size = min(MOST_SENTENCES, len(data.rows[split]))
        return [
            (source.cpu(), self.translate(source.to(self.device)).cpu(), target.cpu())
            for source, _, target in data.some_batches(split, size, size, data.seed)
        ]

    def _source(self, data: Any, tokens: Sequence[int]) -> str:
        return ("" if data.source_tokens == "characters" else " ").join(data.source_text(tokens))

    def _attention(self, source: torch.Tensor, data: Any) -> Heatmap:
        found = self.translate(source)
        length = int((found[0] != PAD).sum())
        known = torch.cat([torch.full_like(found[:, :1], BOS), found[:, : length - 1]], 1)
        weights = self.model.attention(source, known)[0]  # type: ignore[operator]
        names = data.source_text(source[0].tolist())
        return Heatmap(
            weights[:, : len(names)].float().cpu(),
            ("source", "translation"),
            "attention",
            ticks=(names, [data.vocab[token] for token in found[0, :length].tolist()]),
        )

    def graph(self) -> Graph:
        use = (
            "logits[b, t] are of the token of the target that follows tokens[b, : t + 1]; a translation begins with the token 1 alone "
            "and is gone on with by the likeliest token until that is 2; a token's text is its place in vocab, and sources are filled "
            "up by 0"
        )
        return Graph(("logits",), use, {"source": {1: "source_length"}, "tokens": {1: "target_length"}})

    @torch.no_grad()
    def predict(self, items: list[str], data: Any) -> list[dict[str, Any]]:
        """Each text with its translation."""
        tokens = [data.encode(text) or [EOS] for text in items]
        source = torch.full((len(tokens), max(map(len, tokens))), PAD, device=self.device)
        for row, numbers in enumerate(tokens):
            source[row, : len(numbers)] = torch.tensor(numbers)
        return [
            {"source": text, "translation": data.decode(row)}
            for text, row in zip(items, self.translate(source).tolist(), strict=True)
        ]
