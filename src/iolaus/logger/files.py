"""Files that only grow: what was appended after a moment can be cut off again."""

import os
from collections.abc import Iterable
from pathlib import Path


def cut_files(files: Iterable[Path], sizes: dict[str, int] | None) -> None:
    """Cut files back to their sizes in bytes, by name; files without one are removed."""
    for file in files:
        size = (sizes or {}).get(file.name)
        if size is None:
            file.unlink()
        elif file.stat().st_size > size:
            os.truncate(file, size)
