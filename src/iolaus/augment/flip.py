"""Mirror images left to right."""

import torch

from iolaus.augment.base import Augmentation, Batch, beside


class Flip(Augmentation):
    """Mirrors each image with a probability.

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
        return torch.where(chosen[:, None, None, None], inputs.flip(-1), inputs), target
