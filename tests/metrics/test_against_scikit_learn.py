"""Metrics as a run computes them, against scikit-learn, scipy and NumPy on the same numbers in float64."""

import copy
import functools

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
import torch
from conftest import composed
from torch import nn

from iolaus.build import make
from iolaus.check import plain
from iolaus.functional import float64
from iolaus.functional.classes import find_class
from iolaus.metrics import scores as scores_module
from iolaus.metrics.average_precision import AveragePrecision
from iolaus.metrics.moments import merge_moments
from iolaus.metrics.positive import PositiveRecall
from iolaus.metrics.r2 import R2
from iolaus.metrics.scores import Scores
from iolaus.rules import is_meant
from iolaus.sweep.stacked_scores import StackedScores
from iolaus.task.supervised import Supervised

BATCHINGS = ([60], [1] * 60, [7] * 8 + [4], [50, 1, 9])


@functools.cache
def metric_settings(*overrides):
    return plain(composed(*overrides))["metrics"]


def regression_task(num_targets, mean, deviation):
    settings = copy.deepcopy(metric_settings("data=diabetes", "metrics=[regression,correlation,mean_bias]"))
    for node in settings.values():
        if "num_outputs" in node and node["_target_"].startswith("iolaus"):
            node["num_outputs"] = num_targets
    metrics = {n: make(node, n) for n, node in settings.items() if n not in ("scatter", "spearman") or num_targets == 1}
    parts = {"loss": nn.MSELoss(), "metrics": dict.fromkeys(("train", "val", "test"), metrics), "optimizer": None}
    task = Supervised("table", [1], num_targets, "real", model=nn.Linear(1, num_targets), **parts)
    task.standardize_target.fit(torch.as_tensor(mean), torch.as_tensor(deviation))
    return task


def expected_scores(preds, target):
    errors = target - preds
    covariances = [np.cov(t, p, ddof=0) for t, p in zip(target.T, preds.T, strict=True)]
    gaps = errors.mean(0) ** 2
    found = {
        "r2": sklearn.metrics.r2_score(target, preds),
        "mse": sklearn.metrics.mean_squared_error(target, preds),
        "mae": sklearn.metrics.mean_absolute_error(target, preds),
        "explained_variance": sklearn.metrics.explained_variance_score(target, preds),
        "mean_bias": errors.mean(),
        "pearson": np.mean([scipy.stats.pearsonr(t, p)[0] for t, p in zip(target.T, preds.T, strict=True)]),
        "concordance": np.mean([2 * c[0, 1] / (c[0, 0] + c[1, 1] + g) for c, g in zip(covariances, gaps, strict=True)]),
    }
    if target.shape[1] == 1:
        found["spearman"] = scipy.stats.spearmanr(target[:, 0], preds[:, 0])[0]
    return found


@pytest.mark.parametrize(("num_targets", "precision"), [(1, torch.float32), (3, torch.bfloat16)])
@pytest.mark.parametrize("scale", [1e-5, 1.0, 1e5])
@pytest.mark.parametrize("offset", [0.0, -5e3, 1e6])
def test_regression_has_the_digits_of_scikit_learn(offset, scale, num_targets, precision):
    """`offset` is in deviations; outputs are what a network gives: standardised numbers, in its own precision."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(60, num_targets, generator=generator)
    target = ((offset + torch.randn(60, num_targets, generator=generator).double()) * scale).float()
    mean, deviation = target.double().mean(0).float(), target.double().std(0).float()
    outputs = ((target - mean) / deviation + 0.3 * noise).to(precision)
    preds = (outputs.double() * deviation.double() + mean.double()).numpy()
    expected = expected_scores(preds, target.double().numpy())
    task = regression_task(num_targets, mean, deviation)
    for batching in BATCHINGS:
        scores = task.train_scores
        scores.reset()
        for output, part in zip(outputs.split(batching), target.split(batching), strict=True):
            scores.add(torch.tensor(1.0), output, part, len(part))
            scores.flush()
        values = scores.compute()
        for name, value in expected.items():
            unit = {"mse": scale**2, "mae": scale, "mean_bias": scale}.get(name, 1.0)
            assert float(values[name]) / unit == pytest.approx(value / unit, rel=1e-6, abs=1e-6), (name, len(batching))


def test_the_unit_of_tiny_targets_changes_no_score():
    """Sums of squares below a fixed bound are no sign of targets that are all equal."""
    target = torch.tensor([[1.0], [2.0], [3.0], [5.0]]) * 1e-4
    metric = R2()
    metric.update(target.flip(0), target)
    assert metric.compute() == pytest.approx(
        sklearn.metrics.r2_score(*map(torch.Tensor.double, (target, target.flip(0))))
    )


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6 + 0.1])
def test_targets_that_are_all_equal(value):
    target = torch.full((9, 1), value)
    for preds, right in ((target, 1.0), (target + 1, 0.0)):
        metric = R2()
        for part in range(0, 9, 2):
            metric.update(preds[part : part + 2], target[part : part + 2])
        assert metric.compute() == right == sklearn.metrics.r2_score(target, preds)


def test_several_targets_become_one_score_as_in_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(50, 3, generator=generator) * torch.tensor([1.0, 10.0, 100.0])
    preds = target + torch.randn(50, 3, generator=generator) * torch.tensor([0.1, 5.0, 90.0])
    for multioutput in ("uniform_average", "variance_weighted", "raw_values"):
        metric = R2(multioutput=multioutput, num_outputs=3)
        metric.update(preds, target)
        expected = sklearn.metrics.r2_score(target, preds, multioutput=multioutput)
        np.testing.assert_allclose(metric.compute(), expected, rtol=1e-6)
    adjusted = R2(adjusted=4, num_outputs=3)
    adjusted.update(preds, target)
    plain_score = sklearn.metrics.r2_score(target, preds)
    assert adjusted.compute() == pytest.approx(1 - (1 - plain_score) * 49 / 45, rel=1e-6)


def test_moments_of_processes_are_those_of_all_samples():
    """Also where a process has no sample, and where others have but one."""
    target, preds = 1e6 + torch.randn(40, 2), 1e6 + torch.randn(40, 2)
    alone = R2(num_outputs=2)
    alone.update(preds, target)
    processes = [R2(num_outputs=2) for _ in range(4)]
    for metric, rows in zip(processes, (slice(0, 1), slice(1, 39), slice(0, 0), slice(39, 40)), strict=True):
        metric.update(preds[rows], target[rows])
    together = merge_moments(torch.stack([metric.moments for metric in processes]))
    torch.testing.assert_close(together, alone.moments, rtol=1e-9, atol=1e-9)


def test_half_precision_rounds_neither_sums_nor_targets():
    """A network in bfloat16 is measured against targets as they were read, by sums in float64."""
    target = 5000 + torch.randn(300, 1, generator=torch.Generator().manual_seed(0))
    task = regression_task(1, target.mean(0), target.std(0)).to(dtype=torch.bfloat16)
    outputs = torch.zeros(300, 1, dtype=torch.bfloat16)
    for output, part in zip(outputs.split(7), target.split(7), strict=True):
        task.train_scores.add(torch.tensor(1.0), output, part, len(part))
    values = task.train_scores.compute()
    preds = torch.full_like(target, float(target.mean()))
    assert float(values["mse"]) == pytest.approx(sklearn.metrics.mean_squared_error(target, preds), rel=1e-5)
    standardized = task.standardize_target(target)
    assert standardized.dtype == torch.bfloat16
    torch.testing.assert_close(standardized.float(), (target - target.mean()) / target.std(), rtol=1e-2, atol=1e-2)


def test_scores_stay_on_the_processor_where_the_device_has_no_float64(monkeypatch):
    """The meta device stands for MPS: nothing can be computed on it."""
    monkeypatch.setattr(scores_module, "has_float64", lambda device: device.type != "meta")
    monkeypatch.setattr(float64, "has_float64", lambda device: device.type != "meta")
    scores = Scores({"r2": R2()}, lambda o, t: (o, t, {}))
    scores.to("meta")
    target = torch.tensor([[1.0], [2.0], [4.0]])
    scores.add(torch.tensor(1.0), target, target, 3)
    assert scores.compute()["r2"] == 1


def test_the_mean_loss_of_many_batches_keeps_its_digits():
    scores = Scores({}, lambda o, t: (o, t, {}))
    losses = 1 + 1e-3 * torch.rand(10_000, generator=torch.Generator().manual_seed(0))
    for loss in losses:
        scores.add(loss, torch.zeros(1), torch.zeros(1), 3)
    assert scores.compute()["loss"].item() == pytest.approx(losses.double().mean().item(), rel=6e-8)


def classification_task(num_classes, positive):
    settings = copy.deepcopy(metric_settings("data=iris"))
    for node in settings.values():
        node["num_classes"] = num_classes
        if "positive" in node:
            node |= {"positive": positive, "class_names": ["no", "yes"]}
    settings = {n: node for n, node in settings.items() if is_meant(node, {"num_classes": num_classes})}
    settings |= {
        f"weighted_{name}": {**settings[name], "average": "weighted"} for name in ("precision", "recall", "f1")
    }
    metrics = {name: make(node, name) for name, node in settings.items() if name not in ("roc", "precision_recall")}
    parts = {"loss": nn.CrossEntropyLoss(), "metrics": dict.fromkeys(("train", "val", "test"), metrics)}
    return Supervised("table", [1], num_classes, "class", model=nn.Linear(1, num_classes), optimizer=None, **parts)


def expected_class_scores(probabilities, target, positive):
    preds = probabilities.argmax(1)
    found = {"accuracy": sklearn.metrics.accuracy_score(target, preds)}
    labels = np.unique(np.concatenate([target, preds]))
    functions = {name: getattr(sklearn.metrics, f"{name}_score") for name in ("precision", "recall", "f1")}
    for name, score in functions.items():
        found[name] = score(target, preds, average="macro", labels=labels, zero_division=0)
        found[f"weighted_{name}"] = score(target, preds, average="weighted", zero_division=0)
    curves = [sklearn.metrics.roc_auc_score(target == c, probabilities[:, c]) for c in np.unique(target)]
    found["auroc"] = np.mean(curves)
    if probabilities.shape[1] == 2:
        for name, score in functions.items():
            found[f"positive_{name}"] = score(target, preds, pos_label=positive, zero_division=0)
        found["balanced_accuracy"] = sklearn.metrics.balanced_accuracy_score(target, preds)
        is_positive = target == positive
        found["average_precision"] = sklearn.metrics.average_precision_score(is_positive, probabilities[:, positive])
    return found


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rarest", [0.5, 0.05])
@pytest.mark.parametrize(("num_classes", "positive"), [(2, "yes"), (2, "no"), (5, None)])
def test_classification_has_the_digits_of_scikit_learn(num_classes, positive, rarest, precision):
    """In bfloat16 many scores are equal; alone, and as members of a stack."""
    generator = torch.Generator().manual_seed(0)
    shares = torch.tensor([1.0] * (num_classes - 1) + [rarest])
    target = torch.multinomial(shares, 200, replacement=True, generator=generator)
    target[:num_classes] = torch.arange(num_classes)
    outputs = torch.randn(3, 200, num_classes, generator=generator) + 2 * nn.functional.one_hot(target, num_classes)
    outputs = outputs.to(precision)
    number = ["no", "yes"].index(positive) if positive else None
    tasks = [classification_task(num_classes, positive) for _ in outputs]
    stacked = StackedScores([task.val_scores for task in tasks])
    for rows in torch.arange(200).split(64):
        stacked.add((torch.ones(3), outputs[:, rows], target[rows].expand(3, -1)))
    found = stacked.compute()
    for member, task in enumerate(tasks):
        probabilities = outputs[member].float().softmax(-1)
        expected = expected_class_scores(probabilities.numpy(), target.numpy(), number)
        for batching in ([200], [1] * 200, [7] * 28 + [4])[: 1 if member else 3]:
            scores = task.val_scores
            scores.reset()
            for output, part in zip(outputs[member].split(batching), target.split(batching), strict=True):
                scores.add(torch.tensor(1.0), output, part, len(part))
                if len(batching) < 100:
                    scores.flush()
            values = {name: value for name, value in scores.compute().items() if name in expected}
            assert values == pytest.approx(expected, abs=1e-6)
        assert {name: found[member][name] for name in expected} == pytest.approx(expected, abs=1e-6)


def test_two_classes_without_positive_samples_have_no_recall():
    task = classification_task(2, "yes")
    task.val_scores.add(torch.tensor(1.0), torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0]), 2)
    values = task.val_scores.compute()
    assert values["positive_recall"].isnan()
    assert values["average_precision"].isnan()
    assert values["positive_precision"] == values["positive_f1"] == 0
    assert values["balanced_accuracy"] == 0.5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_classes": 3}, "num_classes must be 2"),
        ({"num_classes": 2, "positive": "ja", "class_names": ["no", "yes"]}, "no, yes; received 'ja'"),
        ({"num_classes": 2, "positive": 2}, "0, 1; received 2"),
    ],
)
def test_a_positive_class_is_one_of_two(arguments, words):
    for metric in (PositiveRecall, AveragePrecision):
        with pytest.raises(ValueError, match=words):
            metric(**arguments)


def test_the_number_of_a_class_by_what_yaml_makes_of_its_name():
    assert find_class(True, ["false", "true"]) == 1
    assert find_class(1, ["0", "1"]) == 1
    assert find_class(True, ["0", "1"]) is None
    assert find_class("Yes", ["no", "yes"]) is None
