"""Settings that wait for the data: what only they tell stands in a run's first config.yaml as a reference, such as ${data.vocab_size}."""

import re
from collections.abc import Iterator
from typing import Any

DATA = re.compile(r"\$\{data\.\w+(?:\.\w+|\[\d+\])*\}")
OTHER = re.compile(r"\$\{(\w+(?:\.\w+)*)\}")  # to a setting elsewhere
CALL = re.compile(
    r"\$\{(?:slug|share|less):[^${}]*\}"
)  # of iolaus.interpolations, whose arguments are followed already
MAX_REFERENCES = 200  # so that a short text cannot unfold to a huge one


def keep_references(resolved: dict[str, Any], raw: dict[str, Any]) -> dict[str, Any]:
    """Return resolved settings, in which those outside of `data` that refer to it stand as they were written.

    Args:
        resolved: plain containers, by what is known before the data are read.
        raw: the same, interpolations not followed.
    """

    def keep(value: Any, text: Any) -> Any:
        if isinstance(text, dict) and isinstance(value, dict):
            return {key: keep(item, text[key]) for key, item in value.items()}
        if isinstance(text, list) and isinstance(value, list):
            return [keep(*pair) for pair in zip(value, text, strict=True)]
        if isinstance(text, str) and "${" in text:
            reference = _expand(text, raw, resolved)
            return reference if DATA.search(reference) and is_reference(reference) else value
        return value

    return {key: value if key == "data" else keep(value, raw[key]) for key, value in resolved.items()}


def _expand(text: str, raw: dict[str, Any], resolved: dict[str, Any]) -> str:
    """A text whose references to settings outside of `data` are followed until they are to `data`, or to a value."""

    def follow(match: re.Match[str]) -> str:
        if match[1].startswith("data."):
            return match[0]
        source = _at(raw, match[1])
        if isinstance(source, str) and "${" in source:
            return _expand(source, raw, resolved)
        return str(_at(resolved, match[1]))

    return OTHER.sub(follow, text)


def _at(settings: Any, key: str) -> Any:
    for part in key.split("."):
        if isinstance(settings, list) and part.isdigit() and int(part) < len(settings):
            settings = settings[int(part)]
        else:
            settings = settings.get(part) if isinstance(settings, dict) else None
    return settings


def is_reference(text: str) -> bool:
    """Whether all interpolations of a text are references to the data, or functions of them that read nothing else."""
    text = DATA.sub("0", text)
    while (shorter := CALL.sub("0", text)) != text:
        text = shorter
    return "${" not in text


def has_foreign_interpolations(settings: dict[str, Any]) -> bool:
    """Whether settings have interpolations that no run has written: in `data`, to anything else than the data, or very many."""
    texts = [text for key, value in settings.items() if key != "data" for text in interpolations(value)]
    return (
        any(True for _ in interpolations(settings.get("data")))
        or not all(map(is_reference, texts))
        or sum(text.count("${") for text in texts) > MAX_REFERENCES
    )


def interpolations(value: Any) -> Iterator[str]:
    """Return texts with interpolations inside containers, keys of dictionaries too."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from interpolations(key)
            yield from interpolations(item)
    elif isinstance(value, list):
        for item in value:
            yield from interpolations(item)
    elif isinstance(value, str) and "${" in value:
        yield value
