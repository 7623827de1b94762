"""Predictions of a run for new files or texts; the data that it was trained on need not be there."""

import csv
import itertools
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

from iolaus.check import check, plain
from iolaus.errors import UserError
from iolaus.runs import find_checkpoint, read_run
from iolaus.startup import import_lightning

CHUNK = 256  # items that are predicted together, and held in memory
ENDINGS = (".csv", ".jsonl")


def predict(
    folder: Path, words: Sequence[str], texts: Sequence[str], checkpoint: str, output: Path | None, allow: list[str]
) -> None:
    """Predict for each item of files or texts and write the rows as they come.

    Args:
        folder: the run's.
        words: files and folders of them, and settings KEY=VALUE to change.
        texts: given in place of a file.
        checkpoint: best, last, or a file.
        output: a .csv or .jsonl file; None: the terminal.
        allow: packages of one's own that the settings may name.

    Raises:
        UserError: for files that are not there or not what the run's data are made of.
    """
    overrides = [word for word in words if re.match(r"~?[\w.]+=?", word) and "=" in word and not Path(word).exists()]
    files = list(_files(word for word in words if word not in overrides))
    if not files and not texts:
        raise UserError("predict: name a file, or give a text: iolaus predict RUN FILE..., or --text TEXT")
    if output is not None and output.suffix not in ENDINGS:
        raise UserError(f"--output: {output} must end in {' or '.join(ENDINGS)}")
    config = read_run(folder, overrides, allow)
    weights = find_checkpoint(folder, checkpoint)
    check(config, reads_data=False)
    import_lightning()
    from iolaus.build import restore

    data, task = restore(plain(config), weights)
    rows = itertools.chain(
        (row for text in texts for row in _predicted(task, data, text)),
        (
            {"file": str(file)} | row if set(row) != {"text"} else row
            for file in files
            for row in _predicted(task, data, file)
        ),
    )
    with ExitStack() as stack:
        place: TextIO = sys.stdout
        if output is not None:
            place = stack.enter_context(output.open("w", newline="", encoding="utf-8"))
        count = _write(rows, place, "csv" if output is None else output.suffix[1:])
    if output is not None:
        print(f"{count} predictions: {output}")


def _files(words: Iterator[str]) -> Iterator[Path]:
    """The files, those of a folder in the order of their names."""
    for path in map(Path, words):
        if path.is_dir():
            yield from sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
        elif path.is_file():
            yield path
        else:
            raise UserError(f"predict: {path} does not exist  (for a text instead of a file: --text TEXT)")


def _predicted(task: Any, data: Any, source: Path | str) -> Iterator[dict[str, Any]]:
    items = data.new_items(source)
    while chunk := list(itertools.islice(items, CHUNK)):
        yield from task.predict(chunk, data)


def _write(rows: Iterator[dict[str, Any]], place: TextIO, form: str) -> int:
    """Write rows as CSV, texts alone as they are, or a JSON object a line; how many they were."""
    write: Callable[[dict[str, Any]], Any] | None = None
    count = 0
    for row in rows:
        if form == "jsonl":
            print(json.dumps(row, ensure_ascii=False), file=place, flush=True)
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
