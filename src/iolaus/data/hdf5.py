"""Arrays in an HDF5 file, read where a batch needs them. https://docs.h5py.org."""

import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from iolaus.data.arrays import Arrays, first_not_finite
from iolaus.data.base import STATISTICS_ROWS
from iolaus.data.file_format import file_format
from iolaus.data.sniff import Header, hdf5_headers, needed
from iolaus.data.statistics import mean_and_deviation
from iolaus.errors import UserError


class Rows(Dataset):
    """Rows of an array in an HDF5 file, those of a batch read at once and in the order of the file.

    Each process opens the file when it reads first, and closes what it has inherited: two processes with one open file would share its
    position. An open file is not pickled.

    Args:
        path: the file.
        name: of the array.
        shape: of the array.
        targets: (N,) or (N, T), in memory.
        convert: makes tensors of the rows read.

    Shape:
        item: one input and its target.
    """

    def __init__(
        self,
        path: str,
        name: str,
        shape: tuple[int, ...],
        targets: torch.Tensor,
        convert: Callable[[np.ndarray], torch.Tensor],
    ):
        self.path = path
        self.name = name
        self.shape = shape
        self.targets = targets
        self.convert = convert
        self._process = 0  # that has opened the file
        self._file: Any = None

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        distinct, positions = np.unique(np.asarray(rows, dtype=np.int64), return_inverse=True)
        first, last = int(distinct[0]), int(distinct[-1])
        is_whole = last - first + 1 == len(distinct)
        try:
            values = self._array()[slice(first, last + 1) if is_whole else distinct]
        except OSError as error:
            raise UserError(f"data.path: {self.path}: {self.name!r} cannot be read: {error}") from None
        inputs = self.convert(values)
        if (bad := first_not_finite(inputs)) is not None:
            raise UserError(
                f"data.path: {self.path}: row {distinct[bad]} of {self.name!r} has a value that is NaN or infinite"
            )
        return [(inputs[position], self.targets[row]) for position, row in zip(positions.tolist(), rows, strict=True)]

    def fingerprint(self) -> str:
        """Size of the file, shape of the array and a checksum of the targets: the array itself is not read for it."""
        checksum = zlib.crc32(self.targets.contiguous().numpy().data)
        return f"{os.path.getsize(self.path)} {self.shape} {checksum:08x}"

    def _array(self) -> Any:
        if self._process != os.getpid():
            if self._file is not None:
                self._file.close()
            self._file, self._process = needed("h5py", "hdf5").File(self.path, "r"), os.getpid()
        return self._file[self.name]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_file": None, "_process": 0}


class Hdf5(Arrays):
    """Arrays of an HDF5 file, which may be larger than memory: inputs are read where a batch needs them, targets once.

    Mean and deviation are estimated from 2,048 rows. Arrays in groups are named GROUP/NAME. Batches are read fastest from an array
    without chunks; chunks should hold whole rows, and few of them.

    Raises:
        UserError: as Arrays does, and for a file that is not HDF5, or is cut off; rows with NaN are told when they are read.
    """

    def headers(self, path: str) -> Mapping[str, Header]:
        if (form := file_format(path)) != "hdf5":
            hint = "; take data=npz" if form == "npz" else ""
            raise UserError(f"data.path: {path} is not an HDF5 file, by its first bytes{hint}")
        return hdf5_headers(path)

    @contextmanager
    def opened(self, path: str, name: str) -> Iterator[Any]:
        with needed("h5py", "hdf5").File(path, "r") as file:
            yield file[name]

    def dataset(self, shape: tuple[int, ...], targets: torch.Tensor) -> Dataset:
        return Rows(self.path, self.inputs, shape, targets, self.as_inputs)

    def statistics(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """As for every data set, the inputs' from some rows that are read at once, the targets' from all."""
        dataset: Any = self.datasets["train"]
        rows = self.rows["train"]
        some = rows[torch.linspace(0, len(rows) - 1, min(len(rows), STATISTICS_ROWS)).long()].tolist()
        items = dataset.__getitems__(some) if isinstance(dataset, Rows) else [dataset[row] for row in some]
        inputs = torch.stack([item[0] for item in items])
        is_image = self.input_kind == "image"
        found = {"input": mean_and_deviation(inputs, torch.arange(len(inputs)), per_channel=is_image)}
        if self.target_kind == "real":
            found["target"] = mean_and_deviation(dataset.targets, rows, per_channel=False)
        return found
