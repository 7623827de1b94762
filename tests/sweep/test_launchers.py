"""Launchers of others, by their real packages: each job is the plain run, and the report names a command that works."""

import json

import pytest
from test_processes import QUICK, run

from iolaus.explain import ABSENT

PACKAGES = {
    "joblib": "hydra_plugins.hydra_joblib_launcher",
    "submitit_local": "hydra_plugins.hydra_submitit_launcher",
}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", PACKAGES)
def test_jobs_of_another_launcher(tmp_path, launcher):
    pytest.importorskip(PACKAGES[launcher])
    text = run(tmp_path, "-m", *QUICK, "optim.lr=0.01,0.02,0.03", f"hydra/launcher={launcher}", "output_dir=sweep")
    results = [json.loads(file.read_text()) for file in sorted((tmp_path / "sweep").glob("*/results.json"))]
    assert [r["status"] for r in results] == ["completed"] * 3
    assert len({r["objective"]["value"] for r in results}) == 3
    assert all("train.py" in r["command"] for r in results), results[0]["command"]
    assert "sweep: 3 completed" in text
    assert (tmp_path / "sweep/report.html").exists()


def test_a_launcher_that_is_not_there_is_told(command, monkeypatch):
    monkeypatch.setitem(ABSENT, "hydra/launcher=elsewhere", "the package elsewhere is not installed")
    outcome = command("-m", "hydra/launcher=elsewhere", "seed=1,2")
    assert outcome.code == 1
    assert outcome.text.strip() == "hydra/launcher=elsewhere: the package elsewhere is not installed"


@pytest.mark.slow
def test_a_job_of_submitit_trains_by_several_processes_and_goes_on_when_it_is_queued_again(tmp_path, monkeypatch):
    pytest.importorskip(PACKAGES["submitit_local"])
    words = ["-m", *QUICK, "trainer=ddp", "trainer.devices=2", "hydra/launcher=submitit_local", "output_dir=sweep"]
    run(tmp_path, *words, "optim.lr=0.01")
    (file,) = (tmp_path / "sweep").glob("*/results.json")
    results = json.loads(file.read_text())
    assert (results["status"], results["processes"]) == ("completed", 2)
    file.write_text(json.dumps(results | {"status": "interrupted"}))
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    run(tmp_path, *words, "optim.lr=0.01")
    again = json.loads(file.read_text())
    assert again["status"] == "completed"
    assert "resume=" in again["command"]
    assert again["metrics"]["last"] == results["metrics"]["last"]
