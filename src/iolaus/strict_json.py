"""JSON as the standard has it, which knows neither NaN nor Infinity: the one place where it is written."""

import json
import math
from typing import Any


def to_json(value: Any, **layout: Any) -> str:
    """JSON text of a value, with null in place of numbers that are not finite.

    Args:
        value: plain containers, texts and numbers.
        layout: indent, sort_keys, ensure_ascii and default, as json.dumps takes them.
    """
    return json.dumps(replace_non_finite(value), allow_nan=False, **layout)


def replace_non_finite(value: Any) -> Any:
    """The same containers with None in place of numbers that are not finite."""
    if isinstance(value, dict):
        return {key: replace_non_finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [replace_non_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
