"""Paths that begin with `~`, and single packages: wherever a setting is said, they mean the same."""

import json

import pytest
from conftest import composed, read_yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from iolaus.check import check
from iolaus.cli import main
from iolaus.errors import ConfigError
from iolaus.normalize import normalize, quote_home
from iolaus.runs import overridden

ROWS = "x,y\n" + "".join(f"{i},{i % 2}\n" for i in range(40))


def value(word):
    override = OverridesParser.create().parse_override(quote_home(word))
    return list(override.sweep_iterator()) if override.is_sweep_override() else override.value()


@pytest.mark.parametrize(
    ("word", "means"),
    [
        ("data.path=~/rows.csv", "~/rows.csv"),
        ("+data.path=~/my rows (1).csv", "~/my rows (1).csv"),
        ("data.path=~/shards-{000..003}.tar", "~/shards-{000..003}.tar"),
        ('data.path="~/a,b.csv"', "~/a,b.csv"),
        ("data.path=[~/a.csv, ~/b.csv]", ["~/a.csv", "~/b.csv"]),
        ("data={path:~/a.csv,drop:[x]}", {"path": "~/a.csv", "drop": ["x"]}),
        ("data.separator='~'", "~"),
        ("data.path=a~/b", None),
    ],
)
def test_a_home_folder_needs_no_quotes(word, means):
    if means is None:
        assert quote_home(word) == word
    else:
        assert value(word) == means


def test_several_values_are_a_sweep():
    assert [v.text for v in value("data.path=~/a.csv,~/b.csv")] == ["~/a.csv", "~/b.csv"]


def test_what_removes_a_setting_is_left_alone():
    for word in ("~callbacks.swa", "~hydra/launcher", "~callbacks=default", "-q", "data=csv", "name=a~b"):
        assert quote_home(word) == word


def test_home_folders_are_expanded_wherever_they_stand(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    settings = {
        "data": {"path": "~/a.csv", "separator": "~", "files": ["~/b", "c"], "same": "${data.path}", "none": None},
        "init_from": "~/runs/1",
        "model": "???",
        "allow": "mine",
        "hydra": {"run": {"dir": "~/x"}},
    }
    config = normalize(OmegaConf.create(settings))
    assert OmegaConf.to_container(config, resolve=True) == settings | {
        "data": settings["data"] | {"path": "/home/me/a.csv", "files": ["/home/me/b", "c"], "same": "/home/me/a.csv"},
        "init_from": "/home/me/runs/1",
        "allow": ["mine"],
    }


def test_settings_of_a_run_are_not_expanded_but_what_the_user_says_is(monkeypatch):
    """A stranger's settings may name no place of the user's."""
    monkeypatch.setenv("HOME", "/home/me")
    config = overridden({"data": {"path": "a"}, "logger": {"save_dir": "~/x"}}, ["data.path=~/f.csv"])
    assert config == {"data": {"path": "/home/me/f.csv"}, "logger": {"save_dir": "~/x"}}


@pytest.mark.slow
def test_every_path_of_a_command_may_begin_in_the_home_folder(command, tmp_path, monkeypatch, capfd):
    home = tmp_path / "my home"
    (home / "options" / "model").mkdir(parents=True)
    (home / "rows.csv").write_text(ROWS)
    (home / "options" / "model" / "tiny.yaml").write_text(
        "# A linear one.\n_target_: iolaus.model.linear.Linear\ninput_shape: ${data.input_shape}\noutput_dim: ${task.output_dim}\n"
    )
    monkeypatch.setenv("HOME", str(home))
    words = ("data=csv", "data.path=~/rows.csv", "data.test_path=~/rows.csv", "data.target=y", "model=tiny")
    outcome = command(*words, "--config-dir", "~/options", "output_dir=~/first run", "trainer.max_epochs=1")
    assert outcome.code == 0, outcome.text
    assert outcome.folder == home / "first run"
    assert read_yaml(outcome.folder / "config.yaml")["data"]["path"] == f"{home}/rows.csv"

    def call(*arguments):
        main(list(arguments))
        return capfd.readouterr().out

    call(
        "predict",
        "~/first run",
        "~/rows.csv",
        "--output",
        "~/out.csv",
        "--checkpoint",
        "~/first run/checkpoints/last.ckpt",
    )
    assert len((home / "out.csv").read_text().splitlines()) == 41
    assert json.loads(call("test", "~/first run", "data.test_path=~/rows.csv", "--json"))["metrics"]
    assert "1 run" in call("compare", "~/first run", "--csv", "~/all.csv")
    assert (home / "all.csv").is_file()
    outcome = command("resume=~/first run", "trainer.max_epochs=2")
    assert outcome.code == 0, outcome.text
    assert json.loads((home / "first run" / "results.json").read_text())["epochs"] == 2
    outcome = command(*words, "--config-dir=~/options", "init_from=~/first run", "trainer.fast_dev_run=true")
    assert outcome.code == 0, outcome.text
    outcome = command(*words, "--config-dir=~/options", "init_from=~/nothing")
    assert f"init_from: {home}/nothing does not exist" in outcome.text


@pytest.mark.parametrize("word", ["allow=json", "allow=[json]", "allow='json'", "allow='json, csv'", "allow=[]"])
def test_packages_may_be_named_with_and_without_brackets(word):
    config = normalize(composed(word))
    check(config)
    assert list(config.allow) == [name for name in ("json", "csv") if name in word]
    if word != "allow=[]":
        with pytest.raises(ConfigError, match="there is no package 'nothere'"):
            check(normalize(composed(word.replace("json", "nothere"))))
