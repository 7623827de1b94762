"""Models of users and items against their formulas in NumPy."""

import numpy as np
import pytest
import torch

from iolaus.model.matrix_factorization import MatrixFactorization
from iolaus.model.two_towers import TwoTowers

USERS = torch.tensor([0, 4, 2])
ITEMS = torch.tensor([[0, 5, 6], [3, 3, 1], [6, 2, 0]])


def test_matrix_factorization_is_its_formula():
    torch.manual_seed(0)
    model = MatrixFactorization(5, 7, hidden_dim=4, std=1.0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    p, q, b_u, b_i = (m.weight.detach().numpy() for m in (model.user, model.item, model.user_bias, model.item_bias))
    expected = [
        [model.bias.item() + b_u[u, 0] + b_i[i, 0] + p[u] @ q[i] for i in row]
        for u, row in zip(USERS.tolist(), ITEMS.tolist(), strict=True)
    ]
    np.testing.assert_allclose(model(USERS, ITEMS).detach().numpy(), expected, rtol=1e-5)


def tower(network, numbers):
    """The perceptron of a tower, by hand."""
    vectors, first, _, last = network
    x = vectors.weight.detach().numpy()[numbers]
    hidden = np.maximum(x @ first.weight.detach().numpy().T + first.bias.detach().numpy(), 0)
    return hidden @ last.weight.detach().numpy().T + last.bias.detach().numpy()


@pytest.mark.parametrize("normalize", [False, True])
def test_two_towers_are_their_formula(normalize):
    torch.manual_seed(0)
    model = TwoTowers(5, 7, hidden_dim=4, hidden_dims=(6,), normalize=normalize, temperature=0.5, std=1.0)
    user, item = tower(model.user, USERS.numpy()), tower(model.item, ITEMS.numpy())
    if normalize:
        user, item = (side / np.linalg.norm(side, axis=-1, keepdims=True) for side in (user, item))
    expected = np.einsum("bd,bcd->bc", user, item) / 0.5
    np.testing.assert_allclose(model(USERS, ITEMS).detach().numpy(), expected, rtol=1e-4, atol=1e-6)
    assert not normalize or np.abs(expected).max() <= 2


def test_items_that_go_through_their_tower_once_have_the_same_scores_and_gradients():
    torch.manual_seed(0)
    model = TwoTowers(5, 7, hidden_dim=4, std=1.0)
    scores = model(USERS, ITEMS)  # nine candidates of seven items
    one_by_one = torch.cat([model(USERS, column[:, None]) for column in ITEMS.T], 1)
    torch.testing.assert_close(scores, one_by_one)
    found, expected = (torch.autograd.grad(s.square().sum(), list(model.parameters())) for s in (scores, one_by_one))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", [MatrixFactorization, TwoTowers])
def test_every_weight_that_a_batch_touches_has_a_gradient(model):
    torch.manual_seed(0)
    network = model(5, 7, std=0.1)
    scores = network(USERS, ITEMS)
    assert scores.shape == (3, 3)
    scores.square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: MatrixFactorization(2, 2, std=0.0), "std must be above 0; received 0.0"),
        (lambda: TwoTowers(2, 2, temperature=0.0), "temperature must be above 0; received 0.0"),
        (lambda: TwoTowers(2, 2, activation="Relu6"), "activation must be a class of torch.nn"),
    ],
)
def test_arguments_that_cannot_be(make, says):
    with pytest.raises(ValueError, match=says):
        make()
