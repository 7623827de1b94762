"""Data sets held as whole tensors, whose batches are taken by their rows at once: no per-sample Python."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, Self

import torch
from torch.utils.data import Dataset, TensorDataset

NARROW = (torch.uint8, torch.int16)  # what labels are kept as, where they fit


class InMemory(Dataset, ABC):
    """A data set in memory that is more than rows of tensors; torch's TensorDataset serves those.

    `lengths`, (rows,), is set where rows differ in length: batches are then made of rows of like lengths.
    """

    lengths: torch.Tensor | None = None

    @abstractmethod
    def __len__(self) -> int:
        """Number of rows."""

    @abstractmethod
    def take(self, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The inputs and, last, the target of these rows, (B,) whole numbers: one batch."""

    @abstractmethod
    def parts(self) -> list[torch.Tensor]:
        """All tensors that it holds."""

    @abstractmethod
    def to(self, device: torch.device) -> Self:
        """The same data set on a device."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        return tuple(part[0] for part in self.take(torch.tensor([index])))


class Ragged:
    """Sequences of different lengths, end to end in one tensor.

    Args:
        values: (sum of the lengths, ...).
        offsets: (N + 1,), where each sequence begins, and the end.
    """

    def __init__(self, values: torch.Tensor, offsets: torch.Tensor):
        self.values = values
        self.offsets = offsets

    @classmethod
    def of(cls, sequences: Iterable[Sequence[int]], dtype: torch.dtype = torch.int32) -> "Ragged":
        """From whole numbers."""
        kept = [torch.as_tensor(s, dtype=dtype) for s in sequences]
        lengths = torch.tensor([0, *(len(s) for s in kept)])
        return cls(torch.cat(kept) if kept else torch.empty(0, dtype=dtype), lengths.cumsum(0))

    @property
    def lengths(self) -> torch.Tensor:
        """(N,)."""
        return self.offsets.diff()

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def padded(self, rows: torch.Tensor, fill: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Some of the sequences side by side.

        Returns:
            (B, longest of them) with `fill` after each end, and the lengths (B,).
        """
        rows = rows.long()
        first = self.offsets[rows]
        lengths = self.offsets[rows + 1] - first
        steps = torch.arange(int(lengths.max()), device=lengths.device)
        inside = steps < lengths[:, None]
        taken = self.values[(first[:, None] + steps).where(inside, 0)]
        return taken.where(inside, fill), lengths

    def to(self, device: torch.device) -> "Ragged":
        """The same on a device."""
        return Ragged(self.values.to(device), self.offsets.to(device))


def take(dataset: Any, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """One batch of a data set in memory, by its rows; labels as int64, however they are kept."""
    if not isinstance(dataset, TensorDataset):
        return dataset.take(rows)
    *inputs, target = (tensor.index_select(0, rows) for tensor in dataset.tensors)
    return (*inputs, target.long() if target.dtype in NARROW else target)


def narrowed(dataset: Any) -> Any:
    """A data set whose labels take a byte or two each, where they fit: a column of int64 weighs as much as two of inputs."""
    if not isinstance(dataset, TensorDataset) or dataset.tensors[-1].dtype != torch.int64 or not len(dataset):
        return dataset
    *inputs, target = dataset.tensors
    low, high = int(target.min()), int(target.max())
    fitting = [dtype for dtype in NARROW if torch.iinfo(dtype).min <= low and high <= torch.iinfo(dtype).max]
    return TensorDataset(*inputs, target.to(fitting[0])) if fitting else dataset


def parts(dataset: Any) -> list[torch.Tensor] | None:
    """All tensors of a data set in memory; None for one that is not."""
    if isinstance(dataset, TensorDataset):
        return list(dataset.tensors)
    return dataset.parts() if isinstance(dataset, InMemory) else None


def moved_to(dataset: Any, device: torch.device) -> Any:
    """A data set in memory on a device."""
    if isinstance(dataset, TensorDataset):
        return TensorDataset(*(t.to(device) for t in dataset.tensors))
    return dataset.to(device)
