"""Each job of a sweep in a process of its own: what one does to itself, or has done to it, is one job that failed."""

import contextlib
import json
import logging
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any, Protocol

from iolaus.errors import ConfigError
from iolaus.strict_json import to_json
from iolaus.sweep.jobs import DONE, LOG, Job, each

log = logging.getLogger("iolaus")

TICK_S = 0.1
PATIENCE_S = 30.0  # for jobs that were asked to stop, before they are killed


class Starter(Protocol):
    """How a process of a job is started, and its end is heard of."""

    def start(self, job: Job, words: list[str], environment: dict[str, str], threads: int | None) -> None:
        """Run python with these words, its output in the job's log."""

    def ended(self, wait_s: float) -> list[tuple[int, int]]:
        """Numbers and exit codes of jobs that have ended; waits so long where none has."""
        ...

    def signal(self, number: int, to: int | None = None) -> None:
        """Send a signal to one job, or to all."""

    def close(self) -> None:
        """End whatever starts processes."""


class Forked:
    """Processes forked from one that imports everything meanwhile; see `iolaus.sweep.server`."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "iolaus.sweep.server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the sweep, which passes it on
        )
        assert self._server.stdout is not None
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._server.stdout, selectors.EVENT_READ)
        self._pending = b""
        self._running: set[int] = set()
        self._started = False

    def start(self, job: Job, words: list[str], environment: dict[str, str], threads: int | None) -> None:
        self._started = True
        request = {"start": job.number, "words": words, "log": str(job.folder / LOG)}
        self._running.add(job.number)
        self._send(request | {"environment": environment, "threads": threads})

    def ended(self, wait_s: float) -> list[tuple[int, int]]:
        if not self._selector.select(wait_s):
            return []
        assert self._server.stdout is not None
        data = os.read(self._server.stdout.fileno(), 65_536)
        if not data:  # the server itself was killed, and its jobs with it, or they are out of reach
            found, self._running = [(number, -signal.SIGKILL) for number in self._running], set()
            return found
        *lines, self._pending = (self._pending + data).split(b"\n")
        found = [(answer["ended"], answer["code"]) for answer in map(json.loads, lines)]
        self._running -= {number for number, _ in found}
        return found

    def signal(self, number: int, to: int | None = None) -> None:
        self._send({"signal": int(number), "to": to})

    def close(self) -> None:
        assert self._server.stdin is not None
        if not self._started:  # nothing to end, but an import to wait for
            self._server.kill()
        with contextlib.suppress(OSError):
            self._server.stdin.close()
        self._server.wait()

    def _send(self, request: dict[str, Any]) -> None:
        assert self._server.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `ended` tells
            self._server.stdin.write(to_json(request).encode() + b"\n")
            self._server.stdin.flush()


class Fresh:
    """Processes that begin with nothing, as a command on the terminal does."""

    def __init__(self) -> None:
        self._running: dict[int, subprocess.Popen] = {}

    def start(self, job: Job, words: list[str], environment: dict[str, str], threads: int | None) -> None:
        more = {"OMP_NUM_THREADS": str(threads)} if threads else {}
        with (job.folder / LOG).open("ab") as out:
            self._running[job.number] = subprocess.Popen(
                [sys.executable, *words],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=os.environ | more | environment,
                start_new_session=True,
            )

    def ended(self, wait_s: float) -> list[tuple[int, int]]:
        found = [(n, p.returncode) for n, p in self._running.items() if p.poll() is not None]
        for number, _ in found:
            del self._running[number]
        if not found:
            time.sleep(wait_s)
        return found

    def signal(self, number: int, to: int | None = None) -> None:
        for process in [self._running[to]] if to is not None else list(self._running.values()):
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)

    def close(self) -> None:
        self.signal(signal.SIGTERM)
        for process in self._running.values():
            process.wait()


def faults(n_jobs: Any = None, threads: Any = None, gpus_per_job: Any = None, **_: Any) -> list[str]:
    """What cannot be meant of the settings of a launcher; those of others are passed over."""
    told = (("n_jobs", n_jobs, 1), ("threads", threads, 1), ("gpus_per_job", gpus_per_job, 0))
    return [
        f"hydra.launcher.{name}: must be a whole number, at least {least}; received {number}"
        for name, number, least in told
        if number is not None and (not isinstance(number, int) or isinstance(number, bool) or number < least)
    ]


class Pool:
    """A number of jobs at a time.

    Args:
        starter: of their processes.
        n_jobs: at a time; None: one for each processor, or as the GPUs suffice.
        threads: that torch may use in each; None: the processors are shared out.
        gpus_per_job: GPUs that each job sees; None: one where there are any; 0: all see all.
        timeout_s: seconds after which a job is killed; None: never.
        devices: that each job trains on, with a process for each.
    """

    def __init__(
        self,
        starter: Starter,
        n_jobs: int | None = None,
        threads: int | None = None,
        gpus_per_job: int | None = None,
        timeout_s: float | None = None,
        devices: int = 1,
    ):
        if problems := faults(n_jobs, threads, gpus_per_job):
            raise ConfigError(problems)
        processors = len(os.sched_getaffinity(0))
        gpus = visible_gpus() if gpus_per_job != 0 else []
        per_job = gpus_per_job or devices
        shares = [",".join(gpus[i : i + per_job]) for i in range(0, len(gpus) - per_job + 1, per_job)]
        count = n_jobs or (len(shares) if shares else max(processors // devices, 1))
        self.slots: list[str | None] = list(shares[:count]) if shares else [None] * count
        self.size = len(self.slots)
        self.threads = threads or max(processors // max(self.size, 1), 1)
        self.timeout_s = timeout_s
        self._starter = starter
        self._running: dict[int, tuple[Job, str | None, float]] = {}
        self._late: set[int] = set()

    @property
    def running(self) -> list[Job]:
        """The jobs that are being run."""
        return [job for job, _, _ in self._running.values()]

    @property
    def has_room(self) -> bool:
        """Whether a job could be started now."""
        return bool(self.slots)

    def start(self, job: Job, words: Sequence[str]) -> None:
        """Run python with these words for a job: a script and its arguments, or -m, a module and its arguments."""
        slot = self.slots.pop()
        job.folder.mkdir(parents=True, exist_ok=True)
        environment = job.environment | ({"CUDA_VISIBLE_DEVICES": slot} if slot is not None else {})
        self._starter.start(job, list(words), environment, self.threads)
        job.state = "running"
        self._running[job.number] = job, slot, time.monotonic()

    def ended(self) -> list[Job]:
        """Jobs that have ended meanwhile, with what became of them; waits a moment for one."""
        found = []
        for number, code in self._starter.ended(TICK_S):
            job, slot, _ = self._running.pop(number)
            self.slots.append(slot)
            job.end(code)
            for late in each([job]) if number in self._late else []:
                if late.state not in DONE:
                    late.error = f"stopped after {self.timeout_s:g} s, hydra.launcher.timeout_s"
                    late.note()
            found.append(job)
        self._stop_late()
        return found

    def stop(self, number: int) -> None:
        """Ask all jobs to stop by a signal, and wait until they have; those that do not are killed."""
        self._starter.signal(number)
        end = time.monotonic() + PATIENCE_S
        while self._running:
            self.ended()
            if time.monotonic() > end:
                self._starter.signal(signal.SIGKILL)

    def _stop_late(self) -> None:
        if self.timeout_s is None:
            return
        for number, (_, _, since) in self._running.items():
            if time.monotonic() - since > self.timeout_s and number not in self._late:
                self._late.add(number)
                self._starter.signal(signal.SIGTERM, to=number)


def visible_gpus() -> list[str]:
    """Names of the GPUs that a job may be given, found without touching one."""
    if (chosen := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in chosen.split(",") if name.strip()]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(number) for number, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU ")]
