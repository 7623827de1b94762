"""The order of streamed rows, against lists of all rows, which streaming never makes."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from iolaus.data.stream_loader import StreamLoader
from iolaus.data.stream_order import Plan, Rows, Spans, hold_out

SIZES = [13, 1, 40, 7, 0, 22]  # rows of the shards: 83


def read(shard, start, stop):
    """Rows that say where they stand, in blocks of 5."""
    for first in range(start, stop, 5):
        rows = torch.arange(first, min(first + 5, stop))
        yield torch.stack([torch.full_like(rows, shard), rows], 1), rows + 1000 * shard


def listed(spans):
    return [(shard, row) for shard, start, stop in spans for row in range(start, stop)]


def epoch(plan, start=0, workers=0):
    key = plan.key
    loader = StreamLoader(replace(plan, key=()), read, (lambda: key) if key else None, lambda: start, workers)
    batches = list(loader)
    assert len(batches) == plan.batches - start == len(loader) - start
    return [[tuple(row) for row in x.tolist()] for x, y in batches]


def test_a_cut_is_a_slice_of_the_list():
    spans = Spans.of(SIZES)
    rows = listed(spans)
    assert len(spans) == len(rows) == 83
    for first, last in itertools.product(range(0, 84, 3), range(0, 84, 5)):
        assert (
            listed(spans.cut(first, last)) == rows[first:last] if first < last else not listed(spans.cut(first, last))
        )


def test_what_is_held_out_is_whole_shards_and_one_part():
    spans = Spans.of(SIZES)
    kept, held = hold_out(spans, 30, 7)
    assert len(held) == 30
    assert sorted(listed(kept) + listed(held)) == listed(spans)
    assert len(held.shard) <= 1 + sum(1 for s in held.shard if SIZES[s] == held.length[held.shard == s].sum())
    again = hold_out(kept, 10, 8)
    assert sorted(listed(kept)) == sorted(listed(again[0]) + listed(again[1]))


def test_rows_are_taken_over_the_ends_of_blocks():
    rows = Rows(read(0, 0, 23))
    taken = [rows.take(count)[1].tolist() for count in (1, 11, 4, 100)]
    assert [len(part) for part in taken] == [1, 11, 4, 7]
    assert list(itertools.chain(*taken)) == list(range(23))
    assert rows.take(1) == ()


@pytest.mark.parametrize("buffer", [0, 1, 16, 50, 10_000])
@pytest.mark.parametrize("key", [(), (3, 1)])
def test_every_row_once(buffer, key):
    found = epoch(Plan(Spans.of(SIZES), 6, 4, buffer, key))
    assert [len(batch) for batch in found] == [6] * 13 + [5]
    rows = list(itertools.chain(*found))
    assert sorted(rows) == listed(Spans.of(SIZES))
    if key and buffer > 1:
        assert rows != list(itertools.chain(*epoch(Plan(Spans.of(SIZES), 6, 4, buffer, (3, 2)))))


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("size", [83, 81])
def test_processes_share_each_batch(world, size):
    """Batch by batch together they have the rows of one with batches of all; a spare row where there is none left."""
    spans = Spans.of(SIZES).cut(0, size)
    one = epoch(Plan(spans, 4, 8, 24, (1, 5)))
    parts = [epoch(Plan(spans, 4 // world, 8, 24, (1, 5), rank, world)) for rank in range(world)]
    assert {len(part) for part in parts} == {len(one)}
    for batch, whole in enumerate(one):
        for rank in range(world):
            mine = whole[rank::world]
            got = parts[rank][batch]
            assert got == mine if mine else len(got) == 1  # which must not count
    spare = [rank for rank in range(world) if not one[-1][rank::world]]
    assert bool(spare) == (len(one[-1]) < world)


def test_from_any_batch_on():
    for buffer, key in ((16, (0, 0)), (0, (0, 0)), (40, ())):
        plan = Plan(Spans.of(SIZES), 6, 4, buffer, key)
        whole = epoch(plan)
        for start in range(len(whole) + 1):
            assert epoch(plan, start) == whole[start:]


def test_only_what_is_left_is_read():
    """Of what came before a batch, only rows in the same buffers."""
    asked = []

    def noted(shard, start, stop):
        for block in read(shard, start, stop):
            asked.append(len(block[0]))
            yield block

    plan = Plan(Spans.of([1000] * 20), 10, 4, 200, (0, 0))
    next(iter(StreamLoader(plan, noted, lambda: (0, 0), lambda: 1500)))
    assert sum(asked) <= 4 * (2 * 50 + 10)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(workers):
    plan = Plan(Spans.of(SIZES), 6, 4, 16, (3, 1))
    assert epoch(plan, 3, workers) == epoch(plan)[3:]
    two = replace(plan, rank=1, world=2, batch_size=2)
    assert epoch(two, workers=workers) == epoch(two)


def test_the_order_is_well_mixed():
    """Neighbours in the files are not neighbours in the epoch: their mean distance is near that of a shuffled list, a third of all."""
    spans = Spans.of([100] * 50)
    rows = list(itertools.chain(*epoch(Plan(spans, 50, 10, 2000, (0, 0)))))
    place = {row: number for number, row in enumerate(rows)}
    within = [abs(place[s, r] - place[s, r + 1]) for s in range(50) for r in range(99)]
    assert np.mean(within) > 300
    shards = [place[s, 0] for s in range(50)]
    assert np.mean(np.abs(np.diff(shards))) == pytest.approx(5000 / 3, rel=0.25)
