"""The report of a sweep: a table for the terminal, leaderboard.csv for programs, report.md and report.html with figures for people."""

import csv
import io
import os
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from iolaus.errors import UserError
from iolaus.files import write
from iolaus.pages import Code, Heading, Items, Page, Picture, Table, Words, markdown, page_html, shortened
from iolaus.sweep.leaderboard import Leaderboard, Repeats, Row, leaderboard
from iolaus.sweep.scale import cell
from iolaus.tables import text_table
from iolaus.terminal import width
from iolaus.user_code import warn_on_failure

MOST_ROWS = 20  # of a table in the terminal
MOST_METRICS = 6  # of a table in the terminal; fewer where they do not fit into a line
MOST_TOLD = 10  # jobs without a result that the terminal names

Columns = tuple[list[str], list[list[str]]]  # names of columns, rows of texts


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
    try:
        (folder / "figures").mkdir(exist_ok=True)
        for name, (picture, _) in pictures.items():
            write(folder / "figures" / f"{name}.png", picture)
        write(folder / "leaderboard.csv", _csv(board))
        page = _page(board, {name: caption for name, (_, caption) in pictures.items()})
        write(folder / "report.md", markdown(page))
        write(folder / "report.html", page_html(page, folder))
    except OSError as error:
        raise UserError(f"{folder}: the report cannot be written: {error.filename}: {error.strerror}") from None
    return _terminal(board)


def _pictures(board: Leaderboard) -> dict[str, tuple[bytes, str]]:
    """Each figure as PNG, with its caption."""
    from iolaus.figures import png
    from iolaus.sweep.figures import draw

    pictures = {}
    with warn_on_failure("figures"):
        for name, (figure, caption) in draw(board).items():
            pictures[name] = png(figure), caption
    return pictures


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


def _table(board: Leaderboard, rows: Sequence[Row], most_metrics: int | None = None) -> Columns:
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


def _repeats_table(board: Leaderboard, most_metrics: int | None = None, most_rows: int | None = None) -> Columns:
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


def _fitting(tables: Iterable[Columns]) -> str:
    """The first table, of some that have fewer and fewer columns, that fits into a line of the terminal; else the last."""
    for columns, rows in tables:
        widths = (max(map(len, column)) + 3 for column in zip(columns, *rows, strict=True))
        if sum(widths) + 1 <= width():
            break
    return text_table(columns, rows)


def _shortened(table: Columns, board: Leaderboard) -> Columns:
    """A table whose settings are named by their last parts."""
    columns, rows = table
    return shortened(columns, board.keys), rows


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


def _page(board: Leaderboard, captions: dict[str, str]) -> Page:
    """The report as a page; captions by the names of the figures."""
    page = Page(_title(board), [Words(f"{_counts(board)}.")])
    if (best := _best(board)) is not None:
        what, command, row = best
        page.parts += [Words(f"Best: {what}, `{_relative(row.folder, board.folder)}`"), Code(command)]
    page.parts += [Words(f"Note: {note}.") for note in board.notes]
    if board.repeats:
        columns, rows = _repeats_table(board)
        narrow = shortened(columns, board.keys)
        page.parts += [Heading(_over(board).capitalize()), Table(columns, rows, narrow, ranked=True)]
    columns, rows = _table(board, board.rows)
    lost = [not row.is_ranked for row in board.rows]
    page.parts += [Heading("Jobs"), Table(columns, rows, shortened(columns, board.keys), ranked=True, lost=lost)]
    if without := _lost(board):
        told = [f"job {r.number} {r.state}: {r.error}, `{_relative(r.folder, board.folder)}`" for r in without]
        page.parts += [Heading("Without a result"), Items(told)]
    for name, caption in captions.items():
        title = name.replace("_", " ")
        page.parts += [Heading(title.capitalize()), Picture(f"figures/{name}.png", title, caption)]
    return page
