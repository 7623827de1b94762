"""Runs compared: tables for the terminal, one CSV or JSON for programs, and a page with learning curves for people."""

import base64
import csv
import html
import io
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from iolaus.compare.find import runs_below
from iolaus.compare.tables import Table, Wanted, counts, tables
from iolaus.errors import UserError
from iolaus.files import write
from iolaus.pages import STYLE, shortened
from iolaus.strict_json import to_json
from iolaus.sweep.leaderboard import Leaderboard, Repeats
from iolaus.sweep.scale import cell
from iolaus.tables import text_table
from iolaus.terminal import width

MOST_ROWS = 20  # of a table in the terminal
MOST_METRICS = 6  # of a table in the terminal; fewer where they do not fit into a line
MOST_TOLD = 5  # runs without a result that the terminal names, of a table
REPORTS = ("report.html", "report.md")  # of a run, the one that a page links to first


@dataclass(frozen=True)
class Outputs:
    """Files that are written beside what the terminal shows.

    Args:
        csv: all runs, with numbers in full.
        html: one page that holds everything.
        figure: learning curves, a PNG.
        json: whether the terminal gets JSON in place of tables.
    """

    csv: Path | None = None
    html: Path | None = None
    figure: Path | None = None
    json: bool = False


def compare(folders: Sequence[Path], wanted: Wanted, outputs: Outputs, earlier: bool = False) -> str:
    """Find runs, and write what they came to.

    Args:
        folders: that hold runs and sweeps, at any depth.
        wanted: which of the runs, in what order.
        outputs: files to be written.
        earlier: whether repeated tries of sweeps count too.

    Returns:
        what the terminal shows.

    Raises:
        UserError: where there is nothing to compare, for a key that no run has, or a file that cannot be written.
    """
    if outputs.figure is not None and outputs.figure.suffix != ".png":
        raise UserError(f"--figure: {outputs.figure} must end in .png")
    runs, notes = runs_below(folders, earlier)
    found = tables(runs, wanted, Path.cwd())
    written = []
    if outputs.csv is not None:
        written.append(_write(outputs.csv, _csv(found).encode(), "--csv"))
    if outputs.figure is not None or outputs.html is not None:
        picture = _picture(found)
        if outputs.figure is not None:
            if picture is None:
                raise UserError("--figure: no run has logged its objective, there is no curve to draw")
            written.append(_write(outputs.figure, picture, "--figure"))
        if outputs.html is not None:
            page = _html(found, folders, notes, picture, outputs.html.parent)
            written.append(_write(outputs.html, page.encode(), "--html"))
    if outputs.json:
        return to_json(_as_json(found, notes), indent=2, default=str)
    return _terminal(found, folders, notes, written)


def _picture(found: Sequence[Table]) -> bytes | None:
    from iolaus.compare.curves import learning_curves
    from iolaus.figures import png

    figure = learning_curves(found)
    return None if figure is None else png(figure)


def _write(file: Path, content: bytes, option: str) -> Path:
    """Write a file that an option names."""
    if file.is_dir():
        raise UserError(f"{option}: {file} is a folder; name a file")
    try:
        write(file, content)
    except (OSError, UserError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"there is no folder {file.parent}"
        raise UserError(f"{option} {file}: cannot be written: {reason}") from None
    return file


# rows of texts


def _columns(table: Table) -> list[str]:
    """What a table shows of each row, after its number: the user's choice, or what differs and what came of it."""
    if table.columns:
        return table.columns
    board = table.board
    objective = [board.monitor] if board.monitor is not None else []
    columns = [
        *_settings(board),
        *objective,
        *board.metrics,
        *(["n"] if board.repeats else []),
        "epoch",
        "seconds",
        "state",
    ]
    if table.by is not None and table.by not in columns:
        columns.insert(len(_settings(board)), table.by)
    return columns


def _settings(board: Leaderboard) -> list[str]:
    """The settings that tell rows apart."""
    return [key for key in board.keys if not board.repeats or key not in board.repeated]


def _texts(table: Table, columns: Sequence[str], most_rows: int | None = None) -> Iterator[list[str]]:
    """A row of texts for each run, or for those that are joined."""
    values = {run.folder: run.values for run in table.runs}
    for number, member in enumerate(table.members[:most_rows], 1):
        yield [str(number), *(_text(table, member, values, name) for name in columns)]


def _text(table: Table, member: Repeats, values: dict[Path, dict[str, Any]], name: str) -> str:
    """One cell."""
    found = [values[row.folder] for row in member.rows]
    if name == "state":
        return _states(member)
    if name == "n":
        return _number_of(member)
    if name in member.settings:
        return cell(member.settings[name])
    key = "objective" if name == table.board.monitor else name
    if len(found) == 1:
        return _told(name, found[0].get(key))
    if (mean := member.mean(key)) is not None:
        deviation = member.deviation(key)
        return _told(name, mean) if deviation is None else f"{mean:.4g} ± {deviation:.2g}"
    told = list(dict.fromkeys(_told(name, one.get(name)) for one in found if one.get(name) is not None))
    return ", ".join(told[:3]) + (", …" if len(told) > 3 else "")


def _told(name: str, value: Any) -> str:
    """A value as a table shows it."""
    if value is None:
        return ""
    return f"{value:.1f}" if name == "seconds" and isinstance(value, float) else cell(value)


def _states(member: Repeats) -> str:
    """What became of runs that are joined, each state once with how many, the most frequent first."""
    states = [row.state for row in member.rows]
    found = sorted(set(states), key=lambda state: -states.count(state))
    return found[0] if len(found) == 1 else ", ".join(f"{states.count(state)} {state}" for state in found)


def _number_of(member: Repeats) -> str:
    """How many runs have a result, and of how many where some have none."""
    number = len(member.values("objective"))
    return str(number) if number == len(member.rows) else f"{number} of {len(member.rows)}"


# the terminal


def _terminal(found: Sequence[Table], folders: Sequence[Path], notes: Sequence[str], written: Sequence[Path]) -> str:
    number = sum(len(table.board.rows) for table in found)
    lines = [f"{' '.join(os.path.relpath(folder) for folder in folders)}: {_runs(number)}, {counts(found)}"]
    for table in found:
        lines += ["", *_table_lines(table)]
    lines += [*([""] if notes or written else []), *(f"note: {note}" for note in notes)]
    return "\n".join([*lines, *(f"written: {file}" for file in written)])


def _table_lines(table: Table) -> Iterator[str]:
    """A table with its title, where its runs lie, and why some have no result."""
    board = table.board
    yield f"{table.title}: {_rows_in_words(table)}" + (f", by {table.order}" if table.order else "")
    columns = _fitting(table)
    yield text_table(["", *shortened(columns, board.keys)], list(_texts(table, columns, MOST_ROWS)))
    hidden = [key for key in _columns(table) if key not in columns]
    if hidden:
        yield f"not shown for want of room: {', '.join(hidden)}; choose with --columns, or write all with --csv or --html"
    for place, member in enumerate(table.members[:MOST_ROWS], 1):
        others = f" and {len(member.rows) - 1} more" if len(member.rows) > 1 else ""
        first = min(member.rows, key=lambda row: row.number)
        yield f"{place:>4}  {os.path.relpath(first.folder)}{others}"
    if (more := len(table.members) - MOST_ROWS) > 0:
        yield f"and {more} rows more, in --csv FILE and --html FILE"
    if table.more:
        yield f"{table.more} rows more were left out by --top"
    yield from (f"note: {note}" for note in board.notes)
    lost = [row for row in board.rows if row.error is not None]
    for row in lost[:MOST_TOLD]:
        yield f"{row.state}: {os.path.relpath(row.folder)}: {row.error}"
    if len(lost) > MOST_TOLD:
        yield f"and {len(lost) - MOST_TOLD} more without a result"


def _rows_in_words(table: Table) -> str:
    """How many runs a table has, and what joins them."""
    board = table.board
    number = len(board.rows)
    if not board.repeats:
        return _runs(number)
    names = {"data.fold": "folds", "seed": "seeds"}
    over = " and ".join(names[key] for key in board.repeated)
    return f"{_runs(number)} in {len(board.repeats)} rows, mean ± standard deviation over {over}"


def _runs(number: int) -> str:
    return "1 run" if number == 1 else f"{number} runs"


def _fitting(table: Table) -> list[str]:
    """The columns that fit into a line, what sorts among them: metrics but the first go first, then time and epoch, the settings last."""
    columns, board = _columns(table), table.board
    if table.columns:
        return columns
    first, *others = board.metrics or [""]
    columns = [name for name in columns if name == table.by or name not in board.metrics[MOST_METRICS:]]
    for name in (*reversed(others[: MOST_METRICS - 1]), "seconds", "epoch", first, *reversed(_settings(board))):
        rows = [["", *shortened(columns, board.keys)], *_texts(table, columns, MOST_ROWS)]
        if sum(max(map(len, column)) + 3 for column in zip(*rows, strict=True)) < width():
            break
        columns = [column for column in columns if column != name or column == table.by]
    return columns


# files for programs


def _csv(found: Sequence[Table]) -> str:
    """A row for each run, table after table, with the settings that differ in any of them."""
    keys = list(dict.fromkeys(key for table in found for key in table.board.keys))
    names = list(dict.fromkeys(name for table in found for name in table.board.metrics))
    ends = ["epoch", "seconds", "state", "folder", "error"]
    extra = [
        name
        for name in dict.fromkeys(c for table in found for c in table.columns)
        if name not in {*keys, *names, *ends}
    ]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["data", "task", "monitor", *keys, *extra, "objective", *names, *ends])
    for table in found:
        for row, run in zip(table.board.rows, table.runs, strict=True):
            own = row.settings
            settings = [
                ("null" if own[key] is None else own[key]) if key in own else run.values.get(key) for key in keys
            ]
            settings = [cell(value) if isinstance(value, list) else value for value in settings]
            others = [run.values.get(name) for name in (*extra, "objective", *names, *ends)]
            writer.writerow([table.data, table.task, table.board.monitor, *settings, *others])
    return text.getvalue()


def _as_json(found: Sequence[Table], notes: Sequence[str]) -> dict[str, Any]:
    """Everything that the tables hold."""
    listed = [
        {
            "data": table.data,
            "task": table.task,
            "monitor": table.board.monitor,
            "mode": table.board.mode,
            "settings": table.board.keys,
            "runs": [
                {
                    "folder": os.path.relpath(row.folder),
                    "state": row.state,
                    "settings": row.settings,
                    "objective": row.objective,
                    "best": row.best,
                    "test": row.test,
                    "best_epoch": row.best_epoch,
                    "seconds": row.seconds,
                    "error": row.error,
                    **({"columns": {name: run.values.get(name) for name in table.columns}} if table.columns else {}),
                }
                for row, run in zip(table.board.rows, table.runs, strict=True)
            ],
            "joined": [_joined(table, member) for member in table.board.repeats],
            "notes": table.board.notes,
        }
        for table in found
    ]
    return {"tables": listed, "notes": list(notes)}


def _joined(table: Table, member: Repeats) -> dict[str, Any]:
    """Runs that are joined: what they share, how many have a result, mean and deviation of each number."""
    names = ["objective", *table.board.metrics, "epoch", "seconds"]
    return {
        "settings": member.settings,
        "n": len(member.values("objective")),
        "runs": [os.path.relpath(row.folder) for row in member.rows],
        "mean": {name: member.mean(name) for name in names},
        "deviation": {name: member.deviation(name) for name in names},
    }


# the page

MORE_STYLE = """
th { cursor: pointer; user-select: none; }
th[aria-sort=ascending]::after { content: " ▲"; } th[aria-sort=descending]::after { content: " ▼"; }
th, td { text-align: right; } th:first-child, td:first-child { text-align: left; }
tr.best { font-weight: 600; } .text.text { text-align: left; }
"""
SCRIPT = """
for (const head of document.querySelectorAll("th")) {
  const sort = () => {
    const row = head.parentNode, body = row.closest("table").tBodies[0], place = [...row.children].indexOf(head);
    const falls = head.getAttribute("aria-sort") === "ascending";
    for (const other of row.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", falls ? "descending" : "ascending");
    const key = line => line.cells[place].dataset.value ?? line.cells[place].textContent;
    const compare = (a, b) => {
      const [x, y] = [key(a), key(b)], [m, n] = [parseFloat(x), parseFloat(y)];
      if (x === "" || y === "") return (x === "") - (y === "");
      const order = isNaN(m) || isNaN(n) ? x.localeCompare(y) : m - n;
      return falls ? -order : order;
    };
    body.append(...[...body.rows].sort(compare));
  };
  head.tabIndex = 0; head.title = "sort";
  head.addEventListener("click", sort);
  head.addEventListener("keydown", event => { if (event.key === "Enter") sort(); });
}
"""


def _html(
    found: Sequence[Table], folders: Sequence[Path], notes: Sequence[str], picture: bytes | None, place: Path
) -> str:
    """One file that holds everything; links lead from its folder to the runs' reports."""
    say = html.escape
    title = f"Runs of {', '.join(os.path.relpath(folder) for folder in folders)}"
    number = sum(len(table.board.rows) for table in found)
    parts = [
        f"<h1>{say(title)}</h1>",
        f"<p>{_runs(number)}, {say(counts(found))}. A click on a column's name sorts by it.</p>",
    ]
    parts += [f"<p>Note: {say(note)}.</p>" for note in notes]
    for table in found:
        order = f", by {table.order}" if table.order else ""
        parts.append(f"<h2>{say(table.title)}</h2><p>{say(_rows_in_words(table) + order)}.</p>")
        parts += [f"<p>Note: {say(note)}.</p>" for note in table.board.notes]
        if table.board.repeats:
            columns = _columns(table)
            parts += [
                _html_rows(["", *shortened(columns, table.board.keys)], _html_joined(table, columns)),
                "<h3>Each run</h3>",
            ]
        parts.append(_html_runs(table, place))
    if picture is not None:
        source = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
        parts.append(
            f'<h2>Learning curves</h2><figure><img alt="learning curves" style="min-width: 420px" src="{source}"></figure>'
            "<p class=caption>The objective over epochs, a dot at the best; the first rows of each table in colours.</p>"
        )
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{say(title)}</title><style>{STYLE}{MORE_STYLE}</style>"
    )
    body = "\n".join(parts)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n<script>{SCRIPT}</script></body></html>\n'


def _html_joined(table: Table, columns: Sequence[str]) -> Iterator[tuple[list[str], str]]:
    for member, row in zip(table.members, _texts(table, columns), strict=True):
        yield [_cell(text) for text in row], "" if member.values("objective") else "lost"


def _html_runs(table: Table, place: Path) -> str:
    """A row for each run; its number leads to its report, and its folder is told in the last column."""
    alone = replace(table, board=replace(table.board, repeats=[]))
    columns = [name for name in _columns(alone) if name != "folder"]
    rows = []
    for row, texts in zip(alone.board.rows, _texts(alone, columns), strict=True):
        name = os.path.relpath(row.folder, place)
        report = next((file for file in REPORTS if (row.folder / file).is_file()), "")
        link = f'<a href="{html.escape(quote(os.path.join(name, report)))}">{texts[0]}</a>'
        numbers = [row.value("objective" if c == table.board.monitor else c) for c in columns]
        cells = [_cell(text, number) for text, number in zip(texts[1:], numbers, strict=True)]
        state = "lost" if not row.is_ranked else "best" if row.number == 1 else ""
        error = f' title="{html.escape(row.error)}"' if row.error else ""
        rows.append(
            ([f"<td>{link}</td>", *cells, f"<td class=text{error}><code>{html.escape(name)}</code></td>"], state)
        )
    return _html_rows(["", *shortened(columns, table.board.keys), "folder"], rows)


def _cell(text: str, number: float | None = None) -> str:
    """A cell, with its number in full to be sorted by."""
    value = f' data-value="{number!r}"' if number is not None and math.isfinite(number) else ""
    return f"<td{value}>{html.escape(text)}</td>"


def _html_rows(columns: Sequence[str], rows: Iterable[tuple[Sequence[str], str]]) -> str:
    heads = "".join(
        f"<th{' class=text' if name == 'folder' else ''}>{html.escape(name) or '#'}</th>" for name in columns
    )
    body = "\n".join(f"<tr{f' class={kind}' if kind else ''}>{''.join(cells)}</tr>" for cells, kind in rows)
    return f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>\n{body}\n</tbody></table></div>'
