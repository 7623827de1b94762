"""Refuse splits whose images hold no information."""

from collections.abc import Mapping

import torch
from torch.utils.data import Dataset

from iolaus.errors import UserError

MAX_IMAGES = 64  # of a split that are read, where they are not in memory


def refuse_constant_images(datasets: Mapping[str, Dataset], rows: Mapping[str, torch.Tensor]) -> None:
    """Refuse data sets with a split of images that are all one value, as after a wrong scaling.

    Args:
        datasets: by split; an item is the image, (C, H, W), and the target.
        rows: of each split.

    Raises:
        UserError: naming the split and the value.
    """
    for split, own in rows.items():
        places = own if hasattr(datasets[split], "tensors") else own[_spread(len(own))]
        if len(places) > 1 and (value := _shared_value(datasets[split], places)) is not None:
            raise UserError(
                f"data: every pixel of the images of the {split} split is {value:g}, so there is nothing to learn from; look at the "
                "files, and at data.value_range, which says what is black and white in images of more than 8 bits"
            )


def _spread(count: int) -> torch.Tensor:
    """Places of up to MAX_IMAGES rows from the first to the last."""
    return torch.linspace(0, count - 1, min(count, MAX_IMAGES)).long()


def _shared_value(dataset: Dataset, rows: torch.Tensor) -> float | None:
    """Return the value that all pixels share; None at the first that differs."""
    value: torch.Tensor | None = None
    for row in rows:
        image = dataset[int(row)][0]
        value = image.flatten()[0] if value is None else value
        if not bool((image == value).all()):
            return None
    return None if value is None else float(value)
