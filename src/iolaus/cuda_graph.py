"""A training step as one CUDA graph: recorded from a batch, replayed for each that has its shapes. https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs."""

import logging
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_map

from iolaus.errors import UserError
from iolaus.gradient.base import Evaluation

log = logging.getLogger("iolaus")

WARM_UP = 3  # steps taken kernel by kernel before one is recorded: libraries choose their algorithms, optimizers make their state


class GraphedStep:
    """Takes training steps by replaying one that was recorded: the kernels are those of steps taken one by one.

    A smaller batch than the largest so far, such as an epoch's last one, is taken kernel by kernel, and so are the steps before the
    recording. The recording is made anew when weights, buffers or the optimizer's state lie elsewhere, or when a module's mode, what
    is trained or one of the optimizer's settings has changed. Learning rates may change with each step: the optimizer reads them from
    the device, as float32.

    Args:
        step: takes a whole step with a batch, from the forward pass to the optimizer's step, and gives loss, output and target.
        module: what is trained, on a GPU.
        optimizer: which must be fused or have `capturable`.
    """

    def __init__(self, step: Callable[[Any], Evaluation], module: nn.Module, optimizer: Optimizer):
        self._step = step
        self._module = module
        self._optimizer = optimizer
        self._trained = [p for group in optimizer.param_groups for p in group["params"]]
        device = self._trained[0].device
        self._rates = [torch.zeros((), device=device) for _ in optimizer.param_groups]
        self._written: list[float] = []  # the rates that `_rates` hold
        self.replays = 0  # steps taken so
        self._waits = WARM_UP
        self._graph: Any = None
        self._replay: Callable[[], None] | None = None
        self._holds_for: list[Any] = []  # where all that the recording touches lies, and what it takes for constant
        self._settings: list[Any] = []
        self._shapes: list[Any] = []  # of the batches that it is for, the largest so far
        self._largest = -1
        self._own_gradients = False  # whether parameters have the recording's gradients
        for state in optimizer.state.values():
            if isinstance(state.get("step"), torch.Tensor):
                state["step"] = state["step"].to(device)
        # it would warn of each step that is taken without a graph
        optimizer._warned_capturable_if_run_uncaptured = True

    def look(self) -> None:
        """See whether the recording still holds: before an epoch, and after anything that may have moved or changed what is trained."""
        self._own_gradients = False
        now = (self._constants(), settings_of(self._optimizer))
        if self._replay is not None and (self._holds_for, self._settings) != now:
            self._replay, self._waits = None, WARM_UP

    def __call__(self, batch: tuple[torch.Tensor, ...]) -> Evaluation:
        """Loss, output and target of a batch, with which a step has been taken.

        Raises:
            UserError: for a step that cannot be recorded.
        """
        self._write_rates()
        if self._replay is not None and self._settings != (now := settings_of(self._optimizer)):
            changed = {
                key for old, new in zip(self._settings, now, strict=True) for key in new if old.get(key) != new[key]
            }
            log.warning(
                "trainer.cuda_graphs: %s of the optimizer changes from step to step, which a recording cannot follow (learning rates "
                "it can): steps are taken one by one from here on%s",
                ", ".join(sorted(changed)),
                "; scheduler.cycle_momentum=false leaves it" if changed <= {"betas", "momentum"} else "",
            )
            self._replay, self._waits = None, sys.maxsize
        shapes = [(part.shape, part.dtype) for part in batch]
        if shapes != self._shapes and batch[0].numel() > self._largest:
            self._shapes, self._largest = shapes, batch[0].numel()
            self._replay = None
        if shapes != self._shapes or (self._replay is None and self._waits > 0):
            self._waits -= 1
            return self._taken(batch)
        if self._replay is None:
            self._record(batch)
        for held, part in zip(self._inputs, batch, strict=True):
            held.copy_(part)
        if not self._own_gradients:
            for parameter, gradient in zip(self._trained, self._gradients, strict=True):
                parameter.grad = gradient
            self._own_gradients = True
        assert self._replay is not None
        self._replay()
        self.replays += 1
        return tree_map(torch.clone, self._outputs)

    def _taken(self, batch: tuple[torch.Tensor, ...]) -> Evaluation:
        """A step with new gradients: a recording of it writes them anew too, and adds nothing to those of the last replay."""
        self._own_gradients = False
        self._optimizer.zero_grad()
        with self._rates_on_device():
            return tree_map(torch.detach, self._step(batch))

    def _record(self, batch: tuple[torch.Tensor, ...]) -> None:
        """Record a step; nothing is computed yet."""
        # What the last recording held goes first, so that this one can have its memory; the last graph keeps the pool alive.
        self._outputs: Any = None
        self._gradients: list[torch.Tensor | None] = []
        self._inputs = tuple(part.clone() for part in batch)
        name, drawn = type(self._module).__name__, _drawn_on_host()

        def step() -> None:
            self._outputs = self._taken(self._inputs)

        try:
            self._graph, self._replay = recorded(step, self._graph)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            first = next((line for line in str(error.__context__ or error).splitlines() if line.strip()), "")
            raise UserError(
                f"trainer.cuda_graphs: a step of {name} cannot be recorded, as where it waits for the GPU: {first}; "
                "set trainer.cuda_graphs=false"
            ) from error
        if _drawn_on_host() != drawn:
            raise UserError(
                f"trainer.cuda_graphs: a step of {name} draws random numbers outside the GPU, and a recording would repeat them; "
                "set trainer.cuda_graphs=false"
            )
        self._gradients = [parameter.grad for parameter in self._trained]
        self._holds_for, self._settings = self._constants(), settings_of(self._optimizer)

    def _constants(self) -> list[Any]:
        state = [part for values in self._optimizer.state.values() for part in values.values()]
        return [
            [(p.data_ptr(), p.requires_grad) for p in self._module.parameters()],
            [buffer.data_ptr() for buffer in self._module.buffers()],
            [module.training for module in self._module.modules()],
            [part.data_ptr() for part in state if isinstance(part, torch.Tensor)],
        ]

    def _write_rates(self) -> None:
        rates = [float(group["lr"]) for group in self._optimizer.param_groups]
        if rates != self._written:
            for held, rate in zip(self._rates, rates, strict=True):
                held.fill_(rate)
            self._written = rates

    @contextmanager
    def _rates_on_device(self) -> Iterator[None]:
        """Let the optimizer read its rates from the device; outside they are the numbers that schedules, logs and checkpoints know."""
        groups = self._optimizer.param_groups
        before: list[dict[str, Any]] = [
            {key: group[key] for key in ("lr", "capturable") if key in group} for group in groups
        ]
        for group, rate in zip(groups, self._rates, strict=True):
            group["lr"] = rate
            if "capturable" in group:
                group["capturable"] = True
        try:
            yield
        finally:
            for group, values in zip(groups, before, strict=True):
                group.update(values)


def recorded(
    step: Callable[[], None], last: torch.cuda.CUDAGraph | None
) -> tuple[torch.cuda.CUDAGraph, Callable[[], None]]:
    """A graph of what a function launches on the GPU, in the memory of the last one, and what replays it."""
    graph = torch.cuda.CUDAGraph()
    with (
        torch.cuda.stream(torch.cuda.current_stream()),  # which a recording that fails does not go back to
        torch.cuda.graph(graph, pool=last.pool() if last is not None else None, capture_error_mode="thread_local"),
    ):
        step()
    return graph, graph.replay


def has_graphs(device: torch.device) -> bool:
    """Whether steps on a device can be recorded."""
    return device.type == "cuda"


def settings_of(optimizer: Optimizer) -> list[dict[str, Any]]:
    """All that an optimizer is told besides parameters and rates."""
    apart = ("params", "lr", "initial_lr")
    return [{key: value for key, value in group.items() if key not in apart} for group in optimizer.param_groups]


def can_be_recorded(optimizer: Optimizer) -> bool:
    """Whether an optimizer keeps all that changes from step to step on the device."""
    return all("capturable" in group or group.get("fused") for group in optimizer.param_groups)


def _drawn_on_host() -> tuple[Any, ...]:
    """The state of the generators of Python, NumPy and torch on the processor."""
    return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()
