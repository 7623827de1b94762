"""One bar over the whole fit in a terminal, one line an epoch in a log."""

import logging
import sys
import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from tqdm import tqdm

from iolaus.terminal import is_live

log = logging.getLogger("iolaus")


class Progress(ProgressBar):
    """Progress of the fit by optimizer steps, refreshed by time: nothing is done in most steps.

    Args:
        interval_s: seconds between two refreshes.
    """

    def __init__(self, interval_s: float = 0.2):
        super().__init__()
        self.interval_s = interval_s
        self._bar: tqdm | None = None
        self._enabled = True
        self._next = 0.0

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._enabled and is_live(sys.stderr):
            steps = trainer.estimated_stepping_batches
            total = int(steps) if 0 < steps < float("inf") else None
            self._bar = tqdm(total=total, initial=trainer.global_step, unit="step", dynamic_ncols=True, leave=False)

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if self._bar is not None and (now := time.monotonic()) >= self._next:
            self._next = now + self.interval_s
            self._bar.n = trainer.global_step
            self._bar.refresh()

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
        epochs = (
            trainer.current_epoch
            if trainer.max_epochs in (None, -1)
            else f"{trainer.current_epoch}/{trainer.max_epochs}"
        )
        text = f"epoch {epochs}  " + "  ".join(f"{k} {values[k]:.4g}" for k in shown)
        if self._bar is not None:
            self._bar.set_description(text, refresh=False)
        else:
            log.info(text)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
