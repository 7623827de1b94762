"""What results.json says of a run besides its numbers: the command, the code, the versions, what went wrong."""

import functools
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from iolaus.commands import train_command
from iolaus.errors import Pruned
from iolaus.runs import Job, installed
from iolaus.signals import Stopped
from iolaus.terminal import RESULT

PACKAGES = ("iolaus", "torch", "pytorch-lightning", "torchmetrics", "hydra-core", "numpy")


def command(job: Job) -> str:
    """Return the command as the user typed it.

    A job of a sweep is started by words that nobody typed: its command is the one that runs it alone.
    """
    name, *words = sys.argv
    if Path(name).name in ("iolaus", "__main__.py"):
        return shlex.join(["iolaus", *words])
    by_submitit = Path(name).name == "_submit.py"
    if by_submitit or not words or "hydra.mode=RUN" in words:
        script = os.environ.get("IOLAUS_SCRIPT", "train.py") if by_submitit else name
        return train_command(script, job.flags, job.overrides)
    return train_command(name, [], list(_as_typed(words)))


def _as_typed(words: Sequence[str]) -> Iterator[str]:
    """The words as the user wrote them, where Hydra has other ones for them: of the run's folder, and of -q."""
    for word in words:
        if folder := re.fullmatch(r'hydra\.(?:run|sweep)\.dir="(.*)"', word):
            yield f"output_dir={folder[1]}"
        elif quiet := re.fullmatch(rf"hydra\.(job|hydra)_logging\.handlers\.console\.level={RESULT}", word):
            if quiet[1] == "job":  # one of the two that -q stands for
                yield "-q"
        else:
            yield word


def told(error: BaseException | None) -> str | None:
    """An error as a line of the results."""
    if isinstance(error, Stopped):
        return f"stopped by {error.signal.name}"
    if isinstance(error, Pruned):
        return str(error)
    return None if error is None else f"{type(error).__name__}: {error}"


def setting(settings: dict[str, Any], key: str, text: str) -> Any:
    """The value that an override set, as TensorBoard takes it: numbers as such, so that they are filtered and drawn by their size."""
    node: Any = settings
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node if isinstance(node, bool | int | float | str) else text


def git(leave_out: Path | None = None) -> dict[str, Any] | None:
    """Return the state of the repository of the working directory; None outside a repository.

    Args:
        leave_out: a folder whose files are no part of the code, the run's.

    Returns:
        `commit`, None before the first one; `dirty`, whether files that git knows differ from it; `untracked`, the number of files that
        git neither knows nor ignores, without `outputs` and the folder that is left out.
    """
    top = _ask_git(Path.cwd(), "rev-parse", "--show-toplevel")
    return None if top is None else _repository(Path(top), (Path.cwd() / "outputs", leave_out))


@functools.cache  # the code that runs is the one that was imported
def framework() -> dict[str, Any]:
    """Return our version and, where this package is a checkout of our repository, the state of that."""
    here = Path(__file__).resolve()
    top = _ask_git(here.parent, "rev-parse", "--show-toplevel")
    is_checkout = top is not None and _ask_git(here.parent, "ls-files", "--error-unmatch", here.name) is not None
    state = _repository(Path(top), ()) if top is not None and is_checkout else {"commit": None, "dirty": None}
    return {"name": "iolaus", "version": installed("iolaus"), "commit": state["commit"], "dirty": state["dirty"]}


def _repository(top: Path, leave_out: Iterable[Path | None]) -> dict[str, Any]:
    """Return the commit of a repository and how its files differ from it; None stands for what git does not tell in time."""
    places = [str(place.resolve().relative_to(top)) for place in leave_out if place and _is_inside(place, top)]
    without = [f":(exclude){place}" for place in places]
    changed = _ask_git(top, "status", "--porcelain", "--untracked-files=no")
    untracked = _ask_git(top, "ls-files", "-z", "--others", "--exclude-standard", "--", ".", *without)
    return {
        "commit": _ask_git(top, "rev-parse", "--verify", "HEAD"),
        "dirty": None if changed is None else bool(changed),
        "untracked": None if untracked is None else untracked.count("\0"),
    }


def _is_inside(place: Path, top: Path) -> bool:
    return place.resolve().is_relative_to(top) and place.resolve() != top


def _ask_git(folder: Path, *words: str) -> str | None:
    """Return what git answers; None where it refuses, is not there, or takes too long."""
    try:
        # without the lock that status takes to refresh the index: git killed meanwhile, as by a full disk's limit, would leave it behind
        command = ["git", "--no-optional-locks", "-C", str(folder), *words]
        asked = subprocess.run(command, capture_output=True, text=True, check=True, timeout=5)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return asked.stdout.strip("\n")


def versions() -> dict[str, str | None]:
    """Of Python and the packages that a result depends on."""
    return {"python": platform.python_version(), **{package: installed(package) for package in PACKAGES}}


def machine() -> dict[str, Any]:
    """What it ran on, as far as it shows."""
    gpus = (
        [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    return {
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpus,
    }


def _cpu() -> str:
    """The processor's name; its architecture where the system does not tell it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
