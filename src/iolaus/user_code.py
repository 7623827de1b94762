"""Errors raised in the user's own code: the part and the stage, then the lines of that code alone."""

import linecache
import logging
import os
import re
import site
import sys
import sysconfig
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from traceback import walk_tb
from types import FrameType
from typing import Any

from iolaus import ranks
from iolaus.errors import Pruned, UserError
from iolaus.run_log import log_traceback
from iolaus.unwritten import is_of_disk, unwritten

log = logging.getLogger("iolaus")

MAX_LINES = 5  # of the user's code that a message shows; train.log has the whole traceback
MAX_LETTERS = 300  # of the error's own text
TRAINER = "pytorch_lightning.trainer.trainer"
WORKER = "Original Traceback (most recent call last):"  # in errors of processes that read data
GENERATED = "torchinductor_"  # in the paths of code that torch.compile writes

_OWN = (str(Path(__file__).parent), str(Path(__file__).parents[1] / "hydra_plugins"))
_INSTALLED = {os.path.realpath(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
_INSTALLED |= {os.path.realpath(site.getusersitepackages())}
_PACKAGES = re.compile(r".*/(?:site|dist)-packages/(\w+)")
_FRAME = re.compile(r'^  File "(.+)", line (\d+), in (.+)\n(?:    (.*))?', re.MULTILINE)
_KINDS = {  # base classes by which a part is recognised that the settings do not name
    "torchmetrics.metric.Metric": "metrics",
    "pytorch_lightning.callbacks.callback.Callback": "callbacks",
    "pytorch_lightning.core.datamodule.LightningDataModule": "data",
    "pytorch_lightning.core.module.LightningModule": "task",
    "torch.utils.data.dataset.Dataset": "data",
    "torch.optim.optimizer.Optimizer": "optim",
    "torch.optim.lr_scheduler.LRScheduler": "scheduler",
    "torch.nn.modules.module.Module": "model",
}


class UserCodeError(UserError):
    """An exception in the user's own code; its text shows where."""


@dataclass(frozen=True)
class Line:
    """A line of a traceback; what the frame of another process held is not known."""

    file: str
    number: int
    function: str
    code: str
    frame: FrameType | None = None


@dataclass(frozen=True)
class Failure:
    """An exception that passed through the user's code.

    Args:
        kind: name of its class.
        text: its message.
        lines: the user's lines of its traceback, the outermost first.
        caller: the frame that called the first of them, where it is known.
        stage: what the run was doing; empty where it is not known.
    """

    kind: str
    text: str
    lines: list[Line]
    caller: FrameType | None
    stage: str


@contextmanager
def user_errors_located(settings: dict[str, Any], log_file: Path | None = None) -> Iterator[None]:
    """Show errors of the user's own code by part, stage and lines; errors that no such code is part of pass unchanged.

    Args:
        settings: of the run; packages that `allow` names count as the user's, installed ones too.
        log_file: where the whole traceback stands.

    Raises:
        UserCodeError: from the original error.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, Pruned | UserCodeError) or ranks.is_of_connection(error):
            raise
        failure = find_failure(error, settings.get("allow") or ())
        if failure is None:
            raise
        raise UserCodeError(_describe(failure, settings, log_file)) from error


@contextmanager
def warn_on_failure(what: str, folder: Path | None = None) -> Iterator[None]:
    """Leave out what fails: a figure or sample is no reason to end a run, so a warning says why; train.log has the traceback.

    Args:
        what: is made, by the name of its file or setting.
        folder: of the run; a file in it that the disk refuses is noted in `unwritten` instead; one elsewhere is the user's.
    """
    try:
        yield
    except Exception as error:  # networks, metrics and drawings fail in more ways than can be listed
        if ranks.is_of_connection(error):
            raise
        file = Path(os.path.abspath(getattr(error, "filename", None) or Path(folder or "", what)))
        if folder is not None and is_of_disk(error) and file.is_relative_to(os.path.abspath(folder)):
            unwritten.note(file, error)
            return
        log.warning("%s: left out: %s", what, failure_line(error))
        log_traceback(error)


def failure_line(error: BaseException) -> str:
    """The reason of an error in a line, with the line of the user's code where it passed through it."""
    failure = find_failure(error)
    text = " ".join(str(error).split())[:200] or type(error).__name__
    return f"{text}  ({_relative(failure.lines[-1])})" if failure else text


def find_failure(error: BaseException, packages: Collection[str] = ()) -> Failure | None:
    """Find the first exception of a chain that passed through the user's code; a UserError counts only by its cause.

    Args:
        error: the last of the chain.
        packages: installed ones that count as the user's.
    """
    links = list(_chain(error))
    for kind, text, lines in (traceback for link in links for traceback in _tracebacks(link)):
        own = [number for number, line in enumerate(lines) if is_users_file(line.file, packages)]
        if own:
            caller = lines[own[0] - 1].frame if own[0] else None
            is_remote = lines[0].frame is None
            stage = (
                "in a process that reads data" if is_remote else _stage([f for link in links for f in _frames(link)])
            )
            return Failure(kind, text, [lines[number] for number in own], caller, stage)
    return None


def is_users_file(file: str, packages: Collection[str] = ()) -> bool:
    """Whether code is neither ours nor of Python or an installed package, unless the user allowed that package by name."""
    if file.startswith("<"):
        return file.startswith("<ipython-input")
    if GENERATED in file:
        return False
    path = os.path.realpath(file)
    if path.startswith(tuple(f"{folder}{os.sep}" for folder in _OWN)):
        return False
    if installed := _PACKAGES.match(path):
        return installed[1] in {package.partition(".")[0] for package in packages}
    return not path.startswith(tuple(f"{folder}{os.sep}" for folder in _INSTALLED))


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An exception and those that led to it, as Python shows them."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def _tracebacks(error: BaseException) -> Iterator[tuple[str, str, list[Line]]]:
    """Class, message and lines of an exception; of one in a process that reads data those that its text holds."""
    if WORKER in str(error):
        sections = str(error).split("Traceback (most recent call last):\n")[1:]
        yield from (parsed for parsed in map(_parse, reversed(sections)) if parsed[0] != UserError.__name__)
    elif not isinstance(error, UserError):
        yield type(error).__name__, str(error), [_line(*found) for found in walk_tb(error.__traceback__)]


def _frames(error: BaseException) -> list[FrameType]:
    return [frame for frame, _ in walk_tb(error.__traceback__)]


def _line(frame: FrameType, number: int) -> Line:
    code = linecache.getline(frame.f_code.co_filename, number, frame.f_globals).strip()
    return Line(frame.f_code.co_filename, number, frame.f_code.co_qualname, code, frame)


def _parse(section: str) -> tuple[str, str, list[Line]]:
    """A traceback that is a text."""
    lines = [Line(file, int(number), name, code.strip()) for file, number, name, code in _FRAME.findall(section)]
    rest = section.rpartition('  File "')[2].splitlines()[1:]
    message = next((k for k, line in enumerate(rest) if not line.startswith("    ")), len(rest))
    kind, _, text = "\n".join(rest[message:]).strip().partition(":")
    return kind.rpartition(".")[2], text.strip(), lines


def _describe(failure: Failure, settings: dict[str, Any], log_file: Path | None) -> str:
    """What failed and where, in a line; then the lines of the user's code."""
    own = failure.lines
    raised = "" if own[0].function == "<module>" else f"{own[0].function} "
    place = ", ".join(words for words in (failure.stage, _arrived(failure.caller)) if words)
    text = " ".join(failure.text.split())[:MAX_LETTERS]
    head = f"{_part(own[0], settings)}: {raised}raised {failure.kind}"
    head += (f" {place}" if place else "") + (f": {text}" if text else "") + f"  ({_relative(own[-1])})"
    shown = own if len(own) <= MAX_LINES else [own[0], *own[1 - MAX_LINES :]]
    lines = [f'  File "{line.file}", line {line.number}, in {line.function}\n    {line.code}' for line in shown]
    if len(shown) < len(own):
        lines.insert(1, f"  ... {len(own) - len(shown)} more")
    if log_file is not None:
        lines.append(f"The whole traceback: {os.path.relpath(log_file)}")
    return "\n".join([head, *lines])


def _relative(line: Line) -> str:
    near = os.path.relpath(line.file)
    return f"{line.file if near.startswith('..') else near}:{line.number}"


def _part(line: Line, settings: dict[str, Any]) -> str:
    """The part of the settings that a line belongs to; by its class, by its module, or by what kind of class it is."""
    if line.frame is None:
        return "data"
    names = line.frame.f_code.co_varnames[: line.frame.f_code.co_argcount]
    first = line.frame.f_locals.get(names[0]) if names else None
    classes = type(first).__mro__
    module = line.frame.f_globals.get("__name__")
    targets = list(_targets(settings, ""))
    for path, target in targets:
        holder, _, name = target.rpartition(".")
        found = getattr(sys.modules.get(holder), name, None)
        if found is not None and (found in classes or getattr(found, "__code__", None) is line.frame.f_code):
            return path
    kinds = (_KINDS.get(f"{cls.__module__}.{cls.__qualname__}") for cls in classes)
    if kind := next((kind for kind in kinds if kind), None):
        return kind
    return next((path for path, target in targets if target.rpartition(".")[0] == module), "your code")


def _targets(node: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, dict):
        if isinstance(node.get("_target_"), str):
            yield path, node["_target_"]
        for key, value in node.items():
            yield from _targets(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from _targets(value, f"{path}.{number}")


def _stage(frames: list[FrameType]) -> str:
    """What the run was doing, by the functions that it was in; empty where the user's function tells it."""
    functions = {frame.f_code.co_qualname for frame in frames}
    if "preflight" in functions:
        return "on the first batch, before training"
    holders = [frame.f_locals.get("self") for frame in frames]
    trainer: Any = next((h for h in holders if any(c.__module__ == TRAINER for c in type(h).__mro__)), None)
    if trainer is None:
        return ""
    if "Trainer.test" in functions:
        return "in the test"
    is_validation = any(type(holder).__name__ == "_EvaluationLoop" for holder in holders)
    return f"in {'the validation of ' if is_validation else ''}epoch {trainer.current_epoch + 1}"


def _arrived(caller: FrameType | None) -> str:
    """The shapes that the user's code was called with, by its caller: the code itself may have rebound its names."""
    args, kwargs = (caller.f_locals.get(name) for name in ("args", "kwargs")) if caller is not None else (None, None)
    values = [*(args if isinstance(args, tuple) else ()), *(kwargs.values() if isinstance(kwargs, dict) else ())]
    tensors = [value for value in values if hasattr(value, "shape") and hasattr(value, "dtype")]
    shapes = [f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}" for tensor in tensors]
    return f"inputs {' and '.join(shapes)}" if shapes else ""
