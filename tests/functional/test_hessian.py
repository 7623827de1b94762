"""Products with the Hessian against central differences of plain gradients, and the dense matrix; and that nothing is disturbed."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from iolaus.functional.hessian import Hessian
from iolaus.undisturbed import twice_differentiable, undisturbed

STEP = 1e-5  # of the differences: their error is of its square


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.LSTM(6, 5, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.cell(x)[0][:, -1])


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.project, self.head = nn.Linear(6, 24), nn.Linear(8, 3)

    def forward(self, x):
        q, k, v = self.project(x)[:, None].chunk(3, -1)
        return self.head(F.scaled_dot_product_attention(q, k, v)[:, 0].mean(1))


class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(0.3)), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(checkpoint(self.body, x, use_reentrant=False).mean(1))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.other, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.other.weight = self.one.weight

    def forward(self, x):
        return self.head(self.other(self.one(x).tanh()).tanh().mean(1))


class Mean(nn.Module):
    def forward(self, x):
        return x.mean(1)


NETWORKS = {
    "mlp": lambda: nn.Sequential(nn.Flatten(), nn.Linear(24, 8), nn.Tanh(), nn.Linear(8, 3)),
    "dropout": lambda: nn.Sequential(nn.Flatten(), nn.Linear(24, 8), nn.Tanh(), nn.Dropout(0.4), nn.Linear(8, 3)),
    "batch norm": lambda: nn.Sequential(
        nn.Conv1d(4, 5, 3), nn.BatchNorm1d(5), nn.Tanh(), nn.Flatten(), nn.Linear(20, 3)
    ),
    "lstm": Recurrent,
    "attention": Attention,
    "transformer": lambda: nn.Sequential(
        nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, activation="gelu", batch_first=True), Mean(), nn.Linear(6, 3)
    ),
    "checkpoint": Checkpointed,
    "tied": Tied,
}


def a_case(name="mlp", dtype=torch.float64):
    """A network, a loss of its batches and three batches of different sizes."""
    torch.manual_seed(0)
    module = NETWORKS[name]().to(dtype)
    inputs, target = torch.randn(17, 4, 6, dtype=dtype), torch.randint(3, (17,))

    def loss(batch):
        return F.cross_entropy(module(batch[0]), batch[1]), len(batch[1])

    return module, loss, list(zip(inputs.split(7), target.split(7), strict=True))


def plain_gradient(module, loss, batches, moved=None):
    """By one backward pass of the weighted sum, at weights moved by a vector."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    sizes = [p.numel() for p in parameters]
    with torch.no_grad():
        for p, part in zip(
            parameters, (moved if moved is not None else torch.zeros(sum(sizes))).split(sizes), strict=True
        ):
            p += part.view_as(p)
    torch.manual_seed(1)
    state = {name: buffer.clone() for name, buffer in module.named_buffers()}
    values = [loss(batch) for batch in batches]
    found = torch.autograd.grad(sum(v * n for v, n in values) / sum(n for _, n in values), parameters)
    with torch.no_grad():
        for name, buffer in module.named_buffers():
            buffer.copy_(state[name])
        for p, part in zip(
            parameters, (moved if moved is not None else torch.zeros(sum(sizes))).split(sizes), strict=True
        ):
            p -= part.view_as(p)
    return torch.cat([g.reshape(-1) for g in found])


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("name", NETWORKS)
def test_products_are_differences_of_gradients(name, mode):
    module, loss, batches = a_case(name)
    module.train(mode == "train")
    vector = F.normalize(torch.randn(sum(p.numel() for p in module.parameters()), dtype=torch.float64), dim=0)
    ahead, behind = (plain_gradient(module, loss, batches, sign * STEP * vector) for sign in (1, -1))
    gradient = plain_gradient(module, loss, batches)
    with torch.inference_mode(), undisturbed(module, mode), twice_differentiable(module):
        torch.manual_seed(1)
        hessian = Hessian(module, loss, batches)
        torch.testing.assert_close(hessian.gradient(), gradient, rtol=1e-10, atol=1e-12)
        product = hessian @ vector.clone()
        again = hessian @ vector.clone()
    assert torch.equal(product, again)
    torch.testing.assert_close(product, (ahead - behind) / (2 * STEP), rtol=1e-6, atol=1e-8)


def test_products_are_those_of_the_dense_matrix_of_all_samples():
    module, loss, batches = a_case()
    names, shapes = zip(*((n, p.shape) for n, p in module.named_parameters()), strict=True)
    inputs, target = (torch.cat(parts) for parts in zip(*batches, strict=True))

    def whole(flat):
        parts = flat.split([shape.numel() for shape in shapes])
        weights = {n: part.view(shape) for n, part, shape in zip(names, parts, shapes, strict=True)}
        return F.cross_entropy(torch.func.functional_call(module, weights, inputs), target)

    dense = torch.autograd.functional.hessian(whole, torch.cat([p.detach().reshape(-1) for p in module.parameters()]))
    hessian = Hessian(module, loss, batches)
    vector = torch.randn(hessian.dim, dtype=torch.float64)
    torch.testing.assert_close(hessian @ vector, dense @ vector, rtol=1e-10, atol=1e-12)
    module[1].weight.requires_grad_(False)
    kept = slice(module[1].weight.numel(), None)
    part = Hessian(module, loss, batches)
    torch.testing.assert_close(part @ vector[kept], dense[kept, kept] @ vector[kept], rtol=1e-10, atol=1e-12)


def test_products_begin_with_the_same_buffers():
    """Spectral norm goes on with its power iteration in every forward pass."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(6, 5)), nn.Tanh(), nn.Linear(5, 1))
    hessian = Hessian(module, lambda x: (module(x).square().mean(), len(x)), [torch.randn(4, 6), torch.randn(3, 6)])
    vector = torch.randn(hessian.dim)
    assert torch.equal(hessian @ vector, hessian @ vector)


def test_sparse_gradients_count_as_dense_ones():
    products = []
    for sparse in (False, True):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Embedding(7, 3, sparse=sparse), nn.Flatten(), nn.Linear(6, 2))
        batches = [torch.tensor([[0, 3], [3, 5]])]
        hessian = Hessian(module, lambda b, m=module: (m(b).square().sum(1).exp().mean(), len(b)), batches)
        products.append(hessian @ torch.linspace(-1, 1, hessian.dim))
    torch.testing.assert_close(*products)
    assert products[0].abs().max() > 0.1


@pytest.mark.slow
def test_a_compiled_module_is_measured_and_stays_compiled():
    module, loss, batches = a_case()
    hessian = Hessian(module, loss, batches)
    vector = torch.randn(hessian.dim, dtype=torch.float64)
    plain = hessian @ vector
    module.compile(backend="aot_eager")
    with undisturbed(module, "train"), twice_differentiable(module):
        assert torch.equal(Hessian(module, loss, batches) @ vector, plain)
    loss(batches[0])[0].backward()
    assert module._compiled_call_impl is not None


def test_nothing_asks_the_compiler_where_nothing_is_compiled(monkeypatch):
    monkeypatch.setattr(torch.compiler, "set_stance", lambda stance: pytest.fail("it takes seconds to import"))
    module, loss, batches = a_case()
    with twice_differentiable(module):
        assert (Hessian(module, loss, batches).gradient() != 0).any()


@pytest.mark.parametrize("fails", [False, True])
def test_undisturbed_leaves_everything_as_it_was(fails):
    module = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2)).train()
    module[0].eval()
    module(torch.randn(5, 4)).sum().backward()
    grads = [p.grad for p in module.parameters()]
    copies = [g.clone() for g in grads]
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}

    def draws():
        return random.random(), np.random.rand(), torch.rand(3).tolist()

    def look():
        with torch.no_grad(), undisturbed(module, "train"):
            assert all(part.training for part in module.modules())
            assert all(p.grad is None for p in module.parameters())
            module(3 + torch.randn(5, 4)).sum().backward()
            draws()
            assert module[0].num_batches_tracked > 0
            if fails:
                raise KeyError("inside")

    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    expected = draws()
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    if fails:
        with pytest.raises(KeyError):
            look()
    else:
        look()
    assert draws() == expected
    assert [part.training for part in module.modules()] == [True, False, True, True]
    assert all(p.grad is g and torch.equal(g, c) for p, g, c in zip(module.parameters(), grads, copies, strict=True))
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in module.named_buffers())
    assert torch.is_grad_enabled()


def test_what_has_no_second_derivative():
    module, _, batches = a_case()

    def ctc(batch):
        scores = module(batch[0]).log_softmax(-1).view(-1, 1, 3)
        return F.ctc_loss(scores, torch.ones(1, 2, dtype=torch.long), (len(scores),), (2,)), 1

    line = nn.Linear(24, 1).double()
    for owner, loss, says in (
        (module, ctc, "_ctc_loss_backward is not implemented"),
        (line, lambda batch: (line(batch[0].flatten(1)).mean(), 1), "does not depend on the weights"),
    ):
        hessian = Hessian(owner, loss, batches)
        with pytest.raises(ValueError, match=says):
            hessian @ torch.ones(hessian.dim, dtype=torch.float64)
    with pytest.raises(ValueError, match="batches"):
        Hessian(module, ctc, [])
