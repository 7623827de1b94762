"""Order and splits are functions of their key."""

import pytest
import torch

from iolaus.data.order import bucketed, permutation, split
from iolaus.functional.keys import mix


def test_mix_is_the_same_everywhere():
    """Known values: a change would silently change every split and order."""
    assert mix(0, 0) == mix(0, 0)
    assert mix(0, 1) != mix(1, 0)
    assert len({mix(a, b) for a in range(50) for b in range(50)}) == 2500
    assert 0 <= mix(-5, 2**70) < 2**63
    assert mix(0) == 0xE220A8397B1DCDAF >> 1  # splitmix64's first output for the seed 0


def test_permutations_are_keyed():
    assert torch.equal(permutation(100, 3, 7), permutation(100, 3, 7))
    assert not torch.equal(permutation(100, 3, 7), permutation(100, 3, 8))
    assert torch.equal(permutation(100, 1).sort().values, torch.arange(100))


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_every_class_has_its_share(fraction):
    labels = torch.tensor([0] * 40 + [1] * 80 + [5] * 200)
    stay, cut = split(labels, len(labels), fraction, 1)
    assert torch.equal(torch.cat([stay, cut]).sort().values, torch.arange(len(labels)))
    for label, count in ((0, 40), (1, 80), (5, 200)):
        assert abs((labels[cut] == label).sum().item() - fraction * count) <= 1


def test_the_smallest_splits():
    assert [len(part) for part in split(None, 10, 0.0, 1)] == [10, 0]
    assert [len(part) for part in split(None, 2, 0.01, 1)] == [1, 1]
    assert [len(part) for part in split(None, 3, 0.99, 1)] == [1, 2]
    assert [len(part) for part in split(None, 1, 0.5, 1)] == [1, 0]


def test_rows_of_like_lengths_come_together():
    """Every row once, in batches whose rows differ little, in an order that the key alone decides; the last batch alone is smaller."""
    lengths = torch.randint(1, 100, (1003,), generator=torch.Generator().manual_seed(0))
    rows = torch.arange(1003)[permutation(1003, 1)]
    ordered = bucketed(rows, lengths, 8, 1, 2)
    assert sorted(ordered.tolist()) == list(range(1003))
    assert torch.equal(ordered, bucketed(rows, lengths, 8, 1, 2))
    assert not torch.equal(ordered, bucketed(rows, lengths, 8, 1, 3))

    def padded(order):
        return sum(len(batch) * int(lengths[batch].max()) for batch in order.split(8)) / int(lengths.sum())

    assert padded(rows) > 1.5
    assert padded(ordered) < 1.06
    means = [lengths[batch].float().mean() for batch in ordered.split(8)]
    assert (
        abs(torch.tensor(means).argsort().float() - torch.arange(len(means))).mean() > len(means) / 6
    )  # not by length
    assert (lengths[bucketed(rows, lengths, 8)].diff() >= 0).all()
