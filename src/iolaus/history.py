"""What was logged, one row an epoch: metrics.csv, and the table that report and figures are made from."""

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import rank_zero_only

from iolaus.errors import UserError
from iolaus.files import append, write
from iolaus.logger.files import FileLogger
from iolaus.unwritten import unwritten


class History(FileLogger):
    """Gathers an epoch's values into a row, epochs counted from 1; it is complete, and written, when the training split's arrive.

    A row of epoch 0 stands before them where something was measured before the first step. Rows that a full disk refuses are written with
    the next one.

    Args:
        path: the csv file.
    """

    def __init__(self, path: Path):
        super().__init__(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.rows: list[dict[str, float]] = []
        self.test: dict[str, float] = {}
        self.start: dict[str, float] = {}  # what was measured before the first step
        self._pending: dict[str, float] = {}
        self._columns: list[str] = []
        self._is_behind = False  # whether the file lacks rows

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        values = {k: float(v) for k, v in metrics.items() if k not in ("epoch", "loss/step")}
        if any(k.endswith("/test") for k in values):
            self.test |= values
            return
        self._pending |= values
        if any(k.endswith("/train") for k in values):
            self.rows.append(
                {"epoch": int(metrics.get("epoch", len(self.rows))) + 1, "step": (step or 0) + 1, **self._pending}
            )
            self._pending = {}
            self._write()

    @rank_zero_only
    def note(self, name: str, value: float) -> None:
        """Add a value to the epoch's row, unless a log has it; one with logger=False has not, and one of steps too has another name."""
        self._pending.setdefault(name, value)

    @rank_zero_only
    def log_start(self, metrics: dict[str, float]) -> None:
        """Log what was measured before the first step: a row of epoch 0, which counts as no epoch."""
        self.start |= {"epoch": 0, "step": 0} | {k: float(v) for k, v in metrics.items()}
        self._columns += [k for k in self.start if k not in self._columns]
        self._write_all()

    def _write(self) -> None:
        row = self.rows[-1]
        new = [k for k in row if k not in self._columns]
        self._columns += new
        if len(self.rows) > 1 and not self._is_behind and not self.path.exists():
            raise UserError(f"output_dir: {self.path.parent} is gone; it was removed while the run went on")
        if new or self._is_behind:  # a column may appear later, as with validation every other epoch
            self._write_all()
            return
        with self._noted():
            append(self.path, self._text([row]))

    def _write_all(self) -> None:
        head = {name: name for name in self._columns}
        with self._noted():
            write(self.path, self._text([head, *[self.start] * bool(self.start), *self.rows]))

    def _text(self, rows: Sequence[dict[str, Any]]) -> str:
        text = io.StringIO()
        csv.DictWriter(text, self._columns).writerows(rows)
        return text.getvalue()

    @contextmanager
    def _noted(self) -> Iterator[None]:
        """Note whether the file has all rows."""
        self._is_behind = True
        with unwritten.noted(self.path):
            yield
            self._is_behind = False
            unwritten.forget(self.path)

    def written(self) -> dict[str, Any]:
        """All rows so far, and the values that wait for the rest of theirs."""
        return {
            "rows": [dict(row) for row in self.rows],
            "start": dict(self.start),
            "pending": dict(self._pending),
            "columns": list(self._columns),
        }

    def cut_back(self, written: dict[str, Any] | None) -> None:
        """Go on from what `written` gave: the file loses the rows after it."""
        state = written or {"rows": [], "pending": {}, "columns": []}
        self.rows, self._pending, self._columns = state["rows"], state["pending"], state["columns"]
        self.start = state.get("start", {})
        self.path.unlink(missing_ok=True)
        if self.rows or self.start:
            self._write_all()

    def best(self, monitor: str, mode: str) -> dict[str, float] | None:
        """The row with the best value of the objective; None when no row has it."""
        rows = [r for r in self.rows if r.get(monitor) == r.get(monitor) and monitor in r]  # NaN is not equal to itself
        return (min if mode == "min" else max)(rows, key=lambda r: r[monitor], default=None)
