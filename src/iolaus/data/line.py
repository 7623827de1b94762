"""Seventeen points near a line, the first regression of many introductions to PyTorch."""

import torch
from torch.utils.data import Dataset, TensorDataset

from iolaus.data.base import DataModule

X = [3.3, 4.4, 5.5, 6.71, 6.93, 4.168, 9.779, 6.182, 7.59, 2.167, 7.042, 10.791, 5.313, 7.997, 5.654, 9.27, 3.1]
Y = [1.7, 2.76, 2.09, 3.19, 1.694, 1.573, 3.366, 2.596, 2.53, 1.221, 2.827, 3.465, 1.65, 2.904, 2.42, 2.94, 1.3]


class Line(DataModule):
    """The points (x, y); the least-squares line through them has slope 0.2516 and intercept 0.7988."""

    def load(self) -> dict[str, Dataset]:
        return {"train": TensorDataset(torch.tensor(X)[:, None], torch.tensor(Y)[:, None])}
