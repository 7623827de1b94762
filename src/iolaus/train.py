"""The story of a run: build, try a batch, fit, test, report."""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from iolaus import ranks, ray_train
from iolaus.check import plain
from iolaus.errors import UserError
from iolaus.rules import FINDERS
from iolaus.run_log import logged_stdout
from iolaus.runs import Job, read_results
from iolaus.supervise import is_due, supervise
from iolaus.unwritten import quiet_thread_errors
from iolaus.user_code import user_errors_located

log = logging.getLogger("iolaus")


def train(config: DictConfig, job: Job) -> float | None:
    """Run what the settings say; return the objective's best value.

    Args:
        config: composed and checked.
        job: what the user asked for, and whether it goes on with an earlier run.
    """
    # imported here and not above: help, completion and every message about settings come without torch
    if ray_train.is_due(plain(config)):
        return ray_train.launch(plain(config), asdict(job) | {"changed": job.changed()}, train_in_worker)
    if is_due(config):
        return supervise(config, [] if job.resumed else [f'hydra.run.dir="{config.output_dir}"'], job.overrides)
    config = _agreed(config, job)
    if job.resumed:
        _keep_batches(config)
    from iolaus.build import build
    from iolaus.data.loader import reading_told
    from iolaus.preflight import preflight
    from iolaus.report import Report

    settings, log_file = plain(config, resolve=False), Path(config.output_dir) / "train.log"
    located = user_errors_located(settings, log_file)
    with (
        logged_stdout(),
        quiet_thread_errors(),
        Report(config, job) as report,
        ranks.losses_told(),
        reading_told(),
        located,
    ):
        if "study" in config.stages:
            report.study()
            return None
        run = report.follow(build(config, resumed=job.resumed))
        report.describe_data()
        preflight(run)
        if "info" in config.stages:
            report.info()
        for stage in FINDERS:
            if stage in config.stages:
                report.find(stage)
        if "fit" in config.stages:
            report.fit()
        if "test" in config.stages:
            report.test()
    ranks.leave()  # and not after an error: which of the processes tells of it is settled between them
    return report.objective


def train_in_worker(settings: dict[str, Any], job: dict[str, Any]) -> None:
    """The same in a process that Ray has started, from plain containers."""
    changed = job.pop("changed")
    train(OmegaConf.create(settings), Job(**job, changed=lambda: changed))


def _agreed(config: DictConfig, job: Job) -> DictConfig:
    """The settings of the first of the processes that train together, which all of them then have; alone one's own.

    Raises:
        UserError: where one is started with other words than another, or cannot be reached.
    """
    here = ranks.place()
    if here.world == 1:
        return config
    ranks.join(config.trainer.timeout_s, config.trainer.join_timeout_s)
    # what only the data's file tells is not known yet: settings that read it must not be resolved, and those of the top level are Hydra's
    whole = {key: value for key, value in plain(config).items() if not isinstance(value, dict | list)}
    told = ranks.gather((plain(config, resolve=False) | whole, job.overrides))
    settings, words = told[0]
    for rank, (_, others) in enumerate(told):
        if others != words:
            raise UserError(
                f"{here.launcher}: rank 0 was started with {' '.join(words) or 'no settings'}, and rank {rank} with "
                f"{' '.join(others) or 'none'}; start all with the same command"
            )
    if here.rank > 0:
        logging.getLogger().handlers.clear()  # the first one speaks
    agreed = OmegaConf.create(settings)
    with open_dict(agreed):
        if not OmegaConf.is_list(agreed.trainer.devices):
            agreed.trainer.devices = here.local_world
        agreed.trainer.num_nodes = here.world // here.local_world
    log.info(
        "%d processes, each with batches of %d: %d in all",
        here.world,
        agreed.data.batch_size,
        here.world * agreed.data.batch_size,
    )
    return agreed


def _keep_batches(config: DictConfig) -> None:
    """A run that goes on with another number of processes keeps the batches of all, and so its steps.

    Raises:
        UserError: where they cannot be shared out evenly.
    """
    before, now = read_results(Path(config.output_dir)).get("processes") or 1, ranks.place().world
    if before == now or config.data.batch_size is None:
        return
    whole = config.data.batch_size * before
    if whole % now:
        raise UserError(
            f"trainer.devices: the run has batches of {whole} in all, of {before} processes, which {now} cannot share evenly; "
            f"go on with a number that divides {whole}"
        )
    with open_dict(config):
        config.data.batch_size = whole // now
    log.info("%d processes instead of %d: batches of %d each, still %d in all", now, before, whole // now, whole)
