"""What a run imports, and that the probes which are silenced meanwhile answer again."""

import subprocess
import sys

import pytest
import yaml
from conftest import ROOT
from omegaconf import _utils

SCRIPT = """
import sys
sys.argv = ["train.py", "trainer.max_epochs=1", "stages=[fit]", "data=line", "callbacks=[]", "logger=[]", "output_dir=run"]
from train import main
from iolaus.launch import launch
steps = []
from iolaus import startup
startup.import_lightning()
print("after lightning", sorted(UNASKED & sys.modules.keys()))
from lightning_utilities.core.imports import RequirementCache, package_available
print("probes", bool(RequirementCache("torchvision")), package_available("scipy"))
launch(main)
print("after a run", sorted({"torchvision", "sklearn", "pandas", "transformers", "onnx", "tensorboard"} & sys.modules.keys()))
from torchmetrics.classification import MulticlassAccuracy
import torchvision.models
"""


@pytest.mark.slow
def test_what_a_run_imports(tmp_path):
    script = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from iolaus.startup import UNASKED\n" + SCRIPT
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    told = dict(line.split(" [") for line in done.stdout.splitlines() if " [" in line and line.startswith("after"))
    assert "torchvision" not in told["after lightning"]
    assert told["after a run"] == "]"
    assert "probes True True" in done.stdout


def test_the_names_that_the_start_relies_on():
    """Canaries: without these names the packages would be imported, or the import would fail."""
    from lightning_utilities.core import imports

    assert callable(imports.package_available)
    assert "__bool__" in vars(imports.RequirementCache)
    cache = imports.RequirementCache("torchvision>=0.1")
    assert cache.requirement == "torchvision>=0.1"
    assert cache.module is None


def test_settings_are_read_by_libyaml_with_the_same_result():
    """A private name of OmegaConf: when it moves, settings are read as slowly as before, and this says so."""
    import iolaus.compose  # noqa: F401

    loader = _utils.get_yaml_loader()
    assert issubclass(loader, yaml.CSafeLoader)
    text = "a: 1e-3\nb: [on, 1.5, null, ~, 2024-01-02]\nc: {d: 0o17, e: '1', f: .inf}\n"
    own = type("Loader", (loader,), {})
    assert yaml.load(text, Loader=own) == {
        "a": 0.001,
        "b": [True, 1.5, None, None, "2024-01-02"],
        "c": {"d": "0o17", "e": "1", "f": float("inf")},
    }
    with pytest.raises(yaml.constructor.ConstructorError, match="duplicate key a"):
        yaml.load("a: 1\na: 2\n", Loader=own)
    assert yaml.SafeLoader is not yaml.CSafeLoader
