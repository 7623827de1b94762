"""Correlations of predictions and targets."""

import torch

from iolaus.metrics.moments import ERROR, PRED, TARGET, Moments

COVARIANCE = 3


class PearsonCorrelation(Moments):
    """cov(y, p) / (std(y) std(p)): how far predictions follow targets, in any unit; NaN where either are all equal. See Moments."""

    undefined_because = "there are fewer than two samples, or all predictions or all targets are equal"

    def scores(self, count: torch.Tensor, means: torch.Tensor, products: torch.Tensor) -> torch.Tensor:
        """As the class says, (T,)."""
        return products[COVARIANCE] / (products[TARGET].sqrt() * products[PRED].sqrt())


class ConcordanceCorrelation(Moments):
    """2 cov(y, p) / (var(y) + var(p) + (mean y - mean p)^2): how close predictions are to targets. See Moments.

    It is NaN where all are one value.

    Reference:
        Lin, Biometrics 45, 1989.
    """

    undefined_because = "there are fewer than two samples, or all predictions and targets are one value"

    def scores(self, count: torch.Tensor, means: torch.Tensor, products: torch.Tensor) -> torch.Tensor:
        """As the class says, (T,)."""
        between = count * means[ERROR].square()
        return 2 * products[COVARIANCE] / (products[TARGET] + products[PRED] + between)
