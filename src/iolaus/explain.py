"""Hydra's refusals of an override, in the user's words and with the nearest name."""

import re
from collections.abc import Callable
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf

from iolaus.commands import install_command
from iolaus.errors import did_you_mean
from iolaus.signature import Definition, find, signature
from iolaus.suggestions import did_you_mean_settings, full_names, nearest

UNREADABLE = "not understood"
# Options that one looks for and that are not there: why, and what to do.
ABSENT = {
    "logger=neptune": "Neptune's service has ended, in March 2026; choose wandb, mlflow, comet or tensorboard",
    **{
        f"hydra/launcher={name}": f"the package {package} is not installed; {install_command('launchers')}"
        for package, names in {
            "hydra-joblib-launcher": ("joblib",),
            "hydra-submitit-launcher": ("submitit_local", "submitit_slurm", "slurm"),
        }.items()
        for name in names
    },
}


def explain(error: Exception, override: str, accepted: Callable[[], DictConfig]) -> str:
    """Say why one override was refused.

    Args:
        error: what Hydra raised.
        override: as the user wrote it.
        accepted: composes the overrides that were not refused.
    """
    key, _, value = override.lstrip("+~").partition("=")
    if isinstance(error, OverrideParseException) or not key:
        return unreadable(override)
    loader = GlobalHydra.instance().config_loader()
    missing = str(error.missing_cfg_file) if isinstance(error, MissingConfigException) else ""
    if isinstance(error, MissingConfigException) and (error.options is not None or missing.startswith(f"{key}/")):
        option = missing.rsplit("/", 1)[-1]
        error.options = error.options or loader.get_group_options(key)  # Hydra tells none for an option in a list
        if (reason := ABSENT.get(f"{key}={option}")) is not None:
            return f"{key}={value}: {reason}"
        options = [o for o in error.options if o != "auto"] or error.options
        near = did_you_mean(option, options)
        return f"{key}={value}: there is no {key} {option!r}{near}  (there are: {', '.join(options)})"
    if "Ambiguous value" in str(error) or "requires --multirun" in str(error):
        point = f", and a fraction {value.replace(',', '.')}" if re.fullmatch(r"-?\d+,\d+", value) else ""
        one = f"; one list is written {key}=[{value}]{point}" if "Ambiguous" in str(error) else ""
        return f"{override}: several values are a sweep; add -m{one}"
    if value == "null" and key in loader.list_groups(""):
        return f"{override}: choose an option, or nothing with {key}=[] where a run can go without"
    if "Could not override" not in str(error) and "Could not delete" not in str(error):
        return f"{override}: {str(error).splitlines()[0]}"
    node: Any = accepted()
    *path, last = key.split(".")
    walked = []
    for part in path:
        if not OmegaConf.is_dict(node) or part not in node:
            last = part
            break
        walked.append(part)
        node = node[part]
    names = [str(n) for n in node] if OmegaConf.is_dict(node) else []
    if last in names and OmegaConf.is_dict(node[last]):
        return f"{key}: its keys are fixed; to add one write +{override}"
    if not walked:
        return f"{override}: there is no setting or group {last!r}{_meant(key, value, override, node, names)}"
    target = node.get("_target_") if OmegaConf.is_dict(node) else None
    definition = find(target) if target else None
    known = signature(definition) if isinstance(definition, Definition) else None
    if known is None or target is None:
        return f"{key}: there is no setting {last!r} in {'.'.join(walked)}{did_you_mean(last, names)}"
    if last in known.parameters:
        return f"{key}: the option does not set it, but {target} takes it; write +{override}"
    return f"{key}: {target} has no argument {last!r}{did_you_mean(last, {*names, *known.parameters} - {'_target_'})}"


def _meant(key: str, value: str, override: str, config: Any, names: list[str]) -> str:
    """Suggest what a word without a dot may mean: a setting of just this last name, a near group, a setting with a near name."""
    if "." in key or override.startswith("~"):
        return did_you_mean(key.partition(".")[0], names)
    settings = full_names(key, OmegaConf.to_container(config, resolve=False))  # type: ignore[arg-type]
    is_exact = any(name.rpartition(".")[2] == key for name in settings)
    near = [] if is_exact else nearest(key, names)
    return did_you_mean_settings(near or settings, value)


def unreadable(override: object) -> str:
    """Say that an override is not in Hydra's grammar."""
    return f"{override}: {UNREADABLE}; write KEY=VALUE without spaces around =, and quote a value with special characters: 'KEY=\"a,b\"'"
