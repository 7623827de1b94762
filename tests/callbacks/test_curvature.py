"""The curvature over training: against the dense Hessian of the same samples, and no bit of the training changed."""

import csv
import json
import math

import pytest
import torch
from conftest import composed
from forked import finished, scalars
from PIL import Image
from torch.utils.data import Dataset, TensorDataset

from iolaus.build import build
from iolaus.callbacks.curvature import NAMES, Curvature
from iolaus.errors import UserError
from iolaus.exhibits import Animation, Curves

NORMED = "model.layers=[{Linear: {out_features: 8}}, BatchNorm1d, ReLU, {Dropout: {p: 0.3}}]"
FEW = ("lanczos_steps=4", "num_samples=40", "trace_samples=1", "every_n_epochs=2")


def fit(folder, *overrides, **arguments):
    """A short run on wine, 8 steps an epoch, with batch norm and dropout."""
    measures = [f"callbacks.curvature.{word}" for word in FEW] if "curvature" in str(overrides) else []
    config = composed(
        *("data=wine", "data.batch_size=16", "model=sequential", NORMED, "logger=[]", "trainer.max_epochs=3"),
        *(*measures, *overrides),
    )
    config.output_dir = str(folder)
    run = build(config)
    run.trainer.fit(run.task, datamodule=run.data)
    return run


@pytest.fixture(scope="module")
def without(tmp_path_factory):
    """The same run without the callback, by whether the fast loop was used."""
    return {
        fast: fit(tmp_path_factory.mktemp("without"), "callbacks=[]", f"trainer.fast_loop={str(fast).lower()}")
        for fast in (True, False)
    }


@pytest.mark.parametrize(("mode", "fast"), [("train", True), ("eval", True), ("train", False)])
def test_the_training_has_the_same_bits(without, tmp_path, mode, fast):
    more = (f"callbacks.curvature.mode={mode}", f"trainer.fast_loop={str(fast).lower()}")
    run = fit(tmp_path, "callbacks=[curvature]", *more)
    assert [m.step for m in run.callback(Curvature).history] == [0, 16, 24]
    assert run.trainer.fit_loop.epoch_loop._plain if fast else True
    for (name, value), other in zip(
        run.task.state_dict().items(), without[fast].task.state_dict().values(), strict=True
    ):
        assert torch.equal(value, other), name
    assert [{k: v for k, v in row.items() if "curvature" not in k} for row in run.history.rows] == without[
        fast
    ].history.rows


def test_of_averaged_weights_those_that_are_trained_are_measured(tmp_path):
    alone = fit(tmp_path / "a", "callbacks=[curvature]", "trainer.max_epochs=2")
    averaged = fit(tmp_path / "b", "callbacks=[curvature,ema]", "callbacks.ema.decay=0.9", "trainer.max_epochs=2")
    numbers = [[m.scalars for m in run.callback(Curvature).history] for run in (alone, averaged)]
    assert numbers[0] == numbers[1]
    assert not torch.equal(alone.task.model.layers[0].weight, averaged.task.model.layers[0].weight)


def test_against_the_dense_hessian_of_all_training_rows(tmp_path):
    config = composed("data=iris", "model.hidden_dims=[6]", "model.dropout=0", "logger=[]", "callbacks=[]")
    config.output_dir = str(tmp_path)
    run = build(config)
    task, (inputs, target) = run.task, run.data.datasets["train"][run.data.rows["train"]]
    names, shapes = zip(*((n, p.shape) for n, p in task.named_parameters()), strict=True)

    def loss(flat):
        parts = flat.split([shape.numel() for shape in shapes])
        weights = {n: part.view(shape) for n, part, shape in zip(names, parts, shapes, strict=True)}
        return task.loss(torch.func.functional_call(task, weights, (inputs,)), target.long())

    flat = torch.cat([p.detach().reshape(-1) for p in task.parameters()])
    dense = torch.autograd.functional.hessian(loss, flat).double()
    exact = torch.linalg.eigvalsh(dense)
    found = Curvature(lanczos_steps=30, trace_samples=400).measure(run.trainer, task, run.data, 0, 0)
    values = found.scalars
    for name, true in (("lambda_max", exact[-1]), ("lambda_min", exact[0])):
        assert abs(values[name] - true.item()) <= max(values[f"{name}_error"], 1e-5 * abs(true.item()))
    assert values["lambda_max"] == pytest.approx(exact[-1].item(), rel=1e-4)
    assert abs(values["trace"] - dense.trace().item()) < 3 * values["trace_error"] < 0.5 * dense.trace().item()
    gradient = torch.autograd.functional.jacobian(loss, flat)
    assert values["gradient_norm"] == pytest.approx(gradient.norm().item(), rel=1e-4)


def test_what_is_optimised_and_what_is_evaluated_differ(tmp_path):
    run = fit(tmp_path, "callbacks=[]", "trainer.max_epochs=1")
    found = [
        Curvature(mode=mode, batch_size=16, lanczos_steps=8).measure(run.trainer, run.task, run.data, 1, 8).scalars
        for mode in ("train", "eval", "train")
    ]
    assert found[0] == found[2]
    assert found[0]["lambda_max"] != pytest.approx(found[1]["lambda_max"], rel=0.05)


class Slowly(Dataset):
    """The same rows, one at a time."""

    def __init__(self, tensors):
        self.tensors = tensors

    def __len__(self):
        return len(self.tensors)

    def __getitem__(self, index):
        return self.tensors[index]


def test_some_batches_are_the_same_from_memory_and_from_elsewhere(tmp_path):
    config = composed("data=digits", "model=linear", "augment=[cutout]")
    config.output_dir = str(tmp_path)
    data = build(config).data
    tensors = data.datasets["train"]
    before = torch.get_rng_state()
    held = data.some_batches("train", 20, 8, 3)
    data.datasets["train"] = Slowly(TensorDataset(tensors.tensors[0], tensors.tensors[1].long()))
    read = data.some_batches("train", 20, 8, 3)
    assert torch.equal(torch.get_rng_state(), before)
    assert [len(batch[1]) for batch in held] == [8, 8, 4]
    for one, other in zip(held, read, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    rows = {tuple(image.flatten().tolist()) for image in tensors.tensors[0][data.rows["train"]]}
    assert all(tuple(image.flatten().tolist()) in rows for batch in held for image in batch[0])  # and nothing cut out
    assert not torch.equal(held[0][0], data.some_batches("train", 20, 8, 4)[0][0])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of 2 epochs of 2 steps on iris, measured at both ends."""
    words = ["lanczos_steps=5", "trace_samples=2", "every_n_epochs=2"]
    return finished(
        tmp_path_factory.mktemp("made"),
        *("data=iris", "data.batch_size=53", "trainer.max_epochs=2", "metrics=[]", "stages=[fit]"),
        *("callbacks=[default,curvature]", "logger=[tensorboard,csv]"),
        *(f"callbacks.curvature.{word}" for word in words),
    )


def rows_of(file):
    with file.open() as text:
        return list(csv.DictReader(text))


def test_what_a_run_leaves(made):
    table = rows_of(made / "samples/curvature.csv")
    assert [(row["epoch"], row["step"]) for row in table] == [("0", "0"), ("2", "4")]
    assert list(table[0]) == ["epoch", "step", *NAMES]
    values = {row["epoch"]: row for row in table}
    history = {row["epoch"]: row for row in rows_of(made / "metrics.csv")}
    assert list(history) == ["0", "1", "2"]
    for epoch, row in history.items():
        assert (row["loss/train"] == "") == (epoch == "0")
        for name in NAMES:
            expected = float(values[epoch][name]) if epoch in values else math.nan
            cell = row[f"curvature/{name}"]
            assert float(cell or "nan") == pytest.approx(expected, rel=1e-5, nan_ok=True)
    logged = scalars(made)
    for name in NAMES:
        assert [step for step, _ in logged[f"curvature/{name}"]] == [0, 4]
    report = (made / "report.md").read_text()
    for name in ("densities.png", "density.gif", "eigenvalues.png", "trace.png"):
        assert (made / f"figures/curvature_{name}").exists()
        assert f"figures/curvature_{name}" in report
    with Image.open(made / "figures/curvature_density.gif") as frames:
        assert frames.n_frames == 2
    results = json.loads((made / "results.json").read_text())
    assert results["epochs"] == 2
    assert "curvature/lambda_max" in results["metrics"]["last"]


def test_its_state_is_plain_and_whole(made):
    content = torch.load(made / "checkpoints/last.ckpt", weights_only=True)
    callback = Curvature()
    callback.load_state_dict(content["callbacks"]["Curvature"])
    assert [m.step for m in callback.history] == [0, 4]
    expected = rows_of(made / "samples/curvature.csv")[-1]
    assert callback.history[-1].scalars["lambda_max"] == pytest.approx(float(expected["lambda_max"]), rel=1e-5)
    callback.setup(None, None, "test")
    callback.load_state_dict({"history": []})
    assert len(callback.history) == 2


def test_what_is_shown(made):
    content = torch.load(made / "checkpoints/last.ckpt", weights_only=True)
    callback = Curvature()
    assert callback.show() == {}
    callback.load_state_dict(content["callbacks"]["Curvature"])
    shown = callback.show()
    animation, overlay = shown["curvature_density"], shown["curvature_densities"]
    assert isinstance(animation, Animation)
    assert isinstance(overlay, Curves)
    titles = ["before the first step", "epoch 2, step 4"]
    assert [frame.title for frame in animation.frames] == list(overlay.curves) == titles
    for frame in animation.frames:
        assert torch.trapezoid(frame.curves["density"], frame.x).item() == pytest.approx(1, abs=1e-3)
        assert frame.lowest < frame.curves["density"].max()
    callback.history = callback.history[:1]
    assert callback.show().keys() == {"curvature", "curvature_densities"}


def test_what_fails_later_ends_no_training(tmp_path, monkeypatch, caplog):
    measure = Curvature.measure

    def fails(self, trainer, task, data, epoch, step):
        if step:
            raise UserError("callbacks.curvature: no memory")
        return measure(self, trainer, task, data, epoch, step)

    monkeypatch.setattr(Curvature, "measure", fails)
    run = fit(tmp_path, "callbacks=[curvature]", "trainer.max_epochs=2")
    assert run.trainer.global_step == 16
    assert len(run.callback(Curvature).history) == 1
    assert "no memory; not measured after epoch 2" in caplog.text


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["callbacks.curvature.num_samples=106"], "106 is more than the 105 training rows; set at most 105"),
        (["model=linear"], "lanczos_steps: 40 is more than the model's 15 trained parameters; set at most 15"),
        (["callbacks.curvature.mode=trian"], "callbacks.curvature.mode: must be train or eval; received 'trian'"),
        (["callbacks.curvature.every_n_epochs=0"], "every_n_epochs: must be at least 1; received 0"),
        (["callbacks.curvature.trace_samples=0"], "trace_samples: must be at least 1; received 0"),
    ],
)
def test_wrong_settings(command, words, says):
    outcome = command("data=iris", "callbacks=[curvature]", "logger=[]", *words)
    assert outcome.code == 1
    assert says in outcome.text
    assert "Traceback" not in outcome.text


def test_a_loss_without_curvature(tmp_path):
    config = composed("data=diabetes", "model=linear", "loss=mean_bias", "metrics=[]", "logger=[]", "callbacks=[]")
    config.output_dir = str(tmp_path)
    run = build(config)
    with pytest.raises(
        UserError, match="Linear with MeanBias cannot be differentiated twice: the gradient of the loss does not"
    ):
        Curvature(lanczos_steps=5).measure(run.trainer, run.task, run.data, 0, 0)


@pytest.mark.slow
def test_a_loss_without_second_derivative(command):
    outcome = command(
        *("data=morse", "data.size=24", "data.num_words=[1,1]", "callbacks=[curvature]", "logger=[]"),
        "trainer.max_epochs=1",
    )
    assert outcome.code == 1
    assert "callbacks.curvature: ConvGRU with CTC cannot be differentiated twice" in outcome.text
    assert "_ctc_loss_backward is not implemented; choose another loss or model, or leave it out" in outcome.text
    assert "Traceback" not in outcome.text
