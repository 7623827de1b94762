"""Runs chosen, put into tables of those that can be compared, and ordered; those that differ in what repeats them alone are joined."""

import fnmatch
import math
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from iolaus.compare.find import Run
from iolaus.errors import UserError, did_you_mean
from iolaus.signature import Definition, attribute, find
from iolaus.sweep.leaderboard import Leaderboard, Repeats, Row, differ, differences, named_settings, notes, ranked
from iolaus.sweep.scale import cell

ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
}
Kind = tuple[str, tuple[str | None, str]]  # of runs that can be compared: data, and objective with its mode
FILTER = re.compile(r"([^=<>!]+?)\s*(!=|<=|>=|=|<|>)\s*(.*)")


@dataclass(frozen=True)
class Wanted:
    """Which runs are wanted, and in what order.

    Args:
        filters: KEY=VALUE, KEY!=VALUE with * and ? for any letters, KEY<VALUE, and so on; all must hold.
        sort: a metric, a setting or seconds; with - before it, the highest first; None: by the objective.
        reverse: whether that order is turned round.
        columns: shown in place of the settings that differ and what came of them.
        top: rows of a table, the first ones; None: all.
        is_joined: whether runs that differ in the seed or the fold alone become one row.
    """

    filters: Sequence[str] = ()
    sort: str | None = None
    reverse: bool = False
    columns: Sequence[str] = ()
    top: int | None = None
    is_joined: bool = True


@dataclass(frozen=True)
class Table:
    """Runs that can be compared: of the same data, by the same objective.

    Args:
        data: what they were trained on.
        task: of what kind the training was; None where no run tells.
        board: the runs that are shown, the first ones first, and those that are joined.
        runs: the same runs, in the same order.
        by: what they are sorted by; None where nothing is measured.
        order: the same in words.
        columns: that the user wants in place of the usual ones.
        more: runs, or joined ones, that were left out.
    """

    data: str
    task: str | None
    board: Leaderboard
    runs: list[Run]
    by: str | None
    order: str
    columns: list[str] = field(default_factory=list)
    more: int = 0

    @property
    def title(self) -> str:
        """Data and task."""
        return f"{self.data}, {self.task}" if self.task else self.data

    @property
    def members(self) -> list[Repeats]:
        """What a row of the table stands for: runs that are joined, or one run."""
        return self.board.repeats or [Repeats(row.settings, [row], self.board.monitor) for row in self.board.rows]


def tables(runs: Sequence[Run], wanted: Wanted, folder: Path) -> list[Table]:
    """Put runs into tables, by data and objective, each ordered.

    Args:
        runs: all that were found.
        wanted: which of them, and how.
        folder: that paths are told from.

    Raises:
        UserError: for a key that no run has, a filter that cannot be read, or one that no run passes.
    """
    if wanted.top is not None and wanted.top < 1:
        raise UserError(f"--top: must be at least 1; received {wanted.top}")
    chosen = list(runs)
    for text in wanted.filters:
        chosen = _passing(chosen, text, runs)
        if not chosen:
            raise UserError(f"--filter {text}: none of the {len(runs)} runs is left")
    sort = wanted.sort.removeprefix("-") if wanted.sort is not None else None
    key = _keys_of(sort, chosen, "--sort")[0] if sort is not None else None
    columns = [name for pattern in wanted.columns for name in _keys_of(pattern, chosen, "--columns")]
    groups: dict[Kind, list[Run]] = {}
    beside = {run.folder.parent: (run.data, run.objective) for run in reversed(runs) if run.is_told}
    for run in chosen:
        kind = run.data, run.objective
        groups.setdefault(kind if run.is_told else beside.get(run.folder.parent, kind), []).append(run)
    found = sorted(groups.items(), key=lambda item: str(item[0]))
    return [_table(kind, group, wanted, key, columns, folder) for kind, group in found]


def _table(kind: Kind, runs: list[Run], wanted: Wanted, key: str | None, columns: list[str], folder: Path) -> Table:
    """One table, in the order that is wanted."""
    read = [run.read for run in runs]
    named = {name: v for name, v in named_settings(read).items() if not name.startswith("hydra") and differ(v)}
    board = ranked(folder, read, named | dict(differences(read, named)), "python train.py")
    data, (monitor, mode) = kind
    board = replace(board, monitor=monitor, mode=mode)  # what they have in common, also where no run came to a result
    if not wanted.is_joined:
        board = replace(board, repeats=[])
    values = {run.folder: run.values for run in runs}
    board, by, order = _ordered(board, values, wanted, key)
    board, more = _cut(board, wanted.top)
    board = _telling_apart(board) if more else board
    known = {run.folder: run for run in runs}
    tasks = [task for run in runs if isinstance(task := run.values["task"], str)]
    task = tasks[0] if tasks and monitor is not None else None
    return Table(data, task, board, [known[row.folder] for row in board.rows], by, order, columns, more)


def _ordered(
    board: Leaderboard, values: dict[Path, dict[str, Any]], wanted: Wanted, key: str | None
) -> tuple[Leaderboard, str | None, str]:
    """The rows of a table in the order that is wanted, what they are sorted by, and that order in words."""
    is_own = key is None or not any(_is_told(found.get(key)) for found in values.values())
    key = board.monitor if is_own else key
    if key is None:  # a study has no objective
        return board, None, ""
    is_objective = key in (board.monitor, "objective")
    if str(wanted.sort).startswith("-") and not is_own:
        falls = not wanted.reverse
    else:
        falls = (board.mode == "max" if is_objective else _is_better_higher(key, values.values())) != wanted.reverse
    name = "objective" if is_objective else key

    def place(rows: Sequence[Row]) -> tuple[int, float, str]:
        """Numbers first, by their size; then texts; then those that have no value."""
        found = [values[row.folder].get(name) for row in rows if not is_objective or row.is_ranked]
        told = [value for value in found if _is_told(value)]
        numbers = [float(value) for value in told if isinstance(value, int | float)]
        if numbers:
            return 0, (-1 if falls else 1) * sum(numbers) / len(numbers), ""
        return (1, 0.0, cell(told[0])) if told else (2, 0.0, "")

    rows = sorted(board.rows, key=lambda row: place([row]))
    rows = [replace(row, number=number) for number, row in enumerate(rows, 1)]
    renewed = {row.folder: row for row in rows}
    repeats = [replace(group, rows=[renewed[row.folder] for row in group.rows]) for group in board.repeats]
    repeats = sorted(repeats, key=lambda group: place(group.rows))
    by = board.monitor if is_objective else key
    return replace(board, rows=rows, repeats=repeats), by, f"{key}, {'highest' if falls else 'lowest'} first"


def _is_better_higher(key: str, values: Iterable[dict[str, Any]]) -> bool:
    """Whether a metric is better the higher it is, as its class says; no, for a setting."""
    targets = {found.get(f"metrics.{key.rpartition('/')[0]}._target_") for found in values}
    definitions = (find(target) for target in targets if isinstance(target, str))
    return any(isinstance(d, Definition) and attribute(d, "higher_is_better") is True for d in definitions)


def _cut(board: Leaderboard, top: int | None) -> tuple[Leaderboard, int]:
    """The first rows, or joined ones with their runs; how many were left out."""
    if top is None:
        return board, 0
    if not board.repeats:
        return replace(board, rows=board.rows[:top]), max(len(board.rows) - top, 0)
    groups = board.repeats[:top]
    kept = {row.folder for group in groups for row in group.rows}
    rows = [row for row in board.rows if row.folder in kept]
    return replace(board, rows=rows, repeats=groups), max(len(board.repeats) - top, 0)


def _telling_apart(board: Leaderboard) -> Leaderboard:
    """A table that was cut, with the settings alone in which its rows differ; of a single row those that told it from all others."""
    rows = [group.settings for group in board.repeats] or [row.settings for row in board.rows]
    if len(rows) < 2:
        return board
    joining = board.repeated if board.repeats else []
    keys = [key for key in board.keys if key in joining or differ([settings.get(key) for settings in rows])]

    def own(settings: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in settings.items() if key in keys}

    cut = [replace(row, settings=own(row.settings)) for row in board.rows]
    renewed = {row.folder: row for row in cut}
    repeats = [replace(g, settings=own(g.settings), rows=[renewed[r.folder] for r in g.rows]) for g in board.repeats]
    board = replace(board, keys=keys, rows=cut, repeats=repeats)
    return replace(board, notes=list(notes(board)))


def _is_told(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))


def _passing(runs: Iterable[Run], text: str, among: Sequence[Run]) -> list[Run]:
    """The runs that a filter lets through."""
    if (parts := FILTER.fullmatch(text.strip())) is None:
        raise UserError(f"--filter {text}: write KEY=VALUE, KEY!=VALUE, KEY<VALUE or KEY>VALUE")
    name, sign, wanted = parts.groups()
    (key,) = _keys_of(name, among, "--filter", several=False)
    if sign in ORDERS:
        if (limit := _number(wanted)) is None:
            raise UserError(f"--filter {text}: {sign} compares numbers; received {wanted!r}")
        values = [(run, _number(run.values.get(key))) for run in runs]
        return [run for run, value in values if value is not None and ORDERS[sign](value, limit)]
    return [run for run in runs if _matches(run.values.get(key), wanted) == (sign == "=")]


def _matches(value: Any, wanted: str) -> bool:
    """Whether a value is the one that is wanted: as a number, or as a text with * and ? for any letters."""
    number = _number(value)
    if number is not None and number == _number(wanted):
        return True
    as_written, pattern = (str(v).replace(" ", "") for v in (value, wanted))
    texts = [as_written, cell(value).replace(" ", "")]
    return any(fnmatch.fnmatchcase(text, pattern) or text == pattern for text in texts)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def _keys_of(name: str, runs: Sequence[Run], option: str, several: bool = True) -> list[str]:
    """Return the full names of what a name, its last part or, of several, a pattern means: those that differ, then the shortest."""
    known = dict.fromkeys(key for run in runs for key in run.values)
    if name in known:
        return [name]
    if several and (found := fnmatch.filter(known, name)):
        return found
    ends = [key for key in known if key.rpartition(".")[2] == name]
    told = [key for key in ends if differ([run.values.get(key) for run in runs])]
    least = min((key.count(".") for key in told or ends), default=0)
    found = [key for key in told or ends if key.count(".") == least]
    if len(found) == 1:
        return found
    if found:
        raise UserError(f"{option} {name}: may be {', '.join(sorted(found)[:6])}; write one of them in full")
    raise UserError(f"{option} {name}: no run has such a metric or setting{_nearest(name, known)}")


def _nearest(name: str, known: Iterable[str]) -> str:
    """A suggestion: groups, metrics and whatever has a short name come first, then settings in full or by their last parts."""
    names = list(known)
    if "." in name:
        return did_you_mean(name, names)
    last = [key.rpartition(".")[2] for key in names]
    return did_you_mean(name, [key for key in names if "." not in key]) or did_you_mean(name, last)


def counts(found: Sequence[Table]) -> str:
    """How many runs there are in each state."""
    states = Counter(row.state for table in found for row in table.board.rows)
    return ", ".join(f"{number} {state}" for state, number in states.most_common())
