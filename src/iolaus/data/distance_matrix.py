"""A user's own matrix of distances, for multidimensional scaling."""

import csv
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from iolaus.data.distances import PointPairs, distance
from iolaus.data.file_format import delimiter
from iolaus.errors import UserError

TOLERANCE = 1e-4  # relative: entries that mirror each other may be rounded differently


class DistanceMatrix(PointPairs):
    """Distances as a CSV file: names in its first row and, in the same order, in its first column.

    Entries that mirror each other may differ by rounding, and their mean is taken.

    Args:
        path: the file.
        separator: what stands between two cells: a character, or tab, semicolon, comma, pipe, space.
        unit: of the distances, for titles.
        base: the settings that every data set has; see DataModule.

    Raises:
        UserError: naming file, line and column, for a matrix that is not square or not symmetric, a diagonal that is not 0, entries
            that are empty, negative or no numbers, names that stand twice or in another order.
    """

    def __init__(self, path: str, separator: str = ",", unit: str = "", **base: Any):
        super().__init__(**base)
        self.path = Path(path)
        self.separator = separator
        self.unit = unit

    def load(self) -> dict[str, Dataset]:
        if not self.path.is_file():
            raise UserError(f"data.path: {self.path} is not a file  (working directory: {Path.cwd()})")
        names, lines, rows = self._rows()
        values = [
            [
                distance(cell, f"data.path: {self.path} line {line}, column {name!r}")
                for name, cell in zip(names, row, strict=True)
            ]
            for line, row in zip(lines, rows, strict=True)
        ]
        matrix = torch.tensor(values, dtype=torch.float64)
        self._check_matrix(matrix, names, lines)
        return self.pairs((matrix + matrix.T) / 2, names)

    def _rows(self) -> tuple[list[str], list[int], list[list[str]]]:
        """The names, the number of each row's line, and its cells."""
        with self.path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
            reader = csv.reader(file, delimiter=delimiter(self.separator))
            names = [cell.strip() for cell in next(reader, [])[1:]]
            numbered = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
        if len(names) < 3:
            raise UserError(
                f"data.path: {self.path} line 1: has {len(names)} names; a map needs three points or more  (cells are separated by "
                f"data.separator={self.separator!r})"
            )
        if twice := next((n for k, n in enumerate(names) if n in names[:k]), None):
            raise UserError(f"data.path: {self.path} line 1: the name {twice!r} stands twice; rename one")
        for (line, row), name in zip(numbered, names, strict=False):
            if row[0].strip() != name:
                raise UserError(
                    f"data.path: {self.path} line {line}, column 1: the name is {row[0].strip()!r}, and {name!r} in the first row; "
                    "rows and columns must stand in the same order"
                )
            if len(row) != len(names) + 1:
                raise UserError(
                    f"data.path: {self.path} line {line}: has {len(row) - 1} distances for {len(names)} names; the matrix must be square"
                )
        if len(numbered) != len(names):
            raise UserError(
                f"data.path: {self.path}: has {len(numbered)} rows for {len(names)} names in the first one; the matrix must be square"
            )
        return names, [line for line, _ in numbered], [row[1:] for _, row in numbered]

    def _check_matrix(self, matrix: torch.Tensor, names: list[str], lines: list[int]) -> None:
        def place(i: int, j: int) -> str:
            return f"line {lines[i]}, column {names[j]!r}"

        largest = matrix.max()
        if largest == 0:
            raise UserError(f"data.path: {self.path}: all distances are 0; there is nothing to draw")
        if matrix.diagonal().abs().max() > 0:
            i = int(matrix.diagonal().argmax())
            raise UserError(
                f"data.path: {self.path} {place(i, i)}: the distance of a point to itself is {matrix[i, i]:g}; it must be 0"
            )
        gaps = (matrix - matrix.T).abs()
        uneven = gaps > TOLERANCE * torch.maximum(matrix, matrix.T)
        if uneven.any():
            i, j = divmod(int((gaps * uneven).argmax()), len(names))
            raise UserError(
                f"data.path: {self.path} {place(i, j)}: is {matrix[i, j]:g}, and {place(j, i)}: is {matrix[j, i]:g}; "
                "a distance must be the same both ways"
            )
