"""The order of the data as a pure function of its key, so that a position in an epoch is one number."""

import torch

_MASK = 2**64 - 1


def mix(*key: int) -> int:
    """One well-spread 63-bit number from several whole numbers; the same on every machine and version.

    The finaliser of splitmix64 over the running sum. Steele, Lea and Flood, https://doi.org/10.1145/2714064.2660195
    """
    z = 0
    for part in key:
        z = (z + (part & _MASK) + 0x9E3779B97F4A7C15) & _MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        z ^= z >> 31
    return z >> 1


def permutation(n: int, *key: int) -> torch.Tensor:
    """A permutation of 0 .. n-1 that depends on the key alone.

    Shape:
        output: (n,), int64.
    """
    return torch.randperm(n, generator=torch.Generator().manual_seed(mix(*key)))


def split(labels: torch.Tensor | None, n: int, fraction: float, *key: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut `fraction` of n rows off, of each class its share where labels are given.

    Returns:
        the rows that stay and the rows cut off, both ascending int64. At least one row is cut off, and one stays,
        where there are two and the fraction is not zero.

    Shape:
        labels: (n,), integer class labels, or None.
    """
    if fraction == 0 or n < 2:
        return torch.arange(n), torch.arange(0)
    size = min(max(round(n * fraction), 1), n - 1)
    cut = torch.zeros(n, dtype=torch.bool)
    if labels is None or int(labels.min()) < 0:  # negative labels are told when the data are checked
        cut[permutation(n, *key)[:size]] = True
    else:
        counts = torch.bincount(labels)  # unlike `unique` it needs no sorted copy of all labels
        for label, share in enumerate(_shares(counts, size, *key).tolist()):
            members = (labels == label).nonzero()[:, 0]
            cut[members[permutation(len(members), *key, label)[:share]]] = True
    return (~cut).nonzero()[:, 0], cut.nonzero()[:, 0]


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
