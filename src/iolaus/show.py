"""What a task has to show, written into the run's folder, where the report finds it, and TensorBoard: pictures, sounds, texts, tables."""

import csv
import io
import wave
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from iolaus import figures
from iolaus.exhibits import Animation, Audio, Curves, Exhibit, Heatmap, Points, Table, Text
from iolaus.logger.tensorboard import TensorBoard
from iolaus.tables import markdown

MOST_ROWS = 20  # of a table in TensorBoard; its file holds all
Shown = dict[str, str]  # a file that the report shows, by its path in the run's folder, and its caption


def show(exhibits: dict[str, Exhibit], folder: Path, loggers: Iterable[Any], step: int) -> list[Shown]:
    """Write each exhibit: figures/*.png and *.gif, samples/*.txt, *.csv and *.wav, and the same to TensorBoard.

    Returns:
        the files written, for the report.
    """
    boards = [logger for logger in loggers if isinstance(logger, TensorBoard)]
    shown: list[Shown] = []
    for name, exhibit in exhibits.items():
        match exhibit:
            case Text(text=text):
                _file(folder, f"samples/{name}.txt").write_text(text, encoding="utf-8")
                shown.append({"file": f"samples/{name}.txt"})
                for board in boards:
                    board.add("text", f"samples/{name}", f"    {text}".replace("\n", "\n    "), step)
            case Table(columns=columns, rows=rows, caption=caption):
                _write_csv(_file(folder, f"samples/{name}.csv"), columns, rows)
                shown.append({"file": f"samples/{name}.csv", "caption": caption})
                table = markdown(columns, rows[:MOST_ROWS])
                for board in boards:
                    board.add("text", f"samples/{name}", "\n".join(table), step)
            case Audio(samples=samples, rate_hz=rate):
                _write_wav(_file(folder, f"samples/{name}.wav"), samples, rate)
                shown.append({"file": f"samples/{name}.wav"})
                for board in boards:
                    board.add("audio", f"samples/{name}", np.asarray(samples)[None], step, rate)
            case Animation():
                file = _file(folder, f"figures/{name}.gif")
                pictures = figures.animation(exhibit)
                file.write_bytes(pictures)
                shown.append({"file": f"figures/{name}.gif"})
                for board in boards:
                    board.add_picture(f"figures/{name}", pictures, step)
            case Curves() | Heatmap() | Points():
                shown.append(figure(name, figures.drawn(exhibit), folder, boards, step))
    return shown


def figure(name: str, drawn: Any, folder: Path, boards: Iterable[TensorBoard], step: int) -> Shown:
    """Write a figure to figures/ and to TensorBoard; the file, for the report."""
    (file,) = figures.save({name: drawn}, folder / "figures")
    for board in boards:
        board.add_picture(f"figures/{name}", file.read_bytes(), step)
    return {"file": f"figures/{name}.png"}


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
