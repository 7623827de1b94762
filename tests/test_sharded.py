"""Checkpoints of which each process writes its part: whole or not there, read by torch's own tools and by every command."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from forked import Child, copy_of, differences, kill_at_step
from test_training_together import alone, assert_alike, curve, ended, group, together
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from iolaus import checkpoint, files, sharded
from iolaus.errors import DamagedCheckpoint

WORDS = ("data=wine", "model.hidden_dims=[32,16]", "logger=[]", "data.batch_size=8")
PARTS = ("trainer=fsdp", "trainer.strategy.sharded_checkpoints=true")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Trained by two processes, of which each wrote its part."""
    return together(tmp_path_factory.mktemp("parts"), 2, *WORDS, *PARTS, "trainer.max_epochs=1", "stages=[fit]")


def test_what_was_written_is_what_torch_reads(run, tmp_path):
    last = run / "checkpoints" / "last.ckpt"
    assert {file.name for file in last.iterdir()} == {
        ".metadata",
        "__0_0.distcp",
        "__1_0.distcp",
        "meta.pt",
        "index.json",
    }
    dcp_to_torch_save(last, tmp_path / "whole.pt")
    theirs = torch.load(tmp_path / "whole.pt", weights_only=True)
    ours = checkpoint.read(last)
    weights = {name.partition("/")[2]: value for name, value in theirs.items() if name.startswith("state_dict/")}
    assert {"model.layers.1.weight", "model.layers.5.bias"} <= weights.keys()
    for name, value in weights.items():
        assert torch.equal(ours["state_dict"][name], value)
    sizes = {number: part["exp_avg"].shape for number, part in ours["optimizer_states"][0]["state"].items()}
    assert list(sizes.values()) == [value.shape for value in weights.values()]
    moments = theirs["optimizer_states/0/state/model.layers.1.weight/exp_avg_sq"]
    assert torch.equal(ours["optimizer_states"][0]["state"][0]["exp_avg_sq"], moments)


@pytest.mark.parametrize("name", [".metadata", "__1_0.distcp", "meta.pt", "index.json"])
@pytest.mark.parametrize("harm", ["a flipped bit", "cut off", "missing"])
def test_damage_to_any_file_is_noticed(run, tmp_path, name, harm):
    folder = copy_of(run / "checkpoints", tmp_path / "checkpoints") / "last.ckpt"
    file = folder / name
    content = bytearray(file.read_bytes())
    if harm == "missing":
        file.unlink()
    else:
        content[len(content) // 2] ^= 4
        file.write_bytes(content if harm == "a flipped bit" else content[:-3])
    with pytest.raises(DamagedCheckpoint):
        checkpoint.read(folder)


class Payload:
    def __reduce__(self):
        return os.mkdir, ("harmed",)


@pytest.mark.parametrize("name", [".metadata", "meta.pt"])
def test_nothing_in_it_is_executed(run, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    folder = copy_of(run / "checkpoints" / "last.ckpt", tmp_path / "last.ckpt")
    if name == ".metadata":
        (folder / name).write_bytes(pickle.dumps(Payload()))
    else:
        torch.save({"state_dict": {}, "pytorch-lightning_version": Payload()}, folder / name)
    index = json.loads((folder / "index.json").read_text())
    index["crc32"][name] = sharded._crc(folder / name)
    (folder / "index.json").write_text(json.dumps(index))
    sharded.verify(folder)  # a stranger knows how to write checksums
    with pytest.raises(DamagedCheckpoint):
        checkpoint.read(folder)
    assert not Path("harmed").exists()


def test_a_folder_or_a_file_takes_the_place_of_either(tmp_path):
    def made(name: str, is_folder: bool, word: str) -> Path:
        path = tmp_path / name
        if is_folder:
            path.mkdir()
        (path / "x" if is_folder else path).write_text(word)
        return path

    for old in (True, False):
        for new in (True, False):
            target = made(f"{old}{new}", old, "old")
            files.replace(made("new", new, "new"), target)
            assert (target / "x" if new else target).read_text() == "new"
    assert len(list(tmp_path.iterdir())) == 4


def test_a_kill_between_the_renames_loses_nothing(tmp_path):
    (tmp_path / "best.ckpt.old").mkdir()
    (tmp_path / "last.ckpt.old").mkdir()
    (tmp_path / "last.ckpt").mkdir()
    (tmp_path / "last.ckpt.partial").mkdir()
    files.tidy(tmp_path, "*.ckpt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.ckpt", "last.ckpt"]


EVERY = "callbacks.resume_points.every_n_steps=3"
LONGER = (*WORDS, *PARTS, "trainer.max_epochs=3", EVERY)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return together(tmp_path_factory.mktemp("whole"), 2, *LONGER)


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("killed")
    children = group(place, 2, *LONGER, "output_dir=run", more={1: kill_at_step(13)})
    assert ended(children) == [1, -signal.SIGKILL], children[0].text
    return place / "run"


@pytest.mark.slow
def test_the_same_run_as_with_one_file(whole, tmp_path):
    words = [word for word in LONGER if "sharded" not in word]
    one_file = together(tmp_path / "file", 2, *words)
    assert (one_file / "checkpoints" / "last.ckpt").is_file()
    assert differences(one_file, whole) == []


@pytest.mark.slow
@pytest.mark.parametrize("damaged", [False, True])
def test_a_killed_run_goes_on_with_the_same_bits(whole, killed, tmp_path, damaged):
    run = copy_of(killed, tmp_path / "run")
    if damaged:
        with (run / "checkpoints" / "last.ckpt" / "__1_0.distcp").open("r+b") as file:
            file.truncate(1000)
    again = group(tmp_path, 2, "resume=run")
    assert ended(again) == [0, 0], again[0].text
    assert ("taking the resume point before it" in again[0].text) == damaged
    assert differences(whole, run) == []


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 4])
def test_it_goes_on_with_another_number_of_processes(whole, killed, tmp_path, world):
    run = copy_of(killed, tmp_path / "run")
    if world == 1:
        more = ["trainer.devices=1", "trainer.num_nodes=1"]
        child = Child(tmp_path, "resume=run", *more)
        assert child.wait() == 0, child.text
        assert (run / "checkpoints" / "last.ckpt").is_file()
    else:
        again = group(tmp_path, world, "resume=run", f"trainer.devices={world}")
        assert ended(again) == [0] * world, again[0].text
    assert_alike(whole, run, 1e-5, of_losses=1e-5)


@pytest.mark.slow
def test_a_run_goes_from_one_file_to_parts_and_back(tmp_path):
    words = [*WORDS, "trainer=fsdp", EVERY]
    whole = together(tmp_path / "whole", 2, *words, "trainer.max_epochs=3")
    run = together(tmp_path / "run", 2, *words, "trainer.max_epochs=1")
    for epochs, parts in ((2, "true"), (3, "false")):
        more = [f"trainer.max_epochs={epochs}", f"trainer.strategy.sharded_checkpoints={parts}"]
        again = group(tmp_path / "run", 2, "resume=run", *more)
        assert ended(again) == [0, 0], again[0].text
        assert (run / "checkpoints" / "last.ckpt").is_dir() == (parts == "true")
        assert (run / "checkpoints" / "best.ckpt").is_dir() == (parts == "true")
    assert curve(run) == curve(whole)


@pytest.mark.slow
def test_a_full_disk_is_told_once_and_leaves_the_checkpoint_before(tmp_path):
    def full() -> None:
        import errno
        from itertools import chain, repeat
        from unittest.mock import DEFAULT, Mock

        error = OSError(errno.ENOSPC, "No space left on device")
        sharded._flush = Mock(wraps=sharded._flush, side_effect=chain([DEFAULT] * 4, repeat(error)))

    children = group(tmp_path, 2, *LONGER, "output_dir=run", more={0: full})
    codes = ended(children)
    assert codes == [1, 1], children[0].text
    assert children[0].text.count("the disk is full") == 1
    assert "Traceback" not in children[0].text
    sharded.verify(tmp_path / "run" / "checkpoints" / "last.ckpt")


@pytest.mark.slow
def test_commands_read_it_like_a_file(whole, tmp_path):
    file = tmp_path / "file"
    shutil.copytree(whole, file)
    for folder in sorted((file / "checkpoints").iterdir()):
        content = checkpoint.read(folder)
        shutil.rmtree(folder)
        checkpoint.write(content, folder)
    told = []
    for run in (whole, file):
        output = tmp_path / f"{run.name}.safetensors"
        words = ["test", str(run)], ["export", str(run), "--format", "safetensors", "--output", output]
        for word in words:
            command = [sys.executable, "-m", "iolaus", *word]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
            assert done.returncode == 0, done.stdout + done.stderr
        told.append(json.loads((run / "results.json").read_text())["metrics"]["test"])
    from safetensors.torch import load_file

    weights = [load_file(tmp_path / f"{run.name}.safetensors") for run in (whole, file)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert told[0] == told[1]


@pytest.mark.slow
def test_first_weights_are_taken_from_it(whole, tmp_path):
    source = whole / "checkpoints" / "best.ckpt"
    run = alone(tmp_path, *WORDS, f"init_from={source}", "trainer.max_epochs=1", "optim=sgd", "optim.lr=1e-12")
    saved = checkpoint.read(source)["state_dict"]["model.layers.1.weight"]
    kept = checkpoint.read(run / "checkpoints" / "best.ckpt")["state_dict"]["model.layers.1.weight"]
    torch.testing.assert_close(kept, saved)
