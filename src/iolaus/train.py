"""The story of a run: build, try a batch, fit, test, report."""

from omegaconf import DictConfig

from iolaus.runs import Job


def train(config: DictConfig, job: Job) -> float | None:
    """Run what the settings say; return the objective's best value.

    Args:
        config: composed and checked.
        job: what the user asked for, and whether it goes on with an earlier run.
    """
    # imported here and not above: help, completion and every message about settings come without torch
    from iolaus.build import build
    from iolaus.data.loader import reading_told
    from iolaus.preflight import preflight
    from iolaus.report import Report

    with Report(config, job) as report, reading_told():
        if "study" in config.stages:
            report.study()
            return None
        run = report.follow(build(config))
        preflight(run)
        if "info" in config.stages:
            report.info()
        for stage in ("batch_size_find", "lr_find"):
            if stage in config.stages:
                report.find(stage)
        if "fit" in config.stages:
            report.fit()
        if "test" in config.stages:
            report.test()
    return report.objective
