"""Shift images by a few pixels, as cropping from a padded image does."""

import torch

from iolaus.augment.base import Augmentation, Batch, beside, is_spatial


class Crop(Augmentation):
    """Crops each image at a random place from itself padded by reflection, and its target at the same place where that is an image too.

    Args:
        padding: pixels on each side.

    Raises:
        ValueError: for a negative padding.
    """

    def __init__(self, padding: int = 4):
        if padding < 0:
            raise ValueError(f"padding must be at least 0; received {padding}")
        self.padding = padding

    def __call__(self, inputs: torch.Tensor, target: torch.Tensor, generator: torch.Generator) -> Batch:
        """One gather with reflected coordinates; no padded copy is made."""
        batch, _, height, width = inputs.shape
        shift = beside(torch.randint(-self.padding, self.padding + 1, (2, batch, 1), generator=generator), inputs)
        rows = _reflect(torch.arange(height, device=inputs.device) + shift[0], height)  # (B, H)
        columns = _reflect(torch.arange(width, device=inputs.device) + shift[1], width)  # (B, W)
        moved = _picked(inputs, rows, columns)
        if not is_spatial(target, inputs):
            return moved, target
        channels = target.reshape(batch, -1, height, width)
        return moved, _picked(channels, rows, columns).reshape(target.shape)


def _picked(images: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    image = torch.arange(len(images), device=images.device)[:, None, None]
    picked = images[image, :, rows[:, :, None], columns[:, None, :]]  # (B, H, W, C)
    return picked.permute(0, 3, 1, 2).contiguous()


def _reflect(index: torch.Tensor, size: int) -> torch.Tensor:
    """Coordinates outside 0 .. size-1 mirrored at the border pixel, however far outside."""
    period = max(2 * (size - 1), 1)
    index = index.remainder(period)
    return torch.minimum(index, period - index)
