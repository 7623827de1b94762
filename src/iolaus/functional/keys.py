"""Randomness that depends on where it is used and on nothing else: numbers from keys such as (seed, epoch, batch)."""

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
