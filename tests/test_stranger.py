"""A run's folder from a stranger: whatever it holds, nothing of it is executed and nothing is written outside."""

import os
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from forked import Child
from test_resume import SMALL

from iolaus import checkpoint, cli

FLAG = "ran"  # a file of this name beside the folder, or anywhere in it, shows that something was executed


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """A run that was not tampered with."""
    place = tmp_path_factory.mktemp("honest")
    child = Child(place, *SMALL, "trainer.max_epochs=1", "output_dir=run")
    assert child.wait() == 0, child.text
    return place / "run"


class Payload:
    """Unpickling it makes the flag."""

    def __init__(self, place: Path):
        self.place = place

    def __reduce__(self):
        return os.system, (f"touch {self.place / FLAG}",)


def settings(change):
    def tamper(run: Path) -> None:
        content = yaml.safe_load((run / "config.yaml").read_text())
        change(content, run)
        (run / "config.yaml").write_text(yaml.safe_dump(content))

    return tamper


def text(make):
    return lambda run: (run / "config.yaml").write_text(make(run))


def sealed(file: Path) -> None:
    """The checksum is no secret: a stranger can make it too."""
    with file.open("r+b") as handle:
        checkpoint._seal(handle)


def poisoned(change):
    def tamper(run: Path) -> None:
        for file in (run / "checkpoints").glob("*.ckpt"):
            content = torch.load(file, weights_only=True)
            change(content, run)
            torch.save(content, file)
            sealed(file)

    return tamper


def bomb(run: Path) -> None:
    for name in ("best", "last"):
        file = run / f"checkpoints/{name}.ckpt"
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", b"0" * 50_000_000)
        sealed(file)


def link(run: Path) -> None:
    for name in ("best", "last"):
        target = run.parent / "secret.ckpt"
        shutil.copy(run / f"checkpoints/{name}.ckpt", target)
        (run / f"checkpoints/{name}.ckpt").unlink()
        (run / f"checkpoints/{name}.ckpt").symlink_to(target)


def own_module(run: Path) -> None:
    """Modules that a careless program would import from the working directory or the folder."""
    for name in ("own_model", "sitecustomize", "torch_xla", "onnx", "conftest"):
        for place in (run, run.parent):
            (place / f"{name}.py").write_text(f"open({str(run.parent / FLAG)!r}, 'w')\nclass Net: pass\n")
    content = yaml.safe_load((run / "config.yaml").read_text())
    content["model"]["_target_"], content["allow"] = "own_model.Net", ["own_model"]
    (run / "config.yaml").write_text(yaml.safe_dump(content))


def hydra_files(run: Path) -> None:
    """What Hydra would read in a job's folder."""
    (run / ".hydra").mkdir()
    job = {"hydra": {"job_logging": {"handlers": {"x": {"()": "os.system", "command": f"touch {run.parent / FLAG}"}}}}}
    (run / ".hydra/hydra.yaml").write_text(yaml.safe_dump(job))
    content = yaml.safe_load((run / "config.yaml").read_text())
    content["hydra"] = job["hydra"]
    (run / "config.yaml").write_text(yaml.safe_dump(content))


def target(path, name, **arguments):
    def change(content, run):
        node = content
        for part in path.split("."):
            node = node[part]
        node |= {"_target_": name, **{k: str(v).format(flag=run.parent / FLAG) for k, v in arguments.items()}}

    return settings(change)


MALICIOUS = {
    "os.system as the model": target("model", "os.system", command="touch {flag}"),
    "eval as the loss": target("loss", "builtins.eval", source="open({flag!r}, 'w')"),
    "a class of subprocess": target("data", "subprocess.Popen", args="touch {flag}"),
    "torch.load": target("optim", "torch.load", f="{flag}"),
    "numpy's pickles": target("scheduler", "numpy.load", file="{flag}", allow_pickle=True),
    "a class that a module of ours imports": target("model", "iolaus.report.Path"),
    "a function of ours": target("model", "iolaus.slurm.requeue"),
    "through a private name": target("model", "torch.nn.Linear.__init__.__globals__"),
    "inside an argument": settings(
        lambda c, r: c["model"].update(hidden_dims=[{"_target_": "os.mkdir", "path": str(r.parent / FLAG)}])
    ),
    "a metric": settings(lambda c, r: c["metrics"].update(x={"_target_": "os.mkdir", "path": str(r.parent / FLAG)})),
    "a profiler that writes elsewhere": settings(
        lambda c, r: c["trainer"].update(
            profiler={
                "_target_": "pytorch_lightning.profilers.SimpleProfiler",
                "dirpath": str(r.parent),
                "filename": FLAG,
            }
        )
    ),
    "checkpoints elsewhere": settings(lambda c, r: c["callbacks"]["checkpoint"].update(dirpath=str(r.parent / FLAG))),
    "a path that climbs out": settings(lambda c, r: c["callbacks"]["checkpoint"].update(filename=f"../../{FLAG}")),
    "the environment": settings(lambda c, r: c["data"].update(name="${oc.env:HOME}")),
    "a tag of YAML": text(lambda run: f"x: !!python/object/apply:os.system ['touch {run.parent / FLAG}']"),
    "a billion laughs": text(
        lambda run: (
            "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12))
        )
    ),
    "deep nesting": text(lambda run: "[" * 100_000),
    "a pickle in the checkpoint": poisoned(lambda c, r: c.update(x=Payload(r.parent))),
    "a pickle as the weights": poisoned(lambda c, r: c.update(state_dict=Payload(r.parent))),
    "hyperparameters that name a class": poisoned(
        lambda c, r: c.update(hyper_parameters={"_instantiator": "os.system", "_class_path": "os.system"})
    ),
    "a zip bomb": bomb,
    "links to files outside": link,
    "modules in the folder": own_module,
    "Hydra's files": hydra_files,
}
# What the command works without: it is passed over, not refused.
PASSED_OVER = {
    "test": {
        "hyperparameters that name a class",
        "a profiler that writes elsewhere",
        "checkpoints elsewhere",
        "a path that climbs out",
    },
    "resume": {
        "hyperparameters that name a class",
        "a pickle in the checkpoint",
        "a pickle as the weights",
        "a zip bomb",
        "links to files outside",
    },
}


def files(place: Path) -> set[str]:
    return {str(f.relative_to(place)) for f in place.rglob("*")}


@pytest.mark.parametrize(("command", "forced"), [("test", True), ("resume", False)])
@pytest.mark.parametrize("name", MALICIOUS)
def test_nothing_is_executed(honest, tmp_path, monkeypatch, capfd, name, command, forced):
    """Neither by `iolaus test` nor by `iolaus resume`, in the folder above it or inside it, nor where torch is told to unpickle all."""
    run = tmp_path / "place/run"
    shutil.copytree(honest, run)
    MALICIOUS[name](run)
    (run / "results.json").unlink()  # so that it seems to be unfinished
    monkeypatch.chdir(run if forced else run.parent)
    monkeypatch.setattr(sys, "path", list(sys.path))
    if forced:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    before = files(tmp_path)
    code = 0
    try:
        cli.main([command, str(run)])
    except SystemExit as stop:
        code = int(stop.code or 0)
    told = capfd.readouterr()
    assert not list(tmp_path.rglob(FLAG)), told
    outside = {f for f in files(tmp_path) - before if not f.startswith("place/run/")}
    assert outside == set()
    if command == "test":
        assert files(tmp_path) == before | {f for f in files(tmp_path) if f.endswith(".lock")}
    if name not in PASSED_OVER[command]:
        assert code == 1
        assert "Traceback" not in told.err
        assert len(told.err.splitlines()) <= 8
