"""Loggers that keep a file in the run's folder, and files that only grow: what was appended after a moment can be cut off again."""

import os
from abc import ABC
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only


class FileLogger(Logger, ABC):
    """A logger of values alone, in one file.

    Args:
        path: the file.
    """

    def __init__(self, path: str | Path):
        super().__init__()
        self.path = Path(path)

    @property
    def name(self) -> str:
        return type(self).__name__

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Hyperparameters stand in config.yaml."""


def cut_files(files: Iterable[Path], sizes: dict[str, int] | None) -> None:
    """Cut files back to their sizes in bytes, by name; files without one are removed."""
    for file in files:
        size = (sizes or {}).get(file.name)
        if size is None:
            file.unlink()
        elif file.stat().st_size > size:
            os.truncate(file, size)
