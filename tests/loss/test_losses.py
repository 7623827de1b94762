"""Losses against worked figures and torch's own."""

import math

import pytest
import torch
from torch.nn import functional as F

from iolaus.loss.binary_cross_entropy import BinaryCrossEntropy
from iolaus.loss.mean_bias import MeanBias
from iolaus.loss.multiclass_hinge import MulticlassHinge
from iolaus.loss.negative_log_likelihood import NegativeLogLikelihood
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
    assert BinaryCrossEntropy()(logit, torch.tensor([[float(y)]])).item() == pytest.approx(expected, abs=1e-3)


def test_binary_cross_entropy_of_classes_is_each_against_the_rest():
    torch.manual_seed(0)
    output, target = torch.randn(9, 4), torch.randint(4, (9,))
    expected = F.binary_cross_entropy(output.sigmoid(), torch.eye(4)[target])
    torch.testing.assert_close(BinaryCrossEntropy()(output, target), expected)


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


@pytest.mark.parametrize("loss", ["multiclass_hinge", "binary_cross_entropy", "nll", "multi_margin"])
def test_training_with_other_losses_of_classes(command, loss):
    outcome = command(
        "data=iris", f"loss={loss}", "trainer.max_epochs=40", "optim.lr=0.01", "callbacks=[checkpoint]", "logger=[]"
    )
    assert outcome.code == 0, outcome.text
    assert outcome.results["metrics"]["last"]["accuracy/train"] > 0.93
