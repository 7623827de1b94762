"""Tables as text, read by Python's csv module: one reader decides the kind of a column and loads it."""

import csv
import itertools
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from iolaus.data.cells import GAP_WORDS
from iolaus.data.file_format import SEPARATORS, delimiter, refuse_other_formats
from iolaus.errors import UserError, unknown_encoding, wrong_encoding
from iolaus.overrides import override_text

SAMPLE = 200  # rows whose lengths tell how a file is laid out
Row = tuple[int, list[str]]  # the line on which it begins, its cells


@dataclass(frozen=True)
class TextTable:
    """A file of text with a row a line, and how to read it.

    Args:
        path: the file.
        separator: between two cells: a character, or its name.
        header: number of the line with the column names, from 1.
        skip_lines: numbers of lines after it that are left out.
        na: texts that mean an empty cell, besides those that pandas takes for one.
        keep_default_na: whether the words that pandas takes for an empty cell mean one.
        encoding: of the text, by Python's name.

    Raises:
        UserError: by all that reads the file, naming file and line.
    """

    path: str
    separator: str = ","
    header: int = 1
    skip_lines: Sequence[int] = ()
    na: Sequence[str] = ()
    keep_default_na: bool = True
    encoding: str = "utf-8"
    gap_words: Counter[str] = field(
        default_factory=Counter, init=False, compare=False
    )  # those that `rows` took for empty cells

    @cached_property
    def names(self) -> list[str]:
        """The names of the columns; one without a name is `column_N`, and row names before the first column are `column_0`."""
        return self._layout[0]

    @cached_property
    def unnamed(self) -> list[str]:
        """The columns that have no name in the file."""
        return [name for name, cell in zip(self.names, self._layout[1], strict=True) if not cell]

    def rows(self) -> Iterator[Row]:
        """Yield the rows as cells without space around them; an empty cell, or one that means it, is ""."""
        has_row_names, width = self.names[0] == "column_0", len(self.names)
        gaps = {"", *map(str, self.na)} | (GAP_WORDS if self.keep_default_na else set())
        skipped = set(self.skip_lines)
        for line, row in self._records():
            if line in skipped:
                continue
            cells = ["" if (text := cell.strip()) in gaps else text for cell in row]
            if "" in cells:
                self.gap_words.update(text for cell in row if (text := cell.strip()) and text in gaps)
            while len(cells) > width and not cells[-1]:
                cells.pop()  # a separator at the end of the line
            if len(cells) > width or (has_row_names and len(cells) < width):
                raise UserError(
                    f"data.path: {self.path} line {line} has {len(row)} cells, and the header has {len(self.names) - has_row_names}; "
                    f"mend it, or leave it out: {override_text('data.skip_lines', [*self.skip_lines, line])}"
                )
            yield line, cells + [""] * (width - len(cells))

    def column(self, name: str) -> list[tuple[int, str]]:
        """Return the line and the cell of each row that has a value in a column."""
        position = self.names.index(name)
        return [(line, cells[position]) for line, cells in self.rows() if cells[position]]

    def line_with(self, name: str) -> int | None:
        """Return the first of the lines under the header that has a cell of this text, among the first few; None: none has."""
        return next((line for line, row in self._sample()[:20] if name in map(str.strip, row)), None)

    @cached_property
    def _layout(self) -> tuple[list[str], list[str]]:
        """The names of the columns, and the cells that stand for them in the file."""
        refuse_other_formats(self.path)
        header = self._header()
        sample = self._sample()
        lengths = sorted(_length(row) for _, row in sample) or [0]
        longest, typical = lengths[-1], lengths[len(lengths) // 10]
        while len(header) > max(longest, 1) and not header[-1]:
            header.pop()  # separators at the end of the line
        has_row_names = longest == len(header) + 1 and all(len(row) == longest for _, row in sample)
        if len(header) == 1:
            self._refuse_other_separator(header[0])
        if typical > len(header) and (not has_row_names or len(header) == 1):
            line = next(line for line, row in sample if _length(row) >= typical)
            cells = "1 cell" if len(header) == 1 else f"{len(header)} cells"
            raise UserError(
                f"data.header: {self.path} line {self.header} has {cells}, and most of the lines below have more; "
                f"name the line with the names of the columns, as in {override_text('data.header', line)}"
            )
        header = ["", *header] if has_row_names else header  # R writes the names of rows under no name
        names = [cell or f"column_{number}" for number, cell in enumerate(header, 0 if has_row_names else 1)]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(f"data.path: {self.path} has two columns named {twice[0]!r}; rename one")
        return names, header

    def _refuse_other_separator(self, name: str) -> None:
        others = [word for word, sign in SEPARATORS.items() if word not in ("\\t", "space") and sign in name]
        if others and SEPARATORS[others[0]] != delimiter(self.separator):
            raise UserError(
                f"data.separator: {self.path} has one column, {name!r}; set {override_text('data.separator', others[0])}"
            )

    def _header(self) -> list[str]:
        found = next((row for line, row in self._all_records() if line >= self.header), None)
        if found is None:
            raise UserError(f"data.path: {self.path} is empty")
        return [cell.strip() for cell in found]

    def _sample(self) -> list[Row]:
        records = self._records()
        return [row for row, _ in zip(records, range(SAMPLE), strict=False) if row[0] not in self.skip_lines]

    def _records(self) -> Iterator[Row]:
        """Yield what follows the header."""
        records = self._all_records()
        for line, _ in records:
            if line >= self.header:
                break
        yield from records

    def _all_records(self) -> Iterator[Row]:
        """Yield every row that is not blank, with the line on which it begins."""
        character = delimiter(self.separator)
        csv.field_size_limit(sys.maxsize)
        encoding = "utf-8-sig" if self.encoding.lower().replace("_", "-") in ("utf-8", "utf8") else self.encoding
        before = line = 0
        row: list[str] = []
        try:
            with Path(self.path).open(newline="", encoding=encoding) as file:
                reader = csv.reader(file, delimiter=character, skipinitialspace=True)
                for row in reader:
                    before, line = line, reader.line_num
                    if row and (len(row) > 1 or row[0].strip()):
                        yield before + 1, row
            if row and row[-1].endswith(("\n", "\r")):
                _refuse_open_quote(self.path, before, encoding, character)
        except LookupError:
            raise unknown_encoding(self.encoding) from None
        except UnicodeDecodeError as error:
            raise wrong_encoding(self.path, line + 1, self.encoding, error.reason) from None
        except csv.Error as error:
            raise UserError(f"data.path: {self.path} line {line + 1}: cannot be read as cells: {error}") from None


def _length(row: list[str]) -> int:
    """Return the number of cells up to the last that is not empty."""
    return next((number for number in range(len(row), 0, -1) if row[number - 1].strip()), 0)


def _refuse_open_quote(path: str, before: int, encoding: str, character: str) -> None:
    """Refuse a file whose last row, after so many lines, has a quotation mark that is never closed."""
    with Path(path).open(newline="", encoding=encoding) as file:
        last = itertools.islice(file, before, None)
        try:
            list(csv.reader(last, delimiter=character, skipinitialspace=True, strict=True))
        except csv.Error:
            raise UserError(
                f'data.path: {path} line {before + 1}: a cell begins with a quotation mark (") and never ends; close it'
            ) from None
