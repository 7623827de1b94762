"""The end of a sweep, also of one that was stopped: what its jobs came to."""

import logging
import os
import shlex
from collections import Counter
from pathlib import Path

from omegaconf import DictConfig

from iolaus.sweep.jobs import DONE, jobs_of

log = logging.getLogger("iolaus")


def finish(config: DictConfig) -> bool:
    """Report a sweep; whether a job of it is not done."""
    folder = Path(config.hydra.sweep.dir)
    jobs = jobs_of(folder)
    counts = Counter(job.state for job in jobs)
    log.info("%s", ", ".join(f"{count} {state}" for state, count in counts.items()))
    left = [job for job in jobs if job.state not in DONE]
    if left:
        log.info("to run what is left: iolaus resume %s", shlex.quote(os.path.relpath(folder)))
    return bool(left)
