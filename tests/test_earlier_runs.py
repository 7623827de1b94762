"""Runs that earlier versions made, in tests/fixtures: whatever one does with a run, one does with these."""

import csv
import json
import tarfile
from pathlib import Path

import pytest
import torch

from iolaus.cli import main

FIXTURES = Path(__file__).parent / "fixtures"
VERSION = "iolaus-0.1"
EXPECTED = json.loads((FIXTURES / f"{VERSION}.json").read_text())
FINISHED = [
    "classification",
    "regression",
    "image",
    "language_modeling",
    "translation",
    "speech",
    "ranking",
    "scaling",
    "table",
    "pictures",
]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """The folder in which the commands of that version were given."""
    place = tmp_path_factory.mktemp("earlier")
    with tarfile.open(FIXTURES / f"{VERSION}.tar.xz") as archive:
        archive.extractall(place / "outputs", filter="data")
    return place


@pytest.fixture
def runs(unpacked, monkeypatch):
    """Their folder, as commands name it."""
    monkeypatch.chdir(unpacked)
    return Path("outputs", VERSION)


def test_every_kind_of_task_is_there(runs):
    tasks = {json.loads((runs / name / "results.json").read_text())["task"] for name in FINISHED}
    assert tasks == {path.stem for path in (FIXTURES.parents[1] / "conf/task").glob("*.yaml")} - {"auto"}


@pytest.mark.parametrize("name", FINISHED)
def test_it_is_tested_with_the_same_scores(runs, capsys, name):
    expected = json.loads((runs / name / "results.json").read_text())["metrics"]["test"]
    main(["test", str(runs / name), "--json"])
    found = json.loads(capsys.readouterr().out)["metrics"]
    assert expected
    assert {key: found[key] for key in expected} == pytest.approx(expected, rel=1e-4, abs=1e-6, nan_ok=True)


@pytest.mark.parametrize(("name", "source"), [("table", "rows.csv"), ("pictures", "data/pictures/dark")])
def test_it_predicts_the_same(runs, capsys, name, source):
    lines = (runs / "data/flowers.csv").read_text().splitlines()
    (runs / "rows.csv").write_text("\n".join([lines[0], *lines[2:7]]) + "\n")
    main(["predict", str(runs / name), str(runs / source)])
    found = list(csv.reader(capsys.readouterr().out.splitlines()))[1:4]
    for row, expected in zip(found, EXPECTED["predicted"][name], strict=True):
        assert row[1] == expected[1]
        assert [float(v) for v in row[2:]] == pytest.approx([float(v) for v in expected[2:]], rel=1e-4)


def test_it_is_exported(runs, tmp_path):
    from safetensors.torch import load_file

    main(["export", str(runs / "table"), "--format", "safetensors", "--output", str(tmp_path / "a.safetensors")])
    checkpoint = torch.load(runs / "table/checkpoints/best.ckpt", weights_only=True)["state_dict"]
    found = load_file(tmp_path / "a.safetensors")
    assert found
    for key, weight in found.items():
        assert any(torch.equal(weight, other) for other in checkpoint.values()), key


@pytest.mark.parametrize("name", ["swa", "ema"])
def test_it_is_resumed_from_the_middle_to_the_same_weights(runs, name):
    """To the last digits, as another processor may round otherwise."""
    main(["resume", str(runs / name)])
    found = torch.load(runs / name / "checkpoints/last.ckpt", weights_only=True)
    expected = EXPECTED["resumed"][name]
    assert found["global_step"] == expected["steps"]
    assert list(found["state_dict"]) == list(expected["weights"])
    for key, weight in found["state_dict"].items():
        torch.testing.assert_close(weight.flatten(), torch.tensor(expected["weights"][key]), rtol=1e-5, atol=1e-6)
    results = json.loads((runs / name / "results.json").read_text())
    assert results["status"] == "completed"
    assert results["metrics"]["test"] == pytest.approx(expected["test"], rel=1e-4)


@pytest.mark.parametrize(("name", "jobs"), [("sweep", 2), ("search", 3), ("stack", 3)])
def test_a_sweep_is_reported(runs, capsys, name, jobs):
    before = (runs / name / "leaderboard.csv").read_text()
    main(["report", str(runs / name)])
    assert f"{jobs} completed" in capsys.readouterr().out
    rows = list(csv.DictReader((runs / name / "leaderboard.csv").open()))
    assert len(rows) == jobs
    assert [row["objective"] for row in rows] == [row["objective"] for row in csv.DictReader(before.splitlines())]


def test_they_are_reported_and_compared(runs, capsys):
    main(["report", str(runs / "table")])
    assert "csv-mlp" in (runs / "table/report.html").read_text()
    capsys.readouterr()
    main(["compare", str(runs / "classification"), str(runs / "ema"), "--columns", "name,optim.lr"])
    assert capsys.readouterr().out.count("iris-mlp") >= 2
