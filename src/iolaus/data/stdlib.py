"""The sources of Python's standard library, as they lie on this machine. https://docs.python.org/3/library/."""

import sysconfig
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from iolaus.data.order import permutation
from iolaus.data.text_file import ByteStream
from iolaus.errors import UserError

LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "ensurepip", "lib2to3"}
LEFT_OUT |= {"encodings", "pydoc_data"}  # which are tables and not programs
MOST_BYTES = 100_000  # of a file: a larger one would be most of a split


class Stdlib(ByteStream):
    """Programs of the standard library in an order drawn by the seed; validation and test are files of their own.

    What the files hold depends on the Python that runs: the data's checksum stands in the run's resume points.

    Args:
        size: bytes that are used in all; files are taken until each split has its share.
        base: the settings that every data set has; input_shape is the window's length.
    """

    def __init__(self, size: int = 1_200_000, **base: Any):
        super().__init__(**base)
        self.size = size

    def load(self) -> dict[str, Dataset]:
        root = Path(sysconfig.get_path("stdlib"))
        sources = (f for f in root.rglob("*.py") if not LEFT_OUT & set(f.relative_to(root).parts))
        files = sorted(f for f in sources if f.stat().st_size <= MOST_BYTES)
        if not files:
            raise UserError(f"data: there are no sources of the standard library in {root}; take data=text_file")
        shares = {
            "train": 1 - self.val_fraction - self.test_fraction,
            "val": self.val_fraction,
            "test": self.test_fraction,
        }
        streams = {split: bytearray() for split, share in shares.items() if share > 0}
        for number in permutation(len(files), self.seed).tolist():
            lacking = {split: shares[split] * self.size - len(stream) for split, stream in streams.items()}
            if max(lacking.values()) <= 0:
                break
            streams[max(lacking, key=lambda split: lacking[split])] += files[number].read_bytes()
        held = {split: torch.frombuffer(stream, dtype=torch.uint8) for split, stream in streams.items()}
        return self._windows(held)
