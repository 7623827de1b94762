"""Predictions of a run for new files or texts; the data that it was trained on need not be there."""

import csv
import itertools
import math
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from iolaus.data.bad_files import BadItem
from iolaus.data.folders import visible_files
from iolaus.errors import UserError
from iolaus.finished import restored
from iolaus.strict_json import to_json

CHUNK = 256  # items that are predicted together, and held in memory
ENDINGS = (".csv", ".jsonl")
PARTIAL = ".partial"  # ending of a file that is being written
MOST_COLUMNS = 20  # classes whose probabilities stand beside one another in a table
MAX_LISTED = 20  # failures that the terminal lists
DIGITS = 9  # of a number in a table: as many as tell every float32 apart
TOP = 5  # classes that a row of a table names where there are more


def predict(
    folder: Path,
    words: Sequence[str],
    texts: Sequence[str],
    checkpoint: str,
    output: Path | None,
    allow: list[str],
    top: int | None = None,
    strict: bool = False,
) -> None:
    """Predict for each item of files or texts and write the rows as they come; what cannot be read is listed at the end.

    In the place of a file or row that cannot be read stands a row without a prediction; a file of rows says why in the column `error`.

    Args:
        folder: the run's.
        words: files and folders of them, and settings KEY=VALUE to change.
        texts: given in place of a file.
        checkpoint: best, last, or a file.
        output: a .csv or .jsonl file; None: the terminal.
        allow: packages of one's own that the settings may name.
        top: classes that each row names, the likeliest first; None: the probabilities of all, or the 5 likeliest where more than 20
            would be columns of a table.
        strict: whether to stop at the first file or row that cannot be read, without an output file.

    Raises:
        UserError: for files that are not there or not what the run's data are made of, and an output that cannot be written; with the
            list of what could not be read, after all else is written.
    """
    overrides = [word for word in words if re.match(r"~?[\w.]+=?", word) and "=" in word and not Path(word).exists()]
    sources = _sources(word for word in words if word not in overrides)
    if not sources and not texts:
        raise UserError("predict: name a file, or give a text: iolaus predict RUN FILE..., or --text TEXT")
    if top is not None and top < 1:
        raise UserError(f"--top: must be at least 1; received {top}")
    if output is not None:
        check_output(output, ENDINGS)
    run = restored(folder, overrides, checkpoint, allow)
    files = [file for source in sources for file in _files(source, run.data.new_endings)]
    _choose_columns(run.task, top, is_table=output is None or output.suffix == ".csv")
    sourced: list[tuple[Path | str, str | None]] = [(text, "" if files else None) for text in texts]
    sourced += [(file, str(file)) for file in files]
    rows = (of_file(row, name) for source, name in sourced for row in predicted(run.task, run.data, source, strict))
    try:
        failures = _write(rows, sys.stdout, "csv")[1] if output is None else _write_file(rows, output)
    finally:
        for line in run.data.unseen.take():
            print(f"warning: {line}", file=sys.stderr)
    if failures:
        raise UserError(_summary(list(failures.values())))


def is_finite_row(row: dict[str, Any]) -> bool:
    """Whether all numbers of a row are finite."""
    return all(math.isfinite(value) for value in row.values() if isinstance(value, float))


@dataclass(frozen=True)
class Failure:
    """In place of a row: what could not be predicted, and why.

    Args:
        reason: that names the file.
        file: as it was asked for; None: a text.
    """

    reason: str
    file: str | None = None


Row = dict[str, Any] | Failure


def of_file(row: Row, name: str | None) -> Row:
    """A row that says first which file it is of, by the name that the file was asked for; a text alone stays one."""
    if isinstance(row, Failure):
        return Failure(row.reason, name)
    return row if name is None or set(row) == {"text"} else {"file": name} | row | {"file": name}


def _write_file(rows: Iterator[Row], output: Path) -> dict[int, Failure]:
    """Write rows to a file, which is not there before all are; return those without a prediction by their numbers."""
    partial = output.with_name(output.name + PARTIAL)
    try:
        with partial.open("w", newline="", encoding="utf-8") as place:
            count, failures = _write(_counted(rows), place, output.suffix[1:])
        if failures and output.suffix == ".csv":
            _add_errors(partial, failures)
        partial.replace(output)
    except OSError as error:
        raise UserError(f"--output: {output}: {error.strerror}") from None
    finally:
        partial.unlink(missing_ok=True)
    print(f"{count} predictions: {output}")
    return failures


def _add_errors(table: Path, failures: dict[int, Failure]) -> None:
    """Add a column to a table that says why rows have no prediction."""
    wider = table.with_name(table.name + PARTIAL)
    try:
        with table.open(newline="", encoding="utf-8") as source, wider.open("w", newline="", encoding="utf-8") as place:
            writer = csv.writer(place, lineterminator="\n")
            for number, cells in enumerate(csv.reader(source), -1):
                reason = failures[number].reason if number in failures else ""
                writer.writerow([*cells, "error" if number < 0 else reason])
        wider.replace(table)
    finally:
        wider.unlink(missing_ok=True)


def _summary(failures: Sequence[Failure]) -> str:
    """All that could not be predicted, as far as a terminal shows it."""
    lines = [_line(failure) for failure in failures[:MAX_LISTED]]
    if len(failures) > MAX_LISTED:
        lines.append(f"and {len(failures) - MAX_LISTED} more")
    return "\n".join([f"not predicted: {len(failures)}, which could not be read", *lines])


def _line(failure: Failure) -> str:
    reason = " ".join(failure.reason.split())
    is_named = not failure.file or Path(failure.file).name in reason
    return reason if is_named else f"{failure.file}: {reason}"


def check_output(output: Path, endings: Sequence[str]) -> None:
    """Refuse a file that could not be written, before anything is computed.

    Raises:
        UserError: for another ending, a folder in its place, or one that is not there.
    """
    if output.suffix not in endings:
        raise UserError(f"--output: {output} must end in {' or '.join(endings)}")
    if output.is_dir():
        raise UserError(f"--output: {output} is a folder; name a file")
    if not output.parent.is_dir():
        raise UserError(f"--output: the folder {output.parent} does not exist; create it first")
    if not os.access(output.parent, os.W_OK):
        raise UserError(f"--output: the folder {output.parent} cannot be written to")


def _choose_columns(task: Any, top: int | None, is_table: bool) -> None:
    """Let a task of classes name the likeliest ones alone where that was asked for, or where all would be too many columns."""
    num_classes = task.output_dim if getattr(task, "target_kind", None) == "class" else 0
    if top is not None and not num_classes:
        raise UserError(f"--top: is about classes, and the run's task, {type(task).__name__}, predicts none")
    if top is None and is_table and num_classes > MOST_COLUMNS:
        top = TOP
        print(
            f"of {num_classes} classes the {top} likeliest; --top says how many, a .jsonl file has all", file=sys.stderr
        )
    task.top = top


def _counted(rows: Iterator[Row]) -> Iterator[Row]:
    """The rows, with their number on the terminal where they take long."""
    from tqdm import tqdm

    yield from tqdm(rows, "predicted", unit=" rows", delay=2, leave=False, disable=None)


def _sources(words: Iterator[str]) -> list[Path]:
    """Files and folders, which must be there."""
    sources = [Path(word) for word in words]
    for path in sources:
        if not path.is_dir() and not path.is_file():
            raise UserError(f"predict: {path} does not exist  (for a text instead of a file: --text TEXT)")
    return sources


def _files(source: Path, endings: Collection[str]) -> list[Path]:
    """A file; of a folder those with one of the endings, all where there are none, in the order of their names.

    Raises:
        UserError: for a folder without such a file.
    """
    if not source.is_dir():
        return [source]
    if not (found := visible_files(source, endings)):
        raise UserError(
            f"predict: {source} holds no file to predict for  (known endings: {' '.join(sorted(endings)) or 'all'})"
        )
    return found


def predicted(task: Any, data: Any, source: Path | str, strict: bool = True) -> Iterator[Row]:
    """The rows of one file or text, as they come.

    Args:
        task: predicts.
        data: reads the source.
        source: a file or a text.
        strict: whether what cannot be read is raised; else a Failure stands in its place.

    Raises:
        UserError: for what cannot be read.
    """
    data.keeps_bad_items = not strict
    items = data.new_items(source)
    is_over = False
    while not is_over:
        chunk: list[Any] = []
        try:
            for item in itertools.islice(items, CHUNK):
                chunk.append(item)  # one by one: those before an error are kept
            is_over = len(chunk) < CHUNK
        except (UserError, OSError) as error:
            if strict:
                raise
            chunk.append(BadItem(_reason(error)))
            is_over = True
        yield from _predicted_chunk(task, data, chunk, strict)


def _predicted_chunk(task: Any, data: Any, chunk: list[Any], strict: bool) -> Iterator[Row]:
    """The row of each item, in order; items that the task refuses are found one by one."""
    good = [item for item in chunk if not isinstance(item, BadItem)]
    try:
        rows = iter(task.predict(good, data) if good else [])
    except UserError as error:
        if strict:
            raise
        if len(chunk) == 1:
            yield Failure(_reason(error))
            return
        for item in chunk:
            yield from _predicted_chunk(task, data, [item], strict)
        return
    for item in chunk:
        yield Failure(_reason(UserError(item.reason))) if isinstance(item, BadItem) else next(rows)


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error).removeprefix("predict: ")


def _write(rows: Iterator[Row], place: TextIO, form: str) -> tuple[int, dict[int, Failure]]:
    """Write rows as CSV, texts alone as they are, or a JSON object a line.

    Returns:
        how many predictions they are, and by the numbers of their rows those that have none.

    Raises:
        UserError: where there is no prediction at all.
    """
    failures: dict[int, Failure] = {}
    waiting: list[Failure] = []  # what failed before the first prediction, which tells the columns
    write: Callable[[Row], None] | None = None
    count, has_warned = 0, False
    for number, row in enumerate(rows):
        if not has_warned and isinstance(row, dict) and not is_finite_row(row):
            has_warned = True
            print("warning: a prediction is NaN or infinite; .jsonl has null in its place", file=sys.stderr)
        if isinstance(row, Failure):
            failures[number] = row
            if write is None:
                waiting.append(row)
                continue
        elif write is None:
            write = _writer(row, place, form)
            for failure in waiting:
                write(failure)
        write(row)
        count += not isinstance(row, Failure)
    if failures and not count:
        raise UserError(_line(failures[0]) if len(failures) == 1 else _summary(list(failures.values())))
    return count, failures


def _writer(first: dict[str, Any], place: TextIO, form: str) -> Callable[[Row], None]:
    """What writes rows like the first one, and in the place of those without a prediction empty cells or an empty line."""

    def write_json(row: Row) -> None:
        if isinstance(row, Failure):
            row = ({} if row.file is None else {"file": row.file}) | {"error": row.reason}
        print(to_json(row, ensure_ascii=False), file=place)

    def write_text(row: Row) -> None:
        print("" if isinstance(row, Failure) else row["text"], flush=True)

    if form == "jsonl":
        return write_json
    if set(first) == {"text"} and place is sys.stdout:
        return write_text
    writer = csv.DictWriter(place, list(first), lineterminator="\n")
    writer.writeheader()

    def write_cells(row: Row) -> None:
        if isinstance(row, Failure):
            row = {"file": row.file} if "file" in first else {}
        writer.writerow(
            {key: f"{value:.{DIGITS}g}" if isinstance(value, float) else value for key, value in row.items()}
        )

    return write_cells
