"""One process a device, started and watched: when one of them ends, all end, and one message says why."""

import contextlib
import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from omegaconf import DictConfig

from iolaus import ranks, slurm
from iolaus.errors import UserError
from iolaus.runs import note_results, read_results, resume_command
from iolaus.sweep import jobs
from iolaus.terminal import RESULT

log = logging.getLogger("iolaus")

TICK_S = 0.1
GRACE_S = 10.0  # for the others, once one has failed
PR_SET_PDEATHSIG = 1


def devices(config: DictConfig) -> int:
    """How many devices of this machine the settings ask for.

    Raises:
        UserError: for more than there are.
    """
    asked, accelerator = config.trainer.devices, config.trainer.accelerator
    on_cpu = accelerator == "cpu" or not (gpus := _gpus())
    if isinstance(asked, int) and asked > 0:
        number = asked
    elif asked in ("auto", -1, "-1"):
        number = 1 if on_cpu else gpus
    else:
        listed = asked.split(",") if isinstance(asked, str) else list(asked)
        number = len([name for name in listed if str(name).strip()])
    if not on_cpu and number > gpus:
        raise UserError(
            f"trainer.devices: {number} are asked for, and this machine has {gpus} GPUs; trainer.accelerator=cpu uses none"
        )
    if on_cpu and number > 4 * (os.cpu_count() or 1):
        raise UserError(
            f"trainer.devices: {number} processes are asked for, and this machine has {os.cpu_count()} processors"
        )
    return number


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def is_due(config: DictConfig) -> bool:
    """Whether this process is to start those that train: several devices are asked for, and nothing has started them yet."""
    if ranks.place().launcher or os.environ.get(ranks.SUPERVISED):
        return False
    several = config.trainer.devices not in (1, "1") or config.trainer.num_nodes not in (1, "auto")
    return several and (devices(config) > 1 or nodes(config) > 1)


def nodes(config: DictConfig) -> int:
    """How many machines the settings ask for."""
    return 1 if config.trainer.num_nodes == "auto" else int(config.trainer.num_nodes)


def supervise(config: DictConfig, words: Sequence[str], overrides: Sequence[str]) -> float | None:
    """Start a process for each device of this machine, each with the command that this one was started with, and watch them.

    A signal is passed on to them; where one fails or is killed, the others end within ten seconds.

    Args:
        config: checked.
        words: to add to the command: the run's folder.
        overrides: of the job; they are the command where submitit has started this process, whose own words tell nothing.

    Returns:
        the objective's best value.

    Raises:
        UserError: for a process that was killed, with how to go on.
        SystemExit: with the code of those that ended otherwise than well; they have told why.
    """
    command = [*_command(config, words, overrides), *words]
    processes = [
        subprocess.Popen(command, env=os.environ | more, preexec_fn=_die_with_parent, stdin=subprocess.DEVNULL)
        for more in _environments(config)
    ]
    with _passed_on(processes) as received:
        first = _watch(processes)
    folder = Path(config.output_dir)
    results = read_results(folder)
    if first is None:
        return (results.get("objective") or {}).get("value")
    code = processes[first].returncode
    if received:
        sys.exit(128 + received[0])
    if code < 0:
        told = f"process {first} of {len(processes)} was killed by signal {-code}" + (
            " (out of memory?)" if code == -9 else ""
        )
        if results.get("status") != "failed":
            note_results(folder, {"status": "interrupted", "error": told})
        raise UserError(f"{told}; to go on with the run: {resume_command(folder)}")
    sys.exit(code)


def _watch(processes: list[subprocess.Popen]) -> int | None:
    """Wait until all have ended; the number of the first that failed, after which the others have little time."""
    first: int | None = None
    since = 0.0
    while any(process.poll() is None for process in processes):
        failed = [number for number, process in enumerate(processes) if process.returncode]
        if failed and first is None:
            first, since = min(failed, key=lambda number: processes[number].returncode), time.monotonic()
        if first is not None and time.monotonic() - since > GRACE_S:
            for process in processes:
                process.kill()
        time.sleep(TICK_S)
    codes = [process.returncode for process in processes]
    # one that was killed is the cause, where others have only lost it
    return (
        first
        if first is not None
        else next((number for number, code in sorted(enumerate(codes), key=lambda c: c[1]) if code), None)
    )


@contextlib.contextmanager
def _passed_on(processes: list[subprocess.Popen]) -> Iterator[list[int]]:
    """Pass signals on to the processes; the list of those that came. Ctrl-C on a terminal reaches them by itself."""
    received: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(number)
        if number == signal.SIGINT and sys.stdin is not None and sys.stdin.isatty() and len(received) < 3:
            return
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _command(config: DictConfig, added: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """The command that this process was started with, without a folder; one that goes on adds no folder to it."""
    script, *words = sys.argv
    if slurm.by_submitit():
        words = list(overrides) if added else [f"resume={config.output_dir}"]
        return [sys.executable, os.environ.get("IOLAUS_SCRIPT", "train.py"), *words]
    if Path(script).name == "__main__.py":
        return [sys.executable, "-m", "iolaus", *words]
    quiet = ["-q"] if f"hydra.job_logging.handlers.console.level={RESULT}" in words else []  # what -q became
    words = [word for word in jobs.typed or words if not word.startswith("output_dir=")]
    return [sys.executable, script, *quiet, *words]


def _environments(config: DictConfig) -> list[dict[str, str]]:
    """What torchrun would set for each process of this machine.

    Raises:
        UserError: for several machines without what they need to find one another.
    """
    number, machines = devices(config), nodes(config)
    names = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK")
    if machines > 1 and (missing := [name for name in names if name not in os.environ]):
        raise UserError(
            f"trainer.num_nodes: {machines} machines, and {missing[0]} is not set; start by torchrun or srun, or set "
            f"{', '.join(names)} on each"
        )
    node = os.environ["NODE_RANK"] if machines > 1 else "0"
    if not node.isdigit() or int(node) >= machines:
        raise UserError(
            f"NODE_RANK: must be from 0 to {machines - 1} with trainer.num_nodes={machines}; received {node}"
        )
    shared = {
        "GROUP_RANK": node,
        "WORLD_SIZE": machines * number,
        "LOCAL_WORLD_SIZE": number,
        "TORCHELASTIC_RUN_ID": "iolaus",  # by which Lightning knows that the processes were started for it
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", max((os.cpu_count() or 1) // number, 1)),
        ranks.SUPERVISED: 1,
    }
    if machines == 1:
        shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": ranks.free_port()}
    each = [shared | {"RANK": int(node) * number + local, "LOCAL_RANK": local} for local in range(number)]
    return [{key: str(value) for key, value in one.items()} for one in each]


def _die_with_parent() -> None:
    """In a new process, on Linux: be asked to stop when the one that watches it is killed."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
