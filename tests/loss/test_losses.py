"""Losses against worked figures and torch's own."""

import math

import numpy as np
import pytest
import torch
from conftest import CONF, nodes, options, read_yaml
from torch import nn
from torch.nn import functional as F

from iolaus.loss.adaptive_softmax import AdaptiveSoftmax
from iolaus.loss.gaussian import GaussianNLL
from iolaus.loss.mean_bias import MeanBias
from iolaus.loss.multiclass_hinge import MulticlassHinge
from iolaus.loss.negative_log_likelihood import NegativeLogLikelihood
from iolaus.loss.one_hot import OneHot
from iolaus.loss.prototypes import Prototypes
from iolaus.loss.sum_of_squares import SumOfSquares


@pytest.mark.parametrize(
    ("scores", "true", "expected"),
    [((-0.39, 1.49, 4.21), 0, 8.48), ((-4.61, 3.28, 1.46), 1, 0.0), ((1.03, -2.37, -2.27), 2, 5.2)],
)
def test_multiclass_hinge_of_dog_cat_and_horse(scores, true, expected):
    assert MulticlassHinge()(torch.tensor([scores]), torch.tensor([true])).item() == pytest.approx(expected, abs=1e-5)


def test_multiclass_hinge_is_torch_s_times_the_classes():
    torch.manual_seed(0)
    output, target = torch.randn(20, 7), torch.randint(7, (20,))
    torch.testing.assert_close(MulticlassHinge()(output, target), 7 * F.multi_margin_loss(output, target))


def test_cross_entropy_in_base_two():
    logits = torch.tensor([[0.775, 0.225]]).log()
    assert F.cross_entropy(logits, torch.tensor([0])).item() / math.log(2) == pytest.approx(0.3677, abs=1e-4)


@pytest.mark.parametrize(("y", "p", "expected"), [(0, 0.9, 2.303), (0, 0.1, 0.105), (1, 0.9, 0.105), (1, 0.1, 2.303)])
def test_binary_cross_entropy(y, p, expected):
    logit = torch.tensor([[p]]).logit()
    assert OneHot(nn.BCEWithLogitsLoss(), "logits", "one_hot")(
        logit, torch.tensor([[float(y)]])
    ).item() == pytest.approx(expected, abs=1e-3)


def test_binary_cross_entropy_of_classes_is_each_against_the_rest():
    torch.manual_seed(0)
    output, target = torch.randn(9, 4), torch.randint(4, (9,))
    expected = F.binary_cross_entropy(output.sigmoid(), torch.eye(4)[target])
    torch.testing.assert_close(OneHot(nn.BCEWithLogitsLoss(), "logits", "one_hot")(output, target), expected)
    torch.testing.assert_close(OneHot(nn.BCELoss(), "sigmoid", "one_hot")(output, target), expected)


def test_negative_log_likelihood_is_cross_entropy():
    torch.manual_seed(0)
    output, target = torch.randn(9, 4), torch.randint(4, (9,))
    torch.testing.assert_close(NegativeLogLikelihood()(output, target), F.cross_entropy(output, target))
    weight = [1.0, 2.0, 3.0, 0.5]
    expected = F.cross_entropy(output, target, torch.tensor(weight))
    torch.testing.assert_close(NegativeLogLikelihood(weight)(output, target), expected)


def test_errors_of_regressions():
    output, target = torch.tensor([[1.0], [2.0], [5.0]]), torch.tensor([[2.0], [4.0], [4.0]])
    assert MeanBias()(output, target).item() == pytest.approx(2 / 3)
    assert SumOfSquares()(output, target).item() == pytest.approx(6)
    assert SumOfSquares(half=True)(output, target).item() == pytest.approx(3)


def test_the_gradient_of_half_the_sum_of_squares_is_the_error():
    output, target = torch.randn(5, 2, requires_grad=True), torch.randn(5, 2)
    SumOfSquares(half=True)(output, target).backward()
    torch.testing.assert_close(output.grad, output.detach() - target)


OF_CLASSES = (
    "multiclass_hinge",
    "binary_cross_entropy",
    "bce",
    "nll",
    "multi_margin",
    "kl_div",
    "soft_margin",
    "multilabel_margin",
)
OF_CLASSES += ("multilabel_soft_margin", "margin_ranking", "hinge_embedding", "cosine_embedding", "triplet_margin")
OF_CLASSES += ("triplet_margin_with_distance", "adaptive_softmax", "balanced_cross_entropy", "linear_cross_entropy")


FAST = ("balanced_cross_entropy",)


@pytest.mark.parametrize("loss", [pytest.param(o, marks=[] if o in FAST else [pytest.mark.slow]) for o in OF_CLASSES])
def test_training_with_other_losses_of_classes(command, loss):
    outcome = command(
        "data=iris", f"loss={loss}", "trainer.max_epochs=40", "optim.lr=0.01", "callbacks=[checkpoint]", "logger=[]"
    )
    assert outcome.code == 0, outcome.text
    assert outcome.results["metrics"]["last"]["accuracy/train"] > 0.93


def test_every_loss_of_torch_is_an_option():
    """All classes whose name ends in Loss; connectionist temporal classification needs sequences, which no data set has yet."""
    classes = {name for name in dir(nn) if name.endswith("Loss") and name not in ("NLLLoss2d", "CTCLoss")}
    named = {
        n["_target_"].rpartition(".")[2] for o in options("loss") for n in nodes(read_yaml(CONF / f"loss/{o}.yaml"))
    }
    ours = {
        "NLLLoss": "NegativeLogLikelihood",
        "GaussianNLLLoss": "GaussianNLL",
        "AdaptiveLogSoftmaxWithLoss": "AdaptiveSoftmax",
    }
    assert {ours.get(name, name) for name in classes | {"AdaptiveLogSoftmaxWithLoss"}} <= named


def batch():
    torch.manual_seed(0)
    return torch.randn(9, 4), torch.randint(4, (9,))


def test_divergence_is_cross_entropy_of_labels():
    output, target = batch()
    divergence = OneHot(nn.KLDivLoss(reduction="batchmean"), "log_softmax", "one_hot")
    torch.testing.assert_close(divergence(output, target), F.cross_entropy(output, target))
    blended = torch.rand(9, 4).softmax(1)
    entropy = -(blended * blended.log()).sum(1).mean()
    torch.testing.assert_close(divergence(output, blended), F.cross_entropy(output, blended) - entropy)


def test_margins_of_rows():
    output, target = batch()
    signs = 2.0 * F.one_hot(target, 4) - 1
    torch.testing.assert_close(
        OneHot(nn.SoftMarginLoss(), "logits", "signs")(output, target), (1 + (-signs * output).exp()).log().mean()
    )
    expected = F.multi_margin_loss(output, target)  # the same for a single label
    torch.testing.assert_close(OneHot(nn.MultiLabelMarginLoss(), "logits", "index")(output, target), expected)
    with pytest.raises(ValueError, match="takes labels and no probabilities"):
        OneHot(nn.MultiLabelMarginLoss(), "logits", "index")(output, output.softmax(1))


def test_pairs_and_triplets_of_outputs_and_unit_vectors():
    output, target = batch()
    eye = torch.eye(4)
    ranking = Prototypes(nn.MarginRankingLoss(1.0), "scores")(output, target)
    torch.testing.assert_close(ranking, F.multi_margin_loss(output, target) * 4 / 3)
    distances = torch.stack([(output - eye[k]).norm(dim=1) for k in range(4)], 1)
    true = eye[target].bool()
    expected = torch.where(true, distances, (1 - distances).clamp_min(0)).mean()
    torch.testing.assert_close(Prototypes(nn.HingeEmbeddingLoss(), "distance")(output, target), expected)
    cosine = output / output.norm(dim=1, keepdim=True)
    expected = torch.where(true, 1 - cosine, cosine.clamp_min(0)).mean()
    torch.testing.assert_close(Prototypes(nn.CosineEmbeddingLoss(), "pair")(output, target), expected)
    nearest = distances.masked_fill(true, torch.inf).min(1).values
    expected = (distances[true] - nearest + 1).clamp_min(0).mean()
    for loss in (nn.TripletMarginLoss(eps=0), nn.TripletMarginWithDistanceLoss()):
        found = Prototypes(loss, "triplet")(output, target)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_adaptive_softmax_is_torch_s():
    torch.manual_seed(0)
    ours = AdaptiveSoftmax(6, 10, [4])
    theirs = nn.AdaptiveLogSoftmaxWithLoss(6, 10, [4], div_value=1.0)
    theirs.load_state_dict(ours.state_dict())
    output, target = torch.randn(8, 6), torch.randint(10, (8,))
    assert torch.equal(ours(output, target), theirs(output, target).loss)


def test_the_learned_variance_is_that_of_the_errors():
    torch.manual_seed(0)
    output, target = torch.zeros(500, 2), torch.randn(500, 2) * torch.tensor([0.5, 3.0])
    loss = GaussianNLL(2)
    optimizer = torch.optim.LBFGS(loss.parameters(), max_iter=50)

    def closure():
        optimizer.zero_grad()
        value = loss(output, target)
        value.backward()
        return value

    for _ in range(5):
        optimizer.step(closure)
    torch.testing.assert_close(loss.log_variance.exp(), target.square().mean(0), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_balancing_weights_are_scikit_learn_s(command):
    from sklearn.utils.class_weight import compute_class_weight

    outcome = command("data=breast_cancer", "loss=balanced_cross_entropy", "trainer.max_epochs=1")
    assert outcome.code == 0, outcome.text
    weights = read_yaml(outcome.folder / "config.yaml")["loss"]["weight"]
    from conftest import composed

    from iolaus.build import build

    config = composed("data=breast_cancer")
    config.output_dir = str(outcome.folder / "other")
    data = build(config).data
    labels = data.datasets["train"].tensors[1][data.rows["train"].long()].numpy()
    assert weights == pytest.approx(compute_class_weight("balanced", classes=np.array([0, 1]), y=labels), abs=1e-6)


def test_counts_by_poisson_regression(command, tmp_path):
    torch.manual_seed(0)
    x = torch.randn(400)
    counts = torch.poisson((0.5 + 0.8 * x).exp())
    (tmp_path / "counts.csv").write_text(
        "x,y\n" + "".join(f"{a},{b}\n" for a, b in zip(x.tolist(), counts.tolist(), strict=True))
    )
    outcome = command(
        *("data=csv", "data.path=counts.csv", "data.target=y", "task=regression", "loss=poisson_nll", "model=linear"),
        *(
            "data.standardize=false",
            "data.val_fraction=0",
            "objective.monitor=loss/train",
            "optim=lbfgs",
            "trainer.max_epochs=20",
        ),
        *("data.batch_size=400", "callbacks=[resume_points]", "data.test_fraction=0"),
    )
    assert outcome.code == 0, outcome.text
    state = torch.load(outcome.folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert state["model.linear.weight"].item() == pytest.approx(0.8, abs=0.1)
    assert state["model.linear.bias"].item() == pytest.approx(0.5, abs=0.1)
    assert outcome.results["metrics"]["last"]["r2/train"] > 0.4


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["data=diabetes", "loss=poisson_nll"], "it wants targets as they are (data.standardize=false)"),
        (["loss=gaussian_nll"], "it wants real-valued targets, and the data have class labels; try loss=cross_entropy"),
        (["data=wine", "loss.weight=[1,2]"], "weight tensor should be defined either for all 3 classes"),
        (["loss.weight=heavy"], "loss.weight: must be a list of numbers or null; received 'heavy'"),
        (["loss=triplet_margin", "loss.compare=triple"], "loss.compare"),
        (["loss=adaptive_softmax", "loss.cutoffs=[20]"], "loss: AdaptiveSoftmax: cutoffs should be"),
    ],
)
def test_wrong_losses(command, arguments, says):
    outcome = command(*arguments)
    assert outcome.code == 1
    assert says in outcome.text
