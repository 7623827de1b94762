"""How a setting's values are laid along an axis: numbers by their size, by decades where they span some, and names side by side."""

import math
import re
from collections.abc import Sequence
from typing import Any

DECADES = 20.0  # ratio of the largest to the least number from which an axis is logarithmic


def is_numeric(values: Sequence[Any]) -> bool:
    """Whether all values are numbers, and none is true or false."""
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def is_log(values: Sequence[float]) -> bool:
    """Whether numbers, all above 0, span decades and stand no less evenly by their logarithms than by themselves."""
    if min(values) <= 0 or max(values) < DECADES * min(values):
        return False
    return _unevenness([math.log(value) for value in values]) <= _unevenness(values)


def _unevenness(values: Sequence[float]) -> float:
    """How far different numbers are from standing at equal distances, on average, as a share of their range."""
    places = sorted(set(values))
    low, last = places[0], len(places) - 1
    return sum(abs((place - low) / (places[-1] - low) - n / last) for n, place in enumerate(places)) / len(places)


def names(values: Sequence[Any]) -> list[str]:
    """The different values of a setting that is no number, as texts, by the alphabet and numbers in them by their size."""

    def order(name: str) -> list[tuple[float, str]]:
        return [(float(part), "") if part.isdigit() else (math.inf, part) for part in re.split(r"(\d+)", name)]

    return sorted(set(map(cell, values)), key=order)


def codes(values: Sequence[Any]) -> list[float]:
    """A number for each value: itself, or the place of its name."""
    if is_numeric(values):
        return [float(value) for value in values]
    places = {name: float(place) for place, name in enumerate(names(values))}
    return [places[cell(value)] for value in values]


def cell(value: Any) -> str:
    """A value as a table shows it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return f"[{', '.join(map(cell, value))}]"
    return str(value)
