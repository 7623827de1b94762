"""Speech to text: a small run end to end, scores against an edit distance of our own, prediction of new files, decoding."""

import csv
import itertools
import wave

import numpy as np
import pytest
import torch
import yaml
from conftest import composed
from scipy.io import wavfile
from torch.nn.utils.rnn import pad_sequence

from iolaus.build import build_task
from iolaus.check import plain
from iolaus.data.morse import Morse
from iolaus.exhibits import Audio, Heatmap
from iolaus.functional.ctc import ctc_beam_search, ctc_greedy
from iolaus.predict import of_file, predicted

EASY = (
    *("data=morse", "data.size=160", "data.characters=' ETAI'", "data.word_length=[1,3]", "data.num_words=[1,2]"),
    *("data.pitch_hz=[600.0,600.0]", "data.snr_db=[20.0,20.0]", "data.wpm=[30.0,30.0]", "data.batch_size=8"),
    *("data.jitter=0.0", "data.test_fraction=0.3", "trainer.max_epochs=5"),
)


def distance(a, b):
    """Levenshtein's, by the table that defines it."""
    table = np.zeros((len(a) + 1, len(b) + 1), dtype=int)
    table[:, 0], table[0] = range(len(a) + 1), range(len(b) + 1)
    for i, j in itertools.product(range(len(a)), range(len(b))):
        table[i + 1, j + 1] = min(table[i, j + 1] + 1, table[i + 1, j] + 1, table[i, j] + (a[i] != b[j]))
    return int(table[-1, -1])


def a_task(**settings):
    """A task with fresh weights, in evaluation mode, and its settings."""
    config = plain(composed("data=morse", "data.vocab_size=38", *(f"{k}={v}" for k, v in settings.items())))
    torch.manual_seed(0)
    return build_task(config).eval()


def test_a_run_learns_and_its_rates_are_those_of_its_transcripts(command):
    run = command(*EASY)
    assert run.code == 0, run.text
    rows = list(csv.DictReader((run.folder / "samples/transcripts.csv").open(newline="")))
    assert len(rows) == 48
    pairs = [(row["said"], row["heard"]) for row in rows]
    wer = sum(distance(a.split(), b.split()) for a, b in pairs) / sum(len(a.split()) for a, _ in pairs)
    cer = sum(distance(a, b) for a, b in pairs) / sum(len(a) for a, _ in pairs)
    assert 0 < cer < wer < 1
    assert run.results["metrics"]["test"]["wer/test"] == pytest.approx(wer, abs=1e-6)
    assert run.results["metrics"]["test"]["cer/test"] == pytest.approx(cer, abs=1e-6)
    shares = [distance(a, b) / len(a) for a, b in pairs]
    assert shares == sorted(shares, reverse=True)
    assert [int(row["wrong characters"]) for row in rows] == [distance(a, b) for a, b in pairs]
    for number in (1, 2, 3):
        assert (run.folder / f"figures/spectrogram_{number}.png").is_file()
        with wave.open(str(run.folder / f"samples/clip_{number}.wav")) as sound:
            assert sound.getframerate() == 4_000
            assert sound.getnframes() > 1_000


def test_spectrograms_are_of_the_clip_and_say_what_was_heard():
    task = a_task()
    data = Morse(**{k: v for k, v in plain(composed("data=morse", "data.size=40")).pop("data").items() if k[0] != "_"})
    data.setup()
    shown = task.show(data)
    row = int(data.rows["test"][0])
    samples, length, target = data.datasets["test"][row]
    picture, sound = shown["spectrogram_1"], shown["clip_1"]
    assert isinstance(picture, Heatmap)
    assert isinstance(sound, Audio)
    np.testing.assert_allclose(sound.samples, samples.numpy() / 2**15)
    assert picture.extent == (0, int(length) / 4_000, 0, 2_000)
    said = "".join(data.characters[token - 1] for token in target)
    assert picture.title.endswith(f"said: {said}")
    loudest = np.asarray(picture.values).mean(1).argmax() / (len(picture.values) - 1) * 2_000
    spectrum = np.abs(np.fft.rfft(samples.numpy().astype(float)))
    assert loudest == pytest.approx(
        spectrum.argmax() / len(spectrum) * 2_000, abs=40
    )  # the pitch, within a row and a half


@pytest.mark.parametrize("decoding", ["greedy", "beam"])
def test_new_files_are_transcribed_as_the_test_is(tmp_path, decoding):
    task = a_task(**{"task.decoding": decoding, "task.beam_width": 4})
    data = Morse(frame_s=0.08, characters="AB ", input_kind="audio", input_shape=None, target_kind="transcript")
    rng = np.random.default_rng(0)
    clips = [rng.integers(-9_000, 9_000, n).astype(np.int16) for n in (9_000, 4_001, 12_345)]
    for number, samples in enumerate(clips):
        wavfile.write(tmp_path / f"{number}.wav", 4_000, samples)
    wavfile.write(tmp_path / "slow.wav", 2_000, clips[0])
    rows = task.predict(list(data.new_items(tmp_path)), data)
    assert [row["file"] for row in rows] == ["0.wav", "1.wav", "2.wav", "slow.wav"]
    (row,) = predicted(task, data, tmp_path / "1.wav")
    assert list(of_file(row, "f/1.wav").items()) == [("file", "f/1.wav"), ("transcript", rows[1]["transcript"])]
    lengths = torch.tensor([len(c) for c in clips])
    batch = pad_sequence([torch.from_numpy(c) for c in clips], batch_first=True)
    _, tokens, target = task.evaluate((batch, lengths, torch.tensor([[1], [2], [3]])))
    logits, frames = task(batch, lengths)
    expected = (
        ctc_greedy(logits, frames) if decoding == "greedy" else ctc_beam_search(logits.log_softmax(-1), frames, 4)[0]
    )
    assert torch.equal(tokens, expected)
    heard, said, more = task.to_metrics(tokens, target)
    assert (said, more) == ([" ", "0", "1"], {})
    assert [row["transcript"] for row in rows[:3]] == heard
    assert any(heard)
    assert task.to_metrics((logits, frames), target)[0] == heard


def test_the_loss_is_the_mean_over_clips_for_any_batching():
    task = a_task()
    generator = torch.Generator().manual_seed(0)
    samples = torch.randint(-9_000, 9_000, (5, 8_000), generator=generator).to(torch.int16)
    lengths = torch.tensor([8_000, 7_000, 6_000, 5_000, 4_000])
    target = torch.tensor([[1, 2, 3], [4, 5, -100], [6, -100, -100], [7, 8, 9], [1, 1, -100]])
    whole = task.step((samples, lengths, target))[0]
    parts = [task.step((samples[rows], lengths[rows], target[rows])) for rows in (slice(0, 3), slice(3, 5))]
    sizes = [task.size(part[2]) for part in parts]
    assert sizes == [3, 2]
    torch.testing.assert_close(sum(part[0] * n for part, n in zip(parts, sizes, strict=True)) / 5, whole)


@pytest.mark.slow
def test_recordings_of_ones_own_tell_the_alphabet(command, tmp_path):
    rng = np.random.default_rng(0)
    lines = ["file,text"]
    (tmp_path / "wavs").mkdir()
    for number in range(12):
        wavfile.write(tmp_path / f"wavs/{number}.wav", 16_000, rng.integers(-900, 900, 16_000).astype(np.int16))
        lines.append(f"{number}.wav,ab{'ba'[: number % 3]}")
    (tmp_path / "wavs/transcripts.csv").write_text("\n".join(lines))
    run = command("data=speech_folder", "data.path=wavs", "trainer.max_epochs=1", "data.test_fraction=0.2")
    assert run.code == 0, run.text
    assert "data.rate_hz: 12 of 12 files are resampled from 16000 Hz" in run.text
    assert set(run.results["metrics"]["test"]) == {"loss/test", "wer/test", "cer/test"}
    settings = yaml.safe_load((run.folder / "config.yaml").read_text())
    assert settings["data"]["characters"] == ["a", "b"]
    assert settings["data"]["vocab_size"] == 3
