"""A study: a question about derivatives that is answered by figures and needs no training."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from iolaus.exhibits import Exhibit
from iolaus.gradient.base import Evaluation

Item = TypeVar("Item")


class Study(ABC):
    """Computes what there is to see; the report draws it. Numbers that sum it up are gathered in `values`.

    Args:
        seed: of what is drawn at random.
    """

    def __init__(self, seed: int = 0):
        self.seed = seed
        self.values: dict[str, float] = {}

    @abstractmethod
    def run(self) -> dict[str, Exhibit]:
        """Figures and tables by name."""


class Function(nn.Module):
    """A function of one vector as a module with a step, as estimators of gradients take it; it counts evaluations.

    Args:
        function: of the vector, (d,), to a number.
        start: the vector, (d,).
    """

    def __init__(self, function: Any, start: torch.Tensor):
        super().__init__()
        self.function = function
        self.w = nn.Parameter(start.clone())
        self.count = 0

    def step(self, batch: Any = None) -> Evaluation:
        """The value, thrice: a function has neither outputs nor targets."""
        self.count += 1
        value = self.function(self.w)
        return value, value, value

    def gradient(self, estimator: Any, number: int = 0) -> torch.Tensor:
        """The gradient at the vector by an estimator, (d,); `number` tells repetitions apart."""
        self.w.grad = None
        estimator(self, self.step, None, (number, 0))[0].backward()
        assert self.w.grad is not None
        return self.w.grad


def several(numbers: Sequence[int], name: str) -> list[int]:
    """The sizes that a study compares.

    Raises:
        ValueError: for fewer than two, or one below 1.
    """
    if len(numbers) < 2 or min(numbers) < 1:
        raise ValueError(f"{name} must be two whole numbers or more, each at least 1; received {list(numbers)}")
    return list(numbers)


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """The power p of y ~ x^p, fitted by least squares to the logarithms."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def followed(items: Iterable[Item], what: str) -> Iterable[Item]:
    """Items with a progress bar that appears after two seconds, on a terminal only."""
    from tqdm import tqdm

    return tqdm(items, desc=what, delay=2, leave=False, disable=None)
