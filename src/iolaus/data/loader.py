"""Batches in an order that depends on (seed, epoch) alone: slices of tensors in memory, or torch's DataLoader."""

from collections.abc import Callable, Iterable, Iterator, Sequence, Sized

import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from iolaus.augment.base import Augmentation, Batch
from iolaus.data.order import mix, permutation


class TensorLoader:
    """Batches of tensors in memory: no per-sample Python, each batch one `index_select`.

    Args:
        dataset: the tensors; its rows are samples.
        rows: the rows of this split, (n,) int64.
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
        for batch in rows.split(self.batch_size):
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
    num_workers: int,
) -> TensorLoader | DataLoader:
    """The loader that suits the data set: slices for tensors in memory, torch's DataLoader for everything else."""
    if isinstance(dataset, TensorDataset):
        return TensorLoader(dataset, rows, batch_size, key)
    batches = KeyedBatches(rows, batch_size, key)
    return DataLoader(
        dataset, batch_sampler=batches, num_workers=num_workers, persistent_workers=False, generator=torch.Generator()
    )
