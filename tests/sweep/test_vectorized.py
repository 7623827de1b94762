"""Runs that are trained as one stack against the same runs one by one, which Lightning trains."""

import copy
import csv
import functools
import json
import logging
import os
import re
import signal

import pytest
import torch
import yaml
from conftest import composed
from omegaconf import OmegaConf
from omegaconf._utils import get_yaml_loader
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils._pytree import tree_leaves_with_path

from iolaus import cli, report
from iolaus.build import build
from iolaus.check import plain
from iolaus.report import Report
from iolaus.resume import resume
from iolaus.runs import Job
from iolaus.signals import Stopped
from iolaus.sweep import stacked_scores, together
from iolaus.sweep.stack import RECORDED, Stack, adam_step
from iolaus.sweep.vectorized import OPTIMIZERS, stackable, train_together
from iolaus.train import train

BASE = ["data=iris", "trainer.max_epochs=3", "logger=[]", "~callbacks.progress", "callbacks.lr_monitor=null"]
composed_once = functools.cache(composed)


@pytest.fixture
def quick(monkeypatch):
    """Reports without figures and git, which take most of the time of a small run."""
    monkeypatch.setattr(Report, "_draw", lambda *_: None)
    monkeypatch.setattr(report, "git", lambda *_: None)


def settings(folder, *overrides, base=BASE):
    """Composed settings; values are put in afterwards, as composing takes longer than training here."""
    values = [word for word in overrides if re.match(r"[a-z_]+(\.\w+)*=", word) and ("." in word or "seed" in word)]
    config = copy.deepcopy(composed_once(*base, *(word for word in overrides if word not in values)))
    for word in values:
        key, _, value = word.partition("=")
        OmegaConf.update(config, key, yaml.load(value, get_yaml_loader()))
    config.output_dir = str(folder)
    return config


def trained_together(tmp_path, variants, *base):
    configs = [settings(tmp_path / f"all{i}", *base, *words) for i, words in enumerate(variants)]
    assert stackable([plain(config) for config in configs]) == ([list(range(len(variants)))], {})
    return train_together(configs, [Job([], {}) for _ in configs])


def trained_alone(tmp_path, variants, *base):
    configs = [settings(tmp_path / f"one{i}", *base, *words) for i, words in enumerate(variants)]
    return [train(config, Job([], {})) for config in configs]


def results(folder):
    return json.loads((folder / "results.json").read_text())


def rows(folder):
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def checkpoint(folder, name):
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


def assert_alike(tmp_path, number, tolerance=1e-5):
    """Every number that a run leaves is that of the run by itself, rounding apart; every count and name is the same."""
    one, both = tmp_path / f"one{number}", tmp_path / f"all{number}"
    for own, other in zip(rows(one), rows(both), strict=True):
        assert list(own) == list(other)
        assert [float(v) for v in other.values()] == pytest.approx(
            [float(v) for v in own.values()], rel=tolerance, abs=1e-6
        )
    first, second = results(one), results(both)
    assert second.pop("together") > 0
    assert first.keys() == second.keys()
    for key in ("status", "best_epoch", "epochs", "steps", "checkpoint", "tested", "num_parameters", "error"):
        assert first[key] == second[key], key
    for name, value in first["metrics"]["test"].items():
        assert second["metrics"]["test"][name] == pytest.approx(value, rel=tolerance, abs=1e-6), name
    for name in ("best", "last"):
        left, right = checkpoint(one, name), checkpoint(both, name)
        assert left.keys() == right.keys()
        assert left["callbacks"].keys() == right["callbacks"].keys()
        for key in ("epoch", "global_step", "loops"):
            assert left[key] == right[key], (name, key)
        for key in ("state_dict", "optimizer_states", "lr_schedulers"):
            for (path, value), (_, other) in zip(*map(tree_leaves_with_path, (left[key], right[key])), strict=True):
                is_number = isinstance(value, float | torch.Tensor)
                close = (
                    torch.allclose(*map(torch.as_tensor, (other, value)), tolerance, tolerance)
                    if is_number
                    else value == other
                )
                assert close, (name, key, path)


CASES = {
    "Adam, rates, cosine, smoothing": (
        ["scheduler=cosine"],
        [["optim.lr=0.01"], ["optim.lr=0.001", "loss.label_smoothing=0.2"], ["optim.betas=[0.8,0.9]"]],
    ),
    "SGD, momentum, weight decay, plateau, clipping": (
        ["optim=sgd", "scheduler=plateau", "scheduler.patience=0"],
        [
            ["optim.lr=0.1", "trainer.gradient_clip_val=0.1"],
            ["optim.momentum=0", "optim.weight_decay=0.1"],
            ["optim.nesterov=true", "scheduler.factor=0.5"],
        ],
    ),
    "AdamW, regression, seeds, a schedule by steps, clipping by value": (
        ["data=diabetes", "optim=adamw", "scheduler=one_cycle", "trainer.gradient_clip_algorithm=value"],
        [
            ["seed=1"],
            ["seed=2", "optim.weight_decay=1", "trainer.max_epochs=2"],
            ["seed=1", "trainer.gradient_clip_val=0.01"],
        ],
    ),
    "batch norm, and a last batch of one row": (
        [
            "model.norm=BatchNorm1d",
            "optim=sgd",
            "data.batch_size=26",
        ],  # the last of 105 rows is joined to the batch before
        [["optim.lr=0.01"], ["seed=3"]],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_same_numbers_as_one_by_one(tmp_path, quick, case):
    base, variants = CASES[case]
    alone = trained_alone(tmp_path, variants, *base)
    assert trained_together(tmp_path, variants, *base) == pytest.approx(alone, rel=1e-5)
    for number in range(len(variants)):
        assert_alike(tmp_path, number)


@pytest.mark.slow
def test_each_stops_when_it_would_stop(tmp_path, quick):
    """Runs end at different epochs, so that the stack becomes smaller, to a single member in the end."""
    base = ["callbacks.early_stopping.patience=1", "trainer.max_epochs=9", "data.batch_size=32"]
    variants = [["optim.lr=0.1"], ["optim.lr=0.001"], ["optim.lr=0.03"], ["seed=4", "trainer.max_epochs=5"]]
    trained_alone(tmp_path, variants, *base)
    trained_together(tmp_path, variants, *base)
    epochs = {results(tmp_path / f"all{number}")["epochs"] for number in range(len(variants))}
    assert epochs == {2, 3, 5, 9}
    for number in range(len(variants)):
        assert_alike(tmp_path, number, tolerance=1e-4)


def test_one_that_diverges_fails_alone(tmp_path, quick, caplog):
    variants = [["optim.lr=0.01"], ["optim.lr=1e30"], ["optim.lr=0.1"]]
    trained_alone(tmp_path, variants[:1], "optim=sgd")
    with caplog.at_level(logging.ERROR):
        values = trained_together(tmp_path, variants, "optim=sgd")
    assert values[1] is None
    assert values[0] is not None
    failed = results(tmp_path / "all1")
    assert failed["status"] == "failed"
    assert "the run diverged" in failed["error"]
    assert "learning rate 1e+30" in failed["error"]
    assert "the run diverged" in caplog.text
    assert "the run diverged" in (tmp_path / "all1" / "train.log").read_text()
    assert results(tmp_path / "all2")["status"] == "completed"
    assert_alike(tmp_path, 0)


def test_figures_of_the_best(tmp_path, monkeypatch, caplog):
    """Drawn when all have ended; every report and every objective is there without."""
    caplog.set_level(logging.INFO)
    drawn = []

    def draw(report, results, loggers):
        drawn.append(report.folder.name)
        (figures := report.folder / "figures").mkdir(exist_ok=True)
        Image.new("L", (4, 4)).save(figures / "drawn.png")
        report._shown = [{"file": "figures/drawn.png"}]

    monkeypatch.setattr(Report, "_draw", draw)
    base = ["data=iris", "trainer.max_epochs=2", "~callbacks.progress"]
    configs = [settings(tmp_path / str(i), f"optim.lr={lr}", base=base) for i, lr in enumerate((1e-6, 1e-2, 1e-4))]
    train_together(configs, [Job([], {}) for _ in configs])
    assert drawn == ["1"]
    for i in range(3):
        found = results(tmp_path / str(i))
        assert found["status"] == "completed"
        assert [shown["file"] for shown in found["shown"]] == (["figures/drawn.png"] if i == 1 else [])
        assert ("figures/drawn.png" in (tmp_path / str(i) / "report.md").read_text()) == (i == 1)
        assert "the best of these runs alone" in (tmp_path / str(i) / "train.log").read_text()
        board = EventAccumulator(str(tmp_path / str(i)), size_guidance={"scalars": 0}).Reload()
        assert [e.value for e in board.Scalars("Objective")] == pytest.approx([found["objective"]["value"]])


@pytest.mark.parametrize("drawn", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_folder_as_a_single_run_leaves_it(tmp_path, capsys, caplog, monkeypatch, drawn):
    if not drawn:
        monkeypatch.setattr(Report, "_draw", lambda *_: None)
    caplog.set_level(logging.INFO)
    base = ["data=iris", "trainer.max_epochs=2", "~callbacks.progress", "trainer.log_every_n_steps=5"]
    train(settings(tmp_path / "one", base=base), Job([], {}))
    configs = [settings(tmp_path / f"all{i}", f"optim.lr={lr}", base=base) for i, lr in enumerate((1e-3, 1e-2))]
    train_together(configs, [Job([], {}) for _ in configs], figures="all")

    def files(folder):
        found = {str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()}
        return {name for name in found if "tfevents" not in name}

    one, both = tmp_path / "one", tmp_path / "all0"
    assert files(both) == files(one) | {"train.log"}  # Hydra writes the log of a single run
    assert "trained together with 1 other" in (both / "train.log").read_text()
    assert "trained together with 1 other" in (both / "report.md").read_text()
    if drawn:
        assert Image.open(both / "figures" / "learning_curves.png").size[0] > 300
    left, right = (EventAccumulator(str(f), size_guidance={"scalars": 0}).Reload() for f in (one, both))
    assert set(left.Tags()["scalars"]) == set(right.Tags()["scalars"])
    for tag in ("lr", "loss/val", "loss/train", "loss/step"):
        assert [e.step for e in left.Scalars(tag)] == [e.step for e in right.Scalars(tag)], tag
        assert [e.value for e in left.Scalars(tag)] == pytest.approx([e.value for e in right.Scalars(tag)], rel=1e-5), (
            tag
        )

    capsys.readouterr()
    cli.main(["test", str(both)])
    tested = results(both)["metrics"]["test"]
    assert f"{tested['loss/test']:.4f}" in capsys.readouterr().out


def test_it_goes_on_by_itself_from_where_the_stack_left_it(tmp_path, quick):
    variants = [["optim.lr=0.01"], ["optim.lr=0.02"]]
    trained_alone(tmp_path, variants[:1], "trainer.max_epochs=4", "scheduler=exponential")
    trained_together(tmp_path, variants, "trainer.max_epochs=2", "scheduler=exponential")
    resume(tmp_path / "all0", ["trainer.max_epochs=4"], [])
    own, other = rows(tmp_path / "one0"), rows(tmp_path / "all0")
    assert [row["epoch"] for row in other] == ["1", "2", "3", "4"]
    assert [float(row["loss/val"]) for row in other] == pytest.approx([float(row["loss/val"]) for row in own], rel=1e-5)


@pytest.mark.slow
def test_a_signal_leaves_resume_points(tmp_path, quick, monkeypatch):
    epoch = together.Together._epoch

    def signalled(self, number):
        if number == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        epoch(self, number)

    monkeypatch.setattr(together.Together, "_epoch", signalled)
    with pytest.raises(Stopped):
        trained_together(tmp_path, [["optim.lr=0.01"], ["optim.lr=0.02"]])
    for number in range(2):
        assert results(tmp_path / f"all{number}")["status"] == "interrupted"
        assert checkpoint(tmp_path / f"all{number}", "last")["epoch"] == 2


@pytest.mark.slow
def test_what_cannot_be_stacked_after_all_is_trained_by_itself(tmp_path, quick, monkeypatch, caplog):
    """Where the first stacked step is another one than the run's own, the runs are trained one by one: the same bits."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(together, "TOLERANCE", -1.0)
    variants = [["optim.lr=0.01"], ["optim.lr=0.02"]]
    alone = trained_alone(tmp_path, variants)
    assert trained_together(tmp_path, variants) == alone
    assert "together" not in results(tmp_path / "all0")
    assert "trained by itself" in (tmp_path / "all0" / "train.log").read_text()


@pytest.mark.slow
def test_a_run_whose_folder_is_taken_fails_alone(tmp_path, quick):
    variants = [["optim.lr=0.01"], ["optim.lr=0.02"], ["optim.lr=0.03"]]
    (tmp_path / "all1").mkdir()
    (tmp_path / "all1" / "config.yaml").write_text("{}")
    values = trained_together(tmp_path, variants, "trainer.max_epochs=1")
    assert values[1] is None
    assert None not in (values[0], values[2])


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two runs with other first weights, and a batch."""
    folder = tmp_path_factory.mktemp("pair")
    runs = [build(settings(folder / str(seed), f"seed={seed}")) for seed in (0, 1)]
    return [run.task for run in runs], next(iter(runs[0].data.train_dataloader()))


@pytest.mark.parametrize(
    "kind", [torch.optim.Adam, torch.optim.AdamW, functools.partial(torch.optim.Adam, amsgrad=True, maximize=True)]
)
def test_a_step_of_adam_has_the_bits_of_torch_s_own(kind):
    """Rates, decay and betas of each group; a group without a gradient stays as it is."""
    torch.manual_seed(0)
    start, gradients = torch.randn(3, 50), torch.randn(6, 3, 50)
    settings = [{"lr": 0.1}, {"lr": 0.01, "weight_decay": 0.1, "eps": 1e-3}, {"lr": 0.3, "betas": (0.5, 0.9)}]
    ends = []
    for step in (adam_step, lambda optimizer: bool(optimizer.step()) or True):
        rows = [torch.nn.Parameter(row.clone()) for row in start]
        optimizer = kind([{"params": [row], **own} for row, own in zip(rows, settings, strict=True)], fused=True)
        for number, gradient in enumerate(gradients):
            optimizer.param_groups[0]["lr"] *= 0.9
            for row, own in zip(rows, gradient, strict=True):
                row.grad = own.clone()
            if number > 3:
                rows[1].grad = None
            if not step(optimizer):
                assert number == 0  # its states are made by torch
                optimizer.step()
        ends.append((rows, list(optimizer.state.values())))
    for one, other in zip(ends[0][0], ends[1][0], strict=True):
        assert torch.equal(one, other)
    for one, other in zip(ends[0][1], ends[1][1], strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, functools.partial(torch.optim.Adam, fused=False)])
def test_other_optimizers_take_their_own_steps(optimizer):
    row = torch.nn.Parameter(torch.ones(3))
    row.grad = torch.ones(3)
    made = optimizer([row], lr=0.1)
    made.step()
    before = row.detach().clone()
    assert not adam_step(made)
    assert torch.equal(row, before)


@pytest.mark.parametrize("target", sorted(OPTIMIZERS))
def test_each_optimizer_takes_the_steps_that_it_takes_by_itself(pair, target):
    tasks, batch = copy.deepcopy(pair[0]), pair[1]
    make = getattr(torch.optim, target.rpartition(".")[2])
    own = [
        make(task.parameters(), lr=lr, weight_decay=0.1) if "Rprop" not in target else make(task.parameters(), lr=lr)
        for task, lr in zip(tasks, (0.01, 0.003), strict=True)
    ]
    stack = Stack(tasks, own)
    for _ in range(5):
        stack.gradient(batch, apart=False)
        stack.step()
        for task, optimizer in zip(tasks, own, strict=True):
            optimizer.zero_grad()
            task.step(batch)[0].backward()
            optimizer.step()
    for number, task in enumerate(tasks):
        alone = torch.cat([p.detach().flatten() for p in task.parameters()])
        torch.testing.assert_close(stack.rows[number], alone, rtol=1e-4, atol=1e-5)


def test_the_recorded_graph_is_the_computation(pair):
    tasks, batch = pair
    stack = Stack(tasks, [torch.optim.SGD(task.parameters()) for task in tasks])
    before = [part.clone() for part in (stack.gradient(batch, apart=False)[0], stack.gradients)]
    for _ in range(RECORDED):
        losses, _, _ = stack.gradient(batch, apart=False)
    assert stack._graphs
    assert torch.equal(losses, before[0])
    assert torch.equal(stack.gradients, before[1])


@pytest.mark.slow
def test_scores_that_outgrow_their_memory(tmp_path, quick, monkeypatch):
    monkeypatch.setattr(stacked_scores, "MOST_ELEMENTS", 100)
    variants = [["optim.lr=0.01"], ["optim.lr=0.001"]]
    trained_alone(tmp_path, variants)
    trained_together(tmp_path, variants)
    assert_alike(tmp_path, 0)


@pytest.mark.slow
def test_a_convolutional_network_with_augmented_images(tmp_path, quick):
    base = ["data=digits", "model=cnn", "model.conv_dropout=0", "model.hidden_dropout=0", "augment=[crop]"]
    variants = [["optim.lr=0.001"], ["optim.lr=0.003"]]
    alone = trained_alone(tmp_path, variants, *base)
    assert trained_together(tmp_path, variants, *base) == pytest.approx(alone, rel=1e-3)


REASONS = {
    "optim._target_=torch.optim.LBFGS": "optim=LBFGS has no stacked form",
    "+optim._groups_={a: {match: x}}": "optim._groups_={'a': {'match': 'x'}} has no stacked form",
    "model._target_=iolaus.model.recurrent.Recurrent": "model=Recurrent has no stacked form",
    "model.dropout=0.3": "model.dropout=0.3 draws random numbers, and a stack would draw others",
    "+model.layers=[Flatten, Dropout]": "model.layers.1: Dropout has no stacked form",
    "+model.layers=[{repeat: {layers: [LSTM]}}]": "model.layers.0.repeat.layers.0: LSTM has no stacked form",
    "model.norm=BatchNorm1d": "model.norm: BatchNorm with optim=Adam would follow another rounding; with SGD it has a stacked form",
    "gradient._target_=a.TwoPoint": "gradient._target_=a.TwoPoint has no stacked form",
    "loss._target_=torch.nn.MultiMarginLoss": "loss=MultiMarginLoss has no stacked form",
    "task._target_=iolaus.task.ranking.Ranking": "task=Ranking has no stacked form",
    "+callbacks.ema={_target_: iolaus.callbacks.averaging.Averaging}": "callbacks.ema has no stacked form",
    "callbacks.checkpoint.save_top_k=3": "callbacks.checkpoint.save_top_k=3 has no stacked form",
    "callbacks.early_stopping.monitor=loss/train": "callbacks.early_stopping.monitor=loss/train differs from the objective",
    "trainer.precision=bf16-mixed": "trainer.precision=bf16-mixed has no stacked form",
    "trainer.accumulate_grad_batches=2": "trainer.accumulate_grad_batches=2 has no stacked form",
    "trainer.max_steps=10": "trainer.max_steps=10 has no stacked form",
    "trainer.val_check_interval=0.5": "trainer.val_check_interval=0.5 has no stacked form",
    "trainer.fast_dev_run=true": "trainer.fast_dev_run=True has no stacked form",
    "objective.monitor=loss/train": "objective.monitor=loss/train: only what is measured on the validation split has a stacked form",
    "stages=[info]": "stages=['info']: only fit, and fit with test, have a stacked form",
    "model.hidden_dims=[8]": "model.hidden_dims differs",
    "data.batch_size=4": "data.batch_size differs",
    "+model.other=1": "model.other differs",
}


def updated(folder, *words):
    """Settings with values put in that need not be composed."""
    config = copy.deepcopy(composed_once("data=iris"))
    for word in words:
        key, _, value = word.lstrip("+").partition("=")
        OmegaConf.update(config, key, yaml.load(value, get_yaml_loader()), force_add=True)
    config.output_dir = folder
    return plain(config)


@pytest.mark.parametrize("word", REASONS)
def test_why_a_run_is_not_stacked(word):
    groups, reasons = stackable([updated("a"), updated("b", "seed=1"), updated("c", word)])
    assert groups == [[0, 1]]
    assert reasons == {2: REASONS[word]}


def test_groups_of_a_sweep():
    words = [
        "optim.lr=1",
        "optim._target_=torch.optim.SGD",
        "optim.lr=2",
        "optim._target_=torch.optim.SGD",
        "model.activation=Tanh",
    ]
    configs = [updated(f"outputs/{i}", word, f"seed={i}") for i, word in enumerate([*words, "scheduler=null"])]
    groups, reasons = stackable(configs)
    assert groups == [[0, 2, 5], [1, 3]]
    assert reasons == {4: "model.activation differs"}
    assert stackable(configs[:1]) == ([], {0: "no other run of the sweep is like it"})
