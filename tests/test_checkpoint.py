"""Checkpoint files: whole or not there, checked bit for bit, tensors only."""

import errno
import os
import pickle
import random
import threading
import zipfile

import pytest
import torch

from iolaus import checkpoint as files
from iolaus.checkpoint import CheckpointFiles, DamagedCheckpoint, read, verify, write
from iolaus.errors import UserError

CONTENT = {"state_dict": {"w": torch.arange(1000.0)}, "pytorch-lightning_version": "2.6.6"}


def test_torch_reads_what_we_write(tmp_path):
    write(CONTENT, tmp_path / "a.ckpt")
    assert torch.equal(
        torch.load(tmp_path / "a.ckpt", weights_only=True)["state_dict"]["w"], CONTENT["state_dict"]["w"]
    )
    assert torch.equal(read(tmp_path / "a.ckpt")["state_dict"]["w"], CONTENT["state_dict"]["w"])
    assert [f.name for f in tmp_path.iterdir()] == ["a.ckpt"]


def test_flipped_bits_and_cut_ends_are_found(tmp_path):
    file = tmp_path / "a.ckpt"
    write(CONTENT, file)
    good = file.read_bytes()
    chance = random.Random(0)
    for _ in range(100):
        bad = bytearray(good)
        bad[chance.randrange(len(bad))] ^= 1 << chance.randrange(8)
        file.write_bytes(bad)
        with pytest.raises(DamagedCheckpoint):
            verify(file)
    for size in (0, 1, 20, 100, len(good) // 2, len(good) - 1):
        file.write_bytes(good[:size])
        with pytest.raises(DamagedCheckpoint, match=r"a\.ckpt"):
            read(file)
    file.write_bytes(good)
    verify(file)


def test_torch_alone_would_not_see_a_flipped_weight(tmp_path):
    """Why the file has a checksum of its own."""
    file = tmp_path / "a.ckpt"
    write(CONTENT, file)
    bad = bytearray(file.read_bytes())
    place = bad.index(CONTENT["state_dict"]["w"].numpy().tobytes())
    bad[place + 40] ^= 1
    file.write_bytes(bad)
    assert not torch.equal(torch.load(file, weights_only=True)["state_dict"]["w"], CONTENT["state_dict"]["w"])
    with pytest.raises(DamagedCheckpoint):
        read(file)


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("[enforce fail] . unexpected pos 5 vs 1")]
)
def test_a_full_disk_leaves_the_earlier_file(tmp_path, monkeypatch, error):
    write(CONTENT, tmp_path / "a.ckpt")
    before = (tmp_path / "a.ckpt").read_bytes()

    def full(content, file):
        file.write(b"the beginning")
        raise error

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match="the disk is full; the checkpoint before it is intact"):
        write({**CONTENT, "more": 1}, tmp_path / "a.ckpt")
    assert (tmp_path / "a.ckpt").read_bytes() == before
    assert [f.name for f in tmp_path.iterdir()] == ["a.ckpt"]


@pytest.mark.skipif(not os.access("/dev/full", os.W_OK), reason="there is no /dev/full")
def test_a_disk_that_is_really_full(tmp_path, monkeypatch):
    """The device that is always full stands where the file would be written."""
    (tmp_path / "a.ckpt.partial").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"a\.ckpt: the disk is full"):
        write({**CONTENT, "much": torch.zeros(10**6)}, tmp_path / "a.ckpt")


def test_a_save_in_the_background_is_of_the_moment_it_was_asked_for(tmp_path, monkeypatch):
    started, go_on = threading.Event(), threading.Event()
    true_write = files.write

    def slow(*arguments):
        started.set()
        go_on.wait(10)
        true_write(*arguments)

    monkeypatch.setattr(files, "write", slow)
    weights = torch.zeros(5)
    saver = CheckpointFiles(background=True)
    saver.save_checkpoint({**CONTENT, "state_dict": {"w": weights}}, tmp_path / "a.ckpt")
    assert started.wait(10)
    weights += 1  # training goes on while the file is written
    assert not (tmp_path / "a.ckpt").exists()
    go_on.set()
    assert torch.equal(saver.load_checkpoint(tmp_path / "a.ckpt")["state_dict"]["w"], torch.zeros(5))


def test_an_error_in_the_background_is_told(tmp_path):
    (tmp_path / "folder").write_text("a file where the folder should be")
    saver = CheckpointFiles(background=True)
    saver.save_checkpoint(CONTENT, tmp_path / "folder/a.ckpt")
    with pytest.raises(UserError, match="cannot be written"):
        saver.teardown()


def sealed(file):
    """Give a file that an attacker made the checksum that a checkpoint has."""
    with file.open("r+b") as handle:
        files._seal(handle)
    return file


class Payload:
    def __init__(self, flag):
        self.flag = flag

    def __reduce__(self):
        return os.system, (f"touch {self.flag}",)


@pytest.mark.parametrize("forced", [False, True])
def test_a_pickle_payload_is_not_run(tmp_path, monkeypatch, forced):
    if forced:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save({**CONTENT, "x": Payload(tmp_path / "ran")}, tmp_path / "a.ckpt")
    with pytest.raises(DamagedCheckpoint, match="not a checkpoint"):
        read(sealed(tmp_path / "a.ckpt"))
    (tmp_path / "b.ckpt").write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
    with pytest.raises(DamagedCheckpoint):
        read(tmp_path / "b.ckpt")
    assert not (tmp_path / "ran").exists()


def test_an_archive_that_unpacks_to_more_than_it_is(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.ckpt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"0" * 10_000_000)
    with pytest.raises(DamagedCheckpoint, match="compressed"):
        read(sealed(tmp_path / "a.ckpt"))


@pytest.mark.parametrize("content", [{"w": torch.zeros(3)}, [1, 2], {"state_dict": {}}])
def test_a_file_of_torch_that_is_no_checkpoint(tmp_path, content):
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(DamagedCheckpoint, match="no state_dict"):
        read(sealed(tmp_path / "a.ckpt"))
