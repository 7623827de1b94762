"""Train a network that is composed from config files.

python train.py                               digits, a multilayer perceptron, Adam
python train.py data=iris model=linear        options by name
python train.py -m optim.lr=1e-2,1e-3         a sweep
python train.py --help                        all groups and options
"""

from omegaconf import DictConfig

from iolaus.compose import check_job, launch


def main(config: DictConfig) -> float | None:
    """Compose, check, build, fit, test, report; return the objective's best value to a sweep."""
    job = check_job(config)
    # torch is imported here and not above: help, completion and every message about settings come without it
    from iolaus.build import build
    from iolaus.preflight import preflight
    from iolaus.report import Report

    with Report(config, job) as report:
        run = report.follow(build(config))
        preflight(run)
        if "fit" in config.stages:
            report.fit()
        if "test" in config.stages:
            report.test()
    return report.objective


if __name__ == "__main__":
    launch(main)
