"""Training steps outside of a fit, after which it is as if nothing had happened."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch.optim import LBFGS, Optimizer

from iolaus.build import Run
from iolaus.init_from import take_weights
from iolaus.undisturbed import undisturbed

Batch = list[torch.Tensor]


class Trial:
    """Steps as a run would take them: its gradient, precision, accumulation, clipping and optimizer, without its schedule.

    Use as a context manager. A trial begins with the weights that a fit would begin with and draws the random numbers that follow; at its
    end weights, buffers, gradients, modes and all random numbers to come are what they were, bit for bit, on the device where they
    were. Nothing is logged and no scores are gathered.

    Args:
        run: built, and not trained yet.
    """

    optimizer: Optimizer

    def __init__(self, run: Run):
        self.run = run
        self.task = run.task
        self.device = run.trainer.strategy.root_device
        self.accumulate = int(run.config["trainer"].get("accumulate_grad_batches") or 1)
        self._count = 0

    def __enter__(self) -> Self:
        task, config = self.task, self.run.config
        self._before = task.device
        # on the processor, where it takes nothing of what a GPU has
        self._weights = [(p, p.detach().to("cpu", copy=True), p.requires_grad) for p in task.parameters()]
        self._stack = ExitStack()
        self._stack.enter_context(undisturbed(task, "train"))
        try:
            if config.get("init_from"):
                take_weights(task.model, Path(config["init_from"]), config["init_partial"])
            task.to(self.device)
            self.optimizer = task.new_optimizer()
            task.freeze_norms()
        except BaseException:
            self._put_back()
            raise
        scaler = getattr(self.run.trainer.precision_plugin, "scaler", None)
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=scaler is not None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        del self.optimizer  # and its state, before there is none to move back
        self._put_back()

    def _put_back(self) -> None:
        with torch.no_grad():
            for parameter, content, is_trained in self._weights:
                parameter.copy_(content)
                parameter.requires_grad_(is_trained)
                parameter.grad = None
        self.task.to(self._before)
        self._stack.close()

    def batches(self) -> Iterator[Batch]:
        """The batches of the first epoch, on the device, again and again."""
        loader = self.run.data.train_dataloader()
        convert = self.run.trainer.precision_plugin.convert_input
        for batch in itertools.chain.from_iterable(itertools.repeat(loader)):
            yield [part.to(self.device) for part in convert(list(batch))]

    def step(self, batches: Sequence[Batch]) -> float:
        """One step of the optimizer over as many batches as are accumulated; the loss before it.

        A loss that is not finite is not followed.
        """
        if isinstance(
            self.optimizer, LBFGS
        ):  # which evaluates the batches as often as it likes; the first value counts
            losses: list[float] = []

            def closure() -> float:
                losses.append(self._evaluate(batches))
                return losses[-1]

            self.optimizer.step(closure)
            self._count += 1
            return losses[0]
        loss = self._evaluate(batches)
        if loss == loss and abs(loss) != float("inf"):
            self._scaler.step(self.optimizer)
            self._scaler.update()
        self._count += 1
        return loss

    def _evaluate(self, batches: Sequence[Batch]) -> float:
        """The mean loss of the batches, whose gradient is left for the optimizer."""
        trainer = self.run.config["trainer"]
        self.optimizer.zero_grad()
        losses = []
        for number, batch in enumerate(batches):
            with self.run.trainer.precision_plugin.forward_context():
                loss, _, _ = self.task.gradient(self.task, self.task.step, batch, (self._count, number))
            self._scaler.scale(loss / len(batches)).backward()
            losses.append(loss.detach())
        if trainer.get("gradient_clip_val"):
            self._scaler.unscale_(self.optimizer)
            clip: Callable[..., Any] = torch.nn.utils.clip_grad_norm_
            if trainer.get("gradient_clip_algorithm") == "value":
                clip = torch.nn.utils.clip_grad_value_
            clip([p for group in self.optimizer.param_groups for p in group["params"]], trainer["gradient_clip_val"])
        return float(torch.stack(losses).mean())
