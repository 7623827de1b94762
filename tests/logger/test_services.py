"""Services of experiments, by their real packages and without a network: what arrives, and that the training does not notice."""

import csv
import importlib
import json
import random
import resource
import struct
import zipfile

import numpy as np
import pytest
import torch
from conftest import composed
from forked import Child, kill_at_step
from test_train import digest

from iolaus import consistency
from iolaus.check import check
from iolaus.commands import install_command
from iolaus.errors import ConfigError, UserError
from iolaus.logger.service import Service
from iolaus.unwritten import unwritten

SERVICES = {"wandb": "wandb", "mlflow": "mlflow", "comet": "comet_ml"}  # and their packages
SMALL = (
    "data=wine",
    "model.dropout=0.2",
    "trainer.max_epochs=2",
    "trainer.log_every_n_steps=5",
    "callbacks.summary=null",
)
KEYS = (
    *("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "COMET_API_KEY", "COMET_URL_OVERRIDE"),
    *("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_TOKEN"),
)


@pytest.fixture(autouse=True)
def nobody(monkeypatch, tmp_path):
    """No keys of whoever runs the tests."""
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


# What a service has of the run in a folder: ids of its runs, settings, values as (name, step, value), names of files.


def read_wandb(folder):
    """W&B's file is a log in LevelDB's format, of protobuf records."""
    from wandb.proto import wandb_internal_pb2 as records

    ids, settings, values, files = [], {}, [], set()
    for file in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        data, at, whole = file.read_bytes(), 7, b""
        while at + 7 <= len(data):
            if (left := 32768 - at % 32768) < 7:
                at += left
                continue
            _, size, kind = struct.unpack("<IHB", data[at : at + 7])
            whole += data[at + 7 : at + 7 + size]
            at += 7 + size
            if kind not in (1, 4):
                continue
            record, whole = records.Record.FromString(whole), b""
            if record.WhichOneof("record_type") == "run":
                ids.append(record.run.run_id)
            settings |= {i.key: json.loads(i.value_json) for i in record.config.update if i.key}
            row = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.history.item}
            step = row.get("trainer/global_step")
            values += [(name, step, value) for name, value in row.items() if isinstance(value, float | int)]
            files |= {name.removesuffix("/_type") for name in row if name.endswith("/_type")}
    return ids, settings, values, files


def read_mlflow(folder):
    from mlflow import MlflowClient

    client = MlflowClient("sqlite:///outputs/mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name == "iolaus"]
    runs = client.search_runs([experiment.experiment_id], f"tags.mlflow.runName LIKE '%{folder.name}'")
    run = runs[0]
    values = [
        (m.key, m.step, m.value) for key in run.data.metrics for m in client.get_metric_history(run.info.run_id, key)
    ]
    tops = [f.path for f in client.list_artifacts(run.info.run_id)]
    files = {f.path.rpartition(".")[0] for top in tops for f in client.list_artifacts(run.info.run_id, top)}
    return [run.info.run_id for run in runs], dict(run.data.params), values, files


def read_comet(folder):
    ids, settings, values, files = [], {}, [], set()
    for file in sorted(folder.glob("comet/*.zip")):
        with zipfile.ZipFile(file) as archive:
            ids.append(json.loads(archive.read("experiment.json"))["offline_id"])
            for line in archive.read("messages.json").splitlines():
                message = json.loads(line)["payload"]
                if "metric" in message:
                    m = message["metric"]
                    values.append((m["metricName"], m["step"], float(m["metricValue"])))
                elif "param" in message and message["param"]["source"] == "manual":
                    settings[message["param"]["paramName"]] = message["param"]["paramValue"]
                elif "figName" in (message.get("additional_params") or {}):
                    files.add(message["additional_params"]["figName"])
    return ids, settings, values, files


READ = {"wandb": read_wandb, "mlflow": read_mlflow, "comet": read_comet}


@pytest.mark.slow
@pytest.mark.parametrize("service", SERVICES)
def test_all_that_is_logged_arrives_and_the_weights_are_the_same(command, service):
    pytest.importorskip(SERVICES[service])
    bare = command(*SMALL, "logger=[]", "stages=[fit]")
    outcome = command(*SMALL, f"logger=[{service},csv]")
    assert outcome.code == 0, outcome.text
    assert digest(outcome.folder) == digest(bare.folder)
    assert service in outcome.text.partition("next:")[2], outcome.text
    ids, settings, values, files = READ[service](outcome.folder)
    assert len(ids) == 1
    assert settings["model"] == "mlp"
    assert float(settings["lr"]) == 1e-3
    with (outcome.folder / "values.csv").open() as file:  # another logger was told the same
        told = {(row["name"], int(row["step"])): float(row["value"]) for row in csv.DictReader(file)}
    found = {(name, step): value for name, step, value in values}
    assert told.keys() - {k for k in told if k[0] == "epoch"} <= found.keys()
    assert all(found[key] == pytest.approx(value, rel=1e-9) for key, value in told.items() if key[0] != "epoch")
    assert found["Objective", outcome.results["steps"]] == outcome.results["objective"]["value"]
    assert {"figures/learning_curves", "figures/confusion_matrix"} <= files
    assert outcome.text.count("epoch 1/2") == 1
    assert "WARNING" not in outcome.text, outcome.text
    assert "INFO" not in outcome.text, outcome.text


@pytest.mark.slow
@pytest.mark.parametrize("service", SERVICES)
def test_a_killed_run_goes_on_in_the_same_run_of_the_service(tmp_path, monkeypatch, service):
    pytest.importorskip(SERVICES[service])
    monkeypatch.chdir(tmp_path)
    words = (*SMALL, "data.batch_size=16", "callbacks.resume_points.every_n_steps=3", f"logger=[{service}]")
    child = Child(tmp_path, *words, "output_dir=run", before=kill_at_step(12))
    assert child.wait() == -9, child.text
    begun = (tmp_path / "run" / f".{service}_run").read_text()
    child = Child(tmp_path, "resume=run")
    assert child.wait() == 0, child.text
    ids, _, values, _ = READ[service](tmp_path / "run")
    assert set(ids) == {begun}
    with (tmp_path / "run/metrics.csv").open() as file:
        rows = {int(row["step"]) - 1: float(row["loss/val"]) for row in csv.DictReader(file)}
    losses = [(step, value) for name, step, value in values if name == "loss/val"]
    assert len(rows) == 2
    assert dict(losses) == pytest.approx(rows)
    assert len(losses) == 2  # none twice


@pytest.mark.slow
@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("launcher", ["basic", "vectorized"])
def test_the_jobs_of_a_sweep_in_one_process_are_runs_of_their_own(command, tmp_path, service, launcher):
    pytest.importorskip(SERVICES[service])
    outcome = command(
        "-m",
        f"hydra/launcher={launcher}",
        "data=iris",
        "trainer.max_epochs=2",
        "model.dropout=0",
        "seed=1,2",
        f"logger=[{service}]",
    )
    assert outcome.code == 0, outcome.text
    found = [READ[service](folder.parent) for folder in sorted(tmp_path.rglob("results.json"))]
    assert len({run[0][0] for run in found}) == 2
    for (_, settings, values, _), seed in zip(found, (1, 2), strict=True):
        assert int(settings["seed"]) == seed
        assert sum(name == "loss/val" for name, _, _ in values) == 2
    assert found[0][2] != found[1][2]


REFUSED = {
    "wandb": (["logger.wandb.online=true"], "logger.wandb: No API key"),
    "comet": (["logger.comet.online=true"], "logger.comet: Comet.ml requires an API key"),
    "mlflow": (["logger.mlflow.tracking_uri=http://127.0.0.1:9"], "logger.mlflow: API request to http://127.0.0.1:9"),
}


@pytest.mark.slow
@pytest.mark.parametrize("service", SERVICES)
def test_a_service_that_cannot_be_had_is_refused_before_the_training(command, service):
    pytest.importorskip(SERVICES[service])
    words, message = REFUSED[service]
    outcome = command(*SMALL, f"logger=[{service}]", *words)
    assert outcome.code == 1
    (line,) = outcome.text.strip().splitlines()
    assert line.startswith(message)
    assert f"logger.{service}" in line.partition(";")[2]
    assert "epoch 1" not in outcome.text
    assert outcome.results["status"] == "failed"


@pytest.mark.slow
def test_keys_are_written_nowhere(command, monkeypatch):
    pytest.importorskip("wandb")
    secret = "c0ffee" * 6 + "abcd"
    monkeypatch.setenv("WANDB_API_KEY", secret)
    outcome = command(*SMALL, "logger=[wandb]", "logger.wandb.online=false")
    assert outcome.code == 0, outcome.text
    assert not [file for file in outcome.folder.rglob("*") if file.is_file() and secret.encode() in file.read_bytes()]


@pytest.mark.parametrize("service", SERVICES)
def test_a_missing_package_is_told_by_its_option(monkeypatch, service):
    monkeypatch.setattr(consistency, "_is_installed", lambda package: package != SERVICES[service])
    with pytest.raises(ConfigError) as error:
        check(composed(f"logger=[tensorboard,{service}]"))
    package = SERVICES[service]
    assert error.value.problems == [
        f"logger={service}: the package {package} is not installed; {install_command(service)}"
    ]


def test_folders_of_a_package_s_name_are_no_package(tmp_path, monkeypatch):
    (tmp_path / "no_such_service").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert importlib.util.find_spec("no_such_service") is not None
    assert not consistency._is_installed("no_such_service")
    assert consistency._is_installed("torch")


def test_passwords_in_addresses_are_refused(monkeypatch):
    monkeypatch.setattr(consistency, "_is_installed", lambda package: True)
    for address, is_fine in (
        ("http://me:secret@host:5000", False),
        ("postgresql://u:p@h/d", False),
        ("http://host:5000/@x", True),
    ):
        config = composed("logger=[mlflow]", f'logger.mlflow.tracking_uri="{address}"')
        if is_fine:
            check(config)
            continue
        with pytest.raises(ConfigError, match=r"logger\.mlflow\.tracking_uri: has a password"):
            check(config)


@pytest.mark.parametrize("words", ["logger=neptune", "logger=[tensorboard,neptune]"])
def test_a_service_that_has_ended_is_told(command, words):
    outcome = command(words)
    assert outcome.code == 1
    assert (
        outcome.text.strip()
        == f"{words}: Neptune's service has ended, in March 2026; choose wandb, mlflow, comet or tensorboard"
    )


class Recorded(Service):
    """A service that fails when it is told to, and draws random numbers."""

    extra = "recorded"
    instead = "mend it"

    def __init__(self, save_dir):
        super().__init__(save_dir, None)
        self.calls = []
        self.broken = False

    def _call(self, *what):
        random.random(), np.random.rand(), torch.rand(1)
        if self.broken:
            raise ConnectionResetError("it is gone.\nfor ever")
        self.calls.append(what)

    def begin(self, earlier):
        self._call("begin", earlier)
        return earlier or "id-1"

    def write_settings(self, settings):
        self._call("settings", settings)

    def write(self, values, step):
        self._call("values", values, step)

    def write_file(self, tag, file, step):
        self._call("file", tag)

    def end(self, status):
        self._call("end", status)


def test_a_service_is_begun_once_and_gone_on_with(tmp_path):
    service = Recorded(tmp_path)
    service.log_metrics({"a": 1.0}, 0)  # not begun: as with --info
    service.close("completed")
    service.log_hyperparams({})
    assert service.calls == []
    service.log_hyperparams({"lr": 1})
    service.log_hyperparams({"lr": 1})
    service.log_metrics({"a": torch.tensor(1.5)}, 3)
    service.close("completed")
    service.close("failed")
    service.log_again([{"epoch": 1, "step": 4, "a": 2.0}])
    assert service.calls == [("begin", None), ("settings", {"lr": 1}), ("values", {"a": 1.5}, 3), ("end", "completed")]
    again = Recorded(tmp_path)
    again.log_hyperparams({"lr": 1})
    assert again.calls[0] == ("begin", "id-1")
    again.log_again([{"epoch": 1, "step": 4, "a": 2.0}])
    assert len(again.calls) == 2  # nothing again: the one before had ended
    killed = Recorded(tmp_path)
    killed.forgets = True
    killed.log_hyperparams({"lr": 1})
    killed.log_again([{"epoch": 1, "step": 4, "a": 2.0}])
    assert killed.calls[-1] == ("values", {"a": 2.0, "epoch": 0.0}, 3)
    (tmp_path / ".recorded_run").write_text("../../elsewhere")  # the folder may be a stranger's
    other = Recorded(tmp_path)
    other.log_hyperparams({"lr": 1})
    assert other.calls[0] == ("begin", None)


def test_a_service_that_fails_is_refused_at_first_and_told_once_later(tmp_path, caplog):
    service = Recorded(tmp_path)
    service.broken = True
    with pytest.raises(UserError, match=r"^logger\.recorded: it is gone; mend it$"):
        service.log_hyperparams({"lr": 1})
    service.log_metrics({"a": 1.0}, 0)  # nothing has begun
    assert not caplog.records
    service.broken = False
    service.log_hyperparams({"lr": 1})
    service.broken = True
    for step in range(3):
        service.log_metrics({"a": 1.0}, step)
    assert caplog.messages == ["logger.recorded: it is gone; the run goes on without it"]
    service.broken = False
    service.close("completed")
    assert service.calls[-1] == ("end", "completed")


def test_the_id_of_a_service_s_run_outlives_a_full_disk(tmp_path):
    service = Recorded(tmp_path)
    service.log_hyperparams({"lr": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2, hard))
    try:
        service.close("completed")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert unwritten.take(tmp_path) == {".recorded_run": "File too large"}
    again = Recorded(tmp_path)
    again.log_hyperparams({"lr": 1})
    assert again.calls[0] == ("begin", "id-1")


def test_no_random_number_of_the_run_is_drawn(tmp_path):
    service = Recorded(tmp_path)
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    expected = random.random(), np.random.rand(), torch.rand(1).item()
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    service.log_hyperparams({"lr": 1})
    service.add_file("figures/a", tmp_path / "a.png", 1)
    service.close("completed")
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected
