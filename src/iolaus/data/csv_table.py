"""A user's own table: numbers, categories and empty cells told apart, and told about by line and column."""

import csv
import io
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.utils.data import Dataset, TensorDataset

from iolaus.data.base import DataModule
from iolaus.data.sniff import delimiter, header
from iolaus.errors import UserError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger("iolaus")

MOST_CATEGORIES = 100
BLOCK = 8192  # rows of a new file that are read together
MOST = 1e30  # float32 ends at 3.4e38, and squares are summed
GAPS = ("", "na", "nan", "null", "none", "?")  # cells that say nothing, in any capitals


class Table(DataModule, ABC):
    """A table with a column to predict; a subclass reads the file.

    A column of numbers is one input; a column of text becomes one input for each of its categories. Mean, deviation and fill
    values are taken from the training split alone. A category that the file at `path` does not have, and an empty cell among
    categories that is to be filled in, is none of the known ones: all its inputs are 0. `unseen` has noted those of the former.

    Args:
        path: the file.
        target: name of the column to predict.
        columns: names of the columns to predict it from; None: all others.
        drop: names of columns to leave out.
        test_path: a file of its own for the test split.
        missing: what to do with empty cells: error, drop (the row), or fill in the mean or median of the training rows.
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
        test_path: str | None = None,
        missing: Literal["error", "drop", "mean", "median"] = "error",
        **base: Any,
    ):
        super().__init__(**base)
        self.path = path
        self.target = str(target)  # names such as 3 arrive as numbers
        self.columns = [str(c) for c in columns] if columns is not None else None
        self.drop = [str(c) for c in drop]
        self.test_path = test_path
        self.missing = missing
        # Each column's categories, or None, the number for empty cells, and a constant that is taken away before the
        # numbers become float32, where they are so large against their spread that they would lose their digits.
        self.encoding: dict[str, dict[str, Any]] = {}

    def load(self) -> dict[str, Dataset]:
        places = {"train": ("data.path", self.path)}
        if self.test_path is not None:
            places["test"] = ("data.test_path", self.test_path)
        tables = {split: self.read(path) for split, (_, path) in places.items()}
        names = list(self.encoding) or self._input_names(list(tables["train"].columns))
        for split, table in tables.items():
            if absent := [n for n in [*names, self.target] if n not in table.columns]:
                raise UserError(f"{': '.join(places[split])} has no column {absent[0]!r}")
            tables[split] = self._without_gaps(table, names, places[split][1])
        if not self.encoding:
            self._learn(tables["train"], names)
        self.input_shape = (sum(len(e["categories"] or [None]) for e in self.encoding.values()),)
        datasets: dict[str, Dataset] = {
            split: TensorDataset(
                self.encode(table, ": ".join(places[split])), self._encode_target(table, places[split][1])
            )
            for split, table in tables.items()
        }
        for line in self.unseen.take():
            log.warning("%s", line)
        return datasets

    @abstractmethod
    def read(self, path: str) -> "pd.DataFrame":
        """A file's cells as text, with the numbers of `place` as index, so that every later message can name the row."""

    def _input_names(self, available: list[str]) -> list[str]:
        named = {"target": [self.target], "columns": self.columns or [], "drop": self.drop}
        for setting, names in named.items():
            for name in names:
                if name not in available:
                    raise UserError(
                        f"data.{setting}: {self.path} has no column {name!r}{did_you_mean(name, available)}  "
                        f"(it has: {', '.join(available)})"
                    )
        names = [n for n in self.columns or available if n not in (self.target, *self.drop)]
        if not names:
            raise UserError("data.columns: no column is left to predict from")
        return names

    def _without_gaps(self, table: "pd.DataFrame", names: list[str], path: str | None) -> "pd.DataFrame":
        """Refuse or drop rows with empty cells; those that will be filled stay."""
        empty = table[[*names, self.target]].map(_is_gap)
        must_go = empty[[self.target]] if self.missing in ("mean", "median") else empty
        rows = must_go.any(axis=1)
        if self.missing == "error" and rows.any():
            line = rows.idxmax()
            column = empty.columns[empty.loc[line].to_numpy().argmax()]
            cell = table.loc[line, column]
            raise UserError(
                f"data.path: {path} {self.place} {line}, column {column!r}: the cell is empty{f' ({cell})' if cell else ''}; "
                f"{int(rows.sum())} of {len(table)} rows have such cells\n"
                "set data.missing=drop to leave those rows out, or data.missing=mean or median to fill them in"
            )
        table = table.mask(empty, "")[~rows]
        if len(table) == 0:
            raise UserError(f"data.missing: every row of {path} has an empty cell, so none is left")
        return table

    def _learn(self, table: "pd.DataFrame", names: list[str]) -> None:
        """Tell numeric from categorical columns."""
        for name in names:
            cells = table[name][table[name] != ""]
            numbers = _numbers(cells)
            if len(cells) == 0:
                raise UserError(f"data.path: column {name!r} is empty; leave it out: data.drop=[{name}]")
            if numbers.notna().all():
                if numbers.abs().max() > MOST:
                    line = numbers.abs().idxmax()
                    raise UserError(
                        f"data.path: {self.path} {self.place} {line}, column {name!r}: {cells[line]} is too large for float32"
                    )
                shift = numbers.mean() if _loses_digits(numbers) else 0.0
                self.encoding[name] = {"categories": None, "fill": float("nan"), "shift": float(shift)}
                continue
            if numbers.notna().mean() > 0.5:
                line = numbers.isna().idxmax()
                raise UserError(
                    f"data.path: {self.path} {self.place} {line}, column {name!r}: {cells[line]!r} is not a number, most others are; "
                    f"mend it or leave the column out: data.drop=[{name}]"
                )
            categories = sorted(cells.unique())
            if len(categories) > MOST_CATEGORIES or len(categories) == len(cells) > 10:
                raise UserError(
                    f"data.path: {self.path} column {name!r} has {len(categories)} different texts in {len(cells)} rows, too many "
                    f"for categories; leave it out: data.drop=[{name}]"
                )
            self.encoding[name] = {"categories": categories, "fill": None}

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
            numbers = _numbers(table[name])
            if (text := numbers.isna() & (table[name] != "")).any():
                line = text.idxmax()
                raise UserError(
                    f"{source} {self.place} {line}, column {name!r}: {table.loc[line, name]!r} is not a number"
                )
            numbers = numbers.sub(encoding["shift"]).fillna(encoding["fill"])
            columns.append(torch.tensor(numbers.to_numpy(), dtype=torch.float32))
        return torch.stack(columns, dim=1)

    def _encode_target(self, table: "pd.DataFrame", path: str) -> torch.Tensor:
        cells = table[self.target]
        if self.target_kind == "real":
            numbers = _numbers(cells)
            if numbers.isna().any():
                line = numbers.isna().idxmax()
                raise UserError(
                    f"data.target: {path} {self.place} {line}, column {self.target!r}: {cells[line]!r} is not a number; "
                    "for labels choose task=classification"
                )
            if _loses_digits(numbers):
                raise UserError(
                    f"data.target: column {self.target!r} is about {numbers.mean():.4g} and varies by {numbers.std():.2g}, too little for "
                    "float32 to tell; subtract a constant from it"
                )
            return torch.tensor(numbers.to_numpy(), dtype=torch.float32)[:, None]
        if self.class_names is None:
            values = cells.unique()
            self.class_names = sorted(values, key=lambda v: (0, float(v), v) if _is_number(v) else (1, 0.0, v))
            if len(self.class_names) < 2:
                raise UserError(
                    f"data.target: column {self.target!r} holds one value alone ({values[0]!r}); there is nothing to learn"
                )
            if len(self.class_names) > len(cells) // 2:
                raise UserError(
                    f"data.target: column {self.target!r} has {len(self.class_names)} different values in {len(cells)} rows; "
                    "for amounts choose task=regression"
                )
            self.num_classes = len(self.class_names)
        numbered = cells.map({name: i for i, name in enumerate(self.class_names)})
        if numbered.isna().any():
            line = numbered.isna().idxmax()
            raise UserError(
                f"data.target: {path} {self.place} {line}: label {cells[line]!r} is not among the training labels"
            )
        return torch.tensor(numbered.to_numpy(), dtype=torch.int64)

    def statistics(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """As for every data set, with categories left as 0 and 1."""
        found = super().statistics()
        kept = torch.tensor(
            [e["categories"] is not None for e in self.encoding.values() for _ in e["categories"] or [0]]
        )
        mean, deviation = found["input"]
        found["input"] = (mean.masked_fill(kept, 0.0), deviation.masked_fill(kept, 1.0))
        return found

    def new_items(self, source: Path | str) -> Iterator[torch.Tensor]:
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

    def _encoded(self, table: "pd.DataFrame", source: str, where: str) -> torch.Tensor:
        """New rows as inputs; messages begin with `source`, or with `where` and the row."""
        for name in self.encoding:
            if name not in table.columns:
                raise UserError(f"{source} has no column {name!r}{did_you_mean(name, table.columns)}")
        empty = table[list(self.encoding)].map(_is_gap)
        if self.missing in ("error", "drop") and (rows := empty.any(axis=1)).any():
            line = rows.idxmax()
            column = empty.columns[empty.loc[line].to_numpy().argmax()]
            raise UserError(
                f"{where} {self.place} {line}, column {column!r}: the cell is empty; only a run with data.missing=mean or median fills "
                "it in"
            )
        return self.encode(table.mask(empty, ""), where)

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
        return pd.DataFrame([[cell.strip() for cell in cells]], columns=names, index=[1])

    def _delimiter(self) -> str:
        return ","

    def state_dict(self) -> dict[str, Any]:
        return {"encoding": self.encoding, "class_names": self.class_names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.encoding, self.class_names = state_dict["encoding"], state_dict["class_names"]


class CsvTable(Table):
    """A table as text, with a column to predict.

    Args:
        path: the file, with column names in its first line.
        target: name of the column to predict.
        separator: what stands between two cells: a character, or tab, semicolon, comma, pipe, space.
        table: columns, drop, test_path, missing and the settings that every data set has; see Table.

    Raises:
        UserError: as Table does, and for a file that is no text of cells.
    """

    def __init__(self, path: str, target: str | int, separator: str = ",", **table: Any):
        super().__init__(path, target, **table)
        self.separator = separator

    def read(self, path: str) -> "pd.DataFrame":
        return next(self._tables(path, None))

    def blocks(self, path: str) -> Iterator["pd.DataFrame"]:
        return self._tables(path, BLOCK)

    def _tables(self, path: str, rows: int | None) -> Iterator["pd.DataFrame"]:
        """The file in parts of so many rows, or as a whole."""
        import pandas as pd

        header(path, self.separator)  # refuses an empty file
        line = 2
        try:
            with pd.read_csv(
                path,
                sep=delimiter(self.separator),
                dtype=str,
                keep_default_na=False,
                skipinitialspace=True,
                encoding="utf-8-sig",
                iterator=True,
            ) as reader:
                while len(table := _next_part(reader, rows)):
                    table.index = pd.RangeIndex(line, line + len(table))
                    line += len(table)
                    table.columns = table.columns.str.strip()
                    yield table.apply(lambda column: column.str.strip())
        except (pd.errors.ParserError, UnicodeDecodeError) as error:
            raise UserError(f"data.path: {path} cannot be read as a table: {str(error).strip()}") from None
        if line == 2:
            raise UserError(f"data.path: {path} has column names and no rows")

    def _delimiter(self) -> str:
        return delimiter(self.separator)


def _next_part(reader: Any, rows: int | None) -> "pd.DataFrame":
    """The next rows of a file, none at its end."""
    import pandas as pd

    try:
        return reader.read(rows)
    except StopIteration:
        return pd.DataFrame()


def _is_gap(cell: str) -> bool:
    return cell.lower() in GAPS


def _numbers(cells: "pd.Series") -> "pd.Series":
    """Cells as float64; NaN for text and for infinite numbers."""
    import pandas as pd

    numbers = pd.to_numeric(cells, errors="coerce").astype("float64")
    return numbers.where(numbers.abs() < float("inf"))


def _loses_digits(numbers: "pd.Series") -> bool:
    """Whether values lie so far from zero against their spread that float32, with its 7 digits, would blur them."""
    return bool(numbers.abs().mean() > 1e4 * numbers.std() > 0)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
