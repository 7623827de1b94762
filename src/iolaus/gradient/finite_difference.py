"""The gradient by central differences of every parameter. https://en.wikipedia.org/wiki/Finite_difference."""

import torch
from torch.func import vmap

from iolaus.gradient.base import Estimator, Evaluations, Tensors, together
from iolaus.gradient.directions import step_length


class FiniteDifference(Estimator):
    """(L(w + eps e_i) - L(w - eps e_i)) / (2 eps) for every parameter i; the loss is that at w.

    The error is of order eps^2. It costs 2 d + 1 evaluations with d parameters: a check of other gradients, and for small networks.

    Parameters are moved in chunks that are evaluated together (torch.func.vmap) where that gives the loss that one evaluation gives.
    It does not with batch norms that keep statistics, with recurrent layers, and where dropout draws another mask then; those
    models are evaluated one by one.

    Args:
        eps: the step of each parameter; None: the third root of the machine epsilon, 6e-6 in double and 5e-3 in single precision.
        chunk_size: parameters that are moved together; each takes the memory of two evaluations.
    """

    math_attention = True

    def __init__(self, eps: float | None = None, chunk_size: int = 64):
        super().__init__()
        self.eps = eps
        self.chunk_size = chunk_size
        self._step: float | None = None
        self._together = False

    def evaluations(self, num_parameters: int) -> int:
        return 2 * num_parameters + 1

    def estimate(self, evaluations: Evaluations, generator: torch.Generator) -> tuple[torch.Tensor, Tensors]:
        loss = evaluations.first(evaluations.parameters)
        if self._step is None:
            self._step = step_length(self.eps, evaluations.dtype, factor=1.0)
            self._together = _can_be_together(evaluations, loss)
        return loss, {name: self._differences(evaluations, name, self._step) for name in evaluations.parameters}

    def _differences(self, evaluations: Evaluations, name: str, eps: float) -> torch.Tensor:
        """The derivatives by one tensor of parameters."""
        parameter = evaluations.parameters[name]
        flat = parameter.reshape(1, -1)
        found = []
        for places in torch.arange(parameter.numel(), device=parameter.device).split(self.chunk_size):
            moves = torch.zeros(len(places), parameter.numel(), dtype=parameter.dtype, device=parameter.device)
            moves[torch.arange(len(places)), places] = eps
            moved = torch.cat([flat + moves, flat - moves]).unflatten(1, parameter.shape)
            above, below = _losses(evaluations, name, moved, self._together).chunk(2)
            found.append((above - below) / (2 * eps))
        return torch.cat(found).to(parameter.dtype).view_as(parameter)


def _losses(evaluations: Evaluations, name: str, values: torch.Tensor, at_once: bool) -> torch.Tensor:
    """The loss for each of several values of one parameter tensor: (n, *shape) to (n,)."""

    def loss(value: torch.Tensor) -> torch.Tensor:
        return evaluations.again(evaluations.parameters | {name: value})

    return vmap(loss, randomness="same")(values) if at_once else torch.stack([loss(value) for value in values])


def _can_be_together(evaluations: Evaluations, loss: torch.Tensor) -> bool:
    """Whether losses that are evaluated together are those of single evaluations."""
    name, parameter = next(iter(evaluations.parameters.items()))

    def evaluate() -> tuple[torch.Tensor, torch.Tensor]:
        losses = _losses(evaluations, name, torch.stack([parameter, parameter]), at_once=True)
        return losses, losses

    return together(evaluate, loss, "gradient=finite_difference: parameters are moved") is not None
