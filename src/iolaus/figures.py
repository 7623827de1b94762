"""Pictures of a run: learning curves, and what the test's metrics have to show."""

import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from iolaus.exhibits import Animation, Curves, Heatmap, Images, Points
from iolaus.files import write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_INSIDE = 6  # curves whose names stand inside the axes
MOST_LABELS = 30  # classes that are named along an axis
MOST_LETTERS = 16  # of a class name
MOST_CURVES = 10  # classes that have a curve of their own
DRAWN = ("confusion_matrix", "roc", "precision_recall", "scatter")  # metrics whose values are drawn, by name
logging.getLogger("matplotlib").setLevel(logging.WARNING)  # which tells of its list of fonts
SHOWN_MS = 6_000  # that an animation takes, unless its frames would be shown too shortly or too long


def learning_curves(rows: Sequence[dict[str, float]], best_epoch: int | None) -> "Figure":
    """Each logged value over epochs, training and validation in one panel.

    Args:
        rows: a dict an epoch, as History keeps them.
        best_epoch: marked by a vertical line.
    """
    from matplotlib.ticker import MaxNLocator

    names = list(dict.fromkeys(k.split("/")[0] for row in rows for k in row if k.endswith(("/train", "/val"))))
    figure, panels = _figure(len(names))
    for name, ax in zip(names, panels, strict=True):
        for split, color in (("train", "C0"), ("val", "C1")):
            points = [(row["epoch"], row[f"{name}/{split}"]) for row in rows if f"{name}/{split}" in row]
            if points:
                ax.plot(*zip(*points, strict=True), color=color, label=split, marker="o" if len(points) < 3 else None)
        if best_epoch is not None:
            ax.axvline(best_epoch, color="0.6", linestyle=":", label="best epoch")
        ax.set(title=name, xlabel="epoch")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.grid(alpha=0.3)
        ax.legend()
    return figure


def schedule(epochs: Sequence[float], rates: dict[str, list[float]]) -> "Figure":
    """The learning rate over epochs, a curve for each group of parameters.

    Args:
        epochs: from 0.
        rates: for each group its rates then.
    """
    figure, (ax,) = _figure(1, side=4.5)
    for name, values in rates.items():
        ax.plot(epochs, values, label=name, marker="o" if len(values) < 3 else None)
    ax.set(title="planned learning rate", xlabel="epoch", ylabel="learning rate", ylim=(0, None))
    ax.grid(alpha=0.3)
    if len(rates) > 1:
        ax.legend()
    return figure


def image_grid(images: Any, titles: Sequence[str]) -> "Figure":
    """Images in rows of eight, each with its title above it, of one line or more.

    Shape:
        images: (N, C, H, W), bytes or any floats, which are shown from their least to their largest value.
    """
    pixels = np.asarray(images, dtype=np.float32).transpose(0, 2, 3, 1)
    pixels = (pixels - pixels.min()) / max(float(pixels.max() - pixels.min()), 1e-12)
    lines = 1 + max((title.count("\n") for title in titles), default=0)
    # of a place, with a margin and room for the title
    height, width = ((1.15 + 0.15 * lines) * pixels.shape[1], 1.1 * pixels.shape[2])
    columns = min(len(pixels), 8)
    rows = -(-len(pixels) // columns)
    figure, (ax,) = _figure(1)
    figure.set_size_inches(1.2 * columns, 1.2 * rows * height / width)
    for number, (image, title) in enumerate(zip(pixels, titles, strict=True)):
        left, top = (number % columns) * width, (number // columns) * height
        place = (left, left + image.shape[1], top + image.shape[0], top)
        ax.imshow(image if image.shape[-1] == 3 else image[..., 0], cmap="gray", vmin=0, vmax=1, extent=place)
        label = "\n".join(_label(line) for line in title.splitlines())
        ax.text(left + image.shape[1] / 2, top - 0.04 * height, label, ha="center", fontsize=8)
    ax.set(xlim=(0, columns * width), ylim=(rows * height - 0.1 * pixels.shape[1], -0.2 * lines * pixels.shape[1]))
    ax.set_axis_off()
    return figure


def confusion_matrix(matrix: Any, class_names: Sequence[str]) -> "Figure":
    """Counts of true (rows) against predicted (columns) classes, coloured by the share of the row.

    Shape:
        matrix: (C, C).
    """
    counts = np.asarray(matrix)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1e-12)
    figure, (ax,) = _figure(1, side=max(4.5, 0.45 * min(len(counts), MOST_LABELS) + 2))
    picture = ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(counts) <= MOST_LABELS:
        labels = [_label(name) for name in class_names]
        slanted = max(map(len, labels)) > 3
        ax.set_xticks(range(len(counts)), labels, rotation=45 if slanted else 0, ha="right" if slanted else "center")
        ax.set_yticks(range(len(counts)), labels)
        for (i, j), count in np.ndenumerate(counts):
            if count:
                ax.text(
                    j,
                    i,
                    f"{count:g}",
                    ha="center",
                    va="center",
                    color="white" if shares[i, j] > 0.5 else "black",
                    fontsize=8,
                )
    figure.colorbar(picture, ax=ax, label="share of the true class", fraction=0.046)
    ax.set(title="confusion matrix", xlabel="predicted", ylabel="true")
    return figure


def _label(name: str) -> str:
    """A class name as matplotlib shows it: short, not taken for mathematics, and not hidden for its first letter."""
    short = name if len(name) <= MOST_LETTERS else name[: MOST_LETTERS - 1] + "…"
    return (" " + short if short.startswith("_") else short).replace("$", r"\$")


def class_curves(
    xs: Any,
    ys: Any,
    class_names: Sequence[str],
    title: str,
    labels: tuple[str, str],
    corner: Literal["lower left", "lower right"],
) -> "Figure":
    """A curve for each class against the rest, as ROC and precision-recall curves are; classes without samples have none.

    Shape:
        xs and ys: for each class, (points,).
    """
    figure, (ax,) = _figure(1, side=5.5)
    for name, x, y in list(zip(class_names, xs, ys, strict=True))[:MOST_CURVES]:
        y = np.nan_to_num(np.asarray(y), nan=1.0)
        if y.max() > 0:
            ax.plot(np.asarray(x), y, label=_label(name))
    shown = f" (first {MOST_CURVES} classes)" if len(class_names) > MOST_CURVES else ""
    ax.set(title=title + shown, xlabel=labels[0], ylabel=labels[1], xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8, loc=corner)  # where the curves of a good model are not
    return figure


def scatter(target: Any, preds: Any, title: str) -> "Figure":
    """Prediction against target, with the line on which they are equal.

    Args:
        target: the truth.
        preds: what the model says.
        title: above the figure, where it has one panel.

    Shape:
        target and preds: (N, T), a panel for each of the T targets.
    """
    target, preds = np.asarray(target), np.asarray(preds)
    if target.ndim != 2:  # images and the like: all their numbers in one panel
        target, preds = target.reshape(-1, 1), preds.reshape(-1, 1)
    figure, panels = _figure(target.shape[1])
    for k, ax in enumerate(panels):
        ends = [min(target[:, k].min(), preds[:, k].min()), max(target[:, k].max(), preds[:, k].max())]
        ax.plot(ends, ends, color="0.6", linestyle=":", label="equal")
        ax.scatter(target[:, k], preds[:, k], s=12, alpha=0.6)
        ax.set(title=title if target.shape[1] == 1 else f"target {k}", xlabel="target", ylabel="prediction")
        ax.grid(alpha=0.3)
        ax.legend()
    return figure


def drawn(exhibit: Curves | Heatmap | Points | Images) -> "Figure":
    """An exhibit as a figure."""
    match exhibit:
        case Images():
            return image_grid(exhibit.pixels, exhibit.titles)
        case Heatmap():
            return _heatmap(exhibit)
        case Curves():
            figure, (ax,) = _figure(1, side=6 if len(exhibit.curves) > MOST_INSIDE else 4.5)
            _curves(ax, exhibit)
        case Points():
            figure, (ax,) = _figure(1, side=6)
            _points(ax, exhibit)
    return figure


def _curves(ax: "Axes", exhibit: Curves) -> None:
    x = np.asarray(exhibit.x)
    few = "o" if len(x) < 3 else None
    for name, values in exhibit.curves.items():
        (line,) = ax.plot(x, np.asarray(values), label=name, marker=few)
        if name in exhibit.errors:
            low, high = (np.asarray(values) + sign * np.asarray(exhibit.errors[name]) for sign in (-1, 1))
            ax.fill_between(x, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    for number, (name, place) in enumerate(exhibit.marks.items()):
        ax.axvline(place, color="0.3", linestyle=("--", ":", "-.")[number % 3], label=name)
    ax.set(title=exhibit.title, xlabel=exhibit.labels[0], ylabel=exhibit.labels[1])
    ax.set(xscale="log" if "x" in exhibit.log else "linear", yscale="log" if "y" in exhibit.log else "linear")
    if exhibit.lowest is not None:
        highest = max(float(np.asarray(values).max()) for values in exhibit.curves.values())
        ax.set_ylim(exhibit.lowest, 2 * highest if "y" in exhibit.log else None)
    ax.grid(alpha=0.3)
    if len(exhibit.curves) > MOST_INSIDE:
        ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0, fontsize=8)
    elif len(exhibit.curves) > 1 or exhibit.marks:
        ax.legend()


def _heatmap(exhibit: Heatmap) -> "Figure":
    values = np.asarray(exhibit.values)
    figure, (ax,) = _figure(1, side=5)
    if exhibit.extent is not None:
        figure.set_size_inches(9, 3.6)
    origin: Literal["upper", "lower"] = "lower" if exhibit.origin == "lower" else "upper"
    picture = ax.imshow(values, aspect="auto", cmap="viridis", extent=exhibit.extent, origin=origin)
    if (columns := exhibit.ticks[0]) is not None:
        slanted = max(map(len, columns), default=0) > 3
        ax.set_xticks(range(len(columns)), [_label(c) for c in columns], rotation=60 if slanted else 0, fontsize=8)
    if (rows := exhibit.ticks[1]) is not None:
        ax.set_yticks(range(len(rows)), [_label(r) for r in rows])
    figure.colorbar(picture, ax=ax, fraction=0.046)
    ax.set(title=exhibit.title.replace("$", r"\$"), xlabel=exhibit.labels[0], ylabel=exhibit.labels[1])
    return figure


def _points(ax: "Axes", exhibit: Points) -> None:
    """Points by kind where there are labels, else with their names beside them."""
    xy, names, labels = np.asarray(exhibit.xy), exhibit.names, exhibit.labels
    ax.set(title=exhibit.title, aspect="equal")
    if labels is None:
        ax.scatter(xy[:, 0], xy[:, 1], s=14)
        for name, (x, y) in zip(names or [], xy, strict=False):
            ax.annotate(_label(name), (x, y), textcoords="offset points", xytext=(4, 3), fontsize=7)
        return
    for kind in np.unique(np.asarray(labels)):
        of_kind = np.asarray(labels) == kind
        ax.scatter(xy[of_kind, 0], xy[of_kind, 1], s=14, label=_label(names[kind]) if names else str(kind))
    ax.legend(fontsize=7)


def animation(exhibit: Animation) -> bytes:
    """A GIF of a picture for each frame; its axes hold all frames."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    limits = _common_limits(exhibit.frames)
    figure, (ax,) = _figure(1, side=5)
    canvas = FigureCanvasAgg(figure)
    pictures = []
    for frame in exhibit.frames:
        ax.clear()
        if isinstance(frame, Points):
            _points(ax, frame)
        else:
            _curves(ax, frame)
        ax.set(xlim=limits[0], ylim=limits[1])
        canvas.draw()
        figure.set_layout_engine(
            "none"
        )  # the first frame's margins serve all: nothing jumps, and the others are drawn once
        pictures.append(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("P", palette=Image.Palette.ADAPTIVE))
    stream = io.BytesIO()
    times = [int(min(max(SHOWN_MS / len(pictures), 120), 600))] * (len(pictures) - 1) + [1500]  # ms; the last one stays
    pictures[0].save(stream, "GIF", save_all=True, append_images=pictures[1:], duration=times, loop=0)
    return stream.getvalue()


def _common_limits(frames: Sequence[Points] | Sequence[Curves]) -> Any:
    """The ends of both axes that hold all frames, with a margin; of points a square."""
    if isinstance(frames[0], Points):
        xy = np.stack([np.asarray(frame.xy) for frame in frames])  # type: ignore[union-attr]
        low, high = xy.min((0, 1)), xy.max((0, 1))
        middle, half = (low + high) / 2, 0.55 * float((high - low).max() or 1.0)
        return [(m - half, m + half) for m in middle]
    curves: list[Curves] = list(frames)  # type: ignore[arg-type]
    x = np.concatenate([np.asarray(frame.x) for frame in curves])
    y = np.concatenate([np.asarray(values) for frame in curves for values in frame.curves.values()])
    lowest = [frame.lowest for frame in curves if frame.lowest is not None]
    bottom, top = (min(lowest) if lowest else y.min()), y.max()
    return (x.min(), x.max()), (bottom, 2 * top if "y" in curves[0].log else top + 0.05 * (top - bottom))


def draw_metric(name: str, value: Any, class_names: Sequence[str] | None, split: str = "test") -> "Figure":
    """Draw the value of a metric that is a matrix, curves or points.

    Args:
        name: of the metric, one of DRAWN.
        value: as torchmetrics compute it, as arrays.
        class_names: for axes and legends.
        split: what it was computed on.
    """
    if name == "scatter":
        return scatter(value[0], value[1], f"{split} split")
    # of a matrix a row, of curves a list, whose members may differ in length
    names = [str(n) for n in class_names or range(len(value[0]))]
    if name == "confusion_matrix":
        return confusion_matrix(value, names)
    if name == "roc":
        axes = ("false positive rate", "true positive rate")
        return class_curves(value[0], value[1], names, "ROC", axes, "lower right")
    assert name == "precision_recall"
    return class_curves(value[1], value[0], names, "precision and recall", ("recall", "precision"), "lower left")


def save(figures: dict[str, "Figure"], folder: Path) -> list[Path]:
    """Write each figure as PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in figures.items():
        paths.append(folder / f"{name}.png")
        write(paths[-1], png(figure))
    return paths


def png(figure: "Figure") -> bytes:
    """A figure as PNG."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=120)
    return stream.getvalue()


def _figure(panels: int, side: float = 4.0) -> tuple["Figure", list["Axes"]]:
    """A figure of panels in rows of three, drawn without a display."""
    from matplotlib.figure import Figure

    columns = min(panels, 3)
    rows = -(-panels // columns)
    figure = Figure(figsize=(side * columns * 1.15, side * rows * 0.95), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for unused in axes[panels:]:
        unused.set_visible(False)
    return figure, list(axes[:panels])
