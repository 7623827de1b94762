"""Commands that we print: pasted, they do what they say."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
from conftest import ROOT

from iolaus.commands import config_flags, install_command, run_command, train_command

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
