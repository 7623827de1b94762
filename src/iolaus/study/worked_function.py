"""One function of two numbers whose gradient is known, differentiated in every way. Baydin and others, https://arxiv.org/abs/1502.05767."""

import math
from collections.abc import Callable

import torch
from torch.func import jacfwd

from iolaus.exhibits import Curves, Exhibit, Table
from iolaus.gradient.base import Estimator
from iolaus.gradient.finite_difference import FiniteDifference
from iolaus.gradient.forward import Forward
from iolaus.gradient.reverse import Reverse
from iolaus.gradient.spsa import SPSA
from iolaus.gradient.two_point import TwoPoint
from iolaus.study.base import Function, Study, slope

DIRECTIONS = [2**k for k in range(13)]
STEPS = [10.0 ** (-k / 2) for k in range(1, 31)]


def function(w: torch.Tensor) -> torch.Tensor:
    """w2 log w1 + sqrt(w2 log w1) of a vector (w1, w2)."""
    product = w[1] * w[0].log()
    return product + product.sqrt()


def closed_form(w: torch.Tensor) -> torch.Tensor:
    """Its gradient: (w2 / w1, log w1), each times 1 + 1 / (2 sqrt(w2 log w1))."""
    outer = 1 + 0.5 / (w[1] * w[0].log()).sqrt()
    return torch.stack([w[1] / w[0], w[0].log()]) * outer


class WorkedFunction(Study):
    """L(w1, w2) = w2 log w1 + sqrt(w2 log w1): its gradient by every mode beside the closed form.

    Reverse mode and finite differences give it at once. Forward mode and two points give it along random directions, and their mean over k
    directions is off by an amount that falls as 1 / sqrt(k). A finite difference is best where its own error, of order eps^2,
    meets rounding, of order u / eps.

    Args:
        w1: above 1, so that the root is real.
        w2: above 0.
        seed: of the directions.

    Raises:
        ValueError: for a point where the function has no real gradient.
    """

    def __init__(self, w1: float = 2.0, w2: float = 3.0, seed: int = 0):
        super().__init__(seed)
        if w1 <= 1 or w2 <= 0:
            raise ValueError(f"w1 must be above 1 and w2 above 0, or the root has no gradient; received {w1} and {w2}")
        self.point = torch.tensor([w1, w2], dtype=torch.float64)

    def run(self) -> dict[str, Exhibit]:
        exact = closed_form(self.point)
        count, size = DIRECTIONS[-1], exact.norm().item()
        exactly: dict[str, torch.Tensor] = {
            "closed form": exact,
            "reverse": Function(function, self.point).gradient(Reverse()),
            "forward, along each axis": jacfwd(function)(self.point),
            "finite differences": Function(function, self.point).gradient(FiniteDifference()),
        }
        random: dict[str, tuple[Estimator, int]] = {
            "forward": (Forward(count, chunk_size=count, seed=self.seed), 2 + 1),
            "two_point": (TwoPoint(count, seed=self.seed), 2 - 1),
            "spsa": (SPSA(count, seed=self.seed), 2 - 1),
        }
        rows = [self._row(name, found, exact, "0") for name, found in exactly.items()]
        for name, (estimator, factor) in random.items():
            found = Function(function, self.point).gradient(estimator)
            rows.append(
                self._row(f"{name}, {count:,} directions", found, exact, f"{size * math.sqrt(factor / count):.1e}")
            )
        return {
            "gradients": Table(
                ["mode", "dL/dw1", "dL/dw2", "distance to the closed form", "expected of random directions"],
                rows,
                f"L = w2 log w1 + sqrt(w2 log w1) at w1 = {self.point[0]:g}, w2 = {self.point[1]:g}",
            ),
            "directions": self._directions(exact),
            "steps": self._steps(exact),
        }

    def _row(self, name: str, found: torch.Tensor, exact: torch.Tensor, expected: str) -> list[str]:
        error = (found - exact).norm().item()
        self.values[f"error of {name}"] = error
        return [name, *(f"{x:.8f}" for x in found.tolist()), f"{error:.1e}", expected]

    def _directions(self, exact: torch.Tensor, repeats: int = 16) -> Curves:
        """The root of the mean squared error of means over more and more directions."""
        modes: dict[str, Callable[[int], Forward | TwoPoint]] = {
            "forward, normal": lambda k: Forward(k, chunk_size=k, seed=self.seed),
            "two_point, sphere": lambda k: TwoPoint(k, seed=self.seed),
        }
        counts = DIRECTIONS[:9]
        curves: dict[str, list[float]] = {}
        for name, make in modes.items():
            module = Function(function, self.point)
            squares = [
                sum((module.gradient(make(k), n) - exact).square().sum().item() for n in range(repeats)) / repeats
                for k in counts
            ]
            curves[name] = [math.sqrt(s) for s in squares]
            self.values[f"power of {name.partition(',')[0]}"] = slope(counts, curves[name])
        size = exact.norm().item()
        curves["|g| sqrt((d + 1) / k)"] = [size * math.sqrt(3 / k) for k in counts]
        curves["|g| sqrt((d - 1) / k)"] = [size * math.sqrt(1 / k) for k in counts]
        return Curves(
            counts, curves, ("directions k", "error"), "the mean over k directions, and what theory says", "xy"
        )

    def _steps(self, exact: torch.Tensor) -> Curves:
        """The error of finite differences by the step, in double and single precision."""
        curves = {}
        for dtype in (torch.float64, torch.float32):
            w = self.point.to(dtype)
            moves = [eps * torch.eye(2, dtype=dtype) for eps in STEPS]
            differences = [[function(w + m) - function(w - m) for m in move] for move in moves]
            found = torch.tensor(
                [[float(d) / (2 * eps) for d in row] for row, eps in zip(differences, STEPS, strict=True)],
                dtype=torch.float64,
            )
            curves[str(dtype).removeprefix("torch.")] = (found - exact).norm(dim=1).clamp_min(1e-16)
        return Curves(STEPS, curves, ("eps", "error"), "finite differences: too large a step, too small a step", "xy")
