"""Lock a run's folder, and protect the files of others in it."""

import fcntl
import os
from pathlib import Path
from typing import TextIO

from iolaus.errors import UserError
from iolaus.runs import resume_command

# of what a run leaves, what it would write over in a folder of something else
WRITTEN = ("results.json", "report.md", "report.html", "metrics.csv", "model.txt", "checkpoints", "figures", "samples")


def claim(folder: Path, resumed: bool) -> TextIO:
    """Make a folder this process' own, for as long as the file that is returned is open.

    Raises:
        UserError: when it holds a run already, or files that a run would write over, or another process trains in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    held = (folder / ".lock").open("w")
    try:
        fcntl.lockf(held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock's it is not handed on to a loader's processes
        if not os.path.samestat(os.fstat(held.fileno()), os.stat(held.name)):
            raise BlockingIOError  # it was another's, who has just removed it
    except (BlockingIOError, FileNotFoundError):
        held.close()
        raise UserError(f"output_dir: another process is training in {folder}") from None
    if not resumed and (folder / "config.yaml").exists():
        held.close()
        raise UserError(
            f"output_dir: {folder} holds a run already; choose another folder, or go on with it: {resume_command(folder)}"
        )
    if not resumed and (others := [name for name in WRITTEN if (folder / name).exists()]):
        held.close()
        raise UserError(f"output_dir: {folder} holds {', '.join(others)} of something else; choose another folder")
    return held
