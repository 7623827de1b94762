"""Small real data sets that ship inside scikit-learn. https://scikit-learn.org/stable/datasets/toy_dataset.html."""

import math
from typing import Any

import torch
from torch.utils.data import Dataset, TensorDataset

from iolaus.data.base import DataModule
from iolaus.errors import UserError, did_you_mean

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
