"""A schedule whose length a resumed run has changed: from here on as it would have been from the start."""

from typing import Any

import pytorch_lightning as pl

from iolaus.callbacks.go_back import GoBack, scale_rates
from iolaus.task.base import Task

LENGTHS = ("T_max", "total_iters", "total_steps", "_milestones")
MOVED = ("lr", "initial_lr", "max_lr", "min_lr", "momentum", "betas", "base_momentum", "max_momentum")


def apply_lengths(trainer: pl.Trainer, task: Task) -> None:
    """Bring schedule and rates to where a schedule of the settings' length stands by now, where the restored one has another length."""
    if task.make_schedule is None or not trainer.lr_scheduler_configs:
        return
    optimizer = task.new_optimizer()  # of the same weights, which it never moves
    schedule: Any = task.make_schedule(optimizer)
    restored = trainer.lr_scheduler_configs[0].scheduler
    if _lengths(schedule) == _lengths(restored):
        return
    for _ in range(trainer.fit_loop.epoch_loop.scheduler_progress.total.completed):
        schedule.step()
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, GoBack):
            scale_rates(optimizer, schedule, callback.factor**callback.applied)
    for group, moved in zip(trainer.optimizers[0].param_groups, optimizer.param_groups, strict=True):
        group.update({key: moved[key] for key in MOVED if key in moved and key in group})
    restored.load_state_dict(schedule.state_dict())


def _lengths(schedule: Any) -> list[Any]:
    """The lengths of a schedule and of those it is made of."""
    own = [getattr(schedule, name, None) for name in LENGTHS]
    return own + [_lengths(part) for part in getattr(schedule, "_schedulers", [])]
