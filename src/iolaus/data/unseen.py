"""Categories that the training did not have: noted while rows are read, told of in a line a column, however many rows have them."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

MOST_VALUES = 4  # that a line names
MOST_LETTERS = 40  # of a value


@dataclass
class Found:
    """What was not seen of a column.

    Args:
        place: of the first row.
        values: different ones, the first of them.
        rows: that have any.
    """

    place: str
    values: list[str] = field(default_factory=list)
    rows: int = 0


class Unseen:
    """Values of columns that are none of the known categories; nothing but counts and a few values is kept."""

    def __init__(self) -> None:
        self._found: dict[str, Found] = {}

    def note(self, column: str, cells: "pd.Series", place: str) -> None:
        """Note cells, which may be none.

        Args:
            column: its name.
            cells: that are no known category, by the numbers of their rows.
            place: what stands before such a number, as in `new.csv line`.
        """
        if cells.empty:
            return
        found = self._found.setdefault(column, Found(f"{place} {cells.index[0]}"))
        found.rows += len(cells)
        if len(found.values) <= MOST_VALUES:
            found.values = list(dict.fromkeys([*found.values, *cells.unique()]))[: MOST_VALUES + 1]

    def rename(self, place: str, name: str) -> None:
        """Let a place have another name."""
        for found in self._found.values():
            found.place = name if found.place == place else found.place

    def take(self) -> list[str]:
        """A line for each column that has any, which are then forgotten."""
        taken, self._found = self._found, {}
        return [_line(column, found) for column, found in taken.items()]


def _line(column: str, found: Found) -> str:
    names = ", ".join(repr(value[:MOST_LETTERS]) for value in found.values[:MOST_VALUES])
    others = " and others" * (len(found.values) > MOST_VALUES)
    was, what = ("was", "it is predicted as an unknown category")
    if len(found.values) > 1:
        was, what = ("were", "they are predicted as one unknown category")
    rows = f"{found.rows} row{'s' * (found.rows > 1)} in all"
    return f"{found.place} column {column!r}: {names}{others} {was} not seen in the training ({rows}); {what}"
