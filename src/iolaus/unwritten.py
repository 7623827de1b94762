"""Collect the files of a run that the disk refuses, for one message at its end."""

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from iolaus.errors import CannotWrite

OF_DISK = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.ENOTDIR}
)


class Unwritten:
    """The files that this process could not write, each with the reason of its first failure."""

    def __init__(self) -> None:
        self._reasons: dict[Path, str] = {}

    def note(self, file: Path | str, error: BaseException) -> None:
        """Keep that a file could not be written."""
        self._reasons.setdefault(Path(os.path.abspath(file)), reason_of(error))

    @contextmanager
    def noted(self, file: Path | str) -> Iterator[None]:
        """Go on where the disk refuses a file; every other error is raised."""
        try:
            yield
        except (OSError, CannotWrite) as error:
            if not is_of_disk(error):
                raise
            self.note(file, error)

    def forget(self, file: Path) -> None:
        """Drop a file that was written after all."""
        self._reasons.pop(Path(os.path.abspath(file)), None)

    def take(self, folder: Path) -> dict[str, str]:
        """Return the reasons by file for all files in a folder, by their paths in it, and forget them."""
        top = Path(os.path.abspath(folder))
        inside = [file for file in self._reasons if file.is_relative_to(top)]
        return {str(file.relative_to(top)): self._reasons.pop(file) for file in inside}


unwritten = Unwritten()


def is_of_disk(error: BaseException) -> bool:
    """Whether the disk refused a file: it is full, read-only or broken, or the rights are missing."""
    return isinstance(error, CannotWrite) or (isinstance(error, OSError) and error.errno in OF_DISK)


def reason_of(error: BaseException) -> str:
    """The reason in a few words, without the file."""
    if isinstance(error, CannotWrite):
        return error.reason
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def list_unwritten(reasons: dict[str, str]) -> str:
    """One line for each reason, with its files."""
    files: dict[str, list[str]] = {}
    for file, reason in reasons.items():
        files.setdefault(reason, []).append(file)
    return "\n".join(f"not written: {', '.join(names)}: {reason}" for reason, names in files.items())


@contextmanager
def quiet_thread_errors() -> Iterator[None]:
    """Print no traceback of a thread that cannot write its file.

    The owner of the thread, as TensorBoard's writer, raises the error again at its next call.
    """
    before = threading.excepthook

    def print_others(failure: threading.ExceptHookArgs) -> None:
        if failure.exc_value is None or not is_of_disk(failure.exc_value):
            before(failure)

    threading.excepthook = print_others
    try:
        yield
    finally:
        threading.excepthook = before
