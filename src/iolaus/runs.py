"""A run's folder, read: its settings and checkpoints. The folder may be a stranger's, so nothing in it is believed."""

import fcntl
import json
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from iolaus.commands import run_command
from iolaus.errors import UserError, did_you_mean
from iolaus.files import INDEX
from iolaus.normalize import expand_home, quote_home
from iolaus.references import has_foreign_interpolations
from iolaus.strict_json import to_json

MOST_BYTES = 2**20  # of a settings file
SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times quicker where PyYAML has it
NAMED = ("best", "last", "previous")  # checkpoints of a run
MOST_LEVELS = 50  # of its nesting


Changes = dict[str, dict[str, Any]]


def changes(before: Any, after: Any, key: str = "") -> Changes:
    """The settings that differ, by their full names.

    Args:
        before: plain containers.
        after: the same, of which some values may be others, added or left out.
        key: where they stand.
    """
    if not (isinstance(before, dict) and isinstance(after, dict)):
        return {} if before == after else {key: {"default": before, "value": after}}
    found: Changes = {}
    for name in dict.fromkeys([*before, *after]):
        path = f"{key}.{name}" if key else str(name)
        if name in before and name in after:
            found |= changes(before[name], after[name], path)
        else:
            found[path] = {"default": before[name]} if name in before else {"value": after[name]}
    return found


@dataclass(frozen=True)
class Job:
    """What the user asked for.

    Args:
        overrides: of the command, and of those that went on with the run.
        choices: the option chosen for each group.
        resumed: whether a run goes on.
        train_on: whether it goes on with other settings, which may let it train on after its end.
        changed: finds the settings that differ from the defaults: for each key its `default` and its `value`, one of them alone where
            the setting was added or left out. None: it cannot be told.
        flags: words of the command that say where the options are.
    """

    overrides: list[str]
    choices: dict[str, Any]
    resumed: bool = False
    train_on: bool = False
    changed: Callable[[], Changes | None] = lambda: None
    flags: list[str] = field(default_factory=list)


def read_settings(folder: Path) -> dict[str, Any]:
    """The resolved settings of a run, as plain containers.

    The text is read as plain YAML. Interpolations, which could read the environment, are refused, but for references to the data in a
    run that was killed before it had read them; so are aliases, which can make a short text unfold to a huge one.

    Raises:
        UserError: for a folder that holds no run, or settings that no run wrote.
    """
    file = folder / "config.yaml"
    if not file.is_file():
        if (folder / "train.log").is_file() and not (folder / "results.json").exists():
            raise UserError(
                f"{folder}: the run was stopped before it had begun, so there is nothing in it; start it again by its command"
            )
        raise UserError(f"{folder}: not a run's folder, {file} does not exist{_runs_inside(folder)}")
    if file.stat().st_size > MOST_BYTES:
        raise UserError(f"{file}: larger than settings are")
    try:
        text = file.read_text(encoding="utf-8")
        depth = 0
        for event in yaml.parse(text, Loader=SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) or depth > MOST_LEVELS:
                raise UserError(f"{file}: not the settings of a run, which have no aliases and few levels")
        settings = yaml.load(text, SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{file}: not plain YAML: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(settings, dict) or has_foreign_interpolations(settings):
        raise UserError(f"{file}: not the resolved settings of a run")
    return settings


def own_packages(folder: Path) -> list[str]:
    """Return the packages of the user's own that a run was allowed to name, for commands that are printed; empty where unreadable."""
    try:
        allow = read_settings(folder).get("allow")
    except (UserError, OSError):
        return []
    return [name for name in allow if isinstance(name, str)] if isinstance(allow, list) else []


def resume_command(folder: Path) -> str:
    """Return the command that goes on with a run, or a sweep."""
    return run_command("resume", folder, own_packages(folder))


def _runs_inside(folder: Path) -> str:
    """Where runs lie in a folder that is none, as the end of a message: the newest of them."""
    inside = sorted(
        (f.parent for f in folder.glob("*/config.yaml") if (f.parent / "results.json").exists()),
        key=lambda run: run.stat().st_mtime,
    )
    what = "a sweep's jobs" if (folder / "sweep.yaml").exists() else "runs"
    return f"; {what} lie in it, as {inside[-1]}" if inside else ""


def installed(package: str) -> str | None:
    """The version of a package; None where it is not installed, as Iolaus where its folder is merely on the path."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def other_version(folder: Path) -> str | None:
    """That a run was made by another version of Iolaus, or by another release of torch, than is installed; None where it was not.

    The last number of torch's version, of corrections, may differ.
    """
    made = read_results(folder).get("versions")
    if not isinstance(made, dict):
        return None
    differing = []
    for package, digits in (("iolaus", 3), ("torch", 2)):
        here, there = installed(package), str(made.get(package))
        if here is None or made.get(package) is None:
            continue
        if re.fullmatch(r"[\w.+-]{1,40}", there) and here.split(".")[:digits] != there.split(".")[:digits]:
            differing.append((f"{package} {there}", f"{package} {here}"))
    if not differing:
        return None
    return f"{folder}: made by {' and '.join(there for there, _ in differing)}; this is {' and '.join(here for _, here in differing)}"


def read_results(folder: Path) -> dict[str, Any]:
    """What results.json says; empty where the run did not come to write it. Metrics without a value, null in the file, are NaN."""
    try:
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(results, dict):
        return {}
    metrics = results.get("metrics")
    for values in metrics.values() if isinstance(metrics, dict) else ():
        if isinstance(values, dict):
            values |= {name: math.nan for name, value in values.items() if value is None}
    return results


def option_text(choice: Any) -> Any:
    """The option of a group as it is written in a command: of several in brackets, of one its name alone."""
    if isinstance(choice, str) and choice.startswith("["):
        choice = [name.strip() for name in choice.strip("[] ").split(",") if name.strip()]
    if not isinstance(choice, list):
        return choice
    return str(choice[0]) if len(choice) == 1 else f"[{','.join(map(str, choice))}]"


def note_results(folder: Path, changes: dict[str, Any]) -> None:
    """Write into results.json what a run could not come to say itself."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / ".results.partial"
    partial.write_text(to_json(read_results(folder) | changes, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, folder / "results.json")


def is_training(folder: Path) -> bool:
    """Whether a process holds the lock of a run's folder; not to be asked by the one that holds it, which would let go."""
    try:
        with (folder / ".lock").open("r+") as lock:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def overridden(settings: dict[str, Any], overrides: list[str]) -> DictConfig:
    """Settings with values changed by `KEY=VALUE`, and keys removed by `~KEY`, in Hydra's grammar.

    Raises:
        UserError: for a setting that is not there, or words that are no override.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    config = OmegaConf.create(settings)
    for text in overrides:
        try:
            override = OverridesParser.create().parse_override(quote_home(text))
        except HydraException:
            raise UserError(f"{text}: write KEY=VALUE") from None
        node: Any = config
        for part in override.key_or_group.split("."):
            name: Any = int(part) if isinstance(node, ListConfig) and part.isdigit() else part
            if name not in (range(len(node)) if isinstance(node, ListConfig) else node or ()):
                names = [str(n) for n in node] if isinstance(node, DictConfig) else []
                raise UserError(f"{override.key_or_group}: the run has no such setting{did_you_mean(part, names)}")
            parent, node = node, node[name]
        if override.is_delete():
            del parent[name]
        elif isinstance(parent[name], DictConfig) and not isinstance(override.value(), dict):
            raise UserError(
                f"{text}: a run keeps its {override.key_or_group}, whose settings alone may be changed, as in "
                f"{override.key_or_group}.KEY=VALUE; for another one start a run of its own"
            )
        elif override.is_sweep_override():
            raise UserError(f"{text}: one value, not several")
        else:
            parent[name] = expand_home(override.value())
    return config


def moved(settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The settings of a run whose folder may have been moved since."""
    now = str(folder.resolve())
    before = str(settings.get("output_dir") or now)
    return paths_moved(settings, before, now) | {"output_dir": now}


def paths_moved(value: Any, before: str, now: str) -> Any:
    """Texts inside containers, dictionaries' keys too, that are paths below one folder, as paths below another."""
    if isinstance(value, dict):
        return {paths_moved(key, before, now): paths_moved(item, before, now) for key, item in value.items()}
    if isinstance(value, list):
        return [paths_moved(item, before, now) for item in value]
    if isinstance(value, str) and (value == before or value.startswith(before + os.sep)):
        return now + value[len(before) :]
    return value


def refuse_paths_outside(settings: dict[str, Any], folder: Path, except_for: set[str]) -> None:
    """Callbacks, loggers and profilers write files: they may write them in the run's folder only.

    Args:
        settings: of the run.
        folder: the run's.
        except_for: keys that the user sets on the command line.

    Raises:
        UserError: for an absolute path elsewhere, or one that climbs out.
    """
    inside = folder.resolve()

    def look(value: Any, key: str) -> None:
        if isinstance(value, dict):
            for name, item in value.items():
                look(item, f"{key}.{name}")
        elif isinstance(value, list):
            for number, item in enumerate(value):
                look(item, f"{key}.{number}")
        elif isinstance(value, str) and key not in except_for and _climbs_out(value, inside):
            raise UserError(f"{key}: {value} lies outside the run's folder; set it on the command line if it is meant")

    for group in ("callbacks", "logger"):
        look(settings.get(group) or {}, group)
    look((settings.get("trainer") or {}).get("profiler"), "trainer.profiler")


def _climbs_out(text: str, folder: Path) -> bool:
    """Whether a text is a path, absolute or with steps upwards, to a place outside a folder."""
    is_path = os.path.isabs(text) or ".." in Path(text).parts
    return is_path and not Path(os.path.abspath(folder / text)).is_relative_to(folder)


def find_checkpoint(folder: Path, name: str) -> Path:
    """The file of a checkpoint by name (best, last, previous) or path; a folder where it lies in parts.

    Raises:
        UserError: when there is none, or the folder's own points elsewhere.
    """
    kept = folder / "checkpoints"
    named = name in NAMED
    file = kept / f"{name}.ckpt" if named else Path(name)
    if not file.is_file() and not (file / INDEX).is_file():
        names = sorted(f.stem for f in kept.glob("*.ckpt"))
        if named and not names:
            status = read_results(folder).get("status")
            if status == "completed":
                why = (
                    untrained(read_settings(folder))
                    or "the callback that keeps them was left out: callbacks.checkpoint"
                )
                raise UserError(f"{folder}: the run has no weights, {why}; start one that trains and keeps them")
            told = f" (status: {status})" if status in ("running", "failed", "interrupted", "pruned") else ""
            raise UserError(f"{folder}: the run has kept no weights yet{told}; go on with it: {resume_command(folder)}")
        raise UserError(f"--checkpoint {name}: {file} does not exist  (kept are: {', '.join(names) or 'none'})")
    if named and not file.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{file}: is a link to a file outside the run's folder")
    return file


def untrained(settings: dict[str, Any]) -> str | None:
    """Why a completed run trained nothing, where that was not asked for."""
    stages = settings.get("stages")
    if not isinstance(stages, list) or "fit" in stages:
        return None
    return f"it was not to train: stages=[{','.join(map(str, stages))}]"


def read_run(folder: Path, overrides: list[str], allow: list[str]) -> DictConfig:
    """The settings of a run, with overrides and without its callbacks, loggers and profiler, which would write files.

    Packages of one's own are allowed by the caller and never by the folder.
    """
    settings = read_settings(folder)
    config = overridden(settings, overrides)
    with open_dict(config):
        config.update({"output_dir": str(folder), "callbacks": {}, "logger": {}, "allow": allow})
        if "trainer" in config:
            config.trainer.profiler = None
    return config
