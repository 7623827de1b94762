"""The gradient by reverse mode, which is exact and costs a few evaluations for any number of parameters. https://arxiv.org/abs/1502.05767."""

from typing import Any

from torch import nn

from iolaus.gradient.base import Evaluation, Step


class Reverse:
    """The step as it is: its loss knows its gradient."""

    def __call__(self, module: nn.Module, step: Step, batch: Any, position: tuple[int, ...]) -> Evaluation:
        """Loss, output and target."""
        return step(batch)
