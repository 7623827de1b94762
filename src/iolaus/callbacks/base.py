"""Callbacks that look at a training and write what they see to TensorBoard: when they look, and that nothing is changed or ended by it."""

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

from iolaus import random_state
from iolaus.data.base import DataModule
from iolaus.logger.tensorboard import TensorBoard
from iolaus.run_log import log_traceback
from iolaus.task.base import Task
from iolaus.undisturbed import undisturbed
from iolaus.user_code import failure_line

log = logging.getLogger("iolaus")

LONG_S = 2.0  # a look that takes longer is told, once


class Look(pl.Callback, ABC):
    """Writes to TensorBoard what is to be seen of a training, and changes nothing of it.

    Without TensorBoard nothing is done, which a line tells. Of several processes that train together the first looks. What goes wrong
    is told in a line, once for each cause, and the training goes on; random numbers to come are as if nobody had looked.
    """

    def __init__(self) -> None:
        self.boards: list[TensorBoard] = []  # empty where there is nothing to do
        self._told: set[str] = set()

    @property
    def key(self) -> str:
        """The name that it is chosen by."""
        return type(self).__module__.rpartition(".")[2]

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.boards = []
        if stage != "fit" or not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self.boards = [logger for logger in trainer.loggers if isinstance(logger, TensorBoard)]
        if not self.boards:
            log.info("callbacks.%s: nothing to write to; add TensorBoard: logger=[tensorboard]", self.key)
            return
        with self.safely():
            self.prepare(*of(trainer))

    def prepare(self, task: Task, data: DataModule) -> None:
        """Called before the training; a subclass may `leave` where there is nothing to see."""

    def leave(self, reason: str) -> None:
        """Do nothing from now on, for a reason that is told."""
        log.info("callbacks.%s: %s", self.key, reason)
        self.boards = []

    def tell(self, warning: str) -> None:
        """Warn, once."""
        if warning not in self._told:
            self._told.add(warning)
            log.warning("callbacks.%s: %s", self.key, warning)

    @contextmanager
    def safely(self) -> Iterator[None]:
        """Leave no trace in the random numbers, and tell what goes wrong instead of ending the training."""
        state, start = random_state.capture(), time.monotonic()
        try:
            yield
        except Exception as error:  # networks, metrics and drawings fail in more ways than can be listed
            self.tell(f"left out: {failure_line(error)}")
            log_traceback(error)
        finally:
            random_state.restore(state)
        if (seconds := time.monotonic() - start) > LONG_S and "long" not in self._told:
            self._told.add("long")
            log.info("callbacks.%s: a look took %.1f s", self.key, seconds)


class EpochLook(Look, ABC):
    """Looks after every n-th epoch and after the last one.

    Args:
        every_n_epochs: epochs between looks; None: the last one alone.
    """

    def __init__(self, every_n_epochs: int | None):
        super().__init__()
        self.every_n_epochs = at_least_one(every_n_epochs)

    @abstractmethod
    def look(self, trainer: pl.Trainer, task: Task, data: DataModule) -> None:
        """Write to `boards`."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.boards and is_due(trainer, self.every_n_epochs):
            task, data = of(trainer)
            with self.safely(), data.looked_at_whole():
                self.look(trainer, task, data)


class ValidationLook(EpochLook, ABC):
    """Hears what the metrics take in during the validation, so that nothing is computed twice, and looks at it at the epoch's end.

    Of several processes that train together it hears the first one's part, which a line tells. Where weights are averaged
    (callbacks=[default,ema]) it is of the averaged ones, as the validation is. A subclass implements `hear` and `forget` too.
    """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if self.boards and trainer.world_size > 1:
            log.info(
                "callbacks.%s: shows the first process' part of the validation, one of %d", self.key, trainer.world_size
            )

    @abstractmethod
    def hear(self, preds: Any, target: Any, more: dict[str, Any]) -> None:
        """Take in some of the samples, in the order of `DataModule.rows_in_order`; arguments as a metric's `update` has them."""

    @abstractmethod
    def forget(self) -> None:
        """Forget the validation before."""

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.boards and trainer.state.fn == "fit":
            self.forget()
            of(trainer)[0].val_scores.listeners.append(self._hear)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        scores = of(trainer)[0].val_scores
        if self._hear in scores.listeners:
            scores.flush()
            scores.listeners.remove(self._hear)

    def _hear(self, preds: Any, target: Any, more: dict[str, Any]) -> None:
        if self.boards:
            with self.safely():
                self.hear(preds, target, more)


def of(trainer: pl.Trainer) -> tuple[Task, DataModule]:
    """What is trained, and on which data."""
    task, data = trainer.lightning_module, trainer.datamodule  # type: ignore[attr-defined]
    assert isinstance(task, Task)
    assert isinstance(data, DataModule)
    return task, data


def is_last_epoch(trainer: pl.Trainer) -> bool:
    """Whether the training ends with this epoch, as far as an epoch's end can tell."""
    epochs = trainer.current_epoch + 1
    return trainer.should_stop or epochs == trainer.max_epochs or 0 <= trainer.max_steps <= trainer.global_step


def is_due(trainer: pl.Trainer, every_n_epochs: int | None) -> bool:
    """Whether the end of this epoch is looked at: it is an n-th one, or the last."""
    is_nth = every_n_epochs is not None and (trainer.current_epoch + 1) % every_n_epochs == 0
    return is_nth or is_last_epoch(trainer)


def at_least_one(every_n_epochs: int | None) -> int | None:
    """The argument as it is.

    Raises:
        ValueError: for fewer than one.
    """
    if every_n_epochs is not None and every_n_epochs < 1:
        raise ValueError(f"every_n_epochs must be at least 1; received {every_n_epochs}")
    return every_n_epochs


def on_device(trainer: pl.Trainer, batch: Any) -> Any:
    """A batch as the model takes it."""
    return trainer.strategy.batch_to_device(trainer.precision_plugin.convert_input(batch))


@contextmanager
def evaluating(task: Task) -> Iterator[None]:
    """Run a task for a look: in evaluation mode, uncompiled, without gradients or a trace."""
    model: nn.Module = task.model
    compiled, model._compiled_call_impl = model._compiled_call_impl, None
    try:
        with undisturbed(task, "eval"), torch.no_grad():
            yield
    finally:
        model._compiled_call_impl = compiled


def short_name(name: str) -> str:
    """A weight's name without the task's `model.` before it."""
    return name.removeprefix("model.")
