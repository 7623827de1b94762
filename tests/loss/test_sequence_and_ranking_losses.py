"""Losses of clicks, distances and transcripts against loops, torch's own and exhaustive sums."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from iolaus.loss.bpr import BPR
from iolaus.loss.ctc import CTC
from iolaus.loss.one_hot import OneHot
from iolaus.loss.sampled_softmax import SampledSoftmax
from iolaus.loss.stress import Stress


def clicks():
    """Rows with none, one, several and all candidates clicked."""
    torch.manual_seed(0)
    target = torch.tensor([[0, 0, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0], [1, 1, 1, 1]])
    return torch.randn(4, 4, dtype=torch.float64, requires_grad=True), target


def of_pairs(loss):
    """A loss of a clicked score and the row's unclicked ones, for each click."""
    output, target = clicks()
    return [
        loss(output[b, i], output[b][target[b] == 0]) for b, i in itertools.product(range(4), range(4)) if target[b, i]
    ]


def test_bpr_is_the_mean_over_pairs():
    output, target = clicks()
    pairs = torch.cat(of_pairs(lambda own, others: -(own - others).sigmoid().log()))
    assert len(pairs) == 3 + 4
    torch.testing.assert_close(BPR()(output, target), pairs.mean())
    torch.testing.assert_close(BPR()(output, target.double()), pairs.mean())


@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_sampled_softmax_is_cross_entropy_against_the_unclicked(temperature):
    output, target = clicks()
    each = of_pairs(lambda own, others: F.cross_entropy(torch.cat([own[None], others]) / temperature, torch.tensor(0)))
    assert len(each) == 7
    torch.testing.assert_close(SampledSoftmax(temperature)(output, target), torch.stack(each).mean())


def test_sampled_softmax_of_one_click_a_row_is_cross_entropy():
    torch.manual_seed(0)
    output, labels = torch.randn(9, 5), torch.randint(5, (9,))
    torch.testing.assert_close(SampledSoftmax()(output, F.one_hot(labels, 5)), F.cross_entropy(output, labels))


@pytest.mark.parametrize("loss", [BPR(), SampledSoftmax(), SampledSoftmax(0.5)])
def test_gradients_of_clicks(loss):
    output, target = clicks()
    assert torch.autograd.gradcheck(lambda o: loss(o, target), output)
    for clicked in (torch.zeros_like(target), torch.ones_like(target)):  # nothing to compare
        (gradient,) = torch.autograd.grad(value := loss(output, clicked), output)
        assert value == 0
        assert not gradient.any()


@pytest.mark.parametrize("loss", [BPR(), SampledSoftmax()])
def test_distant_scores_do_not_overflow(loss):
    output = torch.tensor([[-1e4, 1e4]], requires_grad=True)
    value = loss(output, torch.tensor([[1.0, 0.0]]))
    value.backward()
    assert value == 2e4
    assert output.grad.tolist() == [[-1, 1]]


def test_binary_cross_entropy_takes_clicks_as_they_are():
    output, target = clicks()
    found = OneHot(nn.BCEWithLogitsLoss(), "logits", "one_hot")(output, target.float())
    chance = torch.where(target == 1, output.sigmoid(), 1 - output.sigmoid())
    torch.testing.assert_close(found, -chance.log().mean())


def test_a_temperature_is_above_zero():
    with pytest.raises(ValueError, match="temperature must be above 0; received 0"):
        SampledSoftmax(0)


def test_stress_is_the_sum_over_pairs_of_points():
    torch.manual_seed(0)
    points, given = torch.randn(6, 2, dtype=torch.float64), torch.rand(6, 6, dtype=torch.float64)
    i, j = torch.triu_indices(6, 6, 1)
    loop = 0.0
    for a, b in itertools.combinations(range(6), 2):
        loop += (math.dist(points[a], points[b]) ** 2 - given[a, b].item()) ** 2
    squared = (points[i] - points[j]).square().sum(1)
    assert Stress("sum")(squared, given[i, j]).item() == pytest.approx(loop)
    assert Stress()(squared, given[i, j]).item() == pytest.approx(loop / 15)
    with pytest.raises(ValueError, match=r"stress compares pairs: received \(15,\) and \(15, 1\)"):
        Stress()(squared, given[i, j][:, None])


def speech():
    """Logits of recordings of 9, 7 and 5 frames, and transcripts of 3, 1 and 2 tokens."""
    torch.manual_seed(0)
    logits, lengths = torch.randn(3, 9, 4), torch.tensor([9, 7, 5])
    return logits, lengths, torch.tensor([[1, 1, 3], [2, -100, -100], [3, 2, -100]])


def test_ctc_is_torch_s():
    logits, lengths, target = speech()
    each = []
    for row, length, tokens in zip(logits, lengths, target, strict=True):
        tokens = tokens[tokens >= 0]
        chances = row[:length].log_softmax(-1)
        each.append(F.ctc_loss(chances, tokens, length, torch.tensor(len(tokens)), reduction="none") / len(tokens))
    torch.testing.assert_close(CTC()((logits, lengths), target), torch.stack(each).mean())


def test_ctc_sums_over_all_alignments():
    torch.manual_seed(0)
    logits = torch.randn(1, 5, 3, dtype=torch.float64)
    chances = logits[0].softmax(-1)

    def text(alignment):
        return [token for token, _ in itertools.groupby(alignment) if token != 2]

    total = sum(
        math.prod(chances[t, token].item() for t, token in enumerate(alignment))
        for alignment in itertools.product(range(3), repeat=5)
        if text(alignment) == [1, 0, 0]
    )
    found = CTC(blank=2)((logits, torch.tensor([5])), torch.tensor([[1, 0, 0, -100]]))
    assert found.item() == pytest.approx(-math.log(total) / 3)


def test_padding_does_not_change_ctc():
    logits, lengths, target = speech()
    logits.requires_grad_()
    expected = CTC()((logits, lengths), target)
    (gradient,) = torch.autograd.grad(expected, logits)
    padded = torch.cat([logits.detach(), torch.randn(3, 6, 4)], 1)
    beyond = torch.arange(15) >= lengths[:, None]
    padded[beyond] = 100 * torch.randn(int(beyond.sum()), 4)
    padded.requires_grad_()
    found = CTC()((padded, lengths), F.pad(target, (0, 4), value=-100))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    (padded_gradient,) = torch.autograd.grad(found, padded)
    torch.testing.assert_close(padded_gradient[:, :9], gradient, rtol=1e-5, atol=1e-6)
    assert not padded_gradient[beyond].any()


def test_a_transcript_that_is_too_long_for_its_recording_counts_nothing():
    logits, lengths, target = speech()
    lengths[2] = 1
    assert CTC(zero_infinity=False)((logits, lengths), target).isinf()
    torch.testing.assert_close(CTC()((logits, lengths), target), CTC()((logits[:2], lengths[:2]), target[:2]) * 2 / 3)


def test_ctc_of_half_precision_is_that_of_the_same_numbers():
    logits, lengths, target = speech()
    half = logits.bfloat16()
    assert CTC()((half, lengths), target) == CTC()((half.float(), lengths), target)
