"""Every logged value as a line of a csv file."""

import logging

from pytorch_lightning.utilities import rank_zero_only

from iolaus.files import append
from iolaus.logger.files import FileLogger, cut_files

log = logging.getLogger("iolaus")


class EveryValue(FileLogger):
    """Appends `step,name,value` for each value when it is logged, those of single steps included.

    Lines are written at once, so that a killed run loses none; a resumed run goes on in the same file. Where it cannot be written, a line
    says so, and the run goes on without it.

    Args:
        path: the csv file.
    """

    def __init__(self, path: str):
        super().__init__(path)
        self._failed = False

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if self._failed:
            return
        head = "" if self.path.exists() and self.path.stat().st_size else "step,name,value\n"
        try:
            append(self.path, head + "".join(f"{step},{name},{float(v)!r}\n" for name, v in metrics.items()))
        except OSError as error:
            self._failed = True
            log.warning("%s cannot be written: %s; the run goes on without it", self.path, error.strerror)

    def written(self) -> dict[str, int]:
        """Bytes written so far."""
        return {self.path.name: self.path.stat().st_size if self.path.exists() else 0}

    def cut_back(self, written: dict[str, int] | None) -> None:
        """Remove what was logged after `written`."""
        if self.path.exists():
            cut_files([self.path], written)
