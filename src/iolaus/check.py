"""The whole configuration, checked against signatures and declared kinds before torch is imported."""

import math
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from iolaus.consistency import inconsistencies, misfits, missing_files
from iolaus.errors import ConfigError, did_you_mean
from iolaus.rules import (
    CHOICES,
    GROUPS,
    KNOWN_PACKAGES,
    OTHER_MEANINGS,
    OWN_KEYS,
    RANGES,
    REQUIRED_GROUPS,
    SETTINGS,
    STAGES,
    UNLIMITED,
    allowed,
    given,
    in_words,
    target_of,
    within,
)
from iolaus.signature import Definition, Missing, Signature, accepts, describe, find, signature
from iolaus.suggestions import full_names

Node = dict[str, Any]


def check(
    config: DictConfig,
    choices: dict[str, Any] | None = None,
    folders: Sequence[Path] = (),
    reads_data: bool = True,
) -> None:
    """Refuse a configuration that cannot be meant.

    Args:
        config: the composed configuration; interpolations may still stand in it.
        choices: which option was chosen for each group, for messages in the user's words.
        folders: the folders that hold the options, for suggestions.
        reads_data: whether the data will be read, so that their files must be there.

    Raises:
        ConfigError: with every problem found, not the first alone.
    """
    raw = plain(config, resolve=False)
    problems = [*_missing(raw), *_unread(raw), *_settings(raw)]
    if not problems:
        try:
            resolved = plain(config)
        except OmegaConfBaseException as error:
            if problems := list(_nodes(raw, raw, "", allowed(raw.get("allow")))):
                raise ConfigError(problems) from None  # a value of another type than the interpolation expects
            # a part that reads a fact which these data do not have: told by what it wants, where it says so
            if problems := list(misfits(raw, choices or {}, folders)):
                raise ConfigError(problems) from None
            key = error.full_key or "configuration"
            raise ConfigError([f"{key}: {str(error).splitlines()[0]}"]) from None
        problems = [
            *_nodes(resolved, raw, "", allowed(resolved.get("allow"))),
            *_values(resolved, raw, ""),
            *inconsistencies(resolved, choices or {}, folders),
            *(missing_files(resolved["data"]) if reads_data else ()),
        ]
    if problems:
        raise ConfigError(problems)


def plain(config: DictConfig, resolve: bool = True) -> Node:
    """The configuration as plain dicts and lists."""
    return cast("Node", OmegaConf.to_container(config, resolve=resolve))


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def _missing(node: Any, path: str = "") -> Iterator[str]:
    """Values that must be given and were not, groups without a choice included."""
    if not path:
        for group in sorted(REQUIRED_GROUPS - {k for k, v in node.items() if isinstance(v, dict) and "_target_" in v}):
            yield f"{group}: nothing is chosen; choose an option as in {group}=NAME"
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        if value == "???":
            yield f"{_join(path, key)}: must be given, as in {_join(path, key)}=VALUE"
        else:
            yield from _missing(value, _join(path, key))


def _unread(raw: Node) -> Iterator[str]:
    """Top-level keys that neither Iolaus nor an interpolation of the configuration reads."""
    text = str(raw)
    for key in raw.keys() - SETTINGS - GROUPS:
        if not re.search(rf"\$\{{\s*{re.escape(str(key))}\b", text):
            names = full_names(str(key), raw)
            yield f"{key}: nothing reads this setting{f'; did you mean {names[0]!r}?' if names else ''}"


def _settings(config: Node) -> Iterator[str]:
    seed = config.get("seed")
    if not _is_interpolation(seed) and (not isinstance(seed, int) or isinstance(seed, bool)):
        yield f"seed: must be a whole number from 0; received {config.get('seed')!r}"
    stages = config.get("stages")
    if not isinstance(stages, list) or not stages:
        yield f"stages: must be a list of {', '.join(STAGES)}; received {stages!r}"
    else:
        for stage in stages:
            if stage not in STAGES:
                yield f"stages: there is no stage {stage!r}{did_you_mean(stage, STAGES)}  (there are: {', '.join(STAGES)})"
    if not isinstance(allow := config.get("allow"), list) or not all(isinstance(a, str) for a in allow):
        yield f"allow: must be a list of your own packages, as in allow=[my_package]; received {allow!r}"
    else:
        for package in allow:
            found = find(f"{package}.x")
            if isinstance(found, Missing) and found.module is None:
                yield f"allow: there is no package {package!r} in the working directory or among the installed ones"
    if not str(config.get("name") or "").strip():
        yield f"name: must be what the run is called; received {config.get('name')!r}"
    if not isinstance(config.get("objective"), dict):
        yield f"objective: has the settings objective.monitor and objective.mode; received {config.get('objective')!r}"


def _is_interpolation(raw: Any) -> bool:
    """Whether a value stands elsewhere: it is judged there, and may be one that only the data file tells."""
    return isinstance(raw, str) and "${" in raw


def _nodes(node: Any, raw: Any, path: str, rules: re.Pattern[str]) -> Iterator[str]:
    """Every `_target_` against the allow list and its signature."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield from _nodes(value, raw if _is_interpolation(raw) else raw[key], _join(path, key), rules)
    if not isinstance(node, dict) or "_target_" not in node:
        return
    for key in node.keys() - OWN_KEYS:
        if str(key).startswith("_"):
            yield f"{_join(path, key)}: there is no such key{did_you_mean(str(key), OWN_KEYS)}"
    target = node["_target_"]
    if not isinstance(target, str) or not rules.fullmatch(target):
        yield f"{_join(path, '_target_')}: {target!r} is not a class that a configuration may build{_why_refused(str(target), rules)}"
        return
    match find(target):
        case Missing(name=name, module=None):
            yield f"{_join(path, '_target_')}: the package {name!r} of {target} is not installed or not on the path"
        case Missing(name=name, module=module, candidates=candidates):
            yield f"{_join(path, '_target_')}: there is no {name!r} in {module}{did_you_mean(name, candidates)}"
        case Definition(module=module) if module.split(".")[0] not in {*KNOWN_PACKAGES, target.split(".")[0]}:
            yield f"{_join(path, '_target_')}: {target!r} is not a class that a configuration may build"
        case Definition() as definition:
            if (known := signature(definition)) is not None:
                yield from _arguments(node, raw, path, target, known)


def _why_refused(target: str, rules: re.Pattern[str]) -> str:
    """Return why a target is refused and what to do, as the end of a sentence."""
    found = find(target)
    if isinstance(found, Definition) and not found.is_class:
        own = "my_models.MyModel"
        return f": it is a function; write a class of your own that calls it and name that, as in {own} with allow=[my_models]"
    if rules.fullmatch(f"{target.rpartition('.')[0]}.X"):  # whose classes may be built
        return missing if (missing := _not_there(found)) else "; the name of a class begins with a capital letter"
    package = target.split(".")[0]
    is_own = package not in KNOWN_PACKAGES and package not in sys.stdlib_module_names
    return f"; for classes of your own package add allow=[{package}]" if is_own else ""


def _not_there(found: Any) -> str:
    """Return that a name does not exist, as the end of a sentence; nothing where it may."""
    if not isinstance(found, Missing) or found.module is None:
        return ""
    return f": there is no {found.name!r} in {found.module}{did_you_mean(found.name, found.candidates)}"


def _arguments(node: Node, raw: Any, path: str, target: str, known: Signature) -> Iterator[str]:
    handed = given(path)
    for key, value in node.items():
        if key in OWN_KEYS or str(key).startswith("_"):
            continue
        if key in handed and key in known.parameters:
            yield f"{_join(path, key)}: Iolaus sets this argument; remove it"
        elif key not in known.parameters:
            if not known.is_open:
                names = [p for p in known.parameters if p not in handed]
                yield f"{_join(path, key)}: {target} has no argument {key!r}{did_you_mean(key, names)}"
        elif not isinstance(value, dict) and not _is_interpolation(raw if isinstance(raw, str) else raw[key]):
            annotation = known.parameters[key].annotation
            if annotation is not None and accepts(annotation, value) is False:
                yield f"{_join(path, key)}: must be {describe(annotation)}; received {value!r}"
    for name, parameter in known.parameters.items():
        if parameter.required and name not in node and name not in handed:
            yield f"{_join(path, name)}: must be given; {target} requires it"


def _values(node: Node, raw: Any, path: str, owner: str = "iolaus") -> Iterator[str]:
    """Check ranges and choices by name; no number may be NaN or infinite.

    Args:
        node: resolved.
        raw: the same, with interpolations.
        path: of the node.
        owner: the package whose component the node belongs to; what the user's own mean is their business.
    """
    for key, value in node.items():
        full = _join(path, key)
        if _is_interpolation(raw[key]):
            continue
        if isinstance(value, dict):
            yield from _values(value, raw[key], full, _owner(value, str(key), owner))
            continue
        for number, item in enumerate(value if isinstance(value, list) else []):
            if isinstance(item, dict):
                yield from _values(item, raw[key][number], f"{full}.{number}", _owner(item, "", owner))
        if full in CHOICES and value not in CHOICES[full]:
            names = list(dict.fromkeys(str(c) for c in CHOICES[full] if c is not None))
            yield f"{full}: received {value!r}{did_you_mean(str(value), names)}  (there are: {', '.join(names)})"
        if (declared := _declared_by(node, str(key), owner)) in KNOWN_PACKAGES:
            yield from _numbers(full, str(key), value, declared)


def _owner(node: Node, key: str, owner: str) -> str:
    """Return the package that a node belongs to: its class', that of a layer or transform by its name, or what it stands in."""
    if target := target_of(node):
        return target.partition(".")[0]
    return "torch" if key[:1].isupper() and owner == "iolaus" else owner


def _declared_by(node: Node, key: str, owner: str) -> str:
    """Return the package whose class declares an argument, which the user's own class may inherit."""
    if owner in KNOWN_PACKAGES or not isinstance(found := find(target_of(node)), Definition):
        return owner
    known = signature(found)
    parameter = known.parameters.get(key) if known is not None else None
    return parameter.module.partition(".")[0] if parameter is not None and parameter.module else owner


def _numbers(full: str, key: str, value: Any, owner: str) -> Iterator[str]:
    """Check the numbers of one setting."""
    interval = None if owner != "iolaus" and key in OTHER_MEANINGS else RANGES.get(key)
    for number in value if isinstance(value, list) else [value]:
        if not isinstance(number, int | float) or isinstance(number, bool):
            continue
        if not math.isfinite(number):
            yield f"{full}: must be a finite number; received {value!r}"
        elif interval and not within(number, interval) and not (number == -1 and key in UNLIMITED):
            yield f"{full}: must be {in_words(interval)}; received {value!r}"
