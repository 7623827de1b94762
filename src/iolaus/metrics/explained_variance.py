"""Share of the targets' variance that predictions explain, whatever their mean error is."""

import torch

from iolaus.metrics.moments import ERROR, TARGET, Moments, share_explained


class ExplainedVariance(Moments):
    """1 - var(y - p) / var(y): R2 of predictions whose mean error is taken off; NaN for fewer than two samples. See Moments."""

    def scores(self, count: torch.Tensor, means: torch.Tensor, products: torch.Tensor) -> torch.Tensor:
        """As the class says, (T,)."""
        return share_explained(products[ERROR], products[TARGET])
