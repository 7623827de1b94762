"""Morse code as it sounds, made by a formula. International Telecommunication Union, https://www.itu.int/rec/R-REC-M.1677 ."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from iolaus.data.clips import Clips, Sounds
from iolaus.data.memory import Ragged
from iolaus.errors import UserError

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
CODES = (
    ".- -... -.-. -.. . ..-. --. .... .. .--- -.- .-.. -- -. --- .--. --.- .-. ... - ..- ...- .-- -..- -.-- --.. "
    "----- .---- ..--- ...-- ....- ..... -.... --... ---.. ----."
)
SIGNS = dict(zip(LETTERS, CODES.split(), strict=True))
DOT, DASH, GAP, LETTER_GAP, WORD_GAP = 1, 3, 1, 3, 7  # in dots
AROUND = 3  # dots of silence before and after
DOT_S = 1.2  # of a dot at one word a minute: PARIS, with the gap after it, is 50 dots
EDGE_S = 0.005  # that a tone takes to begin, and to end
LEVEL = 0.25  # of a tone's peak, so that noise has room
AT_ONCE = 64  # clips that are made together: they stay in the processor's cache
MOST_TRIES = 20  # for each text that is another


class Morse(Sounds):
    """Words of random letters and digits in Morse code, each clip with a speed, a pitch and noise of its own.

    A dash is three dots long, as is the gap between two letters; the gap within a letter is one, between two words seven. No text
    stands in two clips, so that none of the test is in the training.

    Args:
        size: clips in all.
        rate_hz: samples a second.
        wpm: slowest and fastest, in words a minute, of the word PARIS.
        pitch_hz: lowest and highest.
        snr_db: least and most, power of the tone over that of the noise, in decibels.
        jitter: most that the length of a tone or gap differs from its due, as a share of it.
        num_words: fewest and most in a clip.
        word_length: fewest and most characters.
        base: the settings that every data set of sounds has; see Sounds.

    Raises:
        UserError: for ranges that cannot be, characters without a sign, more clips than there are texts, letters that are shorter than
            frames.
    """

    def __init__(
        self,
        size: int = 3_200,
        rate_hz: int = 4_000,
        wpm: tuple[float, float] = (18.0, 30.0),
        pitch_hz: tuple[float, float] = (400.0, 900.0),
        snr_db: tuple[float, float] = (3.0, 20.0),
        jitter: float = 0.1,
        num_words: tuple[int, int] = (1, 3),
        word_length: tuple[int, int] = (1, 5),
        **base: Any,
    ):
        super().__init__(rate_hz=rate_hz, **base)
        self.size = size
        self.wpm = wpm
        self.pitch_hz = pitch_hz
        self.snr_db = snr_db
        self.jitter = jitter
        self.num_words = num_words
        self.word_length = word_length

    def load(self) -> dict[str, Dataset]:
        self._check_ranges()
        rng = np.random.default_rng(self.seed)
        texts = self._texts(rng)
        transcripts = Ragged.of(map(self.encode, texts), torch.int16)
        blocks = list(self._sounds(texts, rng))
        lengths = torch.tensor([0, *(length for _, block in blocks for length in block)])
        samples = Ragged(torch.from_numpy(np.concatenate([block for block, _ in blocks])), lengths.cumsum(0))
        if len(short := self.too_short(samples.lengths, transcripts)):
            row, has, needs = short[0].tolist()
            raise UserError(
                f"data.frame_s: {texts[row]!r} has {has} frames of {self.frame_s} s and needs {needs}; set it smaller, or data.wpm"
            )
        return {"train": Clips(samples, transcripts)}

    def _check_ranges(self) -> None:
        least = {"wpm": 1, "pitch_hz": 1, "snr_db": -100, "num_words": 1, "word_length": 1}
        for name, lowest in least.items():
            low, high = getattr(self, name)
            if not lowest <= low <= high:
                raise UserError(
                    f"data.{name}: must be two numbers, at least {lowest} and ascending; received {[low, high]}"
                )
        if self.pitch_hz[1] >= self.rate_hz / 2:
            raise UserError(
                f"data.pitch_hz: must be below half of data.rate_hz={self.rate_hz}; received {list(self.pitch_hz)}"
            )
        if not 0 <= self.jitter < 0.5:
            raise UserError(f"data.jitter: must be in [0, 0.5), or a dot may be a dash; received {self.jitter}")
        assert self.characters is not None
        if unknown := [c for c in self.characters if c not in SIGNS and c != " "]:
            raise UserError(f"data.characters: {unknown[0]!r} has no sign here; there are A to Z and 0 to 9")
        if " " not in self.characters or len(self.characters) < 2:
            raise UserError("data.characters: must hold a letter or digit, and the space, which stands between words")

    def _texts(self, rng: np.random.Generator) -> list[str]:
        """Different texts, in the order in which they were drawn."""
        assert self.characters is not None
        letters = np.array([c for c in self.characters if c != " "])
        texts: dict[str, None] = {}
        for _ in range(MOST_TRIES * self.size):
            if len(texts) == self.size:
                return list(texts)
            words = rng.integers(*self.word_length, size=rng.integers(*self.num_words, endpoint=True), endpoint=True)
            drawn = "".join(rng.choice(letters, words.sum()))
            ends = words.cumsum()
            texts[" ".join(drawn[end - length : end] for length, end in zip(words, ends, strict=True))] = None
        raise UserError(
            f"data.size: of {self.size} clips only {len(texts)} have different texts; set fewer, or longer words by data.word_length"
        )

    def _sounds(self, texts: list[str], rng: np.random.Generator) -> Iterator[tuple[np.ndarray, list[int]]]:
        """Block by block the samples of some clips, end to end, int16, and the number of each one's."""
        wpm, pitch, snr = (rng.uniform(*r, len(texts)) for r in (self.wpm, self.pitch_hz, self.snr_db))
        phase = rng.uniform(0, 2 * np.pi, len(texts))
        for start in range(0, len(texts), AT_ONCE):
            block = slice(start, start + AT_ONCE)
            yield keyed(
                texts[block], self.rate_hz, wpm[block], pitch[block], snr[block], phase[block], self.jitter, rng
            )


def keyed(
    texts: Sequence[str],
    rate_hz: int,
    wpm: np.ndarray,
    pitch_hz: np.ndarray,
    snr_db: np.ndarray,
    phase: np.ndarray,
    jitter: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, list[int]]:
    """Texts as sounds, end to end.

    A tone's edges are half cosine waves whose middles are where it begins and ends. The noise is white and normal, and the power
    of the tone is that while the key is down.

    Args:
        texts: of characters that have signs, and single spaces.
        rate_hz: samples a second.
        wpm: of each, its speed.
        pitch_hz: of each.
        snr_db: of each; infinite for none.
        phase: of each, radians.
        jitter: most that a tone or gap differs from its length, as a share.
        rng: draws the jitter and the noise.

    Returns:
        int16 samples, and how many each text has.
    """
    patterns = [pattern(text) for text in texts]
    counts = [len(p) for p in patterns]
    dots = np.concatenate(patterns) * (1 + rng.uniform(-jitter, jitter, sum(counts)))
    length = np.abs(dots) * np.repeat(DOT_S / wpm * rate_hz, counts)  # in samples, as all that follows
    clip_of = np.repeat(np.arange(len(texts)), counts)
    sizes = np.bincount(clip_of, length, len(texts)).astype(int)
    # Each clip begins at a whole sample; its last silence loses the fraction of one.
    end = length.cumsum()
    end += np.repeat((sizes.cumsum() - sizes) - (end - length)[np.cumsum([0, *counts[:-1]])], counts)
    down = dots > 0
    begins, ends, clip_of = (end - length)[down], end[down], clip_of[down]
    edge = EDGE_S * rate_hz
    first = np.ceil(begins - edge / 2).astype(int)
    spans = np.floor(ends + edge / 2).astype(int) - first + 1
    at = np.repeat(first - (spans.cumsum() - spans), spans) + np.arange(spans.sum())  # the samples of all tones
    inward = np.minimum(at - np.repeat(begins, spans), np.repeat(ends, spans) - at) / edge + 0.5
    envelope = 0.5 - 0.5 * np.cos(np.pi * inward.clip(0, 1))
    turn = 2 * np.pi / rate_hz * np.repeat(pitch_hz[clip_of], spans)
    deviation = np.where(np.isinf(snr_db), 0, LEVEL / 2**0.5 * 10 ** (-snr_db / 20)).astype(np.float32)
    sound = rng.standard_normal(sizes.sum(), dtype=np.float32) * np.repeat(deviation, sizes)
    sound[at] += (LEVEL * envelope * np.sin(turn * at + np.repeat(phase[clip_of], spans))).astype(np.float32)
    return (sound.clip(-1, 1) * (2**15 - 1)).round().astype(np.int16), sizes.tolist()


def pattern(text: str) -> np.ndarray:
    """Tones (above 0) and gaps (below 0) of a text, in dots, silence around it included."""
    lengths: list[int] = [-AROUND]
    for word in text.split(" "):
        for letter in word:
            for sign in SIGNS[letter]:
                lengths += [DOT if sign == "." else DASH, -GAP]
            lengths[-1] = -LETTER_GAP
        lengths[-1] = -WORD_GAP
    lengths[-1] = -AROUND
    return np.array(lengths, dtype=np.float64)
