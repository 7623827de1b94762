"""Commands that we print: pasted, they do what they say."""

import json
import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import ROOT
from test_extend import forget

from iolaus.cli import main
from iolaus.commands import config_flags, install_command, run_command, train_command
from iolaus.sweep.report import report_sweep

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.mark.parametrize("extra", sorted(EXTRAS))
def test_extras_are_installed_from_the_checkout(extra, monkeypatch, tmp_path):
    """From PyPI another project of our name would come."""
    monkeypatch.chdir(ROOT)
    assert install_command(extra) == f"pip install -e '.[{extra}]'"
    monkeypatch.chdir(tmp_path)
    assert shlex.split(install_command(extra)) == ["pip", "install", "-e", f"{ROOT}[{extra}]"]


def test_an_installed_package_names_what_the_extra_needs(monkeypatch):
    monkeypatch.setattr("iolaus.commands.__file__", "/usr/lib/python3/site-packages/iolaus/commands.py")
    words = shlex.split(install_command("serve"))
    assert words[:2] == ["pip", "install"]
    assert {re.split("[<>=]", word)[0] for word in words[2:]} == {"python-multipart", "starlette", "uvicorn"}


def test_nobody_is_sent_to_the_other_project():
    named = re.compile(r"pip install '?iolaus|\biolaus\[")
    texts = [*(ROOT / "src" / "iolaus").rglob("*.py"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md")]
    assert not [str(f) for f in [*texts, *(ROOT / "conf").rglob("*.yaml")] if named.search(f.read_text())]
    wanted = {e for f in texts for e in re.findall(r"""(?:install_command\(["']|-e '\.\[)(\w+)""", f.read_text())}
    assert {"serve", "export", "search", "launchers"} <= wanted <= EXTRAS.keys()


def test_words_are_quoted(monkeypatch, tmp_path):
    (tmp_path / "my runs").mkdir()
    monkeypatch.chdir(tmp_path / "my runs")
    folder = Path("a run")
    assert run_command("test", folder, ["mine"]) == "iolaus test 'a run' --allow mine"
    assert run_command("predict", folder.resolve(), file="FILE") == "iolaus predict 'a run' FILE"
    assert run_command("test", Path("-q")) == "iolaus test ./-q"
    assert run_command("test", Path("~x")) == "iolaus test './~x'"
    made = train_command("train.py", ["--config-dir", "my options"], ['data.drop=["a b"]'])
    assert shlex.split(made) == ["python", "train.py", "--config-dir", "my options", 'data.drop=["a b"]']


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        (["-m", "--config-dir", "options", "optim.lr=1"], ["--config-dir", "options"]),
        (["--config-dir=a=b", "-cn", "other", "-q"], ["--config-dir=a=b", "-cn", "other"]),
        (["data=iris", "--config-dir"], ["--config-dir"]),
        (["-cd", "-cd", "x"], ["-cd", "-cd"]),
    ],
)
def test_flags_that_say_where_the_options_are(words, flags):
    assert list(config_flags(words)) == flags


MODEL = """
from torch import nn


class Flat(nn.Sequential):
    def __init__(self, input_shape, output_dim: int):
        super().__init__(nn.Flatten(), nn.Linear(input_shape[0], output_dim))
"""
OPTION = "# A layer.\n_target_: my_flat.Flat\ninput_shape: ${data.input_shape}\noutput_dim: ${task.output_dim}\n"
ROWS = "height (cm),kind\n" + "".join(f"{i % 7}.5,{'yes' if i % 3 else 'no'}\n" for i in range(60))
TRAIN = re.compile(r"python \S*train\.py .*")


def test_every_command_of_a_run_may_be_pasted(command, tmp_path, monkeypatch, capfd):
    """With options and a package of one's own, in a folder with a space in its name."""
    place = tmp_path / "my work"
    (place / "my options" / "model").mkdir(parents=True)
    (place / "my_flat.py").write_text(MODEL)
    (place / "my options" / "model" / "flat.yaml").write_text(OPTION)
    (place / "my rows, all.csv").write_text(ROWS)
    monkeypatch.chdir(place)
    forget()
    words = ("allow=[my_flat]", "model=flat", "data=csv", 'data.path="my rows, all.csv"', "data.target=kind")
    first = command("--config-dir", "my options", *words, "trainer.max_epochs=1", "data.test_fraction=0.2")
    assert first.code == 0, first.text

    def paste(text):
        forget()
        program, *arguments = shlex.split(text.replace("FILE", "'my rows, all.csv'"))
        if program == "python":
            outcome = command(*arguments[1:])
            assert outcome.code == 0, f"{text}\n{outcome.text}"
            return outcome
        assert program == "iolaus"
        monkeypatch.setattr("sys.path", [entry for entry in sys.path if entry != str(place)])
        try:
            main(arguments)
        except SystemExit as stop:
            pytest.fail(f"{text}\n{stop.code} {capfd.readouterr()}")
        return None

    page = (first.folder / "report.md").read_text()
    next_steps = [line.strip() for line in first.text.partition("next:")[2].splitlines()]
    printed = [line for line in [*next_steps, *page.splitlines()] if line.startswith("iolaus ")]
    assert {shlex.split(line)[1] for line in printed} == {"test", "predict"}
    for line in dict.fromkeys(printed):
        paste(line)
    trainings = dict.fromkeys(line for line in page.splitlines() if TRAIN.match(line))
    assert len(trainings) >= 1
    assert first.results["command"] in trainings
    again = [paste(line) for line in trainings]
    assert {str(one.results["metrics"]) for one in again} == {str(first.results["metrics"])}


@pytest.mark.slow
def test_the_best_job_of_a_sweep_may_be_pasted(command, tmp_path, monkeypatch):
    place = tmp_path / "my work"
    (place / "my options" / "model").mkdir(parents=True)
    (place / "my_flat.py").write_text(MODEL)
    (place / "my options" / "model" / "flat.yaml").write_text(OPTION)
    monkeypatch.chdir(place)
    forget()
    words = ("--config-dir", "my options", "allow=[my_flat]", "model=flat", "data=iris", "trainer.max_epochs=1")
    sweep = command("-m", *words, "optim.lr=0.1,0.01")
    assert sweep.code == 0, sweep.text
    folder = next((place / "outputs" / "sweeps").iterdir())
    (line,) = [line for line in report_sweep(folder).splitlines() if TRAIN.search(line)]
    assert line.split("train.py", 1)[1] in (folder / "report.md").read_text()
    outcome = command(*shlex.split(line.strip())[2:])
    assert outcome.code == 0, outcome.text
    jobs = [json.loads(file.read_text()) for file in folder.glob("*/results.json")]
    assert outcome.results["metrics"] in [job["metrics"] for job in jobs]
    assert all("--config-dir 'my options'" in job["command"] for job in jobs)
