"""Morse code as it sounds, against the standard: a decoder by run lengths, the tone's pitch, the noise's power."""

import numpy as np
import pytest
import torch
from scipy.signal import hilbert

from iolaus.data.morse import Morse, keyed
from iolaus.errors import UserError

RATE_HZ = 8_000
ALPHABET = " 0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# Recommendation ITU-R M.1677-1, as the well-known tree: from 1, a dot leads from i to 2 i and a dash to 2 i + 1.
TREE = dict(zip([*range(2, 19), 20, *range(22, 30)], "ETIANMSURWDKGOHVFLPJBXCYZQ", strict=True))
TREE |= dict(zip([32, 33, 35, 39, 47, 48, 56, 60, 62, 63], "5432167890", strict=True))


BASE = {"input_kind": "audio", "input_shape": None, "target_kind": "transcript", "standardize": False, "size": 60}


def data(**settings):
    module = Morse(**{**BASE, "frame_s": 0.08, "characters": ALPHABET, **settings})
    module.setup()
    return module


def sound(text, wpm=20.0, pitch_hz=600.0, snr_db=np.inf, jitter=0.0, rate_hz=RATE_HZ, seed=0):
    """One text, samples in [-1, 1]."""
    each = [np.array([value]) for value in (wpm, pitch_hz, snr_db, 0.3)]
    samples, sizes = keyed([text], rate_hz, *each, jitter, np.random.default_rng(seed))
    assert sizes == [len(samples)]
    return samples / 2**15


def runs(samples, dot):
    """Lengths of tones (above 0) and gaps (below 0) in dots, silence around them left out."""
    level = np.abs(hilbert(samples))
    down = level > np.median(level[level > 0.1]) / 2
    edges = np.flatnonzero(np.diff(down)) + 1
    lengths = np.diff(edges) / dot
    return lengths * np.where(np.arange(len(lengths)) % 2, -1, 1)


def read(lengths):
    """The text that run lengths stand for: a tone of two dots or more is a dash, a gap of two ends a letter, of five a word."""
    text, place = "", 1
    for length in lengths:
        if length > 0:
            place = 2 * place + (length >= 2)
        elif length <= -2:
            text, place = text + TREE[place] + (" " if length <= -5 else ""), 1
    return text + TREE[place]


@pytest.mark.parametrize("wpm", [12.0, 20.0, 33.0])
def test_the_sound_without_noise_reads_back_by_the_standard(wpm):
    text = "THE QUICK BROWN FOX JUMPS OVER 13 LAZY DOGS 4567890 2"
    dot = 1.2 / wpm * RATE_HZ
    lengths = runs(sound(text, wpm), dot)
    assert read(lengths) == text
    due = np.array([1, 3, -1, -3, -7])
    nearest = due[np.abs(lengths[:, None] - due).argmin(1)]
    assert set(nearest) == set(due)
    np.testing.assert_allclose(lengths, nearest, atol=8 / dot)  # samples: half a period of the tone, and one


@pytest.mark.parametrize("wpm", [15.0, 25.0])
def test_paris_and_the_gap_after_it_is_a_word_of_the_speed(wpm):
    lengths = np.abs(runs(sound("PARIS PARIS", wpm), 1.0))
    first_word = lengths[: len(lengths) // 2 + 1].sum()  # of its tones and gaps, and the gap between the words
    assert first_word / RATE_HZ == pytest.approx(60 / wpm, abs=1e-3)


@pytest.mark.parametrize("pitch_hz", [400.0, 642.0, 900.0])
def test_the_pitch_is_the_spectrums_highest_line(pitch_hz):
    samples = sound("TTTTTTTT", pitch_hz=pitch_hz, snr_db=3.0)
    found = np.fft.rfftfreq(len(samples), 1 / RATE_HZ)[np.abs(np.fft.rfft(samples)).argmax()]
    assert found == pytest.approx(pitch_hz, abs=2.0)


@pytest.mark.parametrize("snr_db", [0.0, 12.0])
def test_power_of_tone_over_noise(snr_db):
    clean, noisy = (sound("0000000000", snr_db=s) for s in (np.inf, snr_db))
    level = np.abs(hilbert(clean))
    tone = clean[level > 0.99 * np.median(level[level > 0.1])]
    power = 10 * np.log10(np.mean(tone**2) / np.var(noisy - clean))
    assert power == pytest.approx(snr_db, abs=0.2)


def test_tones_begin_and_end_without_a_click():
    """Outside the tone's surroundings lies next to nothing: a hard edge would put a thousand times as much there."""
    spectrum = np.abs(np.fft.rfft(sound("EEEEEEEEEE", pitch_hz=600.0))) ** 2
    frequency = np.fft.rfftfreq(2 * len(spectrum) - 1, 1 / RATE_HZ)[: len(spectrum)]
    assert spectrum[frequency > 2_000].sum() < 1e-6 * spectrum.sum()


def test_jitter_stays_within_its_share():
    dot = 1.2 / 20 * RATE_HZ
    text = "PARIS 73 PARIS 73 PARIS"
    steady, shaken = runs(sound(text), dot), runs(sound(text, jitter=0.2), dot)
    share = shaken / steady - 1
    assert read(shaken) == text
    assert np.abs(share).max() < 0.2 + 0.02
    assert np.std(share) == pytest.approx(0.2 / 3**0.5, rel=0.2)  # of a uniform distribution


def test_clips_are_as_the_settings_say():
    module = data(num_words=[2, 3], word_length=[2, 4], wpm=[20.0, 20.0])
    held = module.datasets["train"]
    samples, lengths, target = held.take(torch.arange(60))
    assert samples.dtype == torch.int16
    texts = ["".join(ALPHABET[token - 1] for token in row if token > 0) for row in target.tolist()]
    words = [text.split(" ") for text in texts]
    assert {len(w) for w in words} == {2, 3}
    assert {len(word) for w in words for word in w} == {2, 3, 4}
    for text, row, length in zip(texts, samples.numpy(), lengths.tolist(), strict=True):
        dots = length / (1.2 / 20 * 4_000)
        expected = len(sound(text)) / (1.2 / 20 * RATE_HZ)
        assert dots == pytest.approx(expected, rel=0.04)  # each tone and gap within a tenth, so their sum much closer
        assert not row[length:].any()


def test_the_seed_decides_everything_and_no_text_stands_twice():
    first, again, other = data(seed=3), data(seed=3), data(seed=4)
    for one, two in zip(first.datasets["train"].parts(), again.datasets["train"].parts(), strict=True):
        assert torch.equal(one, two)
    assert first.fingerprint() != other.fingerprint()
    texts = {}
    for split, rows in first.rows.items():
        tokens = first.datasets[split].take(rows)[2]
        texts[split] = {tuple(t for t in row if t > 0) for row in tokens.tolist()}
        assert len(texts[split]) == len(rows)
    assert not texts["train"] & (texts["test"] | texts["val"])
    assert not texts["test"] & texts["val"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"wpm": [30.0, 20.0]}, "data.wpm: must be two numbers, at least 1 and ascending; received [30.0, 20.0]"),
        ({"pitch_hz": [400.0, 2_000.0]}, "data.pitch_hz: must be below half of data.rate_hz=4000"),
        ({"jitter": 0.5}, "data.jitter: must be in [0, 0.5)"),
        ({"characters": "ABC"}, "data.characters: must hold a letter or digit, and the space"),
        ({"characters": " ABÄ"}, "data.characters: 'Ä' has no sign here"),
        ({"characters": " AAB"}, "data.characters: must be single characters, each once"),
        ({"characters": ["A", "BC"]}, "data.characters: must be single characters, each once"),
        ({"vocab_size": 7}, "data.vocab_size: is 7, but the 37 characters and the blank make 38"),
        ({"word_length": [1, 1], "num_words": [1, 1]}, "data.size: of 60 clips only 36 have different texts"),
        ({"frame_s": 1.0}, "set it smaller, or data.wpm"),
    ],
)
def test_what_cannot_be_is_told(settings, words):
    with pytest.raises(UserError) as error:
        data(**settings)
    assert words in str(error.value)
