"""Kills, signals and damage in numbers: slow, run by `make test-all`; each prints its counts (-s shows them)."""

import json
import os
import random
import signal
import time

import pytest
import torch
from forked import Child, differences
from test_resume import CONFIGURATIONS, SMALL, own_noise  # noqa: F401

from iolaus.checkpoint import DamagedCheckpoint, read, verify, write

pytestmark = pytest.mark.slow
LONG = ("trainer.max_epochs=60", "callbacks.early_stopping.patience=60")  # so that most of a run's time is training
CONFIGURATION_NAMES = sorted(CONFIGURATIONS)


def resume_arguments(arguments):
    return ["resume=killed", *(a for a in arguments if a.startswith("allow="))]


def test_a_hundred_random_kills(tmp_path):
    """One to four SIGKILLs a run at random moments, over all configurations: every bit as if there had been none."""
    chance = random.Random(0)
    kills = trials = identical = 0
    whole = {}
    while kills < 100:
        name = CONFIGURATION_NAMES[trials % len(CONFIGURATION_NAMES)]
        arguments = [*SMALL, *CONFIGURATIONS[name], "callbacks.resume_points.every_n_steps=2", *LONG]
        place = tmp_path / str(trials)
        place.mkdir()
        (place / "own_noise.py").write_text((tmp_path / "own_noise.py").read_text())
        if name not in whole:
            start = time.monotonic()
            child = Child(place, *arguments, "output_dir=whole")
            assert child.wait() == 0, child.text
            whole[name] = place / "whole", time.monotonic() - start
        reference, seconds = whole[name]
        child = Child(place, *arguments, "output_dir=killed")
        for _ in range(chance.randint(1, 4)):
            time.sleep(chance.uniform(0.15, 0.9) * seconds)
            child.send(signal.SIGKILL)
            if child.wait() == 0:
                break
            kills += 1
            started = (place / "killed/config.yaml").exists()
            again = resume_arguments(arguments) if started else [*arguments, "output_dir=killed"]
            child = Child(place, *again)
        else:
            code = child.wait()
            assert code == 0 or "the run is complete" in child.text, child.text
        found = differences(reference, place / "killed")
        identical += not found
        trials += 1
        assert not found, (name, found)
    print(f"\n{kills} kills in {trials} runs of {len(whole)} configurations: {identical} identical")


def test_two_hundred_kills_inside_saves(tmp_path, monkeypatch):
    """With the temporary folder on another file system: what can be read afterwards is whole, and never older than one save."""
    monkeypatch.setenv("TMPDIR", "/dev/shm")
    chance = random.Random(1)
    states = {"weights": torch.randn(6_000_000)}
    target = tmp_path / "last.ckpt"
    destroyed = inside = 0
    for trial in range(200):
        write({"state_dict": {}, "pytorch-lightning_version": "2.6.6", "trial": trial, **states}, target)
        pid = os.fork()
        if pid == 0:
            write({"state_dict": {}, "pytorch-lightning_version": "2.6.6", "trial": trial + 1, **states}, target)
            os._exit(0)
        time.sleep(chance.uniform(0.0, 0.03))
        os.kill(pid, signal.SIGKILL)
        inside += os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0
        try:
            assert read(target)["trial"] in (trial, trial + 1)
        except DamagedCheckpoint:
            destroyed += 1
    left = [f.name for f in tmp_path.iterdir() if f.name not in ("last.ckpt", "last.ckpt.partial", "own_noise.py")]
    print(f"\n200 kills, {inside} inside the save: {destroyed} files destroyed, {len(left)} orphans")
    assert destroyed == 0
    assert left == []
    assert inside > 100


def test_a_thousand_flipped_bits_and_twenty_truncations(tmp_path):
    child = Child(tmp_path, *SMALL, "output_dir=run")
    assert child.wait() == 0, child.text
    file = tmp_path / "run/checkpoints/last.ckpt"
    good = file.read_bytes()
    chance = random.Random(2)
    found = 0
    for _ in range(1000):
        bad = bytearray(good)
        bad[chance.randrange(len(bad))] ^= 1 << chance.randrange(8)
        file.write_bytes(bad)
        try:
            verify(file)
        except DamagedCheckpoint:
            found += 1
    cut = 0
    for number in range(20):
        file.write_bytes(good[: len(good) * number // 20])
        try:
            verify(file)
        except DamagedCheckpoint:
            cut += 1
    print(f"\n1000 flipped bits: {found} found; 20 truncations: {cut} found")
    assert (found, cut) == (1000, 20)


def test_sixty_signals(tmp_path):
    """At random moments of the training: no step is lost, the exit code is the signal's, and the resumed run is bit for bit the same."""
    arguments = [*SMALL, "callbacks.resume_points.every_n_steps=null", "model.dropout=0.2", *LONG]
    start = time.monotonic()
    child = Child(tmp_path, *arguments, "output_dir=whole")
    assert child.wait() == 0, child.text
    seconds = time.monotonic() - start
    chance = random.Random(3)
    sent = lost = during = 0
    while sent < 60:
        place = tmp_path / str(sent)
        place.mkdir()
        child = Child(place, *arguments, "output_dir=killed")
        number = chance.choice([signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
        time.sleep(chance.uniform(0.15, 0.8) * seconds)
        child.send(number)
        code = child.wait()
        sent += 1
        if code == 0:
            continue
        if not (place / "killed/results.json").exists():  # before the run had begun, when nothing is there to be lost
            assert code in (-number, 128 + number)
            assert not (place / "killed/metrics.csv").exists()
            continue
        assert code == 128 + number, child.text
        results = json.loads((place / "killed/results.json").read_text())
        assert results["status"] == "interrupted"
        last = place / "killed/checkpoints/last.ckpt"
        if last.exists():
            during += 1
            lost += results["steps"] - read(last)["global_step"]
        child = Child(place, "resume=killed")
        assert child.wait() == 0, child.text
        assert differences(tmp_path / "whole", place / "killed") == []
    print(f"\n{sent} signals, {during} while training: {lost} optimizer steps lost")
    assert during > 20
    assert lost == 0
