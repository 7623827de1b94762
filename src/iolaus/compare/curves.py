"""Learning curves of runs over one another, a panel for each table."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from iolaus.compare.tables import Table
from iolaus.sweep.scale import cell

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_NAMED = 8  # rows of a table whose curves are coloured and named
MOST_CURVES = 200  # of a panel
MOST_LETTERS = 44  # of a name


def learning_curves(tables: Sequence[Table]) -> "Figure | None":
    """The objective over epochs: the first rows in colours, those that are joined in one, and the others grey; None without curves.

    A curve's best epoch is a dot, where it has more than one.
    """
    from matplotlib.figure import Figure

    drawn = [(table, found) for table in tables if (found := _curves(table))]
    if not drawn:
        return None
    figure = Figure(figsize=(7.5, 3.9 * len(drawn)), layout="constrained")
    for ax, (table, found) in zip(figure.subplots(len(drawn), squeeze=False).ravel(), drawn, strict=True):
        _draw(ax, table, found)
    return figure


Curve = tuple[list[float], list[float]]  # epochs and values


def _curves(table: Table) -> dict[int, list[Curve]]:
    """The curves of each row of a table, by its place."""
    monitor, found = table.board.monitor, {}
    left = MOST_CURVES
    for place, member in enumerate(table.members):
        curves = [read_curve(row.folder / "metrics.csv", monitor) for row in member.rows[:left] if monitor]
        left -= len(curves)
        if curves := [curve for curve in curves if curve[0]]:
            found[place] = curves
    return found


def read_curve(file: Path, column: str) -> Curve:
    """Epochs and values of a column of metrics.csv, without those that are no finite number; empty where there is no such file."""
    epochs, values = [], []
    try:
        with file.open(newline="", encoding="utf-8", errors="replace") as lines:
            for row in csv.DictReader(lines):
                try:
                    epoch, value = float(row["epoch"]), float(row[column])
                except (KeyError, TypeError, ValueError):
                    continue  # not every epoch has a validation, and the last line may be half written
                if math.isfinite(value) and epoch > 0:
                    epochs.append(epoch)
                    values.append(value)
    except (OSError, csv.Error):
        return [], []
    return epochs, values


def _draw(ax: "Axes", table: Table, found: dict[int, list[Curve]]) -> None:
    """One panel."""
    from matplotlib.ticker import MaxNLocator

    best = min if table.board.mode == "min" else max
    for place in reversed(list(found)):  # the first rows on top
        is_named = place < MOST_NAMED
        color = f"C{place}" if is_named else "0.8"
        for number, (epochs, values) in enumerate(found[place]):
            label = _name(table, place) if is_named and number == 0 else None
            marker = "o" if len(epochs) < 3 else None
            ax.plot(
                epochs, values, color=color, label=label, marker=marker, lw=1.4, alpha=0.85, zorder=3 if is_named else 1
            )
            if is_named and marker is None:
                at = values.index(best(values))
                ax.plot(epochs[at], values[at], "o", color=color, ms=4, zorder=4)
    everything = [value for curves in found.values() for _, values in curves for value in values]
    if min(everything) > 0 and max(everything) >= 100 * min(everything):
        ax.set_yscale("log")
    ax.set(title=table.title.replace("$", r"\$"), xlabel="epoch", ylabel=table.board.monitor)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(alpha=0.3)
    if len(found) == 1:
        return
    handles, names = ax.get_legend_handles_labels()
    ax.legend(handles[::-1], names[::-1], fontsize=7.5, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)


def _name(table: Table, place: int) -> str:
    """A row's number and its settings, by their last parts, in a line."""
    member = table.members[place]
    text = ", ".join(f"{key.rpartition('.')[2]} {cell(value)}" for key, value in member.settings.items())
    name = f"{place + 1}: {text}" if text else str(place + 1)
    return (name if len(name) <= MOST_LETTERS else name[: MOST_LETTERS - 1] + "…").replace("$", r"\$")
