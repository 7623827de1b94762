"""Whatever is logged may be monitored; what is not is found after the first validation, with what was."""

import sys

import pytest
from conftest import composed

from iolaus.build import build
from iolaus.check import check
from iolaus.errors import ConfigError, UserError

OWN = """
import pytorch_lightning as pl
import torch
from torchmetrics import Metric
from iolaus.task.supervised import Supervised

class Own(Supervised):
    def on_validation_epoch_end(self):
        super().on_validation_epoch_end()
        self.log("score", (self.current_epoch - 1.0) ** 2)
        self.log("quiet", 7.0 - self.current_epoch, logger=False)

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.log("twice", float(self.current_epoch), on_step=True, on_epoch=True, batch_size=len(batch[-1]))

class Watch(pl.Callback):
    def on_train_epoch_end(self, trainer, task):
        task.log("watched", 5.0 + trainer.current_epoch)

class Pair(Metric):
    def update(self, preds, target):
        pass

    def compute(self):
        return {"left": torch.tensor(1.0), "right": torch.tensor(2.0)}
"""
TASK, WATCH = "task._target_=monitored.Own", "+callbacks.watch._target_=monitored.Watch"
PAIR = "+metrics.pair._target_=monitored.Pair"
BASE = (
    "data=iris",
    "model=linear",
    "logger=[]",
    "trainer.accelerator=cpu",
    "trainer.max_epochs=3",
    "allow=[monitored]",
)
BASE += ("data.batch_size=64", "~callbacks.progress", "~callbacks.summary")


@pytest.fixture(autouse=True)
def monitored(tmp_path, monkeypatch):
    (tmp_path / "monitored.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("monitored", None)


def fitted(*words):
    config = composed(*BASE, *words)
    check(config)
    run = build(config)
    run.trainer.fit(run.task, datamodule=run.data)
    return run


@pytest.mark.parametrize(
    ("own", "monitor", "values"),
    [
        (TASK, "score", [1.0, 0.0, 1.0]),
        (TASK, "quiet", [7.0, 6.0, 5.0]),
        (TASK, "twice", [0.0, 1.0, 2.0]),
        (WATCH, "watched", [5.0, 6.0, 7.0]),
        (PAIR, "left/val", [1.0, 1.0, 1.0]),
        ("metrics.f1.average=none", "f1_1/val", None),
    ],
)
def test_whatever_is_logged_may_be_monitored(own, monitor, values):
    """By the best checkpoint, early stopping and the objective alike."""
    run = fitted(own, f"objective.monitor={monitor}")
    found = [row[monitor] for row in run.history.rows]
    assert len(found) == 3
    assert values is None or found == values
    assert run.history.best(monitor, "min")["epoch"] == 1 + found.index(min(found))
    (checkpoint,) = (c for c in run.trainer.checkpoint_callbacks if getattr(c, "monitor", None))
    assert float(checkpoint.best_model_score) == pytest.approx(min(found))
    (stopping,) = run.trainer.early_stopping_callbacks
    assert float(stopping.best_score) == pytest.approx(min(found))


@pytest.mark.parametrize(
    "words",
    [
        (TASK, "objective.monitor=scor"),
        (TASK, "objective.monitor=scor", "trainer.val_check_interval=1"),
        (TASK, "objective.monitor=scor", "trainer.fast_loop=false"),
    ],
)
def test_what_is_never_logged_is_found_after_the_first_validation(words):
    with pytest.raises(
        UserError, match="'scor' was not logged by the end of the first validation; did you mean 'score'"
    ) as error:
        fitted(*words)
    for name in ("loss/val", "accuracy/val", "quiet", "score", "twice"):
        assert name in str(error.value).partition("logged were: ")[2]
    assert "twice_step" not in str(error.value)


def test_a_run_without_callbacks_is_checked_too():
    config = composed(*BASE[:-2], TASK, "objective.monitor=scor", "callbacks=[]")
    run = build(config)
    with pytest.raises(UserError, match=r"^objective.monitor: 'scor' was not logged"):
        run.trainer.fit(run.task, datamodule=run.data)
    assert len(run.history.rows) == 0


def test_a_callback_that_monitors_something_else():
    with pytest.raises(UserError, match=r"^callbacks: monitor: 'scor' was not logged"):
        fitted(TASK, "callbacks.early_stopping.monitor=scor")


@pytest.mark.parametrize("words", [(), ("trainer.check_val_every_n_epoch=2",), ("trainer.val_check_interval=1",)])
def test_what_is_always_logged_passes(words):
    assert len(fitted("trainer.max_epochs=2", *words).history.rows) == 2


@pytest.mark.parametrize("monitor", ["loss/vall", "f2/val", "loss/test", "score"])
def test_what_surely_is_never_logged_is_refused_before(monitor):
    with pytest.raises(ConfigError, match=f"objective.monitor: '{monitor}' is not logged while training"):
        check(composed(*BASE, f"objective.monitor={monitor}"))
