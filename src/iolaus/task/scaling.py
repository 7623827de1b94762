"""Multidimensional scaling by gradient descent. Kruskal, Psychometrika 29, 1964; https://scikit-learn.org/stable/modules/manifold.html."""

import warnings
from typing import Any

import numpy as np
import torch
from torch import nn

from iolaus.errors import UserError
from iolaus.exhibits import Animation, Exhibit, Points, Table
from iolaus.task.base import Graph, Task

MOST_FRAMES = 60  # of the path that the map took
MOST_NAMES = 60  # that can be read beside points
MOST_PAIRS = 2_000  # of the Shepard diagram
AXES = "xyz"


class Scaling(Task):
    """Points are moved until the squares of their distances are the given ones.

    Squares are divided by their mean for the loss, and multiplied for the metrics, which are in the unit given. After the test the map is
    compared with that of scikit-learn's SMACOF, begun from classical scaling: `disparity/test` is the sum of squared differences after
    both were moved, rotated, mirrored and scaled onto each other (scipy.spatial.procrustes), 0 for the same map. SMACOF minimises
    another stress, sum (||W_i - W_j|| - D_ij)^2 of distances and not of their squares, which weighs large distances less; the two
    agree where distances can be drawn without fault. Elsewhere solutions of SMACOF itself lie apart: from random starts it finds maps of
    the digits whose stress is equal to four digits and whose disparity to one another is 0.18.

    Args:
        smacof_max_iter: iterations of SMACOF at most; 0: no comparison.
        parts: model, loss, metrics, optimizer and scheduler; see Task. The model's weight `points`, (N, d), is the map.

    Shape:
        batch: i (B,), j (B,) and D_ij^2 (B,). output: (B,).

    Raises:
        ValueError: for a model without `points`.
    """

    scale: torch.Tensor

    def __init__(self, smacof_max_iter: int = 300, **parts: Any):
        if not isinstance(getattr(parts["model"], "points", None), nn.Parameter):
            raise ValueError("the model must have a weight `points`, (N, d), which is the map; take model=points")
        super().__init__(**parts)
        self.smacof_max_iter = smacof_max_iter
        self.register_buffer("scale", torch.ones(()))  # the mean of the squares
        self._smacof: np.ndarray | None = None
        # The map before the first epoch, and after every so many.
        self._frames: list[torch.Tensor] = []
        self._every = 1

    def fit_statistics(self, statistics: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Take the mean of the squares."""
        self.scale.copy_(statistics["target"][1])

    def forward(self, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        """Squared distances on the map, in units of `scale`."""
        return self.model(i, j)

    def step(self, batch: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        i, j, target = batch
        output = self(i, j)
        return self.loss(output, target / self.scale), output, target

    def to_preds(self, output: torch.Tensor) -> torch.Tensor:
        return output * self.scale

    def example(self, n: int) -> tuple[torch.Tensor, ...]:
        point = torch.zeros(n, dtype=torch.int64, device=self.device)
        return point, point, torch.zeros(n, device=self.device)

    # the path of the map

    def on_train_start(self) -> None:
        if not self._frames:
            self._frames.append(self._points())

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        if (self.current_epoch + 1) % self._every == 0:
            self._frames.append(self._points())
        if len(self._frames) > MOST_FRAMES:
            self._frames, self._every = self._frames[::2], 2 * self._every

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self._frames:
            checkpoint["map_path"] = {"frames": torch.stack(self._frames), "every": self._every}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        if "map_path" in checkpoint:
            path = checkpoint["map_path"]
            self._frames, self._every = list(path["frames"]), path["every"]

    def _points(self) -> torch.Tensor:
        """The map as it is, on the processor."""
        return self.model.points.detach().cpu().clone()  # type: ignore[operator]

    # after the test

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        if self.smacof_max_iter:
            from scipy.spatial import procrustes

            given = self.trainer.datamodule.distances.numpy()  # type: ignore[attr-defined]
            own = self._points().double().numpy()
            self._smacof = smacof_map(given, own.shape[1], self.smacof_max_iter)
            self.log_dict({"disparity/test": torch.tensor(procrustes(self._smacof, own)[2], dtype=torch.float32)})

    def show(self, data: Any, split: str = "test") -> dict[str, Exhibit]:
        """The map, the path it took, its distances against the given ones, its coordinates, and its stress beside SMACOF's."""
        axes = self._axes()
        xy = axes.place(self._points())
        names = data.class_names if data.labels is not None else data.point_names
        if data.labels is None and len(data.point_names) > MOST_NAMES:
            names = None
        unit = f", in {data.unit}" if data.unit else ""
        given = data.distances.numpy()
        rows, columns = np.triu_indices(len(xy), 1)
        shuffled = torch.randperm(len(rows), generator=torch.Generator().manual_seed(data.seed))
        some = shuffled[:MOST_PAIRS].numpy()
        drawn = np.linalg.norm(xy[rows] - xy[columns], axis=1)
        pairs = np.stack([given[rows, columns], drawn], 1)[some]
        shown = f"{len(some):,} of {len(rows):,} pairs" if len(some) < len(rows) else "all pairs"
        frames = [axes.place(axes.turned(frame)) for frame in [*self._frames, self._points()]]
        titles = [f"epoch {k * self._every}" for k in range(len(self._frames))] + ["the map"]
        path = [Points(_plane(f), title, names, data.labels) for f, title in zip(frames, titles, strict=True)]
        return {
            "map": Points(
                _plane(xy), f"{len(xy)} points{unit}; any rotation or mirror image is as good", names, data.labels
            ),
            "path": Animation(path),
            "shepard": Points(pairs, f"distance on the map (up) against that given{unit}: {shown}"),
            "coordinates": Table(
                ["name", *axes.names],
                [[name, *(f"{x:.6g}" for x in row)] for name, row in zip(data.point_names, xy.tolist(), strict=True)],
            ),
            "stress": self._stresses(given, xy),
        }

    def _stresses(self, given: np.ndarray, xy: np.ndarray) -> Table:
        maps = {"this map": xy} | ({} if self._smacof is None else {"SMACOF": self._smacof})
        return Table(
            ["map", "stress of squared distances", "stress of distances"],
            [[name, *(f"{value:.6f}" for value in stresses(given, points))] for name, points in maps.items()],
            "sqrt(sum (p - t)^2 / sum t^2) over pairs; the training minimises the first, SMACOF the second.",
        )

    def _axes(self) -> "Axes":
        return Axes(self._points(), float(self.scale))

    def graph(self) -> Graph:
        """A map is its points; a new one is placed by a search.

        Raises:
            UserError: always.
        """
        raise UserError(
            "--format: a map of points has no graph, a new point is placed by a search; --format safetensors writes the points, and "
            "samples/coordinates.csv has them as a table"
        )

    @torch.no_grad()
    def predict(self, items: list[tuple[str, torch.Tensor]], data: Any) -> list[dict[str, Any]]:
        """New points, each placed where its own stress is least while the map stays as it is.

        Args:
            items: of each point its name and its distances (N,) to the points of the map.
            data: the data module.
        """
        points, scale, axes = self._points().double(), float(self.scale), self._axes()
        rows = []
        for name, distances in items:
            place, stress = placed(points, distances.double().square() / scale)
            rows.append({"name": name} | dict(zip(axes.names, axes.place(place[None])[0].tolist(), strict=True)))
            rows[-1]["stress"] = stress
        return rows


class Axes:
    """The frame that maps are shown in: about their middle, along their longest axes, in the unit of the distances.

    Args:
        points: the map, (N, d).
        scale: the square of its unit.
    """

    def __init__(self, points: torch.Tensor, scale: float):
        self.points = points.double()
        self.middle = self.points.mean(0)
        self.unit = scale**0.5
        self.directions = torch.linalg.svd(self.points - self.middle, full_matrices=True)[2].T
        dim = points.shape[1]
        self.names = list(AXES[:dim]) if dim <= len(AXES) else [f"x{k + 1}" for k in range(dim)]

    def place(self, points: torch.Tensor) -> np.ndarray:
        """Coordinates of points (K, d) in this frame."""
        return ((points.double() - self.middle) @ self.directions * self.unit).numpy()

    def turned(self, points: torch.Tensor) -> torch.Tensor:
        """An earlier map (N, d), moved and rotated onto this one (the orthogonal Procrustes problem), so that a path does not spin."""
        centred = points.double() - points.double().mean(0)
        left, _, right = torch.linalg.svd(centred.T @ (self.points - self.middle))
        return centred @ left @ right + self.middle


def _plane(xy: np.ndarray) -> np.ndarray:
    """The first two coordinates; of a line the second is 0."""
    return np.pad(xy, ((0, 0), (0, max(2 - xy.shape[1], 0))))[:, :2]


def smacof_map(distances: np.ndarray, dim: int, max_iter: int) -> np.ndarray:
    """scikit-learn's SMACOF, from the classical solution: (N, dim) for distances (N, N)."""
    from sklearn.manifold import smacof

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of arguments whose defaults are going to change
        start = classical(distances, dim)
        return smacof(distances, n_components=dim, init=start, n_init=1, max_iter=max_iter, normalized_stress=False)[0]


def classical(distances: np.ndarray, dim: int) -> np.ndarray:
    """Classical scaling: the leading eigenvectors of -1/2 J D^2 J, with J = I - 1/N, by the roots of their eigenvalues.

    Reference:
        Torgerson, Psychometrika 17, 1952.
    """
    squares = distances**2
    gram = -0.5 * (squares - squares.mean(0) - squares.mean(1, keepdims=True) + squares.mean())
    values, vectors = np.linalg.eigh(gram)
    return vectors[:, ::-1][:, :dim] * np.sqrt(values[::-1][:dim].clip(0))


def stresses(distances: np.ndarray, points: np.ndarray) -> tuple[float, float]:
    """sqrt(sum (p - t)^2 / sum t^2) over the pairs of a map (N, d), of squared distances and of distances."""
    rows, columns = np.triu_indices(len(points), 1)
    given, drawn = distances[rows, columns], np.linalg.norm(points[rows] - points[columns], axis=1)
    return tuple(float(np.sqrt(((p - t) ** 2).sum() / (t**2).sum())) for p, t in ((drawn**2, given**2), (drawn, given)))  # type: ignore[return-value]


def placed(points: torch.Tensor, squares: torch.Tensor) -> tuple[torch.Tensor, float]:
    """The place (d,) of a new point by its squared distances (N,) to fixed ones (N, d), and the stress there.

    sum_j (||x - W_j||^2 - t_j)^2 has several minima: Newton's method, kept downhill by halving its steps, begins from the solution
    of the equations made linear by taking ||x||^2 as an unknown of its own, and from the nearest points; the lowest end counts.
    """
    middle = points.mean(0)
    centred = points - middle
    equations = torch.cat([-2 * centred, torch.ones(len(points), 1, dtype=points.dtype)], 1)
    linear = torch.linalg.lstsq(equations, (squares - centred.square().sum(1))[:, None], driver="gelsd").solution
    starts = [linear[:-1, 0], torch.zeros_like(middle), *centred[squares.argsort()[:3]]]
    ends = [_descended(start, centred, squares) for start in starts]
    best = min(ends, key=lambda x: float(_misfit(x, centred, squares)))
    stress = (_misfit(best, centred, squares) / squares.square().sum().clamp_min(1e-300)).sqrt()
    return best + middle, float(stress)


def _misfit(x: torch.Tensor, points: torch.Tensor, squares: torch.Tensor) -> torch.Tensor:
    return ((x - points).square().sum(1) - squares).square().sum()


def _descended(x: torch.Tensor, points: torch.Tensor, squares: torch.Tensor) -> torch.Tensor:
    """A minimum of the misfit downhill from x. Gradient 4 sum r_j (x - W_j), Hessian 4 sum [2 (x - W_j)(x - W_j)^T + r_j I]."""
    value = _misfit(x, points, squares)
    for _ in range(100):
        away = x - points
        residuals = away.square().sum(1) - squares
        gradient = residuals @ away
        values, vectors = torch.linalg.eigh(2 * away.T @ away + residuals.sum() * torch.eye(len(x), dtype=x.dtype))
        # Curvatures by their sizes: downhill also where the misfit curves the other way.
        step = vectors @ ((vectors.T @ gradient) / values.abs().clamp_min(1e-12 * float(values.abs().max()) + 1e-300))
        for halvings in range(30):
            further = x - step / 2**halvings
            if (lower := _misfit(further, points, squares)) < value:
                break
        else:
            return x
        x, value = further, lower
    return x
