"""Random inputs whose target is always zero: the smallest training that can be run."""

from typing import Any

import torch
from torch.utils.data import Dataset, TensorDataset

from iolaus.data.base import DataModule


class Zero(DataModule):
    """Inputs from a standard normal distribution, targets zero.

    Args:
        rows: number of inputs.
        base: the settings that every data set has; see DataModule.
    """

    def __init__(self, rows: int = 10_000, **base: Any):
        super().__init__(**base)
        self.num_rows = rows

    def load(self) -> dict[str, Dataset]:
        generator = torch.Generator().manual_seed(self.seed)
        assert self.input_shape is not None
        inputs = torch.randn(self.num_rows, *self.input_shape, generator=generator)
        return {"train": TensorDataset(inputs, torch.zeros(self.num_rows, 1))}
