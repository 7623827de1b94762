"""A process of a sweep that trains some of its jobs as one stack: `python -m iolaus.sweep.part FILE SCRIPT`."""

import logging
import os
import pickle
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from omegaconf import DictConfig

import iolaus.interpolations  # noqa: F401  what settings call by name
from iolaus.runs import Changes, Job
from iolaus.terminal import Console


@dataclass
class Part:
    """What such a process is given.

    Args:
        configs: composed and checked, of each job.
        overrides: of each.
        choices: the option chosen for each group, of each.
        changes: the settings that each changes, where that can be told.
        flags: words of the command that say where the options are.
        figures: of which jobs they are drawn.
    """

    configs: Sequence[DictConfig]
    overrides: Sequence[list[str]]
    choices: Sequence[dict]
    changes: Sequence[Changes | None]
    flags: list[str]
    figures: Literal["best", "all"]

    def write(self, file: Path) -> None:
        """Hand it over to the process that reads it, which deletes the file."""
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as opened:
            pickle.dump(self, opened)

    def train(self) -> None:
        """Train, test and report all."""
        from iolaus.sweep.vectorized import train_together

        jobs = [
            Job(overrides, choices, changed=lambda found=found: found, flags=self.flags)  # type: ignore[misc]
            for overrides, choices, found in zip(self.overrides, self.choices, self.changes, strict=True)
        ]
        train_together(self.configs, jobs, self.figures)


def main(file: Path, script: str) -> None:
    """Train the part that a file holds, as a process of the script."""
    sys.argv = [script]
    sys.path[:0] = [str(Path(script).parent), os.getcwd()]
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[Console(sys.stdout)])
    part: Part = pickle.loads(file.read_bytes())
    file.unlink()
    part.train()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
