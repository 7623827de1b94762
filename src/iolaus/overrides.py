"""Overrides as text: what a user pastes into a shell, and what Hydra then reads back as the same value."""

import re
import shlex
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

# A text that Hydra's grammar reads as itself without quotes; numbers do not begin with a letter, and these words are values.
PLAIN = re.compile(r"(?!(?:true|false|null|nan|inf)$)[A-Za-z_][A-Za-z0-9_./-]*", re.IGNORECASE)


def override_text(key: str, value: Any) -> str:
    """Return `KEY=VALUE`, quoted for Hydra's grammar and for the shell.

    Args:
        key: full name of a setting, or of a group.
        value: plain: None, booleans, numbers, texts, and lists and dicts of them; anything else as its text.

    Raises:
        ValueError: for a dict with a key that Hydra's grammar cannot express.

    Example:
        >>> print(override_text("data.drop", ["owner, name", "id"]))
        'data.drop=["owner, name",id]'
    """
    return shlex.quote(f"{key}={value_text(value)}")


def removal_text(key: str) -> str:
    """Return `~KEY`, which removes a setting, quoted for the shell."""
    return shlex.quote(f"~{key}")


def value_text(value: Any) -> str:
    """Return a value in Hydra's grammar, not quoted for the shell."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Integral):
        return str(int(value))
    if isinstance(value, Real):
        return repr(float(value))
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_dict_key(key)}:{value_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return "[" + ",".join(map(value_text, value)) + "]"
    text = str(value)
    return text if PLAIN.fullmatch(text) else quoted(text)


def quoted(text: str) -> str:
    """Quote a text for Hydra's grammar: OmegaConf must read no interpolation in it, and Hydra no end before its end."""
    literal = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
    return '"' + re.sub(r'(\\*)("|\Z)', lambda found: found[1] * 2 + (r"\"" if found[2] else ""), literal) + '"'


def _dict_key(key: Any) -> str:
    """Hydra's grammar has no quotes for the keys of a dict, and reads some words as other values."""
    text = str(key)
    if not PLAIN.fullmatch(text):
        raise ValueError(f"Hydra's grammar cannot express the key {text!r}")
    return text
