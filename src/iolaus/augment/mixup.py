"""Blend pairs of samples and their targets. Zhang, Cisse, Dauphin and Lopez-Paz, https://arxiv.org/abs/1710.09412."""

import random

import torch
import torch.nn.functional as F

from iolaus.augment.base import Augmentation, Batch, beside
from iolaus.errors import UserError


class Mixup(Augmentation):
    """share * batch + (1 - share) * the batch in another order, for inputs and targets; share ~ Beta(alpha, alpha), one a batch.

    Labels become probabilities (B, num_classes), which cross entropy takes. Scores of the training split then compare with
    the likelier label.

    Args:
        alpha: of the Beta distribution; the larger, the stronger the blend.
        num_classes: number of classes; None for real targets.

    Raises:
        ValueError: for an alpha that is not positive.
    """

    def __init__(self, alpha: float = 0.2, num_classes: int | None = None):
        if alpha <= 0:
            raise ValueError(f"alpha must be above 0; received {alpha}")
        self.alpha = alpha
        self.num_classes = num_classes

    def __call__(self, inputs: torch.Tensor, target: torch.Tensor, generator: torch.Generator) -> Batch:
        """Blend.

        Raises:
            UserError: for classes that cannot become probabilities, such as those of a mask's pixels.
        """
        is_classes = not target.is_floating_point()
        if is_classes and (target.ndim != 1 or self.num_classes is None):
            raise UserError(
                f"augment=[mixup]: targets of shape {list(target.shape)} are whole numbers, whose blends mean nothing; "
                "it takes one class for each sample, with augment.mixup.num_classes, or real numbers"
            )
        seed = int(torch.randint(2**62, (), generator=generator))
        share = random.Random(seed).betavariate(self.alpha, self.alpha)
        order = beside(torch.randperm(len(inputs), generator=generator), inputs)
        if is_classes and self.num_classes is not None:
            target = F.one_hot(target, self.num_classes)
        inputs, target = inputs.float(), target.float()
        return share * inputs + (1 - share) * inputs[order], share * target + (1 - share) * target[order]
