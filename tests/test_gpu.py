"""What needs a GPU: `python -m pytest -m gpu` on a machine that has one."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, composed
from forked import differences
from torch import nn

from iolaus.build import build
from iolaus.errors import UserError
from iolaus.finder.batch_size_find import BatchSizeFind
from iolaus.preflight import preflight

pytestmark = pytest.mark.gpu

SHORT = ("trainer.max_epochs=4", "callbacks=[]", "logger=[]")
RATE = 2**-9  # which float32 holds exactly


def fit(tmp_path, *overrides):
    config = composed(*SHORT, *overrides)
    config.output_dir = str(tmp_path)
    run = build(config)
    preflight(run)
    run.trainer.fit(run.task, datamodule=run.data)
    return run


def replays(run):
    """How many steps were replayed."""
    return run.trainer.fit_loop.epoch_loop._graphed.replays


def gap(one, other):
    """The largest difference of two runs' weights, relative to the largest weight."""
    pairs = zip(one.task.state_dict().values(), other.task.state_dict().values(), strict=True)
    return max(((a - b).abs().max() / b.abs().max().clamp_min(1e-12)).item() for a, b in pairs if a.is_floating_point())


CASES = {
    "default": [],
    "dropout": ["model.dropout=0.3"],
    "clipping": ["trainer.gradient_clip_val=0.1"],
    "by value": ["trainer.gradient_clip_val=0.01", "trainer.gradient_clip_algorithm=value"],
    "bf16": ["trainer.precision=bf16-mixed"],
    "decay": ["optim=adamw"],
    "validations inside": ["trainer.val_check_interval=0.3"],
    "average": ["callbacks=[ema]"],
    "regression": ["data=diabetes"],
    "recurrent": [
        "data=stdlib",
        "model=gru",
        "scheduler.cycle_momentum=false",
        "trainer.limit_train_batches=20",
        "trainer.limit_val_batches=2",
    ],
}


@pytest.mark.parametrize("overrides", CASES.values(), ids=CASES)
def test_replayed_steps_have_the_bits_of_others(tmp_path, overrides):
    plain = fit(tmp_path / "a", f"optim.lr={RATE}", *overrides)
    graphed = fit(tmp_path / "b", f"optim.lr={RATE}", "trainer.cuda_graphs=true", *overrides)
    assert plain.trainer.strategy.root_device.type == "cuda"
    assert replays(graphed) > plain.trainer.global_step / 3
    assert plain.trainer.global_step == graphed.trainer.global_step
    for (name, value), other in zip(plain.task.state_dict().items(), graphed.task.state_dict().values(), strict=True):
        assert torch.equal(value, other), name
    assert plain.history.rows == graphed.history.rows


# Rates that float32 rounds, kernels that differ by how rates are given. By a kink of ReLU a difference of 1e-6 may become one of 1e-1.
ROUNDED = {
    "momentum": ["optim=sgd"],
    "a schedule by steps": ["scheduler=cosine", "scheduler._interval_=step", "scheduler.T_max=80"],
    "a schedule by epochs": ["scheduler=step", "scheduler.step_size=1"],
    "convolutions": ["model=cnn"],
    "rmsprop": ["optim=rmsprop", "optim.lr=0.001"],
    "radam": ["optim=radam", "model.activation=Tanh"],
    "nadam": ["optim=nadam", "model.activation=Tanh"],
    "adadelta": ["optim=adadelta"],
    "asgd": ["optim=asgd"],
    "compiled": ["trainer.compile=true"],
    "mixup": ["augment=[mixup]"],
}


@pytest.mark.parametrize("overrides", ROUNDED.values(), ids=ROUNDED)
def test_replayed_steps_are_right_to_rounding(tmp_path, overrides):
    plain = fit(tmp_path / "a", *overrides)
    graphed = fit(tmp_path / "b", "trainer.cuda_graphs=true", *overrides)
    assert replays(graphed) > plain.trainer.global_step / 3
    assert gap(graphed, plain) < 1e-3


def test_a_schedule_that_changes_other_settings_is_followed(tmp_path, caplog):
    cycle = ("scheduler=one_cycle", "optim.lr=0.01")
    plain, graphed = fit(tmp_path / "a", *cycle), fit(tmp_path / "b", "trainer.cuda_graphs=true", *cycle)
    assert "betas of the optimizer changes from step to step" in caplog.text
    assert gap(graphed, plain) < 1e-3


class Waits(nn.Module):
    def forward(self, output, target):
        loss = nn.functional.cross_entropy(output, target)
        return loss * (1 if loss.item() < 1e9 else 2)


class DrawsOnTheProcessor(nn.Module):
    def forward(self, output, target):
        return nn.functional.cross_entropy(output, target) * float(torch.rand(()) + 0.5)


@pytest.mark.parametrize(
    ("overrides", "loss", "message"),
    [
        (["callbacks=[gradient_norm]"], None, "GradientNorm among the callbacks looks at gradients"),
        (["trainer.accumulate_grad_batches=2"], None, "no accumulation"),
        (["trainer.precision=16-mixed"], None, "loss scaling"),
        (["gradient=two_point"], None, "estimated gradients"),
        (["optim=lbfgs"], None, "LBFGS"),
        (["optim=muon"], None, "decides on the processor"),
        (["trainer.accelerator=cpu"], None, "the training is on cpu"),
        ([], Waits(), "cannot be recorded"),
        ([], DrawsOnTheProcessor(), "draws random numbers outside the GPU"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else str(value)[:40],
)
def test_what_cannot_be_recorded_is_refused(tmp_path, overrides, loss, message):
    config = composed(*SHORT, "trainer.cuda_graphs=true", *overrides)
    config.output_dir = str(tmp_path)
    run = build(config)
    if loss is not None:
        run.task.loss = loss
    with pytest.raises(UserError, match=r"trainer\.cuda_graphs: .*set trainer\.cuda_graphs=false") as raised:
        run.trainer.fit(run.task, datamodule=run.data)
    assert message in str(raised.value)


def test_a_divergence_is_told(tmp_path):
    with pytest.raises(UserError, match="the run diverged"):
        fit(tmp_path, "trainer.cuda_graphs=true", "optim=sgd", "optim.lr=1e6")


KILL = """
import os, signal
import pytorch_lightning as pl

class Kill(pl.Callback):
    def on_train_batch_end(self, trainer, task, outputs, batch, batch_idx):
        if str(trainer.global_step) == os.environ.get("KILL_AT"):
            os.kill(os.getpid(), signal.SIGKILL)
"""


def train(place, *arguments, **environment):
    """`python train.py *arguments` in a process of its own, since this one has a GPU already; its exit code."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *arguments],
        cwd=place,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{os.environ.get('PYTHONPATH', '')}", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stdout + done.stderr
    return done.returncode


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["trainer.cuda_graphs=true", "optim.lr=0.003", "model.dropout=0.3"],
        ["trainer.cuda_graphs=true", "scheduler=cosine", "optim=rmsprop", "optim.lr=0.0007"],
        ["model=cnn", "trainer.deterministic=true", "trainer.precision=bf16-mixed"],
    ],
    ids=["default", "graphs", "graphs and a schedule", "convolutions"],
)
def test_killed_and_resumed(tmp_path, overrides):
    """On the GPU too a run that was killed and resumed has the bits of one that was not."""
    (tmp_path / "own_kill.py").write_text(KILL)
    own = ("+callbacks.kill={_target_: own_kill.Kill}", "allow=[own_kill]")
    arguments = ["trainer.max_epochs=5", "stages=[fit]", "callbacks.resume_points.every_n_steps=7", *own, *overrides]
    assert train(tmp_path, *arguments, "output_dir=whole") == 0
    assert train(tmp_path, *arguments, "output_dir=killed", KILL_AT="60") == -signal.SIGKILL
    assert train(tmp_path, "resume=killed", "allow=[own_kill]") == 0
    assert differences(tmp_path / "whole", tmp_path / "killed") == []


def test_compiled(tmp_path, caplog):
    plain, compiled = fit(tmp_path / "a"), fit(tmp_path / "b", "trainer.compile=true")
    assert "the compiler failed" not in caplog.text
    assert gap(compiled, plain) < 1e-2


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed", "bf16-true", "64-true"])
def test_precisions(command, precision):
    outcome = command(
        "model=cnn", "trainer.channels_last=true", f"trainer.precision={precision}", "trainer.max_epochs=8"
    )
    assert outcome.code == 0, outcome.text
    assert outcome.results["metrics"]["best"]["accuracy/val"] > 0.9
    assert outcome.results["machine"]["gpu"]


def test_the_data_are_on_the_gpu(tmp_path):
    run = fit(tmp_path)
    assert next(iter(run.data.train_dataloader()))[0].device.type == "cuda"


def test_the_largest_batch_is_found(tmp_path):
    config = composed(*SHORT, "data=digits", "model=cnn")
    config.output_dir = str(tmp_path)
    run = build(config)
    found = BatchSizeFind(memory_gb=0.2)._on_gpu(run, 1_000)
    sizes = [measured.size for measured in found]
    assert 1 < max(sizes) <= 1_000
    assert all(measured.bytes <= 0.2e9 for measured in found)


def test_a_sweep_of_processes_and_one_as_a_stack(tmp_path):
    grid = ("-m", "optim.lr=0.001,0.003", "trainer.max_epochs=3")
    assert train(tmp_path, *grid, "hydra.sweep.dir=processes") == 0
    assert train(tmp_path, *grid, "hydra.sweep.dir=stack", "hydra/launcher=vectorized") == 0
    found = [
        sorted(
            (r["overrides"], r["metrics"]["last"]["loss/val"])
            for r in map(json.loads, (p.read_text() for p in (tmp_path / name).rglob("results.json")))
        )
        for name in ("processes", "stack")
    ]
    assert len(found[0]) == 2
    for one, other in zip(*found, strict=True):
        assert one[0] == other[0]
        assert one[1] == pytest.approx(other[1], rel=1e-3)
