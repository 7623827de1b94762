"""Whole runs: what a user sees, the same result twice, references that are not ours."""

import csv
import hashlib
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

RESULT_KEYS = {
    *(
        "status",
        "name",
        "command",
        "overrides",
        "choices",
        "seed",
        "task",
        "data",
        "processes",
        "metrics",
        "objective",
        "best_epoch",
        "epochs",
    ),
    *(
        "steps",
        "checkpoint",
        "tested",
        "num_parameters",
        "seconds",
        "samples_per_s",
        "versions",
        "git",
        "framework",
        "flags",
        "error",
    ),
    *("changed", "shown", "machine"),
}


def weights(folder, name="last"):
    state = torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]
    return {key: value for key, value in state.items() if key.startswith("model.")}


def digest(folder):
    data = b"".join(value.numpy().tobytes() for value in weights(folder).values())
    return hashlib.sha256(data).hexdigest()


def test_the_default_run(command):
    """Digits, a multilayer perceptron, Adam: accuracy, and every file of the run's folder."""
    outcome = command()
    assert outcome.code == 0, outcome.text
    results, folder = outcome.results, outcome.folder
    assert results.keys() == RESULT_KEYS
    assert results["status"] == "completed"
    assert results["metrics"]["test"]["accuracy/test"] >= 0.96
    assert results["name"] == "digits-mlp"
    assert results["task"] == "classification"
    assert results["choices"]["model"] == "mlp"
    assert results["choices"]["callbacks"] == ["default"]  # of which Hydra tells nothing
    assert folder.parent.name == "digits-mlp"
    assert results["num_parameters"] == 64 * 128 + 128 + 128 * 64 + 64 + 64 * 10 + 10
    assert results["checkpoint"] == results["tested"] == "checkpoints/best.ckpt"
    assert results["objective"]["value"] == results["metrics"]["best"]["loss/val"]
    assert results["steps"] == results["epochs"] * math.ceil(results["steps"] / results["epochs"])
    for name in ("config.yaml", "train.log", "metrics.csv", "report.md", "model.txt", "checkpoints/last.ckpt"):
        assert (folder / name).stat().st_size > 0, name
    for name in ("learning_curves", "confusion_matrix", "roc", "precision_recall"):
        assert Image.open(folder / "figures" / f"{name}.png").size[0] > 300
        assert f"figures/{name}.png" in (folder / "report.md").read_text()
    assert "accuracy" in outcome.text
    assert f"iolaus test {folder.relative_to(folder.parents[2])}" in outcome.text
    assert "tensorboard --logdir outputs/digits-mlp" in outcome.text

    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == list(range(1, results["epochs"] + 1))
    assert int(rows[-1]["step"]) == results["steps"]
    best = min(rows, key=lambda row: float(row["loss/val"]))
    assert int(best["epoch"]) == results["best_epoch"]

    settings = yaml.safe_load((folder / "config.yaml").read_text())
    assert "${" not in str(settings)
    assert settings["data"]["class_names"] == [str(i) for i in range(10)]


@pytest.mark.slow
def test_tensorboard_scalars(command):
    folder = command("trainer.max_epochs=3", "trainer.log_every_n_steps=5").folder
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {"loss/train", "loss/val", "accuracy/val", "accuracy/train", "lr", "epoch", "loss/step", "loss/test"} <= tags
    assert not any("hp_metric" in tag for tag in tags)
    assert len(events.Scalars("loss/train")) == 3
    assert [e.step for e in events.Scalars("loss/step")][:3] == [0, 5, 10]
    hyperparameters = events.PluginTagToContent("hparams")
    assert set(hyperparameters) == {"_hparams_/session_start_info", "_hparams_/session_end_info"}
    assert not (folder / "hparams.yaml").exists()


@pytest.mark.slow
def test_hyperparameters_have_what_was_varied_and_the_objective(command):
    """Settings that a command sets, numbers as numbers, and the best value of the objective as a scalar: TensorBoard compares by both."""
    outcome = command(
        "data=iris", "init=orthogonal", "optim.weight_decay=0.01", "model.hidden_dims=[8]", "trainer.max_epochs=2"
    )
    events = EventAccumulator(str(outcome.folder), size_guidance={"scalars": 0})
    events.Reload()
    assert [e.value for e in events.Scalars("Objective")] == [pytest.approx(outcome.results["objective"]["value"])]
    content = HParamsPluginData.FromString(events.PluginTagToContent("hparams")["_hparams_/session_start_info"])
    found = content.session_start_info.hparams
    assert found["optim.weight_decay"].number_value == 0.01
    assert found["init"].string_value == "orthogonal"
    assert found["model.hidden_dims"].string_value == "[8]"
    assert (found["lr"].number_value, found["model"].string_value) == (0.001, "mlp")


@pytest.mark.parametrize(
    "arguments",
    [
        ["data=diabetes", "model.dropout=0.3"],
        pytest.param([], marks=pytest.mark.slow),
        pytest.param(["model=cnn", "trainer.max_epochs=1"], marks=pytest.mark.slow),
    ],
)
def test_the_same_command_twice_gives_the_same_bits(command, arguments):
    short = ["trainer.max_epochs=2", *arguments]
    first, second = command(*short), command(*short)
    assert first.folder != second.folder
    assert digest(first.folder) == digest(second.folder)
    assert first.results["metrics"] == second.results["metrics"]
    assert digest(command(*short, "seed=1").folder) != digest(first.folder)


@pytest.mark.slow
def test_another_process_gives_the_same_bits(command, tmp_path):
    here = command("trainer.max_epochs=1", "data=iris")
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), "trainer.max_epochs=1", "data=iris", "output_dir=there"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert digest(tmp_path / "there") == digest(here.folder)


@pytest.mark.slow
def test_neither_preflight_nor_callbacks_change_the_weights(command):
    with_all = command("trainer.max_epochs=2", "model.dropout=0.2")
    bare = command("trainer.max_epochs=2", "model.dropout=0.2", "callbacks=[resume_points]", "logger=[]")
    assert digest(with_all.folder) == digest(bare.folder)


SLOWER = [pytest.param(name, marks=pytest.mark.slow) for name in ("breast_cancer", "digits")]


@pytest.mark.parametrize("data", [pytest.param("iris", marks=pytest.mark.slow), "wine", *SLOWER])
def test_logistic_regression_reaches_scikit_learns_loss(command, data):
    """The same split, the same standardised inputs, no regularisation to speak of: cross entropy within 1 %."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    decay = 0.01  # for a loss that has a finite minimum also where the classes can be separated
    outcome = command(
        *(f"data={data}", "model=linear", "data.batch_size=2000", "callbacks=[]", "logger=[]", "metrics=[]"),
        *("optim.lr=0.1", f"optim.weight_decay={decay}", "scheduler=cosine", "trainer.max_epochs=300"),
    )
    assert outcome.code == 0, outcome.text
    x, y = train_split(data)
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)  # the bias as a weight, decayed like the others
    # ours: mean loss + decay/2 |w|^2; scikit-learn's: C * sum of losses + 1/2 |w|^2. For two classes it has one vector w
    # where ours has w/2 and -w/2, whose squares add to half as much.
    strength = 1 / (decay * len(x)) * (2 if data == "breast_cancer" else 1)
    reference = LogisticRegression(C=strength, fit_intercept=False, max_iter=20_000, tol=1e-10).fit(x, y)
    expected = log_loss(y, reference.predict_proba(x))
    assert outcome.results["metrics"]["last"]["loss/train"] == pytest.approx(expected, rel=0.01)


@pytest.mark.slow
def test_least_squares_reaches_scikit_learns_ridge(command):
    from sklearn.linear_model import Ridge

    decay = 1e-3
    outcome = command(
        *("data=diabetes", "model=linear", "optim=sgd", "optim.lr=0.05", f"optim.weight_decay={decay}"),
        *("data.batch_size=2000", "trainer.max_epochs=400", "callbacks=[]", "logger=[]"),
    )
    x, y = train_split("diabetes")
    y = (y - y.mean()) / y.std()
    # ours: mean (p - y)^2 + decay/2 |w|^2; scikit-learn's: sum (p - y)^2 + alpha |w|^2
    reference = Ridge(alpha=decay * len(x) / 2).fit(x, y)
    expected = np.mean((reference.predict(x) - y) ** 2)
    results = outcome.results["metrics"]["last"]
    assert results["loss/train"] == pytest.approx(expected, rel=0.01)
    assert results["r2/train"] == pytest.approx(reference.score(x, y), abs=0.005)


def train_split(data):
    """Inputs, standardised by numpy, and targets of the training split."""
    from conftest import composed

    from iolaus.build import make
    from iolaus.check import plain

    module = make(plain(composed(f"data={data}").data), "data")
    module.setup()
    rows = module.rows["train"].numpy()
    inputs, targets = (t.numpy()[rows] for t in module.datasets["train"].tensors)
    x = inputs.reshape(len(inputs), -1).astype(np.float64)
    if module.input_kind == "image":
        return (x - x.mean()) / x.std(), targets.ravel()
    return (x - x.mean(0)) / x.std(0), targets.ravel()


def test_the_line_through_seventeen_points(command):
    """Full-batch steps on the raw numbers come to the least-squares line."""
    from iolaus.data.line import X, Y

    outcome = command(
        *("data=line", "model=linear", "optim=sgd", "optim.lr=0.02", "trainer.max_epochs=600"),
        *("callbacks=[resume_points]", "logger=[]", "metrics=[]"),
    )
    found = {k: v.item() for k, v in weights(outcome.folder).items()}
    slope, intercept = np.polyfit(X, Y, 1)
    assert found["model.linear.weight"] == pytest.approx(slope, abs=1e-3)
    assert found["model.linear.bias"] == pytest.approx(intercept, abs=1e-3)
    assert outcome.results["metrics"]["test"] == {}
    assert "no test split" in outcome.text


def slow(*arguments):
    return pytest.param(arguments, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    "arguments",
    [
        ["data=diabetes"],
        slow("data=iris", "model=linear"),
        slow("data=wine", "optim=adamw", "scheduler=plateau"),
        slow("data=breast_cancer", "scheduler=cosine", "trainer.max_epochs=5"),
        slow("trainer=overfit", "trainer.max_epochs=20"),
        slow("trainer=cpu", "trainer.precision=bf16-mixed", "trainer.max_epochs=2"),
        slow("trainer.gradient_clip_val=1", "trainer.accumulate_grad_batches=2", "trainer.max_epochs=2"),
        slow(
            "trainer.precision=bf16-mixed",
            "trainer.gradient_clip_val=1",
            "trainer.accumulate_grad_batches=2",
            "trainer.max_epochs=2",
        ),
        slow("trainer.precision=16-mixed", "trainer.gradient_clip_val=1", "trainer.max_epochs=2"),
        slow("trainer.limit_train_batches=3", "trainer.limit_val_batches=1", "trainer.max_epochs=2"),
        slow("trainer.check_val_every_n_epoch=2", "trainer.max_epochs=4"),
        slow("trainer.val_check_interval=0.5", "trainer.max_epochs=2"),
        slow("logger=[tensorboard,csv]", "trainer.max_epochs=2"),
        ["stages=[fit]", "trainer.max_epochs=1"],
        slow("objective.monitor=accuracy/val", "objective.mode=max", "trainer.max_epochs=2"),
        slow("objective.monitor=loss/train", "trainer.max_epochs=2"),
        ["data.val_fraction=0", "objective.monitor=loss/train", "trainer.max_epochs=2"],
    ],
    ids=" ".join,
)
def test_stories(command, arguments):
    outcome = command(*arguments)
    assert outcome.code == 0, outcome.text
    results = outcome.results
    assert results["status"] == "completed"
    assert results["objective"]["value"] is not None
    assert ("loss/test" in results["metrics"]["test"]) == ("stages=[fit]" not in arguments)


def test_a_run_may_end_before_its_first_validation(command):
    outcome = command("trainer.max_steps=7")
    assert outcome.code == 0, outcome.text
    assert outcome.results["steps"] == 7
    assert outcome.results["objective"]["value"] is None
    assert "the last weights" in outcome.results["tested"]
    assert "loss/val was never logged" in (outcome.folder / "report.md").read_text()


def test_one_batch_leaves_nothing_behind(command):
    outcome = command("trainer=one_batch")
    assert outcome.code == 0, outcome.text
    assert "it runs" in outcome.text
    assert sorted(f.name for f in outcome.folder.iterdir() if f.suffix != ".log") == ["config.yaml", "model.txt"]


@pytest.mark.slow
def test_without_callbacks_the_last_weights_are_tested(command):
    outcome = command("callbacks=none", "trainer.max_epochs=1")
    assert outcome.results["checkpoint"] is None
    assert "the last weights" in outcome.results["tested"]
    assert not (outcome.folder / "checkpoints").exists()


@pytest.mark.slow
def test_a_validation_split_of_one_row(command, tmp_path):
    (tmp_path / "small.csv").write_text("a,y\n" + "".join(f"{i},{i * 0.5}\n" for i in range(14)))
    outcome = command("data=csv", "data.path=small.csv", "data.target=y", "trainer.max_epochs=2")
    assert outcome.code == 0, outcome.text


@pytest.mark.slow
def test_a_metric_of_several_numbers_is_logged_one_by_one(command):
    outcome = command("data=iris", "metrics.f1.average=none", "trainer.max_epochs=1")
    assert outcome.code == 0, outcome.text
    found = outcome.results["metrics"]["test"]
    assert {"f1_0/test", "f1_1/test", "f1_2/test"} <= found.keys()
    assert "f1/test" not in found


@pytest.mark.slow
def test_names_that_figures_could_stumble_over(command, tmp_path):
    names = ["_hidden", "$<b$", "a name of more than sixteen letters"]
    (tmp_path / "names.csv").write_text("a,y\n" + "".join(f"{i},{names[i % 3]}\n" for i in range(60)))
    outcome = command("data=csv", "data.path=names.csv", "data.target=y", "trainer.max_epochs=1", "output_dir=a=b, c")
    assert outcome.code == 0, outcome.text
    assert outcome.folder.name == "a=b, c"
    assert "'output_dir=a=b, c'" in outcome.results["command"]


@pytest.mark.slow
def test_profile_writes_its_table(command):
    outcome = command("trainer=profile")
    assert "run_training_epoch" in (outcome.folder / "fit-profile.txt").read_text()


def test_early_stopping_ends_the_run(command):
    outcome = command("data=diabetes", "callbacks.early_stopping.patience=2")
    assert outcome.results["epochs"] == outcome.results["best_epoch"] + 2


@pytest.mark.slow
def test_a_sweep_has_a_readable_folder_for_each_job(command, tmp_path):
    outcome = command("-m", "model=linear,mlp", "optim.lr=0.1", "trainer.max_epochs=1")
    assert outcome.code == 0, outcome.text
    (sweep,) = (tmp_path / "outputs" / "sweeps").iterdir()
    names = sorted(f.name for f in sweep.iterdir() if f.is_dir() and f.name != "figures")
    assert [n[:2] for n in names] == ["0_", "1_"]
    assert "model-linear" in names[0]
    assert "model-mlp" in names[1]
    assert command("-m", "optim.lr=0.1,0.2", "trainer.max_epochs=1", "output_dir=mine").code == 0
    assert len(list((tmp_path / "mine").glob("*/results.json"))) == 2
    for name in names:
        assert (sweep / name / "results.json").exists()


@pytest.mark.slow
def test_the_report_tells_the_interrupted_run(command, monkeypatch):
    from iolaus.task.supervised import Supervised

    def interrupt(self, batch):
        raise KeyboardInterrupt

    monkeypatch.setattr("iolaus.preflight.preflight", lambda run: None)
    monkeypatch.setattr(Supervised, "step", interrupt)
    outcome = command()
    assert outcome.code != 0
    assert outcome.results["status"] == "interrupted"
