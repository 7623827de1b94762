"""Lightning's epoch loop without what a plain step does not need: the same hooks in the same order, the same bits.

The stock loop spends 0.3 ms a step on closures, profiler contexts, signature inspection and calls of hooks that nobody implements.
This one looks once an epoch at what is implemented and calls that. It stands aside for the stock loop whenever a run is not
plain: sharded weights, gradient accumulation, loss scaling, a profiler, a restart at a validation, an optimizer with a closure,
a task that overrides a part of the step.

All private names of Lightning that Iolaus relies on in the step stand in this file; `tests/test_fast_loop.py` fails when they move.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loops.fetchers import _DataFetcher, _DataLoaderIterDataFetcher
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop
from pytorch_lightning.plugins.precision import MixedPrecision, Precision
from pytorch_lightning.profilers import PassThroughProfiler
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy, Strategy
from torch.nn.parallel import DistributedDataParallel

from iolaus.cuda_graph import GraphedStep, can_be_recorded, has_graphs
from iolaus.errors import UserError
from iolaus.gradient.base import Evaluation
from iolaus.gradient.reverse import Reverse

# Hooks of a step that callbacks and the task may implement.
HOOKS = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)
# Those inside a step, which a recorded one does not come by.
INSIDE = ("on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step")
# Parts of a step that a task may replace; then the stock loop runs.
PARTS = (
    "backward",
    "configure_gradient_clipping",
    "lr_scheduler_step",
    "on_after_batch_transfer",
    "on_before_batch_transfer",
    "optimizer_step",
    "optimizer_zero_grad",
    "transfer_batch_to_device",
)


class FastEpochLoop(_TrainingEpochLoop):
    """One epoch of training; see the module."""

    _plain = False
    _checks_late = False
    _graphed: GraphedStep | None = None

    def on_run_start(self, data_fetcher: _DataFetcher) -> None:
        """Look at what this epoch needs."""
        super().on_run_start(data_fetcher)
        self._plain = self._is_plain(data_fetcher)
        if self.trainer.cuda_graphs:  # type: ignore[attr-defined]
            self._prepare_graph()
        if not self._plain:
            return
        trainer, task = self.trainer, self.trainer.lightning_module
        self._hooks = {name: _implemented(trainer, name) for name in HOOKS}
        precision = trainer.precision_plugin
        self._context: Callable[[], AbstractContextManager] = (
            precision.forward_context if isinstance(precision, MixedPrecision) else nullcontext
        )
        self._steps_schedule = any(c.interval == "step" for c in trainer.lr_scheduler_configs)
        # Whether nothing but the end of the epoch can call for a validation.
        self._checks_late = (
            trainer._val_check_time_interval is None  # type: ignore[attr-defined]
            and trainer.check_val_every_n_epoch is not None
            and (
                trainer.val_check_batch in (None, float("inf"))
                or trainer.val_check_batch >= trainer.num_training_batches
            )
        )
        self._task: Any = task
        # DDP's own forward pass, around the step, tells it that gradients are to be averaged in the backward pass.
        is_alone = trainer.strategy.model is task
        self._training_step: Callable[[Any, int], Any] = (
            task.training_step if is_alone else trainer.strategy.training_step
        )
        self._device = trainer.strategy.root_device

    def _is_plain(self, data_fetcher: _DataFetcher) -> bool:
        """Whether the step has only parts that `advance` knows."""
        trainer, task = self.trainer, self.trainer.lightning_module
        precision = trainer.precision_plugin
        return (
            (_trains(trainer.strategy, task) or _averages_gradients(trainer.strategy))
            and (type(precision) is Precision or (type(precision) is MixedPrecision and precision.scaler is None))
            and isinstance(trainer.profiler, PassThroughProfiler)  # type: ignore[attr-defined]
            and not isinstance(data_fetcher, _DataLoaderIterDataFetcher)
            and task.automatic_optimization
            and trainer.accumulate_grad_batches == 1
            and len(trainer.optimizers) == 1
            and not isinstance(trainer.optimizers[0], torch.optim.LBFGS)
            and not any(c.interval == "step" and c.reduce_on_plateau for c in trainer.lr_scheduler_configs)
            and all(getattr(type(task), part) is getattr(pl.LightningModule, part) for part in PARTS)
        )

    def advance(self, data_fetcher: _DataFetcher) -> None:
        """One batch: the order of hooks and counters is the stock loop's."""
        if not self._plain or (self.restarting and self._should_check_val_fx(data_fetcher)):
            super().advance(data_fetcher)
            return
        trainer, progress, connector = self.trainer, self.batch_progress, self.trainer._logger_connector
        logged = self._results  # what `self.log` has kept; while it is empty there is nothing for the connector to do
        self.val_loop._restarting = False
        batch, _, _ = next(data_fetcher)
        batch_idx = self.batch_idx + 1
        progress.is_last_batch = data_fetcher.done
        if not _on_device(batch, self._device):
            batch = trainer.strategy.batch_to_device(batch)
        progress.increment_ready()
        connector._first_loop_iter = connector._first_loop_iter is None
        logged.batch, logged.batch_size, logged.dataloader_idx = batch, None, None
        skips_rest = self._call("on_train_batch_start", batch, batch_idx) == -1
        if skips_rest:
            progress.increment_by(0, is_last_batch=True)
        else:
            progress.increment_started()
            output = self._step(batch, batch_idx)
        progress.increment_processed()
        if self._steps_schedule:
            self.update_lr_schedulers("step", update_plateau_schedulers=False)
        if self._num_ready_batches_reached():
            self.update_lr_schedulers("epoch", update_plateau_schedulers=False)
        if skips_rest:
            raise StopIteration
        self._call("on_train_batch_end", output, batch, batch_idx)
        has_logged = any(True for _ in logged.valid_items())
        if has_logged:
            connector.on_batch_end()
        logged.batch = logged.batch_size = None
        progress.increment_completed()
        if has_logged:
            connector.update_train_step_metrics()

    def _step(self, batch: Any, batch_idx: int) -> dict[str, torch.Tensor]:
        """Loss, gradient, optimizer."""
        task, optimizer = self._task, self.trainer.optimizers[0]
        count = self.automatic_optimization.optim_progress.optimizer
        count.step.increment_ready()
        count.zero_grad.increment_ready()
        if self._graphed is not None:
            loss = task.take_in(*self._graphed(batch), batch_idx)
            count.zero_grad.increment_started()
            count.zero_grad.increment_completed()
            self._call("on_before_backward", loss)
            count.step.increment_completed()
            return {"loss": loss}
        with self._context():
            loss = self._training_step(batch, batch_idx)
        self._call("on_before_zero_grad", optimizer)
        count.zero_grad.increment_started()
        optimizer.zero_grad()
        count.zero_grad.increment_completed()
        self._call("on_before_backward", loss)
        loss.backward()
        self._call("on_after_backward")
        self._call("on_before_optimizer_step", optimizer)
        self._clip_and_step()
        count.step.increment_completed()
        return {"loss": loss.detach()}

    def _clip_and_step(self) -> None:
        trainer, optimizer = self.trainer, self.trainer.optimizers[0]
        if trainer.gradient_clip_val:
            self._task.configure_gradient_clipping(
                optimizer, trainer.gradient_clip_val, trainer.gradient_clip_algorithm
            )
        optimizer.step()

    def _prepare_graph(self) -> None:
        """Let steps be replayed from a recording.

        Raises:
            UserError: where something looks into a step, or it is no plain one.
        """
        trainer, optimizers = self.trainer, self.trainer.optimizers
        task: Any = trainer.lightning_module
        inside = {hook.__qualname__.partition(".")[0] for name in INSIDE for hook in _implemented(trainer, name)[0]}
        reason = ""
        if not has_graphs(trainer.strategy.root_device):
            reason = f"the training is on {trainer.strategy.root_device.type}, and graphs are of CUDA"
        elif not self._plain or not _trains(trainer.strategy, task) or not isinstance(task.gradient, Reverse):
            reason = "only plain steps on one device can be: no accumulation, loss scaling, profiler, estimated gradients or LBFGS"
        elif inside:
            reason = f"{', '.join(sorted(inside))} among the callbacks looks at gradients inside the step"
        elif not can_be_recorded(optimizers[0]):
            reason = f"{type(optimizers[0]).__name__} decides on the processor; optimizers that are fused or have `capturable` do not"
        if reason:
            raise UserError(f"trainer.cuda_graphs: {reason}; set trainer.cuda_graphs=false")
        if self._graphed is None:
            self._graphed = GraphedStep(self._whole_step, task, optimizers[0])
        self._graphed.look()

    def _whole_step(self, batch: Any) -> Evaluation:
        """A step, without what must be done on the processor; the gradients are none before."""
        with self._context():
            loss, output, target = self._task.step(batch)
        loss.backward()
        self._clip_and_step()
        return loss, output, target

    def on_advance_end(self, data_fetcher: _DataFetcher) -> None:
        """Validate where it is due; most steps need not look."""
        if self._plain and self._checks_late and not self.batch_progress.is_last_batch and not self.trainer.should_stop:
            self._batches_that_stepped += 1
            if not self._is_training_done:
                return
            self._batches_that_stepped -= 1
        validates = self._graphed is not None and self._should_check_val_fx(data_fetcher)
        super().on_advance_end(data_fetcher)
        if self._graphed is not None and validates:  # which may have moved weights
            self._graphed.look()

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call a hook where it is implemented, with the name that `self.log` asks for."""
        callbacks, own = self._hooks[name]
        if not callbacks and own is None:
            return None
        trainer, task = self.trainer, self._task
        before = task._current_fx_name
        task.__dict__["_current_fx_name"] = name  # past nn.Module's slow __setattr__
        for hook in callbacks:
            hook(trainer, task, *arguments)
        result = own(*arguments) if own is not None else None
        task.__dict__["_current_fx_name"] = before
        return result


def _trains(strategy: Strategy, task: pl.LightningModule) -> bool:
    """Whether one device trains the task itself."""
    return type(strategy) is SingleDeviceStrategy and strategy.model is task


def _averages_gradients(strategy: Strategy) -> bool:
    """Whether a step of several processes differs from one of a single process in its backward pass alone."""
    return (
        isinstance(strategy, DDPStrategy)
        and isinstance(strategy.model, DistributedDataParallel)
        and strategy._model_averager is None
    )


def _implemented(trainer: pl.Trainer, name: str) -> tuple[list[Callable], Callable | None]:
    """The callbacks' hooks of this name, and the task's, where they are not the empty ones."""
    callbacks = [
        getattr(callback, name)
        for callback in trainer.callbacks  # type: ignore[attr-defined]
        if getattr(type(callback), name) is not getattr(pl.Callback, name) and not _idle(callback, name)
    ]
    task = trainer.lightning_module
    return callbacks, None if getattr(type(task), name) is getattr(pl.LightningModule, name) else getattr(task, name)


def _idle(callback: pl.Callback, name: str) -> bool:
    """Whether a checkpoint callback saves by epochs alone and has nothing to do after a batch."""
    return (
        type(callback) is ModelCheckpoint
        and name == "on_train_batch_end"
        and callback._every_n_train_steps < 1
        and callback._train_time_interval is None
    )


def _on_device(batch: Any, device: torch.device) -> bool:
    """Whether a batch of tensors is where the step needs it."""
    return isinstance(batch, tuple | list) and all(isinstance(b, torch.Tensor) and b.device == device for b in batch)
