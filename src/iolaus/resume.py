"""Going on with a run: from its own settings, in its own folder, with the same bits."""

import logging
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, open_dict

import iolaus.interpolations  # noqa: F401  what settings call by name
from iolaus.check import check, plain
from iolaus.errors import UserError
from iolaus.rules import GROUPS
from iolaus.run_log import LogFile
from iolaus.runs import (
    Changes,
    Job,
    changes,
    moved,
    option_text,
    overridden,
    read_results,
    read_settings,
    refuse_paths_outside,
    untrained,
)
from iolaus.schedule_ends import LENGTHS, outgrown
from iolaus.startup import import_lightning
from iolaus.terminal import RESULT, Console

# What a resume point holds, or was made with: another value would have no effect, or another meaning.
FIXED = (
    "seed=",
    "data.",
    "model.",
    "loss.",
    "optim.",
    "gradient.",
    "scheduler.",
    "task.",
    "augment.",
    "metrics.",
    "objective",
    "init",
)
MOVABLE = (
    "data.path=",
    "data.root=",
    "data.download=",
    "data.test_path=",
    "data.transcripts=",
    "data.test_transcripts=",
    "data.num_workers=",
    "data.eval_batch_size=",
)


def resume(folder: Path, overrides: list[str], allow: list[str], quiet: bool = False) -> float | None:
    """Go on with a run from its newest resume point, to its end and its report.

    Args:
        folder: the run's.
        overrides: settings to change; those that the run was started with say nothing new and are passed over.
        allow: packages of one's own that the settings may name.
        quiet: whether only errors and the result are told.

    Raises:
        UserError: for a folder without a run, a run that is complete, settings that cannot be changed.
    """
    config, job = prepare(folder, overrides, allow)
    import_lightning()
    from iolaus.train import train

    root = logging.getLogger()
    handlers: list[logging.Handler] = [Console(sys.stdout), LogFile(folder / "train.log")]
    handlers[1].setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handlers[0].setLevel(RESULT if quiet else logging.NOTSET)
    root.setLevel(logging.INFO)
    for handler in handlers:
        root.addHandler(handler)
    try:
        return train(config, job)
    finally:
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()


def prepare(folder: Path, overrides: list[str], allow: list[str]) -> tuple[DictConfig, Job]:
    """The checked settings to go on with, and what was asked for, then and now."""
    settings = moved(read_settings(folder), folder)
    results = read_results(folder)
    choices, asked = dict(results.get("choices") or {}), [str(o) for o in results.get("overrides") or []]
    new = [o for o in overrides if o not in asked and not _is_choice(o, choices)]
    if fixed := [o for o in new if o.startswith(FIXED) and not o.startswith(MOVABLE) and not _is_length(o)]:
        raise UserError(
            f"{fixed[0]}: a run goes on with what it was begun with, which its resume point holds; "
            "trainer, callbacks, logger and where the data lie may change; start a run of its own for the rest"
        )
    changed = {o.lstrip("~").partition("=")[0] for o in new}
    refuse_paths_outside(settings, folder, except_for=changed)
    config = overridden(settings, new)
    if results.get("status") == "completed" and (why := untrained(settings)):
        raise UserError(f"{folder}: there is nothing to go on with, {why}; start a run that does")
    if results.get("status") == "completed" and not new:
        raise UserError(
            f"{folder}: the run is complete, {results.get('epochs')} epochs; to train on, raise what ended it: "
            f"{_raised_limit(settings, folder, results)}"
        )
    with open_dict(config):
        config.allow = allow
    check(config, choices)
    if missing := outgrown(settings, plain(config), _steps_per_epoch(results)):
        raise UserError(
            f"{_limits(new)}: the schedule ends where the training was to end before; to let both end later, with the rates of a "
            f"run that was that long from the start, add {' '.join(missing)}"
        )
    if "resume_points" not in (config.get("callbacks") or {}):
        raise UserError(f"{folder}: the run keeps no resume points, callbacks.resume_points was left out")
    later = changes(settings, plain(config, resolve=False) | {"allow": settings.get("allow")})
    all_changes = _changed(results.get("changed"), asked, later)
    flags = [str(word) for word in results.get("flags") or []]
    return config, Job([*asked, *new], choices, True, train_on=bool(new), changed=lambda: all_changes, flags=flags)


def _raised_limit(settings: dict[str, Any], folder: Path, results: dict[str, Any]) -> str:
    """The command that trains a run on to twice the limit that ended it, its schedule too."""
    command = f"iolaus resume {shlex.quote(os.path.relpath(folder))}"
    for key, count in (("max_epochs", "epochs"), ("max_steps", "steps")):
        if 0 < (limit := settings["trainer"].get(key) or -1) <= (results.get(count) or 0):
            longer = settings | {"trainer": settings["trainer"] | {key: 2 * limit}}
            more = outgrown(settings, longer, _steps_per_epoch(results))
            return " ".join([command, f"trainer.{key}={2 * limit}", *more])
    if settings["trainer"].get("max_time"):
        return f"{command} trainer.max_time=null"
    if stopping := (settings.get("callbacks") or {}).get("early_stopping"):
        return f"{command} callbacks.early_stopping.patience={max(2 * stopping['patience'], 1)}"
    return "trainer.max_epochs, max_steps or max_time"


def _steps_per_epoch(results: dict[str, Any]) -> float | None:
    """Optimizer steps of an epoch, as far as the results tell."""
    steps, epochs = results.get("steps"), results.get("epochs")
    return steps / epochs if steps and epochs else None


def _limits(overrides: list[str]) -> str:
    """Those of the overrides that lengthen a training."""
    limits = [o for o in overrides if o.startswith(("trainer.max_", "~trainer.max_", "trainer.limit", "trainer.acc"))]
    return " ".join(limits or overrides)


def _is_length(override: str) -> bool:
    """Whether an override changes the length of a schedule, which a run that goes on may have."""
    return LENGTHS.fullmatch(override.partition("=")[0]) is not None


def _changed(before: Any, asked: list[str], later: Changes) -> Changes:
    """What a run changes of the defaults, then and now; what it was asked for stands for the former where it did not come to say it."""
    if not isinstance(before, dict):
        pairs = (word.partition("=")[::2] for word in asked if "=" in word)
        before = {key.lstrip("+"): {"value": value} for key, value in pairs}
    merged = before | {
        key: {k: v for k, v in before.get(key, told).items() if k == "default"}
        | {k: v for k, v in told.items() if k == "value"}
        for key, told in later.items()
    }
    return {
        key: told for key, told in merged.items() if "default" not in told or told["default"] != told.get("value", told)
    }


def _is_choice(override: str, choices: dict[str, Any]) -> bool:
    """Whether an override names the option that the run has anyway; another one needs another run."""
    group, equals, option = override.partition("=")
    if group not in GROUPS or not equals:
        return False
    if str(option_text(choices.get(group))) != option_text(option.strip()):
        raise UserError(
            f"{override}: the run has {group}={option_text(choices.get(group))}, and goes on with it; start a run of its own"
        )
    return True
