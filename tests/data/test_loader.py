"""Both loaders give the same batches in the same order."""

import time

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from iolaus.data.loader import TensorLoader, make_loader, paying_workers, resident
from iolaus.data.memory import InMemory, Ragged

ROWS = torch.arange(3, 50)


class Slow(Dataset):
    """The same data, one sample at a time."""

    def __len__(self):
        return 50

    def __getitem__(self, index):
        return torch.tensor([index, -index]), torch.tensor(index % 3)


def tensors():
    index = torch.arange(50)
    return TensorDataset(torch.stack([index, -index], 1), index % 3)


@pytest.mark.parametrize("key", [None, lambda: (4, 2)])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_slices_and_dataloader_agree(key, num_workers):
    fast = make_loader(tensors(), ROWS, 8, key, 0)
    slow = make_loader(Slow(), ROWS, 8, key, num_workers)
    assert isinstance(fast, TensorLoader)
    assert isinstance(slow, DataLoader)
    assert len(fast) == len(slow) == 6
    for a, b in zip(fast, slow, strict=True):
        assert torch.equal(a[0], b[0])
        assert torch.equal(a[1], b[1])


class Slept(Slow):
    def __getitem__(self, index):
        time.sleep(0.001)
        return super().__getitem__(index)


def test_workers_are_started_where_they_pay():
    assert paying_workers(Slow(), ROWS, 8) == 0
    assert paying_workers(Slept(), ROWS, 64) >= 1


def test_data_stay_where_they_are_without_a_gpu():
    data = tensors()
    assert resident(data, torch.device("cpu")) is data


def test_batches_come_from_where_the_data_are():
    data = TensorDataset(torch.empty(50, 2, device="meta"), torch.empty(50, device="meta"))
    batches = list(TensorLoader(data, ROWS, 8, lambda: (0,)))
    assert all(part.device.type == "meta" for batch in batches for part in batch)


def test_each_epoch_has_its_order():
    epoch = 0
    loader = TensorLoader(tensors(), ROWS, 8, lambda: (1, epoch))
    first = torch.cat([b[0] for b in loader])
    epoch = 1
    second = torch.cat([b[0] for b in loader])
    assert not torch.equal(first, second)
    assert torch.equal(first.sort(0).values, second.sort(0).values)


LENGTHS = torch.arange(50) * 7 % 31 + 1


class Sequences(InMemory):
    """Row n is LENGTHS[n] times the number n."""

    lengths = LENGTHS

    def __init__(self):
        self.rows = Ragged.of([n] * int(length) for n, length in enumerate(LENGTHS))

    def __len__(self):
        return 50

    def take(self, rows):
        padded, lengths = self.rows.padded(rows, -1)
        return padded, lengths, rows

    def parts(self):
        return [self.rows.values]

    def to(self, device):
        return self


class OneByOne(Dataset):
    """The same sequences outside memory."""

    lengths = LENGTHS

    def __len__(self):
        return 50

    def __getitem__(self, index):
        return torch.full((int(LENGTHS[index]),), index), index

    def collate(self, samples):
        padded = torch.nn.utils.rnn.pad_sequence([s for s, _ in samples], batch_first=True, padding_value=-1)
        return padded, torch.tensor([len(s) for s, _ in samples]), torch.tensor([index for _, index in samples])


@pytest.mark.parametrize("key", [None, lambda: (4, 2)])
@pytest.mark.parametrize("start", [0, 3])
def test_sequences_come_in_the_same_batches_from_any_batch_on(key, start):
    loaders = [make_loader(data, ROWS, 8, key, 0, lambda: start) for data in (Sequences(), OneByOne())]
    whole = list(make_loader(Sequences(), ROWS, 8, key, 0))
    for fast, slow, expected in zip(*loaders, whole[start:], strict=True):
        for a, b, c in zip(fast, slow, expected, strict=True):
            assert torch.equal(a.long(), c.long())
            assert torch.equal(b.long(), c.long())
    assert sorted(torch.cat([batch[-1] for batch in whole]).tolist()) == ROWS.tolist()
