"""A finished run made ready to be tested or to predict: its settings checked, its weights read; told when another version made it."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from iolaus.check import check, plain
from iolaus.errors import ConfigError
from iolaus.runs import find_checkpoint, other_version, read_run
from iolaus.startup import import_lightning


@dataclass(frozen=True)
class Finished:
    """What predicts.

    Args:
        settings: of the run, resolved, with the overrides.
        data: the data module, which knows what the checkpoint tells and has read no file.
        task: with the checkpoint's weights, in eval mode.
        checkpoint: the file.
    """

    settings: dict[str, Any]
    data: Any
    task: Any
    checkpoint: Path


def checked(
    folder: Path, overrides: list[str], checkpoint: str, allow: list[str], reads_data: bool = True
) -> tuple[DictConfig, Path]:
    """The checked settings of a run and the file of a checkpoint; a line tells when another version of Iolaus made the run.

    Args:
        folder: the run's.
        overrides: settings KEY=VALUE to change.
        checkpoint: best, last, previous, or a file.
        allow: packages of one's own that the settings may name.
        reads_data: whether the data will be read, so that their files must be there.

    Raises:
        UserError: for a folder without a run or without this checkpoint.
        ConfigError: for settings that this version cannot build, beginning with the versions where they differ.
    """
    config = read_run(folder, overrides, allow)
    weights = find_checkpoint(folder, checkpoint)
    note = other_version(folder)
    try:
        check(config, reads_data=reads_data)
    except ConfigError as error:
        if note is None:
            raise
        raise ConfigError(
            [f"{note}, which refuses some of its settings; set them by KEY=VALUE, or install that", *error.problems]
        ) from None
    if note is not None:
        print(note, file=sys.stderr)
    return config, weights


def restored(folder: Path, overrides: list[str], checkpoint: str, allow: list[str]) -> Finished:
    """A run that can predict; the data that it was trained on need not be there. Arguments as for `checked`.

    Raises:
        UserError: as `checked` does, and for a checkpoint of another model.
    """
    config, weights = checked(folder, overrides, checkpoint, allow, reads_data=False)
    import_lightning()
    from iolaus.build import restore

    settings = plain(config)
    data, task = restore(settings, weights)
    return Finished(settings, data, task, weights)
