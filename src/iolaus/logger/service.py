"""Services that runs are logged to: begun before the training, gone on with by a resumed run, and never the end of one."""

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only

from iolaus import random_state
from iolaus.errors import UserError
from iolaus.files import write
from iolaus.unwritten import unwritten

log = logging.getLogger("iolaus")

ID = re.compile(r"[\w-]{1,128}")
ENDED = "ended"
PATIENCE_S = 20  # with a service that does not answer


class Service(Logger, ABC):
    """A logger that sends scalars, the settings that tell runs apart, figures and samples to a service, or keeps them for it.

    The service's run is begun with the hyperparameters, before the training: a service that cannot be reached, or that knows no key, is
    refused then. What fails later is told once, and the run goes on without it. The id of the service's run is kept in the run's folder,
    so that a resumed run goes on in the same one; what was logged after the resume point then stands there twice, with the same values.
    Where a package loses what it had when the run was killed, the epochs so far are sent again. No random number of the run's is drawn.
    Keys are read from where the service's own tools keep them, and are no argument.

    Args:
        save_dir: the run's folder.
        name: of the run in the service; None: the last two parts of its folder's path.
    """

    package = ""  # that must be installed, by the name of its import; each subclass says its own
    extra = ""  # of iolaus, which brings it
    instead = ""  # what to do when it refuses a run
    forgets = False  # whether it may lose values when the run is killed

    def __init__(self, save_dir: str, name: str | None):
        super().__init__()
        self.folder = Path(save_dir)
        self.run_name = name or "/".join(self.folder.absolute().parts[-2:])
        self._id: str | None = None  # of a run that is open
        self._failed = False
        self._was_killed = False  # the process that logged before this one

    # what a service implements

    @abstractmethod
    def begin(self, earlier: str | None) -> str:
        """Begin a run of the service, or go on with an earlier one; its id."""

    @abstractmethod
    def write_settings(self, settings: dict[str, Any]) -> None:
        """Write flat settings."""

    @abstractmethod
    def write(self, values: dict[str, float], step: int) -> None:
        """Write scalars of a step."""

    @abstractmethod
    def write_file(self, tag: str, file: Path, step: int) -> None:
        """Write a picture, an animation, a sound, a text or a table, as the file's suffix says: png, gif, wav, txt, csv."""

    @abstractmethod
    def end(self, status: str) -> None:
        """End the service's run; status is that of results.json."""

    @property
    def next_command(self) -> str | None:
        """The command that shows the run, or sends it."""
        return None

    # what Lightning and the report call

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Begin the service's run and write flat settings, once.

        Raises:
            UserError: when the service cannot be reached, or refuses the run.
        """
        if not params or self._id is not None:
            return
        logging.getLogger("urllib3").setLevel(logging.ERROR)  # which tells of each of its attempts
        try:
            with _same_random_numbers():
                self._id = self.begin(self._earlier())
                write(self._file, self._id)
                self.write_settings(dict(params))
        except Exception as error:  # of whatever class the service's package has
            self._id = None
            raise UserError(f"logger.{self.extra}: {_line(error)}; {self.instead}") from error

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self._attempt(self.write, {name: float(value) for name, value in metrics.items()}, step or 0)

    def log_again(self, rows: Sequence[dict[str, float]]) -> None:
        """Log the epochs that a resumed run has behind it, rows of metrics.csv, where they may be lost."""
        if self.forgets and self._was_killed:
            for row in rows:
                values = {name: value for name, value in row.items() if name != "step"}
                self.log_metrics(values | {"epoch": row["epoch"] - 1}, int(row["step"]) - 1)

    @rank_zero_only
    def add_file(self, tag: str, file: Path, step: int) -> None:
        """Send a figure or a sample, which stands in the run's folder."""
        with _same_random_numbers():
            self._attempt(self.write_file, tag, file, step)

    @rank_zero_only
    def close(self, status: str) -> None:
        """End the service's run, once all is logged."""
        with _same_random_numbers():
            self._failed = False  # it is tried once more: some services keep what they could not send
            self._attempt(self.end, status)
        if self._id is not None and self.folder.is_dir():
            with unwritten.noted(self._file):
                write(self._file, f"{self._id}\n{ENDED}\n")
        self._id = None

    def _attempt(self, do: Callable[..., None], *arguments: Any) -> None:
        """Do something with a run that has begun; the first failure is told, and then nothing more is done."""
        if self._id is None or self._failed:
            return
        try:
            do(*arguments)
        except Exception as error:  # of whatever class the service's package has
            self._failed = True
            log.warning("logger.%s: %s; the run goes on without it", self.extra, _line(error))

    @property
    def _file(self) -> Path:
        return self.folder / f".{self.extra}_run"

    def _earlier(self) -> str | None:
        """The id of the service's run that an earlier process has begun."""
        words = self._file.read_text(encoding="utf-8").split() if self._file.is_file() else []
        if not words or not ID.fullmatch(words[0]):
            return None
        self._was_killed = words[1:] != [ENDED]
        return words[0]

    @property
    def save_dir(self) -> str:
        return str(self.folder)

    @property
    def name(self) -> str:
        return type(self).__name__

    @property
    def version(self) -> str:
        return self._id or ""


@contextmanager
def _same_random_numbers() -> Iterator[None]:
    """Whatever a package draws, the run draws what it would have drawn."""
    state = random_state.capture()
    try:
        yield
    finally:
        random_state.restore(state)


def _line(error: Exception) -> str:
    """An error as one line: the first of its own."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")
