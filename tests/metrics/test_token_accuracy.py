"""Scores of language models share their sums and leave padding out."""

import math

import pytest
import torch
from torch.nn import functional as F
from torchmetrics import MetricCollection
from torchmetrics.text import Perplexity

from iolaus.metrics.bits_per_byte import BitsPerByte
from iolaus.metrics.token_accuracy import TokenAccuracy


def batch():
    torch.manual_seed(0)
    preds, target = torch.randn(12, 9, 5), torch.randint(5, (12, 9))
    target[torch.rand(12, 9) < 0.3] = -100
    return preds, target


@pytest.mark.parametrize("size", [12, 5, 1])
def test_scores_of_tokens_for_any_batching(size):
    preds, target = batch()
    metrics = MetricCollection(
        {"perplexity": Perplexity(-100), "bits_per_byte": BitsPerByte(bytes_per_token=3), "accuracy": TokenAccuracy()}
    )
    for p, t in zip(preds.split(size), target.split(size), strict=True):
        metrics.update(p, t)
    assert sorted(map(sorted, metrics.compute_groups.values())) == [["accuracy"], ["bits_per_byte", "perplexity"]]
    found, (p, t) = metrics.compute(), (preds[target != -100], target[target != -100])
    assert found["accuracy"] == (p.argmax(-1) == t).float().mean()
    entropy = F.cross_entropy(p, t)
    torch.testing.assert_close(found["perplexity"], entropy.exp())
    torch.testing.assert_close(found["bits_per_byte"], entropy / math.log(2) / 3)


def test_bits_of_a_model_that_is_surely_wrong_are_a_number():
    """90 nats for each token, whose exponential no float32 holds."""
    preds = torch.tensor([[[90.0, 0.0]]])
    metrics = {"perplexity": Perplexity(-100), "bits": BitsPerByte()}
    for metric in metrics.values():
        metric.update(preds, torch.tensor([[1]]))
    assert metrics["perplexity"].compute().isinf()
    assert metrics["bits"].compute().item() == pytest.approx(90 / math.log(2), rel=1e-3)


def test_padding_alone_has_no_score():
    preds, target = torch.zeros(2, 3, 4), torch.full((2, 3), -100)
    for metric in (TokenAccuracy(), BitsPerByte()):
        metric.update(preds, target)
        assert metric.compute().isnan()


def test_tokens_must_have_a_length():
    with pytest.raises(ValueError, match="bytes_per_token must be above 0; received 0"):
        BitsPerByte(bytes_per_token=0)
