"""Training by the workers of Ray is training by several processes."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import ROOT
from forked import differences

from iolaus import consistency
from iolaus.commands import install_command

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")
WORDS = ("data=wine", "data.batch_size=8", "model.dropout=0.3", "trainer.devices=2", "trainer.max_epochs=4")
OWN = """
import os, signal, time
from pathlib import Path
import pytorch_lightning as pl

class Harm(pl.Callback):
    def __init__(self, kind: str = "none"):
        self.kind = kind

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if self.kind == "slow":
            time.sleep(0.05)
        if self.kind != "kill" or trainer.global_rank != 1 or trainer.global_step < 13 or Path("killed").exists():
            return
        Path("killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
"""


def typed(*words: str) -> list[str]:
    return [sys.executable, str(ROOT / "train.py"), *words]


def trained(place: Path, *words: str, code: int = 0) -> str:
    place.mkdir(exist_ok=True)
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(typed(*words), cwd=place, capture_output=True, text=True, timeout=300, env=environment)
    assert ended.returncode == code, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


@pytest.fixture(scope="module")
def ddp(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("ddp")
    trained(place, *WORDS, "trainer=ddp", "output_dir=run")
    return place / "run"


@needs_ray
@pytest.mark.slow
def test_it_trains_what_two_processes_train(ddp, tmp_path):
    text = trained(tmp_path, *WORDS, "trainer=ray", "output_dir=run")
    assert differences(ddp, tmp_path / "run") == []
    assert text.count("epoch 1/4") == 1
    assert "(RayTrainWorker" not in text
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["processes"] == 2
    assert results["overrides"][:2] == list(WORDS[:2])
    assert not (tmp_path / "run" / ".ray").exists()
    assert (tmp_path / "run" / "train.log").read_text().count("epoch 1/4") == 1


@needs_ray
@pytest.mark.slow
def test_a_killed_worker_is_told_in_a_line_and_the_run_goes_on(ddp, tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    more = ["trainer=ray", "output_dir=run", "allow=[own]", "callbacks.resume_points.every_n_steps=3"]
    harm = ["+callbacks.harm={_target_: own.Harm, kind: kill}"]
    text = trained(tmp_path, *WORDS, *more, *harm, code=1)
    run = tmp_path / "run"
    assert "process 1 of the run was killed (out of memory?); to go on with the run: iolaus resume run" in text
    assert "Traceback" not in text
    assert json.loads((run / "results.json").read_text())["status"] == "interrupted"
    text = trained(tmp_path, "resume=run", "allow=[own]", "callbacks.harm.kind=none")
    assert "going on from last.ckpt" in text
    kept = {name: (ddp / name).read_text() for name in ("metrics.csv",)}
    assert {name: (run / name).read_text() for name in kept} == kept


@needs_ray
@pytest.mark.slow
def test_a_signal_stops_it_in_good_order(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    words = [*WORDS, "trainer=ray", "output_dir=run", "allow=[own]", "+callbacks.harm={_target_: own.Harm, kind: slow}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(typed(*words), cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    while process.poll() is None and not (tmp_path / "run" / "metrics.csv").exists():
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    text = process.communicate(timeout=120)[0]
    assert process.returncode == 143, text
    assert json.loads((tmp_path / "run" / "results.json").read_text())["status"] == "interrupted"
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()


@needs_ray
@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data=csv", "data.path=rows.csv", "data.target=y"], "rows.csv line 2, column 'a': the cell is empty"),
        (["data=iris", "RAY"], "trainer=ray: no cluster at RAY_ADDRESS="),
    ],
)
def test_what_a_worker_refuses_is_told_once(tmp_path, monkeypatch, words, message):
    (tmp_path / "rows.csv").write_text("a,y\n,0\n1,1\n" * 20)
    if "RAY" in words:
        monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    words = [word for word in words if word != "RAY"]
    text = trained(tmp_path, "trainer=ray", "trainer.devices=2", *words, code=1)
    assert "Traceback" not in text
    assert text.count(message) == 1


REFUSED = [
    (
        ["trainer=fsdp", "trainer.strategy.sharded_checkpoints=true", "callbacks.resume_points.background=true"],
        "in parts",
    ),
    (["trainer=deepspeed"], "DeepSpeed saves in a format of its own"),
    (["trainer=deepspeed", "~callbacks.resume_points", "trainer.accelerator=cpu"], "on GPUs of NVIDIA alone"),
]


@pytest.mark.parametrize(("words", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_what_cannot_work_is_refused_in_a_line(command, monkeypatch, words, message):
    monkeypatch.setattr(consistency, "_is_installed", lambda package: True)
    outcome = command("data=iris", *words)
    assert outcome.code == 1
    assert message in outcome.text
    assert len(outcome.text.strip().splitlines()) == 1, outcome.text


def test_a_missing_package_is_told_in_a_line(command, monkeypatch):
    monkeypatch.setattr(consistency, "_is_installed", lambda package: False)
    for name in ("ray", "deepspeed"):
        outcome = command(f"trainer={name}", "data=iris", "trainer.devices=2")
        assert outcome.code == 1
        told = f"trainer={name}: the package {name} is not installed; {install_command(name)}"
        assert told in outcome.text.splitlines()
