"""What is monitored must be logged: found at the latest after the first validation."""

from collections.abc import Sequence

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint, EarlyStopping, ModelCheckpoint

from iolaus.errors import UserError, did_you_mean
from iolaus.history import History


def missing_monitor(key: str, monitor: str, logged: Sequence[str]) -> UserError:
    """The error of a monitored value that was not logged, with those that were."""
    names = sorted(name for name in logged if not name.endswith("_step"))
    return UserError(
        f"{key}: {monitor!r} was not logged by the end of the first validation{did_you_mean(monitor, names)}\n"
        f"  (logged were: {', '.join(names) or 'none'})"
    )


class MonitorCheck(Checkpoint):
    """Refuses to go on when a monitored value was not logged, and notes an objective that loggers do not get.

    Lightning calls checkpoints after the task and all other callbacks at the end of an epoch, when everything has been logged.

    Args:
        objective: the monitored value of the run.
        history: has a row of each epoch, which the objective is read from; None: it gets the objective by being logged to.
    """

    def __init__(self, objective: str, history: History | None):
        self.objective = objective
        self.history = history

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check what a checkpoint saves by now, without waiting for the end of the epoch."""
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and not callback._should_save_on_train_epoch_end(trainer):
                self._check(trainer, {callback.monitor} - {None})

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the rest, once there was a validation, or where there is none."""
        validates = "val" in trainer.datamodule.datasets and bool(trainer.limit_val_batches)  # type: ignore[attr-defined]
        if trainer.fit_loop.epoch_loop.val_loop._has_run or not validates:
            found = [c.monitor for c in trainer.callbacks if isinstance(c, EarlyStopping | ModelCheckpoint)]  # type: ignore[attr-defined]
            self._check(trainer, {self.objective, *found} - {None})
        value = trainer.callback_metrics.get(self.objective)
        if self.history is not None and value is not None:
            self.history.note(self.objective, float(value))

    def _check(self, trainer: pl.Trainer, monitors: set[str | None]) -> None:
        if trainer.sanity_checking:
            return
        logged = list(trainer.callback_metrics)
        for monitor in sorted(str(m) for m in monitors):
            if monitor not in logged:
                raise missing_monitor(
                    "objective.monitor" if monitor == self.objective else "callbacks: monitor", monitor, logged
                )
