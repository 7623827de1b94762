"""Spectra by Lanczos against the dense Hessian of a small network, and against matrices whose eigenvalues are known."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from iolaus.functional.lanczos import lanczos


@pytest.fixture(scope="module")
def dense():
    """The Hessian of a network of 252 weights after some training, from which the extremes stand out on both sides."""
    torch.manual_seed(0)
    first, second = nn.Linear(8, 18).double(), nn.Linear(18, 5, bias=False).double()
    x, y = torch.randn(80, 8, dtype=torch.float64), torch.randint(5, (80,))
    shapes = [p.shape for p in (*first.parameters(), *second.parameters())]
    flat = torch.cat([p.detach().reshape(-1) for p in (*first.parameters(), *second.parameters())]).requires_grad_()

    def loss(w):
        a, b, c = (p.view(s) for p, s in zip(w.split([s.numel() for s in shapes]), shapes, strict=True))
        return F.cross_entropy(torch.tanh(x @ a.T + b) @ c.T, y)

    for _ in range(30):
        flat = (flat - 0.5 * torch.autograd.grad(loss(flat), flat)[0]).detach().requires_grad_()
    return torch.autograd.functional.hessian(loss, flat.detach())


def signs(dim, seed, number=1):
    """The probes that a seed gives, of length 1."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.empty(dim).bernoulli_(0.5, generator=generator) for _ in range(number)]
    return [(2 * d - 1).double() / math.sqrt(dim) for d in drawn]


@pytest.mark.parametrize("seed", range(3))
def test_extremes_within_their_bounds(dense, seed):
    exact = torch.linalg.eigvalsh(dense)
    assert exact[0] < 0 < exact[-1]
    found = lanczos(dense.__matmul__, len(dense), 60, seed=seed, dtype=torch.float64)
    for (value, bound), true in ((found.largest, exact[-1].item()), (found.smallest, exact[0].item())):
        assert value == pytest.approx(true, rel=1e-4)
        assert abs(value - true) <= bound < 1e-2 * abs(true)
    few = lanczos(dense.__matmul__, len(dense), 12, seed=seed, dtype=torch.float64)
    for node, bound in zip(few.nodes, few.bounds, strict=True):
        assert (exact - node).abs().min() <= bound
    assert (few.largest[0], -few.smallest[0]) <= (exact[-1].item(), -exact[0].item())


def test_bounds_hold_in_float32_too(dense):
    exact, single = torch.linalg.eigvalsh(dense), dense.float()
    found = lanczos(single.__matmul__, len(dense), 60)
    for (value, bound), true in ((found.largest, exact[-1].item()), (found.smallest, exact[0].item())):
        assert abs(value - true) <= bound < 1e-2 * abs(true)


def test_moments_are_those_of_the_probe(dense):
    steps = 4
    found = lanczos(dense.__matmul__, len(dense), steps, seed=5, dtype=torch.float64)
    (v,) = signs(len(dense), 5)
    w = v
    assert found.weights.sum().item() == pytest.approx(1)
    for power in range(1, 2 * steps):
        w = dense @ w
        assert found.moment(power) == pytest.approx((v @ w).item(), rel=1e-9, abs=0)
    assert found.moment(2 * steps) != pytest.approx((v @ dense @ w).item(), rel=1e-4, abs=0)


def test_moments_and_density_of_many_probes_are_those_of_the_matrix(dense):
    probes, dim = 100, len(dense)
    found = lanczos(dense.__matmul__, dim, 40, probes, seed=1, dtype=torch.float64)
    power = torch.eye(dim, dtype=torch.float64)
    for k in range(1, 5):
        power = power @ dense
        # Hutchinson's variance for signs, divided by the number of probes
        spread = math.sqrt(2 * (power.square().sum() - power.diagonal().square().sum()).item() / probes) / dim
        assert abs(found.moment(k) - power.trace().item() / dim) < 4 * spread, k
    exact = torch.linalg.eigvalsh(dense)
    width = (exact[-1] - exact[0]).item() / 40
    grid = torch.linspace(exact[0] - 5 * width, exact[-1] + 5 * width, 800, dtype=torch.float64)
    density = found.density(grid, width)
    true = torch.exp(-0.5 * ((grid[:, None] - exact) / width) ** 2).mean(1) / (width * math.sqrt(2 * math.pi))
    assert torch.trapezoid(density, grid).item() == pytest.approx(1, abs=1e-4)
    assert torch.trapezoid((density - true).abs(), grid).item() < 0.1
    share = (exact.clamp_max(0).sum() / -exact.abs().sum()).item()
    assert found.negative_share == pytest.approx(share, abs=0.03)


def test_trace_within_its_error(dense):
    exact = dense.trace().item()
    deviations = []
    for seed in range(40):
        value, error = lanczos(dense.__matmul__, len(dense), 2, 1, 19, seed, dtype=torch.float64).trace
        deviations.append((value - exact) / error)
    within = sum(abs(d) < 2.09 for d in deviations)  # Student's 95 % with 19 degrees of freedom
    assert 34 <= within <= 40
    one = lanczos(dense.__matmul__, len(dense), 2, trace_samples=0, dtype=torch.float64)
    (v,) = signs(len(dense), 0)
    assert one.trace[0] == pytest.approx(len(dense) * (v @ dense @ v).item())
    assert math.isnan(one.trace[1])


def test_no_eigenvalue_appears_twice():
    """A few large eigenvalues and a bulk: without orthogonalisation the large ones come back many times, as the second half shows."""
    torch.manual_seed(0)
    values = torch.cat([torch.tensor([50.0, 20.0, 8.0, -5.0]), torch.rand(296) * 0.1]).double()
    basis = torch.linalg.qr(torch.randn(300, 300, dtype=torch.float64)).Q
    matrix = (basis * values @ basis.T).float()
    found = lanczos(matrix.__matmul__, 300, 80)
    for true in values[:4]:
        assert ((found.nodes - true).abs() < 0.01).sum() == 1
    assert found.nodes.sort().values.diff().min() > 1e-6

    v, before, length, a, b = signs(300, 0)[0].float(), torch.zeros(300), 0.0, [], []
    for _ in range(80):
        w = matrix @ v - length * before
        a.append((w @ v).item())
        w = w - a[-1] * v
        before, length = v, w.norm().item()
        b.append(length)
        v = w / length
    ghosts = torch.linalg.eigvalsh(torch.diag(torch.tensor(a)) + sum(torch.tensor(b[:-1]).diag(k) for k in (1, -1)))
    assert ((ghosts - 50).abs() < 0.01).sum() > 1


def test_a_run_ends_where_nothing_is_left():
    u = F.normalize(torch.arange(1.0, 31.0, dtype=torch.float64), dim=0)
    found = lanczos(lambda v: 3 * u * (u @ v), 30, 20, dtype=torch.float64)
    assert found.nodes.tolist() == pytest.approx([0, 3], abs=1e-12)
    nothing = lanczos(torch.zeros_like, 30, 20)
    assert nothing.nodes.tolist() == [0]
    assert nothing.negative_share == 0
    assert nothing.trace == (0, 0)


def test_what_cannot_be_measured():
    for steps in (0, 5):
        with pytest.raises(ValueError, match="from 1 to the 4 rows"):
            lanczos(torch.zeros_like, 4, steps)
    with pytest.raises(ValueError, match="not finite"):
        lanczos(lambda v: v / 0, 4, 2)
