"""The report of a sweep: a table for the terminal, leaderboard.csv for programs, report.md and report.html with figures for people."""

import base64
import csv
import html
import io
import os
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from iolaus.errors import UserError
from iolaus.sweep.leaderboard import Leaderboard, Repeats, Row, leaderboard
from iolaus.sweep.scale import cell
from iolaus.tables import MOST_LETTERS, markdown, text_table

MOST_ROWS = 20  # of a table in the terminal
MOST_METRICS = 6  # of a table in the terminal; fewer where they do not fit into a line
MOST_TOLD = 10  # jobs without a result that the terminal names

Table = tuple[list[str], list[list[str]]]  # names of columns, rows of texts
SMALLEST = 0.42  # of a picture's size on a narrow screen, where letters are still read; wider ones are scrolled

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 0 1rem 3rem; max-width: 60rem; color: #222; background: #fff; }
h1 { font-size: 1.4rem; overflow-wrap: anywhere; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } tr.lost { color: #888; } tbody tr:first-child { font-weight: 600; }
tbody tr.lost:first-child { font-weight: 400; }
code, pre { font: .85rem/1.4 ui-monospace, monospace; background: #f4f4f4; border-radius: 4px; }
code { padding: .1rem .25rem; overflow-wrap: anywhere; } pre { padding: .6rem; white-space: pre-wrap; overflow-wrap: anywhere; }
figure { margin: 1rem 0 0; overflow-x: auto; } img { max-width: 100%; height: auto; }
.caption { margin-top: .25rem; color: #555; font-size: .875rem; }
"""


def report_sweep(folder: Path) -> str:
    """Write a sweep's report into its folder: leaderboard.csv, report.md, report.html, figures/*.png.

    Each file is at every moment what it was or the new one. It may be written again and again, also while the sweep goes on.

    Returns:
        what the terminal shows.

    Raises:
        UserError: for a folder that holds no sweep, or cannot be written to.
    """
    board = leaderboard(folder)
    pictures = _pictures(board)
    captions = {name: caption for name, (_, caption) in pictures.items()}
    try:
        (folder / "figures").mkdir(exist_ok=True)
        for name, (picture, _) in pictures.items():
            _write(folder / "figures" / f"{name}.png", picture)
        _write(folder / "leaderboard.csv", _csv(board).encode())
        _write(folder / "report.md", _markdown(board, captions).encode())
        _write(folder / "report.html", _html(board, pictures).encode())
    except OSError as error:
        raise UserError(f"{folder}: the report cannot be written: {error.filename}: {error.strerror}") from None
    return _terminal(board)


def _pictures(board: Leaderboard) -> dict[str, tuple[bytes, str]]:
    """Each figure as PNG, with its caption."""
    from iolaus.figures import png
    from iolaus.sweep.figures import draw

    return {name: (png(figure), caption) for name, (figure, caption) in draw(board).items()}


def _write(file: Path, content: bytes) -> None:
    """Write a file so that it is at every moment either what it was or the new one."""
    partial = file.with_name(file.name + ".partial")
    partial.write_bytes(content)
    os.replace(partial, file)


def _csv(board: Leaderboard) -> str:
    """All jobs, the best first, with numbers in full."""
    text = io.StringIO()
    names = board.metrics
    columns = ["job", *board.keys, "objective", *names, "best_epoch", "seconds", "state", "folder", "error"]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in board.rows:
        values = [row.settings[key] for key in board.keys]
        metrics = [(row.best | row.test).get(name) for name in names]
        ends = [row.best_epoch, row.seconds, row.state, _relative(row.folder, board.folder), row.error]
        writer.writerow([row.number, *("null" if v is None else v for v in values), row.objective, *metrics, *ends])
    return text.getvalue()


def _relative(folder: Path, to: Path) -> str:
    return os.path.relpath(folder, to)


def _table(board: Leaderboard, rows: Sequence[Row], most_metrics: int | None = None) -> Table:
    """Jobs as texts: what varies, what came of it."""
    metrics = board.metrics[:most_metrics]
    columns = ["job", *board.keys, board.monitor or "objective", *metrics, "epoch", "seconds", "state"]
    body = []
    for row in rows:
        measured = [row.objective, *((row.best | row.test).get(name) for name in metrics)]
        seconds = f"{row.seconds:.1f}" if row.seconds is not None else ""
        settings = [cell(row.settings[key]) for key in board.keys]
        body.append([str(row.number), *settings, *map(_told, measured), _told(row.best_epoch), seconds, row.state])
    return columns, body


def _told(value: float | None) -> str:
    return "" if value is None else cell(value)


def _repeats_table(board: Leaderboard, most_metrics: int | None = None, most_rows: int | None = None) -> Table:
    """Groups of repeated jobs: mean and deviation of the objective and the metrics, and how many they are of."""
    metrics = board.metrics[:most_metrics]
    keys = [key for key in board.keys if key not in board.repeated]
    columns = [*(keys or ["jobs"]), board.monitor or "objective", *metrics, "n"]
    return columns, [
        [
            *([cell(group.settings[key]) for key in keys] or ["all"]),
            *(_spread(group, name) for name in ("objective", *metrics)),
            _number_of(group),
        ]
        for group in board.repeats[:most_rows]
    ]


def _spread(group: Repeats, name: str) -> str:
    mean, deviation = group.mean(name), group.deviation(name)
    if mean is None:
        return ""
    return cell(mean) if deviation is None else f"{mean:.4g} ± {deviation:.2g}"


def _number_of(group: Repeats) -> str:
    """How many jobs have a result, and of how many where some have none."""
    found = len(group.values("objective"))
    return str(found) if found == len(group.rows) else f"{found} of {len(group.rows)}"


def _over(board: Leaderboard) -> str:
    names = {"data.fold": "folds", "seed": "seeds"}
    return f"mean ± standard deviation over {' and '.join(names[key] for key in board.repeated)}"


def _counts(board: Leaderboard) -> str:
    return ", ".join(f"{number} {state}" for state, number in board.counts.items())


def _lost(board: Leaderboard) -> list[Row]:
    """Jobs that have no result and will get none, by number."""
    return sorted((row for row in board.rows if row.error is not None), key=lambda row: row.number)


def _best(board: Leaderboard) -> tuple[str, str, Row] | None:
    """What is best, how it is run again, and its row: of repeated jobs the best mean's, else the best job's."""
    if not board.ranked:
        return None
    if board.repeats:
        group = board.repeats[0]
        row = next(row for row in board.ranked if row in group.rows)
        shared = "  ".join(f"{key}={cell(value)}" for key, value in group.settings.items())
        return f"{shared or 'all jobs'}, {board.monitor} {_spread(group, 'objective')}", board.again(row), row
    row = board.ranked[0]
    return f"job {row.number}, {board.monitor} {_told(row.objective)}", board.again(row), row


def _fitting(tables: Iterable[Table]) -> str:
    """The first table, of some that have fewer and fewer columns, that fits into a line of the terminal; else the last."""
    for columns, rows in tables:
        widths = (max(map(len, column)) + 3 for column in zip(columns, *rows, strict=True))
        if sum(widths) + 1 <= MOST_LETTERS:
            break
    return text_table(columns, rows)


def _shortened(table: Table, board: Leaderboard) -> Table:
    """A table whose settings are named by their last parts, where these differ: lr and not optim.lr."""
    columns, rows = table
    last = [key.rpartition(".")[2] if key in board.keys else key for key in columns]
    return (last if len(set(last)) == len(last) else columns), rows


def _terminal(board: Leaderboard) -> str:
    folder = os.path.relpath(board.folder)
    lines = [f"sweep: {_counts(board)}"]
    metrics = range(MOST_METRICS, -1, -1)
    if board.repeats:
        lines += [_over(board), _fitting(_shortened(_repeats_table(board, n, MOST_ROWS), board) for n in metrics)]
    lines.append(_fitting(_shortened(_table(board, board.rows[:MOST_ROWS], n), board) for n in metrics))
    if (more := len(board.rows) - MOST_ROWS) > 0:
        lines.append(f"and {more} jobs more: {folder}/leaderboard.csv")
    lines += [f"note: {note}" for note in board.notes]
    lost = _lost(board)
    for row in lost[:MOST_TOLD]:
        lines += [f"job {row.number} {row.state}: {row.error}", f"  {os.path.relpath(row.folder)}"]
    if len(lost) > MOST_TOLD:
        lines.append(f"and {len(lost) - MOST_TOLD} more without a result: {folder}/report.md")
    if (best := _best(board)) is not None:
        what, command, row = best
        lines += [f"best: {what}", f"  {os.path.relpath(row.folder)}", f"  {command}"]
    quoted = shlex.quote(folder)
    return "\n".join([*lines, f"report: {quoted}/report.html", "", "next:", f"  tensorboard --logdir {quoted}"])


def _title(board: Leaderboard) -> str:
    return f"Sweep {board.folder.resolve().name}"


def _markdown(board: Leaderboard, captions: dict[str, str]) -> str:
    lines = [f"# {_title(board)}", "", f"{_counts(board)}."]
    if (best := _best(board)) is not None:
        what, command, row = best
        lines += ["", f"Best: {what}, `{_relative(row.folder, board.folder)}`", "", f"    {command}"]
    for note in board.notes:
        lines += ["", f"Note: {note}."]
    if board.repeats:
        lines += ["", f"## {_over(board).capitalize()}", "", *markdown(*_repeats_table(board))]
    lines += ["", "## Jobs", "", *markdown(*_table(board, board.rows))]
    if lost := _lost(board):
        lines += ["", "## Without a result", ""]
        lines += [f"- job {r.number} {r.state}: {r.error}, `{_relative(r.folder, board.folder)}`" for r in lost]
    for name, caption in captions.items():
        title = name.replace("_", " ")
        lines += ["", f"## {title.capitalize()}", "", f"![{title}](figures/{name}.png)", "", caption]
    return "\n".join([*lines, ""])


def _html(board: Leaderboard, pictures: dict[str, tuple[bytes, str]]) -> str:
    """One file that holds everything, pictures included."""
    say = html.escape
    parts = [f"<h1>{say(_title(board))}</h1>", f"<p>{say(_counts(board))}.</p>"]
    if (best := _best(board)) is not None:
        what, command, row = best
        parts.append(f"<p>Best: {say(what)}, <code>{say(_relative(row.folder, board.folder))}</code></p>")
        parts.append(f"<pre>{say(command)}</pre>")
    parts += [f"<p>Note: {say(note)}.</p>" for note in board.notes]
    if board.repeats:
        parts += [
            f"<h2>{say(_over(board).capitalize())}</h2>",
            _html_table(*_shortened(_repeats_table(board), board), []),
        ]
    lost_rows = [not row.is_ranked for row in board.rows]
    parts += ["<h2>Jobs</h2>", _html_table(*_shortened(_table(board, board.rows), board), lost_rows)]
    if lost := _lost(board):
        parts.append("<h2>Without a result</h2><ul>")
        for row in lost:
            where = say(_relative(row.folder, board.folder))
            parts.append(f"<li>job {row.number} {row.state}: {say(str(row.error))}, <code>{where}</code></li>")
        parts.append("</ul>")
    for name, (picture, caption) in pictures.items():
        title = say(name.replace("_", " "))
        source = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
        parts.append(f"<h2>{title.capitalize()}</h2>")
        least = int(SMALLEST * int.from_bytes(picture[16:20], "big"))  # of the width that stands in a PNG's head
        image = f'<img alt="{title}" style="min-width: {least}px" src="{source}">'
        parts.append(f"<figure>{image}</figure><p class=caption>{say(caption)}</p>")
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{say(_title(board))}</title><style>{STYLE}</style>"
    )
    body = "\n".join(parts)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def _html_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], is_lost: Sequence[bool]) -> str:
    def line(cells: Sequence[Any], tag: str) -> str:
        return "".join(f"<{tag}>{html.escape(str(c))}</{tag}>" for c in cells)

    body = "\n".join(
        f"<tr{' class=lost' if place < len(is_lost) and is_lost[place] else ''}>{line(row, 'td')}</tr>"
        for place, row in enumerate(rows)
    )
    return (
        f'<div class="wide"><table><thead><tr>{line(columns, "th")}</tr></thead><tbody>\n{body}\n</tbody></table></div>'
    )
