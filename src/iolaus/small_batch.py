"""Find out whether the last, small batch of an epoch can be trained on, and join it to the batch before where it cannot."""

import logging
from typing import Any

import torch

from iolaus import ranks
from iolaus.data.base import DataModule
from iolaus.gradient.reverse import Reverse
from iolaus.optim.groups import parameter_groups
from iolaus.task.base import Task
from iolaus.undisturbed import undisturbed

log = logging.getLogger("iolaus")

SAMPLES = 8  # of a batch that is tried before the training


def join_small_batch(task: Task, data: DataModule, settings: dict[str, Any]) -> None:
    """Set `data.min_train_rows`, so that no batch of an epoch has too few samples for the model, as batch norm has it.

    The smallest batch is tried, not guessed from the layers. Where it works, or where the trainer never comes to it, batches stay
    as they are. Processes that train together decide together.

    Args:
        task: as it will be trained.
        data: set up.
        settings: resolved; those of the trainer and the optimizer count.
    """
    rows, world = len(data.rows["train"]), data.share[1]
    smallest = max(rows % (data.batch_size * world) // world, 1)
    is_small = rows % (data.batch_size * world) > 0 and smallest < min(data.batch_size, SAMPLES)
    if not is_small or data.num_train_batches < 2 or not _is_reached(data.num_train_batches, settings["trainer"]):
        return
    batch = [part[:SAMPLES] for part in next(iter(data.train_dataloader()))]
    seen = (
        smallest * world if settings["trainer"].get("sync_batchnorm") else smallest
    )  # norms see all processes' samples
    reason = failure(task, [part[:seen] for part in batch], settings)
    if reason is not None and failure(task, batch, settings) is not None:
        reason = None  # no batch works: the preflight says why
    reason = next((r for r in (ranks.gather(reason) if world > 1 else [reason]) if r is not None), None)
    if reason is None:
        return
    data.min_train_rows = smallest + 1
    log.info(
        "data.batch_size: %d training rows in batches of %d leave a last one of %d, which the model cannot be trained on (%s); "
        "it is joined to the batch before",
        rows,
        data.batch_size * world,
        rows % (data.batch_size * world),
        reason,
    )


def failure(task: Task, batch: list[torch.Tensor], settings: dict[str, Any]) -> str | None:
    """Try loss and gradient of a training batch; the reason where that fails, None where it works.

    Weights, buffers and random state are left as they were.
    """
    trained = {parameter: parameter.requires_grad for parameter in task.parameters()}
    try:
        with undisturbed(task, "train"):
            parameter_groups(task.named_parameters(), settings["optim"].get("_groups_") or {})
            task.freeze_norms()  # frozen norms take a batch of any size
            loss, _, _ = task.step([part.to(task.device) for part in batch])
            if not loss.isfinite():
                return f"the loss is {loss.item()}"
            if isinstance(task.gradient, Reverse):
                loss.backward()
                for name, parameter in task.named_parameters():
                    grad = parameter.grad
                    if grad is not None and not grad.is_sparse and not grad.isfinite().all():
                        return f"the gradient of {name} is not finite"
    except Exception as error:  # a model of the user's own fails in its own ways
        if ranks.is_of_connection(error):
            raise
        return " ".join(str(error).split())[:120] or type(error).__name__
    finally:
        for parameter, is_trained in trained.items():
            parameter.requires_grad_(is_trained)
    return None


def _is_reached(batches: int, trainer: dict[str, Any]) -> bool:
    """Whether an epoch comes to its last batch."""
    steps, dry_run = trainer.get("max_steps") or -1, int(trainer.get("fast_dev_run") or 0)
    if 0 < dry_run < batches or 0 < steps * (trainer.get("accumulate_grad_batches") or 1) < batches:
        return False
    return limit_batches(batches, trainer) == batches


def limit_batches(batches: int, trainer: dict[str, Any]) -> int:
    """Return how many of an epoch's batches the trainer's limits let through."""
    limit = trainer.get("overfit_batches") or trainer.get("limit_train_batches") or 1.0
    return min(batches, limit) if isinstance(limit, int) else int(batches * limit)
