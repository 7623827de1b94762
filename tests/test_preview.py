"""What is shown before a training: the table, the groups, the schedule; and the drawings."""

import shutil

import pytest
import torch
from conftest import CONF, composed, options, read_yaml
from torch import nn

from iolaus.build import build
from iolaus.callbacks.graph import draw
from iolaus.preview import planned_rates


def planned(tmp_path, *overrides):
    config = composed("data=wine", *overrides)
    config.output_dir = str(tmp_path)
    return planned_rates(build(config))


FAST = ("one_cycle",)
PLANNED = [o for o in options("scheduler") if o not in ("constant", "plateau")]


@pytest.mark.parametrize("option", [pytest.param(o, marks=[] if o in FAST else [pytest.mark.slow]) for o in PLANNED])
def test_the_plan_is_what_a_training_does(command, option):
    """The rates that the callback logs at the beginning of each epoch."""
    arguments = (f"scheduler={option}", "data=wine", "trainer.max_epochs=8", "optim=sgd", "optim.lr=0.01")
    outcome = command(*arguments, "~callbacks.early_stopping", "output_dir=run")
    assert outcome.code == 0, outcome.text
    assert (outcome.folder / "figures/schedule.png").stat().st_size > 5000
    epochs, rates = planned(outcome.folder / "plan", *arguments[:1], *arguments[2:], "~callbacks.early_stopping")
    state = torch.load(outcome.folder / "checkpoints/last.ckpt", weights_only=True)
    after = state["optimizer_states"][0]["param_groups"][0]["lr"]
    (course,) = rates.values()
    assert len(epochs) == len(course)
    if len(course) == 8:  # a rate an epoch: what is left in the optimizer is one step further
        import csv

        rows = list(csv.DictReader((outcome.folder / "metrics.csv").open()))
        assert [float(row["lr"]) for row in rows] == pytest.approx(course)
    else:
        assert course[-1] == pytest.approx(after, abs=0.05 * max(course))


def test_warm_up_and_cosine_end_near_zero(tmp_path):
    epochs, rates = planned(tmp_path, "scheduler=warmup_cosine", "trainer.max_epochs=25", "optim.lr=0.1")
    course = rates["rest"]
    assert course.index(max(course)) == 5
    assert course[-1] < 0.1 * 0.02
    assert len(epochs) == 25


def test_one_cycle_rises_to_each_group_s_own_rate(tmp_path):
    group = "+optim._groups_.head={match: layers.5, lr: 0.001}"
    _, rates = planned(tmp_path, "scheduler=one_cycle", "optim.lr=0.01", group)
    assert max(rates["rest"]) == pytest.approx(0.01, rel=1e-3)
    assert max(rates["head"]) == pytest.approx(0.001, rel=1e-3)


def test_info_tells_and_draws_and_trains_nothing(command):
    outcome = command(
        "--info", "scheduler=cosine", "+optim._groups_.no_decay={ndim: 1, weight_decay: 0}", "output_dir=run"
    )
    assert outcome.code == 0, outcome.text
    for words in (
        "parameters: 17,226",
        "20 steps an epoch",
        "no_decay: 3 tensors, 202 parameters",
        "schedule: CosineAnnealingLR",
        "begins at 0.001, is highest in epoch 1",
        "nothing was trained",
    ):
        assert words in outcome.text, words
    for file in ("model.txt", "graph.dot", "figures/schedule.png"):
        assert (outcome.folder / file).exists()
    assert not (outcome.folder / "checkpoints").exists()


DRAWN = [o for o in options("model") if o not in ("llama", "resnet34", "resnet50")]
OF_KIND = {"image": "digits", "tokens": "stdlib", "sentence": "number_words", "audio": "morse"}
OF_KIND |= {"user_item": "interactions", "point_pair": "distances"}
FEW = ("mlp", "cnn", "lstm", "transformer")


@pytest.mark.slow
def test_a_look_before_the_training_does_not_change_it(command):
    frozen = "+optim._groups_.stem={match: layers.1, frozen: true}"
    ends = []
    for number, stages in enumerate(("[info,fit]", "[fit]")):
        outcome = command(f"stages={stages}", frozen, "data=wine", "trainer.max_epochs=2", f"output_dir={number}")
        assert outcome.code == 0, outcome.text
        ends.append(torch.load(outcome.folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"])
    assert all(torch.equal(ends[0][name], value) for name, value in ends[1].items())


@pytest.mark.parametrize("model", [pytest.param(o, marks=[] if o in FEW else [pytest.mark.slow]) for o in DRAWN])
def test_every_model_is_drawn_and_left_as_it_was(model, tmp_path):
    torch.manual_seed(0)
    kind = read_yaml(CONF / "model" / f"{model}.yaml").get("_accepts_", {}).get("input_kind", ["image"])[0]
    config = composed(f"model={model}", f"data={OF_KIND[kind]}")
    config.output_dir = str(tmp_path)
    task = build(config).task
    network, inputs = task.model.train(), task.example(2)[:-1]
    next(network.children(), network).eval()
    modes = [module.training for module in network.modules()]
    state = torch.get_rng_state()
    files = draw(network, inputs, tmp_path)
    assert [file.name for file in files] == ["graph.dot", *(["graph.svg"] if shutil.which("dot") else [])]
    assert [module.training for module in network.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_hooks for module in network.modules())


def test_what_cannot_be_drawn_is_told(tmp_path, caplog):
    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError("no way through")

    assert draw(Broken(), torch.zeros(2, 3), tmp_path) == []
    assert "graph.svg: not drawn" in caplog.text


@pytest.mark.slow
def test_tensorboard_shows_the_graph(command):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    outcome = command("callbacks=[default,graph]", "model=transformer", "trainer.max_epochs=1", "output_dir=run")
    assert outcome.code == 0, outcome.text
    assert "not drawn" not in outcome.text
    events = EventAccumulator(str(outcome.folder))
    events.Reload()
    names = {node.name for node in events.Graph().node}
    assert any("MultiheadAttention" in name for name in names), sorted(names)[:20]
