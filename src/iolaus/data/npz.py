"""Arrays of numpy in an npz file. https://numpy.org/doc/stable/reference/generated/numpy.savez.html."""

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, TensorDataset

from iolaus.data.arrays import Arrays
from iolaus.data.file_format import file_format
from iolaus.data.sniff import Header, npz_headers
from iolaus.errors import UserError


class Npz(Arrays):
    """Arrays of an npz file, read once and held in memory; pickled objects are never loaded.

    Raises:
        UserError: as Arrays does, and for a file that is not npz, or is cut off.
    """

    def headers(self, path: str) -> Mapping[str, Header]:
        if (form := file_format(path)) != "npz":
            hint = "; take data=hdf5" if form == "hdf5" else ""
            raise UserError(f"data.path: {path} is not an npz file, by its first bytes{hint}")
        return npz_headers(path)

    @contextmanager
    def opened(self, path: str, name: str) -> Iterator[Any]:
        try:
            with np.load(path, allow_pickle=False) as arrays:
                array = arrays[name]
        except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError) as error:
            raise UserError(f"data.path: {path}: {name!r} cannot be read: {error}") from None
        yield array

    def dataset(self, shape: tuple[int, ...], targets: torch.Tensor) -> Dataset:
        with self.opened(self.path, self.inputs) as array:
            return TensorDataset(self.as_inputs(array), targets)
