"""The order of data that are streamed, as a pure function of its key: which rows each stream reads, and in which order it gives them.

Shards are shuffled, laid end to end and cut into streams of equal length; row i of an epoch is the next of stream i modulo their number. So
the streams can be shared out to any number of processes and workers without a change of the order, and a position is one number.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from iolaus.data.order import count_batches, permutation

Block = tuple[torch.Tensor, ...]  # inputs and targets of some rows
Read = Callable[[int, int, int], Iterator[Block]]  # the rows of a shard, from one up to another, in blocks


@dataclass(frozen=True)
class Spans:
    """Stretches of rows, one after the other: no row has a number of its own in memory.

    Args:
        shard: (K,) of each stretch the number of its shard.
        start: (K,) its first row in there.
        length: (K,) how many rows it has.
    """

    shard: np.ndarray
    start: np.ndarray
    length: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[int]) -> "Spans":
        """Whole shards that have so many rows."""
        length = np.asarray(rows, dtype=np.int64)
        shard = np.flatnonzero(length)
        return cls(shard, np.zeros(len(shard), np.int64), length[shard])

    def __len__(self) -> int:
        return int(self.length.sum())

    def ordered(self, order: np.ndarray) -> "Spans":
        """The stretches in another order."""
        return Spans(self.shard[order], self.start[order], self.length[order])

    def cut(self, first: int, last: int) -> "Spans":
        """Rows `first` up to `last`, counted from the beginning of the first stretch."""
        if last <= first:
            return self.ordered(np.arange(0))
        ends = self.length.cumsum()
        low, high = int(ends.searchsorted(first, "right")), int(ends.searchsorted(last, "left")) + 1
        found = self.ordered(np.arange(low, min(high, len(ends))))
        before = first - int(ends[low] - self.length[low])
        beyond = int(ends[min(high, len(ends)) - 1]) - last
        found.start[0] += before
        found.length[0] -= before
        found.length[-1] -= beyond
        return found

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        """Shard, first row and the row after the last, of each stretch."""
        for shard, start, length in zip(self.shard.tolist(), self.start.tolist(), self.length.tolist(), strict=True):
            yield shard, start, start + length


def hold_out(spans: Spans, count: int, *key: int) -> tuple[Spans, Spans]:
    """Cut `count` rows off: whole stretches in an order drawn by the key, and a part of the last one.

    Returns:
        what stays and what is cut off, both in the order of the shards.
    """
    drawn = spans.ordered(permutation(len(spans.shard), *key).numpy())
    kept, held = drawn.cut(count, len(drawn)), drawn.cut(0, count)
    return tuple(part.ordered(np.lexsort((part.start, part.shard))) for part in (kept, held))  # type: ignore[return-value]


class Rows:
    """Rows taken from blocks, as many as are asked for.

    Args:
        blocks: of any lengths.
    """

    def __init__(self, blocks: Iterator[Block]):
        self.blocks = blocks
        self.left: Block | None = None

    def next(self, count: int) -> Block:
        """Up to `count` rows of the next block, or of what is left of the last one; none at the end."""
        block = self.left if self.left is not None else next(self.blocks, None)
        if block is None:
            return ()
        self.left = tuple(part[count:] for part in block) if len(block[0]) > count else None
        return tuple(part[:count] for part in block)

    def take(self, count: int) -> Block:
        """The next `count` rows; fewer only at the end."""
        parts: list[Block] = []
        while count > 0 and (block := self.next(count)):
            parts.append(block)
            count -= len(block[0])
        if len(parts) == 1:
            return parts[0]
        return tuple(torch.cat(together) for together in zip(*parts, strict=True))


def shuffled(rows: Rows, order: torch.Tensor) -> Block:
    """The next rows in an order, each put at its place when it comes: they are held once."""
    places = torch.empty_like(order)
    places[order.long()] = torch.arange(len(order), dtype=order.dtype)
    whole: Block = ()
    filled = 0
    while filled < len(order) and (block := rows.next(len(order) - filled)):
        whole = whole or tuple(part.new_empty((len(order), *part.shape[1:])) for part in block)
        for target, source in zip(whole, block, strict=True):
            target[places[filled : filled + len(source)].long()] = source
        filled += len(block[0])
    return whole


@dataclass(frozen=True)
class Stream:
    """One of the streams of an epoch.

    Args:
        spans: its rows, in the order in which they are read.
        buffer: rows that are read before they are given in a shuffled order; the first time fewer, so that streams do not all read at once.
        first: rows of the first buffer.
        key: of the order in a buffer; none: rows are given as they are read.
    """

    spans: Spans
    buffer: int
    first: int
    key: tuple[int, ...]

    def blocks(self, read: Read, position: int) -> Iterator[Block]:
        """The rows from one on; of what came before only those in the same buffer are read."""
        if not self.key or self.buffer < 2:
            yield from self._read(read, position)
            return
        number = 0 if position < self.first else 1 + (position - self.first) // self.buffer
        begin = 0 if number == 0 else self.first + (number - 1) * self.buffer
        rows = Rows(self._read(read, begin))
        total = len(self.spans)
        while begin < total:
            end = min(self.first + number * self.buffer, total)
            block = shuffled(rows, permutation(end - begin, *self.key, number))
            yield tuple(part[max(position - begin, 0) :] for part in block)
            begin, number = end, number + 1

    def _read(self, read: Read, position: int) -> Iterator[Block]:
        for shard, start, stop in self.spans.cut(position, len(self.spans)):
            yield from read(shard, start, stop)


@dataclass(frozen=True)
class Plan:
    """What one process reads of an epoch: of each batch of all processes every `world`-th row.

    Args:
        spans: rows of the split.
        batch_size: rows of a batch of this process.
        streams: how many there are in all, a multiple of the number of processes.
        buffer: rows in all streams that are shuffled together.
        key: what the order depends on; none: shards in their own order, nothing shuffled.
        rank: of this process.
        world: number of processes.
        min_rows: see `count_batches`.
    """

    spans: Spans
    batch_size: int
    streams: int
    buffer: int
    key: tuple[int, ...] = ()
    rank: int = 0
    world: int = 1
    min_rows: int = 1

    @property
    def batches(self) -> int:
        """How many each process has."""
        return count_batches(len(self.spans), self.batch_size, self.world, self.min_rows)

    @property
    def own(self) -> int:
        """Streams of this process."""
        return self.streams // self.world

    def stream(self, number: int) -> Stream:
        """A stream of this process, by its number among them."""
        at = number * self.world + self.rank
        lengths = (len(self.spans) - np.arange(self.streams) + self.streams - 1) // self.streams
        start = int(lengths[:at].sum())
        ordered = self.spans
        if self.key:
            ordered = ordered.ordered(permutation(len(ordered.shard), *self.key).numpy())
        buffer = max(self.buffer // self.streams, 1)
        key = (*self.key, at) if self.key else ()
        return Stream(
            ordered.cut(start, start + int(lengths[at])), buffer, max(buffer * (at + 1) // self.streams, 1), key
        )

    def rows(self, batch: int) -> np.ndarray:
        """The numbers of a batch's rows among those of this process; of its last row where it has none left, which must not count."""
        total = (len(self.spans) - self.rank + self.world - 1) // self.world
        first = batch * self.batch_size
        end = total if batch == self.batches - 1 else first + self.batch_size
        return np.arange(first, end) if first < total else np.array([total - 1])

    def parts(self, read: Read, start: int, worker: int = 0, workers: int = 1) -> Iterator[Block | None]:
        """Of each batch from one on the rows of every `workers`-th stream, in their order; None where there are none."""
        begin = start * self.batch_size
        mine = range(worker, self.own, workers)
        taken = {m: Rows(self.stream(m).blocks(read, max(begin - m + self.own - 1, 0) // self.own)) for m in mine}
        for batch in range(start, self.batches):
            rows = self.rows(batch)
            rows = rows[rows % self.own % workers == worker]
            if len(rows) == 0:
                yield None
                continue
            if rows[0] < batch * self.batch_size:  # given before
                last = int(rows[0])
                yield Rows(self.stream(last % self.own).blocks(read, last // self.own)).take(1)
                continue
            yield interleaved(rows % self.own, {m: taken[m].take(int((rows % self.own == m).sum())) for m in mine})


def stacked(items: Iterator[Block], size: int) -> Iterator[Block]:
    """Blocks of so many rows, of single rows without a first dimension; the last may be smaller."""
    while rows := list(itertools.islice(items, size)):
        yield tuple(torch.stack(parts) for parts in zip(*rows, strict=True))


def interleaved(places: np.ndarray, parts: dict[int, Block]) -> Block:
    """One batch of several parts, whose rows stand where `places` has the part's number."""
    parts = {number: part for number, part in parts.items() if part}
    if len(parts) == 1:
        return next(iter(parts.values()))
    first = next(iter(parts.values()))
    whole = tuple(part.new_empty((len(places), *part.shape[1:])) for part in first)
    for number, part in parts.items():
        where = torch.from_numpy(np.flatnonzero(places == number))
        for target, source in zip(whole, part, strict=True):
            target[where] = source
    return whole
