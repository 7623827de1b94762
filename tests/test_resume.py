"""A run that was killed and resumed has the same bits as one that was not."""

import json
import signal

import pytest
import pytorch_lightning as pl
import yaml
from forked import Child, differences, kill_at_step

from iolaus.callbacks.resume_points import ResumePoints

SMALL = (
    "data=wine",
    "trainer.max_epochs=5",
    "data.batch_size=16",
    "callbacks.resume_points.every_n_steps=3",
    "logger=[tensorboard,csv]",
)

OWN_DATA = ("data._target_=own_noise.Noisy", "~data.name", "allow=[own_noise]")
NOISY = """
import random
import numpy as np
import torch
from torch.utils.data import Dataset
from iolaus.data.base import DataModule

class Rows(Dataset):
    def __len__(self):
        return 178
    def __getitem__(self, row):
        x = torch.full((13,), row / 89 - 1) + torch.randn(13) / 9
        return x + random.random() / 9 + np.random.rand() / 9, row % 3

class Noisy(DataModule):
    def load(self):
        return {"train": Rows()}
"""


@pytest.fixture(autouse=True)
def own_noise(tmp_path):
    """A data set outside memory that draws from all three global generators."""
    (tmp_path / "own_noise.py").write_text(NOISY)


# wine: 125 training rows, 8 batches an epoch
CONFIGURATIONS = {
    "default": [],
    "dropout and mixup": ["model.dropout=0.3", "augment=[mixup]"],
    "batch norm": ["data=digits", "model=cnn", "data.batch_size=256"],
    "a last batch that is joined": ["model.norm=BatchNorm1d", "data.batch_size=31", "scheduler=one_cycle"],
    "plateau": ["scheduler=plateau", "scheduler.patience=0", "scheduler.threshold=0.5"],
    "a step of the schedule a batch": ["scheduler=cosine", "scheduler._interval_=step", "scheduler.T_max=40"],
    "schedule by epochs": ["scheduler=step", "scheduler.step_size=2"],
    "accumulation": ["trainer.accumulate_grad_batches=3"],
    "validation inside the epoch": ["trainer.val_check_interval=3"],
    "validation every other epoch": ["trainer.check_val_every_n_epoch=2"],
    "early stopping": [
        "callbacks.early_stopping.patience=1",
        "callbacks.early_stopping.min_delta=0.2",
        "trainer.max_epochs=20",
    ],
    "the best three": ["callbacks.checkpoint.save_top_k=3", 'callbacks.checkpoint.filename="best-{epoch}"'],
    "bf16": ["trainer.precision=bf16-mixed"],
    "float64 and clipping": ["trainer.precision=64-true", "trainer.gradient_clip_val=0.5"],
    "momentum": ["optim=sgd", "optim.momentum=0.9"],
    "max_steps": ["trainer.max_steps=29"],
    "one cycle": ["scheduler=one_cycle"],
    "schedules in turn": ["scheduler=warmup_cosine", "scheduler.milestones=[2]", "optim=nadam"],
    "LBFGS": ["optim=lbfgs", "optim.max_iter=3", "model.dropout=0.2"],
    "parameter groups": ["optim=adamw", "+optim._groups_.no_decay={ndim: 1, weight_decay: 0.0}"],
    "EMA": ["callbacks=[default,ema]", "callbacks.ema.decay=0.9", "callbacks.ema.start=1"],
    "SWA with batch norm": [
        "data=digits",
        "model=cnn",
        "data.batch_size=256",
        "callbacks=[default,swa]",
        "callbacks.swa.start=2",
    ],
    "curvature": [
        *("callbacks=[default,curvature]", "callbacks.curvature.lanczos_steps=5", "callbacks.curvature.num_samples=40"),
        *("callbacks.curvature.trace_samples=1", "callbacks.curvature.every_n_epochs=2", "model.dropout=0.2"),
    ],
    "SWA with its schedule": [
        "callbacks=[default,swa]",
        "scheduler=swa",
        "scheduler.milestones=[3]",
        "callbacks.swa.start=3",
    ],
    "transforms": ["data=digits", "model=linear", "augment=[transforms]", "data.batch_size=256"],
    "initialised": ["init=orthogonal", "loss=triplet_margin"],
    "sparse gradients": ["model=additive", "model.sparse=true", "optim=sparse_adam"],
    "muon": ["optim=muon", "scheduler=cosine"],
    "a recurrent network of two layers": [
        "data=digits",
        "model=lstm",
        "model.num_layers=2",
        "model.dropout=0.2",
        "data.batch_size=256",
    ],
    "a language": [
        "data=text_file",
        "data.path=own_noise.py",
        "data.input_shape=[8]",
        "model.hidden_dim=16",
        "task.sample_length=4",
    ],
    "translation": [
        "data=number_words",
        "data.size=150",
        "model=seq2seq_transformer",
        "model.hidden_dim=16",
        "task.max_length=6",
    ],
    "rankings": [
        *("data=interactions", "data.num_users=200", "data.num_items=100", "data.impressions=60"),
        *("data.num_candidates=20", "data.batch_size=128"),
    ],
    "speech": ["data=morse", "data.size=48", "data.num_words=[1,1]", "data.wpm=[30.0,30.0]", "trainer.max_epochs=3"],
    "a map": ["data=distances", "data.num_points=20", "data.batch_size=50", "optim=adam"],
    "an estimated gradient": ["gradient=forward", "gradient.num_tangents=2", "model.dropout=0.3"],
    "two points": ["gradient=two_point", "optim=lbfgs", "optim.max_iter=2"],
    "no validation split": ["data.val_fraction=0", "objective.monitor=loss/train"],
    "stock loop": ["trainer.fast_loop=false"],
    "background": ["callbacks.resume_points.background=true"],
    "no metrics": ["metrics=[]"],
    "a data set outside memory": [*OWN_DATA, "data.num_workers=0"],
    "two workers": [*OWN_DATA, "data.num_workers=2"],
}


# Left to the slow tests, which kill all configurations at random moments.
SLOW = {
    "a language",
    "two workers",
    "an estimated gradient",
    "a last batch that is joined",
    "validation inside the epoch",
    "two points",
    "accumulation",
    "plateau",
    "transforms",
    "SWA with batch norm",
    "LBFGS",
    "early stopping",
    "translation",
    "a map",
    "rankings",
    "speech",
    "schedule by epochs",
    "validation every other epoch",
    "bf16",
    "momentum",
    "no metrics",
    "one cycle",
    "parameter groups",
    "a recurrent network of two layers",
    "initialised",
    "muon",
    "background",
    "float64 and clipping",
    "a step of the schedule a batch",
    "max_steps",
    "schedules in turn",
    "SWA with its schedule",
    "curvature",
    "sparse gradients",
    "dropout and mixup",
    "EMA",
    "batch norm",
    "stock loop",
    "a data set outside memory",
    "the best three",
    "no validation split",
}
NAMES = [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in CONFIGURATIONS]


@pytest.mark.parametrize("name", NAMES)
def test_killed_and_resumed(name, tmp_path):
    """Killed twice: once soon, once after an epoch's end, each time inside a step; the rest is one story."""
    stages = [] if name == "default" else ["stages=[fit]"]  # one of them with its test and its figures is enough
    arguments = [*SMALL, *stages, *CONFIGURATIONS[name]]
    resume = ["resume=killed", *(a for a in arguments if a.startswith("allow="))]
    whole = Child(tmp_path, *arguments, "output_dir=whole")
    assert whole.wait() == 0, whole.text
    steps = json.loads((tmp_path / "whole/results.json").read_text())["steps"] * (3 if name == "accumulation" else 1)
    first = steps // 3
    assert Child(tmp_path, *arguments, "output_dir=killed", before=kill_at_step(first)).wait() == -signal.SIGKILL
    assert json.loads((tmp_path / "killed/results.json").read_text())["status"] == "running"
    assert Child(tmp_path, *resume, before=kill_at_step(first)).wait() == -signal.SIGKILL
    last = Child(tmp_path, *resume)
    assert last.wait() == 0, last.text
    assert "going on from" in last.text
    assert differences(tmp_path / "whole", tmp_path / "killed") == []
    results = [json.loads((tmp_path / run / "results.json").read_text()) for run in ("whole", "killed")]
    for key in ("status", "metrics", "objective", "best_epoch", "epochs", "steps", "choices"):
        assert results[0][key] == results[1][key], key


@pytest.mark.slow
def test_any_number_of_workers_gives_the_same_weights(tmp_path):
    for workers in (0, 1, 2, 4):
        child = Child(tmp_path, *SMALL, *OWN_DATA, f"data.num_workers={workers}", f"output_dir={workers}")
        assert child.wait() == 0, child.text
    for workers in (1, 2, 4):
        # the number of workers itself stands in no checkpoint
        assert differences(tmp_path / "0", tmp_path / str(workers)) == []


def test_private_names_of_lightning_are_where_they_were():
    """What ResumePoints reads and mends; when one of these moves, the design has to be looked at again."""
    trainer = pl.Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")
    loop = trainer.fit_loop
    assert loop._restarting is False
    assert loop._data_fetcher is None
    assert loop.epoch_loop._batches_that_stepped == 0
    assert isinstance(loop.epoch_loop._results, dict)
    assert loop.epoch_loop.val_loop.batch_progress.total.state_dict().keys() >= {"ready", "completed"}
    assert isinstance(trainer._logger_connector._callback_metrics, dict)
    assert callable(trainer._checkpoint_connector.dump_checkpoint)
    assert ResumePoints(".").state_dict() == {}


def test_a_table_goes_on_with_the_columns_that_it_began_with(command, tmp_path):
    """Settings that earlier versions did not save must not change which columns there are, and which cells are empty."""
    rows = "".join(f"{i},{'?' if i == 7 else i % 5},{i % 2}\n" for i in range(60))
    (tmp_path / "t.csv").write_text("id,x,y\n" + rows)
    begun = command(
        "data=csv",
        f"data.path={tmp_path}/t.csv",
        "data.target=y",
        "data.missing=mean",
        'data.na=["?"]',
        "data.keep=[id]",
        "trainer.max_epochs=1",
    )
    assert begun.code == 0, begun.text
    settings = yaml.safe_load((begun.folder / "config.yaml").read_text())
    del settings["data"]["keep"], settings["data"]["na"]
    (begun.folder / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    outcome = command(f"resume={begun.folder}", "trainer.max_epochs=2")
    assert outcome.code == 0, outcome.text
    assert json.loads((begun.folder / "results.json").read_text())["epochs"] == 2
