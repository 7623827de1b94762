"""Augmentation of whole batches: a function of the batch and of a generator that is keyed by (seed, epoch, batch)."""

from abc import ABC, abstractmethod

import torch

from iolaus.errors import UserError

Batch = tuple[torch.Tensor, torch.Tensor]


def beside(drawn: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """What was drawn on the processor, on the inputs' device, which is not waited for."""
    return drawn.to(inputs.device, non_blocking=True)


def is_spatial(target: torch.Tensor, inputs: torch.Tensor) -> bool:
    """Whether the targets of a batch are images themselves, such as masks: what moves an image must move its target too.

    Shape:
        inputs: (B, C, H, W); target: (B, H, W) or (B, C', H, W) where it is spatial, (B,) or (B, T) where it is not.

    Raises:
        UserError: for targets of another shape, such as boxes, of which nobody knows how they move.
    """
    if target.ndim < 3:
        return False
    if target.shape[-2:] != inputs.shape[-2:]:
        raise UserError(
            f"targets of shape {list(target.shape)} cannot be moved with images of {list(inputs.shape)}; give them the images' "
            "height and width, or leave out augment and data.transforms"
        )
    return True


class Augmentation(ABC):
    """Changes a training batch; the same batch and generator state give the same result. A data set of several inputs hands them all over.

    Where the target is an image too, an augmentation that moves images moves it by the same amount, or refuses it.

    Shape:
        inputs: (B, C, H, W), bytes or floats, on any device; target: (B,), (B, T), (B, H, W) or (B, C', H, W).
    """

    @abstractmethod
    def __call__(self, inputs: torch.Tensor, target: torch.Tensor, generator: torch.Generator) -> Batch:
        """The batch to train on instead."""
