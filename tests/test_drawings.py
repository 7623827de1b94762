"""A drawing that fails is a warning, the report is written; images are shown with what they should become."""

import copy
import json

import numpy as np
import pytest
import torch
from conftest import composed
from omegaconf import open_dict
from torch import nn
from torch.utils.data import TensorDataset

from iolaus import figures, preview
from iolaus.callbacks.inputs import inputs
from iolaus.callbacks.summary import Summary
from iolaus.data.base import DataModule
from iolaus.runs import Job
from iolaus.task.base import Task
from iolaus.task.supervised import Supervised
from iolaus.train import train

SIDE = 6
LEFT = (torch.arange(SIDE) < 2).expand(SIDE, SIDE).long()  # a mask that a mirror changes


class Masks(DataModule):
    """Grey images whose left part is bright by 100, and masks of that part."""

    def load(self):
        masks = LEFT.repeat(40, 1, 1)
        images = (100 * masks + torch.arange(40)[:, None, None]).to(torch.uint8)
        return {"train": TensorDataset(images[:, None], masks)}


class Amounts(DataModule):
    def load(self):
        amounts = torch.arange(40).float()[:, None] + 0.25
        return {"train": TensorDataset(amounts.to(torch.uint8)[:, :, None, None].expand(-1, 1, SIDE, SIDE), amounts)}


class Segmentation(Task):
    def forward(self, images):
        return self.model(images.float() / 255)

    def step(self, batch):
        images, masks = batch
        output = self(images)
        return nn.functional.cross_entropy(output, masks), output, masks

    def example(self, n):
        return torch.zeros(n, 1, SIDE, SIDE), torch.zeros(n, SIDE, SIDE, dtype=torch.int64)


@pytest.fixture(scope="module")
def settings():
    return composed("data=digits", "trainer=cpu", "model=linear", "metrics=[]", "trainer.max_epochs=1", "logger=[]")


def run(settings, folder, stages=("fit", "test"), kind="mask", **nodes):
    config = copy.deepcopy(settings)
    with open_dict(config):
        config.update({"output_dir": str(folder), "stages": list(stages)})
        config.data = {
            "_target_": f"{__name__}.{'Masks' if kind == 'mask' else 'Amounts'}",
            "input_kind": "image",
            "input_shape": [1, SIDE, SIDE],
            "target_kind": kind,
            "batch_size": 8,
            "standardize": kind != "mask",
            **dict.fromkeys(["num_classes", "class_names", "class_weights", "vocab_size"]),
        }
        config.update(nodes)
    train(config, Job([], {}))
    return json.loads((folder / "results.json").read_text())


def segmentation():
    model = {"_target_": "torch.nn.Conv2d", "in_channels": 1, "out_channels": 2, "kernel_size": 1}
    return {"task": {"_target_": f"{__name__}.Segmentation"}, "model": model}


def regression():
    task = {"_target_": "iolaus.task.supervised.Supervised", "input_kind": "image", "input_shape": [1, SIDE, SIDE]}
    model = {"_target_": "iolaus.model.linear.Linear", "input_shape": [1, SIDE, SIDE], "output_dim": 1}
    return {
        "task": task | {"output_dim": 1, "target_kind": "real"},
        "model": model,
        "loss": {"_target_": "torch.nn.MSELoss"},
    }


def test_images_with_masks_end_with_a_report(settings, tmp_path):
    results = run(settings, tmp_path / "run", **segmentation())
    assert results["status"] == "completed"
    assert {"file": "figures/inputs.png"} in results["shown"]
    assert "figures/inputs.png" in (tmp_path / "run" / "report.md").read_text()


def test_masks_are_shown_right_of_their_images():
    data = Masks("image", [1, SIDE, SIDE], "mask")
    images, masks = data.load()["train"].tensors
    shown = inputs([images[:3], masks[:3]], data)["inputs"]
    pixels = torch.as_tensor(shown.pixels)
    assert list(shown.titles) == ["", "target"] * 3
    assert torch.equal(pixels[::2], images[:3].float())
    assert pixels[1::2].unique().tolist() == [0.0, 102.0]  # over the range of the images
    assert torch.equal(pixels[1::2] > 50, masks[:3, None] == 1)


@pytest.mark.parametrize(
    ("channels", "target"),
    [
        (3, LEFT.repeat(2, 1, 1)),
        (1, nn.functional.one_hot(LEFT.repeat(2, 1, 1), 5).permute(0, 3, 1, 2)),  # scores of five classes
        (1, LEFT.float().repeat(2, 3, 1, 1)),  # a colour image as target of a grey one
        (3, LEFT.where(LEFT == 1, 255).repeat(2, 1, 1, 1)),  # 255: ignored
        (4, LEFT.float().repeat(2, 3, 1, 1)),
        (1, torch.zeros(2, SIDE, SIDE, dtype=torch.int64)),  # all one value
    ],
)
def test_every_kind_of_mask_is_drawn(channels, target):
    data = Masks("image", [channels, SIDE, SIDE], "mask")
    images = torch.rand(2, channels, SIDE, SIDE)
    shown = inputs([images, target], data)["inputs"]
    pixels = torch.as_tensor(shown.pixels)
    assert pixels.isfinite().all()
    assert torch.equal(pixels[::2][:, :channels], images)
    picture = pixels[1::2].mean(1)
    if target.unique().numel() > 1:
        assert picture[:, :, :2].std() < 1e-6  # the left part is of one value,
        assert (picture[:, :, 0] - picture[:, :, -1]).abs().min() > 0.1  # which is another than that of the right
    assert len(figures.png(figures.drawn(shown))) > 1000


def test_images_have_their_amounts_as_titles(settings, tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr(
        figures, "image_grid", lambda pixels, given: titles.extend(given) or figures.learning_curves([], None)
    )
    drawn = []
    original = preview.inputs
    monkeypatch.setattr(preview, "inputs", lambda batch, data: drawn.append(batch) or original(batch, data))
    run(settings, tmp_path / "run", kind="real", **regression())
    (batch,) = drawn
    assert titles == [f"{value:.4g}" for value in batch[-1][:, 0].tolist()]
    assert len(set(titles)) > 3


class Broken(Supervised):
    def show(self, data, split="test"):
        raise RuntimeError("show is bad")


class Shows(Summary):
    def show(self):
        return {"sample": "no exhibit"}


class ShowsNothing(Summary):
    def show(self):
        raise ZeroDivisionError


def test_what_cannot_be_drawn_is_left_out_with_a_warning(settings, tmp_path, monkeypatch, caplog):
    """Of a task, callbacks, the summary, metrics, schedule and inputs: each in a line, and the run is complete."""

    def fail(*_):
        raise ValueError("drawing is bad")

    monkeypatch.setattr("iolaus.callbacks.summary.summarize", fail)
    monkeypatch.setattr("iolaus.report.draw_schedule", fail)
    monkeypatch.setattr("iolaus.report.draw_inputs", fail)
    monkeypatch.setattr(figures, "learning_curves", fail)
    monkeypatch.setattr(figures, "scatter", fail)
    nodes = regression()
    nodes["task"]["_target_"] = f"{__name__}.Broken"
    nodes["metrics"] = {"scatter": {"_target_": "iolaus.metrics.scatter.Scatter"}}
    nodes["callbacks"] = {
        name: {"_target_": f"{__name__}.{name}", "output_dir": str(tmp_path)} for name in ("Shows", "ShowsNothing")
    }
    results = run(settings, tmp_path / "run", kind="real", **nodes)
    assert results["status"] == "completed"
    assert (tmp_path / "run" / "report.html").exists()
    assert results["shown"] == []
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    said = "\n".join(warnings)
    for line in (
        "model.txt: left out: drawing is bad",
        "samples of the test by Broken.show: left out: show is bad  (",
        "figures/learning_curves.png: left out: drawing is bad",
        "figures/scatter.png: left out: drawing is bad",
        "figures/schedule.png: left out: drawing is bad",
        "figures/inputs.png: left out: drawing is bad",
        "ShowsNothing.show: left out: ZeroDivisionError",
        "sample: left out: it must be one of iolaus.exhibits; received str",
    ):
        assert line in said, said
    assert not any("\n" in line for line in warnings)


def test_info_goes_on_where_something_cannot_be_drawn(settings, tmp_path, monkeypatch, caplog):
    def fail(*_):
        raise ValueError("drawing is bad")

    for name in ("summarize", "draw", "draw_schedule", "inputs"):
        monkeypatch.setattr(preview, name, fail)
    with caplog.at_level("INFO"):
        results = run(settings, tmp_path / "run", stages=["info"], kind="real", **regression())
    assert results["status"] == "completed"
    assert "optimizer: Adam" in caplog.text
    for name in ("model.txt", "graph.svg", "figures/schedule.png", "figures/inputs.png"):
        assert f"{name}: left out: drawing is bad" in caplog.text


@pytest.mark.parametrize("shape", [(9,), (9, 2), (9, 1, 4, 4)])
def test_a_scatter_is_of_numbers_of_any_shape(shape):
    values = np.arange(np.prod(shape), dtype=float).reshape(shape)
    figure = figures.draw_metric("scatter", (values, values + 1), None)
    points = [panel.collections[0].get_offsets() for panel in figure.axes if panel.get_visible()]
    assert sum(len(part) for part in points) == values.size
    assert all((part[:, 1] - part[:, 0] == 1).all() for part in points)
