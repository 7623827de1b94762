"""Batches in an order that depends on (seed, epoch) alone, from any batch on: slices of tensors in memory, or torch's DataLoader."""

import os
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from iolaus import random_state, ranks
from iolaus.data.memory import moved_to, parts, take
from iolaus.data.order import bucketed, count_batches, shares, shuffled
from iolaus.errors import UserError
from iolaus.functional.keys import mix

Batch = tuple[torch.Tensor, ...]  # inputs, one or several, and the target
Key = Callable[[], tuple[int, ...]]  # read when an epoch begins
Start = Callable[[], int]  # the batch that an epoch begins with, read then too: not 0 when a run is resumed inside it

TRIED = 8  # samples whose reading is timed
Share = tuple[int, int]  # rank of this process among those that train together, and their number
ALONE: Share = (0, 1)

SHORT_S = 2e-3  # a batch that is read in less needs no process of its own
MOST_WORKERS = 8


class TensorLoader:
    """Batches of a data set in memory: no per-sample Python, each batch taken at once.

    Args:
        dataset: a TensorDataset, or an InMemory; its rows are samples.
        rows: the rows of this split, (n,) whole numbers.
        batch_size: samples in a batch; the last one may be smaller.
        key: what the order depends on; None keeps the rows' own order.
        start: the first batch.
        share: of each batch of all processes, (rank, world); its `batch_size` samples are this one's.
        min_rows: see `count_batches`.
    """

    def __init__(
        self,
        dataset: Dataset,
        rows: torch.Tensor,
        batch_size: int,
        key: Key | None = None,
        start: Start = int,
        share: Share = ALONE,
        min_rows: int = 1,
    ):
        self.dataset = dataset
        self.rows = rows
        self.batch_size = batch_size
        self.key = key
        self.start = start
        self.share = share
        self.min_rows = min_rows

    def __len__(self) -> int:
        return count_batches(len(self.rows), self.batch_size, self.share[1], self.min_rows)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
        held = parts(self.dataset)
        assert held is not None
        key = self.key() if self.key else ()
        of_all = self.batch_size * self.share[1]
        rows = in_order(self.rows, key, of_all, getattr(self.dataset, "lengths", None))
        for batch in shares(rows.to(held[0].device), self.batch_size, *self.share, self.min_rows, self.start()):
            yield take(self.dataset, batch)


def in_order(rows: torch.Tensor, key: tuple[int, ...], batch_size: int, lengths: torch.Tensor | None) -> torch.Tensor:
    """The rows in the order that a key gives, their own without one; where they have lengths, like ones together."""
    ordered = shuffled(rows, *key) if key else rows
    if lengths is not None:
        ordered = bucketed(ordered, lengths.cpu(), batch_size, *key)
    return ordered


class KeyedRows(list[int]):
    """The rows of one batch, and what the randomness of reading them depends on."""

    key = 0


class KeyedBatches:
    """Batch sampler for torch's DataLoader: the rows of each batch, in the same order as TensorLoader's."""

    def __init__(
        self,
        rows: torch.Tensor,
        batch_size: int,
        key: Key | None = None,
        start: Start = int,
        lengths: torch.Tensor | None = None,
        share: Share = ALONE,
        min_rows: int = 1,
    ):
        self.rows = rows
        self.batch_size = batch_size
        self.key = key
        self.start = start
        self.lengths = lengths
        self.share = share
        self.min_rows = min_rows

    def __len__(self) -> int:
        return count_batches(len(self.rows), self.batch_size, self.share[1], self.min_rows)

    def __iter__(self) -> Iterator[KeyedRows]:
        # The key is read here and not in the generator: workers prefetch before the epoch's first batch is asked for.
        key, start = self.key() if self.key is not None else (), self.start()
        rows = in_order(self.rows, key, self.batch_size * self.share[1], self.lengths)
        return self._batches(rows, key, start)

    def _batches(self, rows: torch.Tensor, key: tuple[int, ...], start: int) -> Iterator[KeyedRows]:
        for number, batch in enumerate(shares(rows, self.batch_size, *self.share, self.min_rows, start), start):
            keyed = KeyedRows(batch.tolist())
            keyed.key = mix(*key, number, *_own(self.share))
            yield keyed


def _own(share: Share) -> tuple[int, ...]:
    """What a process adds to keys of random numbers, so that each draws its own; the first, and one alone, nothing."""
    return share[:1] if share[0] > 0 else ()


class KeyedItems(Dataset):
    """A data set whose random transforms depend on the batch's key alone: any number of workers gives the same samples.

    The generators of Python, NumPy and torch are seeded once a batch; in the training process itself they are put back afterwards.
    A data set that has `__getitems__` is asked for all rows of a batch at once.
    """

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitems__(self, rows: KeyedRows) -> list[Any]:
        in_worker = get_worker_info() is not None
        before = None if in_worker else random_state.capture()
        random.seed(rows.key)
        np.random.seed(rows.key % 2**32)
        torch.default_generator.manual_seed(rows.key)
        at_once = getattr(self.dataset, "__getitems__", None)
        items = at_once(rows) if at_once is not None else [self.dataset[row] for row in rows]
        if before is not None:
            random_state.restore(before)
        return items


class AugmentedLoader:
    """A loader whose batches pass through augmentations.

    Args:
        loader: gives inputs, one or several, and the target.
        augmentations: applied in this order.
        key: what the randomness depends on besides the number of the batch.
        start: the first batch.
        share: see TensorLoader.
    """

    def __init__(
        self,
        loader: Iterable,
        augmentations: Sequence[Callable[..., Batch]],
        key: Key,
        start: Start = int,
        share: Share = ALONE,
    ):
        self.loader = loader
        self.augmentations = augmentations
        self.key = key
        self.start = start
        self.share = share

    def __len__(self) -> int:
        assert isinstance(self.loader, Sized)
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        key = self.key()
        generator = torch.Generator()
        for number, batch in enumerate(self.loader, self.start()):
            generator.manual_seed(mix(*key, number, *_own(self.share)))
            for augment in self.augmentations:
                batch = augment(*batch, generator)
            yield batch


def make_loader(
    dataset: Dataset,
    rows: torch.Tensor,
    batch_size: int,
    key: Key | None,
    num_workers: int | None,
    start: Start = int,
    share: Share = ALONE,
    min_rows: int = 1,
) -> TensorLoader | DataLoader:
    """The loader that suits the data set: slices for tensors in memory, torch's DataLoader for everything else.

    Args:
        dataset: one in memory stays there; any other may have `lengths`, (rows,), and `collate`, which makes a batch of samples.
        rows: of the split.
        batch_size: samples in a batch.
        key: see TensorLoader.
        num_workers: processes that read what is not in memory; None: as many as pay, by the time that reading takes.
        start: the first batch of an epoch.
        share: see TensorLoader.
        min_rows: see `count_batches`.
    """
    if parts(dataset) is not None:
        return TensorLoader(dataset, rows, batch_size, key, start, share, min_rows)
    workers = paying_workers(dataset, rows, batch_size) if num_workers is None else num_workers
    return DataLoader(
        KeyedItems(dataset),
        batch_sampler=KeyedBatches(rows, batch_size, key, start, getattr(dataset, "lengths", None), share, min_rows),
        collate_fn=getattr(dataset, "collate", None),
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # the loader draws from it and not from the global state
    )


@contextmanager
def reading_told() -> Iterator[None]:
    """Errors of processes that read data as the user's: without the traceback that torch wraps around them.

    Raises:
        UserError: for a process that was killed, or what it could not read.
    """
    try:
        yield
    except UserError as error:
        if "Original Traceback" in (text := str(error)):
            raise UserError(text.strip().splitlines()[-1].partition("UserError: ")[2]) from None
        raise
    except RuntimeError as error:
        if "DataLoader worker" in str(error) and "Original Traceback" not in str(error):
            raise UserError(
                f"data.num_workers: a process that reads data was killed: {str(error).splitlines()[0]}; "
                "it may have run out of memory: set fewer, or 0 to read in the training process"
            ) from None
        raise


def paying_workers(dataset: Dataset, rows: torch.Tensor, batch_size: int) -> int:
    """How many processes to read with: none where a batch takes less than two milliseconds, else one a spare processor.

    The time of a few samples is measured here; batches are the same for any number.
    """
    tried = rows[:: max(len(rows) // TRIED, 1)][:TRIED].tolist()
    start = time.perf_counter()
    for row in tried:
        dataset[row]
    batch_s = (time.perf_counter() - start) / max(len(tried), 1) * batch_size
    processors = (os.cpu_count() or 1) // ranks.place().local_world
    return 0 if batch_s < SHORT_S else min(max(processors - 1, 1), MOST_WORKERS)


def resident(dataset: Dataset, device: torch.device) -> Dataset:
    """The data set on a GPU, when it is in memory and takes less than half of what the GPU has free; else as it is."""
    held = parts(dataset)
    if held is None or device.type != "cuda":
        return dataset
    size = sum(t.numel() * t.element_size() for t in held)
    free, _ = torch.cuda.mem_get_info(device)
    return moved_to(dataset, device) if 2 * size < free else dataset
