"""Resume points: all of a run's state at the start of a batch, so that a killed run goes on with the same bits."""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torchmetrics import Metric

from iolaus import random_state, ranks
from iolaus.callbacks.longer_schedule import apply_lengths
from iolaus.checkpoint import CheckpointFiles, DamagedCheckpoint, in_parts, read_state
from iolaus.data.base import DataModule
from iolaus.divergence import diverged, not_finite
from iolaus.files import replace, tidy
from iolaus.runs import paths_moved
from iolaus.signals import Stopped, requests
from iolaus.task.base import Task
from iolaus.unwritten import unwritten

log = logging.getLogger("iolaus")

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
ASKED_S = 1.0  # between agreements of several processes on whether to save or to stop
SHARE = 0.01  # of the time that saves may take where they are due by time


class ResumePoints(pl.Callback):
    """Keeps the two newest resume points, `last.ckpt` and `previous.ckpt`, and saves one when a signal asks the run to stop.

    A point is taken when a batch begins: only there validation, schedules, early stopping and averages of all earlier batches
    are complete. Besides what Lightning saves it holds the random states, the scores of the unfinished epoch, the logged rows, and
    what the data were. Lightning's two faults on restarting, a plateau schedule's lost step and a loader that begins anew, are
    mended here; `tests/test_resume.py` fails when the private names used for it move.

    Args:
        dirpath: the folder of the files.
        every_n_steps: optimizer steps between points; None: by time alone.
        every_n_minutes: minutes between points, or more where saving would take over a hundredth of the time; None: by steps alone.
        background: whether large states are written by a thread while training goes on, from a copy in memory.
        validation_grace_s: seconds that a validation may go on after a signal; then the run ends, and resumes from the point before.
    """

    def __init__(
        self,
        dirpath: str,
        every_n_steps: int | None = None,
        every_n_minutes: float | None = 1.0,
        background: bool = False,
        validation_grace_s: float = 20.0,
    ):
        self.folder = Path(dirpath)
        self.every_n_steps = every_n_steps
        self.every_n_minutes = every_n_minutes
        self.validation_grace_s = validation_grace_s
        self.files = CheckpointFiles(background)
        self.seconds_before = 0.0  # of training, in the processes before this one
        self._state: dict[str, Any] | None = None
        self._results: dict[str, dict[str, torch.Tensor]] = {}
        self._saving = False
        self._ended_inside = False
        self._saved_step = -1
        self._due = float("inf")
        self._start = 0.0
        self._skips = 0  # batches until several processes agree again, and of how many that was the number
        self._batches = 0
        self._agreed_at = 0.0

    # what is saved

    def state_dict(self) -> dict[str, Any]:
        if not self._saving:
            return {}  # the best weights' file is no resume point
        trainer = self._trainer
        loop = trainer.fit_loop.epoch_loop
        own, *others = ranks.gather(
            {
                "random": random_state.capture(),
                "scores": _task(trainer).train_scores.state(),
                "results": {
                    key: {name: getattr(result, name).clone() for name in result._defaults}
                    for key, result in loop._results.items()
                },
            }
        )
        return own | {
            "others": others,  # of the processes that train together
            "batches_that_stepped": loop._batches_that_stepped,
            "val_batches": loop.val_loop.batch_progress.total.state_dict(),
            "pending_loss": _task(trainer).pending_loss,
            "callback_metrics": {key: value.clone() for key, value in trainer.callback_metrics.items()},
            "loggers": logger_states(trainer.loggers),
            "seconds": self.seconds_before + time.monotonic() - self._start,
            "folder": os.path.realpath(self.folder),
            "data": _fingerprint(trainer),
            "machine": _machine(),
            "ended_inside": self._ended_inside,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._state = state_dict

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """A run's folder may have moved: Lightning's callbacks remember whole paths. And patience may have been raised."""
        state = checkpoint["callbacks"].get(self.state_key)
        if state is not None and trainer.state.fn == "fit":
            here = os.path.realpath(self.folder)
            checkpoint["callbacks"] = paths_moved(checkpoint["callbacks"], state["folder"], here)
            for callback in trainer.checkpoint_callbacks:  # which save their present score, and do not load it
                if isinstance(callback, ModelCheckpoint):
                    saved = checkpoint["callbacks"].get(callback.state_key, {})
                    callback.current_score = saved.get("current_score")
            for stopping in trainer.early_stopping_callbacks:  # which load their patience too
                if stopping.state_key in checkpoint["callbacks"]:
                    checkpoint["callbacks"][stopping.state_key]["patience"] = stopping.patience

    # when it is saved and restored

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._trainer = trainer

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start = time.monotonic()
        self._plan(0.0)
        requests.install()  # after Lightning has put its own handlers, which would leave before anything is saved
        requests.patience = "stopping after this batch, with a resume point"
        if self._state is not None:
            self.seconds_before = self._state["seconds"]
            self._tell_changes(trainer)
            apply_lengths(trainer, _task(trainer))
            # Whoever asked for the number of steps has made the loader's iterator before the position was restored.
            assert trainer.fit_loop._data_fetcher is not None
            iter(trainer.fit_loop._data_fetcher)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._state is not None:
            self._restore(trainer)
            return
        stop, is_due = self._asked()
        if stop is None and not is_due and not self._due_by_steps(trainer):
            return
        # Between the batches of one step there are gradients, which no checkpoint holds.
        if trainer.fit_loop.epoch_loop.batch_progress.current.completed % trainer.accumulate_grad_batches:
            return
        if trainer.global_step != self._saved_step:
            self.save(trainer)
        if stop is not None:
            self.files.wait()
            raise Stopped(stop)

    def _asked(self) -> tuple[int | None, bool]:
        """The signal to stop for, and whether a point is due by time: of several processes what any of them says, about once a second."""
        if ranks.count() == 1:
            return requests.received, time.monotonic() >= self._due
        if self._skips > 0:
            self._skips -= 1
            return None, False
        now = time.monotonic()
        batch_s = (now - self._agreed_at) / self._batches if self._batches else ASKED_S
        stop, is_due, batch_s = ranks.largest(requests.received or 0, now >= self._due, batch_s)
        self._skips = (
            int(min(ASKED_S / max(batch_s, 1e-6), 2 * self._batches + 1)) - 1
        )  # a slow first batch tells little
        self._skips = max(self._skips, 0)
        self._batches, self._agreed_at = self._skips + 1, now
        return int(stop) or None, bool(is_due)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._results:
            _add(self._results, trainer.fit_loop.epoch_loop._results)
            self._results = {}

    def on_validation_batch_start(self, *args: Any) -> None:
        """Inside a validation nothing can be saved, weights may be exchanged for their averages: finish it, but not for long."""
        if requests.received is not None and requests.seconds_since() > self.validation_grace_s:
            raise Stopped(requests.received)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Where the training ends inside an epoch, which Lightning then counts as a whole one, save where it was inside it.

        That point stays as `previous.ckpt`, for a run that is to train on.
        """
        if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            return
        epochs: Any = trainer.fit_loop.epoch_progress
        for progress in (epochs.current, epochs.total):
            progress.processed -= 1
        trainer.fit_loop.epoch_loop.batch_progress.increment_ready()
        self.save(trainer)
        self._ended_inside = True
        for progress in (epochs.current, epochs.total):
            progress.processed += 1

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self._ended_inside:  # the next epoch would begin like this
            loop = trainer.fit_loop.epoch_loop
            for progress in (loop.batch_progress, loop.scheduler_progress, loop.automatic_optimization.optim_progress):
                progress.reset_on_run()
            loop.batch_progress.increment_ready()
        with unwritten.noted(self.folder / LAST):  # the training has ended: its test and its results are worth having
            self.save(trainer)
            self.files.wait()
        requests.patience = None
        if requests.received is not None:
            raise Stopped(requests.received)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            log.info("%s", self.files.summary())

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        requests.patience = None

    def save(self, trainer: pl.Trainer) -> None:
        """Save a resume point; the one before it stays as `previous.ckpt`."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if not_finite(trainer.lightning_module) is not None:
            raise diverged(trainer, None, trainer.global_step)
        start = time.monotonic()
        self._saving = True
        checkpoint = trainer._checkpoint_connector.dump_checkpoint()
        self._saving = False
        if trainer.is_global_zero or in_parts(checkpoint):
            self.files.save(checkpoint, self.folder / LAST, _rotate)
        self._saved_step = trainer.global_step
        self._plan(time.monotonic() - start)

    def _plan(self, save_s: float) -> None:
        """When the next point is due by time."""
        if self.every_n_minutes is not None:
            self._due = time.monotonic() + max(60 * self.every_n_minutes, save_s / SHARE)

    def _due_by_steps(self, trainer: pl.Trainer) -> bool:
        step = trainer.global_step if self.every_n_steps else 0
        return step > 0 and step % self.every_n_steps == 0 and step != self._saved_step  # type: ignore[operator]

    # what is restored, besides what Lightning restores

    def _restore(self, trainer: pl.Trainer) -> None:
        state, self._state = self._state, None
        assert state is not None
        loop = trainer.fit_loop.epoch_loop
        # This batch may have been counted when the point was saved, and again now.
        loop.batch_progress.total.ready = loop.batch_progress.total.completed + 1
        loop.val_loop.batch_progress.total.load_state_dict(
            state["val_batches"]
        )  # a restart counts one validation too many
        loop._batches_that_stepped = state["batches_that_stepped"]
        trainer.fit_loop._restarting = False  # else the plateau schedule would skip its step at the end of this epoch
        trainer._logger_connector._callback_metrics.update(state["callback_metrics"])
        self._restore_own(trainer, [state, *state.get("others", [])])
        _task(trainer).pending_loss = state["pending_loss"]
        self._saved_step = trainer.global_step

    def _restore_own(self, trainer: pl.Trainer, parts: list[dict[str, Any]]) -> None:
        """Of what each process saved its own part; where there are as many as there were."""
        task, device = _task(trainer), trainer.strategy.root_device
        rank = ranks.rank()
        if len(parts) == ranks.count():
            task.train_scores.load(parts[rank]["scores"], device)
            self._results = parts[rank]["results"]
            random_state.restore(parts[rank]["random"])
            return
        log.warning(
            "%d processes go on with what %d began: with the same batches in all, but not bit for bit as it would have gone on",
            ranks.count(),
            len(parts),
        )
        task.train_scores.reset()  # of the epoch so far the first process keeps all sums
        if rank == 0:
            task.train_scores.load_all([part["scores"] for part in parts], device)

    def _tell_changes(self, trainer: pl.Trainer) -> None:
        """Say what is no longer as it was when the point was saved."""
        assert self._state is not None
        now = _fingerprint(trainer)
        for kind, before, present in (
            ("data", self._state["data"], now),
            ("machine", self._state["machine"], _machine()),
        ):
            changed = [
                f"{key} {before.get(key)} -> {present.get(key)}" for key in present if present[key] != before.get(key)
            ]
            if changed:
                log.warning(
                    "the %s changed since the resume point (%s): the run goes on, but not bit for bit as it would have",
                    kind,
                    "; ".join(changed),
                )


def newest_point(folder: Path, train_on: bool) -> tuple[Path, dict[str, Any]] | None:
    """The newest undamaged resume point and its content; None when there is none.

    Of several processes all have to look. Files that a killed save left are removed; damaged points are told and passed over.

    Args:
        folder: of the checkpoints.
        train_on: whether a run that has ended is to go on; then the end of a training that ended inside an epoch does not count.
    """
    ranks.in_turn(lambda: tidy(folder, "*.ckpt"))
    for file in (folder / LAST, folder / PREVIOUS):
        if file.exists():
            try:
                content = read_state(file)
                if not (train_on and own_state(content).get("ended_inside")):
                    return file, content
            except DamagedCheckpoint as error:
                log.warning("%s; taking the resume point before it", error)
    return None


def own_state(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """What ResumePoints saved in a checkpoint; empty where it was not there."""
    return checkpoint.get("callbacks", {}).get(ResumePoints.__qualname__, {})


def logger_states(loggers: list[Any]) -> dict[str, Any]:
    """What loggers have written so far, by class, where they can be cut back to it."""
    return {type(logger).__qualname__: logger.written() for logger in loggers if hasattr(logger, "written")}


def cut_back(loggers: list[Any], states: dict[str, Any]) -> None:
    """Let loggers forget what was logged after a resume point; everything, without a state."""
    for logger in loggers:
        if hasattr(logger, "cut_back"):
            logger.cut_back(states.get(type(logger).__qualname__))


def _rotate(partial: Path, last: Path) -> None:
    """Give a written file its name; the file that had it becomes the previous one."""
    if last.exists():
        replace(last, last.with_name(PREVIOUS))
    replace(partial, last)


def _task(trainer: pl.Trainer) -> Task:
    task = trainer.lightning_module
    assert isinstance(task, Task)
    return task


def _fingerprint(trainer: pl.Trainer) -> dict[str, Any]:
    data = trainer.datamodule  # type: ignore[attr-defined]
    return data.fingerprint() if isinstance(data, DataModule) else {}


def _machine() -> dict[str, Any]:
    """What the last bits depend on besides the settings."""
    return {"torch": str(torch.__version__), "threads": torch.get_num_threads()}


def _add(before: dict[str, dict[str, torch.Tensor]], results: dict[str, Metric]) -> None:
    """Add the unfinished epoch's values of `self.log(on_epoch=True)` to those of the first batch after resuming."""
    combine: dict[str, Callable] = {"is_mean_reduction": torch.add, "is_sum_reduction": torch.add}
    combine |= {"is_max_reduction": torch.maximum, "is_min_reduction": torch.minimum}
    for key, result in results.items():
        meta: Any = result.meta
        if not before.get(key) or not meta.on_epoch:
            continue
        for kind, join in combine.items():
            if getattr(meta, kind):
                result.value = join(before[key]["value"].to(result.value), result.value)  # type: ignore[arg-type]
        if meta.is_mean_reduction:
            result.cumulated_batch_size = before[key]["cumulated_batch_size"] + result.cumulated_batch_size  # type: ignore[operator]
