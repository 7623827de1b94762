"""What results.json says of a run besides its numbers: the command, the code, the versions, what went wrong."""

import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from iolaus.errors import Pruned
from iolaus.runs import installed
from iolaus.signals import Stopped
from iolaus.terminal import RESULT

PACKAGES = ("iolaus", "torch", "pytorch-lightning", "torchmetrics", "hydra-core", "numpy")


def command(overrides: list[str]) -> str:
    """The command as the user wrote it; of a job that submitit runs, whose own words tell nothing, the one that runs it alone."""
    name, *words = sys.argv
    if Path(name).name == "_submit.py":
        name, words = os.environ.get("IOLAUS_SCRIPT", "train.py"), overrides
    is_ours = Path(name).name in ("iolaus", "__main__.py")
    return shlex.join([*(["iolaus"] if is_ours else ["python", name]), *_as_typed(words)])


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


def git() -> dict[str, Any] | None:
    """Commit of the code, and whether files differ from it; None outside a repository."""
    try:
        ask = lambda *a: subprocess.run(  # noqa: E731
            ["git", "-C", str(Path(__file__).parent), *a], capture_output=True, text=True, check=True, timeout=5
        ).stdout.strip()
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


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
