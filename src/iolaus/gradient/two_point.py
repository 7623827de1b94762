"""The gradient by two evaluations on either side, along random directions. Duchi and others, https://arxiv.org/abs/1312.2139."""

from typing import Literal

import torch

from iolaus.gradient.base import Estimator, Evaluations, Tensors
from iolaus.gradient.directions import central_differences, step_length


class TwoPoint(Estimator):
    """The mean over K directions of d (L(w + eps u) - L(w - eps u)) / (2 eps) u, with u of unit length; the loss is the mean of both sides.

    Unbiased but for terms of order eps^2. With d parameters its squared error about the gradient g is on average (d - 1) / K |g|^2 for
    `sphere` and `rademacher`, and (d + 1) / K |g|^2 for `normal`. It costs 2 K evaluations. Nothing needs a derivative: a loss
    may be one that has none.

    Args:
        num_directions: K.
        distribution: of the directions: sphere, normal or rademacher.
        eps: the distance to either side, a length in parameter space, for any distribution; None: by the precision.
        seed: of the directions.
    """

    def __init__(
        self,
        num_directions: int = 1,
        distribution: Literal["sphere", "normal", "rademacher"] = "sphere",
        eps: float | None = None,
        seed: int = 0,
    ):
        super().__init__(seed)
        self.num_directions = num_directions
        self.distribution = distribution
        self.eps = eps
        self._step: float | None = None

    def evaluations(self, num_parameters: int) -> int:
        return 2 * self.num_directions

    def estimate(self, evaluations: Evaluations, generator: torch.Generator) -> tuple[torch.Tensor, Tensors]:
        if self._step is None:
            self._step = step_length(self.eps, evaluations.dtype)
        width = self._step / evaluations.size**0.5  # directions have the length sqrt(d)
        return central_differences(evaluations, generator, self.num_directions, self.distribution, width)
