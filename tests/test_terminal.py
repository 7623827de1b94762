"""What a terminal, a log, a pipe and a machine without box characters get to see."""

import errno
import io
import logging
import os
import re
import sys

import pytest

from iolaus import terminal
from iolaus.callbacks import progress
from iolaus.tables import text_table
from iolaus.terminal import Console, has_boxes, is_live, is_quiet, tree, width, write_leniently


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_boxes_of_ascii_where_there_are_no_others(monkeypatch):
    plain = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", plain)
    text = text_table(["metric", "val"], [["loss", "0.5"], ["µ", "1"]])
    assert set(text) - set("µ") <= set(map(chr, range(128)))
    assert tree("run", {"a": {"b": 1, "c": {"d": [1, 2]}}, "e": None}, {"a.b": "default 2"}).splitlines() == [
        "run",
        "|-- a",
        "|   |-- b: 1   (default 2)",
        "|   `-- c",
        "|       `-- d: [1, 2]",
        "`-- e: null",
    ]
    write_leniently()
    print("mean ± 1")
    plain.flush()
    assert plain.buffer.getvalue() == b"mean ? 1\n"


def test_what_the_environment_says(monkeypatch):
    for name in ("TERM", "CI", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    assert has_boxes()
    assert is_live(Terminal())
    assert not is_live(io.StringIO())
    assert width() == 120
    monkeypatch.setenv("CI", "1")
    assert not is_live(Terminal())
    monkeypatch.delenv("CI")
    monkeypatch.setenv("TERM", "dumb")
    assert not has_boxes()
    assert not is_live(Terminal())
    monkeypatch.setenv("COLUMNS", "60")
    assert width() == 60
    assert max(map(len, text_table(["setting"] * 6, [["x" * 30] * 6]).splitlines())) <= 60
    monkeypatch.setenv("COLUMNS", "500")
    assert width() == 120


def test_quiet_is_the_level_of_the_terminal(monkeypatch):
    root, handler = logging.getLogger(), Console(io.StringIO())
    monkeypatch.setattr(root, "handlers", [handler])
    monkeypatch.delenv("TERM", raising=False)
    assert not is_quiet()
    handler.setLevel(terminal.RESULT)
    assert is_quiet()
    assert not is_live(Terminal())


def test_a_reader_that_is_gone_stops_nothing(monkeypatch, capfd):
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    gone = []
    monkeypatch.setattr(terminal, "nobody_reads", lambda: gone.append(True))
    Console(Closed()).handle(logging.makeLogRecord({"msg": "x"}))
    assert gone == [True]
    assert capfd.readouterr().err == ""


def test_a_full_disk_is_told_in_a_line(monkeypatch, capfd):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(terminal, "nobody_reads", lambda: None)
    Console(Full()).handle(logging.makeLogRecord({"msg": "x"}))
    assert capfd.readouterr().err == "standard output cannot be written: No space left on device; the run goes on\n"


def test_a_closed_stream_goes_nowhere(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    terminal.write_leniently()
    print("x")
    assert sys.stdout.name == os.devnull


def test_the_tree_of_a_command(command):
    text = command("--tree", "data=iris", "model=linear", "optim.lr=0.01").text
    assert re.search(r"^├── model: iolaus.model.linear.Linear   \(linear, default mlp\)$", text, re.M)
    assert "│   ├── lr: 0.01   (default 0.001)\n" in text
    assert "│   ├── output_dim: 3\n" in text
    refused = command("--tree", "-m", "optim.lr=1,2")
    assert refused.code == 1
    assert "--tree: shows the settings of one run" in refused.text


@pytest.mark.parametrize("word", ["-q", pytest.param("verbose=0", marks=pytest.mark.slow)])
def test_quiet_leaves_the_result(command, word):
    outcome = command(word, "data=iris", "trainer.max_epochs=1")
    assert outcome.results["command"] == "python train.py data=iris trainer.max_epochs=1 -q"
    assert outcome.text.startswith("iris-mlp: epoch 1, the best of 1\n")
    value = outcome.results["objective"]["value"]
    assert outcome.text.endswith(f"objective: loss/val {value:.6g}\n")
    assert "next:" in (outcome.folder / "train.log").read_text()


@pytest.mark.slow
def test_long_phases_and_models_in_a_log(command, monkeypatch):
    """Every batch is told where nobody is patient; a model of many layers takes a line."""
    monkeypatch.setattr(progress, "PATIENCE_S", 0.0)
    words = [
        "callbacks.progress.log_interval_s=0",
        "callbacks.summary.most_rows=5",
        "data.eval_batch_size=15",
        "logger=[]",
    ]
    outcome = command("data=iris", "trainer.max_epochs=1", *words)
    assert re.findall(r"^epoch 1/1  batch (\d+) of 14$", outcome.text, re.M) == [str(n) for n in range(1, 15)]
    assert "validation  batch 1 of 1\n" in outcome.text
    assert "test  batch 2 of 2\n" in outcome.text
    assert re.search(
        r"^parameters: 9,091 \(9,091 trainable\) in 6 layers: outputs/iris-mlp/\S+/model.txt$", outcome.text, re.M
    )
    assert (outcome.folder / "model.txt").is_file()
