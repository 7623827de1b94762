"""Runs whose disk is full, or takes no large files: what is kept, and what one message tells."""

import csv
import os
import resource
import signal
import subprocess
import threading

import pytest
from forked import Child, differences
from test_stopping import results
from torchmetrics.classification import MulticlassAccuracy as Accuracy

from iolaus import report
from iolaus.cli import main
from iolaus.errors import CannotWrite
from iolaus.files import append, write
from iolaus.history import History
from iolaus.unwritten import Unwritten, is_of_disk, quiet_thread_errors, unwritten
from iolaus.user_code import warn_on_failure

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


def act_and_limit(act):
    """Act in the second epoch, and let this process write no large file once the report is due."""

    def before():
        compute, calls, write_report = Accuracy.compute, iter(range(1000)), report.write_report

        def compute_and_act(self):
            if next(calls) == 2:
                act()
            return compute(self)

        def limit_and_report(*arguments):
            limit_files(10_000)()
            write_report(*arguments)

        Accuracy.compute, report.write_report = compute_and_act, limit_and_report

    return before


def test_an_error_of_the_run_is_told_beside_what_is_missing(tmp_path):
    def fail():
        raise ZeroDivisionError("of the metric")

    child = Child(tmp_path, *IRIS, "model=linear", before=act_and_limit(fail))
    assert child.wait() == 1
    assert "not written: report.html: File too large" in child.text
    assert "ZeroDivisionError" in child.text
    assert results(tmp_path / "disk/run")["status"] == "failed"


def test_a_stopped_run_keeps_its_exit_code(tmp_path):
    """The report is missing; the resume point is not."""

    def stop():
        os.kill(os.getpid(), signal.SIGTERM)

    child = Child(tmp_path, *IRIS, "model=linear", before=act_and_limit(stop))
    assert child.wait() == 143, child.text
    assert "not written: report.html: File too large" in child.text
    assert (tmp_path / "disk/run/checkpoints/last.ckpt").exists()
    assert results(tmp_path / "disk/run")["status"] == "interrupted"


def test_a_file_of_the_users_that_cannot_be_opened_is_warned_of(tmp_path, caplog):
    """It is not of the run's folder, so it is not among the run's missing files either."""
    (tmp_path / "file").touch()
    run = tmp_path / "run"
    with warn_on_failure("figures/mine.png", run):
        (tmp_path / "file/colours.txt").read_text()
    assert unwritten.take(tmp_path) == {}
    (warning,) = (record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert warning.startswith("figures/mine.png: left out: [Errno 20] Not a directory")
    with warn_on_failure("figures/mine.png", run):
        raise OSError(28, "No space left on device")
    assert unwritten.take(run) == {"figures/mine.png": "No space left on device"}


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


def test_rows_that_were_refused_from_the_first_on_are_written_later(tmp_path):
    """A file that was never written is not taken for one that was removed with its folder."""
    history = History(tmp_path / "metrics.csv")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6, hard))
    try:
        for epoch in range(2):
            history.log_metrics({"loss/train": 1.0, "epoch": epoch}, epoch)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not history.path.exists()
    history.log_metrics({"loss/train": 1.0, "epoch": 2}, 2)
    assert [row["epoch"] for row in rows(tmp_path)] == ["1", "2", "3"]
    assert unwritten.take(tmp_path) == {}


def test_no_hook_of_threads_is_left_behind():
    before = threading.excepthook
    with quiet_thread_errors():
        assert threading.excepthook is not before
    assert threading.excepthook is before


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
