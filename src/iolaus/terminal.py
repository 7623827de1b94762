"""What the terminal can show, and how much it is told: terminals and logs, encodings without box characters, pipes that end."""

import io
import logging
import os
import shutil
import sys
from typing import Any, TextIO

RESULT = 25  # the level of what a run or a sweep came to, which -q leaves
MOST_LETTERS = 120  # of a line of a table
BOXES = "┏━┃└─│"
FILE_ONLY = {"is_file_only": True}  # `extra` of log records that are not for the terminal
logging.addLevelName(RESULT, "RESULT")


class Console(logging.StreamHandler):
    """Writes to a stream that may end before the program does, as that of `| head` or on a full disk: the rest is told to nobody."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, unless it is for the log file alone."""
        if not getattr(record, "is_file_only", False):
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Tell of an error in writing, unless nobody reads any more."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        if not isinstance(error, BrokenPipeError):
            print(f"standard output cannot be written: {error.strerror}; the run goes on", file=sys.stderr)
        nobody_reads()


def nobody_reads() -> None:
    """Let standard output go nowhere, so that neither a later line nor Python's end trips over a reader that is gone."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def write_leniently() -> None:
    """Write a question mark for what the encoding of standard output and errors has no character for, and nowhere where one is closed."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")


def has_boxes() -> bool:
    """Whether lines can be drawn by characters that are made for it."""
    try:
        BOXES.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return os.environ.get("TERM") != "dumb"


def is_live(stream: TextIO) -> bool:
    """Whether what is written to a stream can be drawn over: a terminal that somebody looks at."""
    return stream.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("CI") and not is_quiet()


def is_quiet() -> bool:
    """Whether only results and errors are told."""
    return any(isinstance(h, Console) and h.level > logging.INFO for h in logging.getLogger().handlers)


def width() -> int:
    """Letters of a line: the terminal's, or those of the variable COLUMNS, up to MOST_LETTERS, which a pipe or a file gets."""
    if not (os.environ.get("COLUMNS") or sys.stdout.isatty()):
        return MOST_LETTERS
    return min(shutil.get_terminal_size((MOST_LETTERS, 24)).columns, MOST_LETTERS)


def tree(name: str, settings: dict[str, Any], notes: dict[str, str]) -> str:
    """Settings as a tree.

    Args:
        name: of its root.
        settings: plain containers; a part's class stands behind its name.
        notes: what is said of some settings, by their full names.
    """
    return "\n".join([name, *_branches(settings, notes, "", "")])


def _branches(node: dict[str, Any], notes: dict[str, str], path: str, indent: str) -> list[str]:
    fork, last, line = ("├── ", "└── ", "│   ") if has_boxes() else ("|-- ", "`-- ", "|   ")
    children = [(key, value) for key, value in node.items() if key not in ("_target_", "_accepts_")]
    lines = []
    for place, (key, value) in enumerate(children):
        is_last, full = place == len(children) - 1, f"{path}{key}"
        note = f"   ({notes[full]})" if full in notes else ""
        inside = value if isinstance(value, dict) and value else None
        told = inside.get("_target_", "") if inside else _flow(value)
        lines.append(f"{indent}{last if is_last else fork}{key}{': ' if told else ''}{told}{note}")
        if inside:
            lines += _branches(inside, notes, f"{full}.", indent + ("    " if is_last else line))
    return lines


def _flow(value: Any) -> str:
    """A value as YAML in a line."""
    import yaml

    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")
