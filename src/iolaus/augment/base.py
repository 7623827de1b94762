"""Augmentation of whole batches: a function of the batch and of a generator that is keyed by (seed, epoch, batch)."""

from abc import ABC, abstractmethod

import torch

Batch = tuple[torch.Tensor, torch.Tensor]


def beside(drawn: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """What was drawn on the processor, on the inputs' device, which is not waited for."""
    return drawn.to(inputs.device, non_blocking=True)


class Augmentation(ABC):
    """Changes a training batch; the same batch and generator state give the same result. A data set of several inputs hands them all over.

    Shape:
        inputs: (B, C, H, W), bytes or floats, on any device; target: (B,) or (B, T).
    """

    @abstractmethod
    def __call__(self, inputs: torch.Tensor, target: torch.Tensor, generator: torch.Generator) -> Batch:
        """The batch to train on instead."""
