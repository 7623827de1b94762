"""The fast loop against Lightning's own: the same bits, hooks and counters; and the names it relies on."""

import copy

import pytest
import pytorch_lightning as pl
import torch
from conftest import composed
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop

from iolaus.build import build
from iolaus.fast_loop import HOOKS, PARTS, FastEpochLoop

SILENT = {"state_dict", "load_state_dict", "on_save_checkpoint", "on_load_checkpoint", "setup", "teardown"}
EVERY_HOOK = [
    name
    for name in vars(pl.Callback)
    if not name.startswith("_") and name not in SILENT and callable(getattr(pl.Callback, name))
]


class Recorder(pl.Callback):
    """Every hook that is called, with the counters at that moment."""

    def __init__(self):
        self.calls = []


def _record(name):
    def hook(self, trainer, task, *arguments):
        loop = trainer.fit_loop.epoch_loop
        self.calls.append(
            (name, trainer.global_step, loop._batches_that_stepped, copy.deepcopy(loop.batch_progress.state_dict()))
        )
        if name == "on_train_batch_end":
            task.log("own/step", float(trainer.global_step), on_step=True, on_epoch=True)

    return hook


for _name in EVERY_HOOK:
    setattr(Recorder, _name, _record(_name))


def fit(tmp_path, fast, *overrides):
    config = composed(
        "trainer.max_epochs=3", "callbacks=[lr_monitor]", "logger=[]", "trainer.log_every_n_steps=3", *overrides
    )
    config.output_dir = str(tmp_path)
    config.trainer.fast_loop = fast
    run = build(config)
    recorder = Recorder()
    run.trainer.callbacks.append(recorder)
    run.trainer.fit(run.task, datamodule=run.data)
    return run, recorder


CASES = [
    [],
    ["data=diabetes", "model.dropout=0.3", "optim=sgd"],
    ["scheduler=cosine", "scheduler._interval_=step", "scheduler.T_max=50"],
    ["scheduler=plateau", "optim=adamw"],
    ["trainer.gradient_clip_val=0.1"],
    ["trainer.gradient_clip_val=0.01", "trainer.gradient_clip_algorithm=value"],
    ["trainer.precision=bf16-mixed"],
    ["trainer.precision=bf16-mixed", "trainer.gradient_clip_val=0.1"],
    ["trainer.precision=64-true", "optim=sgd"],
    ["trainer.accumulate_grad_batches=3"],
    ["trainer.val_check_interval=0.3"],
    ["trainer.check_val_every_n_epoch=2"],
    ["trainer.max_steps=31"],
    ["trainer.limit_train_batches=5"],
    ["trainer.limit_train_batches=0.2"],
    ["data=iris", "gradient=two_point", "model.dropout=0.3"],
    ["data.val_fraction=0", "objective.monitor=loss/train"],
]


@pytest.mark.parametrize("overrides", CASES, ids=" ".join)
def test_the_same_as_lightning_s_own_loop(tmp_path, overrides):
    fast, fast_calls = fit(tmp_path / "a", True, *overrides)
    stock, stock_calls = fit(tmp_path / "b", False, *overrides)
    assert type(fast.trainer.fit_loop.epoch_loop) is FastEpochLoop
    assert type(stock.trainer.fit_loop.epoch_loop) is _TrainingEpochLoop
    plain = fast.trainer.fit_loop.epoch_loop._plain
    assert plain == (not any(("accumulate" in o) or ("64-true" in o) for o in overrides))
    for (name, value), other in zip(fast.task.state_dict().items(), stock.task.state_dict().values(), strict=True):
        assert torch.equal(value, other), name
    assert [c[0] for c in fast_calls.calls] == [c[0] for c in stock_calls.calls]
    assert fast_calls.calls == stock_calls.calls
    assert fast.history.rows == stock.history.rows
    assert fast.trainer.global_step == stock.trainer.global_step
    assert fast.trainer.fit_loop.state_dict() == stock.trainer.fit_loop.state_dict()


@pytest.mark.parametrize("part", PARTS)
def test_a_task_that_replaces_a_part_gets_the_stock_loop(tmp_path, part):
    from iolaus.task.supervised import Supervised

    original = getattr(pl.LightningModule, part)
    replaced = type("Replaced", (Supervised,), {part: lambda self, *a, **k: original(self, *a, **k)})
    config = composed("data=iris")
    config.output_dir = str(tmp_path)
    run = build(config)
    run.task.__class__ = replaced
    run.trainer.fit_loop.max_epochs = 1
    run.trainer.fit(run.task, datamodule=run.data)
    assert not run.trainer.fit_loop.epoch_loop._plain


def test_a_hook_may_end_the_epoch(tmp_path):
    def run(fast):
        config = composed("trainer.max_epochs=2", "logger=[]", "callbacks=[]")
        config.output_dir = str(tmp_path / str(fast))
        config.trainer.fast_loop = fast
        built = build(config)
        type(built.task).on_train_batch_start = lambda self, batch, batch_idx: -1 if batch_idx == 4 else None
        try:
            built.trainer.fit(built.task, datamodule=built.data)
        finally:
            del type(built.task).on_train_batch_start
        return built.trainer.global_step, built.trainer.fit_loop.state_dict()

    assert run(True) == run(False)


class LogsAtTimes(pl.Callback):
    """Logs in a few steps, and looks after each at what is known."""

    def __init__(self):
        self.known = []

    def on_train_batch_end(self, trainer, task, outputs, batch, batch_idx):
        if batch_idx % 4 == 2:
            task.log("own/step", float(batch_idx), on_step=True, on_epoch=True, prog_bar=True)

    def on_train_batch_start(self, trainer, task, batch, batch_idx):
        self.known.append([dict(kept) for kept in (trainer.callback_metrics, trainer.logged_metrics)])


def test_what_is_logged_in_some_steps_is_the_stock_loops(tmp_path):
    def run(fast):
        config = composed("trainer.max_epochs=2", "callbacks=[]", "logger=[]", "trainer.log_every_n_steps=3")
        config.output_dir = str(tmp_path / str(fast))
        config.trainer.fast_loop = fast
        built, looks = build(config), LogsAtTimes()
        built.trainer.callbacks.append(looks)
        built.trainer.fit(built.task, datamodule=built.data)
        return looks.known, built.history.rows

    assert run(True) == run(False)


def test_the_names_that_the_loop_relies_on():
    """Canaries: each fails when Lightning moves what the fast loop stands on."""
    assert pl.__version__ == "2.6.6"
    for name in HOOKS:
        assert hasattr(pl.Callback, name)
        assert hasattr(pl.LightningModule, name)
    for name in PARTS:
        assert hasattr(pl.LightningModule, name)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    loop = trainer.fit_loop.epoch_loop
    for owner, names in (
        (trainer, "_logger_connector _val_check_time_interval fit_loop"),
        (trainer._logger_connector, "_first_loop_iter on_batch_end update_train_step_metrics"),
        (loop, "automatic_optimization batch_progress val_loop _batches_that_stepped _is_training_done restarting"),
        (loop, "_num_ready_batches_reached update_lr_schedulers batch_idx _should_check_val_fx"),
        (loop._results, "valid_items batch batch_size dataloader_idx"),
        (loop.val_loop, "_restarting"),
        (loop.automatic_optimization.optim_progress.optimizer, "step zero_grad"),
        (pl.callbacks.ModelCheckpoint(), "_every_n_train_steps _train_time_interval"),
    ):
        for name in names.split():
            assert hasattr(owner, name), name
