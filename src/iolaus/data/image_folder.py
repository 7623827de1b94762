"""A user's own images in a folder a class."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils.data import Dataset, TensorDataset

from iolaus.data.bad_files import ADVICE, list_left_out, refuse_empty_classes, unreadable_rows
from iolaus.data.base import DataModule
from iolaus.data.folders import describe_split_folders, find_split_folders, subfolders, visible_files
from iolaus.data.picture import EXTENSIONS, ImageDecoder, new_images
from iolaus.errors import UserError

IN_MEMORY_BYTES = 2**30


class Images(Dataset):
    """Image files, decoded and resized when they are asked for.

    Shape:
        item: (C, H, W) uint8 and its label.
    """

    def __init__(self, files: list[Path], targets: list[int], decoder: ImageDecoder):
        self.files = files
        self.targets = torch.tensor(targets, dtype=torch.int64)
        self.decoder = decoder

    def __len__(self) -> int:
        return len(self.files)

    def fingerprint(self) -> str:
        """Names and sizes of the files."""
        return "\n".join(f"{file} {file.stat().st_size}" for file in self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        try:
            return self.decoder.read(self.files[index]), int(self.targets[index])
        except UserError as error:
            raise UserError(f"data.path: {error}{ADVICE}") from None


class ImageFolder(DataModule):
    """Images in a folder a class: PATH/<class>/*, or PATH/{train,val,test}/<class>/* for splits of your own.

    Hidden and cache files are left out. Split folders may be spelled otherwise (Training, valid, TEST); see data.folders.

    Args:
        path: the folder.
        size: height and width that every image is resized to, in pixels.
        channels: 1 for grey, 3 for colour.
        value_range: what is black and white in images of more than 8 bits; see ImageDecoder.
        background: grey level behind transparent pixels, from 0 to 255.
        in_memory: decode all images once and keep them; None: when they take less than a GiB.
        bad_files: whether a file that cannot be read is an error, or is left out with a warning (skip), for which all are read first.
        base: the settings that every data set has; see DataModule.

    Raises:
        UserError: for a missing folder, one without classes, an empty class, a file that is not an image.
    """

    new_endings = EXTENSIONS

    def __init__(
        self,
        path: str,
        size: tuple[int, int] = (64, 64),
        channels: int = 3,
        value_range: Sequence[float] | None = None,
        background: int = 255,
        in_memory: bool | None = None,
        bad_files: Literal["error", "skip"] = "error",
        **base: Any,
    ):
        super().__init__(**base)
        self.path = Path(path)
        self.decoder: ImageDecoder = ImageDecoder((size[0], size[1]), channels, value_range, background)
        self.in_memory = in_memory
        self.bad_files: str = bad_files

    def load(self) -> dict[str, Dataset]:
        if not self.path.is_dir():
            raise UserError(f"data.path: {self.path} is not a folder")
        classes = [str(name) for name in self.class_names or ()]
        folders = find_split_folders(self.path, EXTENSIONS, has_classes=True, class_names=classes)
        self.notes += [describe_split_folders(self.path, folders)] if folders else []
        folders = folders or {"train": self.path}
        names = subfolders(folders["train"])
        if len(names) < 2:
            raise UserError(
                f"data.path: {folders['train']} must have one folder for each of two or more classes; it has {len(names)}"
            )
        self.class_names, self.num_classes = names, len(names)
        images = {split: self._images(split, folder, names) for split, folder in folders.items()}
        if self.bad_files == "skip":
            images = {split: self._without_unreadable(split, found) for split, found in images.items()}
            self.decoder.seen.clear()  # they are read again
        pixels = sum(len(i) for i in images.values()) * math.prod(self.decoder.shape)
        if self.in_memory or (self.in_memory is None and pixels < IN_MEMORY_BYTES):
            return {
                name: TensorDataset(torch.stack([i[k][0] for k in range(len(i))]), i.targets)
                for name, i in images.items()
            }
        return dict(images)

    def new_items(self, source: Path | str) -> Iterator[torch.Tensor]:
        """An image file, or all of a folder, in the run's channels and size."""
        yield from new_images(source, self.decoder, self.transforms)

    def state_dict(self) -> dict[str, Any]:
        return {"class_names": self.class_names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.class_names = state_dict["class_names"]

    def _images(self, split: str, folder: Path, names: list[str]) -> Images:
        if unknown := sorted(set(subfolders(folder)) - set(names)):
            raise UserError(f"data.path: {folder / unknown[0]} is a class that the training images do not have")
        files: list[Path] = []
        targets: list[int] = []
        for label, name in enumerate(names):
            found = visible_files(folder / name, EXTENSIONS)
            if not found and split == "train":
                raise UserError(
                    f"data.path: {folder / name} holds no image  (known endings: {' '.join(sorted(EXTENSIONS))})"
                )
            files += found
            targets += [label] * len(found)
        return Images(files, targets, self.decoder)

    def _without_unreadable(self, split: str, images: Images) -> Images:
        """Leave out what cannot be read, before splits are cut, so that these depend on the readable files alone."""
        reasons = unreadable_rows(images)
        self.warnings += list_left_out(list(reasons.values()), len(images), "images")
        stay = [row for row in range(len(images)) if row not in reasons]
        images.files, images.targets = [images.files[row] for row in stay], images.targets[stay]
        if split == "train" and self.class_names is not None:
            counts = torch.bincount(images.targets, minlength=len(self.class_names)).tolist()
            refuse_empty_classes(dict(zip(self.class_names, counts, strict=True)), self.path)
        return images
