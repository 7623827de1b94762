"""Functions that settings call by name, as in ${slug:...}; importing this makes them known."""

import re

from omegaconf import OmegaConf


def slug(text: object) -> str:
    """A name that is safe in a path and readable: other characters become `-`; at most 80 characters."""
    return re.sub(r"[^\w.+-]+", "-", str(text)).strip("-.")[:80]


def share(part: float, whole: int | None) -> int:
    """A part of a whole, rounded down; at least 1."""
    return max(int(part * (whole or 0)), 1)


def less(whole: int | None, part: int) -> int:
    """What is left of a whole; at least 1."""
    return max((whole or 0) - part, 1)


for _function in (slug, share, less):
    OmegaConf.register_new_resolver(_function.__name__, _function, replace=True)
