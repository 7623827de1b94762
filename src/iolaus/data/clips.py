"""Sounds and their transcripts: clips in memory, WAV files, the alphabet. CTC keeps token 0 for its blank, https://www.cs.toronto.edu/~graves/icml_2006.pdf."""

import math
import warnings
from abc import ABC
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from iolaus.data.base import DataModule
from iolaus.data.folders import visible_files
from iolaus.data.memory import InMemory, Ragged
from iolaus.errors import UserError


class Clips(InMemory):
    """Sounds and the tokens of their transcripts, both end to end in memory.

    Args:
        samples: int16.
        transcripts: tokens.

    Shape:
        batch: samples (B, N) int16, padded by 0, lengths (B,) int64, and tokens (B, L) int64, padded by -100.
    """

    def __init__(self, samples: Ragged, transcripts: Ragged):
        self.samples = samples
        self.transcripts = transcripts
        self.lengths = samples.lengths.cpu()

    def __len__(self) -> int:
        return len(self.samples)

    def take(self, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Clips by their numbers."""
        samples, lengths = self.samples.padded(rows, 0)
        return samples, lengths, self.transcripts.padded(rows, -100)[0].long()

    def parts(self) -> list[torch.Tensor]:
        """Samples and tokens, and where each clip's begin."""
        held = (self.samples, self.transcripts)
        return [part for ragged in held for part in (ragged.values, ragged.offsets)]

    def to(self, device: torch.device) -> Self:
        """The same on a device."""
        return type(self)(self.samples.to(device), self.transcripts.to(device))


class Sounds(DataModule, ABC):
    """What data sets of sounds and transcripts have in common: the alphabet, and how new sounds are read.

    Args:
        rate_hz: samples a second; other sounds are resampled.
        frame_s: seconds from one frame of the model's output to the next, which CTC writes one token in at most.
        characters: that transcripts are made of, tokens 1, 2, ... in this order; None: those of the training transcripts.
        base: the settings that every data set has; vocab_size counts the characters and the blank.

    Raises:
        UserError: for an alphabet that is not single characters, each once, or of another size than vocab_size says.
    """

    new_endings = frozenset({".wav"})

    def __init__(self, rate_hz: int, frame_s: float, characters: str | Sequence[str] | None = None, **base: Any):
        super().__init__(**base)
        self.rate_hz = rate_hz
        self.frame_s = frame_s
        self.characters: list[str] | None = None
        if characters is not None:
            self.take_alphabet([str(c) for c in characters])

    def take_alphabet(self, characters: list[str]) -> None:
        """Number the characters."""
        if not characters or any(len(c) != 1 for c in characters) or len(set(characters)) < len(characters):
            raise UserError(f"data.characters: must be single characters, each once; received {characters}")
        if self.vocab_size not in (None, len(characters) + 1):
            raise UserError(
                f"data.vocab_size: is {self.vocab_size}, but the {len(characters)} characters and the blank make "
                f"{len(characters) + 1}; set data.vocab_size=null"
            )
        self.characters, self.vocab_size = characters, len(characters) + 1

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, all of whose characters are in the alphabet."""
        assert self.characters is not None
        numbers = {character: number for number, character in enumerate(self.characters, 1)}
        return [numbers[c] for c in text]

    def too_short(self, lengths: torch.Tensor, transcripts: Ragged) -> torch.Tensor:
        """The clips that CTC has too few frames for, by number, with the frames they have and need: (n, 3).

        Each token takes a frame, and a blank must stand between two equal ones.
        """
        values, offsets = transcripts.values, transcripts.offsets
        repeats = torch.zeros(len(values) + 1, dtype=torch.int64)
        repeats[2:] = (values[1:] == values[:-1]).cumsum(
            0
        )  # up to each token; what two clips share is subtracted below
        first, last = offsets[:-1], offsets[1:]
        inner = repeats[last] - repeats[(first + 1).minimum(last)]
        needed = transcripts.lengths + inner
        frames = (lengths / (self.frame_s * self.rate_hz)).ceil().long()
        rows = (frames < needed).nonzero()[:, 0]
        return torch.stack([rows, frames[rows], needed[rows]], 1)

    def facts(self) -> dict[str, Any]:
        """And the alphabet."""
        return super().facts() | {"characters": self.characters}

    def state_dict(self) -> dict[str, Any]:
        return {"characters": self.characters}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.vocab_size = None
        self.take_alphabet(state_dict["characters"])

    def new_items(self, source: Path | str) -> Iterator[tuple[str, torch.Tensor]]:
        """The name and the samples of a WAV file, or of all in a folder."""
        if isinstance(source, str):
            raise UserError(f"predict: sounds are read from a WAV file or a folder of them; received {source!r}")
        files = visible_files(source, (".wav",)) if source.is_dir() else [source]
        if not files:
            raise UserError(f"predict: {source} holds no .wav file")
        for file in files:
            name = str(file.relative_to(source)) if source.is_dir() else file.name
            try:
                yield name, read_wav(file, self.rate_hz)
            except UserError as error:
                raise UserError(f"predict: {error}") from None


def read_wav(file: Path, rate_hz: int) -> torch.Tensor:
    """The samples of a WAV file of any width, channels averaged, resampled where its rate is another.

    Shape:
        output: (N,) int16.

    Raises:
        UserError: for a file that is no WAV, holds no sample, or numbers that are not finite.
    """
    from scipy.signal import resample_poly

    rate, samples = _opened(file, mmap=False)
    if samples.dtype == np.int16 and samples.ndim == 1 and rate == rate_hz:
        return torch.from_numpy(samples.copy())
    if samples.dtype.kind == "f":
        if not np.isfinite(samples).all():
            raise UserError(f"{file} has samples that are NaN or infinite")
        levels = samples.astype(np.float64)
    else:  # unsigned where a sample is a byte; 24 bits come as the upper ones of 32
        zero, top = (128, 128) if samples.dtype == np.uint8 else (0, -float(np.iinfo(samples.dtype).min))
        levels = (samples.astype(np.float64) - zero) / top
    levels = levels if levels.ndim == 1 else levels.mean(1)
    if rate != rate_hz:
        up, down = ratio(rate, rate_hz)
        levels = resample_poly(levels, up, down)
    return torch.from_numpy((levels * 2**15).round().clip(-(2**15), 2**15 - 1).astype(np.int16))


def wav_size(file: Path) -> tuple[int, int]:
    """Samples a second and samples of a WAV file, without reading them where that can be helped.

    Raises:
        UserError: as read_wav.
    """
    rate, samples = _opened(file, mmap=True)
    return rate, len(samples)


def ratio(rate: int, rate_hz: int) -> tuple[int, int]:
    """How many samples become of how many, in lowest terms."""
    common = math.gcd(rate, rate_hz)
    return rate_hz // common, rate // common


def _opened(file: Path, mmap: bool) -> tuple[int, np.ndarray]:
    from scipy.io import wavfile

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of chunks with names and dates
            try:
                rate, samples = wavfile.read(file, mmap=mmap)
            except ValueError:
                if not mmap:
                    raise
                rate, samples = wavfile.read(file)  # samples of 24 bits cannot be mapped
    except Exception as error:  # scipy raises whatever a broken header leads it to
        raise UserError(f"{file} cannot be read as a WAV file: {' '.join(str(error).split())[:200]}") from None
    if len(samples) == 0 or rate < 1:
        raise UserError(f"{file} holds no sound")
    return int(rate), samples
