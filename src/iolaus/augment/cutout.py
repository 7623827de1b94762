"""Hide a square of each image. DeVries and Taylor, https://arxiv.org/abs/1708.04552."""

import torch

from iolaus.augment.base import Augmentation, Batch, beside, is_spatial
from iolaus.errors import UserError


class Cutout(Augmentation):
    """Fills a square, whose centre may be anywhere in the image, with the batch's mean colour.

    Args:
        size: side of the square in pixels.

    Raises:
        ValueError: for a size below 1.
    """

    def __init__(self, size: int = 8):
        if size < 1:
            raise ValueError(f"size must be at least 1; received {size}")
        self.size = size

    def __call__(self, inputs: torch.Tensor, target: torch.Tensor, generator: torch.Generator) -> Batch:
        """Fill the squares.

        Raises:
            UserError: for targets that are images: they would show what is hidden.
        """
        if is_spatial(target, inputs):
            raise UserError(
                f"augment=[cutout]: targets of shape {list(target.shape)} are images, which would show what is hidden in the inputs; "
                "take flip, crop or transforms, which move both"
            )
        batch, _, height, width = inputs.shape
        top = beside(torch.randint(height, (batch, 1), generator=generator), inputs) - self.size // 2
        left = beside(torch.randint(width, (batch, 1), generator=generator), inputs) - self.size // 2
        rows, columns = torch.arange(height, device=inputs.device), torch.arange(width, device=inputs.device)
        inside_rows = (rows >= top) & (rows < top + self.size)  # (B, H)
        inside_columns = (columns >= left) & (columns < left + self.size)  # (B, W)
        hidden = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]
        colour = inputs.float().mean((0, 2, 3), keepdim=True).to(inputs.dtype)
        return torch.where(hidden, colour, inputs), target
