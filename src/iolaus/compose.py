"""Compose and check every job of a command, and report all errors at once."""

import argparse
import contextlib
import functools
import itertools
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

import iolaus.interpolations  # noqa: F401  what settings call by name
from iolaus.check import check, plain
from iolaus.data.sniff import SETTINGS, told_by_file
from iolaus.defaults import changed_by, flags_of, several
from iolaus.errors import ConfigError, UserError
from iolaus.explain import UNREADABLE, explain, unreadable
from iolaus.normalize import normalize
from iolaus.rules import GROUPS, LISTS
from iolaus.runs import Job, SafeLoader, option_text
from iolaus.startup import quick_yaml
from iolaus.sweep.processes import faults
from iolaus.tables import short
from iolaus.terminal import tree

CHOOSING = GROUPS | {"experiment", "sweep"}
TASKS = {"class": "classification", "real": "regression"}
FEW_JOBS = 8  # of a larger sweep not every fraction and seed is checked
MOST_JOBS = 64  # a still larger one is checked on jobs that cover every value once


quick_yaml()


def check_job(config: DictConfig) -> None:
    """Check a job's configuration once it runs: a sweeper may have chosen its values."""
    settings = HydraConfig.get()
    check(config, _choices(settings), _folders(settings))


def this_job(config: DictConfig) -> Job:
    """What was asked for, inside a job with these settings."""
    settings = HydraConfig.get()
    chosen = {g: c for g, c in _choices(settings).items() if g in GROUPS and c is not None}
    changed, flags = changed_by(settings, config), flags_of(settings)
    return Job(list(settings.overrides.task), chosen | several(settings), changed=changed, flags=flags)


def _choices(settings: Any) -> dict[str, Any]:
    """Group to chosen option; a group that another config picked is named `task@_global_.task` by Hydra."""
    return {str(group).split("@")[0]: choice for group, choice in settings.runtime.choices.items()}


def _folders(settings: Any) -> list[Path]:
    return [Path(source.path) for source in settings.runtime.config_sources if source.schema == "file"]


@contextlib.contextmanager
def _options_of(arguments: argparse.Namespace, conf: Path) -> Iterator["Composer"]:
    """What composes the settings of a command: from its folder of options, and that of --config-dir."""
    folder = str(Path(arguments.config_path).resolve()) if arguments.config_path else str(conf)
    extra = [f"hydra.searchpath=[file://{Path(arguments.config_dir).resolve()}]"] if arguments.config_dir else []
    with initialize_config_dir(folder, version_base="1.3"):
        yield Composer(arguments.config_name or "config", extra)


def compose_defaults(arguments: argparse.Namespace, conf: Path) -> DictConfig:
    """Compose the settings of a command without its overrides."""
    with _options_of(arguments, conf) as composer:
        return composer([])


def settle(arguments: argparse.Namespace, conf: Path) -> list[str]:
    """Compose and check every job of a command.

    Returns:
        overrides to add: the task and the kind of inputs, where only the data file tells them.

    Raises:
        ConfigError: with the problems of all jobs.
    """
    with _options_of(arguments, conf) as composer:
        told, problems = set(), []
        if arguments.multirun:
            arguments = argparse.Namespace(**vars(arguments) | {"overrides": _swept(arguments.overrides, composer)})
        for overrides in _jobs(arguments, composer):
            try:
                told.add(tuple(_settle_job(composer, overrides, is_sweep=arguments.multirun)))
            except ConfigError as error:
                problems += error.problems
        if problems:
            raise ConfigError(problems)
    if len(told) > 1:
        if len({tuple(o for o in overrides if o.startswith("task=")) for overrides in told}) == 1:
            raise UserError("data.input_kind: the jobs of this sweep have different inputs; run them apart")
        raise UserError(
            f"task: the jobs of this sweep need different tasks; say task={' or task='.join(TASKS.values())}"
        )
    return list(told.pop()) if told else []


def show_tree(arguments: argparse.Namespace, conf: Path) -> str:
    """The settings of a command as a tree, with a note where one is not the default."""
    if arguments.multirun:
        raise UserError("--tree: shows the settings of one run; leave out -m, and what it varies")
    with _options_of(arguments, conf) as composer:
        config = composer(arguments.overrides, hydra=True)
        HydraConfig.instance().set_config(config)
        settings = config.hydra
        with open_dict(config):
            config.pop("hydra")
            config.output_dir = "outputs"  # Hydra knows it once the job starts
        changed = changed_by(settings, config)() or {}
    notes = {
        key: f"default {short(told['default'])}" if "default" in told else "added" for key, told in changed.items()
    }
    for group, choice in (_choices(settings) | several(settings)).items():
        if group in GROUPS and choice:
            choice = option_text(choice)
            notes[group] = f"{choice}, {notes[group]}" if group in notes else str(choice)
    return tree(str(config.name), plain(config), notes)


def _swept(overrides: list[str], composer: "Composer") -> list[str]:
    """The overrides of a sweep, with those that a chosen experiment or sweep varies."""
    with contextlib.suppress(HydraException, OmegaConfBaseException, ValueError):
        chosen = [o for o in overrides if o.startswith(("experiment=", "sweep=", "data.folds="))]
        params = composer(chosen, hydra=True).hydra.sweeper.get("params") or {}
        return [
            *(f"{k}={v}" for k, v in params.items() if not any(o.startswith(f"{k}=") for o in overrides)),
            *overrides,
        ]
    return overrides


def _jobs(arguments: argparse.Namespace, composer: "Composer") -> list[list[str]]:
    """The overrides of each job; of a search those that cover its space; for a sweeper of others only what does not vary."""
    if not arguments.multirun:
        return [arguments.overrides]
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    try:
        parsed = parser.parse_overrides(arguments.overrides)
    except OverrideParseException as error:
        raise ConfigError([unreadable(error.override)]) from None
    if problems := list(_ambiguous(parsed)):
        raise ConfigError(problems)
    if any(o.key_or_group in ("sweep", "hydra/sweeper") and o.value() == "optuna" for o in parsed):
        from iolaus.sweep.search import covering

        conditions: Any = {}
        with contextlib.suppress(HydraException, OmegaConfBaseException, ValueError):  # which are told below
            plain_words = [str(o.input_line) for o in parsed if not o.is_sweep_override()]
            found = composer(plain_words, hydra=True).hydra.sweeper.conditions
            conditions = OmegaConf.to_container(found) if found else {}
        return list(covering(parsed, conditions))
    if any(o.key_or_group == "hydra/sweeper" and o.value() not in ("grid", "basic") for o in parsed):
        return [[o.input_line for o in parsed if not o.is_sweep_override() and o.input_line]]
    for override in parsed:
        if override.is_discrete_sweep() and not any(True for _ in override.sweep_string_iterator()):
            fixed = [str(o.input_line) for o in parsed if not o.is_sweep_override() and o.input_line]
            _settle_job(composer, fixed, is_sweep=True)  # a wrong number of folds, perhaps
            raise ConfigError([f"{override.key_or_group}: {override.input_line.partition('=')[2]} has no value"])  # type: ignore[union-attr]
    found = list(itertools.chain.from_iterable(BasicSweeper.split_arguments(parsed, max_batch_size=None)))
    if len(found) <= FEW_JOBS:
        return found
    telling = _telling({word for job in found for word in job})
    found = [job for job in found if telling.issuperset(job)]
    if len(found) <= MOST_JOBS:
        return found
    seen: set[str] = set()
    chosen = []
    for job in found:
        if not seen.issuperset(job):
            seen.update(job)
            chosen.append(job)
    return chosen


def _telling(words: set[str]) -> set[str]:
    """All words but those that give a setting a fraction, or a seed, between two others: what these may be it may be too.

    Whole numbers may have to divide one another, and are all kept; so is what is not finite.
    """
    kept = set()
    numbers: dict[str, dict[float, str]] = {}
    for word in words:
        key, _, value = word.partition("=")
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if math.isfinite(number) and (key == "seed" or not value.isdigit()):
            numbers.setdefault(key, {})[number] = word
        else:
            kept.add(word)
    return kept.union(*([found[min(found)], found[max(found)]] for found in numbers.values()))


def _ambiguous(overrides: list[Override]) -> Iterator[str]:
    """What a sweep cannot vary, since it says itself what is varied."""
    swept = {o.key_or_group: o.input_line for o in overrides if o.is_sweep_override()}
    if "sweep" in swept:
        yield f"{swept['sweep']}: choose one, and run the others apart"
    if "data.folds" in swept and any(o.key_or_group == "sweep" and o.value() == "kfold" for o in overrides):
        yield f"{swept['data.folds']}: must be one number, as the sweep makes a job of each of that many parts"


@dataclass(frozen=True)
class Composer:
    """Composes the configuration `name`, with the search path of --config-dir."""

    name: str
    fixed: list[str]

    def __call__(self, overrides: list[str], hydra: bool = False) -> DictConfig:
        """Return the normalized settings with these overrides, and with Hydra's own where asked for."""
        return normalize(compose(self.name, [*self.fixed, *overrides], return_hydra_config=hydra))


def composed(overrides: list[str], conf: Path) -> DictConfig:
    """The checked settings of one job, for commands that train nothing; data files must be there only where they are needed.

    Args:
        overrides: as train.py takes them.
        conf: the folder of the options.

    Raises:
        ConfigError: with every problem found.
        UserError: for options that cannot be composed at all.
    """
    try:
        with initialize_config_dir(str(conf.resolve()), version_base="1.3"):
            composer = Composer("config", [])
            told = _settle_job(composer, overrides, needs_data)
            config, _ = _compose(composer, [*overrides, *told])
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"{conf}: {str(error).splitlines()[0]}") from error
    HydraConfig.instance().set_config(config)
    with open_dict(config):
        name = config.name  # which Hydra knows
        config.pop("hydra")
        config.update({"output_dir": "outputs", "name": name})
    return config


def needs_data(config: DictConfig) -> bool:
    """Whether only the data files tell what a batch looks like, or how large the model is."""
    raw = plain(config, resolve=False)
    data = raw["data"]
    read = {fact for group in GROUPS - {"data"} for fact in re.findall(r"\$\{data\.(\w+)", str(raw.get(group)))}
    unknown = {fact for fact in read | {"input_shape", "batch_size"} if data.get(fact) is None}
    return bool(unknown - {"class_names", "class_weights", "positive"} or data.get("transforms"))


def _settle_job(
    composer: Composer,
    overrides: list[str],
    reads_data: Callable[[DictConfig], bool] = lambda _: True,
    is_sweep: bool = False,
) -> list[str]:
    """Compose and check one job; the overrides to add where its data file had to tell them."""
    config, problems = _compose(composer, overrides)
    if is_sweep:
        problems += faults(**config.hydra.launcher)
    else:
        problems += _several_runs(config, overrides)
    told = [] if problems else _told(config)
    if told:
        config, problems = _compose(composer, [*overrides, *told])
    HydraConfig.instance().set_config(config)
    choices, folders = _choices(config.hydra), _folders(config.hydra)
    with open_dict(config):
        config.pop("hydra")
        config.output_dir = "outputs"  # Hydra knows it once the job starts
    if any(UNREADABLE in p for p in problems):
        raise ConfigError(problems)  # what would follow from an override that is missing is not the user's mistake
    if mixed := list(_mixed(overrides)):
        raise ConfigError([*problems, *mixed])  # what would follow from a mixture is not the user's mistake
    problems += [*_with_endings(overrides), *_named_twice(overrides), *_named_twice_in_files(choices, folders)]
    try:
        check(config, choices, folders, reads_data=bool(problems) or reads_data(config))
    except ConfigError as error:
        problems += error.problems
    if choices.get("task") == "auto" and not told:  # the file was not asked, for what else is wrong
        problems = [p for p in problems if not p.startswith("task: nothing is chosen")] or problems
    if problems:
        raise ConfigError(problems)
    return told


def _named_twice(overrides: list[str]) -> Iterator[str]:
    """Options that stand twice in the list of a group, of which Hydra would make one part without a word."""
    for override in OverridesParser.create().parse_overrides(overrides):
        if (key := override.key_or_group) in GROUPS:
            yield from _doubled(key, override.value(), f"{key}=")


def _doubled(key: str, options: Any, begin: str) -> Iterator[str]:
    names = [str(name) for name in options] if isinstance(options, list) else []
    once = list(dict.fromkeys(names))
    for name in once:
        if names.count(name) > 1:
            yield f"{key}: {name} is named twice; name it once, as in {begin}[{','.join(once)}]"


def _named_twice_in_files(choices: dict[str, Any], folders: list[Path]) -> Iterator[str]:
    """The same in the defaults list of a chosen experiment or sweep, and a group that stands there twice: Hydra would take the first."""
    for kind in ("experiment", "sweep"):
        files = [file for folder in folders if (file := folder / kind / f"{choices.get(kind)}.yaml").is_file()]
        content = yaml.load(files[0].read_text(encoding="utf-8"), SafeLoader) if files else {}
        listed = [entry for entry in (content or {}).get("defaults", []) if isinstance(entry, dict)]
        named = [(str(key), options) for entry in listed for key, options in entry.items()]
        chosen = [(key, options) for key, options in named if key.rpartition("/")[2] in GROUPS]
        keys = [key for key, _ in chosen]
        for key, options in chosen:
            yield from _doubled(f"{files[0]}: {key}", options, f"{key}: ")
        for key in dict.fromkeys(keys):
            if keys.count(key) > 1:
                values = " and ".join(str(options) for other, options in chosen if other == key)
                yield f"{files[0]}: {key} is chosen twice, {values}; choose once"


def _mixed(overrides: list[str]) -> Iterator[str]:
    """Several options for a group that takes one, which Hydra would merge without a word."""
    for override in OverridesParser.create().parse_overrides(overrides):
        key, value = override.key_or_group, override.value()
        if key in GROUPS - LISTS and isinstance(value, list) and len(set(value)) > 1:
            names = ",".join(str(name) for name in value)
            yield f"{key}: takes one option, and {key}=[{names}] would mix them; for a run of each: -m {key}={names}"


def _with_endings(overrides: list[str]) -> Iterator[str]:
    """Options that are called by the names of their files, which Hydra would take, and the run be called by."""
    for override in overrides:
        group, _, option = override.partition("=")
        if group in GROUPS and option.endswith((".yaml", ".yml")):
            yield f"{override}: an option is named without the ending of its file: {group}={option.rpartition('.')[0]}"


def _several_runs(config: DictConfig, overrides: list[str]) -> list[str]:
    """The problem of a sweep that is asked for without -m; one of its jobs says a value for all that it varies."""
    chosen, params = _choices(config.hydra).get("sweep"), config.hydra.sweeper.get("params") or {}
    given = {override.lstrip("+").partition("=")[0] for override in overrides}
    is_job = (
        given.issuperset(params) if params else "hydra.mode" in given
    )  # a search's jobs are told by the latter alone
    if chosen in (None, "grid") or is_job:
        return []
    return [f"sweep={chosen}: is several runs; add -m, as in python train.py -m sweep={chosen}"]


def _told(config: DictConfig) -> list[str]:
    """The task where it is `auto`, and data.input_kind where it is null, as the data file tells them."""
    data = config.data
    is_auto = _choices(config.hydra).get("task") == "auto"
    is_open = "input_kind" in data and not OmegaConf.is_missing(data, "input_kind") and data.input_kind is None
    if not is_auto and not is_open:
        return []
    found = told_by_file({k: None if OmegaConf.is_missing(data, k) else data[k] for k in SETTINGS if k in data})
    task = [f"task={TASKS[found['target_kind']]}"] if is_auto else []
    return task + ([f"data.input_kind={found['input_kind']}"] if is_open and "input_kind" in found else [])


def _compose(composer: Composer, overrides: list[str]) -> tuple[DictConfig, list[str]]:
    """Compose with all overrides; with the good ones where some are wrong, and a problem for each of the others.

    Raises:
        ConfigError: where an option of a group is wrong, since others depend on it.
    """
    errors = (HydraException, OmegaConfBaseException, ValueError)
    with contextlib.suppress(*errors):
        return composer(overrides, hydra=True), []
    accepted: list[str] = []
    refused: dict[str, str] = {}  # by the override
    config = composer([], hydra=True)
    for override in sorted(overrides, key=lambda o: "." in o.split("=")[0]):  # groups first: values belong to them
        try:
            config = composer([*accepted, override], hydra=True)
            accepted.append(override)
        except errors as error:
            refused[override] = explain(error, override, functools.partial(composer, list(accepted), hydra=True))
    keys = {override: re.split("[.=@]", override.lstrip("+~"), maxsplit=1)[0] for override in refused}
    wrong = {
        key for override, key in keys.items() if key in CHOOSING and not override.lstrip("+~").startswith(f"{key}.")
    }
    if wrong:  # what would follow from the default in place of a wrong option is not the user's mistake
        raise ConfigError(p for o, p in refused.items() if keys[o] not in wrong or not o.startswith(f"{keys[o]}."))
    return config, list(refused.values())
