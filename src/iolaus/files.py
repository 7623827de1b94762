"""Files that are at every moment either what they were or the new ones."""

import os
from pathlib import Path

from iolaus.errors import UserError

PARTIAL = ".partial"  # ending of a file that is being written


def write(file: Path, content: str | bytes) -> None:
    """Write a file so that it is at every moment either what it was or the new one.

    Raises:
        UserError: when its folder was removed meanwhile.
    """
    if not file.parent.is_dir():
        raise UserError(f"output_dir: {file.parent} is gone; it was removed while the run went on")
    partial = file.with_name(file.name + PARTIAL)
    partial.unlink(missing_ok=True)  # in a stranger's folder it may be a link to a file of one's own
    with partial.open("xb") as stream:
        stream.write(content.encode() if isinstance(content, str) else content)
    os.replace(partial, file)
