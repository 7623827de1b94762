"""Activation checkpointing: the same bits for less memory, wherever a model goes."""

import copy
import shutil

import pytest
import torch
from torch import nn
from torchvision.models import resnet18
from torchvision.models.resnet import BasicBlock, ResNet

from iolaus.functional.accounting import LiveBytes
from iolaus.functional.hessian import Hessian
from iolaus.model.gpt2 import GPT2
from iolaus.model.layers.checkpointing import POLICIES, blocks, checkpoint_blocks, plain_blocks
from iolaus.model.llama import Llama
from iolaus.model.mlp import MLP
from iolaus.model.sequential import Sequential
from iolaus.model.transformer import Transformer
from iolaus.rules import CHOICES
from iolaus.undisturbed import twice_differentiable


def small_resnet():
    network = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=5)
    network.layer3 = network.layer4 = nn.Identity()
    network.fc = nn.Linear(128, 5)
    return network


# A residual part whose activation changes what a convolution gave, in place.
IN_PLACE = [
    {
        "residual": [
            {"Conv2d": {"out_channels": 3, "kernel_size": 3, "padding": 1}},
            {"ReLU": {"inplace": True}},
            "BatchNorm2d",
        ]
    }
]
MODELS = {
    "transformer": (lambda: Transformer([1, 4, 6], 3, 16, 2, 2, 24), lambda: torch.randn(3, 1, 4, 6)),
    "llama": (lambda: Llama(20, 16, 2, 2, 1, dropout=0.2), lambda: torch.randint(20, (3, 6))),
    "gpt2": (lambda: GPT2(20, [6], 16, 2, 2, 0.2), lambda: torch.randint(20, (3, 6))),
    "resnet": (small_resnet, lambda: torch.randn(3, 3, 16, 16)),
    "sequential": (lambda: Sequential(IN_PLACE, [3, 6, 6], 2), lambda: torch.randn(3, 3, 6, 6)),
}


def step(model, inputs, autocast=False):
    """Output, gradients and buffers after one training step's forward and backward pass, with dropout's numbers given."""
    torch.manual_seed(1)
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = model(inputs)
    output.float().square().sum().backward()
    return [output.detach(), *(p.grad for p in model.parameters()), *(b.clone() for b in model.buffers())]


def assert_same_bits(found, expected):
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.fixture(scope="module")
def made():
    """Each model, an input of it."""
    torch.manual_seed(0)
    return {name: (make(), inputs()) for name, (make, inputs) in MODELS.items()}


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", MODELS)
def test_gradients_and_running_statistics_have_the_same_bits(made, name, policy, autocast):
    model, inputs = made[name]
    expected = step(copy.deepcopy(model), inputs, autocast)
    own = checkpoint_blocks(copy.deepcopy(model), policy)
    assert_same_bits(step(own, inputs, autocast), expected)
    assert own.state_dict().keys() == model.state_dict().keys()


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", ["transformer", "gpt2", "llama", "resnet"])
def test_compiled_models(made, name, policy):
    model, inputs = made[name]
    results = []
    for chosen in ("none", policy):
        torch._dynamo.reset()
        own = checkpoint_blocks(copy.deepcopy(model), chosen)
        own.compile(backend="aot_eager")
        results.append(step(own, inputs))
    torch._dynamo.reset()
    assert_same_bits(results[1], results[0])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("policy", POLICIES)
def test_models_compiled_by_inductor(made, policy):
    """Dropout aside, whose numbers inductor draws in another way, gradients agree to rounding."""
    model = checkpoint_blocks(GPT2(20, [6], 16, 2, 2, 0.0), policy)
    inputs = made["gpt2"][1]
    expected = [part.clone() for part in step(model, inputs)]
    torch._dynamo.reset()
    model.compile()
    for found, right in zip(step(model, inputs), expected, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-4)


def kept(model, inputs):
    """Bytes alive when the forward pass has ended."""
    with LiveBytes([*model.parameters(), *model.buffers(), inputs]) as live:
        loss = model(inputs).square().sum()
        now = live.now
    assert loss.requires_grad
    return now


@pytest.mark.parametrize("name", ["gpt2", "resnet"])
def test_each_policy_keeps_what_it_says(made, name):
    model, inputs = made[name]
    own = (
        model if name == "resnet" else GPT2(20, [6], 16, 2, 2, 0.0)
    )  # attention in one kernel, which has no dropout here
    sizes = {p: kept(checkpoint_blocks(copy.deepcopy(own), p), inputs) for p in ("none", *POLICIES)}
    assert sizes["full"] <= sizes["attention"] < sizes["selective"] < sizes["matmuls"] < sizes["none"]
    if name == "gpt2":
        tokens, dim, heads = 3 * 6, 16, 2
        attention = 4 * (tokens * dim + tokens * heads)  # its output, and the logarithm of the softmax's sum
        assert sizes["attention"] - sizes["full"] == pytest.approx(2 * attention, abs=64)
        assert sizes["selective"] - sizes["attention"] == 2 * 4 * tokens * 3 * dim
        assert sizes["matmuls"] - sizes["selective"] == 2 * 4 * tokens * (1 + 4 + 1) * dim
    else:
        assert sizes["attention"] == sizes["full"]


def test_a_copy_computes_with_its_own_weights(made):
    """As averaging does: what is computed again must be the copy's."""
    model, inputs = made["llama"]
    own = checkpoint_blocks(copy.deepcopy(model), "full")
    other = copy.deepcopy(own)
    reference = copy.deepcopy(model)
    for changed in (other, reference):
        with torch.no_grad():
            for parameter in changed.parameters():
                parameter.mul_(1.5)
    assert_same_bits(step(other, inputs), step(reference, inputs))
    assert all(p.grad is None for p in own.parameters())


def test_weights_fit_both_ways_and_classes_keep_their_names(made):
    model, inputs = made["gpt2"]
    torch.manual_seed(5)
    own = GPT2(20, [6], 16, 2, 2, 0.2, "selective")
    own.load_state_dict(model.state_dict())
    assert_same_bits(step(own, inputs), step(copy.deepcopy(model), inputs))
    copy.deepcopy(model).load_state_dict(own.state_dict())
    assert type(own.blocks[0]).__name__ == "Block"
    assert isinstance(own.blocks[0], type(model.blocks[0]))


def test_nothing_changes_without_gradients_or_under_transformations(made):
    """What is computed again in a backward pass would see the weights of the module, and not those that were given."""
    model, inputs = copy.deepcopy(made["resnet"])
    model.eval()
    own = checkpoint_blocks(copy.deepcopy(model), "selective")
    with torch.no_grad():
        assert torch.equal(own(inputs), model(inputs))
    weights = {name: (p.detach() * 1.1).requires_grad_() for name, p in model.named_parameters()}
    tangents = {name: torch.ones_like(p) for name, p in weights.items()}

    def loss(module):
        return lambda given: torch.func.functional_call(module, given, (inputs,)).square().sum()

    for transformed in (
        lambda f: torch.autograd.grad(f(weights), list(weights.values())),
        lambda f: list(torch.func.grad(f)(weights).values()),
        lambda f: torch.func.jvp(f, (weights,), (tangents,)),
    ):
        assert_same_bits(transformed(loss(own)), transformed(loss(model)))


@pytest.mark.parametrize("policy", POLICIES)
def test_plain_blocks_can_be_differentiated_twice(made, policy):
    model, inputs = made["resnet"]

    def curvature(module):
        parameters = list(module.parameters())
        with plain_blocks():
            value = module(inputs).square().sum()
        first = torch.autograd.grad(value, parameters, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), parameters)

    own = checkpoint_blocks(copy.deepcopy(model), policy)
    assert_same_bits(curvature(own), curvature(copy.deepcopy(model)))


def test_which_modules_are_blocks():
    assert [len(list(blocks(resnet18()))), len(list(blocks(MODELS["gpt2"][0]())))] == [8, 2]
    nested = Sequential(
        [{"residual": [{"residual": ["BatchNorm2d"]}]}, ["ReLU", {"residual": ["BatchNorm2d"]}]], [3, 4, 4], 2
    )
    assert list(blocks(nested)) == [nested.layers[0], nested.layers[1][1]]  # the outermost, those in rows of rows too


def test_what_cannot_be_checkpointed_is_refused():
    with pytest.raises(ValueError, match=r"activation_checkpointing: the model has no blocks.*received 'full'"):
        checkpoint_blocks(MLP([4], 2), "full")
    with pytest.raises(ValueError, match=r"activation_checkpointing: the model has no blocks"):
        Sequential(["Flatten"], [2, 2], 3, activation_checkpointing="matmuls")
    with pytest.raises(ValueError, match=r"there are none, full, attention, selective, matmuls; received 'some'"):
        checkpoint_blocks(MLP([4], 2), "some")
    assert CHOICES["model.activation_checkpointing"] == ("none", *POLICIES)


@pytest.mark.parametrize("policy", POLICIES)
def test_products_with_the_hessian_are_those_without(policy):
    """Selective policies cannot be differentiated twice: what measures curvature switches checkpointing off."""
    images, target = torch.randn(6, 1, 8, 8), torch.arange(6)

    def product(policy):
        torch.manual_seed(0)
        model = Transformer((1, 8, 8), 10, 8, 2, 2, 8, dropout=0.0, activation_checkpointing=policy)

        def loss(batch):
            return torch.nn.functional.cross_entropy(model(batch[0]), batch[1]), len(batch[1])

        with twice_differentiable(model):
            hessian = Hessian(model, loss, [(images, target)])
            return hessian @ torch.ones(hessian.dim)

    assert torch.equal(product(policy), product("none"))
