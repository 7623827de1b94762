"""Mirror images left to right."""

import torch

from iolaus.augment.base import Augmentation, Batch, beside, is_spatial


class Flip(Augmentation):
    """Mirrors each image with a probability, and its target where that is an image too.

    Args:
        probability: of an image to be mirrored.

    Raises:
        ValueError: for a probability outside [0, 1].
    """

    def __init__(self, probability: float = 0.5):
        if not 0 <= probability <= 1:
            raise ValueError(f"probability must be in [0, 1]; received {probability}")
        self.probability = probability

    def __call__(self, inputs: torch.Tensor, target: torch.Tensor, generator: torch.Generator) -> Batch:
        """Mirror the chosen images."""
        chosen = beside(torch.rand(len(inputs), generator=generator) < self.probability, inputs)
        return _mirrored(inputs, chosen), _mirrored(target, chosen) if is_spatial(target, inputs) else target


def _mirrored(images: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    return torch.where(chosen.reshape(-1, *[1] * (images.ndim - 1)), images.flip(-1), images)
