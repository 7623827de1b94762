"""All runs below some folders, the jobs of sweeps among them, read one by one: what cannot be read hides no other."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from iolaus.errors import UserError
from iolaus.runs import option_text, paths_moved, read_results, read_settings
from iolaus.sweep.jobs import EARLIER, PLAN
from iolaus.sweep.leaderboard import Read, Row, choices, leaves, objective_of, row_of, sweep_jobs, texts

TRACES = {"train.log", "metrics.csv", ".lock"}  # beside a config.yaml they tell a run's folder from a folder of options
PREPARING = {"info", "batch_size_find", "lr_find"}  # stages that neither train nor measure
MANY = 100  # runs whose reading may take seconds


@dataclass(frozen=True)
class Run:
    """A run as its folder tells it.

    Args:
        read: the job, its results, its settings.
    """

    read: Read

    @property
    def folder(self) -> Path:
        """Of the run."""
        return self.read[0]["folder"]

    @cached_property
    def row(self) -> Row:
        """What became of it, and its metrics."""
        job, results, _ = self.read
        return row_of(job, results, {})

    @cached_property
    def values(self) -> dict[str, Any]:
        """Whatever it may be chosen and sorted by: settings, options of groups, metrics, and what it took."""
        job, results, settings = self.read
        own = {key: results.get(key) for key in ("epochs", "steps", "num_parameters", "samples_per_s", "task", "name")}
        own |= {"state": self.row.state, "error": self.row.error, "folder": os.path.relpath(self.folder)}
        own |= {key: self.row.value(key) for key in ("objective", "epoch", "seconds")}
        chosen = {group: option_text(option) for group, option in choices(job, results).items()}
        own["task"] = own["task"] or chosen.get("task")
        return dict(leaves(settings)) | chosen | own | self.row.best | self.row.test

    @property
    def is_told(self) -> bool:
        """Whether its data and its objective are known, as of a run that began."""
        return bool(self.read[2] or objective_of(self.read[1]))

    @property
    def objective(self) -> tuple[str | None, str]:
        """The monitor and the mode; of a study none."""
        job, results, settings = self.read
        if choices(job, results).get("study") or settings.get("study"):
            return None, "min"
        found = objective_of(results) or settings.get("objective") or {}
        found = found if isinstance(found, dict) else {}
        monitor = found.get("monitor")
        return (monitor if isinstance(monitor, str) else None), "max" if found.get("mode") == "max" else "min"

    @property
    def data(self) -> str:
        """What it was trained on: the option, and the file that it reads; of a study its name."""
        job, results, settings = self.read
        chosen = choices(job, results)
        if chosen.get("study"):
            return f"study {chosen['study']}"
        said = [o.partition("=")[2] for o in job["overrides"] if o.startswith("data=")]
        name = chosen.get("data") or (said[-1] if said else str(settings.get("name") or "unknown").partition("-")[0])
        node = settings.get("data")
        path = node.get("path") if isinstance(node, dict) else None
        return f"{name} {Path(path).name}" if isinstance(path, str) and path else str(name)


def runs_below(folders: Sequence[Path], earlier: bool = False) -> tuple[list[Run], list[str]]:
    """Every run, in the order of their folders, and what is to be said of those that cannot be read as they should.

    Args:
        folders: each searched with all that lies below it; it may be a run's own.
        earlier: whether tries that a sweep repeated, in its folder `earlier`, count too.

    Raises:
        UserError: for a folder that is not there, or where none of them holds a run.
    """
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder}: there is no such folder; name one that holds runs, such as outputs")
    jobs: dict[str, dict[str, Any]] = {}
    for folder in folders:
        for job in _jobs(folder, earlier):
            jobs.setdefault(os.path.realpath(job["folder"]), job)  # as its sweep tells it, which was found before
    notes: list[str] = []
    found = [run for job in _followed(list(jobs.values())) if (run := _read(job, notes)) is not None]
    left_out = {run.folder: why for run in found if (why := _untrained(run)) is not None}
    notes += [f"left out: {number} that {why}" for why, number in Counter(left_out.values()).items()]
    runs = [run for run in found if run.folder not in left_out]
    if not runs:
        raise UserError("\n".join([f"{' '.join(map(str, folders))}: no run was found there", *notes]))
    return runs, notes


def _jobs(folder: Path, earlier: bool) -> Iterator[dict[str, Any]]:
    """The folders of runs below one, each as a job of a sweep, by their names; those that a sweep has planned only too."""
    for place, folders, files in os.walk(folder):
        names = set(files)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and (earlier or name != EARLIER))
        if "results.json" in names or ("config.yaml" in names and names & TRACES):
            folders.clear()
            yield {"number": 0, "folder": Path(place), "overrides": [], "error": None}
        elif PLAN in names:
            try:
                yield from sweep_jobs(Path(place))[1]
            except UserError:
                continue  # a plan without jobs: runs that lie there are found all the same


def _followed(jobs: list[dict[str, Any]]) -> Any:
    """Jobs with a progress bar that appears after two seconds, on a terminal only."""
    if len(jobs) < MANY:
        return jobs
    from tqdm import tqdm

    return tqdm(jobs, desc="reading runs", delay=2, leave=False, disable=None)


def _read(job: dict[str, Any], notes: list[str]) -> Run | None:
    """A run; None for a folder of something else. What cannot be read is noted and left out of the run."""
    folder = job["folder"]
    results, settings = read_results(folder), {}
    is_ours = (folder / "config.yaml").is_file()
    if is_ours:
        try:
            settings = read_settings(folder)
        except (UserError, OSError) as error:
            notes.append(f"{error}; its settings are left out")
    file = folder / "results.json"
    if not results and file.is_file():
        notes.append(f"{file}: is no JSON that a run wrote, or was cut off; its results are left out")
        results = {"status": "unreadable", "error": "results.json cannot be read"}
    elif results and "status" not in results and not is_ours:
        return None  # somebody else's results
    job["overrides"] = job.get("overrides") or texts(results.get("overrides"))
    return Run((job, results, paths_moved(settings, str(settings.get("output_dir") or folder.resolve()), "")))


def _untrained(run: Run) -> str | None:
    """What a run did that was not to come to a result; None for all others."""
    _, results, settings = run.read
    trainer, stages = settings.get("trainer"), settings.get("stages")
    if not results and isinstance(trainer, dict) and trainer.get("fast_dev_run"):
        return "went through a few batches and kept nothing (trainer.fast_dev_run)"
    if not isinstance(stages, list) or not stages or not PREPARING.issuperset(map(str, stages)):
        return None
    what = "showed what was to be done" if stages == ["info"] else "looked for a setting"
    return f"{what} (stages=[{','.join(map(str, stages))}])"
