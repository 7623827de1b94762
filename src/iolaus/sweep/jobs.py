"""The jobs of a sweep: their folders, what became of them, and what is left to do."""

import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from iolaus.errors import UserError
from iolaus.files import write
from iolaus.runs import is_training, note_results, read_results

PLAN = "sweep.yaml"  # what was asked for, and the jobs
TRIAL = "IOLAUS_TRIAL"  # the variable that tells a job which trial of a search it is
LOG = "job.log"  # what a job wrote to its terminal
EARLIER = "earlier"  # folders of failed jobs that are run again
DONE = ("completed", "pruned")
STOPPED = (130, 138, 143)  # codes of processes that were asked to stop
ELSEWHERE = "running elsewhere"  # the state of a job that another process runs
CLAIMS = ".claims"  # a file whose byte n is locked by the process that runs job n
TURN = ".turn"  # ending of a file that is locked while one of several processes changes the file beside it
SWEEPS = Path("outputs/sweeps")  # where sweeps are that were given no folder

typed: list[str] = []  # the command's words before anything was added to them; whoever reads the command line sets it


@dataclass
class Job:
    """One job of a sweep.

    Args:
        number: within the sweep.
        overrides: the settings it has, in Hydra's grammar.
        folder: its run's.
        varying: the settings that tell it from others.
        environment: variables that it gets besides those of this process.
    """

    number: int
    overrides: list[str]
    folder: Path
    varying: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    state: str = "waiting"  # then running, and at last completed, pruned, interrupted or failed
    value: float | None = None  # of the objective
    error: str | None = None

    def look(self) -> None:
        """Take over what the run in its folder came to."""
        results = read_results(self.folder)
        status = results.get("status")
        if status == "running":
            self.state = ELSEWHERE if is_training(self.folder) else "interrupted"
        elif status:
            self.state = str(status)
        self.value = (results.get("objective") or {}).get("value")
        self.error = results.get("error")

    def end(self, code: int) -> None:
        """Take over what its process ended with; what the run did not come to say is said in its results."""
        self.look()
        if code == 0 and self.state in DONE:
            return
        if code < 0:
            self.error = f"killed by signal {-code}" + (" (out of memory?)" if code == -9 else "")
            self.state = "interrupted"
            self.note()
        elif code in STOPPED and self.state not in ("failed", "interrupted"):
            self.error, self.state = "stopped before it began", "interrupted"
            self.note()
        elif self.state not in ("failed", "interrupted"):
            self.error, self.state = self.error or self._last_line() or f"exit code {code}", "failed"
            self.note()

    def is_resumable(self) -> bool:
        """Whether it can go on from a resume point."""
        return self.state == "interrupted" and (self.folder / "checkpoints" / "last.ckpt").exists()

    def make_room(self) -> None:
        """Move what an earlier try left out of the way, to be looked at."""
        if not self.folder.exists():
            return
        place = self.folder.parent / EARLIER
        place.mkdir(exist_ok=True)
        number = sum(1 for _ in place.glob(f"{self.folder.name}.*"))
        shutil.move(self.folder, place / f"{self.folder.name}.{number}")

    def progress(self) -> tuple[int | None, float | None]:
        """The last epoch that was logged, and the objective then."""
        try:
            rows = (self.folder / "metrics.csv").read_text(encoding="utf-8").splitlines()
            monitor = read_results(self.folder)["objective"]["monitor"]
            values = dict(zip(rows[0].split(","), rows[-1].split(","), strict=True))
            return int(values["epoch"]), float(values[monitor]) if values.get(monitor) else None
        except (OSError, ValueError, KeyError, IndexError, TypeError):
            return None, None  # it is just being written, or has not begun

    def note(self) -> None:
        """Write state and error into its results."""
        overrides = read_results(self.folder).get("overrides", self.overrides)
        note_results(self.folder, {"overrides": overrides, "status": self.state, "error": self.error})

    def _last_line(self) -> str:
        try:
            lines = (self.folder / LOG).read_text(encoding="utf-8", errors="replace").split("\n")
        except OSError:
            return ""
        return next((line.strip() for line in reversed(lines) if line.strip()), "")


@dataclass
class Together(Job):
    """Jobs that one process trains as a stack; to a pool it is a job, whose folder has the process' log."""

    members: list[Job] = field(default_factory=list)

    def end(self, code: int) -> None:
        """Have each take over what the process ended with; those that were done before it was are."""
        for job in self.members:
            job.look()
            if job.state not in DONE:
                job.end(code)


def each(jobs: Sequence[Job]) -> list[Job]:
    """The jobs, those that are trained together one by one."""
    return [one for job in jobs for one in (job.members if isinstance(job, Together) else [job])]


class Claims:
    """Which jobs this process runs, where several go through the same sweep; what it has taken is free again when it ends.

    In a process only one of a sweep may be open at a time: closing it, or another one, lets go of all.

    Args:
        folder: the sweep's.
    """

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / CLAIMS).open("a")

    def take(self, number: int) -> bool:
        """Take a job; whether it is no other process'."""
        for _ in range(3):  # another one may just be asking, in `jobs_of`
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
                return True
            except (BlockingIOError, PermissionError):
                time.sleep(0.01)
        return False

    def close(self) -> None:
        """Let go of all."""
        self._file.close()


@contextmanager
def turn(file: Path) -> Iterator[None]:
    """Change a file while no other process does."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.with_name(f".{file.name}{TURN}").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def write_plan(
    folder: Path, words: Sequence[str], script: Path, jobs: Sequence[Job], trials: int | None = None
) -> None:
    """Write what the sweep is made of; jobs that are known already and not among these stay.

    Args:
        folder: the sweep's.
        words: of the command, as they were typed.
        script: that was called.
        jobs: that are known.
        trials: of a search, how many there will be.
    """
    with turn(folder / PLAN):
        known = {entry["number"]: entry for entry in read_plan(folder).get("jobs", [])}
        known |= {j.number: {"number": j.number, "overrides": j.overrides, "folder": j.folder.name} for j in jobs}
        plan = {
            "words": list(words),
            "script": str(script),
            "directory": os.getcwd(),
            "trials": trials,
            "jobs": [known[number] for number in sorted(known)],
        }
        write(folder / PLAN, yaml.safe_dump(plan, sort_keys=False, allow_unicode=True))


def read_plan(folder: Path) -> dict[str, Any]:
    """What `write_plan` wrote; empty where the folder is no sweep's."""
    try:
        plan = yaml.safe_load((folder / PLAN).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return {}
    return plan if isinstance(plan, dict) else {}


def jobs_of(folder: Path) -> list[Job]:
    """The jobs of a sweep, as they are now."""
    jobs = [Job(e["number"], list(e["overrides"]), folder / e["folder"]) for e in read_plan(folder).get("jobs", [])]
    for job in jobs:
        job.look()
    if any(job.state not in DONE for job in jobs) and (folder / CLAIMS).exists():
        claims = Claims(folder)
        for job in jobs:
            if job.state not in DONE and not claims.take(job.number):
                job.state = ELSEWHERE  # begun a moment ago, perhaps, with nothing written yet
        claims.close()
    return jobs


def unfinished(words: Sequence[str]) -> Path | None:
    """The newest sweep that the same words began, where it has jobs left to do."""
    for plan in sorted(SWEEPS.glob(f"*/{PLAN}"), reverse=True):
        known = read_plan(plan.parent)
        if known.get("words") == list(words) and known.get("directory") == os.getcwd():
            return plan.parent if is_left(plan.parent) else None
    return None


def is_left(folder: Path) -> bool:
    """Whether a sweep has jobs that are not done; a search does not repeat what failed."""
    trials = read_plan(folder).get("trials")
    jobs = jobs_of(folder)
    over = DONE if trials is None else (*DONE, "failed")
    return any(job.state not in over for job in jobs) or len(jobs) < (trials or 0)


def begun_command(folder: Path) -> tuple[Path, list[str], str]:
    """The script, the words and the working directory that a sweep was begun with.

    Raises:
        UserError: where these are no longer there.
    """
    plan = read_plan(folder)
    script = Path(str(plan.get("script")))
    directory = str(plan.get("directory"))
    if not script.is_file() or not Path(directory).is_dir():
        raise UserError(f"{folder}: it was begun by {script} in {directory}, which is not there any more")
    return script, [str(word) for word in plan.get("words", [])], directory
