"""What a user can mend is told as one message; everything else is a bug and keeps its traceback."""

import difflib
from collections.abc import Iterable
from pathlib import Path


class UserError(Exception):
    """A mistake in a setting, a file or a command; its text names the key, what was received and what to do."""


class DamagedCheckpoint(UserError):
    """A checkpoint that is not, or no longer, what was written."""


class CannotWrite(UserError):
    """A file that could not be written.

    Args:
        file: the file.
        reason: in a few words.
    """

    def __init__(self, file: Path, reason: str):
        super().__init__(f"{file}: {reason}")
        self.file, self.reason = file, reason


class Pruned(Exception):
    """The end of a trial that promises little, which is no failure; its text says when and why."""


MOST_LINES = 8  # of one message


class ConfigError(UserError):
    """All problems of one configuration, told together, as many as eight lines hold.

    Args:
        problems: one entry a problem, each of one or two lines; equal ones are told once.
    """

    def __init__(self, problems: Iterable[str]):
        self.problems = list(dict.fromkeys(problems))
        lines = "\n".join(self.problems).splitlines()
        if len(lines) > MOST_LINES:
            lines = [*lines[: MOST_LINES - 1], f"and {len(lines) - MOST_LINES + 1} lines more; mend these first"]
        super().__init__("\n".join(lines))


def did_you_mean(name: str, names: Iterable[object]) -> str:
    """Suggest the nearest of the names, as the end of a sentence; nothing when none is near.

    Example:
        >>> did_you_mean("lrr", ["lr", "betas"])
        "; did you mean 'lr'?"
    """
    small = {str(n).lower(): str(n) for n in names}  # wrong capitals are the nearest of mistakes
    near = difflib.get_close_matches(str(name).lower(), small, 1, 0.6)
    return f"; did you mean {small[near[0]]!r}?" if near else ""


def unknown_encoding(name: str) -> UserError:
    """`data.encoding` is no name that Python knows."""
    return UserError(f"data.encoding: Python knows no encoding {name!r}; try utf-8 or latin-1")


def wrong_encoding(path: object, line: int, name: str, reason: str) -> UserError:
    """A file is not in `data.encoding`, from a line on."""
    return UserError(f"data.encoding: {path} line {line}: not {name}: {reason}; set data.encoding, as in latin-1")
