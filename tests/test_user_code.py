"""Errors in the user's own code show its file and line; what it prints stands in train.log."""

import copy
import io
import json
import logging
import os
import re
import sys
import traceback
import types

import pytest
import torch
from conftest import composed
from forked import Child
from omegaconf import open_dict
from test_extend import forget
from torch import nn
from torch._utils import ExceptionWrapper

from iolaus.data.loader import reading_told
from iolaus.errors import UserError
from iolaus.run_log import logged_stdout
from iolaus.runs import Job
from iolaus.train import train
from iolaus.user_code import UserCodeError, is_users_file, user_errors_located

MINE = """
import os

import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import Dataset, get_worker_info
from torchmetrics import MeanMetric

from iolaus.data.base import DataModule


def fail(where, error):
    if os.environ["FAIL"] == where:
        raise error


class Net(nn.Module):
    def __init__(self, input_shape, output_dim: int):
        super().__init__()
        fail("init", KeyError("width"))
        self.layer = nn.Linear(input_shape[0], output_dim)

    def forward(self, x):
        print("forward of", len(x))
        x = self.layer(x)
        fail("forward", ValueError("x is bad\\nin two lines"))
        if os.environ["FAIL"] == "shapes":
            x = x @ torch.ones(7, 3)
        return x


class Loss(nn.CrossEntropyLoss):
    def forward(self, output, target):
        fail("loss", OSError(2, "gone", "table.bin"))
        return super().forward(output, target)


class Score(MeanMetric):
    def __init__(self):
        super().__init__()

    def update(self, preds, target):
        fail("metric", ZeroDivisionError())
        super().update(preds.mean())


class Call(pl.Callback):
    def on_validation_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            fail("callback", RuntimeError("callback is bad"))


class Rows(Dataset):
    targets = torch.arange(40) % 2

    def __len__(self):
        return 40

    def __getitem__(self, row):
        if get_worker_info() is not None:
            print("row", row, "is read")
            fail("rows", RuntimeError("row is bad"))
        return torch.ones(4) * row, int(self.targets[row])


class Data(DataModule):
    def load(self):
        return {"train": Rows()}
"""
OPTIONS = {
    "model/net": "_target_: mine.Net\ninput_shape: ${data.input_shape}\noutput_dim: ${task.output_dim}",
    "loss/mine": "_target_: mine.Loss",
    "metrics/mine": "mine: {_target_: mine.Score}",
    "callbacks/mine": "mine: {_target_: mine.Call}",
    "data/mine": "defaults: [/base/data@_here_, {override /task@_global_.task: classification}, _self_]\n_target_: mine.Data\n"
    "input_kind: table\ninput_shape: [4]\ntarget_kind: class\nnum_classes: 2\nnum_workers: 1",
}


FIRST = "on the first batch, before training, inputs"
CASES = {  # where it fails: first line, a part of the last line of code, the functions
    "init": ("model: Net.__init__ raised KeyError: 'width'", 'fail("init"', "Net.__init__ fail"),
    "forward": (
        f"model: Net.forward raised ValueError {FIRST} [8, 4] float32: x is bad in two lines",
        'fail("forward"',
        "Net.forward fail",
    ),
    "shapes": (
        f"model: Net.forward raised RuntimeError {FIRST} [8, 4] float32",
        "x = x @ torch.ones(7, 3)",
        "Net.forward",
    ),
    "loss": (
        f"loss: Loss.forward raised FileNotFoundError {FIRST} [8, 2] float32 and [8] int64: [Errno 2] gone: 'table.bin'",
        'fail("loss"',
        "Loss.forward fail",
    ),
    "metric": (
        f"metrics.mine: Score.update raised ZeroDivisionError {FIRST} [8, 2] float32 and [8] int64",
        'fail("metric"',
        "Score.update fail",
    ),
    "callback": (
        "callbacks.mine: Call.on_validation_epoch_end raised RuntimeError in the validation of epoch 2: callback is bad",
        'fail("callback"',
        "Call.on_validation_epoch_end fail",
    ),
    "rows": (
        "data: __getitem__ raised RuntimeError in a process that reads data: row is bad",
        'fail("rows"',
        "__getitem__ fail",
    ),
}


def check_shown(text, file, where):
    head, code, functions = CASES[where]
    shown = text[text.index(head) :].splitlines()
    assert re.search(r"\(.*mine.py:\d+\)$", shown[0])
    number = 1 + next(k for k, line in enumerate(MINE.splitlines()) if code in line)
    assert f'  File "{file}", line {number}, in {functions.split()[0]}' in shown[:15]
    found = [m for line in shown if (m := re.fullmatch(r'  File "(.+)", line \d+, in (.+)', line))]
    assert {m[1] for m in found} == {str(file)}  # no line of torch, Lightning or ours
    assert [m[2] for m in found] == functions.split()
    assert len(shown) <= 15
    return shown


@pytest.fixture(scope="module")
def own_module(tmp_path_factory):
    file = tmp_path_factory.mktemp("own") / "mine.py"
    file.write_text(MINE)
    sys.path.insert(0, str(file.parent))
    yield file
    sys.path.remove(str(file.parent))
    sys.modules.pop("mine", None)


@pytest.fixture(scope="module")
def settings():
    return composed("data=iris", "trainer=cpu", "logger=[]", "callbacks=[]", "model=linear")


@pytest.mark.parametrize("where", ["init", "forward", "shapes", "loss", "metric"])
def test_an_error_shows_the_users_file_and_line(own_module, settings, tmp_path, monkeypatch, where):
    config = copy.deepcopy(settings)
    with open_dict(config):
        config.update({"output_dir": str(tmp_path / "run"), "allow": ["mine"], "stages": ["fit"]})
        parts = {"_target_": "mine.Net", "input_shape": [4], "output_dim": 2}
        config.model, config.loss, config.metrics = (
            parts,
            {"_target_": "mine.Loss"},
            {"mine": {"_target_": "mine.Score"}},
        )
        config.data = {**config.data, "_target_": "mine.Data", "num_classes": 2, "num_workers": 0}
        del config.data["name"]
    monkeypatch.setenv("FAIL", where)
    with pytest.raises(UserCodeError) as caught:
        train(config, Job([], {}))
    check_shown(str(caught.value), own_module, where)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["error"] == f"UserCodeError: {caught.value}"


@pytest.mark.parametrize("where", ["callback", pytest.param("rows", marks=pytest.mark.slow)])
def test_the_terminal_shows_the_users_lines_and_train_log_has_all(own_module, tmp_path, where):
    for name, text in OPTIONS.items():
        file = tmp_path / "options" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"# An option of one's own.\n{text}\n")

    def before():
        forget()
        os.environ["FAIL"] = where

    words = ["allow=[mine]", "data=mine", "model=net", "loss=mine", "metrics=[mine]", "callbacks=[default,mine]"]
    child = Child(
        tmp_path,
        *("--config-dir", "options", "trainer=cpu", "trainer.max_epochs=2", "output_dir=run", *words),
        before=before,
    )
    assert child.wait() == 1
    text, log = child.text, (tmp_path / "run" / "train.log").read_text()
    shown = check_shown(text, own_module, where)
    assert shown[-1] == "The whole traceback: run/train.log"
    assert "Traceback" not in text
    assert "Traceback (most recent call last):" in log
    assert "iolaus/train.py" in log  # it is whole
    for said in ("forward of 8", "row 7 is read") if where == "callback" else ():
        assert re.search(rf"^\d{{4}}-.* INFO {said}$", log, re.MULTILINE)
        assert len(re.findall(f"^{said}$", text, re.MULTILINE)) == log.count(f"INFO {said}\n")


def iolaus_folder():
    return os.path.dirname(sys.modules["iolaus.user_code"].__file__)


def test_an_error_that_the_user_worded_stays_as_it_is():
    with pytest.raises(UserError, match=r"^as it is$"), user_errors_located({}):
        raise UserError("as it is")


def test_an_error_without_the_users_code_stays_as_it_is():
    module = types.ModuleType("inside")
    exec(
        compile("def act():\n    raise ValueError('a bug')", os.path.join(iolaus_folder(), "inside.py"), "exec"),
        module.__dict__,
    )
    here = compile("with located: act()", os.path.join(iolaus_folder(), "train.py"), "exec")
    with pytest.raises(ValueError, match=r"^a bug$") as caught:
        exec(here, {"located": user_errors_located({}), "act": module.act})
    assert not isinstance(caught.value, UserError)


@pytest.mark.parametrize("broken", [0, 12])
def test_many_lines_are_cut_and_deep_recursions_too(broken):
    def deeper(n):
        return deeper(n - 1) if n else 1 / 0

    with pytest.raises(UserCodeError) as caught, user_errors_located({}):
        deeper(broken)
    lines = str(caught.value).splitlines()
    assert len(lines) <= 15
    assert lines[0].endswith(f"({os.path.relpath(__file__)}:{deeper.__code__.co_firstlineno + 1})")
    assert ("more" in str(caught.value)) == bool(broken)


def test_whose_code_a_file_is(tmp_path):
    installed = torch.__file__
    assert is_users_file(str(tmp_path / "net.py"))
    assert not is_users_file(installed)
    assert is_users_file(installed, ["torch"])
    assert is_users_file(installed, ["torch.nn"])
    assert not is_users_file(installed, ["tor"])
    for ours in (traceback.__file__, sys.modules["iolaus.user_code"].__file__, "<string>", "<frozen importlib>"):
        assert not is_users_file(ours)


def in_a_worker(error):
    """Raise an error as torch does that came from a process that reads data."""
    try:
        raise error
    except Exception:
        wrapped = ExceptionWrapper(where="in DataLoader worker process 0")
    wrapped.reraise()


def test_an_error_worded_in_a_process_that_reads_stays_as_it_is():
    with pytest.raises(UserError, match=r"^a.png is no image$"), reading_told(), user_errors_located({}):
        in_a_worker(UserError("a.png is no image"))


def test_an_error_in_a_process_that_reads_is_no_process_that_was_killed():
    with (
        pytest.raises(
            UserCodeError, match=r"^data: in_a_worker raised RuntimeError in a process that reads data: bad row"
        ),
        reading_told(),
        user_errors_located({}),
    ):
        in_a_worker(RuntimeError("bad row"))


def test_progress_bars_stay_out_of_the_log(monkeypatch, caplog):
    terminal = io.StringIO()
    monkeypatch.setattr(sys, "stdout", terminal)
    with caplog.at_level(logging.INFO), logged_stdout():
        print("one", end="")
        print(" line")
        print("\r 10%|#   |", end="")
        print("\r 20%|##  |")
        print("\x1b[31mred\x1b[0m")
        print("\x1b[2K\x1b[1A drawn over")
        print("unfinished", end="")
    print("after")
    assert [record.getMessage() for record in caplog.records] == ["one line", "red", "unfinished"]
    assert terminal.getvalue().startswith("one line\n\r 10%|#   |\r 20%|##  |\n\x1b[31mred")
    assert terminal.getvalue().endswith("unfinishedafter\n")
    assert sys.stdout is terminal


def test_a_layer_of_the_users_inside_a_network_of_ours(own_module, monkeypatch):
    """What calls it has no lines of the user's; the shapes are those that arrived."""
    monkeypatch.setenv("FAIL", "forward")
    from mine import Net

    network = nn.Sequential(nn.Identity(), Net([3], 2))
    code = compile("with located: network(inputs)", os.path.join(iolaus_folder(), "train.py"), "exec")
    with pytest.raises(UserCodeError, match=r"^model: Net.forward raised ValueError inputs \[2, 3\] float32: x is bad"):
        exec(code, {"located": user_errors_located({}), "network": network, "inputs": torch.ones(2, 3)})
