"""The worked examples, each with the number that its file states."""

import json

import numpy as np
import pytest
import torch
from conftest import composed, options

from iolaus.model.torchvision_model import TorchvisionModel

LEAST_SQUARES = 0.15386  # mean squared error of the least-squares line
STATED = {
    "zero_function": lambda r: r["metrics"]["last"]["loss/train"] < 0.01,
    "line": lambda r: r["steps"] < 20,
    "line_gradient_descent": lambda r: r["steps"] == 500 and r["metrics"]["last"]["mse/train"] < 1.1 * LEAST_SQUARES,
    "iris_logistic": lambda r: r["metrics"]["test"]["accuracy/test"] >= 0.9,
    "iris_mlp": lambda r: r["metrics"]["test"]["accuracy/test"] >= 0.93,
    "swa": lambda r: r["metrics"]["test"]["accuracy/test"] >= 0.96 and r["epochs"] == 300,
    "small_cnn": lambda r: r["num_parameters"] == 1_199_882 and r["metrics"]["test"]["accuracy/test"] >= 0.96,
    "cities": lambda r: r["metrics"]["test"]["stress/test"] < 0.221 and r["metrics"]["test"]["disparity/test"] < 0.016,
    "recommend": lambda r: r["metrics"]["test"]["hit_rate/test"] >= 0.83,
    "residual_spectrum": lambda r: (
        r["metrics"]["last"]["curvature/lambda_min"] > -0.5 and r["metrics"]["test"]["accuracy/test"] >= 0.97
    ),
    "parallel_cnn": lambda r: r["metrics"]["test"]["accuracy/test"] >= 0.95,
}


def accuracies(results):
    return {r["choices"]["optim"]: r["metrics"]["test"]["accuracy/test"] for r in results}


COMPARED = {
    "losses": lambda results: len(results) == 5 and all(r["metrics"]["test"]["accuracy/test"] >= 0.93 for r in results),
    "optimizers": lambda results: (
        len(results) == 11
        and min(accuracies(results)["adam"], accuracies(results)["rmsprop"]) >= 0.93
        and accuracies(results)["adam"] > accuracies(results)["sgd"]
    ),
}


RECKONED = {"gpt2_xl"}  # by tests/test_memory.py, and trained by none
PUBLISHED = {"cifar10"}  # elsewhere: its images are downloaded, and 200 epochs are for a GPU; see the test below


def test_every_experiment_states_a_number():
    assert STATED.keys() | COMPARED.keys() | RECKONED | PUBLISHED == set(options("experiment"))


def test_cifar10_has_the_published_setting():
    """11.17 million weights, as in https://github.com/uoguelph-mlrg/Cutout; the rates of 200 epochs."""
    config = composed("experiment=cifar10")
    own = {
        group: {key: value for key, value in config[group].items() if not key.startswith("_")}
        for group in ("model", "optim", "scheduler")
    }
    model = TorchvisionModel(**own["model"])
    assert sum(p.numel() for p in model.parameters()) == 11_173_962
    optimizer = torch.optim.SGD(model.parameters(), **own["optim"])
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, **own["scheduler"])
    rates = []
    for _ in range(config.trainer.max_epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert [rates[epoch] for epoch in (0, 59, 60, 120, 160, 199)] == pytest.approx([0.1, 0.1, 0.02, 0.004, 8e-4, 8e-4])


@pytest.mark.slow
@pytest.mark.parametrize("name", STATED)
def test_experiments(command, name):
    outcome = command(f"experiment={name}", "output_dir=run")
    assert outcome.code == 0, outcome.text
    assert STATED[name](outcome.results), json.dumps(outcome.results["metrics"])
    if name == "line":
        from iolaus.data.line import X, Y

        state = torch.load(outcome.folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        found = state["model.linear.weight"].item(), state["model.linear.bias"].item()
        assert found == pytest.approx(tuple(np.polyfit(X, Y, 1)), abs=1e-3)
    if name == "residual_spectrum":
        table = np.genfromtxt(outcome.folder / "samples/curvature.csv", delimiter=",", names=True)
        assert table["lambda_min"][0] < -5
        assert table["lambda_min_error"].max() < 0.01
        assert (table["step"][0], table["step"][-1]) == (0, 200)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPARED)
def test_comparisons(command, name):
    outcome = command("-m", f"experiment={name}", "output_dir=sweep")
    assert outcome.code == 0, outcome.text
    results = [json.loads(file.read_text()) for file in sorted(outcome.folder.parent.glob("*/results.json"))]
    assert COMPARED[name](results), json.dumps(accuracies(results))


@pytest.mark.slow
def test_gradient_descent_is_the_recursion_that_it_is(command):
    """w <- w - 2 lr X^T (X w - y), 500 times from the run's first weights."""
    from iolaus.data.line import X, Y

    first = command("experiment=line_gradient_descent", "trainer.max_epochs=1", "optim.lr=1e-30", "output_dir=first")
    whole = command("experiment=line_gradient_descent", "output_dir=whole")
    line = []
    for outcome in (first, whole):
        assert outcome.code == 0, outcome.text
        state = torch.load(outcome.folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        line.append(np.array([state["model.linear.weight"].item(), state["model.linear.bias"].item()]))
    inputs, targets = np.stack([X, np.ones(17)], 1), np.array(Y)
    found = line[0]
    for _ in range(500):
        found = found - 2e-4 * inputs.T @ (inputs @ found - targets)
    assert line[1] == pytest.approx(found, rel=1e-3)
    assert np.mean((np.polyval(np.polyfit(X, Y, 1), X) - targets) ** 2) == pytest.approx(LEAST_SQUARES, rel=1e-3)


def test_what_an_experiment_sweeps_over_is_checked_before_the_first_job(command):
    outcome = command("-m", "experiment=losses", "data=diabetes")
    assert outcome.code == 1
    assert "loss=multiclass_hinge with data=diabetes: it wants class labels" in outcome.text
    assert outcome.folder is None
