"""Train a network that is composed from config files.

python train.py                               digits, a multilayer perceptron, Adam
python train.py data=iris model=linear        options by name
python train.py -m optim.lr=1e-2,1e-3         a sweep
python train.py --help                        all groups and options
"""

from omegaconf import DictConfig

from iolaus.compose import launch, this_job


def main(config: DictConfig) -> float | None:
    """Build, fit, test, report, on settings that are composed and checked; return the objective's best value."""
    # imported here and not above: help, completion and every message about settings come without torch
    from iolaus.build import build
    from iolaus.preflight import preflight
    from iolaus.report import Report

    with Report(config, this_job()) as report:
        run = report.follow(build(config))
        preflight(run)
        if "fit" in config.stages:
            report.fit()
        if "test" in config.stages:
            report.test()
    return report.objective


if __name__ == "__main__":
    launch(main)
