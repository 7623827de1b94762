"""Float64 arithmetic on every device: on the processor, where the device itself has none (Apple's MPS)."""

from typing import Any

import torch
from torch.utils._pytree import tree_map


def has_float64(device: torch.device) -> bool:
    """Whether a device computes in float64."""
    return device.type != "mps"


def to_float64(values: torch.Tensor) -> torch.Tensor:
    """The same numbers in float64, moved to the processor where their device has no float64."""
    return values.double() if has_float64(values.device) else values.cpu().double()


def move_to_float64_device(values: Any) -> Any:
    """Tensors, alone or in containers, on the processor where their device has no float64; anything else as it is."""
    return tree_map(
        lambda part: part.cpu() if isinstance(part, torch.Tensor) and not has_float64(part.device) else part, values
    )
