"""A user's own table as text."""

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from iolaus.data.file_format import delimiter
from iolaus.data.table import BLOCK, Table
from iolaus.data.text_table import TextTable
from iolaus.errors import UserError
from iolaus.overrides import override_text

if TYPE_CHECKING:
    import pandas as pd


class CsvTable(Table):
    """A table as text, with a column to predict.

    Args:
        path: the file, with a line of column names.
        target: name of the column to predict.
        separator: what stands between two cells: a character, or tab, semicolon, comma, pipe, space.
        header: number of the line with the column names, from 1.
        skip_lines: numbers of lines of `path` after it that are left out, as a line of totals.
        keep_default_na: whether the words that pandas takes for an empty cell mean one; if not, those of `na` alone do.
        encoding: of the text, by Python's name.
        table: columns, drop, test_path, missing and the settings that every data set has; see Table.

    Raises:
        UserError: as Table does, and for a file that is no text of cells.
    """

    def __init__(
        self,
        path: str,
        target: str | int,
        separator: str = ",",
        header: int = 1,
        skip_lines: Sequence[int] = (),
        keep_default_na: bool = True,
        encoding: str = "utf-8",
        **table: Any,
    ):
        super().__init__(path, target, **table)
        self.separator = separator
        self.header = header
        self.skip_lines = list(skip_lines)
        self.keep_default_na = keep_default_na
        self.encoding_name = encoding

    def read(self, path: str) -> "pd.DataFrame":
        import pandas as pd

        return pd.concat(self.blocks(path))

    def blocks(self, path: str) -> Iterator["pd.DataFrame"]:
        import pandas as pd

        file, is_empty = self._file(path), True
        rows = file.rows()
        while block := list(itertools.islice(rows, BLOCK)):
            is_empty = False
            lines, cells = zip(*block, strict=True)
            yield pd.DataFrame(list(cells), columns=file.names, index=list(lines), dtype=str)
        if is_empty:
            raise UserError(f"data.path: {path} has column names and no rows")
        self.gap_words = file.gap_words

    def unnamed(self) -> list[str]:
        return self._file(self.path).unnamed

    def _file(self, path: str) -> TextTable:
        skipped = tuple(self.skip_lines) if path == self.path else ()
        return TextTable(
            path, self.separator, self.header, skipped, tuple(self.na), self.keep_default_na, self.encoding_name
        )

    def _skipping(self, line: int) -> str:
        return f"to leave the line out: {override_text('data.skip_lines', [*self.skip_lines, line])}; "

    def _delimiter(self) -> str:
        return delimiter(self.separator)
