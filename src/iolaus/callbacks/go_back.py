"""After a divergence: back to the last resume point, with a lower learning rate."""

from typing import Any

import pytorch_lightning as pl


class GoBack(pl.Callback):
    """Says how often, and with what rate, a run that diverged goes on from its last resume point (from its beginning where there is none).

    Args:
        retries: how often in one run.
        factor: that the learning rates of the point are multiplied with, each time.
    """

    def __init__(self, retries: int = 3, factor: float = 0.1):
        self.retries = retries
        self.factor = factor
        self.times = 0  # gone back so far
        self.applied = 0  # times whose factor the rates contain already

    def state_dict(self) -> dict[str, int]:
        return {"times": self.times}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.applied = state_dict["times"]
        self.times = max(self.times, self.applied)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        factor = self.factor ** (self.times - self.applied)
        self.applied = self.times
        schedules: list[Any] = [config.scheduler for config in trainer.lr_scheduler_configs] or [None]
        for optimizer in trainer.optimizers:
            scale_rates(optimizer, schedules[0], factor)


def scale_rates(optimizer: Any, schedule: Any, factor: float) -> None:
    """Multiply the rates of an optimizer's groups, and those that its schedule remembers."""
    for group in optimizer.param_groups:
        for key in ("lr", "initial_lr", "max_lr", "min_lr"):
            if key in group:
                group[key] = group[key] * factor
    _scale(schedule, factor)


def _scale(scheduler: Any, factor: float) -> None:
    """Multiply the rates that a schedule remembers, and those of the schedules it is made of."""
    for name in ("base_lrs", "_last_lr"):
        if hasattr(scheduler, name):
            setattr(scheduler, name, [rate * factor for rate in getattr(scheduler, name)])
    for part in getattr(scheduler, "_schedulers", []):
        _scale(part, factor)
