"""Estimates of the gradient against the exact one: unbiased, of the stated variance, at the stated price, with the same randomness."""

import copy
import logging
import math

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from iolaus.functional.keys import mix
from iolaus.gradient.directions import direction
from iolaus.gradient.finite_difference import FiniteDifference
from iolaus.gradient.forward import Forward
from iolaus.gradient.reverse import Reverse
from iolaus.gradient.spsa import SPSA
from iolaus.gradient.two_point import TwoPoint
from iolaus.study.base import Function

NETWORKS = {
    "mlp": lambda: nn.Sequential(nn.Linear(64, 6), nn.Tanh(), nn.Linear(6, 10)),
    "batch norm": lambda: nn.Sequential(nn.Linear(64, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 10)),
    "dropout": lambda: nn.Sequential(nn.Linear(64, 6), nn.Tanh(), nn.Dropout(0.4), nn.Linear(6, 10)),
}
RANDOM = {
    "forward": lambda k=1, law="normal": Forward(k, law),
    "two_point": lambda k=1, law="sphere": TwoPoint(k, law, eps=1e-4),
    "spsa": lambda k=1: SPSA(k, eps=1e-5, gamma=0.0),
}


class Step(nn.Module):
    """A network and its step, which counts evaluations."""

    def __init__(self, network, dtype=torch.float64):
        super().__init__()
        torch.manual_seed(0)
        self.network = NETWORKS[network]() if isinstance(network, str) else network
        self.to(dtype)
        self.count = 0

    def step(self, batch):
        self.count += 1
        inputs, target = batch
        output = self.network(inputs)
        return F.cross_entropy(output, target), output, target


@pytest.fixture(scope="module")
def batch():
    inputs, target = load_digits(return_X_y=True)
    return torch.from_numpy(inputs[:64]) / 16, torch.from_numpy(target[:64])


def gradient(module, estimator, batch, position=(0, 0)):
    """All of the gradient in a row, with the same global random numbers each time."""
    torch.manual_seed(5)
    module.zero_grad()
    loss, _, _ = estimator(module, module.step, batch, position)
    loss.backward()
    return torch.cat([p.grad.reshape(-1) for p in module.parameters() if p.requires_grad])


@pytest.mark.parametrize("network", NETWORKS)
def test_finite_differences_are_the_gradient(network, batch):
    """Of 460 parameters and more, to 1e-6, batch norm's statistics moved once."""
    one, other = Step(network), Step(network)
    exact, estimate = gradient(one, Reverse(), batch), gradient(other, FiniteDifference(), batch)
    assert (exact - estimate).abs().max() < 1e-6 * max(1, exact.abs().max())
    for a, b in zip(one.buffers(), other.buffers(), strict=True):
        assert torch.equal(a, b)


def directions(module, estimator, law, count):
    """Those that the estimator draws at position (0, 0), flat."""
    parameters = {n: p for n, p in module.named_parameters() if p.requires_grad}
    generator = torch.Generator().manual_seed(mix(estimator.seed, 0, 0, 0))
    drawn = [direction(parameters, generator, law) for _ in range(count)]
    return [torch.cat([v[name].reshape(-1) for name in parameters]) for v in drawn]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(("name", "law"), [("forward", "normal"), ("two_point", "sphere"), ("spsa", "rademacher")])
def test_one_direction_gives_the_slope_along_it(name, law, network, batch):
    """(g . v) v, to rounding in forward mode, to eps^2 from two points; dropout and batch norm included."""
    module, estimator = Step(network), RANDOM[name]()
    exact, estimate = gradient(module, Reverse(), batch), gradient(module, estimator, batch)
    (v,) = directions(module, estimator, law, 1)
    tolerance = 1e-9 if name == "forward" else 1e-5
    torch.testing.assert_close(estimate, (exact @ v) * v, rtol=tolerance, atol=tolerance * abs(exact @ v).item())


@pytest.mark.parametrize(
    ("name", "law"),
    [
        ("forward", "normal"),
        pytest.param("forward", "sphere", marks=pytest.mark.slow),
        pytest.param("forward", "rademacher", marks=pytest.mark.slow),
        ("two_point", "sphere"),
        pytest.param("two_point", "normal", marks=pytest.mark.slow),
        ("spsa", "rademacher"),
    ],
)
def test_estimates_are_unbiased_and_as_far_off_as_stated(name, law, batch):
    """Within 4 standard errors for the projection on the gradient, 5.2 for a coordinate; squared error 6 sqrt(2 / d)."""
    count = 1000
    inputs, target = batch
    module = Step(nn.Sequential(nn.Linear(64, 2), nn.Tanh(), nn.Linear(2, 10)))
    few = inputs[:16], target[:16]
    exact = gradient(module, Reverse(), few)
    estimator = RANDOM[name](1) if name == "spsa" else RANDOM[name](1, law)
    drawn = torch.stack([gradient(module, estimator, few, (0, number)) for number in range(count)])
    projections = drawn @ exact / (exact @ exact)
    assert abs((projections.mean() - 1) / (projections.std() / count**0.5)) < 4
    d = len(exact)
    law_of_error = (d + 1 if law == "normal" else d - 1) / count
    error = (drawn.mean(0) - exact).square().sum() / (exact @ exact)
    assert abs(error / law_of_error - 1) < 6 * math.sqrt(2 / d)
    assert ((drawn.mean(0) - exact) / (drawn.std(0) / count**0.5)).abs().max() < 5.2


@pytest.mark.slow
def test_more_tangents_lower_the_variance_as_predicted(batch):
    """Eight tangents: an eighth of the squared error, within a fifth, over 200 estimates."""
    module = Step("mlp")
    exact = gradient(module, Reverse(), batch)

    def error(tangents):
        drawn = [gradient(module, Forward(tangents), batch, (1, n)) for n in range(200)]
        return torch.stack([(g - exact).square().sum() for g in drawn]).mean()

    assert error(1) / error(8) == pytest.approx(8, rel=0.2)


def test_the_sphere_is_symmetric_about_its_centre():
    """The whole vector has the length sqrt(d), and its parts have varying ones."""
    parameters = {"a": torch.empty(30), "b": torch.empty(5, 4)}
    generator = torch.Generator().manual_seed(0)
    drawn = [direction(parameters, generator, "sphere") for _ in range(50)]
    lengths = torch.tensor([[v["a"].norm(), v["b"].norm()] for v in drawn])
    torch.testing.assert_close(lengths.square().sum(1), torch.full((50,), 50.0))
    assert (lengths.std(0) > 0.1).all()


@pytest.mark.parametrize(
    "estimator", [Forward(3), TwoPoint(3), SPSA(2), FiniteDifference()], ids=lambda e: type(e).__name__
)
def test_the_price_is_the_stated_one(estimator, batch):
    module = Step("mlp")
    gradient(module, Reverse(), batch)
    assert module.count == 1
    if isinstance(estimator, FiniteDifference):
        estimator.chunk_size = 1  # calls of the step are evaluations where none are taken together
        estimator._step, estimator._together = 1e-5, False
    if isinstance(estimator, Forward):
        estimator._one_by_one = True
    module.count = 0
    gradient(module, estimator, batch)
    assert module.count == estimator.evaluations(sum(p.numel() for p in module.parameters()))


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(
    "estimator", [Forward(3), TwoPoint(2), SPSA(2), FiniteDifference()], ids=lambda e: type(e).__name__
)
def test_a_step_leaves_what_reverse_mode_leaves(estimator, network, batch):
    """Random state and weights the same bits; buffers moved once, from the first evaluation; no graph is kept."""
    one, other = Step(network), Step(network)
    gradient(one, Reverse(), batch)
    state = torch.get_rng_state()
    saved = []
    torch.manual_seed(5)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        _, output, target = copy.deepcopy(estimator)(other, other.step, batch, (0, 0))
    assert torch.equal(state, torch.get_rng_state())
    assert not saved
    assert not output.requires_grad
    assert torch.equal(target, batch[1])
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)
    for p, q in zip(one.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-4, rtol=0)
        assert torch.equal(p, q) or p.is_floating_point()


@pytest.mark.parametrize("network", ["mlp", "dropout", "batch norm"])
def test_tangents_together_give_what_they_give_one_by_one(network, batch):
    together, apart = Forward(5), Forward(5)
    apart._one_by_one = True
    torch.testing.assert_close(gradient(Step(network), together, batch), gradient(Step(network), apart, batch))
    assert not together._one_by_one


class Encoder(nn.Module):
    """A layer of self-attention over the rows of an image."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 8, dropout=0.3, batch_first=True)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        return self.head(self.layer(x.unflatten(-1, (8, 8))).mean(1))


class Recurrent(nn.Module):
    """Rows of an image through a recurrent layer."""

    def __init__(self, kind):
        super().__init__()
        self.layer = kind(8, 4, batch_first=True)
        self.head = nn.Linear(4, 10)

    def forward(self, x):
        return self.head(self.layer(x.unflatten(-1, (8, 8)))[0][:, -1])


class Tied(nn.Module):
    """A weight that is used twice, and a part that is frozen."""

    def __init__(self):
        super().__init__()
        self.inner, self.again, self.head = (
            nn.Linear(64, 64),
            nn.Linear(64, 64),
            nn.Linear(64, 10).requires_grad_(False),
        )
        self.again.weight = self.inner.weight

    def forward(self, x):
        return self.head(torch.tanh(self.again(torch.tanh(self.inner(x)))))


@pytest.mark.parametrize(
    "network",
    [Encoder, lambda: Recurrent(nn.LSTM), lambda: Recurrent(nn.GRU), Tied],
    ids=["attention", "lstm", "gru", "tied"],
)
@pytest.mark.parametrize(
    "estimator", [Forward(2), TwoPoint(1, eps=1e-4), FiniteDifference()], ids=lambda e: type(e).__name__
)
def test_other_layers(estimator, network, batch):
    """The estimate's projection on its own direction is the slope there; finite differences of small networks equal the gradient."""
    module = Step(network())
    few = batch[0][:4], batch[1][:4]
    if isinstance(estimator, FiniteDifference):
        if isinstance(module.network, Tied):
            return  # of 4,224 parameters; the others have this covered
        torch.testing.assert_close(
            gradient(module, copy.deepcopy(estimator), few), gradient(module, Reverse(), few), atol=1e-6, rtol=0
        )
        return
    with sdpa_kernel(SDPBackend.MATH):  # as forward mode has it: fused attention draws another dropout mask
        exact, found = gradient(module, Reverse(), few), gradient(module, copy.deepcopy(estimator), few)
    count = estimator.evaluations(0) // (1 if isinstance(estimator, Forward) else 2)
    drawn = directions(module, estimator, estimator.distribution, count)
    expected = torch.stack([(exact @ v) * v for v in drawn]).mean(0)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_directions_depend_on_seed_and_position_alone(batch):
    module = Step("mlp")
    first = gradient(module, Forward(seed=3), batch, (4, 7))
    assert torch.equal(first, gradient(module, Forward(seed=3), batch, (4, 7)))
    for other in (Forward(seed=4), Forward(seed=3)):
        position = (4, 7) if other.seed == 4 else (4, 8)
        assert not torch.equal(first, gradient(module, other, batch, position))


def test_ranks_draw_directions_of_their_own(batch, monkeypatch):
    module = Step("mlp")
    first = gradient(module, Forward(), batch)
    monkeypatch.setattr("iolaus.gradient.base._rank", lambda: 1)
    assert not torch.equal(first, gradient(module, Forward(), batch))


@pytest.mark.parametrize("estimator", [Forward(2), TwoPoint(2), FiniteDifference()], ids=lambda e: type(e).__name__)
def test_loss_scaling(estimator, batch):
    """What arrives from above multiplies the estimate, and unscaling takes it back."""
    module, batch = Step("mlp", torch.float32), (batch[0].float(), batch[1])
    plain = gradient(module, copy.deepcopy(estimator), batch)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    module.zero_grad()
    torch.manual_seed(5)
    scaler.scale(copy.deepcopy(estimator)(module, module.step, batch, (0, 0))[0]).backward()
    scaled = torch.cat([p.grad.reshape(-1) for p in module.parameters()])
    torch.testing.assert_close(scaled, 1024 * plain, rtol=1e-5, atol=0)
    scaler.unscale_(torch.optim.SGD(module.parameters(), 0.1))
    torch.testing.assert_close(torch.cat([p.grad.reshape(-1) for p in module.parameters()]), plain, rtol=1e-5, atol=0)


def test_spsa_shrinks_its_steps(batch):
    """c_k = c / (k + 1)^0.101, which is half of c after 955 steps; the bias in a cubic loss falls with its square."""
    weight = nn.Parameter(torch.tensor([0.5], dtype=torch.float64))
    module = nn.Module()
    module.weight = weight

    def slope(step):
        estimator = SPSA(eps=0.1)
        weight.grad = None
        estimator(module, lambda _: ((module.weight**3).sum(), weight, weight), None, (step, 0))[0].backward()
        return weight.grad.item()

    for step in (0, 10, 955):
        c = 0.1 / (step + 1) ** 0.101
        assert slope(step) == pytest.approx(
            3 * 0.5**2 + c**2, rel=1e-12
        )  # of a cubic the difference is exact but for c^2


def test_bf16_estimates_are_near(batch):
    """With the automatic step: within 15 % of the slope along the direction."""
    module, batch = Step("mlp", torch.float32), (batch[0].float(), batch[1])
    exact = gradient(module, Reverse(), batch)
    errors = []
    for number in range(40):
        with torch.autocast("cpu", torch.bfloat16):
            found = gradient(module, TwoPoint(), batch, (0, number))
        v = found / found.norm() * len(found) ** 0.5
        errors.append((found @ v / len(v) - exact @ v) / exact.norm())
    assert torch.stack(errors).square().mean().sqrt() < 0.15


def test_a_step_that_is_noise_is_warned_of_once(batch, caplog):
    module, batch = Step("mlp", torch.float32), (batch[0].float(), batch[1])
    estimator = TwoPoint(eps=1e-7)
    with caplog.at_level(logging.WARNING, "iolaus"):
        for number in range(3):
            gradient(module, estimator, batch, (0, number))
        gradient(module, TwoPoint(eps=1e-3), batch)
    (message,) = [r.getMessage() for r in caplog.records]
    assert message.startswith("gradient.eps: 1e-07 is noise at this precision: in float32")
    caplog.clear()
    with caplog.at_level(logging.WARNING, "iolaus"), torch.autocast("cpu", torch.bfloat16):
        gradient(module, TwoPoint(eps=1e-3), batch)
        gradient(module, SPSA(eps=1e-3), batch)
    assert len(caplog.records) == 2


def test_a_loss_without_a_derivative(batch):
    """Two points need none: the share of wrong answers falls."""
    module = Step("mlp")

    def step(batch):
        output = module.network(batch[0])
        return (output.argmax(1) != batch[1]).double().mean(), output, batch[1]

    first = step(batch)[0]
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    estimator = TwoPoint(20, eps=2.0)
    for number in range(60):
        optimizer.zero_grad()
        estimator(module, step, batch, (number, 0))[0].backward()
        optimizer.step()
    assert step(batch)[0] < first - 0.2


@pytest.mark.parametrize(
    ("function", "size", "derivative"),
    [(lambda x: (x + 2).mean(), 5, 0.2), (lambda x: (2 * (x + 5) ** 2).mean(), 4, 6.0)],
    ids=["mean(x + 2)", "mean(2 (x + 5)^2)"],
)
@pytest.mark.parametrize(
    "estimator", [Reverse(), FiniteDifference(), Forward(2000, chunk_size=2000)], ids=lambda e: type(e).__name__
)
def test_small_figures(estimator, function, size, derivative):
    """At ones: 0.2 each and 6 each; by 2,000 tangents within five standard errors."""
    found = Function(function, torch.ones(size, dtype=torch.float64)).gradient(estimator)
    within = 5 * derivative * math.sqrt((size + 1) / 2000) if isinstance(estimator, Forward) else 1e-8
    assert (found - derivative).abs().max() < within
