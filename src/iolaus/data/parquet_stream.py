"""Tables in Parquet files that together are larger than memory, read by their row groups. https://parquet.apache.org/docs/concepts/."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from iolaus.data.arrow_rows import ArrowRows, chosen, count_labels
from iolaus.data.arrow_stream import ArrowStream
from iolaus.data.sniff import needed, parquet_columns
from iolaus.data.stream_order import Block
from iolaus.data.streaming import MOST_LABELS, ReadShard, Shard
from iolaus.errors import UserError, did_you_mean

BATCH_BYTES = 2 * 2**20  # that are decoded at once
MOST_ROWS = 4_096
FOOTER_BYTES = 2 * 2**20  # of files' footers that are kept; in memory they take ten times as much


class ParquetStream(ArrowStream):
    """Rows of Parquet files: columns of numbers, or one column of arrays or of encoded images, and a column to predict.

    A shard is a row group, of which about 2 MiB are decoded at once; where a run goes on, groups that come before are not read.

    Args:
        path: a file, a folder of them, one with folders train, val, test, or a pattern.
        target: name of the column to predict.
        columns: names of the columns to predict it from; None: all others.
        drop: names of columns to leave out.
        size: height and width that encoded images are resized to; None: they have one size.
        channels: 1 for grey, 3 for colour; None: as the images have.
        value_range: what is black and white in images of more than 8 bits; see ImageDecoder.
        background: grey level behind transparent pixels, from 0 to 255.
        num_targets: of a column of lists; None: the file says.
        stream: val_path, test_path, num_streams, shuffle_buffer and the settings that every data set has; see StreamedData.

    Raises:
        UserError: for columns that are not there, differ between files, or hold neither numbers nor images; empty cells and NaN by file
            and row.
    """

    endings = (".parquet", ".pq")

    def __init__(
        self,
        path: str | Sequence[str],
        target: str | int,
        **table: Any,
    ):
        super().__init__(path, target, **table)
        if self.num_rows is not None:
            raise UserError("data.num_rows: Parquet files tell their rows; leave it at null")
        self._types: dict[str, Any] | None = None  # of the first file's columns

    def scan(self, file: Path, rows: int | None) -> list[Shard]:
        parquet, pyarrow = needed("pyarrow.parquet", "parquet_stream"), needed("pyarrow", "parquet_stream")
        if self._types is None:
            self._settle_columns(self._files["train"][0])
        self._check_schema(file)
        try:
            with parquet.ParquetFile(file) as opened:
                groups = [opened.metadata.row_group(g).num_rows for g in range(opened.num_row_groups)]
                labels = self._labels(opened) if self.target_kind == "class" else Counter()
        except (pyarrow.ArrowException, OSError) as error:
            raise unreadable(file, error) from None
        found, first = [], 0
        for part, size in enumerate(groups):
            found.append(Shard(file, size, part, first, labels=labels if part == 0 else Counter()))
            first += size
        return found

    def _settle_columns(self, file: Path) -> None:
        parquet_columns(str(file))
        schema = needed("pyarrow.parquet", "parquet_stream").read_schema(file)
        self.columns = chosen(schema, self.columns, self.drop, self.target, str(file))
        self._types = {name: schema.field(name).type for name in (*self.columns, self.target)}

    def _check_schema(self, file: Path) -> None:
        """Refuse a file with other columns than the first."""
        assert self._types is not None
        parquet_columns(str(file))
        schema = needed("pyarrow.parquet", "parquet_stream").read_schema(file)
        for name, form in self._types.items():
            if name not in schema.names:
                raise UserError(f"data.path: {file} has no column {name!r}{did_you_mean(name, schema.names)}")
            if schema.field(name).type != form:
                raise UserError(
                    f"data.path: {file} column {name!r} holds {schema.field(name).type}, and {form} in {self._files['train'][0]}"
                )

    def _labels(self, opened: Any) -> Counter[str]:
        """How many rows have each label; nothing else is read for it."""
        counts: Counter[str] = Counter()
        for batch in opened.iter_batches(batch_size=65_536, columns=[self.target], use_threads=False):
            count_labels(batch.column(0), counts)
            if len(counts) > MOST_LABELS:
                break  # no classes
        return counts

    def reader(self, files: Sequence[Path]) -> ReadShard:
        return ParquetReader(self.rows_to_tensors(self.target))

    def new_items(self, source: Path | str) -> Iterator[torch.Tensor]:
        """The rows of a Parquet file with the same columns, in any order and among others."""
        if isinstance(source, str):
            raise UserError("predict: give a Parquet file; a text is none")
        try:
            parquet_columns(str(source))
            schema = needed("pyarrow.parquet", "parquet_stream").read_schema(source)
            if absent := [name for name in self.columns or [] if name not in schema.names]:
                raise UserError(f"{source} has no column {absent[0]!r}{did_you_mean(absent[0], schema.names)}")
            reader = ParquetReader(self.rows_to_tensors(None))
            groups = needed("pyarrow.parquet", "parquet_stream").read_metadata(source)
            first = 0
            for part in range(groups.num_row_groups):
                rows = groups.row_group(part).num_rows
                for (inputs,) in reader(Shard(source, rows, part, first), 0, rows):
                    yield from inputs
                first += rows
        except UserError as error:
            raise UserError(str(error).removeprefix("data.path: ")) from None


class ParquetReader:
    """Reads row groups; a few files' footers are kept, no file is left open.

    Args:
        rows: makes tensors of them.
    """

    def __init__(self, rows: ArrowRows):
        self.rows = rows
        self._footers: dict[Path, Any] = {}

    def __call__(self, shard: Shard, start: int, stop: int) -> Iterator[Block]:
        parquet, pyarrow = needed("pyarrow.parquet", "parquet_stream"), needed("pyarrow", "parquet_stream")
        names = self.rows.names
        try:
            footer = self._footer(shard.path)
            group = footer.row_group(shard.part)
            size = BATCH_BYTES * group.num_rows // max(group.total_byte_size, 1)
            # without pre_buffer, by which a whole row group would be held
            with parquet.ParquetFile(shard.path, metadata=footer, buffer_size=2**20, pre_buffer=False) as file:
                at = 0
                for batch in file.iter_batches(
                    min(max(size, 1), MOST_ROWS), [shard.part], columns=names, use_threads=False
                ):
                    first, last = max(start - at, 0), min(stop - at, len(batch))
                    if first < last:
                        begin = at + first
                        rows = batch.slice(first, last - first)
                        yield self.rows.convert(rows, lambda row, begin=begin: shard.place(begin + row))  # type: ignore[misc]
                    at += len(batch)
                    if at >= stop:
                        return
        except (pyarrow.ArrowException, OSError) as error:
            raise unreadable(shard.path, error, f" row group {shard.part}") from None

    def _footer(self, path: Path) -> Any:
        if path not in self._footers:
            self._footers[path] = needed("pyarrow.parquet", "parquet_stream").read_metadata(path)
            while sum(f.serialized_size for f in self._footers.values()) > FOOTER_BYTES and len(self._footers) > 1:
                self._footers.pop(next(iter(self._footers)))
        return self._footers[path]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_footers": {}}


def unreadable(file: Path, error: Exception, part: str = "") -> UserError:
    """A file that pyarrow cannot read."""
    return UserError(f"data.path: {file}{part} cannot be read as a Parquet file: {' '.join(str(error).split())[:200]}")
