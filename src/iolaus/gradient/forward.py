"""The gradient by forward mode along random tangents. Baydin and others, https://arxiv.org/abs/2202.08587."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import nn
from torch.autograd import forward_ad
from torch.func import jvp, vmap

from iolaus.gradient.base import Estimator, Evaluations, Tensors, together
from iolaus.gradient.directions import direction


class Forward(Estimator):
    """The mean over K tangents v of (g . v) v, where the product of the gradient g with v is exact and comes with the loss.

    Unbiased. With d parameters its squared error about g is on average (d + 1) / K |g|^2 for `normal`, and (d - 1) / K |g|^2 for
    `sphere` and `rademacher`. It costs K evaluations with a tangent, each of about two without, and keeps nothing of the forward pass.

    Args:
        num_tangents: K.
        distribution: of the tangents: sphere, normal or rademacher.
        chunk_size: tangents after the first that are evaluated together, where the model allows it; each needs the memory of one
            evaluation.
        seed: of the tangents.
    """

    math_attention = True

    def __init__(
        self,
        num_tangents: int = 1,
        distribution: Literal["sphere", "normal", "rademacher"] = "normal",
        chunk_size: int = 16,
        seed: int = 0,
    ):
        super().__init__(seed)
        self.num_tangents = num_tangents
        self.distribution = distribution
        self.chunk_size = chunk_size
        self._one_by_one = False

    def evaluations(self, num_parameters: int) -> int:
        return self.num_tangents

    def estimate(self, evaluations: Evaluations, generator: torch.Generator) -> tuple[torch.Tensor, Tensors]:
        parameters = evaluations.parameters
        tangents = [direction(parameters, generator, self.distribution) for _ in range(self.num_tangents)]
        with _without_fused_recurrence(evaluations.module):
            loss, slope = _along(evaluations, tangents[0], is_first=True)
            slopes = torch.cat([slope[None], *self._rest(evaluations, tangents[1:], loss)])
        gradient = {
            name: torch.tensordot(slopes.to(p.dtype), torch.stack([v[name] for v in tangents]), 1) / self.num_tangents
            for name, p in parameters.items()
        }
        return loss, gradient

    def _rest(self, evaluations: Evaluations, tangents: list[Tensors], loss: torch.Tensor) -> list[torch.Tensor]:
        """Slopes along the tangents after the first."""
        slopes = []
        for start in range(0, len(tangents), self.chunk_size):
            chunk = tangents[start : start + self.chunk_size]
            if not self._one_by_one and (found := self._together(evaluations, chunk, loss)) is not None:
                slopes.append(found)
            else:
                slopes += [_along(evaluations, v)[1][None] for v in chunk]
        return slopes

    def _together(self, evaluations: Evaluations, tangents: list[Tensors], loss: torch.Tensor) -> torch.Tensor | None:
        """Slopes along several tangents, from one vectorised evaluation; None where that does not give the same loss."""
        stacked = {name: torch.stack([v[name] for v in tangents]) for name in evaluations.parameters}

        def along(tangent: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
            loss, slope = jvp(evaluations.again, (evaluations.parameters,), (tangent,))  # type: ignore[misc]
            return loss, slope

        slopes = together(
            lambda: vmap(along, randomness="same")(stacked), loss, "gradient=forward: tangents are evaluated"
        )
        self._one_by_one = slopes is None
        return slopes


def _along(evaluations: Evaluations, tangent: Tensors, is_first: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss and its slope along a tangent."""
    evaluate = evaluations.first if is_first else evaluations.again
    with forward_ad.dual_level():
        loss, slope = forward_ad.unpack_dual(
            evaluate({name: forward_ad.make_dual(p, tangent[name]) for name, p in evaluations.parameters.items()})
        )
    return loss, torch.zeros_like(loss) if slope is None else slope


def _without_fused_recurrence(module: nn.Module) -> AbstractContextManager:
    """On a processor the fused LSTM knows no tangents; the plain one does."""
    has_lstm = any(isinstance(part, nn.LSTM) for part in module.modules())
    return torch.backends.mkldnn.flags(enabled=False) if has_lstm else nullcontext()
