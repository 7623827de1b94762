"""Folds of the training rows: parts that are disjoint, cover everything, and leave the test split alone."""

from collections import Counter

import numpy as np
import pytest
import torch
from conftest import composed
from sklearn.datasets import load_iris
from sklearn.model_selection import StratifiedKFold
from torch.utils.data import TensorDataset

from iolaus.build import make
from iolaus.check import check, plain
from iolaus.data.base import DataModule
from iolaus.data.number_words import NumberWords
from iolaus.data.order import fold
from iolaus.errors import ConfigError, UserError

FACTS = {"input_kind": "table", "input_shape": [1]}


class Rows(DataModule):
    """Rows with these labels, or, without labels, real targets."""

    def __init__(self, labels, own_val=False, **base):
        is_class = labels.dtype == torch.int64
        kind = {"target_kind": "class", "num_classes": 9} if is_class else {"target_kind": "real"}
        super().__init__(**FACTS, **kind, **base)
        self.labels = labels if is_class else labels[:, None]
        self.own_val = own_val

    def load(self):
        numbers = torch.arange(len(self.labels), dtype=torch.float32)[:, None]
        dataset = TensorDataset(numbers, self.labels)
        return {"train": dataset} | ({"val": dataset} if self.own_val else {})


def splits(labels, **settings):
    data = Rows(labels, **settings)
    data.setup()
    return {name: rows.tolist() for name, rows in data.rows.items()}


LABELS = torch.tensor([0] * 23 + [3] * 41 + [1] * 10 + [7] * 31)[
    torch.randperm(105, generator=torch.Generator().manual_seed(0))
]


@pytest.mark.parametrize("labels", [LABELS, torch.linspace(0, 1, 105)], ids=["classes", "real"])
@pytest.mark.parametrize("folds", [2, 5, 8])
def test_every_training_row_is_validated_once_and_no_test_row_ever(labels, folds):
    parts = [splits(labels, folds=folds, fold=number) for number in range(folds)]
    test = splits(labels)["test"]
    for part in parts:
        assert part["test"] == test  # that of a run without folds
        assert sorted(part["train"] + part["val"] + test) == list(range(105))
    assert sorted(row for part in parts for row in part["val"]) == sorted(set(range(105)) - set(test))
    sizes = [len(part["val"]) for part in parts]
    assert max(sizes) - min(sizes) <= 1


def test_every_part_has_its_share_of_each_class_as_in_scikit_learn():
    """Counts of a class differ by one at most between parts, and so do sizes: what StratifiedKFold gives for the same labels."""
    y = LABELS.numpy()
    theirs = [
        np.bincount(y[val], minlength=8) for _, val in StratifiedKFold(5, shuffle=True, random_state=0).split(y, y)
    ]
    ours = [np.bincount(y[fold(LABELS, len(y), 5, number, 0)[1]], minlength=8) for number in range(5)]
    for counts in (ours, theirs):
        assert np.ptp(counts, axis=0).max() <= 1
        assert np.ptp(np.sum(counts, axis=1)) <= 1
    assert sorted(np.sum(ours, axis=1)) == sorted(np.sum(theirs, axis=1))


def test_parts_depend_on_the_seed_alone():
    first = splits(LABELS, folds=5, fold=1, seed=3)
    assert first == splits(LABELS, folds=5, fold=1, seed=3, val_fraction=0.5, batch_size=2)
    assert first["val"] != splits(LABELS, folds=5, fold=1, seed=4)["val"]


def test_folds_of_iris_by_the_settings():
    y = load_iris().target
    for number in (0, 4):
        data = make(plain(composed("data=iris", "data.folds=5", f"data.fold={number}"))["data"], "data")
        data.setup()
        assert np.bincount(y[data.rows["val"]]).tolist() == [8, 8, 8]
        assert np.bincount(y[data.rows["test"]]).tolist() == [10, 10, 10]


def test_pairs_of_sentences_stand_in_one_part_each():
    """Data that cut themselves, since the vocabulary is that of the training rows, do it by folds too."""
    facts = {"input_kind": "sentence", "input_shape": None, "target_kind": "sentence"}
    found = []
    for number in range(3):
        data = NumberWords(60, **facts, folds=3, fold=number)
        data.setup()
        texts = {
            n: ["".join(data.source_text(d.source.padded(torch.tensor([i]), 0)[0][0].tolist())) for i in range(len(d))]
            for n, d in data.datasets.items()
        }
        found.append(texts)
        assert sum(map(len, texts.values())) == 60
    assert len({tuple(texts["test"]) for texts in found}) == 1
    counts = Counter(text for texts in found for text in texts["val"])
    assert len(counts) == 48
    assert set(counts.values()) == {1}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"folds": 106}, "data.folds: 106 parts cannot be cut from 84 training rows"),
        ({"folds": 9}, "data.folds: 9 parts cannot each have a row of class 1, which has 8 training rows"),
        ({"folds": 5, "fold": 5}, "data.fold: must be from 0 to 4"),
        ({"folds": 5, "own_val": True}, "a validation split of their own"),
    ],
)
def test_folds_that_cannot_be(settings, says):
    with pytest.raises(UserError, match=says):
        splits(LABELS, **settings)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["data.folds=1"], "data.folds: must be at least 2; received 1"),
        (["data.folds=5", "data.fold=5"], "data.fold: must be from 0 to 4 with data.folds=5; received 5"),
        (["data.fold=2"], "data.fold: .*set data.folds too; received 2"),
        (["data=interactions", "data.folds=5"], "data.folds: of each user the latest click is the test"),
        (["data=stdlib", "data.folds=5"], "data.folds: a stream is cut once"),
        (["data=distances", "data.folds=5"], "data.folds: a map is drawn of all pairs"),
    ],
)
def test_settings_that_cannot_be_are_told_before_the_data_are_read(overrides, says):
    with pytest.raises(ConfigError, match=says):
        check(composed(*overrides))


def test_the_share_of_the_validation_counts_for_nothing_beside_folds():
    check(composed("data.folds=5", "data.val_fraction=0.9", "data.test_fraction=0.2"))
    with pytest.raises(ConfigError, match=r"sum to 1\.1"):
        check(composed("data.val_fraction=0.9", "data.test_fraction=0.2"))
