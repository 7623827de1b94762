"""Signals that ask a run to stop: noted when they come, obeyed at the end of the batch."""

import logging
import signal
import threading
import time
from types import FrameType
from typing import Any

log = logging.getLogger("iolaus")

NAMES = ("SIGINT", "SIGTERM", "SIGUSR1")  # Ctrl-C, the end of a job, SLURM's warning before it
SIGNALS = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]


class Stopped(SystemExit):
    """The end of a run that a signal asked for; the exit code is 128 and the signal's number: 130 for Ctrl-C, 143 for SIGTERM."""

    def __init__(self, number: int):
        super().__init__(128 + number)
        self.signal = signal.Signals(number)


class Requests:
    """What this process was asked to do; there is one, as signals belong to the process.

    While `patience` says what is to be finished first, one signal is only noted, and whoever has set it stops in good order; at any
    other time, and at the second one, the run ends at once.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.received_at = 0.0  # on the monotonic clock
        self.patience: str | None = None

    def install(self) -> dict[int, Any]:
        """Handle the signals; returns the handlers before, for `reinstall`. Only the main thread of a process can."""
        if threading.current_thread() is not threading.main_thread():
            return {}
        return {number: signal.signal(number, self._handle) for number in SIGNALS}

    def reinstall(self, handlers: dict[int, Any]) -> None:
        """Put handlers back and forget what was received."""
        for number, handler in handlers.items():
            signal.signal(number, handler)
        self.received = self.patience = None

    def seconds_since(self) -> float:
        """Seconds since the signal."""
        return time.monotonic() - self.received_at

    def _handle(self, number: int, frame: FrameType | None) -> None:
        first = self.received is None
        self.received = number
        if not first or self.patience is None:
            raise Stopped(number)
        self.received_at = time.monotonic()
        again = "; once more ends at once" if number == signal.SIGINT else ""
        log.warning("%s: %s%s", signal.Signals(number).name, self.patience, again)


requests = Requests()
