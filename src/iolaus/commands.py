"""Commands that are printed for users to paste: with everything they need, and quoted for the shell."""

import os
import shlex
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import requires
from pathlib import Path

CONFIG_FLAGS = ("--config-dir", "-cd", "--config-name", "-cn", "--config-path", "-cp")  # of Hydra, each with a value


def config_flags(words: Iterable[str]) -> Iterator[str]:
    """Yield the words of a command that say where the options are."""
    takes_next = False
    for word in words:
        name, equals, _ = word.partition("=")
        if takes_next or name in CONFIG_FLAGS:
            takes_next = not takes_next and not equals
            yield word


def train_command(script: str, flags: Sequence[str], overrides: Sequence[str]) -> str:
    """Return the command that trains.

    Args:
        script: train.py, or its path.
        flags: that say where the options are.
        overrides: settings, in Hydra's grammar.
    """
    return shlex.join(["python", script, *flags, *overrides])


def script_of(command: object) -> str | None:
    """Return the script of a command that a run has noted; None where it ran another program."""
    try:
        words = shlex.split(str(command))
    except ValueError:  # of a stranger
        return None
    is_python = len(words) > 1 and words[0].startswith("python") and words[1].endswith(".py")
    return words[1] if is_python and not words[1].endswith("__main__.py") else None


def run_command(verb: str, folder: Path, allow: Sequence[str] = (), file: str = "") -> str:
    """Return the command that does something with a finished run.

    Args:
        verb: test, predict, resume and so on.
        folder: of the run, or of a sweep.
        allow: packages of the user's own that the run's settings name.
        file: a further argument.
    """
    place = os.path.relpath(folder)
    if place.startswith(("-", "~")):  # an option, or a home folder
        place = os.path.join(os.curdir, place)
    words = ["iolaus", verb, place, *([file] if file else [])]
    return shlex.join([*words, *(word for package in allow for word in ("--allow", package))])


def install_command(extra: str) -> str:
    """Return the command that installs packages which are not always needed; on PyPI `iolaus` is another project.

    Args:
        extra: of pyproject.toml.
    """
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "pyproject.toml").is_file():
        place = os.curdir if checkout == Path.cwd() else str(checkout)
        return shlex.join(["pip", "install", "-e", f"{place}[{extra}]"])
    needed = [text.partition(";") for text in requires("iolaus") or []]
    return shlex.join(["pip", "install", *(name.strip() for name, _, rule in needed if f'"{extra}"' in rule)])
