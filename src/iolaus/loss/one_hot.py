"""Losses of torch that compare whole rows of outputs and targets, for class labels."""

from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F


class OneHot(nn.Module):
    """A loss of torch between outputs of all classes and the label's row.

    The row is one for the label and zero for the others (`one_hot`), one and minus one (`signs`), or the label followed by -1
    (`index`), as the loss wants it.

    Args:
        loss: takes (B, C) and (B, C).
        output: what is done to logits first.
        target: how labels are written.

    Shape:
        output: (B, C) logits; target: (B,) classes, or (B, C) probabilities; loss: ().

    Raises:
        ValueError: for probabilities where labels must be written as an index.
    """

    def __init__(
        self,
        loss: nn.Module,
        output: Literal["logits", "sigmoid", "log_softmax"],
        target: Literal["one_hot", "signs", "index"],
    ):
        super().__init__()
        self.loss = loss
        self.output = output
        self.target = target

    def forward(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss."""
        if self.target == "index":
            if target.ndim != 1:
                raise ValueError("this loss takes labels and no probabilities, as augment=mixup makes them")
            rows = F.pad(target[:, None], (0, output.shape[1] - 1), value=-1)
        else:
            rows = (F.one_hot(target, output.shape[1]) if target.ndim == 1 else target).to(output.dtype)
            if self.target == "signs":
                rows = 2 * rows - 1
        if self.output != "logits":
            output = output.sigmoid() if self.output == "sigmoid" else output.log_softmax(1)
        return self.loss(output, rows)
