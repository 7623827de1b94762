"""A model of one's own: one Python file and one YAML file, in a folder of one's own."""

import subprocess
import sys

import pytest
from forked import Child

from iolaus import signature

MODEL = """
import torch
from torch import nn


class Bottleneck(nn.Module):
    def __init__(self, input_shape, output_dim: int, width: int = 3):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(input_shape[0], width), nn.Tanh(), nn.Linear(width, output_dim))

    def forward(self, x):
        return self.layers(x)
"""

OPTION = """
# A model with a narrow middle.
_target_: my_models.Bottleneck
_accepts_: {input_kind: [table]}
input_shape: ${data.input_shape}
output_dim: ${task.output_dim}
width: 3
"""


def forget():
    """What earlier tests of this process did not find."""
    for cached in (signature._module, signature._names, signature.find):
        cached.cache_clear()


@pytest.mark.slow
def test_one_python_file_and_one_yaml_file(tmp_path):
    (tmp_path / "my_models.py").write_text(MODEL)
    (tmp_path / "options" / "model").mkdir(parents=True)
    (tmp_path / "options" / "model" / "bottleneck.yaml").write_text(OPTION)

    def train(*arguments):
        words = ["--config-dir", "options", "allow=[my_models]", "data=iris", "model=bottleneck", *arguments]
        child = Child(tmp_path, *words, before=forget)
        return child.wait(), child.text

    code, text = train("model.width=5", "trainer.max_epochs=2", "output_dir=run")
    assert code == 0, text
    assert "iris-bottleneck" in text

    code, text = train("model.widht=5")
    assert code == 1
    assert "my_models.Bottleneck has no argument 'widht'; did you mean 'width'" in text

    code, text = train("data=digits")
    assert code == 1
    assert "model=bottleneck with data=digits" in text

    script = "from iolaus.cli import main; main(['test', 'run', '--allow', 'my_models'])"
    again = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "accuracy" in again.stdout
