"""What the benchmarks share: data of MNIST's shape, a run of Iolaus inside this process, ratios with their spread."""

import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from iolaus.startup import import_lightning

import_lightning()

import torch
from hydra import compose, initialize_config_dir
from omegaconf import open_dict

from iolaus.build import Run, build
from iolaus.data.base import DataModule

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))  # one unless told: busy machines have no second

ROOT = Path(__file__).resolve().parent.parent
MNIST_SHAPE = (1, 28, 28)


def mnist_shaped(
    n: int = 60_000, seed: int = 0, shape: Sequence[int] = MNIST_SHAPE
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random bytes with a bright bar whose row is the class: (n, C, H, W) uint8 and (n,) int64."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (n,), generator=generator)
    images[torch.arange(n), 0, 2 * labels + 2] = 255
    return images, labels


class MnistShaped(DataModule):
    """The same as a data set, with n rows; images have the shape that the settings say."""

    def __init__(self, n: int = 60_000, **base):
        super().__init__(**base)
        self.n = n

    def load(self):
        return {"train": torch.utils.data.TensorDataset(*mnist_shaped(self.n, shape=self.input_shape))}


def built(*overrides: str, n: int = 60_000) -> Run:
    """A run with every default on, on data of MNIST's shape, in a temporary folder."""
    folder = tempfile.mkdtemp(prefix="iolaus-bench-")
    data = [
        "data=mnist",
        "data._target_=timing.MnistShaped",
        f"+data.n={n}",
        "~data.name",
        "~data.root",
        "~data.download",
    ]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", [*data, "data.test_fraction=0.1", *overrides], return_hydra_config=True)
    with open_dict(config):
        config.pop("hydra")
        config.update({"output_dir": folder, "name": "bench"})
    return build(config)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Median of the paired ratios, with the quartiles."""
    pairs = sorted(a / b for a, b in zip(ours, theirs, strict=True))
    low, middle, high = statistics.quantiles(pairs, n=4) if len(pairs) > 1 else pairs * 3
    return f"{middle:6.3f}  [{low:.3f} .. {high:.3f}]  n={len(pairs)}"


def machine() -> str:
    """One line about where the figures come from."""
    return json.dumps(
        {
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "cpus": os.cpu_count(),
            "python": sys.version.split()[0],
        }
    )
