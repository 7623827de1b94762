"""Text as windows of bytes: nothing lost, nothing twice, files of any encoding, wrong ones told by line."""

import pytest
import torch

from iolaus.data.stdlib import Stdlib
from iolaus.data.text_file import TextFile, Windows
from iolaus.errors import UserError

FACTS = {"input_kind": "tokens", "target_kind": "tokens", "vocab_size": 256, "standardize": False}


def text_file(path, window=8, **more):
    data = TextFile(str(path), **({**FACTS, "input_shape": [window], "val_fraction": 0.1, "test_fraction": 0.1} | more))
    data.setup()
    return data


def test_windows_hold_each_byte_once_and_what_follows_it():
    stream = torch.arange(50, dtype=torch.uint8)
    windows = Windows(stream, 7)
    tokens, following = windows.take(torch.arange(len(windows)))
    assert len(windows) == 7
    assert tokens.flatten().tolist() == list(range(49))
    assert torch.equal(following, tokens + 1)
    assert torch.equal(windows[3][0], torch.arange(21, 28))
    assert windows.parts()[0].dtype == torch.uint8


def test_splits_are_parts_of_the_text_in_its_order(tmp_path):
    text = "".join(f"{i:07d}," for i in range(300))
    (tmp_path / "text.txt").write_text(text)
    data = text_file(tmp_path / "text.txt")
    parts = []
    for split in ("train", "val", "test"):
        tokens, following = data.datasets[split].take(data.rows[split])
        parts.append(data.decode(tokens.flatten().tolist()))
        assert (
            data.decode(following.flatten().tolist())
            == text[len("".join(parts)) - len(parts[-1]) + 1 :][: len(parts[-1])]
        )
    assert text.startswith("".join(parts))
    assert len("".join(parts)) >= len(text) - 8
    assert len(parts[1]) == len(parts[2]) == pytest.approx(0.1 * len(text), abs=8)


def test_a_file_is_mapped_and_not_copied(tmp_path):
    (tmp_path / "text.txt").write_bytes(b"abcdefgh" * 100)
    data = text_file(tmp_path / "text.txt")
    (tmp_path / "text.txt").write_bytes(b"ABCDEFGH" * 100)  # the mapping sees it: nothing was read before
    assert data.decode(data.datasets["train"].take(torch.tensor([0]))[0][0].tolist()) == "ABCDEFGH"


def test_other_encodings_become_utf_8(tmp_path):
    (tmp_path / "text.txt").write_bytes("é, così, über. ".encode("latin-1") * 40)
    data = text_file(tmp_path / "text.txt", encoding="latin-1")
    tokens, _ = data.datasets["train"].take(torch.tensor([0, 1]))
    assert data.decode(tokens.flatten().tolist()).startswith("é, così, über")


@pytest.mark.parametrize(
    ("content", "settings", "words"),
    [
        (b"one line\nand \xff another\n" * 9, {}, ["data.encoding", "line 2", "latin-1"]),
        (b"", {}, ["data.path", "has 0 bytes", "windows"]),
        (b"short text", {}, ["data.path", "fewer than three windows of data.input_shape=[8]"]),
        (b"some text " * 50, {"encoding": "utf-9"}, ["data.encoding", "no encoding 'utf-9'"]),
        (
            b"some text " * 50,
            {"val_fraction": 0.7, "test_fraction": 0.2, "window": 128},
            ["nothing is left to train on"],
        ),
    ],
)
def test_wrong_files(tmp_path, content, settings, words):
    (tmp_path / "text.txt").write_bytes(content)
    with pytest.raises(UserError) as told:
        text_file(tmp_path / "text.txt", **settings)
    assert all(word in str(told.value) for word in words), told.value


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(UserError, match="is not a file"):
        text_file(tmp_path)


def test_the_standard_library_in_splits_of_whole_files():
    data = [
        Stdlib(size, **FACTS, input_shape=[64], val_fraction=0.05, test_fraction=0.05) for size in (200_000, 200_000)
    ]
    for one in data:
        one.setup()
    streams = {split: bytes(dataset.stream.numpy()) for split, dataset in data[0].datasets.items()}
    assert sum(map(len, streams.values())) >= 200_000
    assert all(len(streams[split]) >= 0.05 * 200_000 for split in ("val", "test"))
    assert data[0].fingerprint() == data[1].fingerprint()
    assert b"import" in streams["train"]
