"""Batches in an order that depends on (seed, epoch) alone: slices of tensors in memory, or torch's DataLoader."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized

import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from iolaus.augment.base import Augmentation, Batch
from iolaus.data.order import mix, permutation

TRIED = 8  # samples whose reading is timed
SHORT_S = 2e-3  # a batch that is read in less needs no process of its own
MOST_WORKERS = 8


class TensorLoader:
    """Batches of tensors in memory: no per-sample Python, each batch one `index_select`.

    Args:
        dataset: the tensors; its rows are samples.
        rows: the rows of this split, (n,) whole numbers.
        batch_size: samples in a batch; the last one may be smaller.
        key: what the order depends on, read when an epoch begins; None keeps the rows' own order.
    """

    def __init__(
        self,
        dataset: TensorDataset,
        rows: torch.Tensor,
        batch_size: int,
        key: Callable[[], tuple[int, ...]] | None = None,
    ):
        self.dataset = dataset
        self.rows = rows
        self.batch_size = batch_size
        self.key = key

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
        tensors = self.dataset.tensors
        rows = self.rows if self.key is None else self.rows[permutation(len(self.rows), *self.key())]
        for batch in rows.to(tensors[0].device).split(self.batch_size):
            yield tuple(tensor.index_select(0, batch) for tensor in tensors)


class KeyedBatches:
    """Batch sampler for torch's DataLoader: lists of rows in the same order as TensorLoader's."""

    def __init__(self, rows: torch.Tensor, batch_size: int, key: Callable[[], tuple[int, ...]] | None = None):
        self.rows = rows
        self.batch_size = batch_size
        self.key = key

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        # The key is read here and not in the generator: workers prefetch before the epoch's first batch is asked for.
        rows = self.rows if self.key is None else self.rows[permutation(len(self.rows), *self.key())]
        return iter([batch.tolist() for batch in rows.split(self.batch_size)])


class AugmentedLoader:
    """A loader whose batches pass through augmentations.

    Args:
        loader: gives (inputs, target).
        augmentations: applied in this order.
        key: what the randomness depends on besides the number of the batch, read when an epoch begins.
    """

    def __init__(self, loader: Iterable, augmentations: Sequence[Augmentation], key: Callable[[], tuple[int, ...]]):
        self.loader = loader
        self.augmentations = augmentations
        self.key = key

    def __len__(self) -> int:
        assert isinstance(self.loader, Sized)
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        key = self.key()
        generator = torch.Generator()
        for number, (inputs, target) in enumerate(self.loader):
            generator.manual_seed(mix(*key, number))
            for augment in self.augmentations:
                inputs, target = augment(inputs, target, generator)
            yield inputs, target


def make_loader(
    dataset: Dataset,
    rows: torch.Tensor,
    batch_size: int,
    key: Callable[[], tuple[int, ...]] | None,
    num_workers: int | None,
) -> TensorLoader | DataLoader:
    """The loader that suits the data set: slices for tensors in memory, torch's DataLoader for everything else.

    Args:
        dataset: a TensorDataset stays in memory.
        rows: of the split.
        batch_size: samples in a batch.
        key: see TensorLoader.
        num_workers: processes that read what is not in memory; None: as many as pay, by the time that reading takes.
    """
    if isinstance(dataset, TensorDataset):
        return TensorLoader(dataset, rows, batch_size, key)
    workers = paying_workers(dataset, rows, batch_size) if num_workers is None else num_workers
    return DataLoader(
        dataset,
        batch_sampler=KeyedBatches(rows, batch_size, key),
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # the loader draws from it and not from the global state
    )


def paying_workers(dataset: Dataset, rows: torch.Tensor, batch_size: int) -> int:
    """How many processes to read with: none where a batch takes less than two milliseconds, else one a spare processor.

    The time of a few samples is measured here; batches are the same for any number.
    """
    tried = rows[:: max(len(rows) // TRIED, 1)][:TRIED].tolist()
    start = time.perf_counter()
    for row in tried:
        dataset[row]
    batch_s = (time.perf_counter() - start) / max(len(tried), 1) * batch_size
    return 0 if batch_s < SHORT_S else min(max((os.cpu_count() or 1) - 1, 1), MOST_WORKERS)


def resident(dataset: Dataset, device: torch.device) -> Dataset:
    """The data set on a GPU, when it is in memory and takes less than half of what the GPU has free; else as it is."""
    if not isinstance(dataset, TensorDataset) or device.type != "cuda":
        return dataset
    size = sum(t.numel() * t.element_size() for t in dataset.tensors)
    free, _ = torch.cuda.mem_get_info(device)
    return TensorDataset(*(t.to(device) for t in dataset.tensors)) if 2 * size < free else dataset
