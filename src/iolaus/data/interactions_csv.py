"""A user's own file of who clicked, rated or bought what, read in blocks into whole numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset

from iolaus.data.clicks import Clicks
from iolaus.data.file_format import delimiter
from iolaus.data.sniff import header
from iolaus.errors import UserError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

CHUNK = 500_000  # rows that are text in memory at a time
MORE = "\n"  # a column for what a row has too much, by a name that no file can have


@dataclass(frozen=True)
class Layout:
    """Where a file has what.

    Args:
        separator: one character.
        names: of its columns, in order.
        user: column of the user.
        item: column of the item.
        label: column of clicks or ratings; None: every row is a click.
        time: column of the time; None: unknown.
        skipped: lines before the first row.
    """

    separator: str
    names: Sequence[str]
    user: str
    item: str
    label: str | None
    time: str | None
    skipped: int


class InteractionsCsv(Clicks):
    """A table with a row for each interaction.

    Rows whose label is below a click are left out, but their users and items count. With a time, each user's latest click is the
    test and the one before it the validation; without one, both are drawn by the seed.

    Args:
        path: the file, with column names in its first line.
        user: name of the column of the user.
        item: name of the column of the item.
        label: name of the column of clicks, 1 or 0, or of ratings; None: every row is a click.
        time: name of the column of the time, numbers or dates as in 2024-12-31 23:59:59; None: unknown.
        min_rating: the lowest rating that is a click; None: labels are 1 and 0.
        separator: what stands between two cells: a character, or tab, semicolon, comma, pipe, space.
        base: the settings of Clicks and those that every data set has.

    Raises:
        UserError: naming file, line and column, for what is missing, or no number or time where there should be one.
    """

    def __init__(
        self,
        path: str,
        user: str | int = "user",
        item: str | int = "item",
        label: str | int | None = None,
        time: str | int | None = None,
        min_rating: float | None = None,
        separator: str = ",",
        **base: Any,
    ):
        super().__init__(**base)
        self.path = Path(path)
        self.columns = {"user": user, "item": item, "label": label, "time": time}
        self.min_rating = min_rating
        self.separator = separator

    def load(self) -> dict[str, Dataset]:
        if not self.path.is_file():
            raise UserError(f"data.path: {self.path} is not a file")
        found = read(self.path, self._layout(), self.min_rating)
        self.users, self.items = found.users, found.items
        return self.hold_out(*found.clicks)

    def _layout(self) -> Layout:
        """The columns by name, which the file must have."""
        names = header(str(self.path), self.separator)
        found = {
            role: None if name is None else str(name) for role, name in self.columns.items()
        }  # 3 arrives as a number
        for role, name in found.items():
            if name is not None and name not in names:
                raise UserError(
                    f"data.{role}: {self.path} has no column {name!r}{did_you_mean(name, names)}  (it has: {', '.join(names)})"
                )
        if found["label"] is None and self.min_rating is not None:
            raise UserError("data.min_rating: is of ratings; name their column, as in data.label=rating")
        return Layout(delimiter(self.separator), names, **found, skipped=1)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Found:
    """What a file has.

    Args:
        users: names, in the order of their first appearance.
        items: names, likewise.
        clicks: numbers of users (N,), of items (N,), and times (N,) where they are known.
    """

    users: list[str]
    items: list[str]
    clicks: list[torch.Tensor]


def read(path: Path, layout: Layout, min_rating: float | None, encoding: str = "utf-8-sig") -> Found:
    """Read a file in blocks, of which only whole numbers are kept.

    Raises:
        UserError: naming line and column, for what is missing, or no number or time where there should be one.
    """
    import pandas as pd

    users, items = Numbered(), Numbered()
    blocks: list[list[np.ndarray]] = []
    columns = [c for c in (layout.user, layout.item, layout.label, layout.time) if c is not None]
    are_dates: bool | None = None  # as the first time tells
    try:
        with pd.read_csv(
            path,
            sep=layout.separator,
            names=[*layout.names, MORE],
            skiprows=layout.skipped,
            dtype=str,
            index_col=False,
            keep_default_na=False,
            skip_blank_lines=False,
            skipinitialspace=True,
            encoding=encoding,
            chunksize=CHUNK,
        ) as tables:
            for table in tables:
                table.index += layout.skipped + 1  # lines of the file
                table = _whole_rows(path, table[[*columns, MORE]].fillna("").apply(lambda column: column.str.strip()))
                clicked = _clicked(path, table, layout.label, min_rating)
                block = [users.of(table[layout.user])[clicked], items.of(table[layout.item])[clicked]]
                if layout.time is not None:
                    if are_dates is None:
                        are_dates = not _numbers(table[layout.time][:1]).notna().all()
                    block.append(_times(path, table[layout.time], are_dates)[clicked])
                blocks.append(block)
    except pd.errors.EmptyDataError:
        pass
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise UserError(f"data.path: {path} cannot be read as a table: {' '.join(str(error).split())}") from None
    if not users.numbers:
        raise UserError(f"data.path: {path} has no rows")
    if not any(len(block[0]) for block in blocks):
        raise UserError(f"data.label: {path} has no click in column {layout.label!r}; look at data.min_rating")
    clicks = [torch.from_numpy(np.concatenate(column)) for column in zip(*blocks, strict=True)]
    return Found(list(users.numbers), list(items.numbers), clicks)


def _whole_rows(path: Path, table: "pd.DataFrame") -> "pd.DataFrame":
    """Rows without those that are blank; one that has too few cells or too many is refused."""
    if (bad := table.pop(MORE) != "").any():
        raise UserError(f"data.path: {path} line {bad.idxmax()}: has more cells than there are columns")
    empty = table == ""
    blank = empty.all(axis=1)
    if (bad := empty.any(axis=1) & ~blank).any():
        line = bad.idxmax()
        raise UserError(f"data.path: {path} line {line}, column {empty.loc[line].idxmax()!r}: the cell is empty")
    return table[~blank]


def _clicked(path: Path, table: "pd.DataFrame", label: str | None, min_rating: float | None) -> np.ndarray:
    """Which rows are clicks, (rows,) bool."""
    if label is None:
        return np.ones(len(table), bool)
    labels = _numbers(table[label])
    if (bad := labels.isna()).any():
        line = bad.idxmax()
        raise UserError(f"data.label: {path} line {line}, column {label!r}: {table[label][line]!r} is not a number")
    if min_rating is not None:
        return (labels >= min_rating).to_numpy()
    if (bad := ~labels.isin([0, 1])).any():
        line = bad.idxmax()
        raise UserError(
            f"data.label: {path} line {line}, column {label!r}: {table[label][line]} is neither 0 nor 1; "
            "for ratings say which are a click, as in data.min_rating=4"
        )
    return (labels == 1).to_numpy()


class Numbered:
    """Names in the order of their first appearance, and their numbers."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def of(self, names: "pd.Series") -> np.ndarray:
        """The numbers of these names, (rows,) int32; new names get the next ones."""
        codes, different = names.factorize()
        numbers = (self.numbers.setdefault(name, len(self.numbers)) for name in different)
        return np.fromiter(numbers, np.int32, len(different))[codes]


def _numbers(cells: "pd.Series") -> "pd.Series":
    """Cells as float64; NaN for text and for infinite numbers."""
    import pandas as pd

    numbers = pd.to_numeric(cells, errors="coerce").astype("float64")
    return numbers.where(numbers.abs() < float("inf"))


def _times(path: Path, cells: "pd.Series", dates: bool) -> np.ndarray:
    """Times in order: the numbers themselves, or seconds since 1970."""
    import pandas as pd

    if dates:
        moments = pd.to_datetime(cells, errors="coerce", utc=True, format="ISO8601")
        times = (moments - pd.Timestamp(0, tz="UTC")).dt.total_seconds()
    else:
        times = _numbers(cells)
    if (bad := times.isna()).any():
        line = bad.idxmax()
        kind = "date as in 2024-12-31 or 2024-12-31 23:59:59" if dates else "number, as the first time is"
        raise UserError(f"data.time: {path} line {line}, column {cells.name!r}: {cells[line]!r} is not a {kind}")
    return times.to_numpy(dtype=np.float64)
