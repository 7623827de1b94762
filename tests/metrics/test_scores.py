"""Scores of an epoch: the same as computing on everything at once, whatever is kept meanwhile."""

import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix, MulticlassF1Score
from torchmetrics.regression import R2Score

from iolaus.metrics import scores as module
from iolaus.metrics.auroc import AUROC
from iolaus.metrics.r2 import R2
from iolaus.metrics.scatter import Scatter
from iolaus.metrics.scores import Scores


@pytest.mark.parametrize("most", [1, 50, 2**21])
def test_any_flushing_gives_the_same(monkeypatch, most):
    monkeypatch.setattr(module, "MOST_ELEMENTS", most)
    torch.manual_seed(0)
    outputs, targets = torch.randn(50, 4), torch.arange(50) % 4
    scores = Scores({"accuracy": MulticlassAccuracy(4, average="micro")}, lambda o, t: (o.softmax(-1), t, {}))
    for output, target in zip(outputs.split(8), targets.split(8), strict=True):
        scores.add(torch.nn.functional.cross_entropy(output, target), output, target, len(target))
    values = scores.compute()
    torch.testing.assert_close(values["loss"], torch.nn.functional.cross_entropy(outputs, targets))
    assert values["accuracy"] == (outputs.argmax(1) == targets).float().mean()
    scores.reset()
    scores.add(torch.tensor(2.0), outputs[:8], targets[:8], 8)
    assert scores.compute()["loss"] == 2


def test_probabilities_are_made_for_metrics_that_look_at_them_alone():
    torch.manual_seed(0)
    outputs, targets = torch.randn(50, 4), torch.arange(50) % 4
    asked = []

    def to_metrics(output, target):
        asked.append(len(output))
        return output.softmax(-1), target, {}

    def values(to_labels, **more):
        metrics = {"accuracy": MulticlassAccuracy(4, average="micro"), "f1": MulticlassF1Score(4), **more}
        scores = Scores(metrics, to_metrics, to_labels)
        scores.add(torch.tensor(1.0), outputs, targets, len(targets))
        return scores.compute()

    by_labels = values(lambda output: output.argmax(-1))
    assert asked == []
    assert by_labels == values(lambda output: None)
    assert asked == [50]
    for more in ({"top": MulticlassAccuracy(4, top_k=2)}, {"auroc": AUROC(4)}):
        assert values(lambda output: output.argmax(-1), **more).items() >= by_labels.items()
    assert asked == [50, 50, 50]


def test_a_last_batch_of_one_is_enough_for_r2():
    scores = Scores({"r2": R2Score()}, lambda o, t: (o, t, {}))
    for size in (4, 1):
        target = torch.randn(size, 1)
        scores.add(torch.tensor(0.0), target, target, size)
    assert scores.compute()["r2"] == 1


def test_classes_that_do_not_occur_have_no_roc_curve():
    from sklearn.metrics import roc_auc_score

    torch.manual_seed(0)
    preds, target = torch.randn(60, 4).softmax(-1), torch.arange(60) % 3
    metric = AUROC(4)
    for p, t in zip(preds.split(7), target.split(7), strict=True):
        metric.update(p, t)
    expected = sum(roc_auc_score(target == c, preds[:, c]) for c in range(3)) / 3
    assert metric.compute().item() == pytest.approx(expected, abs=1e-6)
    alone = AUROC(4)
    alone.update(preds[:1], target[:1])
    assert alone.compute().isnan()


def test_r2_of_one_sample_is_no_number():
    metric = R2()
    metric.update(torch.ones(1, 1), torch.ones(1, 1))
    assert metric.compute().isnan()


def test_the_worked_confusion_matrix():
    """TN 70, FP 10, FN 15, TP 5: precision 1/3, recall 0.25, F1 0.2857, accuracy 0.75."""
    from conftest import composed

    from iolaus.build import make
    from iolaus.check import plain

    target = torch.tensor([0] * 80 + [1] * 20)
    preds = torch.tensor([0] * 70 + [1] * 10 + [0] * 15 + [1] * 5)
    settings = plain(composed("data=breast_cancer"))["metrics"]
    binary = {"average": "none"}
    values = {n: make({**settings[n], **binary}, n)(preds, target)[1].item() for n in ("precision", "recall", "f1")}
    assert values == pytest.approx({"precision": 1 / 3, "recall": 0.25, "f1": 0.2857}, abs=5e-5)
    assert make(settings["accuracy"], "accuracy")(preds, target) == 0.75
    assert MulticlassConfusionMatrix(2)(preds, target).tolist() == [[70, 10], [15, 5]]


def test_the_worked_collection():
    """Micro accuracy, macro precision and recall over three classes: 0.125, 0.0667, 0.1111."""
    from conftest import composed

    from iolaus.build import make
    from iolaus.check import plain

    target, preds = torch.tensor([0, 2, 0, 2, 0, 1, 0, 2]), torch.tensor([2, 1, 2, 0, 1, 2, 2, 2])
    settings = plain(composed("data=iris"))["metrics"]
    found = [make(settings[n], n)(preds, target).item() for n in ("accuracy", "precision", "recall")]
    assert found == pytest.approx([0.125, 0.0667, 0.1111], abs=5e-5)


def test_scatter_keeps_the_first_points():
    metric = Scatter(max_points=5)
    for start in (0, 3, 6):
        metric.update(torch.arange(start, start + 3.0)[:, None], torch.zeros(3, 1))
    target, preds = metric.compute()
    assert preds[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert target.shape == (5, 1)


def test_areas_under_several_curves_at_once():
    """With ties, against scikit-learn; a column of one kind has no curve."""
    from sklearn.metrics import roc_auc_score

    from iolaus.metrics.auroc import areas

    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 6, (40, 3), generator=generator).float()
    positive = torch.randint(0, 2, (40, 3), generator=generator).bool()
    positive[:, 2] = True
    found = areas(scores, positive)
    for column in range(2):
        assert found[column].item() == pytest.approx(roc_auc_score(positive[:, column], scores[:, column]), abs=1e-12)
    assert found[2].isnan()
