"""Distances between points, for multidimensional scaling: images of digits, or cities by air."""

import csv
import math
from abc import ABC
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils.data import Dataset, TensorDataset

from iolaus.data.base import DataModule
from iolaus.data.file_format import delimiter
from iolaus.errors import UserError, did_you_mean

EARTH_KM = 6371.0  # mean radius
NUM_DIGITS = 300
# Latitude and longitude in degrees, north and east positive.
CITIES = {
    "Bangkok": (13.76, 100.50),
    "Beijing": (39.90, 116.41),
    "Bogota": (4.71, -74.07),
    "Buenos Aires": (-34.60, -58.38),
    "Cairo": (30.04, 31.24),
    "Chicago": (41.88, -87.63),
    "Delhi": (28.61, 77.21),
    "Dhaka": (23.81, 90.41),
    "Istanbul": (41.01, 28.98),
    "Jakarta": (-6.21, 106.85),
    "Johannesburg": (-26.20, 28.05),
    "Karachi": (24.86, 67.00),
    "Kinshasa": (-4.44, 15.27),
    "Lagos": (6.52, 3.38),
    "Lima": (-12.05, -77.04),
    "London": (51.51, -0.13),
    "Los Angeles": (34.05, -118.24),
    "Madrid": (40.42, -3.70),
    "Manila": (14.60, 120.98),
    "Mexico City": (19.43, -99.13),
    "Moscow": (55.76, 37.62),
    "Mumbai": (19.08, 72.88),
    "Nairobi": (-1.29, 36.82),
    "New York": (40.71, -74.01),
    "Paris": (48.86, 2.35),
    "Rio de Janeiro": (-22.91, -43.17),
    "Sao Paulo": (-23.55, -46.63),
    "Seoul": (37.57, 126.98),
    "Sydney": (-33.87, 151.21),
    "Tokyo": (35.68, 139.69),
}


class PointPairs(DataModule, ABC):
    """All pairs i < j of N points and the squares of their distances.

    Train and test are the same pairs: a map is drawn of these points and does not generalise to others, so the test tells how well the
    map that was kept fits them. With `standardize` the task divides the squares by their mean, so that the same rates suit any
    unit; metrics and pictures are in the unit given.

    Args:
        num_points: N; None: `load` sets it.
        batch_size: pairs in a batch; None: all, so that an epoch is one step.
        base: the settings that every data set has; see DataModule.

    Shape:
        batch: i (B,), j (B,) int64 and D_ij^2 (B,) float32.
    """

    no_folds = "a map is drawn of all pairs of its points, and none is held out"

    def __init__(self, num_points: int | None = None, batch_size: int | None = None, **base: Any):
        super().__init__(batch_size=batch_size, **base)  # type: ignore[arg-type]
        self.num_points = num_points
        self.point_names: list[str] = []
        self.labels: list[int] | None = None  # the kind of each point, named by class_names
        self.unit = ""
        self.distances = torch.empty(0, 0, dtype=torch.float64)  # (N, N)

    def pairs(self, distances: torch.Tensor, names: Sequence[str]) -> dict[str, Dataset]:
        """Take N points: their distances (N, N) float64, and their names."""
        self.distances, self.point_names, self.num_points = distances, list(names), len(names)
        i, j = torch.triu_indices(len(names), len(names), 1)
        dataset = TensorDataset(i, j, distances[i, j].square().float())
        self.batch_size = self.batch_size or len(dataset)
        return {"train": dataset, "test": dataset}

    def statistics(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """0 and the mean squared distance, of `target`: what is subtracted from squares and what they are divided by."""
        return {"target": (torch.zeros(()), self.datasets["train"][:][-1].mean())}

    def facts(self) -> dict[str, Any]:
        return super().facts() | {"num_points": self.num_points, "batch_size": self.batch_size}

    def state_dict(self) -> dict[str, Any]:
        return {"point_names": self.point_names, "unit": self.unit}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.point_names, self.unit = state_dict["point_names"], state_dict["unit"]

    def new_items(self, source: Path | str) -> Iterator[Any]:
        """Names of new points and their distances (N,) to all points of the map.

        A file has the names of those points in its first row and the new points' in its first column; a text is one row of such a file.
        """
        separator = delimiter(getattr(self, "separator", ","))
        if isinstance(source, str):
            (cells,) = csv.reader([source], delimiter=separator)
            yield self._item(cells, list(range(1, len(self.point_names) + 1)), "the text")
            return
        with source.open(newline="", encoding="utf-8-sig", errors="replace") as file:
            rows = csv.reader(file, delimiter=separator)
            header = [cell.strip() for cell in next(rows, [])]
            for name in self.point_names:
                if name not in header[1:]:
                    raise UserError(
                        f"{source} line 1: there is no column {name!r}{did_you_mean(name, header[1:])}; a new point is placed by its "
                        "distances to all points of the map"
                    )
            positions = [header.index(name, 1) for name in self.point_names]
            for cells in rows:
                if not any(cell.strip() for cell in cells):
                    continue
                try:
                    item = self._item(cells, positions, f"{source} line {rows.line_num}")
                except UserError as error:
                    yield self.bad_item(error)
                else:
                    yield item

    def _item(self, cells: list[str], positions: list[int], where: str) -> tuple[str, torch.Tensor]:
        if len(cells) <= max(positions):
            raise UserError(
                f"{where}: has {len(cells)} cells; it must have a name and a distance to each of the {len(self.point_names)} points"
            )
        places = [f"{where}, column {name!r}" for name in self.point_names]
        values = [distance(cells[p], place) for p, place in zip(positions, places, strict=True)]
        return cells[0].strip(), torch.tensor(values, dtype=torch.float64)


class Distances(PointPairs):
    """Euclidean distances of scikit-learn's digits as vectors of 64 pixels, or distances of large cities by air in km.

    Those of cities are great circles on a sphere of 6371 km, by the haversine formula.

    Args:
        name: digits or cities.
        num_points: how many of them, from the first one; None: 300 digits, all cities.
        base: the settings that every data set has; see DataModule.

    Raises:
        UserError: for another name, or a number of points that there are not.
    """

    def __init__(self, name: Literal["digits", "cities"] = "digits", num_points: int | None = None, **base: Any):
        super().__init__(num_points=num_points, **base)
        self.name: str = name

    def load(self) -> dict[str, Dataset]:
        known = {"digits": self._digits, "cities": self._cities}
        if self.name not in known:
            raise UserError(
                f"data.name: received {self.name!r}{did_you_mean(self.name, known)}  (there are: {', '.join(known)})"
            )
        return known[self.name]()

    def _number(self, default: int, most: int) -> int:
        number = default if self.num_points is None else self.num_points
        if not 3 <= number <= most:
            raise UserError(f"data.num_points: must be from 3 to {most} for data.name={self.name}; received {number}")
        return number

    def _digits(self) -> dict[str, Dataset]:
        from sklearn.datasets import load_digits

        images, digits = load_digits(return_X_y=True)
        number = self._number(NUM_DIGITS, len(images))
        pixels = torch.as_tensor(images[:number], dtype=torch.float64)
        self.labels, self.class_names = digits[:number].tolist(), [str(digit) for digit in range(10)]
        self.unit = "grey levels"
        return self.pairs(_euclidean(pixels), [str(row) for row in range(number)])

    def _cities(self) -> dict[str, Dataset]:
        number = self._number(len(CITIES), len(CITIES))
        self.unit = "km"
        places = torch.tensor(list(CITIES.values())[:number], dtype=torch.float64)
        return self.pairs(haversine(places[:, None], places[None]), list(CITIES)[:number])


def _euclidean(points: torch.Tensor) -> torch.Tensor:
    """Distances of points (N, d) as (N, N), by differences: squares of large numbers would lose the digits of small ones."""
    return torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")


def haversine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Great-circle distances in km of places given as (..., 2) latitude and longitude in degrees."""
    (lat_a, lon_a), (lat_b, lon_b) = a.deg2rad().unbind(-1), b.deg2rad().unbind(-1)
    chord = ((lat_b - lat_a) / 2).sin().square() + lat_a.cos() * lat_b.cos() * ((lon_b - lon_a) / 2).sin().square()
    return 2 * EARTH_KM * chord.clamp(0, 1).sqrt().asin()


def distance(cell: str, where: str) -> float:
    """A cell as a distance.

    Raises:
        UserError: for an empty cell, text, a negative number, one that is not finite.
    """
    text = cell.strip()
    try:
        value = float(text)
    except ValueError:
        what = f"{text!r} is not a number" if text else "the cell is empty"
        raise UserError(f"{where}: {what}; every distance must be given") from None
    if not math.isfinite(value) or value < 0:
        raise UserError(f"{where}: {text} is not a distance, which is finite and not negative")
    return value
