"""Runs whose gradients are estimated: the same as by reverse mode where the estimate is exact, and everything that follows a gradient."""

import copy
import json

import pytest
import pytorch_lightning as pl
import torch
from conftest import composed

from iolaus.build import build

IRIS = ["data=iris", "model=mlp", "model.hidden_dims=[4]", "model.activation=Tanh", "callbacks=[]", "logger=[]"]


def fit(folder, *overrides, callback=None):
    config = composed(*IRIS, "trainer.max_epochs=2", *overrides)
    config.output_dir = str(folder)
    run = build(config)
    run.trainer.callbacks += [callback] if callback else []
    run.trainer.fit(run.task, datamodule=run.data)
    return run


CASES = {
    "plain": [],
    "clipped": ["trainer.gradient_clip_val=0.05", "optim=sgd"],
    "clipped by value and accumulated": [
        "trainer.gradient_clip_val=0.02",
        "trainer.gradient_clip_algorithm=value",
        "trainer.accumulate_grad_batches=2",
        "optim=sgd",
    ],
    "a closure": ["optim=lbfgs", "optim.max_iter=3"],
    "dropout and batch norm": ["model.dropout=0.3", "model.norm=BatchNorm1d", "data.batch_size=15"],
    "averaged": [
        "+callbacks.ema={_target_: iolaus.callbacks.averaging.Averaging, decay: 0.9, every: step, start: 0, update_bn_batches: null}"
    ],
}


@pytest.mark.parametrize("name", CASES)
def test_finite_differences_give_the_run_of_reverse_mode(name, tmp_path):
    """In double precision: weights to 1e-5 of one or of themselves, scores to 1e-5."""
    double = ["trainer.precision=64-true", *CASES[name]]
    exact, other = (fit(tmp_path / g, f"gradient={g}", *double) for g in ("reverse", "finite_difference"))
    assert exact.trainer.global_step == other.trainer.global_step > 0
    for (key, weight), found in zip(exact.task.state_dict().items(), other.task.state_dict().values(), strict=True):
        torch.testing.assert_close(found, weight, atol=1e-5, rtol=1e-5, msg=lambda text, key=key: f"{key}: {text}")
    for row, found in zip(exact.history.rows, other.history.rows, strict=True):
        assert row == pytest.approx(found, abs=1e-5)


class FirstStep(pl.Callback):
    """The batches of the first step, its weights, and the gradients that the optimizer gets."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 0:
            self.batches, self.weights = [], copy.deepcopy(pl_module.state_dict())
        self.batches.append(batch)

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.gradient = {name: p.grad.clone() for name, p in pl_module.named_parameters()}


@pytest.mark.parametrize("name", ["forward", "two_point", "spsa"])
def test_accumulated_estimates_are_the_mean_of_single_ones(name, tmp_path):
    """Overriding `backward` in their place is wrong here: it adds whole estimates."""
    first = FirstStep()
    accumulated = ["trainer.accumulate_grad_batches=2", "trainer.max_steps=1"]
    run = fit(tmp_path, f"gradient={name}", *accumulated, callback=first)
    task = run.task
    task.load_state_dict(first.weights)
    task.zero_grad()
    assert len(first.batches) == 2
    for number, batch in enumerate(first.batches):
        (task.gradient(task, task.step, batch, (0, number))[0] / 2).backward()
    for name, parameter in task.named_parameters():
        torch.testing.assert_close(parameter.grad, first.gradient[name])


@pytest.mark.parametrize(
    ("settings", "fall"),
    [
        (["gradient=two_point"], 0.2),
        pytest.param(["gradient=forward", "gradient.num_tangents=8"], 0.3, marks=pytest.mark.slow),
        pytest.param(["gradient=spsa"], 0.2, marks=pytest.mark.slow),
        pytest.param(["gradient=finite_difference"], 0.3, marks=pytest.mark.slow),
    ],
    ids=lambda v: v[0] if isinstance(v, list) else str(v),
)
def test_the_loss_falls(settings, fall, command):
    """Logistic regression on iris with clipping and accumulation, from 1.1 by at least so much in 20 epochs."""
    outcome = command(
        *settings,
        *("data=iris", "model=linear", "optim.lr=0.05", "trainer.max_epochs=20", "callbacks=[]"),
        *("trainer.gradient_clip_val=1", "trainer.accumulate_grad_batches=2", "stages=[fit]", "logger=[]"),
    )
    assert outcome.code == 0, outcome.text
    rows = (outcome.folder / "metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("loss/train")
    first, last = (float(row.split(",")[column]) for row in (rows[1], rows[-1]))
    assert last < first - fall
    assert outcome.results["choices"]["gradient"] == settings[0].partition("=")[2]


def test_a_model_that_forward_mode_cannot_evaluate_is_refused(command):
    outcome = command("gradient=forward", "data=morse", "data.size=40", "data.num_words=[1,1]")
    assert outcome.code == 1
    assert "gradient: Forward cannot evaluate this model and loss; try gradient=two_point" in outcome.text
    assert "_ctc_loss" in outcome.text
    assert "Please file" not in outcome.text


def test_sparse_gradients_come_from_reverse_mode(command):
    outcome = command("gradient=two_point", "model=additive", "model.sparse=true", "optim=sparse_adam")
    assert outcome.code == 1
    assert (
        outcome.text.strip()
        == "model.sparse: sparse gradients come from reverse mode alone; set model.sparse=false, or gradient=reverse"
    )


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("gradient.num_tangents=0", "gradient.num_tangents: must be at least 1; received 0"),
        (
            "gradient.distribution=uniform",
            "gradient.distribution: must be sphere or normal or rademacher; received 'uniform'",
        ),
        ("gradient.eps=1", "gradient.eps: iolaus.gradient.forward.Forward has no argument 'eps'"),
    ],
)
def test_wrong_settings_are_told(setting, message, command):
    outcome = command("gradient=forward", setting.replace("gradient.eps", "+gradient.eps"))
    assert outcome.code == 1
    assert outcome.text.startswith(message)


def test_noise_is_warned_of_before_training(command):
    outcome = command(
        "gradient=two_point",
        "gradient.eps=0.001",
        "data=iris",
        "model=linear",
        "trainer.precision=bf16-mixed",
        "trainer.max_epochs=1",
        "stages=[fit]",
    )
    assert outcome.text.count("gradient.eps: 0.001 is noise at this precision: in bfloat16") == 1


def test_a_run_from_before_gradients_were_a_choice_has_reverse_mode(tmp_path):
    config = composed(*IRIS)
    config.output_dir = str(tmp_path)
    before = copy.deepcopy(config)
    del before.gradient
    assert type(build(before).task.gradient) is type(build(config).task.gradient)
    assert json.dumps(build(before).config.get("gradient")) == "null"
