"""A quick start: what torchmetrics would import and nobody asked for stays out, and settings are read by a quicker parser.

Importing Lightning imports torchmetrics, which imports whatever is installed of the packages that some of its metrics could use:
torchvision, scipy, matplotlib. That is a third of the time that the import takes. The names that this relies on have canaries in
`tests/test_startup.py`.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import yaml

NVML_CHECK = "PYTORCH_NVML_BASED_CUDA_CHECK"
# Packages that torchmetrics probes for and whose metrics a configuration cannot name.
UNASKED = {"torchvision", "scipy", "matplotlib", "transformers", "nltk", "onnxruntime", "librosa", "pesq"}


def quick_yaml() -> None:
    """Let OmegaConf read YAML by libyaml where PyYAML has it: composing a run takes half the time, its settings are the same.

    OmegaConf makes its loader, a subclass of PyYAML's safe one, anew for each file; here it is made once, of the safe one in C.
    """
    from omegaconf import _utils

    make = getattr(_utils, "get_yaml_loader", None)
    quick = getattr(yaml, "CSafeLoader", None)
    if make is None or quick is None:
        return
    slow = yaml.SafeLoader
    yaml.SafeLoader = quick  # type: ignore[misc]
    try:
        loader = make()
    finally:
        yaml.SafeLoader = slow  # type: ignore[misc]
    _utils.get_yaml_loader = lambda: loader


def import_lightning() -> None:
    """Import Lightning and torch, without what was not asked for and without what would slow every step.

    Lightning makes torch ask the driver for GPUs by a way that is safe before a fork; without a driver that way costs 0.1 ms
    each time, and every optimizer step asks. There it is turned off again, unless the user has turned it on.
    """
    asked = NVML_CHECK in os.environ
    with _unseen(UNASKED):
        import pytorch_lightning  # noqa: F401
    import torch

    if not asked and not torch.cuda.is_available():
        os.environ.pop(NVML_CHECK, None)


@contextmanager
def _unseen(packages: set[str]) -> Iterator[None]:
    """Let the probes for these packages say no; outside they answer as before."""
    from lightning_utilities.core import imports

    probe, ask = imports.RequirementCache.__bool__, imports.package_available

    def lean_probe(self: imports.RequirementCache) -> bool:
        name = re.split(r"[<>=!\[]", self.requirement or self.module or "")[0]
        return name not in packages and probe(self)

    imports.RequirementCache.__bool__ = lean_probe  # type: ignore[method-assign]
    imports.package_available = lambda name: name not in packages and ask(name)  # type: ignore[assignment]
    try:
        yield
    finally:
        imports.RequirementCache.__bool__ = probe  # type: ignore[method-assign]
        imports.package_available = ask
