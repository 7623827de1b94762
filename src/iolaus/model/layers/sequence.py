"""Inputs as sequences, for models that read one step after another."""

from collections.abc import Sequence

import torch


def as_sequence(x: torch.Tensor) -> torch.Tensor:
    """Images as sequences of their rows, rows of numbers as sequences of numbers; sequences as they are.

    Shape:
        input: (B, C, H, W), (B, T, D) or (B, F); output: (B, H, C W), (B, T, D) or (B, F, 1).
    """
    if x.ndim == 4:
        return x.transpose(1, 2).flatten(2)
    return x[..., None] if x.ndim == 2 else x


def sequence_shape(input_shape: Sequence[int]) -> tuple[int, int]:
    """Steps of the sequence that an input becomes, and the size of each."""
    steps, size = as_sequence(torch.empty(1, *input_shape, device="meta")).shape[1:]
    return int(steps), int(size)
