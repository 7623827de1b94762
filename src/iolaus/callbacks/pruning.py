"""The end of trials that promise little, while they run. https://optuna.readthedocs.io/en/stable/reference/pruners.html."""

import json
import os
import warnings
from typing import Any

import pytorch_lightning as pl

from iolaus.errors import Pruned
from iolaus.sweep.jobs import TRIAL


class Pruning(pl.Callback):
    """Reports the objective of each epoch to the study that this run is a trial of, and ends the run when its pruner says so.

    A search adds it to its jobs; in a run of its own it does nothing. The epoch is finished first, so nothing of it is lost. Of several
    processes that train together the first asks, and all end.

    Args:
        monitor: the value that is reported; None: the study's objective.
    """

    def __init__(self, monitor: str | None = None):
        self.monitor = monitor
        self._trial: Any = None
        self._reason: str | None = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if told := os.environ.get(TRIAL):
            self.monitor = self.monitor or json.loads(told)["monitor"]
            if trainer.is_global_zero:
                self._trial = _trial(json.loads(told))

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._is_of_training and trainer.current_epoch > 0:  # whose values of an epoch are logged at its very end
            self._report(trainer, trainer.current_epoch - 1)
        if self._reason is not None:
            raise Pruned(self._reason)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self._is_of_training:
            self._report(trainer, trainer.current_epoch)

    @property
    def _is_of_training(self) -> bool:
        return (self.monitor or "").endswith("/train")

    def _report(self, trainer: pl.Trainer, epoch: int) -> None:
        """Report the value of an epoch; note where the pruner ends the trial for it."""
        value = trainer.callback_metrics.get(self.monitor or "")
        is_pruned = False
        if self._trial is not None and value is not None and not trainer.sanity_checking:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of an epoch that is reported again after a resume
                self._trial.report(float(value), epoch)
            is_pruned = self._trial.should_prune()
        if trainer.strategy.broadcast(is_pruned):
            self._reason = f"pruned after epoch {epoch + 1}: {self.monitor} was {float(value or 0):.6g}"


def _trial(told: dict[str, Any]) -> Any:
    """This run's trial, with the study's pruner, which no storage keeps."""
    import optuna

    from iolaus.sweep.search import PRUNERS, made, open_storage

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    pruner = made(optuna.pruners, PRUNERS, "pruner", told["pruner"])
    study = optuna.load_study(study_name=told["study"], storage=open_storage(told["storage"]), pruner=pruner)
    return optuna.trial.Trial(study, study.get_trials(deepcopy=False)[told["number"]]._trial_id)
