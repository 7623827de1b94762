"""One small batch through model, loss and gradient before the first epoch: what cannot work is told by its setting."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from iolaus import ranks
from iolaus.build import Run, steps_per_epoch
from iolaus.errors import UserError
from iolaus.gradient.reverse import Reverse
from iolaus.schedule_ends import schedule_ends, training_end
from iolaus.small_batch import SAMPLES, failure
from iolaus.strategy.ddp import DataParallel
from iolaus.undisturbed import undisturbed

log = logging.getLogger("iolaus")


def preflight(run: Run) -> None:
    """Try a batch; weights, buffers and random state are left as they were.

    Raises:
        UserError: for shapes that do not fit, losses or inputs that are not finite, an objective that is never logged.
    """
    _check_objective(run)
    loader = run.data.train_dataloader()
    if len(loader) == 0:
        raise UserError("data: the train split has no batch")
    _check_batches(run, len(loader))
    _check_schedule(run)
    batch = [part[:SAMPLES] for part in next(iter(loader))]
    task = run.task
    _check_single_sample(run, batch)
    try:
        with undisturbed(task, "train"):
            run.trainer.prepare(task, *batch[:-1])
            _try(run, [part.to(task.device) for part in batch])
    finally:
        task.train_scores.reset()


def _check_objective(run: Run) -> None:
    monitor = run.config["objective"]["monitor"]
    if monitor.endswith("/val") and "val" not in run.data.datasets:
        raise UserError(
            f"objective.monitor: {monitor} is not logged, the data have no validation split; "
            "set data.val_fraction=0.1 or objective.monitor=loss/train"
        )
    if monitor.endswith("/val") and run.config["trainer"].get("limit_val_batches") == 0:
        raise UserError(
            f"objective.monitor: {monitor} is not logged with trainer.limit_val_batches=0; set objective.monitor=loss/train"
        )


def _check_batches(run: Run, batches: int) -> None:
    interval = run.config["trainer"].get("val_check_interval")
    if (
        isinstance(interval, int)
        and interval > batches
        and run.config["trainer"].get("check_val_every_n_epoch") is not None
    ):
        raise UserError(
            f"trainer.val_check_interval: {interval} batches, and an epoch has {batches}; set fewer, or a share such as 0.5"
        )
    rows = len(run.data.rows["train"])
    if run.data.batch_size > rows:
        log.info(
            "data.batch_size: %d is more than the %d training rows, so an epoch is one step", run.data.batch_size, rows
        )


def _check_schedule(run: Run) -> None:
    """Refuse a schedule that raises before the training ends, and warn of one that ends before."""
    node, trainer = run.config.get("scheduler") or {}, run.config["trainer"]
    interval = node.get("_interval_", "epoch")
    last = training_end(trainer, interval, steps_per_epoch(run.data, trainer))
    for end in schedule_ends(node):
        if last is not None and end.at < last:
            text = f"{end.key}: the schedule ends after {end.at} {interval}s, and the training after {last}; set {end.moved_to(last)}"
            if end.is_strict:
                raise UserError(text)
            log.warning("%s to let it last as long", text)


def _check_single_sample(run: Run, batch: list[Any]) -> None:
    """Refuse batches of one sample that only their size makes impossible, as with batch norm."""
    if len(batch[0]) > 1 or (reason := failure(run.task, batch, run.config)) is None:
        return
    if failure(run.task, [torch.cat([part, part]) for part in batch], run.config) is None:
        is_one = run.data.batch_size == 1
        cause = "data.batch_size: received 1, and" if is_one else f"data: the train split has {_rows(run)}, and"
        advice = "set data.batch_size=2 or more" if is_one else "give it more rows"
        raise UserError(f"{cause} the model cannot be trained on a batch of one sample ({reason}); {advice}")


def _rows(run: Run) -> str:
    rows, world = len(run.data.rows["train"]), run.data.share[1]
    return f"{rows} row{'s' if rows > 1 else ''}" + (f" for {world} processes" if world > 1 else "")


def _try(run: Run, batch: list[Any]) -> None:
    *others, target = batch
    inputs = others[0]
    if inputs.is_floating_point() and not inputs.isfinite().all():
        raise UserError("data: an input of the first batch is NaN or infinite")
    model = run.config["model"]["_target_"].rpartition(".")[2]
    with _told(f"model: {model} cannot take a batch of the data, inputs {list(inputs.shape)}"):
        output = run.task(*others)
    _check_output(run, model, output, target)
    shapes = [list(part.shape) for part in tree_leaves(output)]
    shown = shapes[0] if len(shapes) == 1 else shapes
    with _told(f"loss: it cannot take outputs {shown} and targets {list(target.shape)} {target.dtype}"):
        loss, output, target = run.task.step(batch)
    if loss.ndim != 0:
        raise UserError(f"loss.reduction: the loss must be one number; received shape {list(loss.shape)}")
    if not loss.isfinite():
        raise UserError(
            f"loss: {loss.item()} on the first batch, before any training; look for extreme values in the data"
        )
    if not isinstance(run.task.gradient, Reverse):
        loss = _estimated(run, batch)
    if not loss.requires_grad:
        raise UserError("model: the loss depends on no parameter that can be trained")
    loss.backward()
    if isinstance(run.trainer.strategy, DataParallel):
        run.trainer.strategy.look_for_unused(run.task)
    for name, parameter in run.task.named_parameters():
        grad = parameter.grad
        if grad is not None and not (grad.coalesce().values() if grad.is_sparse else grad).isfinite().all():
            raise UserError(f"model: the gradient of {name} is not finite on the first batch")
    with _told(f"metrics: they cannot take outputs {shown} and targets {list(target.shape)}"):
        run.task.train_scores.add(loss, output, target, run.task.size(target))
        run.task.train_scores.compute()


def _estimated(run: Run, batch: list[Any]) -> torch.Tensor:
    """The loss with an estimated gradient, in the run's precision."""
    task = run.task
    if run.config["model"].get("activation_checkpointing", "none") != "none":
        log.warning("model.activation_checkpointing: has no effect, this gradient keeps nothing of the forward pass")
    name = run.config["gradient"]["_target_"].rpartition(".")[2]
    with (
        _told(
            f"gradient: {name} cannot evaluate this model and loss; try gradient=two_point, which needs no derivative, or reverse"
        ),
        run.trainer.precision_plugin.forward_context(),
    ):
        return task.gradient(task, task.step, batch, (0, 0))[0]


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Errors of torch as the user's: what did not fit, and torch's reason."""
    try:
        yield
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        if ranks.is_of_connection(error):
            raise
        reason = " ".join(str(error).split()).partition(" Please file an issue")[0]
        raise UserError(f"{what}:\n{reason[:300]}") from error


def _check_output(run: Run, model: str, output: torch.Tensor, target: torch.Tensor) -> None:
    if run.data.target_kind == "real" and output.shape != target.shape:
        raise UserError(
            f"model.output_dim: {model} gives {list(output.shape)} for targets {list(target.shape)}; the shapes must be equal"
        )
    if run.data.target_kind == "class" and tuple(output.shape) != (len(target), run.data.num_classes):
        raise UserError(
            f"model.output_dim: {model} gives {list(output.shape)} for {len(target)} samples of {run.data.num_classes} classes"
        )
