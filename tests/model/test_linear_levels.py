"""The same linear model as a list of layers, as a module and from bare parameters."""

import torch
from torch import nn

from iolaus.model.affine import Affine, AffineNetwork
from iolaus.model.linear import Linear
from iolaus.model.sequential import Sequential


def test_three_levels_agree():
    torch.manual_seed(0)
    high, middle, low = Sequential(["Flatten"], [4], 3), Linear([4], 3), AffineNetwork([4], 3)
    weight, bias = torch.randn(3, 4), torch.randn(3)
    with torch.no_grad():
        for parameters, values in ((high, weight), (middle, weight), (low, weight.T)):
            own_weight, own_bias = parameters.parameters()
            own_weight.copy_(values)
            own_bias.copy_(bias)
    x = torch.randn(5, 4)
    for model in (high, middle, low):
        torch.testing.assert_close(model(x), x @ weight.T + bias)


def test_affine_maps_four_numbers_to_three_and_two_of_them_to_one():
    assert Affine(4, 3)(torch.randn(4)).shape == (3,)
    model = AffineNetwork([4], 1, [3])
    x = torch.randn(6, 4)
    first, second = model.layers
    assert [p.shape for p in model.parameters()] == [(4, 3), (3,), (3, 1), (1,)]
    torch.testing.assert_close(model(x), second(torch.relu(first(x))))


def test_bare_parameters_are_drawn_as_those_of_torch_s_linear():
    torch.manual_seed(0)
    ours, theirs = Affine(100, 300), nn.Linear(100, 300)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert abs(a.std() / b.std() - 1) < 0.1
        assert a.abs().max() <= 0.1
