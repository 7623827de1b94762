"""Train a network that is composed from config files.

python train.py                               digits, a multilayer perceptron, Adam
python train.py data=iris model=linear        options by name
python train.py -m optim.lr=1e-2,1e-3         a sweep
python train.py resume=RUN                    go on with a run that was killed or stopped
python train.py --help                        all groups and options
"""

from __future__ import annotations

import os
import shlex
import sys


def how_to_activate() -> str:
    """Say how to reach the Python that has the packages; saying it takes none of them."""
    folder = os.path.dirname(os.path.abspath(__file__))
    steps = [". " + shlex.quote(os.path.relpath(os.path.join(folder, ".venv", "bin", "activate")))]
    if not os.path.exists(os.path.join(folder, ".venv", ".ready")):
        steps.insert(0, "make -C " + shlex.quote(folder) + " install")
    return "activate the environment, then give the command again: " + " && ".join(steps)


if sys.version_info < (3, 11):  # noqa: UP036  which is what somebody has who did not activate it
    sys.exit("train.py: needs Python 3.11 or newer, and this is " + sys.version.split()[0] + "; " + how_to_activate())
try:
    from omegaconf import DictConfig

    from iolaus.compose import this_job
    from iolaus.launch import launch
    from iolaus.train import train
except ModuleNotFoundError as error:
    if (error.name or "").split(".")[0] not in ("omegaconf", "hydra", "yaml", "iolaus"):
        raise
    sys.exit("train.py: " + sys.executable + " has no package " + str(error.name) + "; " + how_to_activate())


def main(config: DictConfig) -> float | None:
    """Build, fit, test, report, on settings that are composed and checked; return the objective's best value."""
    return train(config, this_job(config))


if __name__ == "__main__":
    launch(main)
