"""Kinds of a table's columns: numbers, texts, dates, row numbers; the refusals of those that are none of them."""

import itertools
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from iolaus.data.cells import (
    MAX_CLASSES,
    AmbiguousNumbers,
    Notation,
    find_notation,
    is_amount,
    is_date,
)
from iolaus.errors import UserError
from iolaus.overrides import override_text

DATE_SHARE = 0.9  # of distinct cells that are dates in a column of dates
NUMBER_SHARE = 0.5  # of distinct cells that are numbers in a column of numbers with odd texts
LIKE_A_NUMBER = re.compile(r"[^\w\s]{0,3}\s?\d[\d.,' ]*\s?[^\d\s]{0,6}")  # such as "5 kg" or "< 0.1"
# Names of columns that identify rows, and of those that may count them.
IDENTIFIER = re.compile(
    r"(.*[\W_])?(id|idx|index|uid|uuid|guid)|.*[a-z](ID|Id)|row[\W_]?(names?|num|number|id|nr|no)|ID"
)
COUNTER = re.compile(r"obs|observation|case|nr|no|number|seq|s[\W_]?no|#|unnamed: \d+", re.IGNORECASE)


@dataclass(frozen=True)
class ColumnKind:
    """How a column is read.

    Args:
        kind: number; text; date; mixed: amounts with some other texts between them.
        notation: of the numbers, of number and mixed.
        odd: a cell that shows why a column is a date or mixed.
    """

    kind: Literal["number", "text", "date", "mixed"]
    notation: Notation | None = None
    odd: str = ""


def classify(cells: Sequence[str], decimal: str | None = None, thousands: str | None = None) -> ColumnKind:
    """Return the kind of a column.

    Args:
        cells: of all rows that have a value.
        decimal: the decimal sign, where the user gives it.
        thousands: the separator of thousands, where the user gives it.

    Raises:
        AmbiguousNumbers: for numbers whose notation only the user can tell.
    """
    distinct = dict.fromkeys(cells)
    if (notation := find_notation(distinct, decimal, thousands)) is not None:
        return ColumnKind("number", notation)
    dates = [cell for cell in distinct if is_date(cell)]
    if len(dates) >= DATE_SHARE * len(distinct):
        return ColumnKind("date", odd=dates[0])
    notation = find_notation(distinct, decimal, thousands, NUMBER_SHARE)
    if notation is not None:
        parsed = {cell: notation.parse(cell) for cell in distinct}
        if is_amount([number for cell in cells if (number := parsed[cell]) is not None]):
            return ColumnKind("mixed", notation, next(cell for cell, number in parsed.items() if number is None))
    elif len(distinct) > MAX_CLASSES and sum(map(_is_like_a_number, distinct)) > NUMBER_SHARE * len(distinct):
        return ColumnKind("mixed", odd=next(cell for cell in distinct if _is_like_a_number(cell)))
    return ColumnKind("text")


def _is_like_a_number(cell: str) -> bool:
    return LIKE_A_NUMBER.fullmatch(cell) is not None


def refuse_ambiguous(error: AmbiguousNumbers, where: str) -> UserError:
    """Return the refusal of numbers that can be read in two ways."""
    (first, a), (second, b) = error.readings.items()
    settings = [
        override_text("data.thousands", n.thousands) if n.thousands else override_text("data.decimal", n.decimal)
        for n in (first, second)
    ]
    return UserError(
        f"{where}: {error.cell!r} is {a:.12g} or {b:.12g}; set {settings[0]} for the former, {settings[1]} for the latter"
    )


def refuse_dates(cell: str, where: str) -> UserError:
    """Return the refusal of a column of dates; `where` ends with the column's name."""
    return UserError(
        f"{where}: {cell!r} is a date or a time, which is not read yet; write it as a number, such as days since a "
        "fixed day, or leave it out"
    )


def identifies_rows(name: str, cells: Collection[str], is_unnamed: bool = False) -> bool:
    """Return whether a column numbers or names the rows, so that it tells a model where a row stands and nothing else.

    Args:
        name: of the column; `id`, `rownames`, `customer_id` and the like are names of such columns.
        cells: of all rows, empty ones too.
        is_unnamed: whether the column has no name in its file, as R and pandas write the names of rows.
    """
    is_named_so = is_unnamed or IDENTIFIER.fullmatch(name) or IDENTIFIER.fullmatch(name.lower())
    if not (is_named_so or COUNTER.fullmatch(name)) or "" in cells or len(set(cells)) < len(cells):
        return False
    is_whole = all(re.fullmatch(r"[-+]?\d+(\.0+)?", cell, re.ASCII) for cell in cells)
    if is_named_so:
        return is_whole or find_notation(list(cells)[:100]) is None
    numbers = [float(cell) for cell in cells] if is_whole else []
    return bool(numbers) and numbers[0] in (0, 1) and all(b - a == 1 for a, b in itertools.pairwise(numbers))
