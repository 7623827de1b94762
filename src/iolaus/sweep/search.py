"""A search for good settings by Optuna, whose trials are jobs of a sweep. Akiba and others, https://arxiv.org/abs/1907.10902."""

import logging
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, Transformer

from iolaus.commands import install_command
from iolaus.errors import ConfigError, UserError, did_you_mean
from iolaus.runs import read_results
from iolaus.strict_json import to_json
from iolaus.sweep.jobs import DONE, TRIAL, Job, turn
from iolaus.sweep.launcher import Display, Sweep
from iolaus.sweep.search_options import ineffective_options

log = logging.getLogger("iolaus")

JOURNAL = "study.journal"
DIRECTIONS = {"min": "minimize", "max": "maximize"}
SAMPLERS = {
    "tpe": "TPESampler",
    "cmaes": "CmaEsSampler",
    "random": "RandomSampler",
    "grid": "BruteForceSampler",
    "gp": "GPSampler",
    "qmc": "QMCSampler",
    "nsgaii": "NSGAIISampler",
}
PRUNERS = {
    "none": "NopPruner",
    "median": "MedianPruner",
    "hyperband": "HyperbandPruner",
    "halving": "SuccessiveHalvingPruner",
}


class Search:
    """One study in one process; others may work on the same one.

    Trials that a process left running when it was killed are taken over: their jobs go on from a resume point where there is one. The
    sampler's seed is that of the study and the number of the first trial that this process asks for, so that no process repeats
    the numbers of another.

    Args:
        sweep: runs the jobs.
        options: of the sweeper; see conf/hydra/sweeper/optuna.yaml.
        monitor: the objective, which jobs report each epoch.
        mode: of the objective, min or max.

    Raises:
        UserError: for options that are not there, a study with another search space.
    """

    def __init__(self, sweep: Sweep, options: dict[str, Any], monitor: str, mode: str):
        self.sweep = sweep
        self.options = options
        self.monitor = monitor
        if not isinstance(number := options["n_trials"], int) or number < 1:
            raise UserError(f"hydra.sweeper.n_trials: must be at least 1; received {number}")
        self.objectives = list(options.get("objectives") or [])
        for objective in self.objectives:
            if str(objective).partition(":")[0] not in DIRECTIONS:
                raise UserError(f"hydra.sweeper.objectives: write min:NAME or max:NAME; received {objective!r}")
        self.directions = [DIRECTIONS[o.partition(":")[0]] for o in self.objectives] or [DIRECTIONS[mode]]
        self.seed = options.get("seed")
        self.storage = options.get("storage") or str(sweep.folder / JOURNAL)
        self.name = options.get("study_name") or "iolaus"
        self._seeded = False

    def run(self, words: Sequence[str]) -> Any:
        """Run trials until the study has as many as it should have; the study."""
        optuna = _optuna()
        space, fixed = search_space(words, self.sweep)
        pruner = made(optuna.pruners, PRUNERS, "pruner", self.options.get("pruner") or "none")
        if problems := list(ineffective_options(self.options, space, _values(fixed), pruner)):
            raise ConfigError(problems)
        if self.options.get("sampler") == "grid":
            self.options["n_trials"] = min(self.options["n_trials"], combinations(space))
        self._open(optuna, space, fixed)
        with self._turn():
            for trial in self._left():
                if "overrides" not in trial.user_attrs:  # whoever asked for it was killed at once
                    self._choose(optuna.trial.Trial(self.study, trial._trial_id), space, fixed)
            waiting = [self._job(trial) for trial in self._left()]
        with Display(self.sweep.jobs) as display:
            while True:
                while self.sweep.pool.has_room and (waiting or self._asked() < self.options["n_trials"]):
                    job = self._take_over(optuna, waiting.pop(0)) if waiting else self._ask(optuna, space, fixed)
                    if job is not None:
                        self.sweep.plan(self.options["n_trials"])
                        self.sweep.start(job)
                if not self.sweep.running:
                    break
                for job in self.sweep.ended():
                    self._tell(optuna, job)
                display.draw()
        return self.study

    def _open(self, optuna: Any, space: dict[str, Any], fixed: list[str]) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.sweep.folder.mkdir(parents=True, exist_ok=True)
        self.study = optuna.create_study(
            study_name=self.name,
            storage=open_storage(self.storage),
            directions=self.directions,
            load_if_exists=True,
            sampler=self._sampler(optuna, 0),
            pruner=made(optuna.pruners, PRUNERS, "pruner", self.options.get("pruner") or "none"),
        )
        mine = {name: repr(distribution) for name, distribution in space.items()} | {"fixed": " ".join(fixed)}
        known = self.study.user_attrs.get("space")
        if known is None:
            self.study.set_user_attr("space", mine)
        elif known != mine:
            key = next(k for k in [*known, *mine] if known.get(k) != mine.get(k))
            raise UserError(
                f"hydra.sweeper.study_name: the study {self.name!r} in {self.storage} searches another space: {key} is "
                f"{known.get(key, 'not searched')} there, and {mine.get(key, 'not searched')} here; choose another study_name, or storage"
            )

    def _sampler(self, optuna: Any, first: int) -> Any:
        more = {} if self.seed is None else {"seed": int(self.seed) + first}
        return made(optuna.samplers, SAMPLERS, "sampler", self.options.get("sampler") or "tpe", **more)

    def _left(self) -> list[Any]:
        """Trials that no living process runs."""
        running = [t for t in self.study.get_trials(deepcopy=False) if t.state.name == "RUNNING"]
        return [t for t in running if not _is_run(t, is_asked="overrides" not in t.user_attrs and self._is_far)]

    def _asked(self) -> int:
        return len(self.study.get_trials(deepcopy=False))

    def _turn(self) -> AbstractContextManager[None]:
        """While no other process of this machine asks for a trial or takes one over; of a server's study those of one folder."""
        file = self.storage.removeprefix("sqlite:///")
        return turn(self.sweep.folder / JOURNAL if self._is_far or file == "memory" else Path(file))

    @property
    def _is_far(self) -> bool:
        """Whether the study lies at a server, where another machine may be asking just now."""
        return "://" in self.storage.removeprefix("sqlite:///")

    def _trial(self, number: int) -> Any:
        return self.study.get_trials(deepcopy=False)[number]

    def _take_over(self, optuna: Any, job: Job) -> Job | None:
        """The job of a trial that was left; None where another process runs it, or it has ended and the study is told."""
        if not self.sweep.claim(job):
            self._note_process(job.number, None)
        elif not self._trial(job.number).state.is_finished():
            if job.state not in DONE:
                return job
            self._tell(optuna, job)
        return None

    def _ask(self, optuna: Any, space: dict[str, Any], fixed: list[str]) -> Job | None:
        """A new trial as a job; None where another process has asked for the last one."""
        with self._turn():
            if self._asked() >= self.options["n_trials"]:
                return None
            trial = self.study.ask()
            if not self._seeded:
                self.study.sampler, self._seeded = self._sampler(optuna, trial.number), True
            self._choose(trial, space, fixed)
            job = self._job(self._trial(trial.number))
        if not self.sweep.claim(job):
            raise UserError(
                f"output_dir: another process searches in {self.sweep.folder}, with a study of its own; choose another folder"
            )
        return job

    def _choose(self, trial: Any, space: dict[str, Any], fixed: list[str]) -> None:
        """Choose a trial's settings, and note them in the study."""
        chosen = suggested(trial, space, fixed, self.options.get("conditions") or {})
        trial.set_user_attr("varying", [f"{key}={_short(value)}" for key, value in chosen.items()])
        trial.set_user_attr("overrides", [*fixed, *(f"{key}={value}" for key, value in chosen.items())])

    def _note_process(self, number: int, process: list[Any] | None) -> None:
        self.study._storage.set_trial_user_attr(self._trial(number)._trial_id, "process", process)

    def _job(self, trial: Any) -> Job:
        """The job of a trial, which is this process's from now on."""
        self._note_process(trial.number, [os.uname().nodename, os.getpid()])
        own = trial.user_attrs
        pruning = ["+callbacks.pruning._target_=iolaus.callbacks.pruning.Pruning"] if self._prunes() else []
        job = self.sweep.job(trial.number, [*own["overrides"], *pruning], own["varying"])
        told = {
            "storage": self.storage,
            "study": self.name,
            "number": trial.number,
            "monitor": self.monitor,
            "pruner": self.options.get("pruner"),
        }
        job.environment = {TRIAL: to_json(told)}
        return job

    def _prunes(self) -> bool:
        return (self.options.get("pruner") or "none") != "none"

    def _tell(self, optuna: Any, job: Job) -> None:
        """Tell the study what became of a trial; a job that was stopped is left for the next time."""
        state = optuna.trial.TrialState
        if job.state == "interrupted":
            self._note_process(job.number, None)
        elif job.state == "pruned":
            self.study.tell(job.number, state=state.PRUNED)
        elif job.state == "completed":
            values = (
                [job.value]
                if not self.objectives
                else [_found(job.folder, name.partition(":")[2]) for name in self.objectives]
            )
            if all(value is not None and math.isfinite(value) for value in values):
                self.study.tell(job.number, values)
                return
            job.state, job.error = "failed", f"the objective is {values[0] if len(values) == 1 else values}"
            self.study.tell(job.number, state=state.FAIL)
        else:
            self.study._storage.set_trial_user_attr(self._trial(job.number)._trial_id, "error", job.error)
            self.study.tell(job.number, state=state.FAIL)


def search_space(words: Sequence[str], sweep: Sweep) -> tuple[dict[str, Any], list[str]]:
    """What is searched, by key, and the other settings.

    Raises:
        UserError: where nothing is searched, or a word cannot be.
    """
    parser = OverridesParser.create(config_loader=sweep.config_loader)
    space: dict[str, Any] = {}
    fixed = []
    for override in parser.parse_overrides(list(words)):
        if override.is_sweep_override():
            space[override.get_key_element()] = distribution(override)
        else:
            fixed.append(str(override.input_line))
    if not space:
        raise UserError(
            "sweep=optuna: nothing is searched; give a setting values, as in 'optim.lr=tag(log, interval(1e-4, 1e-1))' model=mlp,cnn"
        )
    return space, fixed


def distribution(override: Override) -> Any:
    """Values in Hydra's grammar as Optuna's: choices, ranges (their end is not included), intervals, logarithmic with tag(log, ...)."""
    import optuna.distributions as od

    value: Any = override.value()
    line = str(override.input_line)
    make: Any
    if isinstance(value, IntervalSweep):
        whole = isinstance(value.start, int) and isinstance(value.end, int)
        make = od.IntDistribution if whole else od.FloatDistribution
        try:
            return make(value.start, value.end, log="log" in value.tags)
        except ValueError as error:
            raise UserError(f"{override.key_or_group}: {line}: {error}") from None
    if isinstance(value, RangeSweep) and not value.shuffle:
        values = list(value.range())
        if not values:
            raise UserError(f"{override.key_or_group}: {line} has no value")
        whole = all(isinstance(v, int) for v in values)
        make = od.IntDistribution if whole else od.FloatDistribution
        return make(min(values), max(values), step=abs(value.step))
    choices: Any = list(override.sweep_iterator(transformer=Transformer.encode))
    return od.CategoricalDistribution(choices)


def combinations(space: dict[str, Any]) -> int:
    """How many there are.

    Raises:
        UserError: where a setting has no end of values.
    """
    count = 1
    for key, values in space.items():
        if hasattr(values, "choices"):
            count *= len(values.choices)
        elif values.step is not None:
            count *= int((values.high - values.low) / values.step + 1.5)
        else:
            raise UserError(f"{key}: sampler=grid wants values that can be counted: a choice, or a range with a step")
    return count


def suggested(
    trial: Any, space: dict[str, Any], fixed: Sequence[str], conditions: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """A value for each key that is searched; one with a condition only where the others meet it."""
    chosen: dict[str, Any] = {}
    for key in sorted(space, key=lambda key: key in conditions):
        if is_met(conditions.get(key), _values(fixed) | chosen):
            chosen[key] = trial._suggest(key, space[key])
    return chosen


def is_met(condition: dict[str, Any] | None, values: dict[str, Any]) -> bool:
    """Whether settings have the values, or one of the values, that a condition names."""
    wanted = {k: v if isinstance(v, list) else [v] for k, v in (condition or {}).items()}
    return all(str(values.get(key)) in map(str, allowed) for key, allowed in wanted.items())


def _short(value: Any) -> str:
    """A value as a job is called by it."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _values(words: Sequence[str]) -> dict[str, Any]:
    return dict(word.split("=", 1) for word in words if "=" in word)


def open_storage(place: str) -> Any:
    """Where a study is kept: `memory`, a file x.journal, or an address such as sqlite:///x.db."""
    if place == "memory":
        return None
    if "://" in place:
        return place
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    Path(place).parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFileBackend(place))


def made(module: Any, names: dict[str, str], kind: str, chosen: Any, **more: Any) -> Any:
    """A sampler or pruner by its name, or by name and arguments as in {name: tpe, n_startup_trials: 5}."""
    arguments = dict(chosen) if isinstance(chosen, dict) else {"name": chosen}
    name = arguments.pop("name", None)
    if name not in names:
        raise UserError(
            f"hydra.sweeper.{kind}: there is no {name!r}{did_you_mean(str(name), names)}  (there are: {', '.join(names)})"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what Optuna calls experimental
            return _unstopped(getattr(module, names[name]))(**more, **arguments)
    except (TypeError, ValueError, ImportError) as error:
        raise UserError(f"hydra.sweeper.{kind}: {name}: {' '.join(str(error).split())[:200]}") from None


def _unstopped(kind: Any) -> Any:
    """A sampler of all combinations would stop a loop of Optuna's own after the last; here `n_trials` ends it."""
    if kind.__name__ != "BruteForceSampler":
        return kind
    return type(kind.__name__, (kind,), {"after_trial": lambda *_: None})


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise UserError(f"sweep=optuna: Optuna is not installed; {install_command('search')}") from None
    return optuna


def _is_run(trial: Any, is_asked: bool) -> bool:
    """Whether a living process runs a trial, or may: of another machine that is not known; nor whether one is just asking for it."""
    process = trial.user_attrs.get("process")
    if process is None:
        return is_asked
    host, pid = process
    if host != os.uname().nodename:
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _found(folder: Path, name: str) -> float | None:
    """A number of a run's results: a metric of its best epoch or of the test, or another number such as num_parameters."""
    results = read_results(folder)
    metrics = results.get("metrics") or {}
    for place in (metrics.get("best"), metrics.get("test"), results, results.get("seconds")):
        if isinstance((value := (place or {}).get(name)), int | float):
            return float(value)
    return None


def covering(parsed: Sequence[Override], conditions: dict[str, dict[str, Any]]) -> Iterator[list[str]]:
    """Jobs in which every choice and both ends of every range occur, to be checked before any trial."""
    values: dict[str, list[str]] = {}
    fixed = [str(o.input_line) for o in parsed if not o.is_sweep_override()]
    for override in parsed:
        if override.is_sweep_override():
            value, key = override.value(), override.get_key_element()
            if isinstance(value, IntervalSweep):
                values[key] = [str(value.start), str(value.end)]
            elif isinstance(value, RangeSweep):
                found = list(value.range())
                values[key] = [str(v) for v in (found[0], found[-1])] if found else []
            else:
                values[key] = [str(v) for v in override.sweep_string_iterator()]
    first = {key: found[0] for key, found in values.items() if found}
    for key, found in values.items():
        for value in found:
            job = first | {key: value}
            for other, wanted in (conditions.get(key) or {}).items():
                job[other] = str(wanted[0] if isinstance(wanted, list) else wanted)
            meant = {k: v for k, v in job.items() if is_met(conditions.get(k), _values(fixed) | job)}
            yield [*fixed, *(f"{k}={v}" for k, v in meant.items())]
