"""Train a network that is composed from config files.

python train.py                               digits, a multilayer perceptron, Adam
python train.py data=iris model=linear        options by name
python train.py -m optim.lr=1e-2,1e-3         a sweep
python train.py resume=RUN                    go on with a run that was killed or stopped
python train.py --help                        all groups and options
"""

from omegaconf import DictConfig

from iolaus.compose import launch, this_job
from iolaus.train import train


def main(config: DictConfig) -> float | None:
    """Build, fit, test, report, on settings that are composed and checked; return the objective's best value."""
    return train(config, this_job(config))


if __name__ == "__main__":
    launch(main)
