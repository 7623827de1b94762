"""Averages of the weights over training: equal (SWA) or exponential (EMA). Izmailov and others, https://arxiv.org/abs/1803.05407."""

import logging
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn

from iolaus.task.base import BATCH_NORMS

log = logging.getLogger("iolaus")


class Averaging(WeightAveraging):
    """Keeps an average beside the weights; validation, checkpoints and test use it from its start on, and the weights until then.

    With decay d the average becomes d a + (1 - d) w at each update; without, it is the mean of all w so far. It is updated before
    the validation that ends an epoch, so the last epoch counts. Where the model has batch norms, their statistics are estimated
    anew for the averaged weights before each validation.

    Args:
        decay: of the exponential average; None: the equal one.
        every: whether it is updated after each `step` or each `epoch`.
        start: epochs before the averaging begins; below 1 a share of trainer.max_epochs.
        update_bn_batches: training batches that batch norms are estimated from; None: all of them; 0: their statistics are averaged
            like the weights.
    """

    def __init__(
        self, decay: float | None, every: Literal["step", "epoch"], start: float, update_bn_batches: int | None
    ):
        super().__init__(**({} if decay is None else {"multi_avg_fn": get_ema_multi_avg_fn(decay)}))
        self.every = every
        self.start = start
        self.update_bn_batches = update_bn_batches

    @property
    def has_begun(self) -> bool:
        """Whether there is an average: before its first update Lightning's holds the untrained weights."""
        return self._average_model is not None and int(self._average_model.n_averaged) > 0

    def first_epoch(self, trainer: pl.Trainer) -> int:
        """The first epoch that counts, from 0."""
        epochs = trainer.max_epochs if trainer.max_epochs is not None and trainer.max_epochs > 0 else 0
        return int(self.start * epochs) if self.start < 1 else int(self.start)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        due = self.every == "step" or trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if (
            due
            and trainer.current_epoch >= self.first_epoch(trainer)
            and trainer.global_step > self._latest_update_step
        ):
            assert self._average_model is not None
            self._average_model.update_parameters(pl_module)
            self._latest_update_step = trainer.global_step

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The update of the epoch was made before its validation."""

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_validation_epoch_start(trainer, pl_module)
        if self.has_begun and trainer.state.fn == "fit" and self.update_bn_batches != 0:
            _update_batch_norms(trainer, pl_module, self.update_bn_batches)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.has_begun:
            log.warning(
                "the averaging never began: the run ended after %d epochs, and callbacks' `start` is %d; the weights are kept as they are",
                trainer.current_epoch,
                self.first_epoch(trainer),
            )
        super().on_train_end(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self._average_model is not None and not self.has_begun:
            checkpoint["state_dict"] = checkpoint["current_model_state"]

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.state.fn == "fit":  # a test takes the averaged weights, which are the checkpoint's own
            super().on_load_checkpoint(trainer, pl_module, checkpoint)

    def _swap_models(self, pl_module: pl.LightningModule) -> None:
        if self.has_begun:
            super()._swap_models(pl_module)

    def _copy_average_to_current(self, pl_module: pl.LightningModule) -> None:
        if self.has_begun:
            super()._copy_average_to_current(pl_module)


@torch.no_grad()
def _update_batch_norms(trainer: pl.Trainer, task: pl.LightningModule, batches: int | None) -> None:
    """Mean and variance of each batch norm over training batches, for the weights as they are; modes and random state are kept."""
    norms = [
        module
        for module in task.modules()
        if isinstance(module, BATCH_NORMS) and (not module.affine or module.weight.requires_grad)
    ]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    modes = {module: module.training for module in task.modules()}
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over batches
        norm.train()
    with torch.random.fork_rng():
        for number, batch in enumerate(trainer.datamodule.train_dataloader()):  # type: ignore[attr-defined]
            if number == batches:
                break
            task(*trainer.strategy.batch_to_device(trainer.precision_plugin.convert_input(batch))[:-1])
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    for module, mode in modes.items():
        module.training = mode
