"""Small real data sets that ship inside scikit-learn. https://scikit-learn.org/stable/datasets/toy_dataset.html."""

import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset, TensorDataset

from iolaus.data.base import DataModule
from iolaus.data.picture import EXTENSIONS, ImageDecoder, new_images, of_shape
from iolaus.errors import UserError, did_you_mean

BRIGHTEST = 16.0  # of the digits' pixels
NAMES = ("breast_cancer", "diabetes", "digits", "iris", "linnerud", "wine")


class ScikitLearn(DataModule):
    """One of scikit-learn's own data sets, in memory.

    Args:
        name: breast_cancer, diabetes, digits, iris, linnerud or wine.
        base: the settings that every data set has; see DataModule.

    Raises:
        UserError: for a name that scikit-learn does not have.
    """

    def __init__(self, name: str, **base: Any):
        super().__init__(**base)
        self.name: str = name
        self._item_shape = self.input_shape  # before transforms

    def load(self) -> dict[str, Dataset]:
        from sklearn import datasets

        if self.name not in NAMES:
            raise UserError(f"data.name: scikit-learn has no data set {self.name!r}{did_you_mean(self.name, NAMES)}")
        bunch = getattr(datasets, f"load_{self.name}")()
        inputs = torch.as_tensor(bunch.data, dtype=torch.float32)
        if self.input_shape is not None and inputs[0].numel() == math.prod(self.input_shape):
            inputs = inputs.reshape(len(inputs), *self.input_shape)
        if self.target_kind == "class":
            self.class_names = self.class_names or [str(n) for n in bunch.target_names]
            return {"train": TensorDataset(inputs, torch.as_tensor(bunch.target, dtype=torch.int64))}
        targets = torch.as_tensor(bunch.target, dtype=torch.float32).reshape(len(inputs), -1)
        return {"train": TensorDataset(inputs, targets)}

    def new_items(self, source: Path | str) -> Iterator[Any]:
        """Rows of as many numbers as an input has: a text file of them, with or without a line of names, or one row as a text.

        Images may also be image files, or folders of them: they become grey images of the data set's size and brightness; nothing is
        inverted, the digits are white on black.
        """
        assert self._item_shape is not None
        is_image = isinstance(source, Path) and (source.is_dir() or source.suffix.lower() in EXTENSIONS)
        if self.input_kind == "image" and is_image:
            decoder = of_shape(ImageDecoder(), self._item_shape)
            yield from new_images(source, decoder, self.transforms, lambda image: image / 255 * BRIGHTEST)
            return
        count = math.prod(self._item_shape)
        if isinstance(source, str):
            yield from self._shaped(numbers(source.splitlines(), count, "the text"))
            return
        with source.open(encoding="utf-8-sig", errors="replace") as file:  # line by line: it may be larger than memory
            yield from self._shaped(numbers(file, count, str(source)))

    def _shaped(self, rows: Iterable[list[float] | UserError]) -> Iterator[Any]:
        for row in rows:
            if isinstance(row, UserError):
                yield self.bad_item(row)
            else:
                yield torch.tensor(row).reshape(self._item_shape or ())

    def state_dict(self) -> dict[str, Any]:
        return {"class_names": self.class_names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.class_names = state_dict["class_names"]


def numbers(lines: Iterable[str], count: int, where: str) -> Iterator[list[float] | UserError]:
    """Lines of so many numbers, with commas, semicolons or spaces between them; a first line of names is passed over.

    Yields:
        the numbers; an error that names the line, for another number of numbers, or what is none.

    Raises:
        UserError: where there is no line.
    """
    found = 0
    for number, line in enumerate(lines, 1):
        cells = re.split(r"\s*[,;]\s*|\s+", line.strip())
        values = [_number(cell) for cell in cells]
        if cells == [""] or (number == 1 and all(value is None for value in values)):
            continue
        found += 1
        if len(cells) != count:
            yield UserError(f"{where} line {number}: has {len(cells)} values; an input is {count} numbers")
        elif None in values:
            yield UserError(f"{where} line {number}: {cells[values.index(None)]!r} is not a number")
        else:
            yield [value for value in values if value is not None]
    if not found:
        raise UserError(f"{where}: holds no row of {count} numbers")


def _number(cell: str) -> float | None:
    """A finite number; None for anything else."""
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
