"""What there is to see, written to TensorBoard."""

from collections.abc import Iterable

import numpy as np

from iolaus import figures
from iolaus.exhibits import Animation, Audio, Exhibit, Table, Text
from iolaus.logger.tensorboard import TensorBoard
from iolaus.tables import markdown

MOST_ROWS = 20  # of a table


def write(exhibits: dict[str, Exhibit], boards: Iterable[TensorBoard], step: int, ending: str = "") -> None:
    """Write texts, tables and sounds as samples/<name><ending>, pictures as figures/<name><ending>."""
    boards = list(boards)
    for name, exhibit in exhibits.items():
        tag = ("samples/" if isinstance(exhibit, Text | Table | Audio) else "figures/") + name + ending
        match exhibit:
            case Text(text=text):
                indented = f"    {text}".replace("\n", "\n    ")  # as it is, and not taken for Markdown
                for board in boards:
                    board.add("text", tag, indented, step)
            case Table(columns=columns, rows=rows):
                table = "\n".join(markdown(columns, rows[:MOST_ROWS]))
                for board in boards:
                    board.add("text", tag, table, step)
            case Audio(samples=samples, rate_hz=rate):
                for board in boards:
                    board.add("audio", tag, np.asarray(samples)[None], step, rate)
            case _:
                picture = figures.animation(exhibit) if isinstance(exhibit, Animation) else _png(exhibit)
                for board in boards:
                    board.add_picture(tag, picture, step)


def _png(exhibit: Exhibit) -> bytes:
    return figures.png(figures.drawn(exhibit))  # type: ignore[arg-type]
