"""One bar over the whole fit in a terminal, one line an epoch in a log; what takes long shows that it goes on."""

import logging
import sys
import time
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from tqdm import tqdm

from iolaus.terminal import is_live

log = logging.getLogger("iolaus")

PATIENCE_S = 2.0  # that a validation or a test may take before its own progress is shown


class Progress(ProgressBar):
    """Progress of the fit by optimizer steps, refreshed by time: nothing is done in most steps.

    Validations and tests that take longer than PATIENCE_S are shown by their batches.

    Args:
        interval_s: seconds between two refreshes of the bar.
        log_interval_s: seconds between two lines of a log, within an epoch, a validation or a test that takes longer.
    """

    def __init__(self, interval_s: float = 0.2, log_interval_s: float = 30.0):
        super().__init__()
        self.interval_s = interval_s
        self.log_interval_s = log_interval_s
        self._bar: tqdm | None = None
        self._enabled = True
        self._next = 0.0
        self._next_part = 0.0
        self._text = ""  # of the last epoch

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._enabled and is_live(sys.stderr):
            steps = trainer.estimated_stepping_batches
            total = int(steps) if 0 < steps < float("inf") else None
            self._bar = tqdm(total=total, initial=trainer.global_step, unit="step", dynamic_ncols=True, leave=False)
        self._next = time.monotonic() + (0.0 if self._bar is not None else self.log_interval_s)

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if (now := time.monotonic()) < self._next:
            return
        if self._bar is not None:
            self._next = now + self.interval_s
            self._bar.n = trainer.global_step
            self._bar.refresh()
        elif self._enabled:
            self._next = now + self.log_interval_s
            log.info("epoch %s  %s", _epoch(trainer, 1), _batches(args[-1] + 1, trainer.num_training_batches))

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._next_part = time.monotonic() + PATIENCE_S

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._next_part = time.monotonic() + PATIENCE_S
        if self._enabled and is_live(sys.stderr):
            total = sum(trainer.num_test_batches)
            self._bar = tqdm(total=total, unit="batch", desc="test", dynamic_ncols=True, leave=False, delay=PATIENCE_S)

    def on_validation_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        self._show_part("validation", args[3], trainer.num_val_batches)

    def on_test_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        self._show_part("test", args[3], trainer.num_test_batches)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._bar is not None:
            self._bar.set_description(self._text, refresh=False)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._close()

    def _show_part(self, name: str, index: int, batches: Sequence[float]) -> None:
        """The progress of a validation, beside the fit's, or of a test."""
        if not self._enabled or (now := time.monotonic()) < self._next_part:
            return
        self._next_part = now + (self.interval_s if self._bar is not None else self.log_interval_s)
        told = _batches(index + 1, sum(batches))
        if self._bar is None:
            log.info("%s  %s", name, told)
        elif name == "test":
            self._bar.update(index + 1 - self._bar.n)
        else:
            self._bar.set_description(f"{name}  {told}")

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # The task logs an epoch's values after the callbacks' epoch end, so they are told when the next one begins.
        self._tell(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._tell(trainer)
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._close()

    def _tell(self, trainer: pl.Trainer) -> None:
        """The epoch's losses, and the first metric's value on the validation split."""
        values = {k: float(v) for k, v in trainer.callback_metrics.items()}
        if not self._enabled or "loss/train" not in values:
            return
        metrics = [k for k in values if k.endswith("/val") and k != "loss/val"][:1]
        shown = [k for k in ("loss/train", "loss/val", *metrics) if k in values]
        self._text = f"epoch {_epoch(trainer)}  " + "  ".join(f"{k} {values[k]:.4g}" for k in shown)
        if self._bar is not None:
            self._bar.set_description(self._text, refresh=False)
        else:
            log.info(self._text)
            self._next = time.monotonic() + self.log_interval_s

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _epoch(trainer: pl.Trainer, begun: int = 0) -> str:
    """The epochs that are done, or begun, of all."""
    epochs = trainer.current_epoch + begun
    return str(epochs) if trainer.max_epochs in (None, -1) else f"{epochs}/{trainer.max_epochs}"


def _batches(done: int, total: float) -> str:
    return f"batch {done:,} of {total:,.0f}" if total < float("inf") else f"batch {done:,}"
