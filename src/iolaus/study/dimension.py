"""How slowly a descent goes that knows the gradient along random directions alone. Nesterov and Spokoiny, https://doi.org/10.1007/s10208-015-9296-2."""

from collections.abc import Sequence

import torch

from iolaus.exhibits import Curves, Exhibit, Table
from iolaus.gradient.forward import Forward
from iolaus.gradient.reverse import Reverse
from iolaus.gradient.two_point import TwoPoint
from iolaus.study.base import Function, Study, followed, several, slope

GOAL = 0.01  # of the loss at the start


class Dimension(Study):
    """Descent on L(w) = |w|^2 / 2 in n dimensions until a hundredth of the loss at the start is left.

    A step along one random direction with the best fixed rate, 1 / (n + 2) for normal tangents and 1 / n on the sphere, takes a share
    1 / (n + 2) or 1 / n of the loss away on average: n times as many steps as by the gradient, which needs one. After k steps
    what is left of a convex function is of order n / k in place of 1 / k: the curse of dimension.

    Args:
        dimensions: n.
        repeats: descents, of which the median is taken.
        seed: of starts and directions.
    """

    def __init__(self, dimensions: Sequence[int] = (8, 16, 32, 64, 128, 256), repeats: int = 5, seed: int = 0):
        super().__init__(seed)
        self.dimensions = several(dimensions, "dimensions")
        self.repeats = repeats

    def run(self) -> dict[str, Exhibit]:
        steps: dict[str, list[float]] = {"reverse": [], "forward": [], "two_point": []}
        courses: dict[str, list[float]] = {}
        for n in followed(self.dimensions, "dimensions"):
            for name, found in steps.items():
                descents = [self._descend(name, n, repeat) for repeat in range(self.repeats)]
                found.append(float(torch.tensor([len(d) - 1.0 for d in descents]).median()))
                if name == "two_point":
                    courses[f"n = {n}"] = descents[0]
        for name, found in steps.items():
            self.values[f"power of n, {name}"] = slope(self.dimensions, found)
        most = max(len(course) for course in courses.values())
        padded = {name: course + [float("nan")] * (most - len(course)) for name, course in courses.items()}
        return {
            "dimension": Curves(
                self.dimensions,
                steps | {"n ln 100": [n * 4.6 for n in self.dimensions]},
                ("dimensions n", "steps to a hundredth of the loss"),
                "the curse of dimension",
                "xy",
            ),
            "descent": Curves(
                range(most), padded, ("step", "loss"), "descent by two points along random directions", "y"
            ),
            "steps": Table(
                ["dimensions", *steps],
                [[str(n), *(f"{v:g}" for v in row)] for n, *row in zip(self.dimensions, *steps.values(), strict=True)],
                "Steps until a hundredth of the loss is left, medians.",
            ),
        }

    def _descend(self, name: str, n: int, repeat: int) -> list[float]:
        """The losses of a descent, from the start to the goal."""
        generator = torch.Generator().manual_seed(1_000 * self.seed + repeat)
        start = torch.randn(n, dtype=torch.float64, generator=generator)
        module = Function(lambda w: 0.5 * w.square().sum(), start / start.norm())
        estimator, rate = {
            "reverse": (Reverse(), 1.0),
            "forward": (Forward(seed=repeat), 1 / (n + 2)),
            "two_point": (TwoPoint(seed=repeat), 1 / n),
        }[name]
        losses = [0.5]
        while losses[-1] > GOAL * losses[0] and len(losses) < 100 * n:
            gradient = module.gradient(estimator, len(losses))
            with torch.no_grad():
                module.w.sub_(rate * gradient)
            losses.append(0.5 * module.w.detach().square().sum().item())
        return losses
