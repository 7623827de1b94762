"""Area under the ROC curve of one score, which may be a logit."""

from typing import Any

import torch
from torchmetrics.classification import BinaryAUROC
from torchmetrics.utilities import dim_zero_cat


class AUC(BinaryAUROC):
    """Chance that a candidate with a click has a larger score than one without, a tie counting half; NaN if there are not both.

    torchmetrics squashes a batch of scores to (0, 1) only if one of them lies outside, so its value for logits depends on the batches,
    and large ones become ties. Here scores are compared as they are.

    Args:
        base: the settings that every torchmetrics Metric has.

    Shape:
        preds: (N,) scores; target: (N,) clicks, 0 or 1.
    """

    undefined_because = "the split has no candidate with a click, or none without"

    def __init__(self, **base: Any):
        super().__init__(max_fpr=None, thresholds=None, **base)

    def update(self, preds: torch.Tensor, target: torch.Tensor) -> None:
        """Keep candidates."""
        self.preds.append(preds.flatten())
        self.target.append(target.flatten().long())

    def compute(self) -> torch.Tensor:  # type: ignore[override]
        """The area, a 0-d tensor."""
        target = dim_zero_cat(self.target)
        if target.min() == target.max():
            return torch.tensor(float("nan"), device=target.device)
        return super().compute()
