"""Parameter groups by name: another rate, no decay, or no training at all for some of the weights."""

import re
from collections.abc import Iterable
from typing import Any

from torch import nn

from iolaus.rules import GROUP_KEYS


def parameter_groups(
    parameters: Iterable[tuple[str, nn.Parameter]], groups: dict[str, dict[str, Any]]
) -> list[dict[str, Any]]:
    """Sort parameters into groups as optimizers take them.

    Args:
        parameters: by name; those that are not to be trained are left out.
        groups: by name: `match`, a regular expression that is searched in a parameter's name; `ndim`, how many dimensions it
            has at most (1: biases and norms); with both, both must hold. `frozen: true` keeps the weights as they are. Everything
            else is the optimizer's. The first group that a parameter belongs to counts; the rest have the optimizer's own settings.

    Raises:
        ValueError: for a group that no parameter belongs to, or when nothing is left to train.
    """
    members: dict[str, list[nn.Parameter]] = {name: [] for name in groups}
    rest: list[nn.Parameter] = []
    names = []
    for name, parameter in parameters:
        group = next((key for key, rule in groups.items() if belongs(name, parameter, rule)), None)
        if not parameter.requires_grad:
            if group is not None and groups[group].get("frozen"):  # as an earlier call left it
                members[group].append(parameter)
            continue
        names.append(name)
        (rest if group is None else members[group]).append(parameter)
    found = [{"params": rest, "name": "rest"}] if rest else []
    for key, rule in groups.items():
        if not members[key]:
            raise ValueError(f"_groups_.{key}: no parameter belongs to it; there are: {', '.join(names)}")
        if rule.get("frozen"):
            for parameter in members[key]:
                parameter.requires_grad_(False)
        else:
            settings = {name: value for name, value in rule.items() if name not in GROUP_KEYS}
            found.append({"params": members[key], "name": key, **settings})
    if not found:
        raise ValueError("_groups_: all parameters are frozen, nothing is left to train")
    return found


def belongs(name: str, parameter: nn.Parameter, rule: dict[str, Any]) -> bool:
    """Whether a group's rule chooses a parameter."""
    return re.search(rule.get("match", ""), name) is not None and parameter.ndim <= rule.get("ndim", parameter.ndim)
