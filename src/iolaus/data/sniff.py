"""What a table's target column holds, told from the file's text alone (torch and pandas take seconds to import)."""

import csv
import itertools
from pathlib import Path
from typing import Literal

from iolaus.errors import UserError, did_you_mean

ROWS = 10_000  # rows that are looked at
SEPARATORS = {"tab": "\t", "semicolon": ";", "comma": ",", "pipe": "|", "space": " ", "\\t": "\t"}
MOST_CLASSES = 20  # more different whole numbers than these are amounts, not labels


def sniff_target_kind(path: str | None, target: str | None, separator: str) -> Literal["class", "real"]:
    """Whether the target column holds labels or amounts.

    Text is labels; so are at most 20 different whole numbers, each on two rows on average at least. Other numbers are
    amounts.

    Args:
        path: the file.
        target: the column to predict.
        separator: what stands between two cells.

    Raises:
        UserError: when the file or the column is not there, or no row is.
    """
    if path is None or not Path(path).is_file():
        what = "must be given, as in data.path=FILE.csv" if path is None else f"{path} is not a file"
        raise UserError(f"data.path: {what}  (working directory: {Path.cwd()})")
    columns = header(path, separator)
    target = None if target is None else str(target)  # names such as 3 arrive as numbers
    if target is None:
        raise UserError(f"data.target: must name the column to predict; {path} has {', '.join(columns)}")
    if target not in columns:
        raise UserError(
            f"data.target: {path} has no column {target!r}{did_you_mean(target, columns)}  (it has: {', '.join(columns)})"
        )
    position = columns.index(target)
    separator = delimiter(separator)
    with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:
        rows = itertools.islice(csv.reader(file, delimiter=separator), 1, ROWS)
        cells = [row[position].strip() for row in rows if len(row) > position and row[position].strip()]
    if not cells:
        raise UserError(f"data.path: {path} has no rows with a value in column {target!r}")
    try:
        numbers = {float(cell) for cell in cells}
    except ValueError:
        return "class"
    whole = all(number.is_integer() for number in numbers)
    return "class" if whole and len(numbers) <= MOST_CLASSES and 2 * len(numbers) <= len(cells) else "real"


def delimiter(separator: str) -> str:
    r"""The character between two cells: itself, or its name (tab, semicolon, comma, pipe, space), or \t.

    Raises:
        UserError: for anything else.
    """
    found = SEPARATORS.get(str(separator), str(separator))
    if len(found) != 1:
        raise UserError(
            f"data.separator: must be one character or one of {', '.join(SEPARATORS)}; received {separator!r}"
        )
    return found


def header(path: str, separator: str) -> list[str]:
    """The column names of a table.

    Raises:
        UserError: when the file is empty, a name stands twice, or another separator is meant.
    """
    separator = delimiter(separator)
    with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:
        columns = next(csv.reader(file, delimiter=separator), [])
    if not columns:
        raise UserError(f"data.path: {path} is empty")
    names = [c.strip() for c in columns]
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise UserError(f"data.path: {path} has two columns named {twice[0]!r}; rename one")
    others = [word for word, char in SEPARATORS.items() if word not in ("\\t", "space") and char in names[0]]
    if len(names) == 1 and others:
        raise UserError(f"data.separator: {path} has one column, {names[0]!r}; set data.separator={others[0]}")
    return names
