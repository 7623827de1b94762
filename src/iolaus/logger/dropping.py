"""Loggers that a run goes on without once they cannot write."""

import functools
import logging
from collections.abc import Callable
from typing import Any

from pytorch_lightning.loggers.logger import Logger

from iolaus.run_log import log_traceback
from iolaus.unwritten import reason_of

log = logging.getLogger("iolaus")

METHODS = ("log_hyperparams", "log_metrics", "log_graph", "after_save_checkpoint", "save", "finalize")


def drop_on_os_error(logger: Logger, setting: str) -> Logger:
    """Silence a logger after its first OSError, which is warned of; every other error is raised.

    Args:
        logger: of any class; its own methods are replaced.
        setting: its key, for the warning.

    Returns:
        the same logger.
    """
    is_dropped = False

    def guarded(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(*arguments: Any, **more: Any) -> Any:
            nonlocal is_dropped
            if is_dropped:
                return None
            try:
                return method(*arguments, **more)
            except OSError as error:
                is_dropped = True
                place = f"{setting}: {error.filename}" if error.filename else setting
                log.warning("%s: %s; the run goes on without this logger", place, reason_of(error))
                log_traceback(error)
                return None

        return call

    for name in METHODS:
        setattr(logger, name, guarded(getattr(logger, name)))
    return logger
