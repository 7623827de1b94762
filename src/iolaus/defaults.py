"""The settings that a command changes: the options it chooses in place of others, and values that are not those of the options."""

import functools
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose
from hydra.core.default_element import ResultDefault
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from iolaus.rules import GROUPS, LISTS
from iolaus.runs import Changes, SafeLoader, changes, option_text

log = logging.getLogger("iolaus")

OWN = ("hydra", "name", "output_dir")
CHECKOUT = Path(__file__).parents[2]


def changed_by(hydra: Any, config: DictConfig) -> Callable[[], Changes | None]:
    """What finds the settings that a job changes, once it is asked; composing the defaults takes a tenth of a second.

    Args:
        hydra: the job's own settings of Hydra: its choices, its overrides, where its options are.
        config: the job's settings as they were composed, before the data tell what only they know.
    """
    settings: dict[str, Any] = _plain(config)
    choices = {str(group).split("@")[0]: choice for group, choice in hydra.runtime.choices.items()}
    chosen = {group: choice for group, choice in choices.items() if group in GROUPS}
    extra = {group: choices[group] for group in ("experiment", "sweep") if choices.get(group) not in (None, "grid")}
    sources = [Path(source.path) for source in hydra.runtime.config_sources if source.schema == "file"]
    job = str(hydra.job.config_name), list(hydra.overrides.task), chosen, extra, sources

    def changed() -> Changes | None:
        if not GlobalHydra.instance().is_initialized():
            return None
        try:
            return _changed(*job, settings)
        except (HydraException, OmegaConfBaseException, ValueError) as error:  # a report is not lost for it
            log.warning("the settings that differ from the defaults cannot be told: %s", str(error).splitlines()[0])
            return None

    return changed


def find_replaced(hydra: Any, config: DictConfig) -> Iterator[str]:
    """Find lists of options that a command replaces where it may have meant to add to them, and what the run then lacks.

    A choice that shares a part with the list that it replaces is a choice among its parts, and one of nothing is meant so; so is a list of
    loggers.

    Args:
        hydra: the job's own settings of Hydra.
        config: the job's settings.
    """
    name, words = str(hydra.job.config_name), list(hydra.overrides.task)
    sources = [Path(source.path) for source in hydra.runtime.config_sources if source.schema == "file"]
    for group, word in ((word.partition("=")[0], word) for word in words):
        parts = (config.get(group) or {}) if group in LISTS else {}
        if not parts or (group == "logger" and isinstance(_read(word), list)):  # one logger may stand for another
            continue
        others = tuple(o for o in words if o is not word and o.lstrip("+~").partition(".")[0] != group)
        try:
            before, picked = _composed(name, tuple(map(str, sources)), others)
        except (HydraException, OmegaConfBaseException, ValueError):
            continue  # the other words make no configuration of their own; the command as a whole has been checked
        removed = {o.lstrip("~").removeprefix(f"{group}.") for o in words if o.startswith(f"~{group}.")}
        default = [key for key, part in (before.get(group) or {}).items() if part]
        lost = [key for key in default if key not in parts and key not in removed]
        if not lost or set(default) & set(parts):
            continue
        listed = _listed(name, sources).get(group)
        options = listed if isinstance(listed, list) else [picked.get(group, listed)]
        chosen = value if isinstance(value := _read(word), list) else [value]
        yield (
            f"{word}: takes the place of {group}={option_text(options)}, so the run is without {', '.join(lost)}; to have both "
            f"write {group}=[{','.join(map(str, [*options, *chosen]))}]"
        )


def several(hydra: Any) -> dict[str, list[str]]:
    """The options of each group that takes a list of them, which Hydra does not tell.

    Args:
        hydra: the job's own settings of Hydra.
    """
    name, words = str(hydra.job.config_name), list(hydra.overrides.task)
    sources = [Path(source.path) for source in hydra.runtime.config_sources if source.schema == "file"]
    listed = {g: v for g, v in _listed(name, sources).items() if g in GROUPS and isinstance(v, list)}
    choosing = [hydra.runtime.choices.get(group) for group in ("experiment", "sweep")]
    if any(option not in (None, "grid") for option in choosing) and GlobalHydra.instance().is_initialized():
        loader = (
            GlobalHydra.instance().config_loader()
        )  # these may choose options too, which takes a composition to tell
        parts = loader.compute_defaults_list(name, words, RunMode.RUN).defaults
        return {group: _options(group, parts) for group in listed}
    given = {word.partition("=")[0]: _read(word) for word in words if word.partition("=")[0] in listed}
    return listed | {group: option if isinstance(option, list) else [option] for group, option in given.items()}


def flags_of(hydra: Any) -> list[str]:
    """Return the words of a command that say where a job's options are, besides those beside train.py.

    Args:
        hydra: the job's own settings of Hydra.
    """
    scripts = (os.environ.get("IOLAUS_SCRIPT", ""), sys.argv[0], CHECKOUT / "train.py")
    beside = [Path(script).resolve().parent / "conf" for script in scripts]
    flags = [] if hydra.job.config_name == "config" else ["--config-name", str(hydra.job.config_name)]
    for source in hydra.runtime.config_sources:
        if source.provider == "command-line":
            flags += ["--config-dir", _from_here(source.path)]
        elif source.provider == "main" and Path(source.path).resolve() not in beside:
            flags += ["--config-path", str(Path(source.path).resolve())]
    return [*flags, *(str(word) for word in hydra.overrides.hydra if str(word).startswith("hydra.searchpath="))]


def _from_here(folder: str) -> str:
    """Return a folder by its path from the working directory, where it lies in that."""
    place = Path(folder).resolve()
    return os.path.relpath(place) if place.is_relative_to(Path.cwd()) else str(place)


def _options(group: str, parts: Sequence[ResultDefault]) -> list[str]:
    """The options of a group among the parts of a composition, without those that they are made of themselves."""
    inside = f"{group}/"
    named = [p.config_path for p in parts if p.config_path and not str(p.parent).startswith(inside)]
    return [path.removeprefix(inside) for path in named if path.startswith(inside)]


def _changed(
    name: str,
    overrides: Sequence[str],
    chosen: dict[str, Any],
    extra: dict[str, Any],
    sources: Sequence[Path],
    settings: dict[str, Any],
) -> Changes:
    """The changes of one job.

    Args:
        name: of the primary config.
        overrides: the job's.
        chosen: the option of each group of which one is chosen; an experiment may have chosen it.
        extra: the experiment and the sweep, which choose options and set values too.
        sources: the folders of options.
        settings: as composed, interpolations not followed.
    """
    places = tuple(map(str, sources))
    words = {word.partition("=")[0]: word for word in overrides}
    several = [word for group, word in words.items() if group in GROUPS - chosen.keys()]
    found: Changes = {group: {"default": None, "value": choice} for group, choice in extra.items()}
    listed = _listed(name, sources)
    for group, choice in (chosen | {word.partition("=")[0]: _read(word) for word in several}).items():
        if group != "data" and group not in words and not extra:
            continue  # the data set or the task picked it
        picked = {} if group == "data" else _composed(name, places, (f"data={chosen['data']}",))[1]
        default = picked.get(group, listed.get(group))
        if choice != default:
            found[group] = {"default": default, "value": choice}
    if extra or any(group not in GROUPS for group in words):
        options = [f"{group}={choice}" for group, choice in chosen.items() if choice is not None]
        defaults, _ = _composed(name, places, (*options, *several))
        found |= changes(defaults, settings)
    return found


def _plain(config: DictConfig) -> Any:
    """Settings as plain containers, interpolations not followed, without Hydra's and those that every run has for itself."""
    kept = [str(key) for key in config if key not in OWN]
    return OmegaConf.to_container(OmegaConf.masked_copy(config, kept), resolve=False)


def _read(word: str) -> Any:
    return yaml.safe_load(word.partition("=")[2])


def _listed(name: str, sources: Sequence[Path]) -> dict[str, Any]:
    """The option of each group in the defaults list of the primary config."""
    file = next((folder / f"{name}.yaml" for folder in sources if (folder / f"{name}.yaml").is_file()), None)
    entries = (yaml.load(file.read_text(encoding="utf-8"), SafeLoader) or {}).get("defaults", []) if file else []
    return {str(key): value for entry in entries if isinstance(entry, dict) for key, value in entry.items()}


@functools.lru_cache(maxsize=64)
def _composed(name: str, places: tuple[str, ...], words: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings as these words compose them from the options at these places, and the options chosen."""
    config = compose(name, list(words), return_hydra_config=True)
    choices = {str(group).split("@")[0]: choice for group, choice in config.hydra.runtime.choices.items()}
    return _plain(config), choices
