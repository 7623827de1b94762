"""Arrays of a file as inputs and targets: what the formats that hold arrays have in common."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from iolaus.augment.transforms import composed
from iolaus.data.base import DataModule
from iolaus.data.sniff import Header, check_array, check_arrays
from iolaus.errors import UserError

BLOCK = 256  # rows of a new file that are read together
BLUR = 1e-2  # of the targets' deviation, that float32 may round them by


class Arrays(DataModule, ABC):
    """Two arrays of one file, a row for each sample; a subclass reads them.

    Inputs of two dimensions are a table, of three grey images, of four images with channels first. Bytes of images stay bytes; everything
    else becomes float32. Whole numbers as labels become classes in their order; with `num_classes` given they are 0, 1, ... already.

    Args:
        path: the file.
        inputs: name of the array (N, features), (N, H, W) or (N, C, H, W).
        targets: name of the array (N,), or (N, T) for T amounts.
        input_kind: table or image; None: as the dimensions say.
        num_targets: T; None: as the file says.
        base: the settings that every data set has; see DataModule.

    Raises:
        UserError: for arrays that are not there, hold no numbers or differ in length, and labels that are none.
    """

    def __init__(
        self,
        path: str,
        inputs: str = "inputs",
        targets: str = "targets",
        input_kind: str | None = None,
        num_targets: int | None = None,
        **base: Any,
    ):
        super().__init__(input_kind=input_kind or "", num_targets=num_targets or 1, **base)
        self.path = path
        self.inputs = inputs
        self.targets = targets
        self._item_shape = self.input_shape  # before transforms

    @abstractmethod
    def headers(self, path: str) -> Mapping[str, Header]:
        """Shapes and dtypes of a file's arrays; refuses a file of another format."""

    @abstractmethod
    def opened(self, path: str, name: str) -> AbstractContextManager[Any]:
        """An array whose slices are arrays of numpy."""

    @abstractmethod
    def dataset(self, shape: tuple[int, ...], targets: torch.Tensor) -> Dataset:
        """The inputs, of this shape with the rows, and their targets."""

    def load(self) -> dict[str, Dataset]:
        if not Path(self.path).is_file():
            raise UserError(f"data.path: {self.path} is not a file  (working directory: {Path.cwd()})")
        found = self.headers(self.path)
        check_arrays(self.path, found, self.inputs, self.targets)
        shape = found[self.inputs].shape
        self.input_kind = self.input_kind or ("table" if len(shape) == 2 else "image")
        if self.input_kind == "image" and len(shape) == 2:
            raise UserError(
                f"data.input_kind: {self.inputs!r} has shape {list(shape)}; images are (N, H, W) or (N, C, H, W)"
            )
        self._item_shape = self._shape_of(shape)
        self.input_shape = self.input_shape or self._item_shape
        with self.opened(self.path, self.targets) as array:
            values = array[:]
        targets = self._labels(values) if self.target_kind == "class" else self._amounts(values)
        return {"train": self.dataset(shape, targets)}

    def _shape_of(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of one input of an array: images without channels have one."""
        return (1, *shape[1:]) if self.input_kind == "image" and len(shape) == 3 else shape[1:]

    def as_inputs(self, values: np.ndarray) -> torch.Tensor:
        """Rows as tensors (n, *input_shape)."""
        keeps_bytes = self.input_kind == "image" and values.dtype == np.uint8
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is told as such
            rows = torch.from_numpy(np.ascontiguousarray(values, dtype=None if keeps_bytes else np.float32))
        return rows[:, None] if self.input_kind == "image" and rows.ndim == 3 else rows

    def _amounts(self, values: np.ndarray) -> torch.Tensor:
        if values.ndim > 2:
            raise UserError(
                f"data.targets: {self.path}: {self.targets!r} has shape {list(values.shape)}; it must be (N,) or (N, T)"
            )
        values = values.reshape(len(values), -1)
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused with its row later
            rounded = values.astype(np.float32)
            blur, spread = np.abs(values - rounded).max(axis=0), values.std(axis=0)
        if (blurred := (blur > BLUR * spread) & (values.max(axis=0) > values.min(axis=0))).any():
            column = int(blurred.argmax())
            raise UserError(
                f"data.targets: {self.path}: {self.targets!r} is about {values[:, column].mean():.4g} and varies by {spread[column]:.2g}, "
                "too little for float32; subtract a constant from it"
            )
        self.num_targets = rounded.shape[1]
        return torch.from_numpy(rounded)

    def _labels(self, values: np.ndarray) -> torch.Tensor:
        where = f"data.targets: {self.path}: {self.targets!r}"
        if values.ndim > 1 and values.size != len(values):
            raise UserError(
                f"{where} has shape {list(values.shape)}; labels are (N,), and amounts want task=regression"
            )
        values = values.reshape(-1)
        if values.dtype.kind == "f" and (bad := ~(np.isfinite(values) & (values == np.floor(values)))).any():
            row = int(bad.argmax())
            raise UserError(
                f"{where} row {row} is {values[row]:g}, which is no label; for amounts choose task=regression"
            )
        labels = values.astype(np.int64)
        if self.num_classes is not None and self.class_names is None:
            return torch.from_numpy(labels)
        distinct, positions = np.unique(labels, return_inverse=True)
        names = [str(label) for label in distinct]
        if self.class_names is not None:
            self.num_classes = len(self.class_names)
            if not set(names) <= set(self.class_names):  # names for 0, 1, ... of the user's own
                return torch.from_numpy(labels)
            numbers = np.array([self.class_names.index(name) for name in names], dtype=np.int64)
            return torch.from_numpy(numbers[positions])
        if len(names) < 2:
            raise UserError(f"{where} holds one value alone ({names[0]}); there is nothing to learn")
        if len(names) > len(labels) // 2:
            raise UserError(
                f"{where} has {len(names)} different values in {len(labels)} rows; for amounts choose task=regression"
            )
        self.class_names, self.num_classes = names, len(names)
        return torch.from_numpy(positions.astype(np.int64))

    def facts(self) -> dict[str, Any]:
        return super().facts() | {"input_kind": self.input_kind, "num_targets": self.num_targets}

    def new_items(self, source: Path | str) -> Iterator[Any]:
        """The rows of a file's array of inputs; its targets need not be there."""
        if isinstance(source, str):
            raise UserError(f"predict: give a file with the array {self.inputs!r}; a text is none")
        path = str(source)
        try:
            found = self.headers(path)
        except UserError as error:
            raise UserError(str(error).removeprefix("data.path: ")) from None
        check_array(path, found, self.inputs, "")
        shape = found[self.inputs].shape
        if self._shape_of(shape) != self._item_shape:
            wanted = list(self._item_shape or ())
            raise UserError(
                f"{path}: {self.inputs!r} has shape {list(shape)}; its rows must have the shape {wanted} of the run's data"
            )
        apply = composed(self.transforms, at_random=False) if self.transforms else None
        with self.opened(path, self.inputs) as array:
            for start in range(0, shape[0], BLOCK):
                rows = self.as_inputs(array[start : start + BLOCK])
                finite = rows.isfinite().flatten(1).all(1).tolist()
                items = apply(rows) if apply is not None else rows
                for row, (is_finite, item) in enumerate(zip(finite, items, strict=True), start):
                    reason = f"{path}: row {row} of {self.inputs!r} has a value that is NaN or infinite"
                    yield item if is_finite else self.bad_item(UserError(reason))

    def state_dict(self) -> dict[str, Any]:
        return {"class_names": self.class_names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.class_names = state_dict["class_names"]


def first_not_finite(rows: torch.Tensor) -> int | None:
    """The first of some rows that has a NaN or an infinite number; None when all are finite."""
    if not rows.is_floating_point() or bool((finite := rows.isfinite().flatten(1).all(1)).all()):
        return None
    return int((~finite).nonzero()[0])
