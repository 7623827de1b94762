"""Fixed transforms of images, and of targets that are images."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset, TensorDataset

from iolaus.augment.base import is_spatial
from iolaus.augment.transforms import apply_to_both, composed
from iolaus.data.order import BLOCK
from iolaus.errors import UserError


def transform(datasets: Mapping[str, Dataset], transforms: Sequence[Any]) -> tuple[dict[str, Dataset], tuple[int, ...]]:
    """Transform the images of data sets, at once where they are in memory.

    Args:
        datasets: by split.
        transforms: as augment.transforms takes them, without random ones.

    Returns:
        the data sets, and the shape of a transformed image.

    Raises:
        UserError: for a transform that does not fit the images.
    """
    try:
        apply = composed(list(transforms), at_random=False)
        done: dict[str, Dataset] = {
            name: _transformed_tensors(d, apply) if isinstance(d, TensorDataset) else Transformed(d, apply)
            for name, d in datasets.items()
        }
        return done, tuple(done["train"][0][0].shape)
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"data.{' '.join(str(error).split())[:300]}") from error


class Transformed(Dataset):
    """Data set outside memory that transforms images, and targets that are images, when they are read."""

    def __init__(self, dataset: Dataset, apply: Callable[..., Any]):
        self.dataset = dataset
        self.apply = apply
        self.targets = getattr(dataset, "targets", None)

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Any]:
        image, target = self.dataset[index]
        if isinstance(target, torch.Tensor) and is_spatial(target[None], image[None]):
            return apply_to_both(self.apply, image, target)
        return self.apply(image), target

    def fingerprint(self) -> str:
        """That of the data set."""
        describe = getattr(self.dataset, "fingerprint", None)
        return describe() if describe is not None else ""


def _transformed_tensors(dataset: TensorDataset, apply: Callable[..., Any]) -> TensorDataset:
    images, *others = dataset.tensors
    if not is_spatial(others[-1], images):
        return TensorDataset(torch.cat([apply(block) for block in images.split(BLOCK)]), *others)
    pairs = [apply_to_both(apply, *pair) for pair in zip(images.split(BLOCK), others[-1].split(BLOCK), strict=True)]
    moved, targets = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    return TensorDataset(moved, *others[:-1], targets)
