"""Every logged value as a line of a csv file."""

from typing import TextIO

from pytorch_lightning.utilities import rank_zero_only

from iolaus.logger.files import FileLogger, cut_files


class EveryValue(FileLogger):
    """Appends `step,name,value` for each value when it is logged, those of single steps included.

    Lines are written at once, so that a killed run loses none; a resumed run goes on in the same file.

    Args:
        path: the csv file.
    """

    def __init__(self, path: str):
        super().__init__(path)
        self._file: TextIO | None = None

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if self._file is None:
            self._file = self.path.open("a", encoding="utf-8")
            if self._file.tell() == 0:
                self._file.write("step,name,value\n")
        for name, value in metrics.items():
            self._file.write(f"{step},{name},{float(value)!r}\n")
        self._file.flush()

    def written(self) -> dict[str, int]:
        """Bytes written so far."""
        return {self.path.name: self.path.stat().st_size if self.path.exists() else 0}

    def cut_back(self, written: dict[str, int] | None) -> None:
        """Remove what was logged after `written`."""
        if self.path.exists():
            cut_files([self.path], written)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
