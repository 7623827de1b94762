"""Scores worked out by hand in introductions to language models, translation and ranking, from the options' own settings."""

import pytest
import torch
from conftest import CONF, read_yaml
from torch.nn import functional as F

from iolaus.build import make
from iolaus.metrics.click_through_rate import ClickThroughRate

LOGITS = torch.tensor(
    [[[0.3659, 0.7025, 0.3104], [0.0097, 0.6577, 0.1947]], [[0.5659, 0.0025, 0.0104], [0.9097, 0.0577, 0.7947]]]
)
TOKENS = torch.tensor([[2, 1], [2, 1]])
SCORES = torch.tensor([[0.3, 0.1, 0.6], [0.5, 0.2, 0.3], [0.2, 0.1, 0.7], [0.3, 0.3, 0.4]])
CLICKED = torch.tensor([2, 1, 1, 0])


def option(file, key, **other):
    return make(read_yaml(CONF / f"metrics/{file}.yaml")[key] | other, key)


@pytest.mark.parametrize(
    ("rows", "ignore_index", "expected"),
    [(slice(None), -100, 3.5257), (slice(None), 1, 3.6347), (slice(1, 2), -100, 4.5051), (slice(0, 1), -100, 2.7593)],
)
def test_perplexity_of_four_tokens(rows, ignore_index, expected):
    metric = option("language_modeling", "perplexity", ignore_index=ignore_index)
    metric.update(LOGITS[rows], TOKENS[rows])
    assert metric.compute().item() == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize(("sentences", "expected"), [(1, 0.53728497), (2, 0.65341892)])
def test_bleu_of_the_squirrel_and_the_cat(sentences, expected):
    preds = ["the squirrel is eating the nut", "the cat is on the mat"]
    target = [
        ["a squirrel is eating a nut", "the squirrel is eating a tasty nut"],
        ["there is a cat on the mat", "a cat is on the mat"],
    ]
    metric = option("translation", "bleu")
    metric.update(preds[:sentences], target[:sentences])
    assert metric.compute().item() == pytest.approx(expected, abs=1e-7)


def test_click_through_rate_plain_and_weighted():
    clicks = torch.tensor([0, 1, 0, 1, 1, 0, 0, 1])
    assert ClickThroughRate()(clicks) == 0.5
    assert ClickThroughRate()(clicks, torch.tensor([1.0, 2] * 4)).item() == pytest.approx(0.58333, abs=5e-6)


def test_click_through_rate_of_two_tasks():
    clicks, weights = torch.tensor([[0, 1, 0, 1], [1, 0, 0, 1]]), torch.tensor([[1.0, 2, 1, 2], [1, 2, 1, 1]])
    assert ClickThroughRate(num_tasks=2)(clicks, weights).tolist() == pytest.approx([0.6667, 0.4], abs=5e-5)


@pytest.mark.parametrize(
    ("key", "top_k", "expected"),
    [("hit_rate", 2, [1, 0, 0, 1]), ("mrr", None, [1, 1 / 3, 1 / 3, 1 / 2]), ("mrr", 2, [1, 0, 0, 1 / 2])],
)
def test_hit_rate_and_reciprocal_rank_of_four_queries(key, top_k, expected):
    """The fourth query has a tie of the clicked candidate, which is ranked before the other one."""
    clicks = F.one_hot(CLICKED, 3)
    each = []
    for query in range(4):
        metric = option("ranking", key, top_k=top_k)
        metric.update(SCORES[query], clicks[query], indexes=torch.full((3,), query))
        each.append(metric.compute().item())
    assert each == pytest.approx(expected)
    metric = option("ranking", key, top_k=top_k)
    metric.update(SCORES.flatten(), clicks.flatten(), indexes=torch.arange(4).repeat_interleave(3))
    assert metric.compute().item() == pytest.approx(sum(expected) / 4)
