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
    order = permutation(n, *key)
    if fraction == 0 or n < 2:
        return torch.arange(n), torch.arange(0)
    if labels is not None:
        # Within each class (a stable sort keeps the random order) the rows get ranks 0, 1, ...; sorting by
        # rank / class size spreads every class evenly, so that any head of the order holds each class's share.
        by_class = order[torch.sort(labels[order], stable=True).indices]
        counts = torch.unique(labels, return_counts=True)[1]
        ranks = torch.cat([(torch.arange(int(c)) + 0.5) / int(c) for c in counts])
        order = by_class[torch.sort(ranks, stable=True).indices]
    size = min(max(round(n * fraction), 1), n - 1)
    return order[size:].sort().values, order[:size].sort().values
