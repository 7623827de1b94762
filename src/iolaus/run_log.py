"""Entries of train.log that the terminal does not show, or shows by itself: tracebacks, and what the user's code prints."""

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from iolaus.terminal import FILE_ONLY, nobody_reads

PRINTED = "iolaus.printed"  # the logger of printed lines

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def log_traceback(error: BaseException) -> None:
    """Write the whole traceback of an error to train.log alone."""
    log = logging.getLogger("iolaus")
    if log.hasHandlers():  # without any, Python would write it to the terminal
        log.error("traceback:", exc_info=error, extra=FILE_ONLY)


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
