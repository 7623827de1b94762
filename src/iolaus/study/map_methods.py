"""One map by every method, with gradients of every kind and without: multidimensional scaling. Kruskal, https://doi.org/10.1007/BF02289565."""

import functools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from iolaus.data.distances import CITIES, haversine
from iolaus.exhibits import Curves, Exhibit, Points, Table
from iolaus.gradient.finite_difference import FiniteDifference
from iolaus.gradient.forward import Forward
from iolaus.gradient.reverse import Reverse
from iolaus.gradient.two_point import TwoPoint
from iolaus.study.base import Function, Study, followed
from iolaus.task.scaling import classical, smacof_map, stresses

GRID = np.geomspace(1, 2e4, 120)  # evaluations at which the courses are drawn
Course = list[tuple[int, float]]  # evaluations so far, and the loss


class MapMethods(Study):
    """L(W) = sum (||W_i - W_j||^2 - D_ij^2)^2 over pairs of cities, from small random maps, by first-order, zeroth-order and other methods.

    Two criteria are told, the root of each over its sum of targets: that of squared distances, which L is, and that of distances, which
    SMACOF minimises. Each method wins its own. A method that draws at random, or may end in a worse map, is begun several times.

    Args:
        num_points: cities, the first of the list.
        dim: of the map.
        repeats: starts; the median and the worst are told.
        seed: of starts and directions.

    Raises:
        ValueError: for more cities than there are, or too few for a map.
    """

    def __init__(self, num_points: int = 20, dim: int = 2, repeats: int = 3, seed: int = 0):
        super().__init__(seed)
        if not 3 <= num_points <= len(CITIES):
            raise ValueError(f"num_points must be between 3 and the {len(CITIES)} cities; received {num_points}")
        self.names = list(CITIES)[:num_points]
        places = torch.tensor([CITIES[name] for name in self.names], dtype=torch.float64)
        self.given = haversine(places[:, None], places[None]).numpy()
        self.dim, self.repeats = dim, repeats
        squares = torch.from_numpy(self.given**2)
        self._scale = float(squares.mean())
        rows, columns = np.triu_indices(num_points, 1)
        self._rows, self._columns = torch.from_numpy(rows), torch.from_numpy(columns)
        self._target = squares[self._rows, self._columns] / self._scale

    def loss(self, w: torch.Tensor) -> torch.Tensor:
        """L of a map in a row, (N d,), in units of the mean square: the square of the first criterion."""
        points = w.unflatten(0, (-1, self.dim))
        found = (points[self._rows] - points[self._columns]).square().sum(-1)
        return (found - self._target).square().sum() / self._target.square().sum()

    def run(self) -> dict[str, Exhibit]:
        methods = self._methods()
        rows, courses, maps = [], {}, {}
        for name, method in followed(methods.items(), "methods"):
            found = []
            for repeat in range(self.repeats):
                start_s = time.process_time()
                w, course = method(repeat)
                points = w.reshape(-1, self.dim) * self._scale**0.5
                found.append((*stresses(self.given, points), course[-1][0], time.process_time() - start_s))
                if repeat == 0:
                    courses[name], maps[name] = _on_grid(course), points
            square, plain, evaluations, spent_s = np.median(found, 0)
            worst = max(f[0] for f in found)
            rows.append(
                [name, f"{square:.5f}", f"{worst:.5f}", f"{plain:.5f}", f"{evaluations:,.0f}", f"{spent_s:.2f}"]
            )
            self.values[f"squared distances, {name}"] = float(square)
            self.values[f"distances, {name}"] = float(plain)
        columns = [
            "method",
            "stress of squared distances",
            "the worst",
            "stress of distances",
            "evaluations",
            "seconds",
        ]
        best = min(maps, key=lambda name: stresses(self.given, maps[name])[0])
        return {
            "methods": Table(columns, rows, f"{len(self.names)} cities by air; medians of {self.repeats} starts."),
            "courses": Curves(GRID, courses, ("evaluations of the loss", "loss"), "one map by every method", "xy"),
            "map": Points(maps[best] - maps[best].mean(0), f"the best map, by {best}, in km", self.names),
        }

    def _methods(self) -> dict[str, Callable[[int], tuple[np.ndarray, Course]]]:
        """Each from the number of a start to a map and its course."""
        first = {
            "reverse, Adam": (Reverse(), 500, 0.1),
            "finite differences, Adam": (FiniteDifference(), 300, 0.1),
            "forward, Adam": (Forward(), 4_000, 0.03),  # what is drawn at random wants smaller steps
            "two_point, Adam": (TwoPoint(), 4_000, 0.03),
        }
        adam = {name: functools.partial(self._adam, *settings) for name, settings in first.items()}
        scipy = {name: functools.partial(self._without_gradient, name) for name in ("Powell", "Nelder-Mead")}
        return {
            **adam,
            "reverse, L-BFGS": self._lbfgs,
            **scipy,
            "SMACOF": self._smacof,
            "classical scaling": self._classical,
        }

    def _start(self, repeat: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(1_000 * self.seed + repeat)
        return 0.1 * torch.randn(len(self.names) * self.dim, dtype=torch.float64, generator=generator)

    def _adam(self, estimator: Any, steps: int, lr: float, repeat: int) -> tuple[np.ndarray, Course]:
        """Adam with half a cosine from the rate to nothing."""
        module = Function(self.loss, self._start(repeat))
        optimizer = torch.optim.Adam(module.parameters(), lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        price = 1 if isinstance(estimator, Reverse) else estimator.evaluations(module.w.numel())
        course = []
        for number in range(steps):
            module.w.grad = None
            loss, _, _ = estimator(module, module.step, None, (1_000_000 * repeat + number, 0))
            loss.backward()
            course.append((price * (number + 1), loss.item()))
            optimizer.step()
            schedule.step()
        return module.w.detach().numpy(), course

    def _lbfgs(self, repeat: int) -> tuple[np.ndarray, Course]:
        module = Function(self.loss, self._start(repeat))
        optimizer = torch.optim.LBFGS(
            module.parameters(), max_iter=200, line_search_fn="strong_wolfe", tolerance_change=1e-14
        )
        course: Course = []

        def closure() -> float:
            optimizer.zero_grad()
            loss = module.step()[0]
            loss.backward()
            course.append((module.count, loss.item()))
            return loss.item()

        optimizer.step(closure)
        return module.w.detach().numpy(), course

    def _without_gradient(self, method: str, repeat: int) -> tuple[np.ndarray, Course]:
        from scipy.optimize import minimize

        course: Course = []

        def loss(w: np.ndarray) -> float:
            value = self.loss(torch.from_numpy(w)).item()
            course.append((len(course) + 1, value))
            return value

        options = {"maxfev": 20_000} | ({"adaptive": True} if method == "Nelder-Mead" else {})
        found = minimize(loss, self._start(repeat).numpy(), method=method, options=options)
        return found.x, course

    def _smacof(self, repeat: int) -> tuple[np.ndarray, Course]:
        """From the classical solution; it evaluates no L."""
        points = smacof_map(self.given, self.dim, max_iter=1_000) / self._scale**0.5
        return points, [(0, self.loss(torch.from_numpy(points.reshape(-1))).item())]

    def _classical(self, repeat: int) -> tuple[np.ndarray, Course]:
        points = classical(self.given, self.dim) / self._scale**0.5
        return points, [(0, self.loss(torch.from_numpy(points.reshape(-1))).item())]


def _on_grid(course: Course) -> np.ndarray:
    """The least loss so far at the grid's numbers of evaluations; NaN before the first and after the last, where there are evaluations."""
    evaluations, losses = np.array(course).T
    least = np.minimum.accumulate(losses)
    places = np.searchsorted(evaluations, GRID, side="right") - 1
    values = np.where(places >= 0, least[places.clip(0)], np.nan)
    return np.where((1.2 * evaluations[-1] >= GRID) | (evaluations[-1] == 0), values, np.nan)
