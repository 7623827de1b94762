"""Where a step's gradient comes from: an estimate enters through autograd, so that whatever follows a backward pass goes on as it is."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, ClassVar

import torch
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map

from iolaus import random_state
from iolaus.functional.keys import mix

Evaluation = tuple[torch.Tensor, Any, torch.Tensor]  # loss, output and target
Step = Callable[[Any], Evaluation]  # of a batch; it changes nothing but buffers
Tensors = dict[str, torch.Tensor]  # parameters by name, or something for each

log = logging.getLogger("iolaus")


class Estimator(ABC):
    """Estimates the gradient of a step's loss from values of the loss alone, without a backward pass.

    The loss that is returned has the estimate as its gradient: `loss.backward()` adds it, times whatever the loss is multiplied by, to
    each parameter's `grad`. So accumulation, clipping, loss scaling, optimizers with closures, hooks and checkpoints need not know.

    Every evaluation of a step draws the same random numbers, those a single evaluation would have drawn, and begins with the same
    buffers; what the first one leaves in them (the statistics of batch norms) stays. Directions depend on (seed, position, rank)
    alone: a resumed run draws the same, and no state need be kept.

    Args:
        seed: of the directions.
    """

    math_attention: ClassVar[bool] = False  # fused attention has neither forward mode nor batches of weights

    def __init__(self, seed: int = 0):
        self.seed = seed

    def __call__(self, module: nn.Module, step: Step, batch: Any, position: tuple[int, ...]) -> Evaluation:
        """Loss, whose backward pass hands out the estimate; output and target of the first evaluation.

        Args:
            module: whose parameters the gradient is of.
            step: computes the loss with these parameters.
            batch: what the step takes.
            position: numbers that tell this step and batch from others.
        """
        evaluations = Evaluations(module, step, batch, position)
        parameters = evaluations.parameters
        device = next(iter(parameters.values())).device
        generator = torch.Generator(device).manual_seed(mix(self.seed, *position, _rank()))
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH) if self.math_attention else nullcontext():
            loss, gradient = self.estimate(evaluations, generator)
        loss = Injected.apply(loss, [gradient[name] for name in parameters], *parameters.values())
        return loss, evaluations.output, evaluations.target

    @abstractmethod
    def estimate(self, evaluations: "Evaluations", generator: torch.Generator) -> tuple[torch.Tensor, Tensors]:
        """The loss, 0-d, and an estimate of its gradient by parameter; gradients are off."""

    @abstractmethod
    def evaluations(self, num_parameters: int) -> int:
        """How often the loss is evaluated in a step."""


class Injected(torch.autograd.Function):
    """A number with a gradient of one's own: its value is the loss, its backward pass the gradient times what arrives."""

    @staticmethod
    def forward(ctx: Any, loss: torch.Tensor, gradient: list[torch.Tensor], *parameters: torch.Tensor) -> torch.Tensor:
        """The loss."""
        ctx.gradient = gradient
        return loss.detach().clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> Any:
        """The gradient of each parameter."""
        return (None, None, *((part * upstream).to(part.dtype) for part in ctx.gradient))


class Evaluations:
    """One batch's step as a function of the parameters.

    Args:
        module: whose trainable parameters are varied.
        step, batch, position: see Estimator.
    """

    output: Any
    target: torch.Tensor

    def __init__(self, module: nn.Module, step: Step, batch: Any, position: tuple[int, ...]):
        self.position = position
        self.parameters: Tensors = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.size = sum(p.numel() for p in self.parameters.values())
        self.module = module
        self.dtype = _working_dtype(next(iter(self.parameters.values())))
        self._call = _Call(module, step)
        self._batch = batch
        self._buffers = dict(module.named_buffers())
        self._before = {name: buffer.clone() for name, buffer in self._buffers.items()}
        self._device = next(iter(self.parameters.values())).device
        self._random = random_state.capture_torch(self._device)

    def first(self, parameters: Tensors) -> torch.Tensor:
        """The loss, whose output, target and buffers are those that stay."""
        loss, output, target, buffers = self._evaluate(parameters)
        self.output, self.target = tree_map(_primal, (output, target))
        for name, buffer in self._buffers.items():
            buffer.copy_(_primal(buffers[name]))
        return loss

    def again(self, parameters: Tensors) -> torch.Tensor:
        """The loss with other parameters and the same random numbers."""
        random_state.restore_torch(self._random, self._device)
        return self._evaluate(parameters)[0]

    def _evaluate(self, parameters: Tensors) -> tuple[torch.Tensor, Any, torch.Tensor, Tensors]:
        buffers = {name: buffer.clone() for name, buffer in self._before.items()}
        given = {f"module.{name}": value for name, value in (parameters | buffers).items()}
        return *functional_call(self._call, given, (self._batch,)), buffers


class _Call(nn.Module):
    """A module's step as the forward pass that `functional_call` calls."""

    def __init__(self, module: nn.Module, step: Step):
        super().__init__()
        self.module = module
        self._step = step

    def forward(self, batch: Any) -> Evaluation:
        return self._step(batch)


def together(
    evaluate: Callable[[], tuple[torch.Tensor, torch.Tensor]], loss: torch.Tensor, what: str
) -> torch.Tensor | None:
    """What a vectorised evaluation gives; None, and a line, where it cannot be done, or its losses are not that of a single one.

    Args:
        evaluate: gives losses, which should all be `loss` but for rounding, and the result.
        loss: of a single evaluation.
        what: is done one by one from now on, for the line.
    """
    try:
        losses, result = evaluate()
    except RuntimeError as error:  # as of batch norms that keep statistics
        reason = " ".join(str(error).split())[:150]
    else:
        tolerance = torch.finfo(loss.dtype).eps ** (2 / 3) * max(1.0, loss.abs().item())
        if (losses - loss).abs().max() <= tolerance:
            return result
        reason = "evaluated together the model draws other random numbers"
    log.info("%s one by one: %s", what, reason)
    return None


def _primal(value: Any) -> Any:
    """A tensor without the tangent that it may carry."""
    return forward_ad.unpack_dual(value).primal if isinstance(value, torch.Tensor) else value


def _working_dtype(parameter: torch.Tensor) -> torch.dtype:
    """The type that matrix products are computed in."""
    kind = parameter.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else parameter.dtype


def _rank() -> int:
    """The number of this process among those that train together, each of which draws directions of its own."""
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_rank() if together else 0
