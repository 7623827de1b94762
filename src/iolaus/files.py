"""Files that are at every moment either what they were or the new ones."""

import contextlib
import os
import shutil
from pathlib import Path

from iolaus.errors import UserError

PARTIAL = ".partial"  # ending of a file that is being written
INDEX = "index.json"  # in a checkpoint that is a folder of parts
ASIDE = ".old"  # ending of a folder that is being replaced


def write(file: Path, content: str | bytes) -> None:
    """Write a file so that it is at every moment either what it was or the new one.

    Raises:
        UserError: when its folder was removed meanwhile.
        OSError: with the file's name, when it cannot be written; what it was stays.
    """
    if not file.parent.is_dir():
        raise UserError(f"output_dir: {file.parent} is gone; it was removed while the run went on")
    partial = file.with_name(file.name + PARTIAL)
    partial.unlink(missing_ok=True)  # in a stranger's folder it may be a link to a file of one's own
    try:
        with partial.open("xb") as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
        os.replace(partial, file)
    except OSError as error:  # the disk is full, or a folder has its name
        with contextlib.suppress(OSError):
            partial.unlink()
        raise OSError(error.errno, error.strerror, str(file)) from error


def append(file: Path, content: str, header: str = "") -> None:
    """Append to a file, or leave it as it was.

    Args:
        file: made where there is none.
        content: to append.
        header: the first line of an empty file.

    Raises:
        OSError: with the file's name, when it cannot be written.
    """
    with file.open("ab", buffering=0) as stream:
        size = stream.tell()
        data = (content if size else header + content).encode()
        try:
            while data:  # a full disk takes what it has room for, and refuses the rest with the reason
                data = data[stream.write(data) :]
        except OSError as error:
            os.truncate(file, size)
            raise OSError(error.errno, error.strerror, str(file)) from error


def replace(new: Path, target: Path) -> None:
    """`os.replace`, also where one of them is a folder: what was there stays beside it until the new one has its name."""
    if not new.is_dir() and not target.is_dir():
        os.replace(new, target)
        return
    aside = target.with_name(target.name + ASIDE)
    remove(aside)
    if target.exists():
        os.rename(target, aside)
    os.rename(new, target)
    remove(aside)


def remove(path: Path) -> None:
    """Remove a file or a folder; nothing where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def tidy(folder: Path, pattern: str) -> None:
    """Remove what a killed process left half written, and take back what it was about to replace."""
    for partial in folder.glob(pattern + PARTIAL):
        remove(partial)  # which another process of the run may have done
    for aside in folder.glob(pattern + ASIDE):
        target = aside.with_name(aside.name.removesuffix(ASIDE))
        if target.exists():
            remove(aside)
            continue
        with contextlib.suppress(FileNotFoundError):
            os.rename(aside, target)


def size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(file.stat().st_size for file in path.iterdir()) if path.is_dir() else path.stat().st_size
