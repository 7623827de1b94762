"""A user's own images in a folder a class."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal

import torch
from torch.utils.data import Dataset, TensorDataset

from iolaus.augment.transforms import composed
from iolaus.data.bad_files import list_left_out, refuse_empty_classes, unreadable_rows
from iolaus.data.base import SPLITS, DataModule
from iolaus.errors import UserError

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
IN_MEMORY_BYTES = 2**30


class Images(Dataset):
    """Image files, decoded and resized when they are asked for.

    Shape:
        item: (C, H, W) uint8 and its label.
    """

    def __init__(self, files: list[Path], targets: list[int], size: tuple[int, int], channels: int):
        self.files = files
        self.targets = torch.tensor(targets, dtype=torch.int64)
        self.size = size
        self.channels = channels

    def __len__(self) -> int:
        return len(self.files)

    def fingerprint(self) -> str:
        """Names and sizes of the files."""
        return "\n".join(f"{file} {file.stat().st_size}" for file in self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        try:
            return decoded(self.files[index], self.size, self.channels), int(self.targets[index])
        except UserError as error:
            raise UserError(f"data.path: {error}") from None


class ImageFolder(DataModule):
    """Images in a folder a class: PATH/<class>/*, or PATH/{train,val,test}/<class>/* for splits of your own.

    Args:
        path: the folder.
        size: height and width that every image is resized to, in pixels.
        channels: 1 for grey, 3 for colour.
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
        in_memory: bool | None = None,
        bad_files: Literal["error", "skip"] = "error",
        **base: Any,
    ):
        super().__init__(**base)
        if channels not in (1, 3):
            raise UserError(f"data.channels: must be 1 (grey) or 3 (colour); received {channels}")
        self.path = Path(path)
        self.size = (size[0], size[1])
        self.channels = channels
        self.in_memory = in_memory
        self.bad_files: str = bad_files

    def load(self) -> dict[str, Dataset]:
        if not self.path.is_dir():
            raise UserError(f"data.path: {self.path} is not a folder")
        folders = {name: self.path / name for name in SPLITS if (self.path / name).is_dir()}
        if "train" not in folders:
            folders = {"train": self.path}
        names = _subfolders(folders["train"])
        if len(names) < 2:
            raise UserError(
                f"data.path: {folders['train']} must have one folder for each of two or more classes; it has {len(names)}"
            )
        self.class_names, self.num_classes = names, len(names)
        images = {name: self._images(folder, names) for name, folder in folders.items()}
        if self.bad_files == "skip":
            images = {name: self._without_unreadable(name, found) for name, found in images.items()}
        pixels = sum(len(i) for i in images.values()) * self.channels * self.size[0] * self.size[1]
        if self.in_memory or (self.in_memory is None and pixels < IN_MEMORY_BYTES):
            return {
                name: TensorDataset(torch.stack([i[k][0] for k in range(len(i))]), i.targets)
                for name, i in images.items()
            }
        return dict(images)

    def new_items(self, source: Path | str) -> Iterator[torch.Tensor]:
        """An image file, or all of a folder, in the run's channels and size."""
        yield from new_images(source, (self.channels, *self.size), self.transforms)

    def state_dict(self) -> dict[str, Any]:
        return {"class_names": self.class_names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.class_names = state_dict["class_names"]

    def _images(self, folder: Path, names: list[str]) -> Images:
        if unknown := sorted(set(_subfolders(folder)) - set(names)):
            raise UserError(f"data.path: {folder / unknown[0]} is a class that the training images do not have")
        files: list[Path] = []
        targets: list[int] = []
        for label, name in enumerate(names):
            found = sorted(f for f in (folder / name).rglob("*") if f.suffix.lower() in EXTENSIONS)
            if not found and folder == self.path:
                raise UserError(
                    f"data.path: {folder / name} holds no image  (known endings: {' '.join(sorted(EXTENSIONS))})"
                )
            files += found
            targets += [label] * len(found)
        return Images(files, targets, self.size, self.channels)

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


def _subfolders(folder: Path) -> list[str]:
    return sorted(f.name for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))


def decoded(file: Path, size: Sequence[int], channels: int) -> torch.Tensor:
    """An image file as (channels, *size) bytes.

    Raises:
        UserError: for a file that is no image.
    """
    return pixels(file, size, channels)


def pixels(file: Path | BinaryIO, size: Sequence[int] | None, channels: int | None) -> torch.Tensor:
    """An encoded image as bytes.

    Args:
        file: a file, or its content.
        size: height and width that it is resized to; None: its own.
        channels: 1 for grey, 3 for colour; None: 1 where it is grey, else 3.

    Shape:
        output: (C, H, W).

    Raises:
        UserError: for what is no image.
    """
    from PIL import Image

    try:
        with Image.open(file) as image:
            return image_pixels(image, size, channels)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{file} cannot be read as an image: {error}") from None


def image_pixels(image: Any, size: Sequence[int] | None, channels: int | None) -> torch.Tensor:
    """An image of PIL as bytes, (C, H, W); see `pixels`."""
    import numpy as np
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits, of which PIL would keep the lower ones
        image = Image.fromarray((np.asarray(image, dtype=np.float32) / 257).clip(0, 255).astype(np.uint8))
    is_grey = channels == 1 or (channels is None and image.mode in ("L", "1", "LA"))
    image = image.convert("L" if is_grey else "RGB")
    if size is not None:
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    found = torch.from_numpy(np.array(image))
    found = found[None] if is_grey else found.permute(2, 0, 1)
    return found.contiguous()


def new_images(
    source: Path | str,
    shape: Sequence[int],
    transforms: Sequence[Any],
    convert: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> Iterator[torch.Tensor]:
    """Images to predict for.

    Args:
        source: an image file, or a folder of them.
        shape: channels, height and width that each becomes.
        transforms: of the run's images, see augment.transforms.
        convert: makes the numbers that the run's images have of bytes; before the transforms.

    Raises:
        UserError: for a text, a file that is no image, or a folder without any.
    """
    if isinstance(source, str):
        raise UserError("predict: give image files; a text is no image")
    files = sorted(f for f in source.rglob("*") if f.suffix.lower() in EXTENSIONS) if source.is_dir() else [source]
    if not files:
        raise UserError(f"{source} holds no image  (known endings: {' '.join(sorted(EXTENSIONS))})")
    if shape[0] not in (1, 3):
        raise UserError(f"predict: the run's images have {shape[0]} channels; image files have 1 or 3")
    apply = composed(list(transforms), at_random=False) if transforms else None
    for file in files:
        image = decoded(file, shape[1:], shape[0])
        image = image if convert is None else convert(image)
        yield image if apply is None else apply(image)
