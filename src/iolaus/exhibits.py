"""What a task has to show after a test, as plain values: the report draws or writes each kind in its own way."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Text:
    """Written by the model, or about it."""

    text: str


@dataclass(frozen=True)
class Table:
    """Rows of cells under names of columns; a caption says what they are."""

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    caption: str = ""


@dataclass(frozen=True)
class Curves:
    """Curves over one axis.

    Args:
        x: (N,).
        curves: for each name (N,) values.
        labels: of the two axes.
        title: above the figure.
        log: the axes that are logarithmic: "", "x", "y" or "xy".
        lowest: where the upright axis begins; None: at the least value.
        errors: for some names (N,), how far the truth may be from the curve; drawn as a band.
        marks: places along the first axis, by name; drawn as upright lines.
    """

    x: Any
    curves: dict[str, Any]
    labels: tuple[str, str]
    title: str
    log: str = ""
    lowest: float | None = None
    errors: dict[str, Any] = field(default_factory=dict)
    marks: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Heatmap:
    """A matrix as colours.

    Args:
        values: (rows, columns).
        labels: of the axes: along columns, along rows.
        title: above the figure.
        ticks: for each axis names of its columns or rows, or None.
        extent: left, right, bottom and top in the axes' units; None: numbers of columns and rows.
        origin: where row 0 is drawn.
    """

    values: Any
    labels: tuple[str, str]
    title: str
    ticks: tuple[Sequence[str] | None, Sequence[str] | None] = (None, None)
    extent: tuple[float, float, float, float] | None = None
    origin: str = "upper"


@dataclass(frozen=True)
class Points:
    """Points in a plane.

    Args:
        xy: (N, 2).
        title: above the figure.
        names: written beside the points, or, where `labels` tell kinds apart, of the kinds.
        labels: (N,) the kind of each point, which is its colour; None: all alike.
    """

    xy: Any
    title: str
    names: Sequence[str] | None = None
    labels: Any = None


@dataclass(frozen=True)
class Animation:
    """Pictures of one kind in turn, on common axes: points that moved, a curve that changed.

    Args:
        frames: each with a title of its own.
    """

    frames: Sequence[Points] | Sequence[Curves]


@dataclass(frozen=True)
class Images:
    """Images in rows of eight.

    Args:
        pixels: (N, C, H, W), bytes or any floats, which are shown from their least to their largest value.
        titles: above each of them, of one line or more.
    """

    pixels: Any
    titles: Sequence[str]


@dataclass(frozen=True)
class Audio:
    """A sound.

    Args:
        samples: (N,) between -1 and 1.
        rate_hz: samples a second.
    """

    samples: Any
    rate_hz: int


Exhibit = Text | Table | Curves | Heatmap | Points | Animation | Images | Audio
