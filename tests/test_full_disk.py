"""Runs whose disk is full, or takes no large files: what is kept, and what one message tells."""

import csv
import os
import resource
import subprocess

import pytest
from forked import Child, differences
from test_stopping import results

from iolaus.cli import main
from iolaus.errors import CannotWrite
from iolaus.files import append, write
from iolaus.unwritten import Unwritten, is_of_disk

IRIS = ("data=iris", "trainer.max_epochs=6", "output_dir=disk/run")


@pytest.fixture
def disk(tmp_path):
    """A disk of a size in KiB, which can be made larger."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(size, *more):
        command = ["mount", "-t", "tmpfs", "-o", ",".join((f"size={size}k", *more)), "tmpfs", place]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    if os.geteuid() != 0 or not mount(1):
        pytest.skip("a disk can be mounted by root alone")
    yield lambda size: mount(size, "remount")
    subprocess.run(["umount", "-l", place], check=True)


def limit_files(size):
    """Let this process write no file of more bytes."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def rows(run):
    return list(csv.DictReader((run / "metrics.csv").open()))


def test_a_finished_training_keeps_its_scores(tmp_path):
    """Neither the events nor the learning curves nor the page fit; the checkpoints and the results do."""
    child = Child(tmp_path, *IRIS, "model=linear", before=limit_files(60_000))
    assert child.wait() == 1, child.text
    assert "Traceback" not in child.text
    assert "accuracy" in child.text, "the table of the scores"
    assert "report: " not in child.text
    assert child.text.count("TensorBoard's file in") == 1
    *_, lost, kept, step = child.text.strip().splitlines()
    assert lost == "disk/run: not written: figures/learning_curves.png, report.html: File too large"
    assert kept == "kept: config.yaml, results.json, checkpoints/best.ckpt, checkpoints/last.ckpt, metrics.csv"
    assert step == "make room on its disk, then: iolaus report disk/run"
    run = tmp_path / "disk/run"
    assert results(run)["status"] == "completed"
    assert "accuracy/test" in results(run)["metrics"]["test"]
    assert len(rows(run)) == 6
    assert not list(run.rglob("*.partial"))
    main(["report", str(run)])
    assert "accuracy" in (run / "report.html").read_text()


@pytest.mark.slow
def test_a_checkpoint_that_does_not_fit_ends_the_run_which_goes_on_with_the_same_bits(tmp_path):
    child = Child(tmp_path, *IRIS, before=limit_files(100_000))
    assert child.wait() == 1
    assert "not written: checkpoints/best.ckpt: the checkpoint cannot be written: File too large" in child.text
    assert child.text.strip().endswith("make room on its disk, then: iolaus resume disk/run")
    assert "Traceback" not in child.text
    assert results(tmp_path / "disk/run")["status"] == "failed"
    again = Child(tmp_path, "resume=disk/run")
    assert again.wait() == 0, again.text
    assert Child(tmp_path, *IRIS[:-1], "output_dir=whole").wait() == 0
    assert differences(tmp_path / "whole", tmp_path / "disk/run") == []


@pytest.mark.slow
@pytest.mark.parametrize("size", [60, 300, 420, 500, 700, 2048])
def test_a_disk_that_is_full(tmp_path, disk, size):
    """Wherever it fills up, nothing is half written, one message tells, and the next command makes it whole."""
    assert disk(size)
    child = Child(tmp_path, *IRIS)
    code, run = child.wait(), tmp_path / "disk/run"
    assert "Traceback" not in child.text
    assert not list(run.rglob("*.partial"))
    assert results(run)["status"] in ("running", "completed", "failed")
    assert code == (0 if size > 2000 else 1)
    if code == 0:
        return
    assert "not written: " in child.text
    command = child.text.strip().splitlines()[-1].removeprefix("make room on its disk, then: iolaus ").split()
    assert command[1] == "disk/run"
    assert disk(4096)
    if command[0] == "resume":
        again = Child(tmp_path, "resume=disk/run")
        assert again.wait() == 0, again.text
    else:
        main([command[0], str(run)])
    assert results(run)["status"] == "completed"
    assert len(rows(run)) == 6
    assert (run / "report.html").read_text().rstrip().endswith("</html>")


def test_a_file_is_as_it_was_where_nothing_can_be_appended(tmp_path):
    file = tmp_path / "a.csv"
    append(file, "a,b\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6, hard))
    try:
        with pytest.raises(OSError, match=r"a\.csv") as refused:
            append(file, "1,2\n3,4\n")
        with pytest.raises(OSError, match=r"a\.csv"):
            write(file, "longer than it may be")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert is_of_disk(refused.value)
    assert [f.name for f in tmp_path.iterdir()] == ["a.csv"]
    assert file.read_text() == "a,b\n"


def test_what_is_noted_is_told_once_and_by_its_run(tmp_path):
    unwritten = Unwritten()
    with unwritten.noted(tmp_path / "a/x"):
        raise CannotWrite(tmp_path / "a/x", "no room")
    with unwritten.noted(tmp_path / "b/y"):
        raise OSError(28, "No space left on device")
    with pytest.raises(OSError, match="Interrupted"), unwritten.noted(tmp_path / "b/z"):
        raise OSError(4, "Interrupted")
    assert unwritten.take(tmp_path / "a") == {"x": "no room"}
    assert unwritten.take(tmp_path / "a") == {}
    unwritten.forget(tmp_path / "b/y")
    assert unwritten.take(tmp_path) == {}
