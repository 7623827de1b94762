"""Points of a map: distances by scipy, the stress' gradient in closed form."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist

from iolaus.loss.stress import Stress
from iolaus.model.points import Points


def test_squared_distances():
    torch.manual_seed(0)
    model = Points(9, dim=3)
    i, j = torch.triu_indices(9, 9, 1)
    expected = pdist(model.points.detach().double().numpy(), "sqeuclidean")
    np.testing.assert_allclose(model(i, j).detach(), expected, rtol=1e-5)


def test_the_gradient_of_the_stress_in_closed_form():
    """For sum_{i<j} (||W_i - W_j||^2 - t_ij)^2 it is 4 sum_j (||W_i - W_j||^2 - t_ij) (W_i - W_j)."""
    torch.manual_seed(0)
    model = Points(7, dim=2).double()
    t = torch.rand(7, 7, dtype=torch.float64)
    t = (t + t.T).fill_diagonal_(0)
    i, j = torch.triu_indices(7, 7, 1)
    Stress("sum")(model(i, j), t[i, j]).backward()
    w = model.points.detach()
    away = w[:, None] - w[None]
    expected = 4 * ((away.square().sum(-1) - t)[..., None] * away).sum(1)
    torch.testing.assert_close(model.points.grad, expected)


def test_impossible_sizes_are_told():
    with pytest.raises(ValueError, match="num_points and dim must be positive; received 5 and 0"):
        Points(5, dim=0)
