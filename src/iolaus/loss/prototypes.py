"""Losses of pairs and triplets for class labels: each class is represented by its unit vector."""

from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F


class Prototypes(nn.Module):
    """A loss of torch for pairs or triplets, of outputs and the prototypes of classes, the C unit vectors.

    The nearest prototype of an output is that of its largest number, so predictions mean what they always do. A sample is compared

    - `scores`: by its score of the true class and that of each other, which must be ranked below (MarginRankingLoss);
    - `distance`: by its distance to each prototype, near for the true class (HingeEmbeddingLoss);
    - `pair`: with each prototype, alike for the true class (CosineEmbeddingLoss);
    - `triplet`: with the prototypes of the true class and of the likeliest other one (TripletMarginLoss).

    Args:
        loss: of torch.
        compare: how, as above.

    Shape:
        output: (B, C); target: (B,) classes; loss: ().
    """

    def __init__(self, loss: nn.Module, compare: Literal["scores", "distance", "pair", "triplet"]):
        super().__init__()
        self.loss = loss
        self.compare = compare

    def forward(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss."""
        classes = output.shape[1]
        true = F.one_hot(target, classes).bool()
        prototypes = torch.eye(classes, dtype=output.dtype, device=output.device)
        signs = torch.where(true, 1.0, -1.0).to(output.dtype)
        if self.compare == "scores":
            others = output[~true].reshape(-1, classes - 1)
            ahead = output[true][:, None].expand_as(others)
            return self.loss(ahead, others, torch.ones_like(others))
        if self.compare == "distance":
            return self.loss(torch.cdist(output, prototypes), signs)
        if self.compare == "pair":
            pairs = output.repeat_interleave(classes, 0), prototypes.repeat(len(output), 1)
            return self.loss(*pairs, signs.flatten())
        wrong = output.masked_fill(true, -torch.inf).argmax(1)
        return self.loss(output, prototypes[target], prototypes[wrong])
