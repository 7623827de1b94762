"""Spellings of settings that a user may choose, made one: `~` for a home folder, one package in place of a list."""

import os
import re
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from iolaus.overrides import quoted

HOME = re.compile(r"~[\w.-]*/")  # how a path in a home folder begins
# In the value of an override: what is quoted; a path that is not and begins with `~`, which Hydra's grammar does not know: the whole
# value, or an item of several.
TOKENS = re.compile(
    r"""("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')|((?<==)~[\w.-]*/[^,"']*$|(?<=[=,(:\[ ])~[\w.-]*/[^,"'\])}]*)"""
)


def normalize(config: DictConfig) -> DictConfig:
    """Expand the home folder in all texts of a composed config, make a list of a single package in `allow`; return the config."""
    for key in config:
        if key != "hydra":
            _expand(config, key)
    allow = None if OmegaConf.is_missing(config, "allow") else config.get("allow")
    if isinstance(allow, str) and allow:
        config.allow = [name.strip() for name in allow.split(",")]
    return config


def _expand(parent: DictConfig | ListConfig, key: Any) -> None:
    """Expand the home folder in one value, and in all values inside it."""
    if OmegaConf.is_missing(parent, key) or OmegaConf.is_interpolation(parent, key):
        return
    value = parent[key]
    if isinstance(value, DictConfig | ListConfig):
        for inner in range(len(value)) if isinstance(value, ListConfig) else list(value):
            _expand(value, inner)
    elif isinstance(value, str) and HOME.match(value):
        parent[key] = os.path.expanduser(value)


def expand_home(value: Any) -> Any:
    """Return a plain value with the home folder in place of `~/` at the beginning of each text."""
    if isinstance(value, dict):
        return {key: expand_home(item) for key, item in value.items()}
    if isinstance(value, list):
        return [expand_home(item) for item in value]
    return os.path.expanduser(value) if isinstance(value, str) and HOME.match(value) else value


def home_path(text: str) -> Path:
    """Return the path that an option of a command names."""
    return Path(os.path.expanduser(text))


def quote_home(word: str) -> str:
    """Quote the unquoted paths of a home folder in an override, as in `data.path=~/rows.csv`, for Hydra's grammar.

    Options such as `--config-dir=~/options`, and words that are a path, are none of Hydra's and get the path itself.
    """
    key, equals, value = word.partition("=")
    if word.startswith("~/"):
        return os.path.expanduser(word)
    if key.startswith("--"):
        return f"{key}{equals}{expand_home(value)}"
    return key + TOKENS.sub(lambda found: found[1] or quoted(found[2]), equals + value)
