"""Entries of train.log that the terminal does not show, or shows by itself: tracebacks, and what the user's code prints."""

import logging
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from iolaus.terminal import FILE_ONLY, nobody_reads
from iolaus.unwritten import is_of_disk, unwritten

PRINTED = "iolaus.printed"  # the logger of printed lines

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class LogFile(logging.FileHandler):
    """Writes train.log; what a full disk refuses is noted, and written later where there is room again.

    Args:
        filename: the file.
        encoding: of its characters.
    """

    def __init__(self, filename: str | Path, encoding: str = "utf-8"):
        super().__init__(filename, encoding=encoding)

    def handleError(self, record: logging.LogRecord) -> None:
        """Note a file that cannot be written, and print every other error."""
        error = sys.exc_info()[1]
        if error is not None and is_of_disk(error):
            unwritten.note(self.baseFilename, error)
        else:
            super().handleError(record)

    def close(self) -> None:
        """Close the file, also where its last lines cannot be written."""
        with unwritten.noted(self.baseFilename):
            super().close()


def log_traceback(error: BaseException, file: Path | None = None) -> None:
    """Write the whole traceback of an error to train.log alone.

    Args:
        error: with its causes.
        file: train.log, for a process that does not log, as of several all but the first.
    """
    log = logging.getLogger("iolaus")
    if log.hasHandlers():  # without any, Python would write it to the terminal
        log.error("traceback:", exc_info=error, extra=FILE_ONLY)
    elif file is not None and file.parent.is_dir():
        with unwritten.noted(file), file.open("a", encoding="utf-8") as opened:
            opened.writelines(traceback.format_exception(error))


@contextmanager
def logged_stdout() -> Iterator[None]:
    """Copy what is printed meanwhile to train.log; the terminal gets it as before."""
    before = sys.stdout
    copied = _CopiedStdout(before)
    sys.stdout = copied
    try:
        yield
    finally:
        copied.close_copy()
        if sys.stdout is copied:
            sys.stdout = before


class _CopiedStdout:
    """Standard output whose lines are logged too, except those that a progress bar draws over one another."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self._line = ""
        self._is_copying = True

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except BrokenPipeError:  # as of `| head`: the run goes on
            nobody_reads()
        if self._is_copying:
            *lines, self._line = (self._line + text).split("\n")
            for line in lines:
                self._log(line)
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def close_copy(self) -> None:
        """Log an unfinished line, and no more."""
        if self._line:
            self._log(self._line)
        self._line, self._is_copying = "", False

    def _log(self, line: str) -> None:
        line = _COLOURS.sub("", line.rstrip("\r"))
        if not line.strip() or "\r" in line or "\x1b" in line:
            return
        self._is_copying = False  # a handler that writes to this stream must not be copied again
        try:
            logging.getLogger(PRINTED).info("%s", line, extra=FILE_ONLY)
        finally:
            self._is_copying = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
