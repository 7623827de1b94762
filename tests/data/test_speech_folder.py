"""WAV files of one's own: every common format, resampling, the alphabet, and what is wrong told by table and line."""

import itertools
import logging
import struct
import wave

import numpy as np
import pytest
import torch
from scipy.io import wavfile

from iolaus.data.clips import Clips, read_wav
from iolaus.data.memory import Ragged
from iolaus.data.speech_folder import Recordings, SpeechFolder
from iolaus.errors import UserError

RATE_HZ = 8_000
BASE = {"input_kind": "audio", "input_shape": None, "target_kind": "transcript", "frame_s": 0.04, "standardize": False}


def sine(frequency=440.0, seconds=0.5, rate_hz=RATE_HZ):
    return 0.5 * np.sin(2 * np.pi * frequency / rate_hz * np.arange(round(seconds * rate_hz)))


def write_24_bits(file, levels, rate_hz):
    packed = b"".join(struct.pack("<i", round(x * (2**23 - 1)))[:3] for x in levels)
    with wave.open(str(file), "wb") as sound:
        sound.setparams((1, 3, rate_hz, 0, "NONE", ""))
        sound.writeframes(packed)


FORMATS = {
    "8 bits": lambda x: (x * 127 + 128).round().astype(np.uint8),
    "16 bits": lambda x: (x * 32_767).round().astype(np.int16),
    "32 bits": lambda x: (x * (2**31 - 1)).astype(np.int32),
    "float": lambda x: x.astype(np.float32),
    "double": lambda x: x,
    "stereo": lambda x: np.stack([x * 1.5, x * 0.5], 1).astype(np.float32),
}


@pytest.mark.parametrize("name", [*FORMATS, "24 bits"])
def test_every_format_is_read_as_the_same_sound(tmp_path, name):
    file, levels = tmp_path / "a.wav", sine()
    if name in FORMATS:
        wavfile.write(file, RATE_HZ, FORMATS[name](levels))
    else:
        write_24_bits(file, levels, RATE_HZ)
    samples = read_wav(file, RATE_HZ)
    assert samples.dtype == torch.int16
    np.testing.assert_allclose(samples / 2**15, levels, atol=1 / 127 if name == "8 bits" else 2 / 2**15)


@pytest.mark.parametrize("rate_hz", [4_000, 11_025, 16_000, 44_100])
def test_resampling_keeps_a_sines_frequency_and_height(tmp_path, rate_hz):
    wavfile.write(tmp_path / "a.wav", rate_hz, FORMATS["16 bits"](sine(437.0, 1.0, rate_hz)))
    samples = read_wav(tmp_path / "a.wav", RATE_HZ).numpy() / 2**15
    assert len(samples) == RATE_HZ
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(RATE_HZ)))
    assert spectrum.argmax() == 437  # a bin is a hertz
    assert np.abs(samples[800:-800]).max() == pytest.approx(0.5, abs=0.01)


def test_what_lies_above_half_the_rate_does_not_come_back_lower(tmp_path):
    wavfile.write(tmp_path / "a.wav", 16_000, FORMATS["16 bits"](sine(6_000.0, 0.5, 16_000)))
    assert np.abs(read_wav(tmp_path / "a.wav", RATE_HZ)[400:-400]).max() < 0.01 * 2**14


TEXTS = ["ab", "ba a", "abba", "b", "cab", "a  cc", "bac", "ccab", "a", "bb c"]


def folder(place, texts=TEXTS, rates=(RATE_HZ,), name="transcripts.csv", lines=()):
    """WAV files of different lengths, and their table."""
    (place / "wavs").mkdir(exist_ok=True)
    rows = ["file,text"]
    for i, text in enumerate(texts):
        rate = rates[i % len(rates)]
        wavfile.write(
            place / f"wavs/{name[:2]}{i}.wav", rate, FORMATS["16 bits"](sine(200.0 + 50 * i, 0.4 + 0.03 * i, rate))
        )
        rows.append(f"{name[:2]}{i}.wav,{text}")
    (place / "wavs" / name).write_text("\n".join([*rows, *lines]) + "\n", encoding="utf-8")
    return place / "wavs"


def data(path, **settings):
    module = SpeechFolder(str(path), **{**BASE, **settings})
    module.setup()
    return module


def test_the_alphabet_is_the_training_transcripts_characters(tmp_path):
    module = data(folder(tmp_path), characters=None, val_fraction=0.2, test_fraction=0.0)
    assert module.facts() | {"characters": [" ", "a", "b", "c"], "vocab_size": 5} == module.facts()
    held = module.datasets["train"]
    assert isinstance(held, Clips)
    tokens = held.take(torch.tensor([1, 5]))[2]
    assert tokens.tolist() == [[3, 2, 1, 2], [2, 1, 4, 4]]  # white space became a single space
    other = SpeechFolder("nowhere", **BASE)
    other.load_state_dict(module.state_dict())
    assert (other.characters, other.vocab_size) == (module.characters, 5)
    assert other.encode("cab") == [4, 2, 3]


def test_files_read_when_asked_for_give_the_batches_of_memory(tmp_path, caplog):
    path = folder(tmp_path, rates=(RATE_HZ, 11_025, 16_000))
    with caplog.at_level(logging.INFO, "iolaus"):
        modules = [data(path, in_memory=kept, val_fraction=0.0, batch_size=4) for kept in (True, False)]
    assert "data.rate_hz: 3 of 10 files are resampled from 16000 Hz" in caplog.messages
    assert [type(m.datasets["train"]) for m in modules] == [Clips, Recordings]
    for split in ("train_dataloader", "test_dataloader"):
        batches = [list(getattr(m, split)()) for m in modules]
        assert len(batches[0]) == len(batches[1]) > 0
        for one, other in zip(*batches, strict=True):
            for part, same in zip(one, other, strict=True):
                assert part.dtype == same.dtype
                assert torch.equal(part, same)
    longest = [batch[0].shape[1] for batch in modules[0].train_dataloader()]
    assert all(int(b[1].max()) == n for b, n in zip(modules[0].train_dataloader(), longest, strict=True))


def test_a_table_of_its_own_for_the_test(tmp_path):
    path = folder(tmp_path)
    folder(tmp_path, ["cab", "ac"], name="heldout.csv")
    module = data(path, test_transcripts=str(path / "heldout.csv"), val_fraction=0.2, characters="abc ")
    assert {split: len(rows) for split, rows in module.rows.items()} == {"train": 8, "val": 2, "test": 2}
    assert module.datasets["test"].take(torch.tensor([0, 1]))[2].tolist() == [[3, 1, 2], [1, 3, -100]]


def test_new_items_are_files_or_a_folder(tmp_path):
    path = folder(tmp_path, rates=(16_000,))
    module = SpeechFolder(str(path), **BASE)
    items = dict(module.new_items(path))
    assert list(items) == sorted(f"tr{i}.wav" for i in range(10))
    ((name, samples),) = module.new_items(path / "tr3.wav")
    assert name == "tr3.wav"
    assert torch.equal(samples, items["tr3.wav"])
    assert torch.equal(samples, read_wav(path / "tr3.wav", RATE_HZ))
    for source, words in (
        ("hello", "a WAV file or a folder of them; received 'hello'"),
        (tmp_path / "x", "no .wav file"),
    ):
        (tmp_path / "x").mkdir(exist_ok=True)
        with pytest.raises(UserError, match=words):
            list(module.new_items(source))


def test_clips_that_are_too_short_for_their_tokens_against_a_loop():
    generator = torch.Generator().manual_seed(0)
    texts = [
        torch.randint(1, 3, (int(n),), generator=generator) for n in torch.randint(0, 9, (40,), generator=generator)
    ]
    lengths = torch.randint(1, 4_000, (40,), generator=generator)
    module = SpeechFolder("nowhere", **BASE)
    expected = []
    for row, (text, length) in enumerate(zip(texts, lengths.tolist(), strict=True)):
        tokens = text.tolist()
        needs = len(tokens) + sum(a == b for a, b in itertools.pairwise(tokens))
        frames = -(-length // 320)
        if frames < needs:
            expected.append([row, frames, needs])
    assert module.too_short(lengths, Ragged.of([t.tolist() for t in texts])).tolist() == expected
    assert 5 < len(expected) < 35


@pytest.mark.parametrize(
    ("lines", "settings", "words"),
    [
        (["gone.wav,ab"], {}, "data.transcripts: {csv} line 12: there is no file 'gone.wav' in {path}"),
        ([",ab"], {}, "line 12: there is no file ''"),
        (["", "tr0.wav,  "], {}, "line 13: the transcript of tr0.wav is empty"),
        (["tr0.wav"], {}, "line 12: the transcript of tr0.wav is empty"),
        (["tr0.wav,a,b"], {}, "line 12: it has 3 cells and the table 2 columns"),
        (["text.wav,ab"], {}, "data.path: {csv} line 12: {path}/text.wav cannot be read as a WAV file"),
        (["empty.wav,ab"], {}, "line 12: {path}/empty.wav holds no sound"),
        (["short.wav,abba"], {}, "data.frame_s: {csv} line 12: short.wav has 3 frames of 0.04 s, and CTC needs 5"),
        ([], {"characters": "ab "}, "data.characters: {csv} line 6: the transcript has 'c', which they do not have"),
        ([], {"text_column": "txt"}, "data.text_column: {csv} has no column 'txt'; did you mean 'text'?"),
        ([], {"file_column": "name"}, "data.file_column: {csv} has no column 'name'  (it has: file, text)"),
        ([], {"separator": ";"}, "data.separator: {csv} has one column, 'file,text'; set data.separator=comma"),
        ([], {"transcripts": "no.csv"}, "data.transcripts: no.csv is not a file; it must name each WAV file"),
        ([], {"test_transcripts": "{path}/odd.csv"}, "data.characters: {path}/odd.csv line 2: the transcript has 'x'"),
        (
            [],
            {"test_transcripts": "{path}/none.csv"},
            "data.test_transcripts: {path}/none.csv has column names and no rows",
        ),
        ([], {"transcripts": "{path}/latin.csv"}, "data.transcripts: {path}/latin.csv is not text in UTF-8"),
    ],
)
def test_what_is_wrong_is_told_by_table_and_line(tmp_path, lines, settings, words):
    path = folder(tmp_path, lines=lines)
    (path / "text.wav").write_text("no sound at all")
    wavfile.write(path / "empty.wav", RATE_HZ, np.empty(0, dtype=np.int16))
    wavfile.write(path / "short.wav", RATE_HZ, FORMATS["16 bits"](sine(seconds=0.1)))
    (path / "odd.csv").write_text("file,text\ntr0.wav,x\n")
    (path / "none.csv").write_text("file,text\n")
    (path / "latin.csv").write_bytes("file,text\ntr0.wav,größe\n".encode("latin-1"))
    places = {"path": path, "csv": path / "transcripts.csv"}
    with pytest.raises(UserError) as error:
        data(path, **{k: v.format(**places) for k, v in settings.items()})
    assert words.format(**places) in str(error.value)


def test_a_character_that_only_a_held_out_clip_has_is_told(tmp_path):
    """Unless the alphabet is named: then the user knows."""
    path = folder(tmp_path, ["ab c"] * 10 + ["zz"])
    settings = {"test_fraction": 0.3, "val_fraction": 0.2}
    rows = {seed: data(path, **settings, characters=" abcz", seed=seed).rows for seed in range(6)}
    held_out = [seed for seed in rows if 10 not in rows[seed]["train"]]
    assert 0 < len(held_out) < 6
    assert data(path, **settings, seed=next(seed for seed in rows if seed not in held_out)).vocab_size == 6
    split = "test" if 10 in rows[held_out[0]]["test"] else "val"
    with pytest.raises(UserError) as error:
        data(path, **settings, seed=held_out[0])
    assert str(error.value).startswith(
        f"data.transcripts: {path}/transcripts.csv line 12, in the {split} split: it has 'z'"
    )


def test_numbers_that_are_not_finite_are_told(tmp_path):
    wavfile.write(tmp_path / "a.wav", RATE_HZ, np.array([0.0, np.nan, 0.5], dtype=np.float32))
    with pytest.raises(UserError, match=r"a\.wav has samples that are NaN or infinite"):
        read_wav(tmp_path / "a.wav", RATE_HZ)


def test_a_missing_folder_is_told(tmp_path):
    with pytest.raises(UserError, match="is not a folder"):
        data(tmp_path / "nowhere")
