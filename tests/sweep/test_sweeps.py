"""The sweeps that stand in conf/sweep: cross-validation and seeds."""

import pytest
import yaml

SHORT = ("data=iris", "trainer=one_batch", "output_dir=sweep", "callbacks=[]", "logger=[]")


def swept(command, *arguments):
    """The settings of each job, run one after the other."""
    outcome = command("-m", *arguments, *SHORT, "hydra/launcher=basic")
    assert outcome.code == 0, outcome.text
    folders = [f for f in outcome.folder.parent.iterdir() if f.is_dir()]
    folders.sort(key=lambda f: int(f.name.partition("_")[0]))
    return [yaml.safe_load((f / "config.yaml").read_text()) for f in folders]


def test_cross_validation(command):
    """One setting is the number of parts, and nothing is tested."""
    jobs = swept(command, "sweep=kfold", "data.folds=2", "model=linear")
    assert [job["data"]["fold"] for job in jobs] == [0, 1]
    assert {job["data"]["folds"] for job in jobs} == {2}
    assert all(job["stages"] == ["fit"] for job in jobs)


@pytest.mark.slow
def test_cross_validation_over_other_values(command):
    jobs = swept(command, "sweep=kfold", "data.folds=2", "model=linear,affine")
    assert [job["data"]["fold"] for job in jobs] == [0, 0, 1, 1]
    assert [job["name"] for job in jobs] == ["iris-linear", "iris-affine"] * 2


def test_one_job_of_a_sweep_is_a_run(command):
    """With a value for all that the sweep varies: what a launcher runs in a process of its own."""
    outcome = command("sweep=kfold", "data.fold=3", "--cfg", "job")
    assert outcome.code == 0, outcome.text
    assert {"  folds: 5", "  fold: 3"} <= set(outcome.text.splitlines())


@pytest.mark.slow
def test_seeds(command):
    jobs = swept(command, "sweep=seeds", "model=linear")
    assert [job["seed"] for job in jobs] == [0, 1, 2, 3, 4]


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
        ("-m seed=range(0)", "seed: range(0) has no value"),
    ],
)
def test_sweeps_that_cannot_be(command, words, says):
    outcome = command(*words.split())
    assert outcome.code == 1
    assert says in outcome.text
    assert "Traceback" not in outcome.text
    assert len(outcome.text.strip().splitlines()) == 1, outcome.text
