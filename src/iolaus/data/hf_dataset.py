"""Local files read by Hugging Face's datasets, streamed. https://huggingface.co/docs/datasets/stream."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from iolaus.data.arrow_rows import ArrowRows, chosen, count_labels
from iolaus.data.arrow_stream import ArrowStream
from iolaus.data.sniff import needed
from iolaus.data.stream_order import Block
from iolaus.data.streaming import MOST_LABELS, ReadShard, Shard
from iolaus.errors import UserError

FORMS = {
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".jsonl": "json",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
}
BLOCK = 256  # rows that are converted together


class HfDataset(ArrowStream):
    """Rows of JSON, CSV, Arrow or Parquet files, as `datasets.load_dataset(..., streaming=True)` gives them; nothing is fetched.

    A shard is a file. Its rows are counted once by reading the target's column, unless `num_rows` says them; where a stream begins inside a
    file, the library passes over the rows before, so many files are better than one.

    Args:
        path: a file, a folder of them, one with folders train, val, test, or a pattern.
        target: name of the column to predict; a ClassLabel names its classes.
        form: parquet, arrow, json or csv; None: as the files' ending says.
        columns: names of the columns to predict it from: numbers, or one of arrays or images; None: all others.
        drop: names of columns to leave out.
        size: height and width that images are resized to; None: they have one size.
        channels: 1 for grey, 3 for colour; None: as the images have.
        value_range: what is black and white in images of more than 8 bits; see ImageDecoder.
        background: grey level behind transparent pixels, from 0 to 255.
        num_targets: of a column of lists; None: the file says.
        stream: val_path, test_path, num_streams, shuffle_buffer, num_rows and the settings that every data set has; see StreamedData.

    Raises:
        UserError: for files that the library cannot read, columns that are not there, empty cells and NaN by file and row.
    """

    endings = tuple(FORMS)

    def __init__(
        self,
        path: str | Sequence[str],
        target: str | int,
        form: str | None = None,
        **table: Any,
    ):
        super().__init__(path, target, **table)
        self.form = form
        self._is_settled = False

    def scan(self, file: Path, rows: int | None) -> list[Shard]:
        if not self._is_settled:
            self._settle(self._files["train"][0])
        if rows is not None and (self.target_kind != "class" or self.num_classes is not None):
            return [Shard(file, rows)]
        number, counts = 0, Counter[str]()
        for table in tables(file, self._form(file), [self.target], 0, 10 * BLOCK):
            number += len(table)
            if self.target_kind == "class" and len(counts) <= MOST_LABELS:
                count_labels(table.column(self.target), counts)
        if rows is not None and rows != number:
            raise UserError(f"data.num_rows: says {rows} for {file}, which has {number}")
        return [Shard(file, number, labels=counts)]

    def _settle(self, file: Path) -> None:
        """Columns, and names of classes where the library knows them."""
        first = next(tables(file, self._form(file), None, 0, 1), None)
        if first is None:
            raise UserError(f"data.path: {file} has no rows")
        self.columns = chosen(first.schema, self.columns, self.drop, self.target, str(file))
        features = opened(file, self._form(file)).features or {}
        names = getattr(features.get(self.target), "names", None)
        if self.target_kind == "class" and names and self.class_names is None and self.num_classes is None:
            self.class_names, self.num_classes = list(names), len(names)
        self._is_settled = True

    def _form(self, file: Path) -> str:
        if self.form is None and file.suffix not in FORMS:
            raise UserError(f"data.form: {file} ends in none of {', '.join(FORMS)}; set data.form")
        return self.form or FORMS[file.suffix]

    def reader(self, files: Sequence[Path]) -> ReadShard:
        return TableReader(self.rows_to_tensors(self.target), {file: self._form(file) for file in files})

    def new_items(self, source: Path | str) -> Iterator[torch.Tensor]:
        """The rows of a file with the same columns."""
        if isinstance(source, str):
            raise UserError("predict: give files; a text is none")
        try:
            reader = TableReader(self.rows_to_tensors(None), {source: self._form(source)})
            for (inputs,) in reader(Shard(source, 0), 0, 2**62):
                yield from inputs
        except UserError as error:
            raise UserError(str(error).removeprefix("data.path: ")) from None


class TableReader:
    """Reads rows of files.

    Args:
        rows: makes tensors of them.
        forms: of each file.
    """

    def __init__(self, rows: ArrowRows, forms: dict[Path, str]):
        self.rows = rows
        self.forms = forms

    def __call__(self, shard: Shard, start: int, stop: int) -> Iterator[Block]:
        names = self.rows.names
        at = start
        for table in tables(shard.path, self.forms[shard.path], names, start, BLOCK):
            rows = table.slice(0, min(len(table), stop - at))
            yield self.rows.convert(rows, lambda row, at=at: shard.place(at + row))  # type: ignore[misc]
            at += len(rows)
            if at >= stop:
                return


def opened(file: Path, form: str) -> Any:
    """A file as the library streams it.

    Raises:
        UserError: when it cannot.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before its first import; files are local
    datasets, options = needed("datasets", "hf_dataset"), {}
    if form == "parquet":  # without pre_buffer, by which the columns of a whole file would be held
        scan = needed("pyarrow.dataset", "hf_dataset").ParquetFragmentScanOptions(pre_buffer=False)
        options = {"fragment_scan_options": scan, "batch_size": BLOCK}
    try:
        return datasets.load_dataset(form, data_files=[str(file)], split="train", streaming=True, **options)
    except (ValueError, OSError, RuntimeError) as error:
        raise unreadable(file, error) from None


def tables(file: Path, form: str, columns: Sequence[str] | None, start: int, size: int) -> Iterator[Any]:
    """The rows of a file from one on, as Arrow tables.

    Raises:
        UserError: for a file that the library cannot read, with its reason.
    """
    pyarrow, utils = needed("pyarrow", "hf_dataset"), needed("datasets", "hf_dataset").exceptions
    found = opened(file, form)
    try:
        if columns is not None and found.features is not None:
            if absent := [name for name in columns if name not in found.features]:
                raise UserError(f"data.path: {file} has no column {absent[0]!r}")
            found = found.select_columns(list(columns))
        if start:
            found = found.skip(start)
        yield from found.with_format("arrow").iter(batch_size=size)
    except UserError:
        raise
    except (pyarrow.ArrowException, utils.DatasetsError, ValueError, OSError, RuntimeError, TypeError) as error:
        raise unreadable(file, error) from None


def unreadable(file: Path, error: Exception) -> UserError:
    """A file that the library cannot read, with the reason that it had."""
    reason = error.__cause__ or error
    return UserError(f"data.path: {file} cannot be read by datasets: {' '.join(str(reason).split())[:200]}")
