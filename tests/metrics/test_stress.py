"""Stress and mean bias against numpy, for any batching."""

import numpy as np
import pytest
import torch
from torchmetrics import MetricCollection

from iolaus.metrics.mean_bias import MeanBiasError
from iolaus.metrics.stress import NormalizedStress, RawStress


@pytest.mark.parametrize("size", [50, 7, 1])
def test_stress_and_bias_for_any_batching(size):
    torch.manual_seed(0)
    preds, target = torch.rand(50), torch.rand(50)
    metrics = MetricCollection({"raw": RawStress(), "normalized": NormalizedStress(), "bias": MeanBiasError()})
    for p, t in zip(preds.split(size), target.split(size), strict=True):
        metrics.update(p, t)
    assert sorted(map(sorted, metrics.compute_groups.values())) == [["bias"], ["normalized", "raw"]]
    p, t = preds.double().numpy(), target.double().numpy()
    expected = {
        "raw": np.sum((p - t) ** 2),
        "normalized": np.linalg.norm(p - t) / np.linalg.norm(t),
        "bias": np.mean(t - p),
    }
    assert {n: v.item() for n, v in metrics.compute().items()} == pytest.approx(expected, rel=1e-5)


def test_a_map_of_one_point_has_stress_one():
    assert NormalizedStress()(torch.zeros(5), torch.rand(5) + 1) == 1


def test_the_bias_of_predictions_that_are_too_small_is_above_zero():
    assert MeanBiasError()(torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0, 4.0]])) == 1.5
