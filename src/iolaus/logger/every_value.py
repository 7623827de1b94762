"""Every logged value as a line of a csv file."""

from pytorch_lightning.utilities import rank_zero_only

from iolaus.files import append
from iolaus.logger.files import FileLogger, cut_files


class EveryValue(FileLogger):
    """Appends `step,name,value` for each value when it is logged, those of single steps included.

    Lines are written at once, so that a killed run loses none; a resumed run goes on in the same file.

    Args:
        path: the csv file.
    """

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        lines = (f"{step},{name},{float(value)!r}\n" for name, value in metrics.items())
        append(self.path, "".join(lines), header="step,name,value\n")

    def written(self) -> dict[str, int]:
        """Bytes written so far."""
        return {self.path.name: self.path.stat().st_size if self.path.exists() else 0}

    def cut_back(self, written: dict[str, int] | None) -> None:
        """Remove what was logged after `written`."""
        if self.path.exists():
            cut_files([self.path], written)
