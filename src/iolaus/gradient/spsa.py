"""Simultaneous perturbation stochastic approximation. Spall, IEEE Transactions on Automatic Control 37(3), 1992, https://doi.org/10.1109/9.119632."""

import torch

from iolaus.gradient.base import Estimator, Evaluations, Tensors
from iolaus.gradient.directions import central_differences, step_length


class SPSA(Estimator):
    """Every parameter is moved at once, by c_k up or down: (L(w + c_k v) - L(w - c_k v)) / (2 c_k v_i) for each i, with v_i 1 or -1.

    c_k = eps / (k + 1)^gamma shrinks with the optimizer's steps k, and with it the bias, of order c_k^2. The squared error about the
    gradient g is on average (d - 1) / K |g|^2 with d parameters and K directions; it costs 2 K evaluations. Spall's gains go with
    `optim=sgd` and a rate that falls; his guidance is https://www.jhuapl.edu/spsa/.

    Args:
        num_directions: K, of which the mean is taken.
        eps: c_0, the step of each parameter; None: by the precision and d.
        gamma: the power by which steps shrink; 0: they do not.
        seed: of the directions.
    """

    def __init__(self, num_directions: int = 1, eps: float | None = None, gamma: float = 0.101, seed: int = 0):
        super().__init__(seed)
        self.num_directions = num_directions
        self.eps = eps
        self.gamma = gamma
        self._step: float | None = None

    def evaluations(self, num_parameters: int) -> int:
        return 2 * self.num_directions

    def estimate(self, evaluations: Evaluations, generator: torch.Generator) -> tuple[torch.Tensor, Tensors]:
        if self._step is None:
            self._step = step_length(self.eps, evaluations.dtype, unit=evaluations.size**0.5)
        width = self._step / (evaluations.position[0] + 1) ** self.gamma
        return central_differences(evaluations, generator, self.num_directions, "rademacher", width)
