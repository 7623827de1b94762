"""The sweeps that stand in conf/sweep: cross-validation and seeds."""

import sys

import pytest
import yaml

from iolaus.compose import varied


def swept(command, *arguments):
    outcome = command(
        "-m", *arguments, "data=iris", "trainer=one_batch", "output_dir=sweep", "callbacks=[]", "logger=[]"
    )
    assert outcome.code == 0, outcome.text
    folders = sorted(f for f in outcome.folder.parent.iterdir() if f.is_dir())
    return {f.name: yaml.safe_load((f / "config.yaml").read_text()) for f in folders}


def test_cross_validation(command):
    """One setting is the number of parts, folders are named by what varies, and nothing is tested."""
    jobs = swept(command, "sweep=kfold", "data.folds=2", "model=linear")
    assert list(jobs) == ["0_fold-0", "1_fold-1"]
    assert [job["data"]["fold"] for job in jobs.values()] == [0, 1]
    assert {job["data"]["folds"] for job in jobs.values()} == {2}
    assert all(job["stages"] == ["fit"] for job in jobs.values())


@pytest.mark.slow
def test_cross_validation_over_other_values(command):
    jobs = swept(command, "sweep=kfold", "data.folds=2", "model=linear,affine")
    assert list(jobs) == [f"{i}_fold-{i // 2}_model-{('linear', 'affine')[i % 2]}" for i in range(4)]


def test_one_job_of_a_sweep_is_a_run(command):
    """With a value for all that the sweep varies: what a launcher runs in a process of its own."""
    outcome = command("sweep=kfold", "data.fold=3", "--cfg", "job")
    assert outcome.code == 0, outcome.text
    assert {"  folds: 5", "  fold: 3"} <= set(outcome.text.splitlines())


@pytest.mark.slow
def test_seeds(command):
    jobs = swept(command, "sweep=seeds", "model=linear")
    assert [job["seed"] for job in jobs.values()] == [0, 1, 2, 3, 4]
    assert list(jobs)[1] == "1_seed-1"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("sweep=kfold", "sweep=kfold: is several runs; add -m"),
        ("-m sweep=kfld", "there is no sweep 'kfld'; did you mean 'kfold'?"),
        ("-m sweep=kfold,seeds", "sweep=kfold,seeds: choose one"),
        ("-m sweep=kfold data.folds=5,10", "data.folds=5,10: must be one number"),
        ("-m sweep=kfold data.folds=1", "data.folds: must be at least 2; received 1"),
        ("-m sweep=kfold data.folds=0", "data.folds: must be at least 2; received 0"),
        ("-m sweep=kfold data.folds=2 data=interactions", "data.folds: of each user"),
        ("-m seed=range(0)", "-m: there is nothing to run"),
    ],
)
def test_sweeps_that_cannot_be(command, words, says):
    outcome = command(*words.split())
    assert outcome.code == 1
    assert says in outcome.text
    assert "Traceback" not in outcome.text
    assert len(outcome.text.strip().splitlines()) == 1, outcome.text


def test_folders_are_named_by_what_the_command_does_not_fix(monkeypatch):
    words = [
        "train.py",
        "-m",
        "data=iris",
        "optim.lr=0.1,0.2",
        "model.hidden_dims=[8],[16, 8]",
        "+optim._groups_.a.lr=1,2",
    ]
    monkeypatch.setattr(sys, "argv", words)
    job = ["data=iris", "optim.lr=0.1", "model.hidden_dims=[16,8]", "+optim._groups_.a.lr=1", "seed=3"]
    assert varied(job) == "optim.lr-0.1_hidden_dims-16-8_optim._groups_.a.lr-1_seed-3"
