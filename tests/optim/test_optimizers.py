"""Optimizers against closed forms and torch's own variants; parameter groups by name."""

import numpy as np
import pytest
import torch
from conftest import composed, options

from iolaus.build import build_task
from iolaus.check import plain
from iolaus.optim.groups import parameter_groups


@pytest.mark.parametrize("option", options("optim"))
def test_loops_foreach_and_fused_agree(option):
    """Ten steps on the same gradients, to rounding; the claim of the documents is about speed alone."""
    settings = plain(composed(f"optim={option}"))["optim"]
    if "foreach" not in settings:
        return
    variants = [{"foreach": False}, {"foreach": True}]
    variants += [{"foreach": None, "fused": True}] if "fused" in settings else []
    ends = []
    for variant in variants:
        arguments = {k: v for k, v in (settings | variant).items() if not k.startswith("_")}
        if "fused" in settings and variant.get("fused") is None:
            arguments["fused"] = None
        torch.manual_seed(0)
        weights = [torch.nn.Parameter(torch.randn(5, 3)), torch.nn.Parameter(torch.randn(3))]
        optimizer = getattr(torch.optim, settings["_target_"].rpartition(".")[2])(weights, **arguments)
        for _ in range(10):
            for weight in weights:
                weight.grad = torch.sin(weight.detach()) + 0.1
            optimizer.step()
        ends.append(torch.cat([weight.detach().flatten() for weight in weights]))
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0], rtol=1e-5, atol=1e-6)


def test_lbfgs_finds_the_least_squares_line(command):
    """In fewer than twenty steps, each a full batch; metrics count every row once though a step evaluates the loss many times."""
    from iolaus.data.line import X, Y

    outcome = command(
        *("data=line", "model=linear", "optim=lbfgs", "trainer.max_epochs=15", "callbacks=[resume_points]"),
        *("logger=[]", "data.standardize=false"),
    )
    assert outcome.code == 0, outcome.text
    state = torch.load(outcome.folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    slope, intercept = np.polyfit(X, Y, 1)
    assert state["model.linear.weight"].item() == pytest.approx(slope, abs=1e-3)
    assert state["model.linear.bias"].item() == pytest.approx(intercept, abs=1e-3)
    assert outcome.results["steps"] == 15
    squares = float(np.mean((np.polyval([slope, intercept], X) - np.array(Y)) ** 2))
    assert outcome.results["metrics"]["last"]["mse/train"] == pytest.approx(squares, rel=1e-3)


def small():
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 2))


def test_parameter_groups():
    model = small()
    groups = parameter_groups(
        model.named_parameters(),
        {"head": {"match": r"^2\.", "lr": 0.5}, "no_decay": {"ndim": 1, "weight_decay": 0.0}},
    )
    assert [group["name"] for group in groups] == ["rest", "head", "no_decay"]
    assert groups[0]["params"] == [model[0].weight]
    assert groups[1]["params"] == [model[2].weight, model[2].bias]
    assert groups[2]["params"] == [model[0].bias, model[1].weight, model[1].bias]
    optimizer = torch.optim.AdamW(groups, lr=0.1, weight_decay=0.3)
    assert [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [(0.1, 0.3), (0.5, 0.3), (0.1, 0.0)]


@pytest.mark.slow
def test_frozen_parameters_stay(command):
    """Their rate and decay do not matter, and they have no gradient."""
    settings = plain(composed("data=iris", "+optim._groups_.stem={match: layers.1, frozen: true}"))
    torch.manual_seed(0)
    task = build_task(settings)
    optimizer = task.configure_optimizers()["optimizer"]
    frozen = task.model.layers[1].weight.detach().clone()
    task.step((torch.randn(8, 4), torch.randint(3, (8,))))[0].backward()
    optimizer.step()
    assert torch.equal(task.model.layers[1].weight, frozen)
    assert task.model.layers[1].weight.grad is None
    assert task.model.layers[-1].weight.grad is not None


@pytest.mark.slow
def test_groups_from_the_command_line(command):
    outcome = command(
        *("data=iris", "optim=adamw", "trainer.max_epochs=2", "callbacks=[default,resume_points]"),
        *("+optim._groups_.no_decay={ndim: 1, weight_decay: 0.0}", "+optim._groups_.head={match: layers.5, lr: 0.1}"),
    )
    assert outcome.code == 0, outcome.text
    state = torch.load(outcome.folder / "checkpoints/last.ckpt", weights_only=True)["optimizer_states"][0]
    found = {group["name"]: (group["lr"], group["weight_decay"]) for group in state["param_groups"]}
    assert found == {"rest": (0.001, 0.01), "no_decay": (0.001, 0.0), "head": (0.1, 0.01)}


@pytest.mark.parametrize(
    ("group", "says"),
    [
        ("{lr: 0.1}", "must say its parameters by match"),
        ("{match: layers, lrr: 0.1}", "did you mean 'lr'"),
        ("{match: '(', lr: 0.1}", "no regular expression"),
        ("{match: nowhere, lr: 0.1}", "no parameter belongs to it; there are: model.layers"),
        ("{match: model, frozen: true}", "nothing is left to train"),
        ("3", "write NAME"),
        ("{match: layers, lr: -1}", "must be above 0"),
    ],
)
def test_wrong_groups(command, group, says):
    outcome = command("data=iris", f"+optim._groups_.head={group}")
    assert outcome.code == 1
    assert says in outcome.text, outcome.text
    assert len(outcome.text.splitlines()) <= 8


def test_muon_steps_matrices_as_torch_s_and_the_rest_as_adamw():
    from iolaus.optim.muon import MuonAndAdamW

    def weights():
        torch.manual_seed(0)
        return [torch.nn.Parameter(torch.randn(*shape)) for shape in ((5, 3), (3,), (2, 2, 2))]

    ours, theirs = weights(), weights()
    optimizer = MuonAndAdamW(ours, lr=0.01)
    references = [
        torch.optim.Muon(theirs[:1], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(theirs[1:], lr=0.01, weight_decay=0.1),
    ]
    for step in range(6):
        for values in (ours, theirs):
            for weight in values:
                weight.grad = torch.sin(weight.detach())
        if step == 3:  # the state goes on in another object
            state = optimizer.state_dict()
            optimizer = MuonAndAdamW(ours, lr=0.5)
            optimizer.load_state_dict(state)
        for part in (optimizer, *references):
            part.step()
        for group in [g for part in (optimizer, *references) for g in part.param_groups]:
            group["lr"] *= 0.9
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
