"""The jobs of a sweep, read from its folder and ranked: what varied between them, and what each came to."""

import math
import os
import re
import shlex
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from iolaus.commands import config_flags, run_command, script_of, train_command
from iolaus.errors import UserError
from iolaus.runs import SafeLoader, is_training, option_text, paths_moved, read_results, read_settings
from iolaus.strict_json import to_json
from iolaus.sweep.jobs import PLAN

# What may have become of a job, in the order in which those without a rank are listed.
STATES = ("completed", "running", "interrupted", "pruned", "failed", "killed", "unreadable", "missing")
PLANS = (PLAN, "multirun.yaml")  # tell a sweep's folder: the latter, of Hydra, where hydra/launcher=basic ran it
PRUNED_BY = "callbacks.pruning._target_"  # which a search adds to its trials
REPEATED = ("data.fold", "seed")  # settings that repeat a job: their results are averaged
MOST_BYTES = 2**25  # of sweep.yaml
LISTED = {
    "callbacks": ["default"],
    "logger": ["tensorboard"],
    "augment": [],
}  # groups that take a list, and their defaults
ABSENT = object()
Read = tuple[dict[str, Any], dict[str, Any], dict[str, Any]]  # a job, its results, its settings


@dataclass(frozen=True)
class Row:
    """One job.

    Args:
        number: of the job in its sweep.
        folder: of its run.
        state: one of STATES.
        settings: the value of each setting that varies in the sweep.
        objective: its best value; None where it was never logged.
        monitor: the name of the objective.
        best: what was logged in the best epoch.
        test: what was measured on the test split; the numbers of a study.
        best_epoch: counted from 1.
        seconds: that it took in all.
        error: why there is no result, in one line.
        overrides: of the job.
    """

    number: int
    folder: Path
    state: str
    settings: dict[str, Any]
    objective: float | None
    monitor: str | None
    best: dict[str, float]
    test: dict[str, float]
    best_epoch: int | None
    seconds: float | None
    error: str | None
    overrides: list[str]

    @property
    def is_ranked(self) -> bool:
        """Whether the job came to a number."""
        return self.state == "completed" and self.objective is not None and math.isfinite(self.objective)

    def value(self, name: str) -> float | None:
        """The objective, the best epoch, the seconds, or a metric by its key."""
        own = {"objective": self.objective, "epoch": self.best_epoch, "seconds": self.seconds}
        return own[name] if name in own else (self.best | self.test).get(name)


@dataclass(frozen=True)
class Repeats:
    """Jobs that differ in what repeats them alone: the seed, the fold.

    Args:
        settings: that they share, of those that vary in the sweep.
        rows: the jobs, also those without a result.
        monitor: the name of the objective; a job that has another one counts for nothing.
    """

    settings: dict[str, Any]
    rows: list[Row]
    monitor: str | None

    def values(self, name: str) -> list[float]:
        """The objective, or another value by its name, of each job that has it."""
        found = [row.value(name) for row in self.rows if row.is_ranked and row.monitor == self.monitor]
        return [value for value in found if value is not None and math.isfinite(value)]

    def mean(self, name: str) -> float | None:
        """Over the jobs; None where none has a value."""
        values = self.values(name)
        return statistics.fmean(values) if values else None

    def deviation(self, name: str) -> float | None:
        """The standard deviation between jobs, with n - 1; None for fewer than two."""
        values = self.values(name)
        return statistics.stdev(values) if len(values) > 1 else None


@dataclass(frozen=True)
class Leaderboard:
    """All jobs of a sweep, the best first.

    Args:
        folder: of the sweep.
        program: how its command begins, `python train.py`.
        monitor: the name of the objective; None where no job has one.
        mode: min or max.
        keys: the settings that vary.
        rows: the jobs.
        repeats: those that belong together, the best mean first; empty where nothing is repeated.
        notes: what is to be known before numbers are compared.
    """

    folder: Path
    program: str
    monitor: str | None
    mode: str
    keys: list[str]
    rows: list[Row]
    repeats: list[Repeats] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ranked(self) -> list[Row]:
        """The jobs that came to a number of this objective, the best first."""
        return [row for row in self.rows if row.is_ranked and row.monitor == self.monitor]

    @property
    def repeated(self) -> list[str]:
        """The settings that repeat jobs, of those that vary."""
        return [key for key in REPEATED if key in self.keys]

    @property
    def metrics(self) -> list[str]:
        """The metrics that jobs are compared by beside the objective: of the test; of the validation where nothing was tested."""
        tested = list(dict.fromkeys(name for row in self.rows for name in row.test))
        held = dict.fromkeys(name for row in self.rows for name in row.best if name.endswith("/val"))
        return tested or [name for name in held if name != self.monitor]

    @property
    def counts(self) -> dict[str, int]:
        """How many jobs are in each state, of those that occur."""
        found = Counter(row.state for row in self.rows)
        return {state: found[state] for state in STATES if found[state]}

    def again(self, row: Row) -> str:
        """The command that runs a job's settings again: of folds on all training rows, and alone."""
        left_out = {"sweep", PRUNED_BY, *(("data.fold", "data.folds") if "data.fold" in self.keys else ())}
        words = [o for o in row.overrides if _key(o) not in left_out and not o.startswith("hydra")]
        return " ".join([self.program, *map(shlex.quote, words)])


def leaderboard(folder: Path) -> Leaderboard:
    """Read a sweep, also one that has not ended or was killed.

    Rows are ranked by the objective; those without a number follow, by what became of them. Of several objectives the first ranks.

    Raises:
        UserError: for a folder that holds no sweep.
    """
    sweep, jobs = sweep_jobs(folder)
    read = [(job, read_results(job["folder"]), _settings(job["folder"])) for job in jobs]
    for job, results, _ in read:
        job["overrides"] = job.get("overrides") or texts(results.get("overrides"))
    named = named_settings(read)
    columns = {key: values for key, values in (named or dict(differences(read))).items() if differ(values)}
    return ranked(folder, read, columns, _program(sweep, [results for _, results, _ in read]))


def ranked(folder: Path, read: Sequence[Read], columns: dict[str, list[Any]], program: str) -> Leaderboard:
    """Jobs as rows, the best first.

    Args:
        folder: that they lie in.
        read: the jobs, with their results and settings.
        columns: the settings that vary, with the value of each in every job.
        program: how a command begins that runs one again.
    """
    keys = sorted(columns, key=lambda key: REPEATED.index(key) if key in REPEATED else -1)
    rows = [
        row_of(job, results, {key: columns[key][place] for key in keys}) for place, (job, results, _) in enumerate(read)
    ]
    monitor, mode = _common_objective([results for _, results, _ in read])
    rows.sort(key=lambda row: _place(row, monitor, mode))
    board = Leaderboard(folder, program, monitor, mode, keys, rows)
    return replace(board, repeats=_repeats(board), notes=list(notes(board)))


def sweep_jobs(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What sweep.yaml says, and the jobs; where it is broken, or another launcher ran them, each subfolder that holds a run is one."""
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder")
    if (folder / "config.yaml").is_file() or (folder / "results.json").is_file():
        raise UserError(f"{folder}: is a run and no sweep; its own report is {folder / 'report.md'}")
    sweep = _sweep(folder / PLAN)
    listed = sweep.get("jobs") if isinstance(sweep.get("jobs"), list) else []
    jobs = [
        {
            "number": job["number"] if isinstance(job.get("number"), int) else place,
            "folder": _job_folder(folder, str(job["folder"])),
            "overrides": texts(job.get("overrides")),
            "error": job.get("error"),
        }
        for place, job in enumerate(listed or [])
        if isinstance(job, dict) and job.get("folder")
    ]
    if not jobs and any((folder / name).is_file() for name in PLANS):
        runs = [f for f in folder.iterdir() if (f / "results.json").is_file() or (f / "config.yaml").is_file()]
        numbered = [(_number(run.name), run) for run in sorted(runs)]
        found = sorted((place if n is None else n, run) for place, (n, run) in enumerate(numbered))
        jobs = [{"number": number, "folder": run} for number, run in found]
    if not jobs:
        raise UserError(
            f"{folder}: is no sweep's folder and no run's; to rank all runs below it: {run_command('compare', folder)}"
        )
    return sweep, jobs


def _sweep(file: Path) -> dict[str, Any]:
    """What sweep.yaml says; empty where it is absent or no such file."""
    try:
        if file.stat().st_size > MOST_BYTES:
            return {}
        found = yaml.load(file.read_text(encoding="utf-8"), SafeLoader)
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def _job_folder(sweep: Path, text: str) -> Path:
    """A job's folder: in that of the sweep, which may have been moved since."""
    beside = sweep / Path(text).name
    places = [beside, sweep / text, Path(text)]  # beside sweep.yaml; deeper; as it was told to the launcher
    return next((place for place in places if place.is_dir()), beside)


def _number(name: str) -> int | None:
    """The number that a job's folder begins with."""
    found = re.match(r"\d+", name)
    return int(found[0]) if found else None


def _settings(folder: Path) -> dict[str, Any]:
    """The settings of a run, with its own folder as an empty text; empty where there are none."""
    try:
        settings = read_settings(folder)
    except (UserError, OSError):
        return {}
    return paths_moved(settings, str(settings.get("output_dir") or folder.resolve()), "")


def texts(values: Any) -> list[str]:
    """A list of texts, whatever it was."""
    return [str(value) for value in values] if isinstance(values, list) else []


def _key(override: str) -> str:
    """The setting or group that an override sets."""
    return override.lstrip("+~").partition("=")[0].partition("@")[0]


def named_settings(read: Sequence[Read]) -> dict[str, list[Any]]:
    """The settings that overrides set, and the value of each in every job."""
    named = dict.fromkeys(_key(override) for job, _, _ in read for override in job["overrides"])
    return {key: [_value(key, *one) for one in read] for key in named if key != "sweep"}


def differ(values: Sequence[Any]) -> bool:
    """Whether some value is not as the first."""
    first = values[0]
    return any(value is not first and value != first for value in values)


def _same(value: Any) -> str:
    """Equal for equal values, for those too that cannot be hashed."""
    return to_json(value, sort_keys=True, default=str)


def _value(key: str, job: dict[str, Any], results: dict[str, Any], settings: dict[str, Any]) -> Any:
    """What a job has for a setting: the option of a group, or the value in its settings, or as its override says it."""
    texts = [override.partition("=")[2] for override in job["overrides"] if _key(override) == key]
    if key in (chosen := choices(job, results)):
        return option_text(chosen[key])
    found = _found(settings, key)
    is_part = isinstance(found, dict) or (isinstance(found, list) and any(isinstance(item, dict) for item in found))
    if found is not ABSENT and not is_part:
        return found
    return _read_text(texts[-1]) if texts else _class_name(found)


def _class_name(node: Any) -> str | None:
    """What a part of the settings is, where its option is not told."""
    target = node.get("_target_") if isinstance(node, dict) else None
    return target.rpartition(".")[2] if isinstance(target, str) else None


def _found(settings: dict[str, Any], key: str) -> Any:
    node: Any = settings
    for part in key.split("."):
        if not isinstance(node, dict) or part not in node:
            return ABSENT
        node = node[part]
    return node


def _read_text(text: str) -> Any:
    """An override's value: a number where it is one."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"null": None, "true": True, "false": False}.get(text.lower(), text)


def differences(read: Sequence[Read], known: dict[str, list[Any]] | None = None) -> Iterator[tuple[str, list[Any]]]:
    """What jobs differ in: options of groups first, then settings that no other one implies.

    A setting that some jobs do not have at all, as those of an earlier version, tells none apart.

    Args:
        read: the jobs.
        known: settings that are told already, with the value of each in every job.
    """
    implied = list((known or {}).values())
    chosen = []
    flat = [dict(leaves(settings)) for _, _, settings in read]
    for group in dict.fromkeys(group for job, results, _ in read for group in choices(job, results)):
        options = [_value(group, *one) for one in read]
        told = [option for option, (_, results, _) in zip(options, read, strict=True) if "choices" in results]
        if told and differ(told):
            chosen.append(group)
            if group not in (known or {}):
                yield group, options
    full = [found for found in flat if found]
    shared = [key for key in (full[0] if full else {}) if all(key in found for found in full)]
    for key in sorted(shared, key=lambda key: (key.partition(".")[0] not in chosen, key.count("."))):
        if key in ("name", "output_dir") or not differ([found[key] for found in full]):
            continue
        values = [found.get(key) for found in flat]
        if key.partition(".")[0] not in chosen and values not in implied:
            yield key, values
        implied.append(values)


def choices(job: dict[str, Any], results: dict[str, Any]) -> dict[str, Any]:
    """The option of each group that a run has chosen; of one that takes a list also where the results do not tell it.

    Earlier versions did not: then it is as an override says, or the default.
    """
    recorded = results.get("choices")
    found = recorded if isinstance(recorded, dict) else {}
    said = {key: o.partition("=")[2] for o in job["overrides"] if "=" in o and (key := _key(o)) in LISTED}
    return found | {group: option for group, option in (LISTED | said).items() if group not in found}


def leaves(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Each setting by its full name, and its value."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def row_of(job: dict[str, Any], results: dict[str, Any], settings: dict[str, Any]) -> Row:
    """A job as a row, with those of its settings that vary."""
    objective = objective_of(results)
    metrics = results.get("metrics") if isinstance(results.get("metrics"), dict) else {}
    seconds = results.get("seconds")
    state = _state(job["folder"], results)
    return Row(
        number=job["number"],
        folder=job["folder"],
        state=state,
        settings=settings,
        objective=_as_number(objective.get("value")),
        monitor=objective.get("monitor"),
        best=_numbers((metrics or {}).get("best")),
        test=_numbers((metrics or {}).get("test")) | _numbers((metrics or {}).get("study")),
        best_epoch=results["best_epoch"] if isinstance(results.get("best_epoch"), int) else None,
        seconds=_as_number(seconds.get("total") if isinstance(seconds, dict) else seconds),
        error=_error(state, results.get("error") or job.get("error")),
        overrides=job["overrides"],
    )


def objective_of(results: dict[str, Any]) -> dict[str, Any]:
    """The objective of a run; of several the first."""
    objective = results.get("objective")
    if isinstance(objective, list):
        objective = objective[0] if objective else None
    return objective if isinstance(objective, dict) else {}


def _as_number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _numbers(values: Any) -> dict[str, float]:
    found = {str(k): _as_number(v) for k, v in values.items()} if isinstance(values, dict) else {}
    return {name: value for name, value in found.items() if value is not None}


def _state(folder: Path, results: dict[str, Any]) -> str:
    status = results.get("status")
    if status == "interrupted" and str(results.get("error")).startswith("killed"):
        return "killed"  # as its launcher noted
    if status in STATES and status != "running":
        return str(status)
    if is_training(folder):
        return "running"
    return "killed" if results or (folder / "config.yaml").is_file() else "missing"


def _error(state: str, told: Any) -> str | None:
    """Why there is no result, in a line."""
    if lines := str(told or "").strip().splitlines():
        return lines[0].rstrip(" ;:")
    known = {
        "killed": "no result was written: its process was killed, perhaps for want of memory",
        "missing": "did not start",
        "failed": "no error was told",
        "interrupted": "stopped before its end",
    }
    return known.get(state)


def _common_objective(results: Sequence[dict[str, Any]]) -> tuple[str | None, str]:
    """The name and direction that most jobs have."""
    found = Counter(
        (objective["monitor"], objective.get("mode"))
        for objective in map(objective_of, results)
        if isinstance(objective.get("monitor"), str)
    )
    if not found:
        return None, "min"
    ((monitor, mode), _), *_ = found.most_common(1)
    return monitor, "max" if mode == "max" else "min"


def _place(row: Row, monitor: str | None, mode: str) -> tuple[int, float, int]:
    """What rows are sorted by."""
    if row.is_ranked and row.objective is not None and row.monitor == monitor:
        return -1, row.objective if mode == "min" else -row.objective, row.number
    return STATES.index(row.state), 0.0, row.number


def _program(sweep: dict[str, Any], results: Sequence[dict[str, Any]]) -> str:
    """How the command of the sweep begins: with the script that it was begun by, or as the runs tell it."""
    noted = next((texts(found["flags"]) for found in results if found.get("flags")), [])
    flags = noted or list(config_flags(texts(sweep.get("words"))))
    if isinstance(script := sweep.get("script"), str):
        directory = str(sweep.get("directory") or "")
        return train_command(script.removeprefix(directory + os.sep), flags, [])
    commands = (sweep.get("command"), *(found.get("command") for found in results))
    return train_command(next(filter(None, map(script_of, commands)), "train.py"), flags, [])


def _repeats(board: Leaderboard) -> list[Repeats]:
    """Jobs that differ in the seed or the fold alone, the best mean first."""
    groups: dict[str, Repeats] = {}
    for row in board.rows:
        shared = {key: value for key, value in row.settings.items() if key not in board.repeated}
        groups.setdefault(_same(shared), Repeats(shared, [], board.monitor)).rows.append(row)
    if not board.repeated or all(len(group.rows) < 2 for group in groups.values()):
        return []
    sign = 1 if board.mode == "min" else -1
    return sorted(groups.values(), key=lambda g: math.inf if (mean := g.mean("objective")) is None else sign * mean)


def notes(board: Leaderboard) -> Iterator[str]:
    """What is to be known before the numbers of a board are compared."""
    monitors = {row.monitor for row in board.rows if row.is_ranked}
    if len(monitors) > 1:
        yield f"the jobs have different objectives, {', '.join(sorted(map(str, monitors)))}; those of {board.monitor} are ranked"
    for group in ("data", "loss"):
        if group in board.keys and str(board.monitor).startswith("loss/"):
            yield (
                f"{board.monitor} does not compare jobs with different {group}; choose a metric, as in "
                "objective.monitor=accuracy/val objective.mode=max"
            )
            break
    if "data.fold" in board.keys:
        yield "of each fold the best epoch is chosen on the fold itself, so that means are a little too good"
