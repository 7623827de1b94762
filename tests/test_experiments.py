"""The worked examples, each with the number that its file states."""

import json

import numpy as np
import pytest
import torch
from conftest import options

STATED = {
    "zero_function": lambda r: r["metrics"]["last"]["loss/train"] < 0.01,
    "line": lambda r: r["steps"] < 20,
    "iris_logistic": lambda r: r["metrics"]["test"]["accuracy/test"] >= 0.9,
    "iris_mlp": lambda r: r["metrics"]["test"]["accuracy/test"] >= 0.93,
    "swa": lambda r: r["metrics"]["test"]["accuracy/test"] >= 0.96 and r["epochs"] == 300,
}


def test_every_experiment_states_a_number():
    assert STATED.keys() == set(options("experiment"))


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
