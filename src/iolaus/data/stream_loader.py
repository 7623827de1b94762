"""Batches of data that are streamed, from any batch on, read in the training process or by others."""

import ctypes
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from iolaus.data.loader import Key, Start
from iolaus.data.stream_order import Block, Plan, Read, interleaved

TRIMMED = 64 * 2**20  # bytes of batches between returns of memory to the system


class StreamLoader:
    """Batches of a plan; the same for any number of workers, and together for any number of processes that divides the streams.

    Args:
        plan: what this process reads of an epoch, without a key.
        read: the rows of a shard.
        key: what the order depends on; None keeps the rows' own order.
        start: the first batch.
        num_workers: processes that read, at most one a stream.
    """

    def __init__(self, plan: Plan, read: Read, key: Key | None = None, start: Start = int, num_workers: int = 0):
        self.plan = plan
        self.read = read
        self.key = key
        self.start = start
        self.num_workers = min(num_workers, plan.own)

    def __len__(self) -> int:
        return self.plan.batches

    def __iter__(self) -> Iterator[Block]:
        # read here and not in the generator: an epoch's first batch is asked for before the epoch begins
        plan = replace(self.plan, key=self.key() if self.key is not None else ())
        return self._batches(plan, self.start())

    def _batches(self, plan: Plan, start: int) -> Iterator[Block]:
        parts: Iterator[Any]
        if self.num_workers == 0:
            parts = plan.parts(self.read, start)
        else:
            parts = iter(
                DataLoader(
                    Parts(plan, self.read, start),
                    batch_size=None,
                    num_workers=self.num_workers,
                    generator=torch.Generator(),  # the loader draws from it and not from the global state
                )
            )
        workers = max(self.num_workers, 1)
        pin = torch.cuda.is_available()
        read = 0
        for batch in range(start, plan.batches):
            found = {worker: part for worker in range(workers) if (part := next(parts)) is not None}
            if batch == plan.batches - 1:
                parts = iter(())  # buffers and processes go before the validation has its own
            rows = plan.rows(batch)
            whole = interleaved(rows % plan.own % workers, found)
            read += sum(part.nbytes for part in whole)
            if read > TRIMMED:
                read = 0
                give_back_memory()
            yield tuple(part.pin_memory() for part in whole) if pin else whole


def give_back_memory() -> None:
    """Return what is free to the system, of glibc, whose aligned blocks fall to pieces: a process would grow with what it reads."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class Parts(IterableDataset):
    """What a worker reads: of each batch the rows of its streams.

    DataLoader asks its workers in turn, and each gives as many parts as the others.
    """

    def __init__(self, plan: Plan, read: Read, start: int):
        self.plan = plan
        self.read = read
        self.start = start

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        assert worker is not None
        for part in self.plan.parts(self.read, self.start, worker.id, worker.num_workers):
            # a slice would be sent to the training process with the whole that it is a slice of
            yield None if part is None else tuple(tensor.clone() for tensor in part)
