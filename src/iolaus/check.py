"""The whole configuration, checked against signatures and declared kinds before torch is imported."""

import difflib
import math
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from iolaus.errors import ConfigError, did_you_mean
from iolaus.rules import (
    CHOICES,
    GIVEN,
    GROUPS,
    KINDS,
    KNOWN_PACKAGES,
    OWN_KEYS,
    RANGES,
    REQUIRED_GROUPS,
    SETTINGS,
    STAGES,
    UNLIMITED,
    allowed,
    in_words,
    within,
)
from iolaus.signature import Definition, Missing, Signature, accepts, attribute, describe, find, signature

Node = dict[str, Any]


def check(config: DictConfig, choices: dict[str, Any] | None = None, folders: Sequence[Path] = ()) -> None:
    """Refuse a configuration that cannot be meant.

    Args:
        config: the composed configuration; interpolations may still stand in it.
        choices: which option was chosen for each group, for messages in the user's words.
        folders: the folders that hold the options, for suggestions.

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
            key = error.full_key or "configuration"
            raise ConfigError([f"{key}: {str(error).splitlines()[0]}"]) from None
        problems = [
            *_nodes(resolved, raw, "", allowed(resolved.get("allow"))),
            *_values(resolved, raw, ""),
            *_facts(resolved, choices or {}, folders),
            *_objective(resolved),
            *_combinations(resolved),
            *_paths(resolved["data"]),
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
    text = yaml.safe_dump({k: v for k, v in raw.items() if k not in SETTINGS}) + str(raw.get("objective"))
    for key in raw.keys() - SETTINGS - GROUPS:
        if not re.search(rf"\$\{{\s*{re.escape(str(key))}\b", text):
            yield f"{key}: nothing reads this setting{_full_name(str(key), raw)}"


def _full_name(key: str, config: Node) -> str:
    """The setting that a top-level key was meant for: one whose last part is near, by its full name."""
    settings: dict[str, str] = {}
    for full in _leaves(config):
        settings.setdefault(full.rpartition(".")[2], full)
    if settings.get(key) == key:
        del settings[key]
    near = difflib.get_close_matches(key, settings, 1, 0.6)
    return f"; did you mean '{settings[near[0]]}'?" if near else ""


def _leaves(node: Node, path: str = "") -> Iterator[str]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _leaves(value, _join(path, key))
        else:
            yield _join(path, key)


def _settings(config: Node) -> Iterator[str]:
    if not isinstance(config.get("seed"), int) or isinstance(config.get("seed"), bool):
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
            if isinstance(find(f"{package}.x"), Missing) and find(f"{package}.x") == Missing(
                package.split(".")[0], None
            ):
                yield f"allow: there is no package {package!r} in the working directory or among the installed ones"
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
        package = str(target).split(".")[0]
        own = package not in KNOWN_PACKAGES and package not in sys.stdlib_module_names
        hint = f"; for classes of your own package add allow=[{package}]" if own else ""
        yield f"{_join(path, '_target_')}: {target!r} is not a class that a configuration may build{hint}"
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


def _arguments(node: Node, raw: Any, path: str, target: str, known: Signature) -> Iterator[str]:
    given = GIVEN.get(path, set())
    for key, value in node.items():
        if key in OWN_KEYS or str(key).startswith("_"):
            continue
        if key in given and key in known.parameters:
            yield f"{_join(path, key)}: Iolaus sets this argument; remove it"
        elif key not in known.parameters:
            if not known.is_open:
                names = [p for p in known.parameters if p not in given]
                yield f"{_join(path, key)}: {target} has no argument {key!r}{did_you_mean(key, names)}"
        elif not isinstance(value, dict) and not _is_interpolation(raw if isinstance(raw, str) else raw[key]):
            annotation = known.parameters[key].annotation
            if annotation is not None and accepts(annotation, value) is False:
                yield f"{_join(path, key)}: must be {describe(annotation)}; received {value!r}"
    for name, parameter in known.parameters.items():
        if parameter.required and name not in node and name not in given:
            yield f"{_join(path, name)}: must be given; {target} requires it"


def _values(node: Node, raw: Any, path: str) -> Iterator[str]:
    """Ranges and choices by name; no number may be NaN or infinite."""
    for key, value in node.items():
        full = _join(path, key)
        if _is_interpolation(raw[key]):
            continue
        if isinstance(value, dict):
            yield from _values(value, raw[key], full)
            continue
        if full in CHOICES and value not in CHOICES[full]:
            names = list(dict.fromkeys(str(c) for c in CHOICES[full] if c is not None))
            yield f"{full}: received {value!r}{did_you_mean(str(value), names)}  (there are: {', '.join(names)})"
        interval = RANGES.get(str(key))
        for number in value if isinstance(value, list) else [value]:
            if not isinstance(number, int | float) or isinstance(number, bool):
                continue
            if not math.isfinite(number):
                yield f"{full}: must be a finite number; received {value!r}"
            elif interval and not within(number, interval) and not (number == -1 and key in UNLIMITED):
                yield f"{full}: must be {in_words(interval)}; received {value!r}"


def _facts(config: Node, choices: dict[str, Any], folders: Sequence[Path]) -> Iterator[str]:
    """Parts that cannot work with this kind of data, with options that can."""
    data = config["data"]
    source = f"data={choices['data']}" if "data" in choices else "this data set"
    for group in sorted(GROUPS):
        part = config.get(group)
        nodes = [part] if isinstance(part, dict) and "_target_" in part else list((part or {}).values())
        for node in nodes:
            for fact, kinds in (node.get("_accepts_") or {} if isinstance(node, dict) else {}).items():
                if data.get(fact) is None or data[fact] in kinds:
                    continue
                choice = choices.get(group)
                name = f"{group}={choice}" if isinstance(choice, str) else f"{group} {node['_target_'].split('.')[-1]}"
                words = KINDS.get(fact, {})
                wants = " or ".join(words.get(a, f"{fact} {a}") for a in kinds)
                has = words.get(data[fact], f"{fact} {data[fact]}")
                others = _options(group, fact, data[fact], folders)
                hint = f"; try {' or '.join(f'{group}={o}' for o in others[:3])}" if others else ""
                yield f"{name} with {source}: it wants {wants}, and the data have {has}{hint}"


def _options(group: str, fact: str, value: Any, folders: Sequence[Path]) -> list[str]:
    """The options of a group that declare they accept a fact."""
    fitting = []
    for file in sorted(f for folder in folders for f in (folder / group).glob("*.yaml")):
        content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        nodes = [content] if "_target_" in content else [v for v in content.values() if isinstance(v, dict)]
        declared = [n["_accepts_"][fact] for n in nodes if fact in (n.get("_accepts_") or {})]
        if declared and all(value in d for d in declared):
            fitting.append(file.stem)
    return fitting


def _objective(config: Node) -> Iterator[str]:
    """The monitored value must be one that is logged, and its direction the metric's own."""
    objective = config.get("objective")
    if not isinstance(objective, dict) or not isinstance(objective.get("monitor"), str):
        yield f"objective.monitor: must be a logged value such as loss/val; received {objective!r}"
        return
    for key in objective.keys() - {"monitor", "mode"}:
        yield f"objective.{key}: there is no such setting{did_you_mean(key, ('monitor', 'mode'))}"
    metrics = {k: m for k, m in (config.get("metrics") or {}).items() if isinstance(m, dict)}
    logged: dict[str, Node | None] = {f"loss/{split}": None for split in ("train", "val")}
    logged |= {f"{k}/{s}": m for k, m in metrics.items() for s in m.get("_splits_", ("train", "val")) if s != "test"}
    monitor = objective["monitor"]
    callbacks = {f"callbacks.{k}.monitor": c for k, c in (config.get("callbacks") or {}).items() if isinstance(c, dict)}
    watched = {"objective.monitor": monitor} | {k: c["monitor"] for k, c in callbacks.items() if c.get("monitor")}
    for key, value in watched.items():
        if value not in logged and (key == "objective.monitor" or value != monitor):
            names = ", ".join(sorted(logged))
            yield f"{key}: {value!r} is not logged while training{did_you_mean(value, logged)}\n  (logged are: {names})"
    if monitor not in logged:
        return
    higher: Any = False
    if (metric := logged[monitor]) is not None:
        definition = find(str(metric.get("_target_")))
        higher = attribute(definition, "higher_is_better") if isinstance(definition, Definition) else None
    right = {True: "max", False: "min"}.get(higher) if isinstance(higher, bool) else None
    if right and objective.get("mode") in CHOICES["objective.mode"] and objective["mode"] != right:
        better = "higher" if right == "max" else "lower"
        yield f"objective.mode: {better} is better for {monitor}, so mode must be {right}; received {objective['mode']!r}"


def _combinations(config: Node) -> Iterator[str]:
    """Settings that are right each and wrong together."""
    data, trainer = config["data"], config["trainer"]
    held_out = [data.get("val_fraction"), data.get("test_fraction")]
    if all(isinstance(f, int | float) for f in held_out) and sum(held_out) >= 1:
        yield f"data.val_fraction + data.test_fraction: nothing is left to train on; they sum to {sum(held_out):g}"
    if trainer.get("devices") not in (1, "1") and not (
        isinstance(trainer.get("devices"), list) and len(trainer["devices"]) == 1
    ):
        yield f"trainer.devices: training runs on one device; received {trainer.get('devices')!r}"
    if trainer.get("num_nodes", 1) != 1:
        yield f"trainer.num_nodes: training runs on one machine; received {trainer['num_nodes']!r}"
    last = trainer.get("max_epochs")
    if not isinstance(last, int) or last < 1:
        last = math.inf
    if (trainer.get("min_epochs") or 0) > last:
        yield f"trainer.min_epochs: must not exceed trainer.max_epochs={last}; received {trainer['min_epochs']}"
    if (every := trainer.get("check_val_every_n_epoch") or 1) > last:
        yield f"trainer.check_val_every_n_epoch: no validation would come within {last} epochs; received {every}"
    if trainer.get("precision") == "16-mixed" and trainer.get("gradient_clip_val") and config["optim"].get("fused"):
        yield "optim.fused: a fused optimizer cannot clip gradients with trainer.precision=16-mixed; set optim.fused=false"
    for name, callback in (config.get("callbacks") or {}).items():
        several = isinstance(callback, dict) and callback.get("save_top_k") not in (None, 0, 1)
        if several and "{" not in str(callback.get("filename")):
            yield (
                f"callbacks.{name}.save_top_k: several files need names that differ; "
                f"set 'callbacks.{name}.filename=\"best-{{epoch:03d}}\"' too"
            )


def _paths(data: Node) -> Iterator[str]:
    for key, value in data.items():
        if (key == "path" or key.endswith("_path")) and isinstance(value, str) and not Path(value).exists():
            yield f"data.{key}: {value} does not exist  (working directory: {Path.cwd()})"
