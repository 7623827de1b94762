"""Counts without values against closed forms, and against what torch keeps and a process takes when it does the step."""

import os
import subprocess
import sys

import pytest
import torch
from forked import apart
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from iolaus.functional.accounting import LiveBytes, SavedBytes, account, optimizer_state
from iolaus.functional.gpu_kernels import gpu_kernels
from iolaus.model.gpt2 import GPT2
from iolaus.model.layers.checkpointing import POLICIES, blocks
from iolaus.model.llama import Llama
from iolaus.model.sequential import Sequential
from iolaus.model.transformer import Transformer


class Step(nn.Module):
    """A model with a loss, as a task is."""

    def __init__(self, model, inputs):
        super().__init__()
        self.model = model
        self.inputs = inputs

    def forward(self):
        return self.model(self.inputs).float().square().sum()


RESIDUAL = [
    {"Conv2d": {"out_channels": 4, "kernel_size": 3}},
    {
        "repeat": {
            "times": 2,
            "layers": [
                {"residual": [{"Conv2d": {"out_channels": 4, "kernel_size": 3, "padding": 1}}, "BatchNorm2d", "ReLU"]}
            ],
        }
    },
]
MODELS = {
    "transformer": (lambda p: Transformer([1, 8, 8], 3, 16, 2, 2, 32, 0.1, "gelu", p), lambda: torch.zeros(4, 1, 8, 8)),
    "llama": (
        lambda p: Llama(20, 16, 2, 2, 1, activation_checkpointing=p),
        lambda: torch.zeros(4, 6, dtype=torch.long),
    ),
    "gpt2": (lambda p: GPT2(20, [6], 16, 2, 2, 0.0, p), lambda: torch.zeros(4, 6, dtype=torch.long)),
    "residual": (
        lambda p: Sequential(RESIDUAL, [3, 8, 8], 2, activation_checkpointing=p),
        lambda: torch.zeros(4, 3, 8, 8),
    ),
}


def without_values(function, *arguments):
    with FakeTensorMode():
        return function(*arguments)


def counted(name, policy):
    make, inputs = MODELS[name]
    step = Step(make(policy), inputs())
    return account(step, list(blocks(step.model)), [step.inputs], step)


@pytest.mark.parametrize(
    ("name", "policy"),
    [(n, p) for n in MODELS for p in ("none", *POLICIES) if p in ("none", "full") or n in ("gpt2", "residual")],
)
def test_counts_without_values_are_those_of_a_real_step(name, policy):
    """The same bytes and operations as on tensors with values; of what autograd knows of, those that it keeps."""
    foreseen = apart(lambda: without_values(counted, name, policy))
    assert foreseen == counted(name, policy)
    if policy in ("none", "full"):
        make, inputs = MODELS[name]
        step = Step(make(policy), inputs())
        with SavedBytes([*step.parameters(), *step.buffers(), step.inputs]) as saved:
            loss = step()
        # Beside what is kept for the backward pass the loss is alive; states of the random generator, by which a
        # checkpoint draws the same numbers again, are kept for each block.
        assert 0 <= foreseen.kept - saved.total - loss.nbytes <= 2 * torch.get_rng_state().nbytes


def test_a_chain_of_layers_in_closed_form():
    """Of Linear, Tanh, Linear and a sum of squares: the hidden layer's values, and the output's, before they are summed."""
    width, hidden, rows, out = 5, 7, 11, 3
    step = Step(nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, out)), torch.ones(rows, width))
    found = account(step, [step.model], [step.inputs], step)
    kept = 4 * rows * (hidden + out)
    assert found.kept == kept + 4  # the loss
    gradients = 4 * sum(p.numel() for p in step.parameters())
    assert kept < found.peak <= 3 * kept + gradients
    # Forward, gradients of weights, and of the hidden layer; nobody asks for that of the inputs.
    assert found.flops == found.flops_of_blocks == 2 * rows * (2 * width * hidden + 3 * hidden * out)
    assert found.kept_in_blocks == kept


def test_live_bytes_rise_and_fall():
    with LiveBytes([given := torch.ones(1000)]) as live:
        a = given * 2
        b = a.view(10, 100)  # of the same storage
        assert live.now == 4000
        c = a + 1
        assert live.now == live.peak == 8000
        del a, b
        assert live.now == 4000
        c += 1
        del c
    assert (live.now, live.peak) == (0, 8000)


OPTIMIZERS = {
    "Adam": lambda p: torch.optim.Adam(p, fused=True),
    "AdamW": torch.optim.AdamW,
    "SGD": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
    "plain SGD": lambda p: torch.optim.SGD(p, 0.1),
    "Adafactor": torch.optim.Adafactor,
    "NAdam": torch.optim.NAdam,
    "RMSprop": torch.optim.RMSprop,
    "LBFGS": lambda p: torch.optim.LBFGS(p, history_size=3, max_iter=30, line_search_fn="strong_wolfe"),
}


def small_step():
    return Step(nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)), torch.ones(4, 5))


def state_of(name):
    step = small_step()
    step().backward()
    return optimizer_state(OPTIMIZERS[name](step.parameters()))[0]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_of_optimizers(name):
    """As large as after real steps."""
    foreseen = apart(lambda: without_values(state_of, name))
    step = small_step()
    optimizer = OPTIMIZERS[name](step.parameters())

    def closure():
        optimizer.zero_grad()
        (loss := step()).backward()
        return loss

    optimizer.step(closure)
    state = [part for values in optimizer.state.values() for part in values.values()]
    tensors = [t for part in state for t in (part if isinstance(part, list) else [part]) if torch.is_tensor(t)]
    scalars = 200 if name == "LBFGS" else 0
    assert foreseen == pytest.approx(sum(t.nbytes for t in tensors), abs=scalars)


def test_kernels_of_a_gpu():
    """Attention keeps no product of queries and keys, a mask of dropout is a byte, autocast widens norms; afterwards all is as before."""
    before = F.scaled_dot_product_attention, F.dropout, F.layer_norm
    with FakeTensorMode(), gpu_kernels():
        x = torch.zeros(2, 3, 64, 8, requires_grad=True)
        with SavedBytes([x]) as saved:
            F.scaled_dot_product_attention(x, x, x, dropout_p=0.1, is_causal=True)
        assert 0 <= saved.total - 4 * 2 * 3 * 64 * (8 + 1) <= 32  # the output, the logarithm of each sum, a seed
        with SavedBytes([x]) as saved:
            F.scaled_dot_product_attention(x, x, x, torch.ones(64, 64, dtype=torch.bool))
        assert saved.total < 4 * 2 * 3 * 64 * 64
        with SavedBytes([x]) as saved:
            F.dropout(x, 0.5)
        assert saved.total == x.numel()
        with torch.autocast("cpu", torch.float16):
            linear = F.linear(x, torch.zeros(8, 8))
            assert (linear.dtype, F.layer_norm(linear, (8,)).dtype) == (torch.float16, torch.float32)
    assert before == (F.scaled_dot_product_attention, F.dropout, F.layer_norm)


MEASURE = """
import sys, torch
from iolaus.functional.accounting import account
from iolaus.model.gpt2 import GPT2
from iolaus.model.layers.checkpointing import blocks
from torch._subclasses.fake_tensor import FakeTensorMode

class Step(torch.nn.Module):
    def __init__(self, policy, batch, length):
        super().__init__()
        self.model = GPT2(64, [length], 256, 6, 4, 0.0, policy)
        self.inputs = torch.zeros(batch, length, dtype=torch.long)
    def forward(self):
        return self.model(self.inputs).square().sum()

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

policy = sys.argv[1]
with FakeTensorMode():
    step = Step(policy, 16, 512)
    foreseen = account(step, list(blocks(step.model)), [step.inputs], step).kept
Step(policy, 1, 8)().backward()
step = Step(policy, 16, 512)
before = resident()
loss = step()
print(foreseen, resident() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="resident memory is read where Linux tells it")
@pytest.mark.parametrize("policy", ["none", *POLICIES])
def test_bytes_kept_are_what_a_process_grows_by(policy):
    """Blocks of memory that malloc takes one by one and gives back at once, so that what is not kept is not counted."""
    environment = {
        **os.environ,
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "65536",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, policy], env=environment, capture_output=True, text=True, check=True
    )
    foreseen, grown = map(int, done.stdout.split())
    assert grown == pytest.approx(foreseen, rel=0.03, abs=4e6)
