"""The end of a sweep, also of one that was stopped: what its jobs came to."""

import logging
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from iolaus.commands import run_command
from iolaus.errors import UserError
from iolaus.sweep.jobs import DONE, ELSEWHERE, Claims, is_left, jobs_of
from iolaus.sweep.report import report_sweep
from iolaus.terminal import RESULT

log = logging.getLogger("iolaus")


def finish(config: DictConfig) -> bool:
    """Report a sweep; whether a job of it is not done, nor run by another process."""
    folder = Path(config.hydra.sweep.dir)
    jobs = jobs_of(folder)
    if any(folder.glob("*/results.json")):  # of jobs that another launcher ran, too
        log.log(RESULT, "%s", report_sweep(folder))
    elsewhere = sum(job.state == ELSEWHERE for job in jobs)
    is_open = any(job.state not in (*DONE, ELSEWHERE) for job in jobs)
    if elsewhere:
        log.info("%d %s run by another process", elsewhere, "job is" if elsewhere == 1 else "jobs are")
    if is_left(folder) and (is_open or not elsewhere):
        log.info("to run what is left: %s", run_command("resume", folder))
    return is_open


def hold(config: DictConfig) -> Claims:
    """Take all of a sweep whose launcher is one of Hydra's, which shares nothing, until the claims are closed.

    Raises:
        UserError: where another process runs it.
    """
    folder = Path(config.hydra.sweep.dir)
    claims = Claims(folder)
    if not claims.take(0):
        claims.close()
        raise UserError(
            f"output_dir: another process runs the sweep in {folder}, and hydra/launcher={config.hydra.runtime.choices['hydra/launcher']} "
            "shares no jobs; wait for it, choose another folder, or begin it with hydra/launcher=process in each terminal"
        )
    return claims


def searched(config: DictConfig, context: Any, options: dict[str, Any], words: list[str]) -> Any:
    """A search from its beginning, or where it was left, to its report; the study.

    Raises:
        UserError: for jobs that are started in another way than by processes, or options that are not there.
    """
    from iolaus.sweep.launcher import Sweep
    from iolaus.sweep.search import Search

    launcher: dict[str, Any] = OmegaConf.to_container(config.hydra.launcher, resolve=True)  # type: ignore[assignment]
    if not str(launcher.pop("_target_")).endswith(".Processes"):
        raise UserError("sweep=optuna: its trials are run by hydra/launcher=process; leave hydra/launcher out")
    plain: dict[str, Any] = {k: OmegaConf.to_container(v) if OmegaConf.is_config(v) else v for k, v in options.items()}
    words = [f"{key}={value}" for key, value in (plain.get("params") or {}).items() if not _given(key, words)] + words
    try:
        with Sweep(config, context, **launcher) as sweep:
            study = Search(sweep, plain, config.objective.monitor, config.objective.mode).run(words)
    finally:
        failed = finish(config)
    if failed:
        raise SystemExit(1)
    return study


def _given(key: str, words: list[str]) -> bool:
    return any(word.startswith(f"{key}=") for word in words)
