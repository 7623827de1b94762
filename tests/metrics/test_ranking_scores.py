"""Scores of rankings against torchmetrics, scikit-learn and counting."""

import numpy as np
import pytest
import torch
from conftest import CONF, read_yaml
from sklearn.metrics import ndcg_score, roc_auc_score
from torchmetrics import MetricCollection
from torchmetrics.retrieval import RetrievalHitRate, RetrievalMRR, RetrievalPrecision

from iolaus.build import make
from iolaus.metrics.auc import AUC
from iolaus.metrics.click_through_rate import ClickThroughRate, TopClickThroughRate
from iolaus.metrics.ranking import HitRate, ReciprocalRank
from iolaus.metrics.scores import Scores

QUERIES, CANDIDATES = 30, 12


def rankings():
    """Logits of both signs; some queries without a click."""
    torch.manual_seed(0)
    preds = 3 * torch.randn(QUERIES, CANDIDATES)
    target = (torch.rand(QUERIES, CANDIDATES) < 0.12).long()
    assert 0 < (target.sum(1) == 0).sum() < QUERIES
    return preds.flatten(), target.flatten(), torch.arange(QUERIES).repeat_interleave(CANDIDATES)


def option():
    return {name: make(node, name) for name, node in read_yaml(CONF / "metrics/ranking.yaml").items()}


def counted(preds, target):
    """The option's scores, query by query; scikit-learn's for NDCG and AUC."""
    hits, ranks, gains, shown = [], [], [], []
    for p, t in zip(preds.reshape(QUERIES, -1), target.reshape(QUERIES, -1), strict=True):
        in_order = [clicked for _, clicked in sorted(zip(p.tolist(), t.tolist(), strict=True), key=lambda c: -c[0])]
        shown.append(in_order[0])
        if sum(in_order):
            hits.append(any(in_order[:5]))
            ranks.append(1 / (in_order.index(1) + 1))
            gains.append(ndcg_score([t.numpy()], [p.numpy()], k=5))
    means = {"hit_rate": hits, "mrr": ranks, "ndcg": gains, "click_through_rate": shown}
    return {k: np.mean(v) for k, v in means.items()} | {"auc": roc_auc_score(target, preds)}


@pytest.mark.parametrize("order", ["by query", "mixed"])
@pytest.mark.parametrize("size", [QUERIES * CANDIDATES, 50, 7])
def test_rankings_for_any_batching(size, order):
    preds, target, indexes = rankings()
    expected = counted(preds, target)
    metrics = MetricCollection(option())
    rows = torch.randperm(len(preds)) if order == "mixed" else torch.arange(len(preds))
    for r in rows.split(size):
        metrics.update(preds[r], target[r], indexes=indexes[r])
    assert {n: v.item() for n, v in metrics.compute().items()} == pytest.approx(expected, abs=1e-6)
    assert sorted(map(len, metrics.compute_groups.values())) == [1, 4]  # candidates are kept once for all but the area


def test_rankings_go_on_after_an_interruption():
    preds, target, indexes = rankings()
    first, second = Scores(option(), lambda o, t: (o, t, {})), Scores(option(), lambda o, t: (o, t, {}))
    first.metrics.update(preds[:100], target[:100], indexes=indexes[:100])
    second.load(first.state(), torch.device("cpu"))
    second.metrics.update(preds[100:], target[100:], indexes=indexes[100:])
    found = {n: v.item() for n, v in second.metrics.compute().items()}
    assert found == pytest.approx(counted(preds, target), abs=1e-6)


@pytest.mark.parametrize("top_k", [1, 4, None])
def test_positive_scores_are_ranked_as_by_torchmetrics(top_k):
    preds, target, indexes = rankings()
    for ours, theirs in ((HitRate, RetrievalHitRate), (ReciprocalRank, RetrievalMRR)):
        found, expected = ours(top_k=top_k), theirs("skip", top_k=top_k)
        for metric in (found, expected):
            metric.update(preds.exp(), target, indexes=indexes)
        torch.testing.assert_close(found.compute(), expected.compute())


@pytest.mark.parametrize("top_k", [1, 4])
def test_clicks_on_what_would_be_shown_are_precision(top_k):
    found, expected = TopClickThroughRate(top_k), RetrievalPrecision("neg", top_k=top_k)
    for metric in (found, expected):
        metric.update(*rankings())
    torch.testing.assert_close(found.compute(), expected.compute())


def test_a_short_query_shows_what_it_has():
    metric = TopClickThroughRate(3)
    metric.update(torch.tensor([1.0, 4, 3, 2, 9]), torch.tensor([1, 0, 0, 1, 1]), torch.tensor([5, 5, 5, 5, 2]))
    assert metric.compute() == 2 / 4


@pytest.mark.parametrize("place", [0, 2, 700])
def test_of_equal_scores_the_first_is_ranked_first(place):
    """Also of so many that sorting them fast would mix them."""
    preds, target, indexes = torch.ones(2000), torch.zeros(2000).long(), torch.zeros(2000).long()
    target[place] = 1
    found = []
    for metric in (HitRate(top_k=2), ReciprocalRank(), TopClickThroughRate()):
        metric.update(preds, target, indexes)
        found.append(metric.compute().item())
    assert found == pytest.approx([float(place < 2), 1 / (place + 1), float(place == 0)])


def test_the_area_of_logits_that_a_sigmoid_would_make_equal():
    preds, target = torch.tensor([20.0, 30, 40, -1, 20]), torch.tensor([0, 1, 1, 0, 1])
    assert preds.sigmoid().unique().numel() == 2
    assert AUC()(preds, target).item() == pytest.approx(roc_auc_score(target, preds))


def test_clicks_alone_have_no_roc_curve():
    assert AUC()(torch.randn(3), torch.ones(3)).isnan()


@pytest.mark.parametrize("size", [20, 6, 1])
def test_click_through_rates_for_any_batching(size):
    torch.manual_seed(0)
    clicks, weights = torch.randint(2, (3, 20)), torch.rand(3, 20)
    weights[1] = 0
    metric, single = ClickThroughRate(num_tasks=3), ClickThroughRate()
    for c, w in zip(clicks.split(size, 1), weights.split(size, 1), strict=True):
        metric.update(c, w)
        single.update(c[0], 0.5)
    expected = np.average(clicks.numpy(), axis=1, weights=weights.numpy() + (weights.numpy() == 0))
    assert metric.compute().tolist() == pytest.approx([expected[0], 0, expected[2]])  # nothing of weight was shown
    assert single.compute().item() == pytest.approx(clicks[0].float().mean().item())


@pytest.mark.parametrize(
    ("num_tasks", "clicks", "weights", "says"),
    [
        (1, torch.ones(2, 3), 1.0, r"clicks must have the shape \(N,\); received \(2, 3\)"),
        (2, torch.ones(3, 3), 1.0, r"clicks must have the shape \(2, N\); received \(3, 3\)"),
        (1, torch.ones(3), torch.ones(2), r"weights must have the clicks' shape \(3,\); received \(2,\)"),
    ],
)
def test_wrong_shapes_of_clicks(num_tasks, clicks, weights, says):
    with pytest.raises(ValueError, match=says):
        ClickThroughRate(num_tasks).update(clicks, weights)


def test_queries_without_clicks_have_no_ranks():
    for metric in (HitRate(), HitRate(None), ReciprocalRank(), TopClickThroughRate()):
        metric.update(torch.randn(4), torch.zeros(4), torch.tensor([0, 0, 1, 1]))
        assert metric.compute() == 0


@pytest.mark.parametrize("cls", [HitRate, ReciprocalRank, TopClickThroughRate])
def test_nothing_is_shown(cls):
    with pytest.raises(ValueError, match="top_k must be at least 1; received 0"):
        cls(0)


def test_nothing_is_counted():
    with pytest.raises(ValueError, match="num_tasks must be at least 1; received 0"):
        ClickThroughRate(0)
