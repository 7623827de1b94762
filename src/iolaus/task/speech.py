"""Speech to text without alignment, by connectionist temporal classification. Graves and others, https://www.cs.toronto.edu/~graves/icml_2006.pdf."""

import textwrap
from collections.abc import Sequence
from typing import Any, Literal

import torch

from iolaus.exhibits import Audio, Exhibit, Heatmap, Table
from iolaus.functional.ctc import ctc_beam_search, ctc_greedy
from iolaus.metrics.error_rate import edit_distance
from iolaus.task.base import Graph, Task

SHOWN = 3  # clips that are drawn
MOST_CLIPS = 2_000  # of a split that are listed
WINDOW_S, HOP_S = 0.032, 0.008  # of drawn spectrograms
RANGE_DB = 60.0  # that is drawn, below the loudest
TITLE = 90  # letters a line


class Speech(Task):
    """The model gives logits of tokens in frames; decoding makes them transcripts, for validation, test and prediction.

    The loss of a batch is the mean over its clips, each divided by the length of its transcript; so an epoch's is that over clips.

    Args:
        characters: what tokens 1, 2, ... stand for; 0 is the blank.
        rate_hz: samples a second.
        decoding: greedy: the likeliest token of each frame; beam: the likeliest transcript, summed over its alignments.
        beam_width: transcripts that beam follows from frame to frame.
        parts: model, loss, metrics, optimizer and scheduler; see Task.

    Shape:
        batch: samples (B, N), their numbers (B,), and tokens (B, L), padded by -100; output: logits (B, T, V) and the number of frames
        (B,); of `evaluate` decoded tokens (B, L'), padded by 0.
    """

    def __init__(
        self,
        characters: str | Sequence[str],
        rate_hz: int,
        decoding: Literal["greedy", "beam"] = "greedy",
        beam_width: int = 8,
        **parts: Any,
    ):
        super().__init__(**parts)
        self.characters = list(characters)
        self.rate_hz = rate_hz
        self.decoding = decoding
        self.beam_width = beam_width

    def forward(self, samples: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits in frames, and the frames of each clip."""
        return self.model(samples, lengths)

    def step(self, batch: Any) -> tuple[torch.Tensor, Any, torch.Tensor]:
        samples, lengths, target = batch
        output = self(samples, lengths)
        return self.loss(output, target), output, target

    def evaluate(self, batch: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As `step`, decoded."""
        loss, output, target = self.step(batch)
        return loss, self.decode(*output), target

    def decode(self, logits: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Tokens (B, L'), padded by 0."""
        if self.decoding == "greedy":
            return ctc_greedy(logits, lengths)
        return ctc_beam_search(logits.float().log_softmax(-1), lengths, self.beam_width)[0]

    def texts(self, tokens: torch.Tensor) -> list[str]:
        """What tokens stand for, blanks and padding left out."""
        return ["".join(self.characters[token - 1] for token in row if token > 0) for row in tokens.tolist()]

    def to_preds(self, output: Any) -> list[str]:
        return self.texts(output if isinstance(output, torch.Tensor) else self.decode(*output))

    def to_metrics(self, output: Any, target: torch.Tensor) -> tuple[list[str], list[str], dict[str, Any]]:
        return self.to_preds(output), self.texts(target), {}

    def example(self, n: int) -> tuple[torch.Tensor, ...]:
        """A second of silence each, heard as one character."""
        samples = torch.zeros(n, self.rate_hz, dtype=torch.int16, device=self.device)
        tokens = torch.ones(n, 1, dtype=torch.int64, device=self.device)
        return samples, torch.full((n,), self.rate_hz, device=self.device), tokens

    def show(self, data: Any, split: str = "test") -> dict[str, Exhibit]:
        """Spectrogram, transcript and sound of some clips of the split, and all transcripts beside what was said, worst first."""
        exhibits: dict[str, Exhibit] = {}
        for number, row in enumerate(data.rows[split][:SHOWN].tolist(), 1):
            samples, _, target = (part.cpu() for part in data.datasets[split][row])
            (heard,), (said,) = self.texts(self._decoded(samples)), self.texts(target[None])
            title = f"heard: {heard}\nsaid: {said}"
            exhibits[f"spectrogram_{number}"] = self._spectrogram(samples, title)
            exhibits[f"clip_{number}"] = Audio(samples / 2**15, self.rate_hz)
        rows: list[tuple[str, str, int]] = []
        for *inputs, target in data.loader(split):
            heard_all = self.to_preds(self(*(part.to(self.device) for part in inputs)))
            pairs = zip(self.texts(target), heard_all, strict=True)
            rows += [(said, heard, edit_distance(heard, said)) for said, heard in pairs]
            if len(rows) >= MOST_CLIPS:
                break
        rows.sort(key=lambda row: row[2] / max(len(row[0]), 1), reverse=True)
        caption = f"Of the {split} split, {len(rows)} clips; those with most errors a character first."
        exhibits["transcripts"] = Table(("said", "heard", "wrong characters"), rows, caption)
        return exhibits

    def _decoded(self, samples: torch.Tensor) -> torch.Tensor:
        """Tokens (1, L') of one clip (N,)."""
        samples = samples.to(self.device)
        return self.decode(*self(samples[None], torch.tensor([len(samples)], device=self.device)))

    def _spectrogram(self, samples: torch.Tensor, title: str) -> Heatmap:
        """Power in decibels below the loudest."""
        size, hop = max(round(WINDOW_S * self.rate_hz), 2), max(round(HOP_S * self.rate_hz), 1)
        spectrum = torch.stft(
            samples.float(), size, hop, window=torch.hann_window(size), pad_mode="constant", return_complex=True
        )
        level = 20 * spectrum.abs().clamp_min(1e-3).log10()
        return Heatmap(
            (level - level.max()).clamp_min(-RANGE_DB),
            ("time (s)", "frequency (Hz)"),
            "\n".join(textwrap.fill(line, TITLE) for line in title.splitlines()),
            extent=(0, len(samples) / self.rate_hz, 0, self.rate_hz / 2),
            origin="lower",
        )

    def graph(self) -> Graph:
        use = (
            "samples are 16-bit at rate_hz, filled up by 0, and lengths their numbers; of a clip's first `frames` frames the likeliest "
            "token, one of those that repeat, without 0; token k is characters[k - 1]"
        )
        return Graph(("logits", "frames"), use, {"samples": {1: "num_samples"}})

    def traceable(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and frames, undecoded."""
        return self(*inputs)

    @torch.no_grad()
    def predict(self, items: list[tuple[str, torch.Tensor]], data: Any) -> list[dict[str, Any]]:
        """The transcript of each sound.

        Args:
            items: names, and samples (N,) at this task's rate.
            data: the data module.
        """
        return [{"file": name, "transcript": self.texts(self._decoded(samples))[0]} for name, samples in items]
