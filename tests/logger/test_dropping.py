"""Loggers that cannot write: the training goes on without them, and every other error is raised."""

import csv
import resource

import pytest
from forked import Child
from pytorch_lightning.loggers import CSVLogger
from test_stopping import results

from iolaus.logger.dropping import drop_on_os_error
from iolaus.logger.every_value import EveryValue

MODULE = """
from pytorch_lightning.loggers.logger import Logger


class Mine(Logger):
    name, version = "mine", ""

    def log_hyperparams(self, *_):
        pass

    def log_metrics(self, metrics, step=None):
        with open("/dev/full", "w") as file:
            file.write("x")
"""


@pytest.fixture
def small_files():
    """This process can write no file of more than 40 bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_values_csv_keeps_what_was_written(tmp_path, small_files, caplog):
    file = tmp_path / "values.csv"
    logger = drop_on_os_error(EveryValue(str(file)), "logger.csv")
    for step in range(9):
        logger.log_metrics({"loss": 0.5}, step)
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        f"logger.csv: {file}: File too large; the run goes on without this logger"
    ]
    assert list(csv.reader(file.open())) == [["step", "name", "value"], ["0", "loss", "0.5"], ["1", "loss", "0.5"]]


def test_a_logger_of_lightning_s(tmp_path, caplog):
    """Its folder would lie in a file."""
    (tmp_path / "file").touch()
    logger = drop_on_os_error(CSVLogger(str(tmp_path / "file")), "logger.theirs")
    for step in range(3):
        logger.log_metrics({"loss": 0.5}, step)
        logger.save()
    logger.finalize("success")
    (warning,) = (record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert warning.startswith(f"logger.theirs: {tmp_path}/file/")
    assert warning.endswith(": Not a directory; the run goes on without this logger")


def test_other_errors_are_raised(tmp_path):
    logger = drop_on_os_error(EveryValue(str(tmp_path / "values.csv")), "logger.csv")
    for _ in range(2):
        with pytest.raises(ValueError, match="could not convert string to float: 'high'"):
            logger.log_metrics({"loss": "high"}, 0)


def test_a_training_goes_on_without_a_logger_of_the_users(tmp_path, monkeypatch):
    (tmp_path / "logger_on_full_disk.py").write_text(MODULE)
    (tmp_path / "options/logger").mkdir(parents=True)
    (tmp_path / "options/logger/mine.yaml").write_text(
        "# On a full disk.\nmine: {_target_: logger_on_full_disk.Mine}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    words = ["allow=[logger_on_full_disk]", "logger=[mine]", "data=iris", "model=linear", "trainer.max_epochs=2"]
    child = Child(tmp_path, "--config-dir", "options", *words, "output_dir=run")
    assert child.wait() == 0, child.text
    assert child.text.count("logger.mine: No space left on device; the run goes on without this logger") == 1
    assert "Traceback" not in child.text
    assert "logger_on_full_disk.py" in (tmp_path / "run/train.log").read_text()
    assert results(tmp_path / "run")["status"] == "completed"
