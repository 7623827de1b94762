"""A user's own table: columns of numbers and categories, gaps, and a column to predict."""

import copy
import csv
import io
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.utils.data import Dataset, TensorDataset

from iolaus.data.base import DataModule, listed
from iolaus.data.cells import GAP_WORDS, AmbiguousNumbers, Notation, is_date_as_number
from iolaus.data.columns import ColumnKind, classify, identifies_rows, refuse_ambiguous, refuse_dates
from iolaus.data.sniff import unknown_column
from iolaus.data.table_columns import (
    loses_digits,
    target_classes,
    target_names,
    target_notation,
    target_numbers,
    to_numbers,
)
from iolaus.errors import UserError, did_you_mean
from iolaus.overrides import override_text

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("iolaus")

MOST_CATEGORIES = 100
BLOCK = 8192  # rows of a new file that are read together
MOST = 1e30  # float32 ends at 3.4e38, and squares are summed
# Texts that runs of earlier versions, which did not save theirs, took for empty cells.
EARLIER_GAPS = [
    "?",
    *(f(word) for word in ("na", "nan", "null", "none") for f in (str.lower, str.upper, str.title)),
    "NaN",
]


class Table(DataModule, ABC):
    """A table with a column to predict; a subclass reads the file.

    A column of numbers is one input; a column of text becomes one input for each of its categories. Mean, deviation and fill
    values are taken from the training split alone. A category that the file at `path` does not have, and an empty cell among
    categories that is to be filled in, is none of the known ones: all its inputs are 0. `unseen` has noted those of the former.

    A column without a value, and one that numbers or names the rows, is left out with a warning.

    Args:
        path: the file.
        target: name of the column to predict.
        columns: names of the columns to predict it from; None: all others.
        drop: names of columns to leave out.
        keep: names of columns to keep though they number the rows.
        test_path: a file of its own for the test split.
        missing: what to do with empty cells: error, drop (the row), or fill in the mean or median of the training rows.
        na: texts that mean an empty cell, besides those that pandas takes for one.
        decimal: the decimal sign of numbers; None: as the cells of each column show.
        thousands: the separator of thousands in numbers; None: as the cells of each column show.
        base: the settings that every data set has; see DataModule.

    Raises:
        UserError: naming file, row and column, for what is missing or is no number among numbers.
    """

    place = "line"  # what messages call a row; its number is the table's index
    keeps_learned = True

    def __init__(
        self,
        path: str,
        target: str | int,
        columns: Sequence[str | int] | None = None,
        drop: Sequence[str | int] = (),
        keep: Sequence[str | int] = (),
        test_path: str | None = None,
        missing: Literal["error", "drop", "mean", "median"] = "error",
        na: Sequence[str | int] = (),
        decimal: str | None = None,
        thousands: str | None = None,
        **base: Any,
    ):
        super().__init__(**base)
        self.path = path
        self.target = str(target)  # names such as 3 arrive as numbers
        self.columns = [str(c) for c in columns] if columns is not None else None
        self.drop = [str(c) for c in drop]
        self.keep = [str(c) for c in keep]
        self.test_path = test_path
        self.missing = missing
        self.na = [str(text) for text in na]
        self.decimal = decimal
        self.thousands = thousands
        # Each column's categories, or None, the number for empty cells, the notation of numbers, and a constant that is taken away
        # before the numbers become float32, where they are so large against their spread that they would lose their digits.
        self.encoding: dict[str, dict[str, Any]] = {}
        self.target_notation: Notation | None = None
        self.left_out: list[str] = []  # columns that are not used, with the reason
        self.gaps: list[str] = []  # lines on empty cells
        self.gap_words: Mapping[
            str, int
        ] = {}  # texts of the file that was read last that mean an empty cell, with their number

    def load(self) -> dict[str, Dataset]:
        places = {"train": ("data.path", self.path)}
        if self.test_path is not None:
            places["test"] = ("data.test_path", self.test_path)
        tables = {}
        words = {}
        for split, (_, path) in places.items():
            tables[split], words[split] = self.read(path), self._words()
        names = list(self.encoding) or self._useful(tables["train"], self._input_names(tables["train"]))
        for split, table in tables.items():
            if absent := [n for n in [*names, self.target] if n not in table.columns]:
                raise UserError(f"{': '.join(places[split])} has no column {absent[0]!r}")
            tables[split] = self._without_gaps(table, names, places[split][1], words[split])
        if not self.encoding:
            self._learn(tables["train"], names)
        self.input_shape = (sum(len(e["categories"] or [None]) for e in self.encoding.values()),)
        datasets: dict[str, Dataset] = {
            split: TensorDataset(
                self.encode(table, ": ".join(places[split])),
                self._encode_target(table[self.target], f"data.target: {places[split][1]} {self.place} "),
            )
            for split, table in tables.items()
        }
        for line in self.unseen.take():
            log.warning("%s", line)
        return datasets

    @abstractmethod
    def read(self, path: str) -> "pd.DataFrame":
        """A file's cells as text, with the numbers of `place` as index, so that every later message can name the row."""

    def unnamed(self) -> list[str]:
        """Return the columns that have no name in the file at `path`."""
        return []

    def _input_names(self, table: "pd.DataFrame") -> list[str]:
        available = list(table.columns)
        named = {"target": [self.target], "columns": self.columns or [], "drop": self.drop, "keep": self.keep}
        for setting, names in named.items():
            for name in names:
                if name not in available:
                    raise unknown_column(self.path, f"data.{setting}", name, available)
        names = [n for n in self.columns or available if n not in (self.target, *self.drop)]
        if not names:
            raise UserError("data.columns: no column is left to predict from")
        return names

    def _useful(self, table: "pd.DataFrame", names: list[str]) -> list[str]:
        """Leave out the columns that hold nothing, and those that number the rows, with a warning."""
        unnamed, wanted = self.unnamed(), {*(self.columns or []), *self.keep}
        useful = []
        for name in names:
            cells = table[name]
            if (cells == "").all():
                self.left_out.append(f"{name} (empty)")
                if name not in unnamed:
                    self.warnings.append(f"column {name!r} has no value and is left out")
            elif name not in wanted and identifies_rows(name, cells.tolist(), name in unnamed):
                self.left_out.append(f"{name} (identifies the rows)")
                self.warnings.append(
                    f"column {name!r} numbers or names the rows and is left out; keep it with "
                    + override_text("data.keep", [*self.keep, name])
                )
            else:
                useful.append(name)
        if not useful:
            raise UserError(f"data.columns: no column is left to predict from  (left out: {listed(self.left_out)})")
        return useful

    def _words(self) -> str:
        """How a message says which words of the file that was read last mean an empty cell."""
        words = [f"{word!r} in {count:,}" for word, count in self.gap_words.items()]
        return (
            f"  ({listed(words, 4)} cells means an empty one; data.keep_default_na=false makes it a text)"
            if words
            else ""
        )

    def _without_gaps(self, table: "pd.DataFrame", names: list[str], path: str, words: str) -> "pd.DataFrame":
        """Refuse or drop rows with empty cells; those that will be filled stay."""
        empty = table[[*names, self.target]] == ""
        must_go = empty[[self.target]] if self.missing in ("mean", "median") else empty
        rows = must_go.any(axis=1)
        if self.missing == "error" and rows.any():
            line = rows.idxmax()
            column = empty.columns[empty.loc[line].to_numpy().argmax()]
            raise UserError(
                f"data.path: {path} {self.place} {line}, column {column!r}: the cell is empty; "
                f"{int(rows.sum())} of {len(table)} rows have such cells{words}\n"
                "set data.missing=drop to leave those rows out, or data.missing=mean or median to fill them in"
            )
        if empty.any(axis=None):
            columns = [f"{name} {count:,}" for name, count in empty.sum().items() if count]
            self.gaps.append(
                f"empty cells of {path}: {listed(columns)}; {int(rows.sum()):,} of {len(table):,} rows are left out"
                + (f", other cells filled by the {self.missing}" if self.missing in ("mean", "median") else "")
                + words
            )
        table = table[~rows]
        if len(table) == 0:
            raise UserError(f"data.missing: every row of {path} has an empty cell, so none is left")
        return table

    def _learn(self, table: "pd.DataFrame", names: list[str]) -> None:
        """Tell numeric from categorical columns."""
        for name in names:
            cells = table[name][table[name] != ""]
            where = f"data.path: {self.path} {self.place} "
            if len(cells) == 0:
                raise UserError(
                    f"data.path: column {name!r} has no value in the rows that are left; leave it out: {self._dropping(name)}"
                )
            kind = self._kind(cells, name, where)
            if kind.kind == "number":
                self._learn_numbers(name, cells, kind, where)
                continue
            categories = sorted(cells.unique())
            if len(categories) > MOST_CATEGORIES or len(categories) == len(cells) > 10:
                raise UserError(
                    f"data.path: {self.path} column {name!r} has {len(categories)} different texts in {len(cells)} rows, too many "
                    f"for categories; leave it out: {self._dropping(name)}"
                )
            self.encoding[name] = {"categories": categories, "fill": None}
        self._refuse_mixed_decimals(table)

    def _kind(self, cells: "pd.Series", name: str, where: str) -> ColumnKind:
        """The kind of a column; dates, and numbers among which are texts, are refused."""
        try:
            kind = classify(cells.tolist(), self.decimal, self.thousands)
        except AmbiguousNumbers as error:
            line = (cells == error.cell).idxmax()
            raise refuse_ambiguous(error, f"{where}{line}, column {name!r}") from None
        if kind.kind in ("number", "text") or (kind.kind == "mixed" and kind.notation is None):
            return kind if kind.kind != "mixed" else ColumnKind("text")
        line = (cells == kind.odd).idxmax()
        if kind.kind == "date":
            raise UserError(f"{refuse_dates(kind.odd, f'{where}{line}, column {name!r}')}: {self._dropping(name)}")
        raise UserError(
            f"{where}{line}, column {name!r}: {kind.odd!r} is not a number, and most others are\n"
            f"{self._skipping(line)}if it means an empty cell: {override_text('data.na', [*self.na, kind.odd])}; "
            f"to leave the column out: {self._dropping(name)}"
        )

    def _learn_numbers(self, name: str, cells: "pd.Series", kind: ColumnKind, where: str) -> None:
        notation = kind.notation or Notation()
        numbers = to_numbers(cells, notation)
        if numbers.abs().max() > MOST:
            line = numbers.abs().idxmax()
            raise UserError(f"{where}{line}, column {name!r}: {cells[line]} is too large for float32")
        if numbers.map(is_date_as_number).all():
            self.warnings.append(
                f"column {name!r} holds dates as whole numbers, as {cells.iloc[0]}, and is read as numbers"
            )
        shift = numbers.mean() if loses_digits(numbers) else 0.0
        signs = [notation.decimal, notation.thousands, notation.affix]
        self.encoding[name] = {"categories": None, "fill": float("nan"), "shift": float(shift), "notation": signs}

    def _refuse_mixed_decimals(self, table: "pd.DataFrame") -> None:
        """Refuse points in numbers where other columns have decimal commas: they may separate thousands."""
        signs = {name: e["notation"] for name, e in self.encoding.items() if e["categories"] is None}
        commas = [name for name, (decimal, _, _) in signs.items() if decimal == ","]
        for name, (decimal, thousands, _) in signs.items() if commas and self.decimal is None else ():
            cells = table[name][table[name].str.fullmatch(r"[-+]?\d{1,3}(\.\d{3})+")]
            if decimal == "." and not thousands and len(cells):
                where = f"data.path: {self.path} {self.place} {cells.index[0]}, column {name!r}"
                raise UserError(
                    f"{where}: {cells.iloc[0]!r} may have a decimal point, or a point between thousands as beside the decimal commas of "
                    f"column {commas[0]!r}; set {override_text('data.decimal', ',')} for the latter"
                )

    def _dropping(self, name: str) -> str:
        """The override that leaves out a column too."""
        return override_text("data.drop", [*self.drop, name])

    def _skipping(self, line: int) -> str:
        """How a message says to leave out a line, where that can be done."""
        return ""

    def input_columns(self) -> dict[str, slice]:
        columns, start = {}, 0
        for name, encoding in self.encoding.items():
            columns[name] = slice(start, start := start + len(encoding["categories"] or [None]))
        return columns

    def describe_inputs(self) -> list[str]:
        units = {name: _unit(e) for name, e in self.encoding.items() if e["categories"] is None}
        numbers = [f"{name} in {unit}" if unit else name for name, unit in units.items()]
        categories = [f"{n} ({len(e['categories'])})" for n, e in self.encoding.items() if e["categories"] is not None]
        lines = [f"numbers ({len(numbers)}): {listed(numbers)}"] if numbers else []
        lines += [f"categories ({len(categories)}), with their levels: {listed(categories)}"] if categories else []
        lines += [f"left out: {listed(self.left_out)}"] if self.left_out else []
        return lines + self.gaps

    def fit_splits(self) -> None:
        """Fill empty cells of numeric columns by the training split's mean or median."""
        train: torch.Tensor = self.datasets["train"].tensors[0][self.rows["train"]]  # type: ignore[attr-defined]
        position = 0
        for encoding in self.encoding.values():
            if encoding["categories"] is None:
                if math.isnan(encoding["fill"]):
                    column = train[:, position]
                    known = column[~column.isnan()]
                    encoding["fill"] = (
                        float(known.median() if self.missing == "median" else known.mean()) if len(known) else 0.0
                    )
                for dataset in self.datasets.values():
                    dataset.tensors[0][:, position].nan_to_num_(encoding["fill"])  # type: ignore[attr-defined]
            position += len(encoding["categories"] or [None])

    def encode(self, table: "pd.DataFrame", source: str) -> torch.Tensor:
        """Rows of text as numbers: (rows, input_shape[0]) float32; `source` begins messages."""
        columns = []
        for name, encoding in self.encoding.items():
            if encoding["categories"] is not None:
                is_known = table[name].isin([*encoding["categories"], ""])  # empty cells are to be filled in
                self.unseen.note(name, table[name][~is_known], f"{source} {self.place}")
                columns += [
                    torch.tensor((table[name] == c).to_numpy(), dtype=torch.float32) for c in encoding["categories"]
                ]
                continue
            numbers = to_numbers(table[name], Notation(*encoding.get("notation", ())))
            if (text := numbers.isna() & (table[name] != "")).any():
                line = text.idxmax()
                as_in = f" in {_unit(encoding)}" if _unit(encoding) else ""
                raise UserError(
                    f"{source} {self.place} {line}, column {name!r}: {table.loc[line, name]!r} is not a number{as_in}"
                )
            numbers = numbers.sub(encoding["shift"]).fillna(encoding["fill"])
            columns.append(torch.tensor(numbers.to_numpy(), dtype=torch.float32))
        return torch.stack(columns, dim=1)

    def _encode_target(self, cells: "pd.Series", where: str) -> torch.Tensor:
        """The target of each row; classes and the notation of numbers are learned from the first table."""
        if self.target_kind == "real":
            signs = self.decimal, self.thousands
            self.target_notation = self.target_notation or target_notation(cells, self.target, where, *signs)
            return target_numbers(cells, self.target, where, self.target_notation, self.na)
        if self.class_names is None:
            self.class_names = target_names(cells, self.target, self.decimal, self.thousands)
            self.num_classes = len(self.class_names)
        return target_classes(cells, self.class_names, where)

    def statistics(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """As for every data set, with categories left as 0 and 1."""
        found = super().statistics()
        kept = torch.tensor(
            [e["categories"] is not None for e in self.encoding.values() for _ in e["categories"] or [0]]
        )
        mean, deviation = found["input"]
        found["input"] = (mean.masked_fill(kept, 0.0), deviation.masked_fill(kept, 1.0))
        return found

    def new_items(self, source: Path | str) -> Iterator[Any]:
        """The rows of a file with the same columns, in any order and among others; or a text: their values in order."""
        if isinstance(source, str):
            yield from self._encoded(self._row(source), "the text", "the text:")
            return
        tables = self.blocks(str(source))
        while True:
            try:
                table = next(tables, None)
            except UserError as error:
                raise UserError(str(error).removeprefix("data.path: ")) from None
            if table is None:
                return
            yield from self._encoded(table, str(source), str(source))

    def blocks(self, path: str) -> Iterator["pd.DataFrame"]:
        """A file as `read` gives it, in parts where the format allows it, so that it may be larger than memory."""
        yield self.read(path)

    def _encoded(self, table: "pd.DataFrame", source: str, where: str) -> Iterator[Any]:
        """New rows as inputs; messages begin with `source`, or with `where` and the row."""
        for name in self.encoding:
            if name not in table.columns:
                raise UserError(f"{source} has no column {name!r}{did_you_mean(name, table.columns)}")
        yield from self._encoded_rows(table, where)

    def _encoded_rows(self, table: "pd.DataFrame", where: str) -> Iterator[Any]:
        """Rows as inputs; of rows that hold a wrong one each half by itself, down to that one, where bad items are kept."""
        before = copy.deepcopy(self.unseen)
        try:
            inputs = self._encode_new(table, where)
        except UserError as error:
            self.unseen = before
            if len(table) == 1 or not self.keeps_bad_items:
                yield self.bad_item(error)
                return
            half = len(table) // 2
            yield from self._encoded_rows(table.iloc[:half], where)
            yield from self._encoded_rows(table.iloc[half:], where)
        else:
            yield from inputs

    def _encode_new(self, table: "pd.DataFrame", where: str) -> torch.Tensor:
        empty = table[list(self.encoding)] == ""
        if self.missing in ("error", "drop") and (rows := empty.any(axis=1)).any():
            line = rows.idxmax()
            column = empty.columns[empty.loc[line].to_numpy().argmax()]
            raise UserError(
                f"{where} {self.place} {line}, column {column!r}: the cell is empty; only a run with data.missing=mean or median fills "
                "it in"
            )
        return self.encode(table, where)

    def row_text(self, row: Any) -> str:
        """A row of values by the names of their columns, among which there may be others, or in order."""
        if isinstance(row, dict):
            for name in self.encoding:
                if name not in row:
                    raise UserError(f"there is no column {name!r}{did_you_mean(name, row)}")
            row = [row[name] for name in self.encoding]
        if not isinstance(row, list) or not all(value is None or isinstance(value, str | int | float) for value in row):
            raise UserError(f"a row is values by the names of their columns; received {str(row)[:100]}")
        line = io.StringIO()
        csv.writer(line, delimiter=self._delimiter(), lineterminator="").writerow(
            ["" if value is None else value for value in row]
        )
        return line.getvalue()

    def _row(self, text: str) -> "pd.DataFrame":
        """The values of one row, given on the command line."""
        import pandas as pd

        names = list(self.encoding)
        (cells,) = csv.reader([text], delimiter=self._delimiter())
        if len(cells) != len(names):
            raise UserError(f"the text has {len(cells)} values and must have {len(names)}: {', '.join(names)}")
        gaps = GAP_WORDS | set(self.na)
        return pd.DataFrame(
            [["" if cell.strip() in gaps else cell.strip() for cell in cells]], columns=names, index=[1], dtype=str
        )

    def _delimiter(self) -> str:
        return ","

    def state_dict(self) -> dict[str, Any]:
        notation = self.target_notation
        signs = [notation.decimal, notation.thousands, notation.affix] if notation else None
        learned = {"encoding": self.encoding, "class_names": self.class_names, "left_out": self.left_out}
        return learned | {"na": self.na, "target_notation": signs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.encoding, self.class_names = state_dict["encoding"], state_dict["class_names"]
        self.na = list(dict.fromkeys([*state_dict.get("na", EARLIER_GAPS), *self.na]))
        self.left_out = list(state_dict.get("left_out", []))
        signs = state_dict.get("target_notation")
        self.target_notation = Notation(*signs) if signs else None


def _unit(encoding: dict[str, Any]) -> str:
    """Return the sign at a column's numbers, as "%"; empty where there is none."""
    return encoding["notation"][2] if "notation" in encoding else ""
