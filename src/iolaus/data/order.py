"""The order of the data as a pure function of its key, so that a position in an epoch is one number."""

from collections.abc import Iterator

import torch

from iolaus.functional.keys import mix

BUCKET = 64  # batches whose rows are sorted by length together
BLOCK = 4_096  # rows that are read together
SCALARS = 2**20  # of a long column that are looked at together


def permutation(n: int, *key: int) -> torch.Tensor:
    """A permutation of 0 .. n-1 that depends on the key alone.

    Shape:
        output: (n,), of row_dtype(n).
    """
    return torch.randperm(n, dtype=row_dtype(n), generator=torch.Generator().manual_seed(mix(*key)))


def shuffled(rows: torch.Tensor, *key: int) -> torch.Tensor:
    """The rows in the order that a key gives, written over the permutation itself: of a large table's rows no third copy is made."""
    order = permutation(len(rows), *key)
    for block in order.split(SCALARS):
        block.copy_(rows[block])
    return order


def bucketed(rows: torch.Tensor, lengths: torch.Tensor, batch_size: int, *key: int) -> torch.Tensor:
    """Rows in another order, so that those of a batch are of like lengths and little is padded.

    With a key, rows are sorted by length among those of 64 batches and the batches then shuffled by the key; without one all are sorted.
    Only the last batch may be smaller.

    Args:
        rows: (n,), shuffled.
        lengths: of every row of the data set.
        batch_size: rows in a batch.
        key: what the order of the batches depends on.
    """
    if not key:
        return rows[lengths[rows].argsort(stable=True)]
    parts = rows.split(BUCKET * batch_size)
    ordered = torch.cat([part[lengths[part].argsort(stable=True)] for part in parts])
    full = len(rows) // batch_size
    batches = ordered[: full * batch_size].view(full, batch_size)[permutation(full, *key, batch_size)]
    return torch.cat([batches.flatten(), ordered[full * batch_size :]])


def count_batches(rows: int, batch_size: int, world: int = 1, min_rows: int = 1) -> int:
    """Return the number of batches of an epoch, the same for each process.

    Args:
        rows: of the epoch.
        batch_size: rows of a process.
        world: number of processes.
        min_rows: a last batch that gives a process fewer rows is joined to the batch before it, where there is one.
    """
    full, rest = divmod(rows, batch_size * world)
    if full and rest > 0 and max(rest // world, 1) < min_rows:
        return full
    return full + (rest > 0)


def shares(
    rows: torch.Tensor, batch_size: int, rank: int, world: int, min_rows: int = 1, start: int = 0
) -> Iterator[torch.Tensor]:
    """The rows that one of several processes takes of each batch of all: every `world`-th, so that no row comes twice and none is left.

    Of a last batch that has fewer rows than there are processes, those that go without get its first row, which they must not count: each
    process has as many batches as the others, which wait for it.

    Args:
        rows: (n,), in the order of the epoch.
        batch_size: rows of a process.
        rank: of the process.
        world: how many processes there are.
        min_rows: see `count_batches`.
        start: the first batch.
    """
    size, count = batch_size * world, count_batches(len(rows), batch_size, world, min_rows)
    for number in range(start, count):
        batch = rows[number * size : (number + 1) * size if number < count - 1 else len(rows)]
        yield batch if world == 1 else batch[rank::world] if rank < len(batch) else batch[:1]


def row_dtype(n: int) -> torch.dtype:
    """The smallest dtype that numbers n rows: rows of a large table must not weigh as much as a column of it."""
    return torch.int32 if n < 2**31 else torch.int64


def split(labels: torch.Tensor | None, n: int, fraction: float, *key: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut `fraction` of n rows off, of each class its share where labels are given.

    Returns:
        the rows that stay and the rows cut off, both ascending, of row_dtype(n). At least one row is cut off, and one
        stays, where there are two and the fraction is not zero.

    Shape:
        labels: (n,), integer class labels, or None.
    """
    if fraction == 0 or n < 2:
        return torch.arange(n, dtype=row_dtype(n)), torch.arange(0, dtype=row_dtype(n))
    size = min(max(round(n * fraction), 1), n - 1)
    cut = torch.zeros(n, dtype=torch.bool)
    if labels is None or int(labels.min()) < 0:  # negative labels are told when the data are checked
        cut[permutation(n, *key)[:size]] = True
    else:
        classes = int(labels.max()) + 1
        counts = torch.stack([torch.bincount(part, minlength=classes) for part in labels.split(SCALARS)]).sum(0)
        for label, share in enumerate(_shares(counts, size, *key).tolist()):
            members = _where(labels == label)
            cut[members[permutation(len(members), *key, label)[:share]]] = True
    return _where(~cut), _where(cut)


def fold(labels: torch.Tensor | None, n: int, folds: int, number: int, *key: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut n rows into parts that differ by one row at most, of each class too where labels are given.

    Rows are sorted by class, in an order that the key gives within a class, and dealt out to the parts in turn.

    Args:
        labels: class labels, or None.
        n: number of rows.
        folds: number of parts.
        number: of the part that is cut off, from 0.
        key: what the parts depend on.

    Returns:
        the rows of the other parts and those of this one, both ascending, of row_dtype(n).

    Shape:
        labels: (n,).
    """
    order = permutation(n, *key)
    if labels is not None and int(labels.min()) >= 0:  # negative labels are told when the data are checked
        order = order[labels.index_select(0, order).argsort(stable=True)]
    cut = torch.zeros(n, dtype=torch.bool)
    cut[order[number::folds].long()] = True
    return _where(~cut), _where(cut)


def _where(mask: torch.Tensor) -> torch.Tensor:
    """The rows that a mask (n,) marks, in blocks, so that int64 numbers of all of them are never held."""
    rows = torch.empty(int(mask.sum()), dtype=row_dtype(len(mask)))
    filled = 0
    for i, part in enumerate(mask.split(SCALARS)):
        found = part.nonzero()[:, 0]
        rows[filled : filled + len(found)] = found + i * SCALARS
        filled += len(found)
    return rows


def _shares(counts: torch.Tensor, size: int, *key: int) -> torch.Tensor:
    """How many of each class make up `size` rows: its exact share rounded down, then one more by the largest remainders.

    Equal remainders are ordered by the key, so that no class is always the one that goes short.
    """
    exact = counts.double() * size / counts.sum()
    shares = exact.floor().long()
    order = permutation(len(counts), *key, size)
    largest = order[(exact - shares)[order].argsort(descending=True, stable=True)]
    shares[largest[: size - int(shares.sum())]] += 1
    return shares
