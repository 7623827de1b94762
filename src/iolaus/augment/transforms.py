"""Transforms of torchvision as lists in YAML. https://pytorch.org/vision/stable/transforms.html."""

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import torch

from iolaus.augment.base import Augmentation, Batch, is_spatial
from iolaus.errors import UserError, did_you_mean

# Transforms that draw at random and whose name does not say so.
AT_RANDOM = {"AugMix", "AutoAugment", "ColorJitter", "ElasticTransform", "GaussianNoise", "RandAugment", "ScaleJitter"}
AT_RANDOM |= {"TrivialAugmentWide", "JPEG"}


class Transforms(Augmentation):
    """Random transforms of torchvision, drawn anew for each image; of a mask as target the same ones, in nearest pixels.

    Args:
        transforms: names of torchvision.transforms.v2 (`RandomHorizontalFlip`), or names with arguments (`RandomRotation: {degrees: 10}`).

    Raises:
        ValueError: for a name or an argument that torchvision does not have.
    """

    def __init__(self, transforms: list[Any]):
        self.apply = composed(transforms)

    def __call__(self, inputs: torch.Tensor, target: torch.Tensor, generator: torch.Generator) -> Batch:
        """One image after another: torchvision draws once a call."""
        seed = int(torch.randint(2**62, (), generator=generator))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if not is_spatial(target, inputs):
                return torch.stack([self.apply(image) for image in inputs]), target
            pairs = [apply_to_both(self.apply, *pair) for pair in zip(inputs, target, strict=True)]
        images, masks = zip(*pairs, strict=True)
        return torch.stack(images), torch.stack(masks)


def apply_to_both(
    apply: Callable[..., Any], images: torch.Tensor, masks: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Apply a transform to images and their masks: both are moved alike, masks in nearest pixels; colours change in images alone.

    Shape:
        images: (..., C, H, W); masks: (..., H, W).

    Raises:
        UserError: for a transform that leaves masks out.
    """
    from torchvision import tv_tensors

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*passing through inputs.*")
            moved = apply(tv_tensors.Image(images), tv_tensors.Mask(masks))
    except (UserWarning, TypeError) as error:
        raise UserError(f"transforms: targets are masks, and one transform moves images alone: {error}") from None
    image, mask = (part.as_subclass(torch.Tensor) for part in moved)
    return image, mask


def composed(transforms: list[Any], at_random: bool = True) -> Callable[..., Any]:
    """The transforms of a list, one after another.

    Args:
        transforms: as Transforms takes them.
        at_random: whether they may draw at random.

    Raises:
        ValueError: as Transforms does, and for random ones where they may not be.
    """
    from torchvision.transforms import v2

    names = {
        name for name in dir(v2) if inspect.isclass(getattr(v2, name)) and issubclass(getattr(v2, name), v2.Transform)
    }
    made = []
    for number, description in enumerate(transforms):
        where = f"transforms.{number}"
        is_named = isinstance(description, dict) and len(description) == 1
        if not isinstance(description, str) and not is_named:
            raise ValueError(f"{where}: write NAME or NAME: {{ARGUMENT: VALUE}}; received {description!r}")
        name, arguments = (description, {}) if isinstance(description, str) else next(iter(description.items()))
        if name not in names - {"Transform"}:
            raise ValueError(f"{where}: torchvision.transforms.v2 has no {name!r}{did_you_mean(name, names)}")
        if not at_random and (name.startswith("Random") or name in AT_RANDOM):
            raise ValueError(
                f"{where}: {name} draws at random, which is for training batches alone: "
                f"augment=[transforms] 'augment.transforms.transforms=[{name}]'"
            )
        known = inspect.signature(getattr(v2, name)).parameters
        for key in (arguments or {}).keys() - known.keys():
            raise ValueError(f"{where}.{name}: it has no argument {key!r}{did_you_mean(key, known)}")
        try:
            made.append(getattr(v2, name)(**_dtypes(arguments or {})))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: {name}: {' '.join(str(error).split())[:200]}") from None
    return v2.Compose(made)


def _dtypes(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments with dtypes, which YAML holds as text."""
    return {k: getattr(torch, str(v), v) if k == "dtype" else v for k, v in arguments.items()}
