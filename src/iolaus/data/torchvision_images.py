"""The small image data sets that torchvision downloads: MNIST and its kin, CIFAR. https://pytorch.org/vision/stable/datasets.html."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset, TensorDataset

from iolaus.data.base import DataModule
from iolaus.data.picture import EXTENSIONS, ImageDecoder, new_images, of_shape
from iolaus.errors import UserError, did_you_mean

NAMES = ("CIFAR10", "CIFAR100", "FashionMNIST", "KMNIST", "MNIST")


class TorchvisionImages(DataModule):
    """One of torchvision's image data sets, held in memory as bytes; the official test split is the test split.

    Args:
        name: CIFAR10, CIFAR100, FashionMNIST, KMNIST or MNIST.
        root: folder that holds the files, or gets them.
        download: fetch the files when they are not there.
        base: the settings that every data set has; see DataModule.

    Raises:
        UserError: when the files are not there and cannot be fetched, or are damaged.
    """

    new_endings = EXTENSIONS

    def __init__(self, name: str, root: str = "data", download: bool = True, **base: Any):
        super().__init__(**base)
        self.name: str = name
        self.root = root
        self.download = download
        self._file_shape = self.input_shape  # before transforms

    def load(self) -> dict[str, Dataset]:
        from torchvision import datasets

        if self.name not in NAMES:
            raise UserError(
                f"data.name: received {self.name!r}{did_you_mean(self.name, NAMES)}  (there are: {', '.join(NAMES)})"
            )
        cls = getattr(datasets, self.name)
        try:
            official = {
                "train": cls(self.root, train=True, download=self.download),
                "test": cls(self.root, train=False),
            }
        except (RuntimeError, OSError, EOFError, ValueError) as error:
            where = os.path.abspath(self.root)
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(
                f"data.root: {self.name} cannot be read from {where}: {reason}\n"
                + ("it could not be downloaded; put its files there" if self.download else "set data.download=true")
            ) from error
        self.class_names = self.class_names or [str(c) for c in official["train"].classes]
        return {name: TensorDataset(*_tensors(dataset)) for name, dataset in official.items()}

    def new_items(self, source: Path | str) -> Iterator[torch.Tensor]:
        """An image file, or all of a folder, in the data set's channels and size; nothing is inverted: MNIST is white on black."""
        assert self._file_shape is not None
        yield from new_images(source, of_shape(ImageDecoder(), self._file_shape), self.transforms)

    def state_dict(self) -> dict[str, Any]:
        return {"class_names": self.class_names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.class_names = state_dict["class_names"]


def _tensors(dataset: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Images as (N, C, H, W) bytes and labels as (N,) int64."""
    images = torch.as_tensor(dataset.data)
    images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
    return images.contiguous(), torch.as_tensor(dataset.targets, dtype=torch.int64)
