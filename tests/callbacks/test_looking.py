"""Callbacks that look at a training: nothing of it is changed, what they write is there, and is what torch, NumPy and scikit-learn say."""

import logging
import pydoc
import re

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from conftest import CONF, composed, read_yaml
from forked import Child, differences, kill_at_step
from google.protobuf import text_format
from PIL import Image
from sklearn.metrics import confusion_matrix
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

from iolaus import figures
from iolaus.build import build
from iolaus.callbacks import mistakes
from iolaus.callbacks.histograms import histogram

ALL = {"scalars": 0, "images": 0, "histograms": 0, "tensors": 0, "audio": 0}
# What each callback writes on iris, by kind.
TAGS = {
    "histograms": {"histograms": {"weights/layers.1.weight", "gradients/layers.1.weight", "gradients/layers.7.bias"}},
    "gradient_norm": {"scalars": {"gradient_norm/step", "gradient_norm/total", "gradient_norm/layers.1"}},
    "inputs": {"tensors": {"samples/inputs/text_summary"}},
    "mistakes": {"tensors": {"samples/mistakes/text_summary"}},
    "figures": {"images": {"figures/confusion_matrix/val", "figures/roc/val"}, "tensors": {"pr_curve/setosa"}},
    "embeddings": {},
    "samples": {},
    "throughput": {"scalars": {"throughput/samples_per_s", "throughput/steps_per_s", "memory/rss_mb"}},
    "charts": {"tensors": {"custom_scalars__config__"}},
    "graph": {},
}


def fit(folder, *overrides, more=()):
    """Two epochs on iris with dropout, 7 steps each."""
    config = composed(
        *("data=iris", "data.batch_size=16", "model.dropout=0.3", "trainer.max_epochs=2", "callbacks=[]"), *overrides
    )
    config.output_dir = str(folder)
    run = build(config)
    run.trainer.callbacks += more
    run.trainer.fit(run.task, datamodule=run.data)
    run.random = torch.get_rng_state()
    return run


def events(folder):
    return EventAccumulator(str(folder), size_guidance=ALL).Reload()


@pytest.fixture(scope="module")
def without(tmp_path_factory):
    return fit(tmp_path_factory.mktemp("without"))


def same_bits(one, other):
    assert all(torch.equal(a, b) for a, b in zip(one.values(), other.values(), strict=True))


@pytest.mark.parametrize("name", TAGS)
def test_the_training_is_the_same_and_the_tags_are_there(without, tmp_path, name, caplog):
    with caplog.at_level(logging.INFO, "iolaus"):
        run = fit(tmp_path, f"callbacks=[{name}]")
    same_bits(run.task.state_dict(), without.task.state_dict())
    assert torch.equal(run.random, without.random)
    assert run.trainer.fit_loop.epoch_loop._plain
    assert "left out" not in caplog.text
    found = events(tmp_path).Tags()
    for kind, tags in TAGS[name].items():
        assert tags <= set(found[kind])
    assert ("nothing to show" in caplog.text) == (name == "samples")
    if name == "embeddings":
        assert (tmp_path / "projector_config.pbtxt").exists()


@pytest.mark.parametrize("name", [*TAGS, "curvature"])
def test_the_cost_is_told(name):
    target = read_yaml(CONF / "callbacks" / f"{name}.yaml")[name]["_target_"]
    assert re.search(r"\b[Cc]osts?\b", pydoc.locate(target).__doc__)


def test_without_tensorboard_a_line_says_that_nothing_is_done(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "iolaus"):
        fit(tmp_path, "callbacks=[histograms,figures]", "logger=[]", "trainer.max_epochs=1")
    assert caplog.text.count("nothing to write to; add TensorBoard") == 2
    assert not list(tmp_path.glob("events*"))


@pytest.mark.parametrize("name", ["throughput.Throughput.look", "gradient_norm.GradientNorm._norms"])
def test_what_goes_wrong_is_told_once_and_ends_nothing(without, tmp_path, caplog, monkeypatch, name):
    option, _, method = name.split(".")

    def broken(self, *arguments):
        if method == "look":  # which may draw random numbers
            torch.rand(1)
        raise RuntimeError("no such thing")

    monkeypatch.setattr(f"iolaus.callbacks.{name}", broken)
    run = fit(tmp_path, f"callbacks=[{option}]")
    assert caplog.text.count(f"callbacks.{option}: left out: no such thing") == 1
    same_bits(run.task.state_dict(), without.task.state_dict())
    assert torch.equal(run.random, without.random)


class Norms(pl.Callback):
    """The norms that torch's clipping returns, for each step: of all, and of the first layer."""

    def __init__(self):
        self.all, self.first = [], []

    def on_before_optimizer_step(self, trainer, task, optimizer):
        big = float("inf")
        self.all.append(torch.nn.utils.get_total_norm([p.grad for p in task.parameters()]).item())
        self.first.append(torch.nn.utils.clip_grad_norm_(task.model.layers[1].parameters(), big).item())


@pytest.mark.parametrize("fast", [True, False])
def test_gradient_norms_are_those_of_torch(tmp_path, fast):
    reference = Norms()
    more = ("trainer.gradient_clip_val=0.01", f"trainer.fast_loop={str(fast).lower()}")
    run = fit(tmp_path, "callbacks=[gradient_norm]", *more, more=[reference])
    found = events(tmp_path)
    steps = found.Scalars("gradient_norm/step")
    assert [e.step for e in steps] == list(range(14))
    np.testing.assert_allclose([e.value for e in steps], reference.all, rtol=1e-5)
    for tag, norms in (("total", reference.all), ("layers.1", reference.first)):
        means = [e.value for e in found.Scalars(f"gradient_norm/{tag}")]
        np.testing.assert_allclose(means, np.reshape(norms, (2, 7)).mean(1), rtol=1e-5)
    rows = [row["gradient_norm/total"] for row in run.history.rows]
    np.testing.assert_allclose(rows, np.reshape(reference.all, (2, 7)).mean(1), rtol=1e-5)


def test_where_several_processes_train_a_line_says_that_one_s_part_is_shown(tmp_path, caplog, monkeypatch):
    run = fit(tmp_path, "callbacks=[figures,mistakes]", "trainer.max_epochs=1")
    monkeypatch.setattr(pl.Trainer, "world_size", 2)
    with caplog.at_level(logging.INFO, "iolaus"):
        for callback in run.trainer.callbacks:
            callback.setup(run.trainer, run.task, "fit")
    for name in ("figures", "mistakes"):
        assert f"callbacks.{name}: shows the first process' part of the validation, one of 2" in caplog.text


def test_histograms_are_those_of_numpy():
    values = torch.randn(1_000, generator=torch.Generator().manual_seed(0))
    broken = torch.cat([values, torch.tensor([torch.nan, torch.inf])])
    for tensor in (values, values.view(10, 100), broken, values.to_sparse()):
        edges, counts, total, squares = histogram(tensor)
        expected, bins = np.histogram(values.numpy(), 64)
        assert abs(np.array(counts) - expected).sum() <= 2  # a value at an edge may fall to either side of it
        np.testing.assert_allclose(edges, bins, rtol=1e-5, atol=1e-6)
        assert total == pytest.approx(values.double().sum().item())
        assert squares == pytest.approx(values.double().square().sum().item())
    assert histogram(torch.full((3,), torch.nan)) is None
    assert histogram(torch.empty(0)) is None
    assert histogram(torch.full((5,), 2.0)) == ([2.0, 2.0], [5.0], 10.0, 20.0)


def test_gradients_are_those_of_the_last_step(tmp_path):
    class Kept(pl.Callback):
        def on_before_zero_grad(self, trainer, task, optimizer):
            self.step = trainer.global_step

        def on_before_optimizer_step(self, trainer, task, optimizer):
            self.gradient = task.model.layers[1].weight.grad.clone()

    kept = Kept()
    fit(tmp_path, "callbacks=[histograms]", more=[kept])
    last = events(tmp_path).Histograms("gradients/layers.1.weight")[-1]
    value = last.histogram_value
    assert last.step == 14
    assert value.num == kept.gradient.numel()
    assert value.sum == pytest.approx(kept.gradient.double().sum().item())
    assert (value.min, value.max) == pytest.approx((kept.gradient.min().item(), kept.gradient.max().item()))


class Stop(pl.Callback):
    """Ends the training with the second epoch, as early stopping does: by the validation, or once the epoch is over."""

    def __init__(self, hook):
        def stop(trainer, task):
            trainer.should_stop = trainer.current_epoch == 1

        setattr(self, hook, stop)


@pytest.mark.parametrize("hook", ["on_validation_end", "on_train_epoch_end"])
def test_the_epoch_that_early_stopping_makes_the_last_is_drawn(tmp_path, hook):
    words = ("trainer.max_epochs=9",)
    plain = fit(tmp_path / "plain", *words, more=[Stop(hook)])
    run = fit(
        tmp_path / "run", *words, "callbacks=[histograms]", "callbacks.histograms.every_n_epochs=5", more=[Stop(hook)]
    )
    each = fit(tmp_path / "each", *words, "callbacks=[histograms]", more=[Stop(hook)])
    for tag in ("weights/layers.1.weight", "gradients/layers.1.weight"):
        (drawn,) = events(tmp_path / "run").Histograms(tag)
        last = events(tmp_path / "each").Histograms(tag)[-1]
        assert (drawn.step, drawn.histogram_value) == (14, last.histogram_value)
    assert run.trainer.current_epoch == plain.trainer.current_epoch == 2
    for other in (run, each):
        same_bits(other.task.state_dict(), plain.task.state_dict())
        assert torch.equal(other.random, plain.random)


@pytest.mark.parametrize("average", ["ema", "swa"])
def test_weights_are_those_that_are_trained_and_not_their_average(tmp_path, average):
    """Also where the training ends after the epoch's end, and the average has then come in their place."""

    class Kept(pl.Callback):
        def on_train_epoch_end(self, trainer, task):
            self.weight = task.model.layers[1].weight.detach().double().clone()

    kept = Kept()
    run = fit(
        *(tmp_path, f"callbacks=[{average},histograms]", "callbacks.histograms.every_n_epochs=5"),
        *("trainer.max_epochs=9", f"callbacks.{average}.start=0"),
        more=[kept, Stop("on_train_epoch_end")],
    )
    (drawn,) = events(tmp_path).Histograms("weights/layers.1.weight")
    assert drawn.histogram_value.sum == pytest.approx(kept.weight.sum().item())
    assert run.task.model.layers[1].weight.double().sum().item() != pytest.approx(kept.weight.sum().item())


def test_the_validation_is_what_is_drawn_and_listed(tmp_path, monkeypatch):
    """Confusion matrix and mistakes of the last validation, against predictions made anew."""
    drawn, written = {}, {}
    draw = figures.draw_metric
    monkeypatch.setattr(figures, "draw_metric", lambda *given: drawn.update([given[:2]]) or draw(*given))
    monkeypatch.setattr(mistakes, "write", lambda exhibits, *more: written.update(exhibits))
    run = fit(tmp_path, "callbacks=[figures,mistakes]", "callbacks.mistakes.num_samples=4", "trainer.max_epochs=1")
    rows = run.data.rows["val"]
    inputs, target = run.data.datasets["val"].tensors
    with torch.no_grad():
        probabilities = run.task.eval()(inputs[rows.long()]).softmax(-1)
    target, taken = target[rows.long()].long(), probabilities.argmax(1)
    assert (drawn["confusion_matrix"] == confusion_matrix(target, taken, labels=range(3))).all()
    wrong = [k for k in probabilities.amax(1).argsort(descending=True).tolist() if taken[k] != target[k]][:4]
    assert wrong, "the network is to make mistakes"
    table = written["mistakes"]
    assert [row[0] for row in table.rows] == rows[wrong].tolist()
    names = run.data.class_names
    assert [row[1:3] for row in table.rows] == [(names[target[k]], names[taken[k]]) for k in wrong]
    assert [row[3] for row in table.rows] == [f"{probabilities[k].max():.1%}" for k in wrong]


def test_of_amounts_the_largest_errors_count():
    preds, target = torch.tensor([[1.0], [5.0], [2.0]]), torch.tensor([[1.5], [1.0], [2.0]])
    wrong, shown = mistakes.how_wrong(preds, target)
    assert wrong.tolist() == [0.5, 4.0, 0.0]
    assert torch.equal(shown, preds)


def test_rows_come_in_the_order_of_the_evaluation(tmp_path):
    config = composed("data=number_words", "data.size=60", "data.eval_batch_size=4")
    config.output_dir = str(tmp_path)
    data = build(config).data
    sources = [row.tolist() for batch in data.val_dataloader() for row in batch[0]]
    samples = data.samples("val", data.rows_in_order("val").tolist())
    for padded, (source, _, _) in zip(sources, samples, strict=True):
        assert [t for t in padded if t] == source[0].tolist()


def test_embeddings_are_what_the_last_layer_gets(tmp_path):
    overrides = ("callbacks=[embeddings]", "data=digits", "data.batch_size=256", "trainer.max_epochs=1")
    run = fit(tmp_path, *overrides, "callbacks.embeddings.num_samples=20", "trainer.limit_train_batches=1")
    config = text_format.Parse((tmp_path / "projector_config.pbtxt").read_text(), ProjectorConfig())
    (listed,) = config.embeddings
    batches = run.data.some_batches("val", 20, 256, run.data.seed)
    inputs, target = batches[0]
    with torch.no_grad():
        expected = run.task.eval().model.layers[:-1](run.task.standardize_input(inputs))
        preds = run.task(inputs).argmax(1)
    found = np.loadtxt(tmp_path / listed.tensor_path)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)
    lines = (tmp_path / listed.metadata_path).read_text().splitlines()
    assert lines == ["target\tprediction", *(f"{t}\t{p}" for t, p in zip(target.tolist(), preds.tolist(), strict=True))]
    assert list(listed.sprite.single_image_dim) == [16, 16]
    sprite = np.asarray(Image.open(tmp_path / listed.sprite.image_path))
    assert sprite.shape == (80, 80, 3)  # five by five
    np.testing.assert_allclose(sprite[16:32:2, 32:48:2, 0], inputs[7, 0] * 255 / inputs.max(), atol=1)


SMALL = {
    "iris": ["data=iris"],
    "diabetes": ["data=diabetes"],
    "digits": ["data=digits", "data.batch_size=256", "augment=[mixup]"],
    "tokens": ["data=stdlib", "data.size=60000", "data.input_shape=[16]"],
    "sentence": ["data=number_words", "data.size=200"],
    "audio": ["data=morse", "data.size=60", "data.num_words=[1,1]"],
    "user_item": [
        *("data=interactions", "data.num_users=40", "data.num_items=60"),
        *("data.impressions=30", "data.num_candidates=10"),
    ],
    "point_pair": ["data=distances", "data.num_points=20"],
}
OFTEN = [f"callbacks.{name}.every_n_epochs=1" for name in ("mistakes", "figures", "samples", "embeddings")]


@pytest.mark.slow
@pytest.mark.parametrize("kind", SMALL)
def test_every_callback_on_every_task(kind, command):
    """Together they change no weight and fail on nothing."""
    short = ("trainer.max_epochs=2", "trainer.limit_train_batches=4", *SMALL[kind])
    plain = command(*short, "output_dir=plain")
    outcome = command("callbacks=[default,look,embeddings,samples,graph]", *OFTEN, *short, "output_dir=looked")
    assert (plain.code, outcome.code) == (0, 0), outcome.text
    assert "left out" not in outcome.text
    weights = [
        torch.load(o.folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for o in (plain, outcome)
    ]
    same_bits(*weights)
    assert outcome.results["metrics"]["test"] == plain.results["metrics"]["test"]
    found = events(outcome.folder).Tags()
    assert any(tag.startswith(("samples/inputs", "figures/inputs")) for tag in found["images"] + found["tensors"])
    assert (outcome.folder / "projector_config.pbtxt").exists()
    if "val" in outcome.text and kind not in ("iris", "diabetes", "digits"):
        assert any(tag.removesuffix("/text_summary").endswith("/val") for tag in found["images"] + found["tensors"])


@pytest.mark.slow
@pytest.mark.parametrize("step", [4, 21, 33])
def test_a_killed_run_goes_on_with_all_of_them(tmp_path, step):
    """8 steps an epoch: what is written is what an undisturbed run writes, pictures and points too."""
    names = [n for n in read_yaml(CONF / "callbacks/look.yaml")["defaults"] if n != "throughput"]
    arguments = (
        *("data=wine", "trainer.max_epochs=5", "data.batch_size=16", "callbacks.resume_points.every_n_steps=3"),
        *(f"callbacks=[default,{','.join(names)},embeddings]", "callbacks.embeddings.every_n_epochs=1"),
    )
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = Child(tmp_path / "whole", *arguments, "output_dir=run")
    assert whole.wait() == 0, whole.text
    killed = Child(tmp_path / "killed", *arguments, "output_dir=run", before=kill_at_step(step))
    assert killed.wait() == -9, killed.text
    resumed = Child(tmp_path / "killed", "resume=run")
    assert resumed.wait() == 0, resumed.text
    one, other = tmp_path / "whole/run", tmp_path / "killed/run"
    assert differences(one, other) == []
    files = [{f.relative_to(run): f.read_bytes() for f in run.glob("embeddings/**/*.tsv")} for run in (one, other)]
    assert files[0] == files[1]
    assert (one / "projector_config.pbtxt").read_text() == (other / "projector_config.pbtxt").read_text()
    a, b = events(one), events(other)
    for tag in a.Tags()["histograms"]:
        pairs = zip(a.Histograms(tag), b.Histograms(tag), strict=True)
        assert all((e.step, e.histogram_value) == (f.step, f.histogram_value) for e, f in pairs), tag
    for tag in a.Tags()["images"]:
        assert [e.step for e in a.Images(tag)] == [e.step for e in b.Images(tag)], tag


@pytest.mark.slow
def test_the_settings_and_the_profile_are_texts(command):
    outcome = command("trainer=profile", "data=iris", "callbacks=[]", "stages=[fit]")
    assert outcome.code == 0, outcome.text
    found = events(outcome.folder)
    text = found.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert (outcome.folder / "config.yaml").read_text() in text
    assert "trainer=profile" in text
    table = found.Tensors("profile/fit-profile/text_summary")[0].tensor_proto.string_val[0].decode()
    assert (outcome.folder / "fit-profile.txt").read_text() in table
    assert f"profile: {outcome.folder.relative_to(outcome.folder.parents[2])}/fit-profile.txt" in outcome.text
