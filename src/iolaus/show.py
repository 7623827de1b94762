"""What a task has to show, written into the run's folder, where the report finds it, and to its loggers."""

import csv
import io
import wave
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from iolaus import board, figures
from iolaus.exhibits import Animation, Audio, Curves, Exhibit, Heatmap, Images, Points, Table, Text
from iolaus.files import write
from iolaus.logger.service import Service
from iolaus.logger.tensorboard import TensorBoard
from iolaus.user_code import warn_on_failure

Shown = dict[str, str]  # a file that the report shows, by its path in the run's folder, and its caption


def show(exhibits: dict[str, Exhibit], folder: Path, loggers: Iterable[Any], step: int) -> list[Shown]:
    """Write each exhibit: figures/*.png and *.gif, samples/*.txt, *.csv and *.wav, and the same to loggers that show such things.

    An exhibit that fails is left out with a warning.

    Returns:
        the files written, for the report.
    """
    loggers = list(loggers)
    shown: list[Shown] = []
    for name, exhibit in exhibits.items():
        with warn_on_failure(name, folder):
            shown.append(_show(name, exhibit, folder, loggers, step))
    return shown


def _show(name: str, exhibit: Exhibit, folder: Path, loggers: list[Any], step: int) -> Shown:
    caption = {}
    match exhibit:
        case Text(text=text):
            file = _file(folder, f"samples/{name}.txt")
            write(file, text)
        case Table(columns=columns, rows=rows):
            file = _file(folder, f"samples/{name}.csv")
            _write_csv(file, columns, rows)
            caption = {"caption": exhibit.caption}
        case Audio(samples=samples, rate_hz=rate):
            file = _file(folder, f"samples/{name}.wav")
            _write_wav(file, samples, rate)
        case Animation():
            file = _file(folder, f"figures/{name}.gif")
            write(file, figures.animation(exhibit))
            _picture(file, loggers, step)
        case Curves() | Heatmap() | Points() | Images():
            return figure(name, figures.drawn(exhibit), folder, loggers, step)
        case _:
            raise TypeError(f"it must be one of iolaus.exhibits; received {type(exhibit).__name__}")
    if not isinstance(exhibit, Animation):
        board.write({name: exhibit}, [logger for logger in loggers if isinstance(logger, TensorBoard)], step)
        _send(file, loggers, step)
    return {"file": f"{file.parent.name}/{file.name}"} | caption


def figure(name: str, drawn: Any, folder: Path, loggers: Iterable[Any], step: int) -> Shown:
    """Write a figure to figures/ and to loggers that show pictures; the file, for the report."""
    (file,) = figures.save({name: drawn}, folder / "figures")
    _picture(file, loggers, step)
    return {"file": f"figures/{file.name}"}


def _picture(file: Path, loggers: Iterable[Any], step: int) -> None:
    """A picture of the run's folder, given to its loggers."""
    for logger in loggers:
        if isinstance(logger, TensorBoard):
            logger.add_picture(f"figures/{file.stem}", file.read_bytes(), step)
    _send(file, loggers, step)


def _send(file: Path, loggers: Iterable[Any], step: int) -> None:
    """Send a file of the run's folder to the services that the run is logged to, by the name it has there."""
    for logger in loggers:
        if isinstance(logger, Service):
            logger.add_file(f"{file.parent.name}/{file.stem}", file, step)


def _file(folder: Path, name: str) -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def _write_csv(file: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    write(file, text.getvalue())


def _write_wav(file: Path, samples: Any, rate_hz: int) -> None:
    pcm = (np.clip(np.asarray(samples, dtype=np.float32), -1, 1) * 32767).astype("<i2")
    content = io.BytesIO()
    with wave.open(content, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(rate_hz)
        sound.writeframes(pcm.tobytes())
    write(file, content.getvalue())
