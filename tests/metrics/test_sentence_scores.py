"""Scores of translations and transcripts against torchmetrics' and exhaustive ones."""

import random
from functools import cache

import pytest
import torch
from conftest import CONF, read_yaml
from torchmetrics import MetricCollection
from torchmetrics.functional.text import bleu_score, char_error_rate, chrf_score, word_error_rate

from iolaus.build import make
from iolaus.metrics.bleu import BLEU
from iolaus.metrics.chrf import CHRF
from iolaus.metrics.error_rate import CharErrorRate, WordErrorRate, edit_distance
from iolaus.metrics.exact_match import ExactMatch
from iolaus.metrics.scores import Scores


def sentences(count=40, several=False):
    """Predictions that differ from references by some words, and 1 reference each, or 1 to 3."""
    choose = random.Random(0)
    words = ["a", "the", "cat,", "Cat", "mat", '"sat"', "on", "nut.", "?", "übung"]

    def changed(words_before):
        return " ".join(w if choose.random() < 0.7 else choose.choice(words) for w in words_before)

    references = [[" ".join(choose.choices(words, k=choose.randint(1, 12)))] for _ in range(count)]
    preds = [changed(r[0].split()[: choose.randint(1, 12)]) for r in references]
    if several:
        references = [r + [changed(r[0].split()) for _ in range(choose.randint(0, 2))] for r in references]
    return preds, references if several else [r[0] for r in references]


def value(metric, preds, target, size):
    for start in range(0, len(preds), size):
        metric.update(preds[start : start + size], target[start : start + size])
    return metric.compute()


OURS_AND_THEIRS = [
    (BLEU, {}, bleu_score),
    (BLEU, {"n_gram": 2, "smooth": True, "weights": [0.7, 0.3]}, bleu_score),
    (CHRF, {}, chrf_score),
    (CHRF, {"n_char_order": 4, "n_word_order": 0, "beta": 1.0, "lowercase": True, "whitespace": True}, chrf_score),
]


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize(("cls", "arguments", "theirs"), OURS_AND_THEIRS)
def test_translations_are_scored_as_by_torchmetrics(cls, arguments, theirs, several):
    preds, target = sentences(several=several)
    expected = theirs(preds, [t if several else [t] for t in target], **arguments)
    assert 0.1 < expected < 0.9
    for size in (40, 7, 1):
        torch.testing.assert_close(value(cls(**arguments), preds, target, size), expected)


@pytest.mark.parametrize(("cls", "theirs"), [(WordErrorRate, word_error_rate), (CharErrorRate, char_error_rate)])
def test_transcripts_are_scored_as_by_torchmetrics(cls, theirs):
    preds, target = sentences()
    for size in (40, 7, 1):
        torch.testing.assert_close(value(cls(), preds, target, size), theirs(preds, target))


def test_edit_distances_are_the_fewest_edits():
    @cache
    def fewest(a, b):
        if not a or not b:
            return len(a) + len(b)
        return min(fewest(a[1:], b) + 1, fewest(a, b[1:]) + 1, fewest(a[1:], b[1:]) + (a[0] != b[0]))

    choose = random.Random(1)
    for _ in range(300):
        a, b = ("".join(choose.choices("abc", k=choose.randint(0, 9))) for _ in range(2))
        assert edit_distance(a, b) == fewest(a, b), (a, b)
    assert edit_distance("x" * 100, "y" * 150) == 150  # more than a machine word of bits


def test_error_rates_take_the_nearest_reference():
    preds, target = ["a b c", "d"], [["x y z", "a b"], ["d", "e f"]]
    assert value(WordErrorRate(), preds, target, 2).item() == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("preds", "target", "expected"), [([], [], 0), ([""], [""], 0), (["ab"], [""], 2), ([""], ["ab"], 1)]
)
def test_error_rates_without_words_are_numbers(preds, target, expected):
    metric = CharErrorRate()
    metric.update(preds, target)
    assert metric.compute() == expected


def test_rates_that_agree_on_the_first_batch_stay_apart():
    metrics = MetricCollection({"wer": WordErrorRate(), "cer": CharErrorRate()})
    for preds, target in ((["a", "b"], ["a", "c"]), (["hello world"], ["hallo world"])):
        metrics.update(preds, target)
    found = metrics.compute()
    assert found["wer"].item() == pytest.approx(2 / 4)
    assert found["cer"].item() == pytest.approx(2 / 13)


@pytest.mark.parametrize("cls", [BLEU, CHRF])
@pytest.mark.parametrize(("preds", "target"), [([], []), ([""], [""]), (["x"], [""]), ([""], ["x"]), (["x"], [["y"]])])
def test_translations_without_a_match_are_worth_nothing(cls, preds, target):
    metric = cls()
    metric.update(preds, target)
    assert metric.compute() == 0


def test_an_empty_prediction_costs_recall():
    """Half of all unigrams are found, and all that were predicted are right: 5 P R / (4 P + R) with P = 1 and R = 1/2."""
    metric = CHRF(n_char_order=1, n_word_order=0)
    metric.update(["abc", ""], ["abc", "xyz"])
    assert metric.compute().item() == pytest.approx(5 * 0.5 / (4 + 0.5))


@pytest.mark.parametrize("size", [3, 2, 1])
def test_exact_matches(size):
    assert value(ExactMatch(), ["a b", "a", "b "], ["a b", "A", "b"], size).item() == pytest.approx(1 / 3)
    # A list of references is searched for the sentence, and a single reference is not searched for a part of it.
    assert value(ExactMatch(), ["a", "b", "c"], [["x", "a"], "bc", ["d"]], size).item() == pytest.approx(1 / 3)


@pytest.mark.parametrize("cls", [BLEU, CHRF, WordErrorRate, ExactMatch])
def test_every_prediction_has_a_reference(cls):
    with pytest.raises(ValueError, match="shorter"):
        cls().update(["a", "b"], ["a"])


@pytest.mark.parametrize("option", ["translation", "speech"])
def test_sums_go_on_after_an_interruption(option):
    nodes = read_yaml(CONF / f"metrics/{option}.yaml")
    preds, target = sentences()
    first, second = (Scores({n: make(node, n) for n, node in nodes.items()}, lambda o, t: (o, t, {})) for _ in range(2))
    first.metrics.update(preds[:15], target[:15])
    second.load(first.state(), torch.device("cpu"))
    for scores in (first, second):
        scores.metrics.update(preds[15:], target[15:])
    expected = first.metrics.compute()
    assert second.metrics.compute() == expected
    for name, node in nodes.items():
        torch.testing.assert_close(value(make(node, name), preds, target, 40), expected[name], check_dtype=False)
