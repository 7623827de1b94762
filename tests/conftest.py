"""Runs of train.py inside the test process (torch takes seconds to import), in a folder of their own."""

import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two threads on two busy cores are slower than one

import pytest
import train as train_module
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, open_dict

from iolaus.launch import OWN_FULL_ERROR, launch

ROOT = Path(__file__).parent.parent
CONF = ROOT / "conf"


@dataclass
class Outcome:
    """What a command came to: exit code, what it printed, and its run's folder."""

    code: int
    text: str
    folder: Path | None

    @property
    def results(self) -> dict[str, Any]:
        assert self.folder is not None, self.text
        return json.loads((self.folder / "results.json").read_text())


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> Callable[..., Outcome]:
    """`command("data=iris", ...)` is `python train.py data=iris ...` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level

    def run(*arguments: str) -> Outcome:
        for name in ("HYDRA_FULL_ERROR", OWN_FULL_ERROR):
            monkeypatch.delenv(name, raising=False)
        # a sweep's jobs in this process, too: where each has its own is tested in tests/sweep
        here = ["hydra/launcher=basic"] if "-m" in arguments and "hydra/launcher" not in str(arguments) else []
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments, *here])
        capfd.readouterr()
        before = set(tmp_path.rglob("train.log"))
        code = 0
        try:
            launch(train_module.main)
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:
            for handler in [h for h in root.handlers if h not in handlers]:
                root.removeHandler(handler)
                handler.close()
            root.handlers[:] = handlers
            root.setLevel(level)
        captured = capfd.readouterr()
        new = sorted(set(tmp_path.rglob("train.log")) - before)
        return Outcome(code, captured.out + captured.err, new[-1].parent if new else None)

    return run


def composed(*overrides: str) -> DictConfig:
    """The settings that the overrides compose to, without Hydra's own."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", list(overrides), return_hydra_config=True)
    with open_dict(config):
        config.pop("hydra")
        config.update({"output_dir": "outputs", "name": "test"})
    return config


def options(group: str) -> list[str]:
    """The options of a group."""
    return sorted(f.stem for f in (CONF / group).glob("*.yaml"))


def read_yaml(file: Path) -> dict[str, Any]:
    return yaml.safe_load(file.read_text()) or {}


def nodes(config: Any) -> Iterator[dict[str, Any]]:
    """Every node with a `_target_`."""
    if isinstance(config, dict):
        if "_target_" in config:
            yield config
        for value in config.values():
            yield from nodes(value)
