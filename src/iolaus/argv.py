"""The words of a command line, brought into the order that Hydra's parser takes; flags that nobody knows are refused."""

import argparse
from collections.abc import Callable, Sequence

from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig, OmegaConf

from iolaus.errors import UserError, did_you_mean
from iolaus.rules import GROUPS
from iolaus.suggestions import did_you_mean_settings, full_names


def flags_first(words: Sequence[str]) -> list[str]:
    """Return the words with Hydra's flags before the overrides; its parser takes no overrides on both sides of a flag.

    Args:
        words: of the command, without the script.
    """
    takes_value = {name: action.nargs != 0 for action in get_args_parser()._actions for name in action.option_strings}
    flags, others = [], []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            others.append(word)
            continue
        flags.append(word)
        if takes_value.get(word) and rest and (word != "--info" or "=" not in rest[0]):  # whose value may be left out
            flags.append(rest.pop(0))
    return [*flags, *others]


def refuse_unknown_flags(words: Sequence[str], composed: Callable[[argparse.Namespace], DictConfig]) -> None:
    """Refuse what begins with a dash and is no flag, as in `--epochs 5`, with the setting that was meant.

    Args:
        words: of the command, without the script.
        composed: composes the settings without overrides.

    Raises:
        UserError: for the first such word.
    """
    parser = get_args_parser()
    known, unknown = parser.parse_known_args(flags_first(words))
    wrong = next((word for word in unknown if word.startswith("-")), None)
    if wrong is None:
        return
    name, equals, value = wrong.partition("=")
    key = name.lstrip("-").replace("-", "_")
    following = words[list(words).index(wrong) + 1 :] if wrong in words else []
    if not equals and following and "=" not in following[0] and not following[0].startswith("-"):
        wrong, value = f"{wrong} {following[0]}", following[0]
    config = composed(known)
    names = [key] if key in GROUPS or key in config else full_names(key, _plain(config))
    flags = [option for action in parser._actions for option in (*action.option_strings, "--tree")]
    hint = did_you_mean_settings(names, value or "VALUE") or did_you_mean(name, flags)
    raise UserError(f"{wrong}: there is no such flag, and a setting is written KEY=VALUE without dashes{hint}")


def _plain(config: DictConfig) -> dict:
    plain = OmegaConf.to_container(config, resolve=False)
    return {str(key): value for key, value in plain.items() if key != "hydra"} if isinstance(plain, dict) else {}
