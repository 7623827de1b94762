"""Area under the ROC curve, averaged over the classes that occur."""

from typing import Any

import torch
from torchmetrics.classification import MulticlassAUROC
from torchmetrics.functional.classification import binary_auroc


class AUROC(MulticlassAUROC):
    """Mean over classes of the area under each class's ROC curve against the rest.

    A class without samples, or without samples of other classes, has no ROC curve and is left out; torchmetrics counts it as 0,
    which pulls the mean down on small splits. Without any curve the value is NaN.

    Args:
        num_classes: number of classes.
        validate_args: whether each update looks at all labels and predictions for values out of range.
        base: the settings that every torchmetrics Metric has.

    Shape:
        preds: (N, num_classes) probabilities or logits; target: (N,).
    """

    def __init__(self, num_classes: int, validate_args: bool = False, **base: Any):
        super().__init__(num_classes, average=None, thresholds=None, validate_args=validate_args, **base)

    def compute(self) -> torch.Tensor:  # type: ignore[override]
        """The mean, a 0-d tensor."""
        counts = sum(torch.bincount(part, minlength=self.num_classes) for part in self.target)
        present = ((counts > 0) & (counts < counts.sum())).nonzero()[:, 0].tolist()  # type: ignore[union-attr]
        if not present:
            return torch.tensor(float("nan"), device=self.device)
        # One curve at a time, from what is kept batch by batch: the whole in one piece would take the predictions' memory twice.
        return torch.stack(
            [
                binary_auroc(
                    torch.cat([part[:, c] for part in self.preds]),
                    torch.cat([part == c for part in self.target]).long(),
                    validate_args=False,
                )
                for c in present
            ]
        ).mean()
