"""The process that jobs are forked from: it has imported what every job needs, and has touched no GPU.

It reads a request a line from its standard input and answers a line on its standard output, as JSON:

    {"start": 3, "words": ["train.py", ...], "log": ..., "environment": {...}, "threads": 1}   ->  {"ended": 3, "code": 0}
    {"signal": 15, "to": 3}   passed on to one job, or to all where `to` is null

The words are those of `python`: a script and its arguments, or -m, a module and its arguments.

When its input ends, as when the sweep was killed, it asks the jobs to stop, and ends when they have.
"""

import json
import os
import runpy
import select
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from iolaus.strict_json import to_json

TICK_S = 0.05
PATIENCE_S = 60.0  # for jobs that were asked to stop


def main() -> None:
    """Import, then serve."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # whoever asked the sweep to stop has it pass that on
    _import()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what an import prints is no answer
    running: dict[int, int] = {}  # number of the job, by process
    pending = b""
    end: float | None = None
    while end is None or running:
        if end is None:
            if select.select([0], [], [], TICK_S)[0]:
                data = os.read(0, 65_536)
                if not data:
                    end = time.monotonic() + PATIENCE_S
                    _pass_on(running, signal.SIGTERM)
                *lines, pending = (pending + data).split(b"\n")
                for line in lines:
                    _obey(json.loads(line), running, answers)
        else:
            time.sleep(TICK_S)
            if time.monotonic() > end:
                _pass_on(running, signal.SIGKILL)
        for pid, status in _ended(running):
            answer = {"ended": running.pop(pid), "code": os.waitstatus_to_exitcode(status)}
            if end is None:
                answers.write(to_json(answer) + "\n")


def _import() -> None:
    """What every run imports."""
    from iolaus.startup import import_lightning

    import_lightning()
    import torch.utils.tensorboard  # noqa: F401

    import iolaus.preflight
    import iolaus.report
    import iolaus.train  # noqa: F401


def _obey(request: dict[str, Any], running: dict[int, int], answers: Any) -> None:
    if "signal" in request:
        to = request.get("to")
        _pass_on([pid for pid, job in running.items() if to in (None, job)], request["signal"])
        return
    pid = os.fork()
    if pid == 0:
        answers.close()
        _run(request)
    running[pid] = request["start"]


def _pass_on(running: Iterable[int], number: int) -> None:
    for pid in running:
        os.kill(pid, number)


def _ended(running: dict[int, int]) -> list[tuple[int, int]]:
    found = []
    for pid in list(running):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            found.append((pid, status))
    return found


def _run(request: dict[str, Any]) -> None:
    """In the forked process: run the script, and end with its code."""
    code = 1
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDONLY)
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for source, target in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
        os.environ.update(request["environment"])
        if request["threads"]:
            import torch

            torch.set_num_threads(request["threads"])
        words = request["words"]
        if words[0] == "-m":
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name="__main__")
        else:
            sys.argv = words
            sys.path.insert(0, str(Path(words[0]).parent))
            runpy.run_path(words[0], run_name="__main__")
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
