"""A user's own table as a Parquet file. https://parquet.apache.org/docs/."""

from typing import TYPE_CHECKING, Any

from iolaus.data.sniff import needed, parquet_columns
from iolaus.data.table import Table
from iolaus.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


class ParquetTable(Table):
    """A table as CsvTable takes it, in Parquet; messages count its rows from 0.

    Numbers, texts, truth values and dictionaries of them are read; what a column of dates or times says can be used once it is a number.

    Raises:
        UserError: as Table does, and for a file that is not Parquet, or columns of lists.
    """

    place = "row"

    def read(self, path: str) -> "pd.DataFrame":
        import pandas as pd

        parquet_columns(path)  # refuses what cannot be read, and names that stand twice
        pyarrow = needed("pyarrow", "parquet")
        try:
            table = pd.read_parquet(path, engine="pyarrow", dtype_backend="pyarrow")
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(
                f"data.path: {path} cannot be read as a Parquet file: {' '.join(str(error).split())[:200]}"
            ) from None
        if len(table) == 0:
            raise UserError(f"data.path: {path} has columns and no rows")
        table = table.reset_index(drop=table.index.names == [None])
        table.columns = [str(name) for name in table.columns]
        return pd.DataFrame({name: self._as_text(table[name], path) for name in table.columns})

    def _as_text(self, column: "pd.Series", path: str) -> "pd.Series":
        """Every cell as text; columns of lists and bytes are empty where they are not used."""
        types = needed("pyarrow", "parquet").types
        kind: Any = getattr(column.dtype, "pyarrow_dtype", None)
        if kind is not None and (types.is_nested(kind) or types.is_binary(kind)):
            is_used = column.name in (self.columns or [column.name]) and column.name not in self.drop
            if is_used or column.name == self.target:
                raise UserError(
                    f"data.path: {path} column {column.name!r} holds {kind}, neither numbers nor texts; leave it out: "
                    f"{self._dropping(str(column.name))}"
                )
            return column.isna().map(lambda _: "")
        return column.astype(object).where(column.notna(), None).map(self._cell_text).astype(str)

    def _cell_text(self, value: Any) -> str:
        """A value as text; empty for none, not a number, and the texts of `na`."""
        text = "" if value is None or value != value else str(value).strip()
        return "" if text in self.na else text
