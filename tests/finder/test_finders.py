"""Finders against closed forms, against real fits, and without a trace."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import composed
from torch.func import functional_call

from iolaus import random_state
from iolaus.build import build
from iolaus.check import check
from iolaus.errors import ConfigError, UserError
from iolaus.finder import batch_size_find
from iolaus.finder.batch_size_find import BatchSizeFind, doubling, free_bytes, largest_that
from iolaus.finder.lr_find import LRFind, smoothed, steepest_descent
from iolaus.finder.trial import Trial

PLAIN = ("data=iris", "callbacks=[]", "logger=[]", "trainer.accelerator=cpu")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def plain_run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("plain"))
        return built("data.batch_size=16")


def built(*overrides):
    return build(composed(*PLAIN, *overrides))


def state(run):
    """Everything that must stay: weights, buffers, which are trained, modes, gradients, random numbers to come, the batch size."""
    task = run.task
    return {
        "weights": {name: value.clone() for name, value in task.state_dict().items()},
        "modes": [(part.training) for part in task.modules()],
        "trained": [p.requires_grad for p in task.parameters()],
        "grads": [p.grad for p in task.parameters()],
        "random": random_state.capture()["torch"],
        "batch_size": run.data.batch_size,
    }


def assert_same(before, after):
    for name, value in before.pop("weights").items():
        assert torch.equal(value, after["weights"][name]), name
    after.pop("weights")
    assert torch.equal(before.pop("random"), after.pop("random"))
    assert before == after


def test_the_least_loss_of_a_quadratic_is_at_the_critical_rate(here):
    """Gradient descent on a quadratic of curvature L falls with rates below 2 / L alone; L is that of the dense Hessian."""
    x = np.linspace(-1, 2, 32)
    np.savez("line.npz", inputs=x[:, None].astype("float32"), targets=(2 * x + 1)[:, None].astype("float32"))
    data = ("data=npz", "data.path=line.npz", "data.input_shape=[1]", "data.target_kind=real", "task=regression")
    words = (
        "data.batch_size=64",
        "model=linear",
        "loss=mse",
        "optim=sgd",
        "optim.momentum=0",
        "trainer.precision=64-true",
    )
    run = built(*data, *words)
    task = run.task
    (batch,) = ([part.double() for part in b] for b in run.data.train_dataloader())
    names, weights = zip(*((n, p.detach()) for n, p in task.named_parameters()), strict=True)

    class Loss(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.task = task

        def forward(self):
            return self.task.step(batch)[0]

    def loss(flat):
        parts = flat.split([w.numel() for w in weights])
        values = {f"task.{n}": p.view_as(w) for n, p, w in zip(names, parts, weights, strict=True)}
        return functional_call(Loss(), values, ())

    flat = torch.cat([w.flatten() for w in weights])
    curvature = float(torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, flat))[-1])
    rates, losses = LRFind(min_lr=0.6 / curvature, max_lr=6 / curvature, num_steps=20, threshold=1e9).ramp(run)
    least = int(np.argmin(losses))
    assert rates[least - 1] < 2 / curvature < rates[least]
    assert losses[-1] > 1e4 * losses[least]


@pytest.mark.parametrize("words", [(), ("trainer.accumulate_grad_batches=2", "trainer.gradient_clip_val=0.1")])
def test_trial_steps_are_those_of_a_fit(here, words):
    """An epoch of them leads to the same weights, bit for bit."""
    run = built("data.batch_size=16", "model.dropout=0.2", "trainer.max_epochs=1", *words)
    with Trial(run) as trial:
        batches = trial.batches()
        for _ in range(7 // trial.accumulate):
            trial.step([next(batches) for _ in range(trial.accumulate)])
        if trial.accumulate == 2:  # the last one stands alone, at the end of the epoch
            trial.step([next(batches)] * 2)
        found = {name: value.clone() for name, value in run.task.state_dict().items()}
    first = {name: value.clone() for name, value in run.task.state_dict().items()}
    assert any(not torch.equal(found[name], first[name]) for name in found)
    assert -(-len(run.data.rows["train"]) // 16) == 7
    if trial.accumulate == 2:
        run = built("data.batch_size=16", "model.dropout=0.2", "trainer.max_steps=3", *words)
        with Trial(run) as trial:
            batches = trial.batches()
            for _ in range(3):
                trial.step([next(batches), next(batches)])
            found = {name: value.clone() for name, value in run.task.state_dict().items()}
    run.trainer.fit(run.task, datamodule=run.data)
    for name, value in run.task.state_dict().items():
        assert torch.equal(value, found[name]), name


@pytest.mark.parametrize(
    "words",
    [
        (
            "data.batch_size=20",
            "model.dropout=0.5",
            "model.norm=BatchNorm1d",
            "trainer.precision=bf16-mixed",
            "trainer.accumulate_grad_batches=2",
        ),
        ("optim=lbfgs", "model=linear", "lr_find.num_steps=10"),
        pytest.param(("optim=adadelta", "trainer.gradient_clip_val=1"), marks=pytest.mark.slow),
        pytest.param(("optim=muon", "trainer.precision=64-true"), marks=pytest.mark.slow),
        pytest.param(("gradient=two_point", "optim=sgd"), marks=pytest.mark.slow),
        pytest.param(
            ("model=linear", "optim=adafactor", "+optim._groups_.b={match: bias, frozen: true}"), marks=pytest.mark.slow
        ),
    ],
)
def test_nothing_is_left_behind(here, words):
    run = built(*words)
    before = state(run)
    finder = LRFind(min_lr=1e-4, max_lr=1.0, num_steps=10)
    rates, losses = finder.ramp(run)
    assert len(rates) == len(losses) > 2
    assert np.isfinite(losses).all()
    assert_same(before, state(run))


def test_groups_of_parameters_keep_their_ratios(here, monkeypatch):
    run = built("optim.lr=0.01", "+optim._groups_.head={match: layers.3, lr: 0.05}", "scheduler=one_cycle")
    seen = []
    step = Trial.step
    monkeypatch.setattr(
        Trial, "step", lambda s, b: seen.append([g["lr"] for g in s.optimizer.param_groups]) or step(s, b)
    )
    found = LRFind(min_lr=1e-5, max_lr=1.0, num_steps=30).find(run)
    assert [rest for rest, _ in seen][:2] == pytest.approx([1e-5, 1e-5 * 1e5 ** (1 / 29)])
    assert all(head == pytest.approx(5 * rest) for rest, head in seen)
    lr = found.suggestion["optim.lr"]
    assert f"try optim.lr={lr:g} optim._groups_.head.lr={float(f'{5 * lr:.1e}'):g}\n" in found.words


def test_means_are_without_bias():
    """Against weights b^(n - i) that sum to 1; a constant stays what it is from the first value on."""
    values = np.random.default_rng(0).normal(size=30)
    for place, mean in enumerate(smoothed(list(values), 0.8)):
        weights = 0.8 ** np.arange(place, -1, -1)
        assert mean == pytest.approx((weights * values[: place + 1]).sum() / weights.sum())
    assert smoothed([3.0] * 5, 0.98) == pytest.approx([3.0] * 5)


def test_the_steepest_descent_of_a_known_curve():
    """A logistic curve in the logarithm of the rate falls most in its middle, whatever the noise where nothing happens yet."""
    rates = list(np.logspace(-6, 1, 100))
    x = np.log10(rates)
    noise = np.where(x < -4, 0.2 * (-1.0) ** np.arange(100), 0)
    values = list(2 - 1.5 / (1 + np.exp(-4 * (x + 2))) + noise)
    assert rates[steepest_descent(rates, values, int(np.argmin(values)))] == pytest.approx(1e-2, rel=0.1)


def test_a_loss_that_never_falls_gets_no_suggestion(plain_run):
    found = LRFind(min_lr=1e-12, max_lr=1e-10, num_steps=10).find(plain_run)
    assert found.suggestion == {}
    assert "the loss falls with no rate from 1e-12 to 1e-10" in found.words


def test_the_largest_size_that_fits_is_found_in_a_few_tries():
    for limit in (0, 1, 2, 3, 100, 777, 1000):
        tried = []
        found = largest_that(lambda size, limit=limit, tried=tried: tried.append(size) or size <= limit, 1000)
        assert 0.95 * limit <= found <= limit or limit - found <= 1
        assert len(tried) <= 16
    assert list(doubling(10)) == [1, 2, 4, 8, 10]
    assert list(doubling(1)) == [1]


def test_the_smallest_of_the_quick_sizes_is_suggested(plain_run, monkeypatch):
    speeds = {1: 10.0, 2: 20.0, 4: 39.0, 8: 40.0, 9: 38.5}
    monkeypatch.setattr(BatchSizeFind, "_speed", lambda self, run, size: speeds[size])
    run = plain_run
    found = BatchSizeFind(max_size=9).find(run)
    assert found.suggestion == {"data.batch_size": 4, "quickest": 4, "largest": 9}
    assert run.data.batch_size == 16
    memory = [row[2] for row in found.table.rows]
    inputs = 9 * 4 * 4 - 1 * 4 * 4  # more bytes of inputs alone
    assert memory == sorted(memory)
    assert memory[-1] - memory[0] > inputs
    limited = BatchSizeFind(max_size=9, memory_gb=memory[2] / 1e9).find(run)
    assert limited.suggestion["largest"] == 4
    with pytest.raises(UserError, match="not even a batch of one sample"):
        BatchSizeFind(memory_gb=1e-6).find(run)


def test_an_epoch_keeps_its_steps(plain_run, monkeypatch):
    """Iris has 105 training rows: a size that leaves few steps of them is named, with what it reaches, and not suggested."""
    monkeypatch.setattr(BatchSizeFind, "_speed", lambda self, run, size: float(size))
    found = BatchSizeFind().find(plain_run)
    assert found.suggestion == {"data.batch_size": 8, "quickest": 105, "largest": 105}
    assert "an epoch has 14 steps with batches of 8; an epoch has 1 step with batches of 105, too few" in found.words
    steps = {row[0]: row[3] for row in found.table.rows}
    assert steps == {size: -(-105 // size) for size in steps}


def test_a_size_that_does_not_fit_a_gpu_is_caught(plain_run, monkeypatch):
    """No GPU is here: its memory is one that holds 1000 samples; other errors are not taken for it."""

    def speed(self, run, size):
        if size > 1000:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return float(size)

    monkeypatch.setattr(BatchSizeFind, "_speed", speed)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 1)
    found = BatchSizeFind()._on_gpu(plain_run, 100_000)
    assert 950 <= max(measured.size for measured in found) <= 1000
    monkeypatch.setattr(BatchSizeFind, "_speed", lambda *_: (_ for _ in ()).throw(RuntimeError("shapes")))
    with pytest.raises(RuntimeError, match="shapes"):
        BatchSizeFind()._on_gpu(plain_run, 8)


def test_free_memory_is_that_of_the_container(tmp_path, monkeypatch):
    machine = free_bytes()
    assert machine > 1e6
    monkeypatch.setattr(batch_size_find, "CGROUP", tmp_path)
    (tmp_path / "memory.current").write_text("3000\n")
    (tmp_path / "memory.max").write_text("5000\n")
    assert free_bytes() == 2000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_bytes() > 1e6


FEW = ("lr_find.num_steps=20", "batch_size_find.seconds_per_size=1e-3", "batch_size_find.max_size=4")


def test_what_was_found_stands_in_results_report_figures_and_files(command):
    outcome = command("data=iris", "logger=[]", "callbacks=[]", *FEW, "stages=[lr_find,batch_size_find]")
    assert outcome.code == 0, outcome.text
    assert "nothing was trained" in outcome.text
    found = outcome.results["suggestions"]
    assert f"lr_find: try optim.lr={found['lr_find']['optim.lr']:g}\n" in outcome.text
    assert f"batch_size_find: try data.batch_size={found['batch_size_find']['data.batch_size']}\n" in outcome.text
    for name in ("lr_find", "batch_size_find", "batch_size_find_memory"):
        assert (outcome.folder / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f"figures/{name}.png" in (outcome.folder / "report.md").read_text()
    with (outcome.folder / "samples" / "lr_find.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert 3 <= len(rows) <= 20
    assert float(rows[0]["loss"]) == pytest.approx(float(rows[0]["smoothed"]))


@pytest.mark.slow
def test_a_fit_after_finding_is_a_fit_without(command):
    """The same bits; nothing that was found is used."""
    words = ("data=iris", "data.batch_size=20", "model.dropout=0.3", "model.norm=BatchNorm1d", "trainer.max_epochs=2")
    alone = command(*words, "logger=[]", "stages=[fit]")
    after = command(*words, *FEW, "logger=[]", "stages=[lr_find,batch_size_find,fit]")
    assert (alone.code, after.code) == (0, 0), after.text
    assert (alone.folder / "metrics.csv").read_bytes() == (after.folder / "metrics.csv").read_bytes()
    weights = [torch.load(o.folder / "checkpoints/last.ckpt")["state_dict"] for o in (alone, after)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert "suggestions" in after.results
    assert "suggestions" not in alone.results


@pytest.mark.slow
def test_a_run_that_goes_on_keeps_what_was_found(command):
    words = ("data=iris", "trainer.max_epochs=2", "logger=[]", "stages=[lr_find,fit]", "lr_find.num_steps=15")
    found = command(*words, "output_dir=run").results["suggestions"]
    outcome = command("resume=run", "trainer.max_epochs=3")
    assert outcome.code == 0, outcome.text
    assert "lr_find" not in outcome.text
    results = json.loads(Path("run/results.json").read_text())
    assert results["epochs"] == 3
    assert results["suggestions"] == found


def test_mistakes_are_told_before_torch():
    wrong = {
        "lr_find.num_steps=3": "lr_find.num_steps: must be at least 10; received 3",
        "lr_find.smoothing=1": "lr_find.smoothing: must be in",
        "batch_size_find.memory_gb=0": "batch_size_find.memory_gb: must be above 0",
        "batch_size_find.max_size=many": "batch_size_find.max_size: must be",
    }
    with pytest.raises(ConfigError) as error:
        check(composed(*PLAIN, *wrong, "stages=[lr_find]", "optim=rprop"), {}, [])
    for says in (*wrong.values(), "lr_find tells nothing of Rprop"):
        assert says in str(error.value)
    with pytest.raises(ConfigError, match="did you mean 'lr_find'"):
        check(composed(*PLAIN, "stages=[lr_fnd]"), {}, [])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            "lr_find.min_lr=1 lr_find.max_lr=0.1",
            "lr_find.min_lr: must be above 0 and below lr_find.max_lr; received 1 and 0.1",
        ),
        ("lr_find.threshold=1", "lr_find.threshold: must be above 1; received 1"),
        (
            "trainer=ddp trainer.devices=2",
            "stages: lr_find tries steps of one process; run it alone with trainer.devices=1",
        ),
    ],
)
def test_what_no_finder_can_do_is_refused_before_there_is_a_run(command, tmp_path, words, says):
    outcome = command("data=iris", "stages=[lr_find]", "trainer.accelerator=cpu", *words.split())
    assert outcome.code == 1
    (line,) = outcome.text.strip().splitlines()
    assert line.startswith(says)
    assert not list(tmp_path.iterdir())


def test_rates_must_rise():
    with pytest.raises(ValueError, match=r"min_lr must be above 0 and below max_lr; received 1 and 0\.1"):
        LRFind(min_lr=1.0, max_lr=0.1)
