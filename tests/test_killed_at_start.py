"""A run that is killed before it trains: what it left is enough to start it from its beginning, with the same bits."""

import json
import os
import signal

import pytest
from conftest import composed
from forked import Child, differences
from omegaconf import OmegaConf

from iolaus import report
from iolaus.check import plain
from iolaus.data.base import DataModule
from iolaus.errors import UserError
from iolaus.references import has_foreign_interpolations, keep_references
from iolaus.resume import prepare
from iolaus.runs import read_settings

RUN = (
    *("data=csv", "data.path=table.csv", "data.target=kind", "trainer.max_epochs=2"),
    *("stages=[fit]", "logger=[]", "loss=balanced_cross_entropy"),
)
FACTS = {"input_shape": [3, 8, 8], "num_classes": 4, "vocab_size": 11, "class_weights": [1.0, 0.5, 2.0, 1.0]}


@pytest.fixture(autouse=True)
def table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [f"{k % 7},{k * 37 % 11},{'abc'[k % 3]}" for k in range(60)]
    (tmp_path / "table.csv").write_text("\n".join(["x,y,kind", *lines]) + "\n")


def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def at_claim():
    report.claim = die


def at_config():
    write = report.write

    def write_and_die(file, content):
        write(file, content)
        die()

    report.write = write_and_die


def at_reading():
    DataModule.setup = die


def at_build():
    report.Report.follow = die


def at_fit():
    report.Report.fit = die


MOMENTS = [at_config, at_reading, at_build, at_fit]


@pytest.mark.parametrize(
    "moment", [pytest.param(m, marks=[] if m is at_reading else pytest.mark.slow) for m in MOMENTS]
)
def test_a_run_that_was_killed_before_it_trained_starts_again(tmp_path, moment):
    assert Child(tmp_path, *RUN, "output_dir=run", before=moment).wait() == -signal.SIGKILL
    resumed = Child(tmp_path, "resume=run")
    assert resumed.wait() == 0, resumed.text
    assert "starting from the beginning" in resumed.text
    assert Child(tmp_path, *RUN, "output_dir=whole").wait() == 0
    assert differences(tmp_path / "whole", tmp_path / "run") == []
    texts = [(tmp_path / name / "config.yaml").read_text() for name in ("whole", "run")]
    assert texts[1] == texts[0].replace(str(tmp_path / "whole"), str(tmp_path / "run"))
    if moment is not at_config:
        found = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("whole", "run")]
        for key in ("metrics", "choices", "task", "steps"):
            assert found[0][key] == found[1][key], key


@pytest.mark.slow
def test_before_its_settings_are_written_a_run_has_not_begun(tmp_path):
    assert Child(tmp_path, *RUN, "output_dir=run", before=at_claim).wait() == -signal.SIGKILL
    with pytest.raises(UserError, match="run: the run was stopped before it had begun"):
        prepare(tmp_path / "run", [], [])
    again = Child(tmp_path, *RUN, "output_dir=run")
    assert again.wait() == 0, again.text


@pytest.mark.parametrize(
    "words",
    [
        ("data=csv", "data.path=table.csv", "data.target=kind", "data.input_kind=table", "task=classification"),
        ("data=digits", "model=cnn", "loss=balanced_cross_entropy"),
        ("data=morse", "model=conv_gru"),
        ("data=stdlib", "model=gpt2", "+optim._groups_.head={match: head, lr: '${data.num_classes}'}"),
        ("data=digits", "scheduler=warmup_cosine", "+model.norm='${slug:${model.input_shape}}'"),
    ],
)
def test_what_waits_for_the_data_is_what_it_would_have_been(words):
    """Saved without the facts and resolved with them, against resolved with them from the start."""
    config = composed(*words)
    early = keep_references(plain(config), plain(config, resolve=False))
    assert not has_foreign_interpolations(early)
    saved = OmegaConf.create(early)
    for settings in (config, saved):
        OmegaConf.set_struct(settings, False)
        settings.data.update({key: value for key, value in FACTS.items() if key in settings.data})
    assert plain(saved) == plain(config)


@pytest.mark.parametrize(
    "text",
    [
        "model: {a: '${oc.env:HOME}'}",
        "model: {a: '${less:${oc.env:HOME},1}'}",
        "model: {a: '${data.x}${oc.env:HOME}'}",
        "model: {a: '${data.${oc.env:HOME}}'}",
        "model: {a: '${optim.lr}'}",
        "data: {x: '${data.y}'}",
        "data: {x: ['${optim.lr}']}",
        "model: {'${data.x}${oc.env:HOME}': 1}",
        "model: [" + ", ".join(["'${data.x}'"] * 300) + "]",
    ],
)
def test_no_other_interpolation_is_taken_from_a_folder(tmp_path, text):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match="not the resolved settings of a run"):
        read_settings(tmp_path)
