"""What a data file's targets are, told from its beginning alone and without torch and pandas, which take seconds to import."""

import csv
import glob
import importlib
import itertools
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple

from iolaus.data.cells import AmbiguousNumbers, is_amount
from iolaus.data.columns import classify, refuse_ambiguous, refuse_dates
from iolaus.data.file_format import SEPARATORS, delimiter, file_format, refuse_other_formats
from iolaus.data.folders import find_split_folders, visible_files
from iolaus.data.text_table import TextTable
from iolaus.errors import UserError, did_you_mean
from iolaus.overrides import override_text

SETTINGS = (
    "path",
    "target",
    "separator",
    "header",
    "skip_lines",
    "na",
    "keep_default_na",
    "decimal",
    "thousands",
    "encoding",
    "inputs",
    "targets",
    "columns",
    "drop",
    "num_streams",
)  # which say where targets are

Kind = Literal["class", "real"]


class Header(NamedTuple):
    """An array that was not read: its shape and its dtype of numpy."""

    shape: tuple[int, ...]
    dtype: Any


def told_by_file(data: Mapping[str, Any]) -> dict[str, str]:
    """What only the file of a data set tells: `target_kind` and, where it holds arrays, `input_kind`.

    Args:
        data: those of SETTINGS that the data set has, None where nothing is given. One that has `targets` is of arrays, one that has
            `num_streams` of Parquet files, any other a table.

    Raises:
        UserError: when the file, the column or the array is not there, or is not what it must be.
    """
    path = data.get("path")
    if "num_streams" in data:
        return _told_by_shards(data)
    if "targets" not in data:
        path = _existing(path)
        table = path if "separator" not in data else text_table(path, data)
        settings = {key: data.get(key) for key in ("target", "decimal", "thousands")}
        return {"target_kind": sniff_target_kind(table, **settings, na=data.get("na") or ())}
    path = _existing(path)
    if (form := file_format(path)) not in ("npz", "hdf5"):
        raise UserError(f"data.path: {path} is neither an npz file nor HDF5, nor the whole beginning of one")
    found = npz_headers(path) if form == "npz" else hdf5_headers(path)
    inputs, targets = str(data.get("inputs")), str(data.get("targets"))
    check_arrays(path, found, inputs, targets)
    input_kind = "table" if len(found[inputs].shape) == 2 else "image"
    return {"target_kind": "real" if found[targets].dtype.kind == "f" else "class", "input_kind": input_kind}


def text_table(path: str, data: Mapping[str, Any]) -> TextTable:
    """Return the table of text that the settings of a data set describe, with their defaults where they are absent."""
    given = {
        key: data[key] for key in ("separator", "header", "keep_default_na", "encoding") if data.get(key) is not None
    }
    return TextTable(path, **given, skip_lines=tuple(data.get("skip_lines") or ()), na=tuple(data.get("na") or ()))


def _told_by_shards(data: Mapping[str, Any]) -> dict[str, str]:
    """Of the first of several Parquet files."""
    path = data.get("path")
    endings = (".parquet", ".pq")
    inside = find_split_folders(Path(path), endings) if isinstance(path, str) and Path(path).is_dir() else {}
    file = str(shard_files(inside.get("train", path), endings, "data.path")[0])
    kind = sniff_target_kind(file, data.get("target"))
    others = {str(name) for name in (data.get("target"), *(data.get("drop") or []))}
    names = [str(name) for name in data.get("columns") or parquet_columns(file) if str(name) not in others]
    schema = needed("pyarrow.parquet", "parquet_stream").read_schema(file)
    forms = [str(schema.field(name).type) for name in names if name in schema.names]
    # encoded images are bytes, or bytes and the path of their file; images as numbers have two or three dimensions
    is_image = len(forms) == 1 and (
        any(word in forms[0] for word in ("binary", "struct<bytes"))
        or forms[0].count("list<") > 1
        or "tensor" in forms[0]
    )
    return {"target_kind": kind, "input_kind": "image" if is_image else "table"}


def shard_files(path: Any, endings: Iterable[str], key: str) -> list[Path]:
    """The files of a data set in several, in the order of their names.

    Args:
        path: a file, a folder, a pattern with * or ?, or a list of them.
        endings: of the files that count in a folder.
        key: the setting, for messages.

    Raises:
        UserError: when there is none.
    """
    if path is None:
        raise UserError(f"{key}: must be given, as in {key}=FOLDER  (working directory: {Path.cwd()})")
    if not isinstance(path, str | Path):
        return [file for one in path for file in shard_files(one, endings, key)]
    place = Path(path)
    if place.is_file():
        return [place]
    if place.is_dir():
        found = visible_files(place, tuple(endings))
        what = f"{path} holds no file that ends in {' or '.join(endings)}"
    else:
        found = sorted(Path(file) for file in glob.glob(str(path), recursive=True) if Path(file).is_file())
        what = f"there is no file {path}"
    if not found:
        raise UserError(f"{key}: {what}  (working directory: {Path.cwd()})")
    return found


def sniff_target_kind(
    table: TextTable | str,
    target: str | None,
    decimal: str | None = None,
    thousands: str | None = None,
    na: Sequence[str] = (),
) -> Kind:
    """Return whether the target column of a table holds labels or amounts, by the rules that load it.

    Text is labels; so are at most 20 different whole numbers, each on two rows on average at least. Other numbers, and those
    with a sign of percent or of a currency, are amounts.

    Args:
        table: a file of text, or the path of a Parquet file.
        target: the column to predict.
        decimal: the decimal sign of its numbers; None: as the cells show.
        thousands: the separator of thousands; None: as the cells show.
        na: texts of a Parquet file that mean an empty cell.

    Raises:
        UserError: when the column is not there, has no value, or holds numbers among which are texts, or dates.
    """
    path = table.path if isinstance(table, TextTable) else table
    columns = table.names if isinstance(table, TextTable) else parquet_columns(table)
    if target is None:
        raise UserError(f"data.target: must name the column to predict; {path} has {', '.join(columns)}")
    target = str(target)  # names such as 3 arrive as numbers
    if target not in columns:
        raise unknown_column(table, "data.target", target, columns)
    if isinstance(table, TextTable):
        cells, place = table.column(target), f"{path} line"
    else:
        cells, place = _parquet_cells(path, target, na), f"{path} row"
    if not cells:
        raise UserError(f"data.path: {path} has no rows with a value in column {target!r}")
    return _kind(cells, f"data.target: {place}", target, decimal, thousands)


def unknown_column(table: TextTable | str, setting: str, name: str, columns: Sequence[str]) -> UserError:
    """Return the refusal of a column that a table does not have."""
    path = table.path if isinstance(table, TextTable) else table
    line = table.line_with(name) if isinstance(table, TextTable) else None
    hint = f"; line {line} has it: {override_text('data.header', line)}" if line else did_you_mean(name, columns)
    return UserError(f"{setting}: {path} has no column {name!r}{hint}  (it has: {', '.join(columns)})")


def _existing(path: str | None) -> str:
    if path is None or not Path(path).is_file():
        what = "must be given, as in data.path=FILE" if path is None else f"{path} is not a file"
        raise UserError(f"data.path: {what}  (working directory: {Path.cwd()})")
    return path


def _kind(cells: Sequence[tuple[int, str]], place: str, name: str, decimal: str | None, thousands: str | None) -> Kind:
    """The kind of a target, from the number of each row and its cell."""
    values = [cell for _, cell in cells]
    try:
        found = classify(values, decimal, thousands)
    except AmbiguousNumbers as error:
        raise refuse_ambiguous(error, f"{place} {_row(cells, error.cell)}, column {name!r}") from None
    where = f"{place} {_row(cells, found.odd)}, column {name!r}" if found.odd else ""
    if found.kind == "date":
        raise refuse_dates(found.odd, where)
    if found.kind == "mixed" and found.notation is not None:
        raise UserError(
            f"{where}: {found.odd!r} is not a number, and most others are; if it means an empty cell, set "
            f"{override_text('data.na', [found.odd])}, and for labels task=classification"
        )
    if found.kind == "mixed":
        raise UserError(
            f"{where}: {found.odd!r} is like a number and is none, as {len(set(values)):,} different texts are; write numbers alone, or "
            "for labels set task=classification"
        )
    if found.notation is None:
        return "class"
    if found.notation.affix:
        return "real"  # money and shares are amounts, however few
    numbers = {cell: found.notation.parse(cell) for cell in set(values)}
    return "real" if is_amount([numbers[cell] or 0.0 for cell in values]) else "class"


def _row(cells: Sequence[tuple[int, str]], cell: str) -> int:
    return next(number for number, other in cells if other == cell)


def header(path: str, separator: str) -> list[str]:
    """The column names of a table.

    Raises:
        UserError: when the file is empty, a name stands twice, or another separator is meant.
    """
    separator = delimiter(separator)
    refuse_other_formats(path)
    with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:
        columns = next(csv.reader(file, delimiter=separator), [])
    if not columns:
        raise UserError(f"data.path: {path} is empty")
    names = [c.strip() for c in columns]
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise UserError(f"data.path: {path} has two columns named {twice[0]!r}; rename one")
    others = [word for word, char in SEPARATORS.items() if word not in ("\\t", "space") and char in names[0]]
    if len(names) == 1 and others:
        raise UserError(f"data.separator: {path} has one column, {names[0]!r}; set data.separator={others[0]}")
    return names


def needed(package: str, option: str) -> ModuleType:
    """A package that one option alone needs.

    Raises:
        UserError: when it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError:
        name = package.partition(".")[0]
        raise UserError(f"data={option}: needs the package {name}: pip install {name}") from None


def parquet_columns(path: str) -> list[str]:
    """The column names of a Parquet file.

    Raises:
        UserError: when it is no Parquet file, cannot be read, or a name stands twice.
    """
    if file_format(path) != "parquet":
        raise UserError(f"data.path: {path} is not a Parquet file, by its first bytes; a table as text is data=csv")
    parquet, pyarrow = needed("pyarrow.parquet", "parquet"), needed("pyarrow", "parquet")
    try:
        schema = parquet.read_schema(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(
            f"data.path: {path} cannot be read as a Parquet file: {' '.join(str(error).split())[:200]}"
        ) from None
    if twice := sorted({n for n in schema.names if schema.names.count(n) > 1}):
        raise UserError(f"data.path: {path} has two columns named {twice[0]!r}; rename one")
    return [str(name) for name in schema.names]


def _parquet_cells(path: str, target: str, na: Sequence[str]) -> list[tuple[int, str]]:
    """Return the row and the text of each value in a column."""
    parquet, pyarrow = needed("pyarrow.parquet", "parquet"), needed("pyarrow", "parquet")
    try:
        values = parquet.read_table(path, columns=[target]).column(0).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(
            f"data.path: {path} cannot be read as a Parquet file: {' '.join(str(error).split())[:200]}"
        ) from None
    cells = [(row, str(value).strip()) for row, value in enumerate(values) if value is not None and value == value]
    return [(row, cell) for row, cell in cells if cell and cell not in na]


def npz_headers(path: str) -> dict[str, Header]:
    """The arrays of an npz file by name; nothing but their headers is read.

    Raises:
        UserError: when it cannot be read.
    """
    import numpy as np

    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    found = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in (name for name in archive.namelist() if name.endswith(".npy")):
                with archive.open(entry) as file:
                    if (read := readers.get(np.lib.format.read_magic(file))) is not None:
                        shape, _, dtype = read(file)
                        found[entry.removesuffix(".npy")] = Header(shape, dtype)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, ValueError, EOFError, OSError, NotImplementedError) as error:
        raise UserError(
            f"data.path: {path} cannot be read as an npz file: {str(error) or 'it ends too early'}"
        ) from None
    return found


def hdf5_headers(path: str) -> dict[str, Header]:
    """The data sets of an HDF5 file by name, those in groups as GROUP/NAME.

    Raises:
        UserError: when it cannot be read.
    """
    h5py = needed("h5py", "hdf5")
    found: dict[str, Header] = {}

    def note(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.shape is not None:
            found[name] = Header(item.shape, item.dtype)

    try:
        with h5py.File(path, "r") as file:
            file.visititems(note)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"data.path: {path} cannot be read as an HDF5 file: {' '.join(str(error).split())[:200]}"
        ) from None
    return found


def check_arrays(path: str, found: Mapping[str, Header], inputs: str, targets: str) -> None:
    """Refuse arrays that cannot be inputs (N, features), (N, H, W) or (N, C, H, W) and N targets.

    Raises:
        UserError: for an array that is not there, holds no numbers, or is not as long as the other one.
    """
    for setting, name in (("inputs", inputs), ("targets", targets)):
        check_array(path, found, name, f"data.{setting}: ")
    rows, more = found[inputs].shape[0], found[targets].shape[0]
    if rows != more:
        raise UserError(
            f"data.targets: {path}: {inputs!r} has {rows} rows and {targets!r} has {more}; each input must have its target"
        )
    if len(found[inputs].shape) not in (2, 3, 4):
        raise UserError(
            f"data.inputs: {path}: {inputs!r} has shape {list(found[inputs].shape)}; it must be rows of numbers (N, features) or images "
            "(N, H, W) or (N, C, H, W)"
        )


def check_array(path: str, found: Mapping[str, Header], name: str, key: str) -> None:
    """Refuse an array that is not there, or does not hold rows of numbers; `key` begins the message."""
    if name not in found:
        raise UserError(f"{key}{path} has no array {name!r}{did_you_mean(name, found)}  (it has: {_listed(found)})")
    shape, dtype = found[name]
    if dtype.kind not in "biuf":
        raise UserError(
            f"{key}{path}: {name!r} holds objects or texts (dtype {dtype}), which are not read; save it as numbers"
        )
    if not shape:
        raise UserError(f"{key}{path}: {name!r} is one number; it must have a row for each sample")


def _listed(names: Iterable[str]) -> str:
    shown = list(itertools.islice(names, 11))
    return ", ".join(shown[:10]) + (", ..." if len(shown) > 10 else "") or "nothing"
