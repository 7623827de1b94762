"""What a task has to show, written: pictures and sounds into the run's folder and TensorBoard, texts and tables into the report too."""

import csv
import io
import wave
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from iolaus import board, figures
from iolaus.board import MOST_ROWS
from iolaus.exhibits import Animation, Audio, Curves, Exhibit, Heatmap, Images, Points, Table, Text
from iolaus.logger.tensorboard import TensorBoard
from iolaus.tables import markdown, text_table

__all__ = ["figure", "markdown", "show", "text_table"]


def show(exhibits: dict[str, Exhibit], folder: Path, loggers: Iterable[Any], step: int) -> list[str]:
    """Write each exhibit: figures/*.png and *.gif, samples/*.txt, *.csv and *.wav, and the same to TensorBoard.

    Returns:
        lines of Markdown for the report.
    """
    boards = [logger for logger in loggers if isinstance(logger, TensorBoard)]
    lines: list[str] = []
    for name, exhibit in exhibits.items():
        title = name.replace("_", " ")
        match exhibit:
            case Text(text=text):
                _file(folder, f"samples/{name}.txt").write_text(text, encoding="utf-8")
                fence = "````" if "```" in text else "```"
                lines += ["", f"## {title.capitalize()}", "", fence, text, fence]
                board.write({name: exhibit}, boards, step)
            case Table(columns=columns, rows=rows, caption=caption):
                _write_csv(_file(folder, f"samples/{name}.csv"), columns, rows)
                table = markdown(columns, rows[:MOST_ROWS])
                lines += ["", f"## {title.capitalize()}", "", *([caption, ""] if caption else []), *table]
                board.write({name: exhibit}, boards, step)
            case Audio(samples=samples, rate_hz=rate):
                _write_wav(_file(folder, f"samples/{name}.wav"), samples, rate)
                lines += ["", f"[{title}](samples/{name}.wav)"]
                board.write({name: exhibit}, boards, step)
            case Animation():
                file = _file(folder, f"figures/{name}.gif")
                pictures = figures.animation(exhibit)
                file.write_bytes(pictures)
                lines += ["", f"![{title}](figures/{name}.gif)"]
                for writer in boards:
                    writer.add_picture(f"figures/{name}", pictures, step)
            case Curves() | Heatmap() | Points() | Images():
                lines += figure(name, figures.drawn(exhibit), folder, boards, step)
    return lines


def figure(name: str, drawn: Any, folder: Path, boards: Iterable[TensorBoard], step: int) -> list[str]:
    """Write a figure to figures/ and to TensorBoard; the lines that show it in the report."""
    (file,) = figures.save({name: drawn}, folder / "figures")
    for writer in boards:
        writer.add_picture(f"figures/{name}", file.read_bytes(), step)
    return ["", f"![{name.replace('_', ' ')}](figures/{name}.png)"]


def _file(folder: Path, name: str) -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def _write_csv(file: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    file.write_text(text.getvalue(), encoding="utf-8")


def _write_wav(file: Path, samples: Any, rate_hz: int) -> None:
    pcm = (np.clip(np.asarray(samples, dtype=np.float32), -1, 1) * 32767).astype("<i2")
    with wave.open(str(file), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(rate_hz)
        sound.writeframes(pcm.tobytes())
