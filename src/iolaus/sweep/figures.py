"""Pictures of a sweep: the objective job by job, against each setting, all settings at once, and over what is repeated."""

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from iolaus.sweep.importance import Importance, importance
from iolaus.sweep.leaderboard import Leaderboard
from iolaus.sweep.scale import cell, codes, is_log, is_numeric, names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_PANELS = 9  # settings that have a panel
MOST_AXES = 8  # settings that have an axis
MOST_NAMES = 12  # along an axis
MOST_GROUPS = 20  # of repeated jobs
MOST_LETTERS = 24  # of a name
SPREAD = 0.12  # of points of one name, to the sides


def draw(board: Leaderboard) -> "dict[str, tuple[Figure, str]]":
    """Each figure that the sweep has something for, with what is to be read beside it."""
    better = "lower" if board.mode == "min" else "higher"
    jobs = len(board.ranked)
    drawn: dict[str, tuple[Figure, str]] = {}
    if board.repeats and board.ranked:
        over = " and ".join(board.repeated)
        text = (
            f"Mean and standard deviation of {board.monitor} over {over}, with each job as a dot; {better} is better."
        )
        drawn["repeats"] = repeats(board), text
    if jobs > 1:
        text = (
            f"{board.monitor} of each job, and the best so far; {better} is better. Crosses are jobs without a result."
        )
        drawn["history"] = history(board), text
    if jobs > 1 and board.keys:
        text = f"{board.monitor} against each setting, a dot for each job; {better} is better, the best is ringed."
        drawn["slices"] = slices(board), text
    if jobs > 1 and len(board.keys) > 1:
        text = "A line for each job, coloured by its rank: the darker, the better; the best is thick."
        drawn["parallel_coordinates"] = parallel_coordinates(board), text
    if (found := importance(board)) is not None:
        drawn["importance"] = bars(found), _explained(found)
    return drawn


def _explained(found: Importance) -> str:
    """What an importance is, and how far it is to be believed."""
    if found.explained <= 0:
        trust = "it does not foretell jobs that it has not seen (R² below 0 out of bag), so the shares mean little"
    else:
        trust = f"it explains R² = {found.explained:.2f} of jobs that its trees have not seen"
    return (
        f"How much worse a random forest tells the ranks of {found.jobs} jobs when the values of one setting are shuffled among them, "
        f"as a share of the sum; {trust}. It tells what mattered in the ranges tried here, and nothing beyond."
    )


def history(board: Leaderboard) -> "Figure":
    """The objective by the number of the job, with the best so far as a line."""
    from matplotlib.ticker import MaxNLocator

    figure, (ax,) = _figure(1, 7.0, 3.8)
    rows = sorted(board.ranked, key=lambda row: row.number)
    numbers, values = [row.number for row in rows], _objectives(rows)
    best = min if board.mode == "min" else max
    so_far: list[float] = []
    for value in values:
        so_far.append(best([*so_far[-1:], value]))
    ax.scatter(numbers, values, s=22, color="C0", alpha=0.7, label="job")
    last = max(row.number for row in board.rows)
    ax.step([*numbers, last], [*so_far, so_far[-1]], where="post", color="C1", label="best so far")
    if lost := [row.number for row in board.rows if not row.is_ranked]:
        ax.plot(
            lost,
            [0.02] * len(lost),
            "x",
            color="0.4",
            transform=ax.get_xaxis_transform(),
            clip_on=False,
            label="no result",
        )
    _scale_y(ax, values)
    ax.set(xlabel="job", ylabel=board.monitor)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8)
    return figure


def slices(board: Leaderboard) -> "Figure":
    """The objective against each setting, in panels that share the upright axis."""
    keys, rows = board.keys[:MOST_PANELS], board.ranked
    figure, panels = _figure(len(keys), 3.6, 3.3)
    values = _objectives(rows)
    for place, (key, ax) in enumerate(zip(keys, panels, strict=True)):
        settings = [row.settings[key] for row in rows]
        x = _lay_out(ax, settings)
        ax.scatter(x, values, s=22, alpha=0.7)
        ax.scatter(x[:1], values[:1], s=90, facecolors="none", edgecolors="C1", linewidths=1.6)
        _scale_y(ax, values)
        ax.set(xlabel=_short(key, 40), ylabel=board.monitor if place % 3 == 0 else None)
        ax.grid(alpha=0.3)
    return figure


def _lay_out(ax: "Axes", values: Sequence[Any]) -> list[float]:
    """Set a setting's axis; where each job stands on it, those of one name a little apart."""
    from matplotlib.ticker import MaxNLocator

    x = codes(values)
    if is_numeric(values):
        if is_log(x):
            ax.set_xscale("log")
        elif all(isinstance(value, int) for value in values):
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        return x
    labels = [_short(name) for name in names(values)]
    slanted = sum(map(len, labels)) > 24
    if len(labels) <= MOST_NAMES:
        ax.set_xticks(range(len(labels)), labels, rotation=40 if slanted else 0, ha="right" if slanted else "center")
    ax.set_xlim(-0.5, len(labels) - 0.5)
    return [place + SPREAD * math.sin(2.4 * number) for number, place in enumerate(x)]


def parallel_coordinates(board: Leaderboard) -> "Figure":
    """A line for each job through its settings and its objective, the best ones on top."""
    import numpy as np
    from matplotlib import colormaps
    from matplotlib.collections import LineCollection

    rows, keys = board.ranked, board.keys[:MOST_AXES]
    figure, (ax,) = _figure(1, max(1.7 * (len(keys) + 1), 5.0), 4.2)
    columns = [[row.settings[key] for row in rows] for key in keys] + [_objectives(rows)]
    heights = np.column_stack([_heights(ax, place, values) for place, values in enumerate(columns)])
    share = np.linspace(0, 1, len(rows))  # by rank, 0 for the best: one that diverged would leave the others one colour
    x = np.arange(len(columns))
    order = np.arange(len(rows))[::-1]
    lines = [np.column_stack([x, heights[place]]) for place in order]
    colors = colormaps["viridis"](0.95 * share[order])
    widths = [2.6 if place == 0 else 1.2 for place in order]
    ax.add_collection(LineCollection(lines, colors=colors, linewidths=widths, alpha=0.8))
    for place in range(len(columns)):
        ax.axvline(place, color="0.3", linewidth=0.8)
    titles = [_short(key, 22).replace(".", ".\n", 1) for key in keys] + [str(board.monitor)]
    ax.set_xticks(x, titles)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.set(xlim=(-0.25, len(x) - 0.55), ylim=(-0.05, 1.05), yticks=[])
    for spine in ax.spines.values():
        spine.set_visible(False)
    return figure


def _heights(ax: "Axes", place: int, values: Sequence[Any]) -> list[float]:
    """Where each job stands on an axis from 0 to 1, whose marks are written beside it."""
    numbers = codes(values)
    if is_numeric(values):
        scaled = [math.log(n) for n in numbers] if is_log(numbers) else numbers
        low, high = min(scaled), max(scaled)
        marks = [low + share * (high - low) for share in (0.0, 0.5, 1.0)] if high > low else [low]
        texts = [f"{math.exp(mark) if is_log(numbers) else mark:.3g}" for mark in marks]
        if all(isinstance(value, int) for value in values) and len(set(values)) <= MOST_NAMES:
            marks = sorted(set(scaled))
            texts = [str(value) for value in sorted(set(values))]
    else:
        scaled, texts = numbers, [_short(name) for name in names(values)]
        low, high, marks = 0.0, float(len(texts) - 1), [float(n) for n in range(len(texts))]

    def height(number: float) -> float:
        return (number - low) / (high - low) if high > low else 0.5

    for mark, text in list(zip(marks, texts, strict=True))[: 2 * MOST_NAMES]:
        box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8}
        ax.text(place + 0.03, height(mark), text, fontsize=8, va="center", bbox=box, zorder=3)
    return [height(number) for number in scaled]


def bars(found: Importance) -> "Figure":
    """The share of each setting, the largest on top."""
    shares = sorted(found.shares.items(), key=lambda item: item[1])
    figure, (ax,) = _figure(1, 6.0, 0.9 + 0.42 * len(shares))
    drawn = ax.barh([_short(key, 40) for key, _ in shares], [share for _, share in shares], color="C0", height=0.6)
    ax.bar_label(drawn, [f"{share:.0%}" for _, share in shares], padding=3)
    ax.set(xlim=(0, 1.12 * shares[-1][1]), xlabel=f"importance, from {found.jobs} jobs")
    ax.grid(alpha=0.3, axis="x")
    return figure


def repeats(board: Leaderboard) -> "Figure":
    """Mean and deviation of each group of repeated jobs, the best on top, with the jobs as dots."""
    groups = [group for group in board.repeats if group.values("objective")][:MOST_GROUPS]
    figure, (ax,) = _figure(1, 7.0, 1.1 + 0.42 * len(groups))
    for place, group in enumerate(reversed(groups)):
        values = group.values("objective")
        mean, deviation = statistics.fmean(values), group.deviation("objective") or 0.0
        ax.scatter(values, [place] * len(values), s=18, color="C0", alpha=0.5)
        ax.errorbar([mean], [place], xerr=[deviation], fmt="|", color="C1", markersize=14, capsize=4, elinewidth=2)
    labels = [_short(told(group.settings), 48) or "all jobs" for group in reversed(groups)]
    ax.set_yticks(range(len(groups)), labels)
    ax.set(ylim=(-0.6, len(groups) - 0.4), xlabel=board.monitor)
    values = [value for group in groups for value in group.values("objective")]
    if is_log(values) and max(values) >= 100 * min(values):
        ax.set_xscale("log")
    ax.grid(alpha=0.3)
    return figure


def told(settings: dict[str, Any]) -> str:
    """Settings in one line."""
    return "  ".join(f"{key}={cell(value)}" for key, value in settings.items())


def _objectives(rows: Sequence[Any]) -> list[float]:
    return [row.objective for row in rows]


def _scale_y(ax: "Axes", values: Sequence[float]) -> None:
    """Logarithmic where the objective spans two decades, as where a job diverged."""
    if min(values) > 0 and max(values) >= 100 * min(values):
        ax.set_yscale("log")


def _short(name: str, most: int = MOST_LETTERS) -> str:
    """A name as matplotlib shows it: short, and not taken for mathematics."""
    return (name if len(name) <= most else name[: most - 1] + "…").replace("$", r"\$")


def _figure(panels: int, width: float, height: float) -> tuple["Figure", list["Axes"]]:
    """A figure of panels of this size, in inches, in rows of three, drawn without a display."""
    from matplotlib.figure import Figure

    columns = min(panels, 3)
    rows = -(-panels // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for unused in axes[panels:]:
        unused.set_visible(False)
    return figure, list(axes[:panels])
