"""Predictions of a run for new files or texts; the data that it was trained on need not be there."""

import csv
import itertools
import json
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from iolaus.data.folders import visible_files
from iolaus.errors import UserError
from iolaus.finished import restored

CHUNK = 256  # items that are predicted together, and held in memory
ENDINGS = (".csv", ".jsonl")
PARTIAL = ".partial"  # ending of a file that is being written
MOST_COLUMNS = 20  # classes whose probabilities stand beside one another in a table
TOP = 5  # classes that a row of a table names where there are more


def predict(
    folder: Path,
    words: Sequence[str],
    texts: Sequence[str],
    checkpoint: str,
    output: Path | None,
    allow: list[str],
    top: int | None = None,
) -> None:
    """Predict for each item of files or texts and write the rows as they come.

    Args:
        folder: the run's.
        words: files and folders of them, and settings KEY=VALUE to change.
        texts: given in place of a file.
        checkpoint: best, last, or a file.
        output: a .csv or .jsonl file; None: the terminal.
        allow: packages of one's own that the settings may name.
        top: classes that each row names, the likeliest first; None: the probabilities of all, or the 5 likeliest where more than 20
            would be columns of a table.

    Raises:
        UserError: for files that are not there or not what the run's data are made of, and an output that cannot be written.
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
    rows = itertools.chain(
        (of_file(row, "") if files else row for text in texts for row in predicted(run.task, run.data, text)),
        (of_file(row, str(file)) for file in files for row in predicted(run.task, run.data, file)),
    )
    try:
        if output is None:
            _write(rows, sys.stdout, "csv")
        else:
            _write_file(rows, output)
    finally:
        for line in run.data.unseen.take():
            print(f"warning: {line}", file=sys.stderr)


def of_file(row: dict[str, Any], name: str) -> dict[str, Any]:
    """A row that says first which file it is of, by the name that the file was asked for; a text alone stays one."""
    return row if set(row) == {"text"} else {"file": name} | row | {"file": name}


def _write_file(rows: Iterator[dict[str, Any]], output: Path) -> None:
    """Write rows to a file, which is not there before all are."""
    partial = output.with_name(output.name + PARTIAL)
    try:
        with partial.open("w", newline="", encoding="utf-8") as place:
            count = _write(_counted(rows), place, output.suffix[1:])
        partial.replace(output)
    except OSError as error:
        raise UserError(f"--output: {output}: {error.strerror}") from None
    finally:
        partial.unlink(missing_ok=True)
    print(f"{count} predictions: {output}")


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


def _counted(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
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


def predicted(task: Any, data: Any, source: Path | str) -> Iterator[dict[str, Any]]:
    """The rows of one file or text, as they come."""
    items = data.new_items(source)
    while chunk := list(itertools.islice(items, CHUNK)):
        yield from task.predict(chunk, data)


def _write(rows: Iterator[dict[str, Any]], place: TextIO, form: str) -> int:
    """Write rows as CSV, texts alone as they are, or a JSON object a line; how many they were."""
    write: Callable[[dict[str, Any]], Any] | None = None
    count = 0
    for row in rows:
        if form == "jsonl":
            print(json.dumps(row, ensure_ascii=False), file=place)
        elif set(row) == {"text"} and place is sys.stdout:
            print(row["text"], flush=True)
        else:
            if write is None:
                writer = csv.DictWriter(place, list(row), lineterminator="\n")
                writer.writeheader()
                write = writer.writerow
            write({key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()})
        count += 1
    return count
