"""Full names of settings for the short ones that users try first: `lr` for `optim.lr`, `epochs` for `trainer.max_epochs`."""

import difflib
import shlex
from collections.abc import Iterable, Iterator
from typing import Any

MAX_LISTED = 4  # suggestions in one message


def full_names(name: str, config: dict[str, Any]) -> list[str]:
    """Return the settings that a name may mean, the likeliest first.

    Args:
        name: of a setting, or the last part of its name.
        config: composed, plain.

    Returns:
        settings whose last part is the name; else whose last part has all words of the name and fewest others; else the nearest.
    """
    settings = {full: value for full, value in _leaves(config) if full != name or "." in name}
    if "." in name:
        return [name] if name in settings else difflib.get_close_matches(name, settings, 1, 0.6)
    last = {full: full.rpartition(".")[2] for full in settings}
    words = set(name.lower().split("_"))
    more = {full: len(set(last[full].split("_")) - words) for full in settings if words <= set(last[full].split("_"))}
    near = difflib.get_close_matches(name.lower(), last.values(), 1, 0.6)
    found = (
        [full for full in settings if last[full] == name]
        or [full for full in more if more[full] == min(more.values())]
        or [full for full in settings if last[full] in near][:1]
    )
    return sorted(found, key=lambda full: (settings[full] is None, full.count(".")))  # what is null is meant seldom


def nearest(name: str, names: Iterable[str]) -> list[str]:
    """Return the name that is nearest to a misspelt one, alone in a list; an empty list where none is near."""
    return difflib.get_close_matches(name, list(names), 1, 0.6)


def did_you_mean_settings(names: list[str], value: str) -> str:
    """Return the end of a sentence that suggests overrides which work when they are pasted; nothing without names.

    Args:
        names: of settings or groups.
        value: as the user wrote it.
    """
    shown = [shlex.quote(f"{name}={value}") for name in names[:MAX_LISTED]]
    return f"; did you mean {' or '.join(shown)}?" if shown else ""


def _leaves(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        full = f"{path}.{key}" if path else str(key)
        if isinstance(value, dict) and value:
            yield from _leaves(value, full)
        elif not str(key).startswith("_"):
            yield full, value
