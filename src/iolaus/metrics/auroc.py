"""Area under the ROC curve, averaged over the classes that occur."""

from typing import Any

import torch
from torchmetrics.classification import MulticlassAUROC
from torchmetrics.functional.classification import binary_auroc
from torchmetrics.utilities import dim_zero_cat


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
        preds, target = dim_zero_cat(self.preds), dim_zero_cat(self.target)
        self.preds, self.target = [preds], [target]  # the parts need not be kept beside the whole
        counts = torch.bincount(target, minlength=self.num_classes)
        present = ((counts > 0) & (counts < len(target))).nonzero()[:, 0].tolist()
        if not present:
            return torch.tensor(float("nan"), device=target.device)
        # One curve at a time: those of all classes together would take several times the predictions' memory.
        return torch.stack(
            [binary_auroc(preds[:, c], (target == c).long(), validate_args=False) for c in present]
        ).mean()
