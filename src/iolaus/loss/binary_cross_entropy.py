"""Binary cross entropy of each class against the rest."""

import torch
from torch import nn
from torch.nn import functional as F


class BinaryCrossEntropy(nn.Module):
    """The mean over samples and classes of -(y log p + (1 - y) log(1 - p)), with p the sigmoid of the class's own logit.

    Shape:
        output: (B, C) logits; target: (B,) classes, or (B, C) probabilities; loss: ().
    """

    def forward(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss."""
        if target.ndim == 1:
            target = F.one_hot(target, output.shape[1])
        return F.binary_cross_entropy_with_logits(output, target.to(output.dtype))
