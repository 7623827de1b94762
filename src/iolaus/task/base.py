"""What every kind of training has in common: optimizer, schedule, metrics of each split, logging."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import Metric

from iolaus import ranks
from iolaus.divergence import diverged, not_finite
from iolaus.errors import UserError
from iolaus.exhibits import Exhibit
from iolaus.gradient.base import Estimator
from iolaus.gradient.reverse import Reverse
from iolaus.metrics.scores import Measured, Scores

BATCH_NORMS = nn.modules.batchnorm._BatchNorm
MOST_NUMBERS = 20  # of a metric's value, as of several tasks or classes, that are logged one by one
UNCHECKED = 50  # losses on a GPU that are looked at together


@dataclass(frozen=True)
class Graph:
    """What an exported graph of a task gives.

    Args:
        outputs: their names.
        use: how predictions are read off them, for whoever has the file alone.
        free: dimensions besides the batch that may have any size: of each input by name, the dimension's name by its number.
        most: the largest size of a free dimension by name, where there is one.
    """

    outputs: tuple[str, ...]
    use: str
    free: dict[str, dict[int, str]] = field(default_factory=dict)
    most: dict[str, int] = field(default_factory=dict)


class Task(pl.LightningModule, ABC):
    """One kind of training. A subclass says what a step computes and how outputs become predictions.

    Logged keys: `loss/<split>` and `<metric>/<split>` once an epoch, `loss/step` every `log_every_n_steps` steps.

    Args:
        model: the network.
        loss: takes the model's output and the target.
        metrics: for each split, metrics by name.
        optimizer: makes the optimizer from parameters by name.
        scheduler: makes the schedule from the optimizer, and Lightning's settings for it (interval, monitor); None: no schedule.
        gradient: where the gradient of a training step comes from; None: reverse mode.
    """

    rounds_inputs = False  # whether it turns batches of full precision to the model's own itself

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        metrics: dict[str, dict[str, Metric]],
        optimizer: Callable[[Iterable[tuple[str, nn.Parameter]]], Optimizer],
        scheduler: tuple[Callable[[Optimizer], LRScheduler], dict[str, Any]] | None = None,
        gradient: Reverse | Estimator | None = None,
    ):
        super().__init__()
        self.model = model
        self.loss = loss
        self.train_scores, self.val_scores, self.test_scores = (
            Scores(metrics[split], self.to_metrics, self.to_labels) for split in ("train", "val", "test")
        )
        self._optimizer = optimizer
        self._scheduler = scheduler
        self.gradient = gradient or Reverse()
        self._is_sharded = False
        self._scored = -1  # the batch whose scores were taken last
        self._unchecked: list[torch.Tensor] = []  # losses on a GPU that were not looked at yet
        self.pending_loss: tuple[int, torch.Tensor] | None = None  # step and loss that wait to be logged
        self.top: int | None = None  # of many classes, how many a prediction names; None: all
        self.figures: dict[str, Any] = {}  # values of the test that are not single numbers, by metric

    @abstractmethod
    def step(self, batch: Any) -> tuple[torch.Tensor, Any, torch.Tensor]:
        """Loss, a 0-d tensor; output of the model, (B, ...), or several in a tuple; target, (B, ...).

        Nothing is logged or gathered here: an estimate of the gradient evaluates a step several times.
        """

    def evaluate(self, batch: Any) -> tuple[torch.Tensor, Any, torch.Tensor]:
        """As `step`, for validation and test: a task whose predictions take more than one pass makes them here."""
        return self.step(batch)

    def to_preds(self, output: Any) -> Any:
        """Outputs as predictions in the target's own terms: probabilities, amounts, texts."""
        return output

    def to_metrics(self, output: Any, target: torch.Tensor) -> Measured:
        """What metrics are updated with: predictions, target, and more arguments by name for those that take them."""
        return self.to_preds(output), target, {}

    def to_labels(self, output: Any) -> torch.Tensor | None:
        """The likeliest classes, without the probabilities that `to_preds` gives; None for outputs that have no such."""
        return None

    def size(self, target: torch.Tensor) -> torch.Tensor | int:
        """Of how many things the loss of a batch is the mean."""
        return len(target)

    @abstractmethod
    def example(self, n: int) -> tuple[torch.Tensor, ...]:
        """A batch of n samples without content, inputs and then the target, for summaries, drawings and the count of memory."""

    def show(self, data: Any, split: str = "test") -> dict[str, Exhibit]:
        """What there is to look at, by name: after the test of that split, and while training of the validation's.

        `data` is the data module. Whatever is drawn at random is keyed by its seed.
        """
        return {}

    def predict(self, items: list[Any], data: Any) -> list[dict[str, Any]]:
        """Predictions for new items, as the data module's `new_items` reads them: a row of named values for each.

        Raises:
            UserError: where this kind of task has no predictions.
        """
        raise UserError(f"predict: {type(self).__name__} has no predictions for new data")

    def graph(self) -> Graph:
        """What an exported graph of `traceable` gives.

        Raises:
            UserError: where no graph has this kind of task's predictions.
        """
        raise UserError(
            f"--format: {type(self).__name__} says of no graph what it gives; --format safetensors writes the weights"
        )

    def traceable(self, *inputs: torch.Tensor) -> Any:
        """Predictions for the inputs of a batch as tensors, by operations that a graph can hold."""
        return self.to_preds(self(*inputs))

    def fit_statistics(self, statistics: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Take mean and deviation of the training split; a task that does not standardise has no use for them."""

    def configure_model(self) -> None:
        """Let a strategy that shards weights do so, once.

        Raises:
            UserError: for weights outside the model, which would not be shared.
        """
        strategy = self.trainer.strategy
        if not hasattr(strategy, "shard") or self._is_sharded:
            return
        if any(True for _ in self.loss.parameters()):
            raise UserError(
                f"trainer=fsdp: {type(self.loss).__name__} has weights of its own; take trainer=ddp, or another loss"
            )
        strategy.shard(self.model, self.device_mesh)
        self._is_sharded = True

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.take_in(*self.gradient(self, self.step, batch, (self.global_step, batch_idx)), batch_idx)

    def take_in(self, loss: torch.Tensor, output: Any, target: torch.Tensor, batch_idx: int) -> torch.Tensor:
        """Keep what a training step computed for scores and logs; the loss, scaled where processes average its gradients."""
        step = self.global_step
        if batch_idx == self._scored:  # an optimizer with a closure evaluates a batch several times; the first counts
            return loss
        self.__dict__["_scored"] = batch_idx  # past nn.Module's slow __setattr__
        size, is_spare = self.size(target), self._is_spare("train", batch_idx)
        if not is_spare:
            self.train_scores.add(self._in_all(loss), output, target, size)
        if step % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self.log_pending_loss()
            self.pending_loss = step, loss.detach()
        return loss if ranks.count() == 1 else self._of_all(loss, 0 if is_spare else size)

    def _is_spare(self, split: str, batch_idx: int) -> bool:
        """Whether a batch is there only to keep this process in step with the others."""
        return ranks.count() > 1 and self.trainer.datamodule.is_spare(split, batch_idx)  # type: ignore[attr-defined]

    @property
    def _is_sum(self) -> bool:
        """Whether the loss grows with the batch."""
        return getattr(self.loss, "reduction", "mean") == "sum"

    def _in_all(self, loss: torch.Tensor) -> torch.Tensor:
        """What the loss of a whole batch would be, by this process' part of it: a sum is as much larger as there are processes."""
        return loss * ranks.count() if self._is_sum and ranks.count() > 1 else loss

    def _of_all(self, loss: torch.Tensor, size: torch.Tensor | int) -> torch.Tensor:
        """The loss of this process' part of a batch, scaled so that the mean of all gradients is that of the whole batch's loss.

        Parts of one size need nothing, and all but an epoch's last have it; where a loss is the mean of something else than samples, or the
        batch is the last, the processes tell one another their sizes.
        """
        if self._is_sum:
            return loss * ranks.count()
        is_last = self.trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if isinstance(size, int) and not is_last:
            return loss
        total = torch.as_tensor(size, dtype=torch.float32, device=loss.device).clone()
        torch.distributed.all_reduce(total)
        return loss * (size * ranks.count() / total)

    def on_train_epoch_start(self) -> None:
        self._scored = -1
        self.freeze_norms()

    def freeze_norms(self) -> None:
        """The statistics of frozen batch norms are frozen too."""
        for module in self.modules():
            if isinstance(module, BATCH_NORMS) and module.affine and not module.weight.requires_grad:
                module.eval()

    def log_pending_loss(self) -> None:
        """Log `loss/step` of the last step that is due: later than the step itself, so that a GPU is not waited for."""
        if self.pending_loss is not None:
            (step, loss), self.pending_loss = self.pending_loss, None
            for logger in self.trainer.loggers:
                logger.log_metrics({"loss/step": loss.item()}, step)

    def on_before_backward(self, loss: torch.Tensor) -> None:
        """Stop before a step is taken with a loss that is not finite; on a GPU, which should not be waited for, look every 50 steps."""
        if loss.device.type == "cpu":
            if not math.isfinite(value := loss.item()):
                raise diverged(self.trainer, value, self.global_step)
            return
        self._unchecked.append(loss.detach())
        if len(self._unchecked) >= UNCHECKED:
            self._check_losses()

    def _check_losses(self) -> None:
        """Look at the losses that wait to be looked at."""
        losses, self._unchecked = self._unchecked, []
        if losses and not (finite := torch.stack(losses).isfinite()).all():
            first = int((~finite).nonzero()[0])
            raise diverged(self.trainer, losses[first].item(), self.global_step - len(losses) + 1 + first)

    def on_validation_start(self) -> None:
        """Nothing that is not finite is validated, and so kept as the best."""
        self._check_losses()
        if self.trainer.state.fn == "fit" and not_finite(self) is not None:
            raise diverged(self.trainer, None, self.global_step)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.score(self.val_scores, batch, self._is_spare("val", batch_idx))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.score(self.test_scores, batch, self._is_spare("test", batch_idx))

    def score(self, scores: Scores, batch: Any, is_spare: bool = False) -> tuple[Any, torch.Tensor]:
        """Evaluate a batch and keep it for a split's scores, unless it must not count; its output and target."""
        loss, output, target = self.evaluate(batch)
        if not is_spare:
            scores.add(self._in_all(loss), output, target, self.size(target))
        return output, target

    def on_train_epoch_end(self) -> None:
        self.log_pending_loss()
        self._check_losses()
        self._log_scores("train", self.train_scores)

    def on_validation_epoch_end(self) -> None:
        self._log_scores("val", self.val_scores)

    def on_test_epoch_end(self) -> None:
        self.figures = self._log_scores("test", self.test_scores)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse the weights of another model.

        Raises:
            UserError: with the first weight that differs.
        """
        if "state_dict" not in checkpoint:  # a strategy that shares weights has loaded them
            return
        own, saved = self.state_dict(), checkpoint["state_dict"]
        for name in sorted(own.keys() | saved.keys()):
            shapes = [list(state[name].shape) if name in state else "none" for state in (own, saved)]
            if shapes[0] != shapes[1]:
                raise UserError(
                    f"checkpoint: it is of another model: {name} has shape {shapes[1]} there, and {shapes[0]} in the model of "
                    "these settings"
                )

    def _log_scores(self, split: str, scores: Scores) -> dict[str, Any]:
        """Log the single numbers, and a few in a row as `<metric>_<number>`; return everything else."""
        values = scores.compute()
        scores.reset()
        single, others = single_numbers(values)
        self.log_dict({f"{name}/{split}": v.float() for name, v in single.items()})
        return others

    def new_optimizer(self) -> Optimizer:
        """An optimizer as a fit begins with, without its schedule."""
        return self._optimizer(self.named_parameters())

    def configure_optimizers(self) -> Any:
        optimizer = self.new_optimizer()
        if self._trainer is not None and self._trainer.gradient_clip_val:
            # Clipping needs unscaled gradients: a fused optimizer must not offer to unscale them inside its step.
            optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
        if self._scheduler is None:
            return optimizer
        make, settings = self._scheduler
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": make(optimizer), **settings}}

    @property
    def make_schedule(self) -> Callable[[Optimizer], LRScheduler] | None:
        """What makes the schedule of an optimizer; None without one."""
        return self._scheduler[0] if self._scheduler else None


def single_numbers(values: dict[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The values of metrics that are one number, or a few in a row, which become `<metric>_<number>`; and all others."""
    values = dict(values)
    for name, row in list(values.items()):
        if isinstance(row, torch.Tensor) and row.ndim == 1 and 1 < len(row) <= MOST_NUMBERS:
            values |= {f"{name}_{number}": value for number, value in enumerate(values.pop(name))}
    single = {name: v for name, v in values.items() if isinstance(v, torch.Tensor) and v.numel() == 1}
    return single, {name: v for name, v in values.items() if name not in single}
