"""Learning to predict each token of a text from those before it. Bengio and others, https://www.jmlr.org/papers/v3/bengio03a.html."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F

from iolaus.errors import UserError
from iolaus.exhibits import Curves, Exhibit, Text
from iolaus.functional.decoding import sample
from iolaus.task.base import Graph, Task

SAMPLES = 3
BATCHES = 8  # of a split that the loss at each position is averaged over


class LanguageModeling(Task):
    """The model gives logits of the token that follows each of a window's tokens.

    Args:
        input_shape: (T,), the window's length.
        output_dim: number of tokens, V.
        prompt: what samples go on from.
        sample_length: tokens that are added.
        temperature: of the sampling; 0 takes the likeliest token each time.
        top_k: sample among the k likeliest tokens only.
        top_p: sample among the likeliest tokens that together have this probability.
        parts: model, loss, metrics, optimizer and scheduler; see Task.

    Shape:
        batch: tokens (B, T) and those that follow (B, T); output: (B, T, V).

    Raises:
        ValueError: for a sampling that cannot be.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        output_dim: int,
        prompt: str = "def ",
        sample_length: int = 256,
        temperature: float = 0.7,
        top_k: int | None = None,
        top_p: float | None = 0.95,
        **parts: Any,
    ):
        super().__init__(**parts)
        self.input_shape = tuple(input_shape)
        self.output_dim = output_dim
        self.prompt = prompt
        self.sample_length = sample_length
        self.sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p}

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits of each next token."""
        return self.model(tokens)

    def step(self, batch: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        tokens, target = batch
        output = self(tokens)
        return self.loss(output.flatten(0, 1), target.flatten()), output, target

    def size(self, target: torch.Tensor) -> int:
        return target.numel()

    def example(self, n: int) -> tuple[torch.Tensor, ...]:
        tokens = torch.zeros(n, *self.input_shape, dtype=torch.int64, device=self.device)
        return tokens, tokens.clone()

    def show(self, data: Any, split: str = "test") -> dict[str, Exhibit]:
        """Samples that go on from the prompt, and the loss at each position of a window: what a longer context is worth."""
        generator = torch.Generator(self.device).manual_seed(data.seed)
        texts = [self._continued(self.prompt, data, generator) for _ in range(SAMPLES)]
        losses = []
        for _, (tokens, target) in zip(range(BATCHES), data.loader(split), strict=False):
            output = self(tokens.to(self.device)).float().transpose(1, 2)
            losses.append(F.cross_entropy(output, target.to(self.device), reduction="none"))
        bits = torch.cat(losses).mean(0).cpu() / torch.log(torch.tensor(2.0))
        positions = range(1, len(bits) + 1)
        return {
            "samples": Text("\n\n----\n\n".join(texts)),
            "loss_by_position": Curves(
                positions, {split: bits}, ("tokens before and at it", "bits"), "loss at each position of a window"
            ),
        }

    def graph(self) -> Graph:
        use = (
            "logits[b, t] are of the token that follows tokens[b, : t + 1]; tokens are the bytes of text in UTF-8 "
            "where the vocabulary is 256"
        )
        return Graph(("logits",), use, {"tokens": {1: "time"}}, {"time": self.input_shape[0]})

    def predict(self, items: list[str], data: Any) -> list[dict[str, Any]]:
        """Each text with its continuation."""
        generator = torch.Generator(self.device).manual_seed(data.seed)
        return [{"text": self._continued(text, data, generator)} for text in items]

    @torch.no_grad()
    def _continued(self, text: str, data: Any, generator: torch.Generator) -> str:
        window = self.input_shape[0]
        tokens = data.encode(text)
        if not tokens:
            raise UserError("task.prompt: must hold a character at least to go on from")
        prefix = torch.tensor([tokens[-window:]], device=self.device)
        found = sample(
            lambda known, _: self(known[:, -window:])[:, -1].float(),
            prefix,
            self.sample_length,
            **self.sampling,  # type: ignore[arg-type]
            generator=generator,
        )
        return text + data.decode(found[0, prefix.shape[1] :].tolist())
