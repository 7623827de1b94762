"""What users try first leads to what they mean: short names, flags, functions, and their own ranges."""

import copy
import math

import pytest
from conftest import composed
from omegaconf import OmegaConf, open_dict
from test_extend import forget

from iolaus.argv import flags_first, refuse_unknown_flags
from iolaus.check import check
from iolaus.errors import ConfigError, UserError
from iolaus.suggestions import did_you_mean_settings, full_names


@pytest.fixture(scope="module")
def default():
    return OmegaConf.to_container(composed(), resolve=False)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("lr", ["optim.lr"]),
        ("max_epochs", ["trainer.max_epochs"]),
        ("epochs", ["trainer.max_epochs", "trainer.min_epochs"]),
        ("batch_size", ["data.batch_size"]),
        ("patience", ["callbacks.early_stopping.patience"]),
        ("monitor", ["objective.monitor", "callbacks.checkpoint.monitor", "callbacks.early_stopping.monitor"]),
        ("weight_deacy", ["optim.weight_decay"]),
        ("trainer.max_epoch", ["trainer.max_epochs"]),
        ("qwertz", []),
    ],
)
def test_short_names_of_settings(default, name, settings):
    assert full_names(name, default) == settings


def test_suggestions_are_quoted_for_the_shell():
    assert did_you_mean_settings(["a.b", "c"], "[1, 2]") == "; did you mean 'a.b=[1, 2]' or 'c=[1, 2]'?"
    assert did_you_mean_settings([], "1") == ""


@pytest.mark.parametrize(
    ("words", "ordered"),
    [
        (["data=iris", "--config-dir", "options", "lr=1"], ["--config-dir", "options", "data=iris", "lr=1"]),
        (["a=1", "-m", "b=2"], ["-m", "a=1", "b=2"]),
        (["a=1", "--config-dir=x", "b=2", "--cfg", "job"], ["--config-dir=x", "--cfg", "job", "a=1", "b=2"]),
        (["--info", "a=1"], ["--info", "a=1"]),
        (["a=1", "--info", "config"], ["--info", "config", "a=1"]),
        (["~callbacks.x", "--config-name"], ["--config-name", "~callbacks.x"]),
    ],
)
def test_flags_may_stand_anywhere(words, ordered):
    assert flags_first(words) == ordered


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--epochs", "5"], "--epochs 5: .* did you mean trainer.max_epochs=5 or trainer.min_epochs=5"),
        (["data=iris", "--lr=0.1"], "--lr=0.1: .* did you mean optim.lr=0.1"),
        (["--batch-size", "8"], "did you mean data.batch_size=8"),
        (["--model", "mlp"], "did you mean model=mlp"),
        (["--seed", "3"], "did you mean seed=3"),
        (["--lr", "-m"], r"--lr: .* did you mean optim.lr=VALUE"),
        (["--multirunn"], "did you mean '--multirun'"),
        (["-x"], "-x: there is no such flag"),
    ],
)
def test_flags_of_other_programs(words, says):
    with pytest.raises(UserError, match=says):
        refuse_unknown_flags(words, lambda _: composed())


def test_flags_of_hydra_are_known():
    refuse_unknown_flags(["a=1", "-m", "--config-dir", "x", "b=2"], lambda _: pytest.fail("composed for nothing"))


OWN = """
from torch import nn
from iolaus.model.mlp import MLP

def create_model(name: str):
    return nn.Linear(1, 1)

class lower(nn.Module): pass

class Mine(nn.Module):
    def __init__(self, input_shape, output_dim: int, alpha: float = 0.0, size: int = 0, dropout: float = 0.0, most: float = 1.0):
        super().__init__()

class Deep(MLP):
    def __init__(self, alpha: float = 0.0, **kwargs):
        super().__init__(**kwargs)
"""


@pytest.fixture(scope="module")
def settings():
    return composed()


@pytest.fixture
def problems(settings, tmp_path, monkeypatch):
    """What is wrong with a model, the rest being the defaults."""
    (tmp_path / "my_own.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    forget()

    def problems(target, allow=("my_own",), **arguments):
        config = copy.deepcopy(settings)
        with open_dict(config):
            config.model = {"_target_": target, **arguments}
            config.allow = list(allow)
        try:
            check(config)
        except ConfigError as error:
            return error.problems
        return []

    yield problems
    forget()


def test_a_function_is_told_apart_from_a_package_that_is_not_allowed(problems):
    assert problems("my_own.create_model", name="x") == [
        "model._target_: 'my_own.create_model' is not a class that a configuration may build: it is a function; write a class of your "
        "own that calls it and name that, as in my_models.MyModel with allow=[my_models]"
    ]
    assert "capital letter" in problems("my_own.lower")[0]
    assert "there is no 'creat_model' in my_own; did you mean 'create_model'" in problems("my_own.creat_model")[0]
    assert problems("my_own.Mine", allow=())[0].endswith("for classes of your own package add allow=[my_own]")
    assert "it is a function" in problems("torch.nn.functional.relu")[0]


@pytest.mark.parametrize(
    "argument", [{"alpha": 0}, {"size": 0}, {"alpha": -1.0}, {"dropout": 3.0}, {"size": -7}, {"most": math.inf}]
)
def test_the_range_of_an_own_argument_is_its_author_s(problems, argument):
    assert problems("my_own.Mine", input_shape=[1], output_dim=1, **argument) == []


def test_ranges_of_inherited_arguments_hold(problems):
    node = {"input_shape": [1, 8, 8], "output_dim": 10, "alpha": 0.0}
    assert problems("my_own.Deep", **node, hidden_dims=[4]) == []
    assert problems("my_own.Deep", **node, hidden_dims=[0]) == ["model.hidden_dims: must be at least 1; received [0]"]
    assert problems("torch.nn.ELU", alpha=0.0) == []
    layers = [{"ELU": {"alpha": 0.0}}, {"Dropout": {"p": 0.1}}, {"Conv2d": {"out_channels": 3, "kernel_size": 0}}]
    (told,) = problems("iolaus.model.sequential.Sequential", input_shape=[1, 8, 8], output_dim=10, layers=layers)
    assert told == "model.layers.2.Conv2d.kernel_size: must be at least 1; received 0"
