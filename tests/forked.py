"""Runs of train.py in processes that can be killed: forked from this one, which has imported torch already."""

import faulthandler
import os
import pickle
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot
import pandas
import sklearn.datasets
import torch
import train as train_module
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from iolaus.checkpoint import read
from iolaus.launch import launch
from iolaus.task.base import Task

IMPORTED = (matplotlib.pyplot, pandas, sklearn.datasets)  # here, so that no child has to


class Child:
    """`python train.py *arguments` in a process of its own, in a folder, its output in a file."""

    def __init__(self, place: Path, *arguments: str, before: Callable[[], None] = lambda: None):
        self.log = place / "terminal.txt"
        self.code: int | None = None
        self.started = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            self._run(place, arguments, before)

    def _run(self, place: Path, arguments: tuple[str, ...], before: Callable[[], None]) -> None:
        code = 1
        try:
            os.chdir(place)
            out = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(out, 1)
            os.dup2(out, 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w", 1), os.fdopen(2, "w", 1)
            faulthandler.disable()
            faulthandler.enable(file=2)  # SIGABRT tells where each thread is
            sys.argv = ["train.py", *arguments]
            os.environ.pop("HYDRA_FULL_ERROR", None)
            before()
            launch(train_module.main)
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:
            sys.stdout.flush()
            os._exit(code)

    def send(self, number: int) -> None:
        """Send a signal; nothing when the process has ended."""
        if self._code() is None:
            os.kill(self.pid, number)

    def wait(self, seconds: float = 120.0, others: Sequence["Child"] = ()) -> int:
        """The exit code; minus the signal's number when one killed it.

        Raises:
            AssertionError: where it has not ended in time, with where it and the others were.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if (code := self._code()) is not None:
                return code
            time.sleep(0.005)
        for child in (self, *others):
            child.send(signal.SIGABRT)
            child._code(0)
        raise AssertionError(f"{self.log.read_text()}\nno end after {seconds} s")

    def _code(self, options: int = os.WNOHANG) -> int | None:
        """The exit code; None while it runs."""
        if self.code is None and (found := os.waitpid(self.pid, options))[0]:
            self.code = os.waitstatus_to_exitcode(found[1])
        return self.code

    @property
    def text(self) -> str:
        return self.log.read_text()


def apart(function: Callable[[], Any]) -> Any:
    """What a function returns in a process of its own: a backward pass without values starts threads, after which no fork can train."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            done = True, function()
        except BaseException:
            done = False, traceback.format_exc()
        with os.fdopen(write, "wb") as file:
            pickle.dump(done, file)
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        is_good, result = pickle.load(file)
    os.waitpid(pid, 0)
    assert is_good, result
    return result


def memory_of(function: Callable[[], Any]) -> tuple[Any, int]:
    """What a function returns in a process of its own, and the bytes that it took at most above what was there before."""

    def resident() -> int:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])

    def peak() -> tuple[Any, int]:
        Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is used
        before = resident()
        return function(), resident() - before

    return apart(peak)


def finished(place: Path, *arguments: str) -> Path:
    """The folder of a run that was made for several tests, each of which takes a copy."""
    child = Child(place, *arguments, "output_dir=run")
    assert child.wait() == 0, child.text
    return place / "run"


def kill_at_step(number: int) -> Callable[[], None]:
    """For `before`: SIGKILL inside the training step of this number, counted from 0 in this process."""

    def arm() -> None:
        step, calls = Task.training_step, [0]

        def deadly(self: Task, *arguments: Any) -> Any:
            if calls[0] == number:
                os.kill(os.getpid(), signal.SIGKILL)
            calls[0] += 1
            return step(self, *arguments)

        Task.training_step = deadly  # type: ignore[method-assign]

    return arm


def differences(one: Path, other: Path) -> list[str]:
    """In what two runs' folders differ: every value of every checkpoint, metrics.csv, values.csv, TensorBoard's scalars."""
    found = []
    names = [{f.name for f in (run / "checkpoints").glob("*.ckpt")} - {"previous.ckpt"} for run in (one, other)]
    if names[0] != names[1]:
        found.append(f"checkpoints: {sorted(names[0] ^ names[1])} in one only")
    for name in sorted(names[0] & names[1]):
        contents = [content(run / "checkpoints" / name) for run in (one, other)]
        found += _differ(contents[0], contents[1], name, (str(one), str(other)))
    for name in ("metrics.csv", "values.csv"):
        texts = [(run / name).read_bytes() if (run / name).exists() else b"" for run in (one, other)]
        if texts[0] != texts[1]:
            found.append(name)
    if scalars(one) != scalars(other):
        found.append("TensorBoard's scalars")
    return found


def content(checkpoint: Path) -> dict[str, Any]:
    """Of a checkpoint as torch reads it; of one in parts as we do."""
    return read(checkpoint) if checkpoint.is_dir() else torch.load(checkpoint, weights_only=True)


def scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    """All scalars in TensorBoard's files, by tag."""
    events = EventAccumulator(str(run), size_guidance={"scalars": 0}, purge_orphaned_data=False).Reload()
    return {tag: sorted((e.step, e.value) for e in events.Scalars(tag)) for tag in events.Tags()["scalars"]}


APART = {
    "seconds",
    "folder",
    "loggers",
    "machine",
}  # what may differ: times, places, and sizes of files with times in them


def _differ(a: Any, b: Any, path: str, folders: tuple[str, str]) -> list[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        b = {str(k).replace(folders[1], folders[0]): v for k, v in b.items()}
        a = {str(k): v for k, v in a.items()}
        missing = [f"{path}.{key} in one only" for key in a.keys() ^ b.keys()]
        shared = [key for key in a if key in b and key not in APART]
        return missing + [d for key in shared for d in _differ(a[key], b[key], f"{path}.{key}", folders)]
    if isinstance(a, list | tuple) and len(a) == len(b):
        return [d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in _differ(x, y, f"{path}.{i}", folders)]
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        same = (
            a.shape == b.shape
            and a.dtype == b.dtype
            and torch.equal(a.view(-1).view(torch.uint8), b.view(-1).view(torch.uint8))
            if a.numel()
            else True
        )
        return [] if same else [f"{path}: tensors"]
    if isinstance(b, str):
        b = b.replace(folders[1], folders[0])
    return [] if a == b or (a != a and b != b) else [f"{path}: {a!r:.60} and {b!r:.60}"]


def copy_of(run: Path, to: Path) -> Path:
    """A copy of a run's folder."""
    shutil.copytree(run, to)
    return to
