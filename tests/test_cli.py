"""The iolaus command on finished runs, also on a stranger's."""

import os
import re
import shutil
import subprocess

import pytest
import yaml
from conftest import Outcome
from forked import copy_of, finished

from iolaus import cli


def call(capfd, *arguments):
    code = 0
    try:
        cli.main([str(a) for a in arguments])
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capfd.readouterr()
    return code, captured.out + captured.err


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return finished(tmp_path_factory.mktemp("made"), "data=iris", "trainer.max_epochs=3")


@pytest.fixture
def run(made, tmp_path):
    return Outcome(0, "", copy_of(made, tmp_path / "made"))


def test_test_repeats_the_run_s_own_test(run, capfd):
    code, text = call(capfd, "test", run.folder)
    assert code == 0, text
    expected = run.results["metrics"]["test"]
    for name in ("loss", "accuracy", "auroc"):
        assert f"{expected[f'{name}/test']:.4f}" in text
    before = (run.folder / "metrics.csv").read_bytes()
    call(capfd, "test", run.folder, "--checkpoint", "last", "data.eval_batch_size=4")
    assert (run.folder / "metrics.csv").read_bytes() == before


def test_other_data_by_overrides(command, tmp_path, capfd):
    def table(name, noise):
        (tmp_path / name).write_text(
            "x,c,y\n" + "".join(f"{i / 10},{'ab'[i % 2]},{i / 5 + noise * (i % 3)}\n" for i in range(90))
        )

    table("a.csv", 0)
    table("b.csv", 100)
    folder = command(
        "data=csv", "data.path=a.csv", "data.target=y", "model=linear", "optim.lr=0.1", "trainer.max_epochs=30"
    ).folder
    _, own = call(capfd, "test", folder)
    code, other = call(capfd, "test", folder, "data.test_path=b.csv")
    assert code == 0, other
    assert own != other


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere"], "not a run's folder"),
        (["RUN", "data.btach_size=3"], "did you mean 'batch_size'"),
        (["RUN", "data.batch_size"], "write KEY=VALUE"),
        (["RUN", "data.batch_size=0"], "data.batch_size: must be at least 1"),
        (["RUN", "--checkpoint", "frist"], "kept are: best, last"),
        (["RUN", "trainer=ddp"], "trainer=ddp: a run keeps its trainer"),
        (["RUN", "data=wine"], "data=wine: a run keeps its data, whose settings alone may be changed"),
        (["RUN", "~trainer"], "trainer: nothing is chosen"),
    ],
)
def test_wrong_words(run, capfd, arguments, says):
    code, text = call(capfd, "test", *[run.folder if a == "RUN" else a for a in arguments])
    assert code == 1
    assert says in text
    assert len(text.splitlines()) <= 3


@pytest.mark.slow
def test_a_checkpoint_of_another_model(run, command, capfd):
    other = command("data=iris", "trainer.max_epochs=1", "model.hidden_dims=[7]").folder
    code, text = call(capfd, "test", run.folder, "--checkpoint", other / "checkpoints/best.ckpt")
    assert code == 1
    assert "checkpoint: it is of another model: model.layers.1.bias has shape [7] there, and [128]" in text
    assert len(text.splitlines()) <= 2


@pytest.mark.slow
def test_curvature_of_every_checkpoint(run, capfd):
    (run.folder / "checkpoints/best-1.ckpt").write_bytes((run.folder / "checkpoints/best.ckpt").read_bytes())
    code, text = call(capfd, "curvature", run.folder, "--checkpoint", "all", "--samples", "50", "--steps", "9")
    assert code == 0, text
    for name in ("best", "best-1", "last"):
        assert str(run.folder / f"figures/curvature_{name}.png") in text
        with (run.folder / f"samples/curvature_{name}.csv").open() as file:
            nodes, weights, bounds = zip(*(map(float, line.split(",")) for line in file.readlines()[1:]), strict=True)
        assert len(nodes) == 9
        assert sum(weights) == pytest.approx(1)
        assert f"{max(nodes):.6g} ± " in text
        assert min(bounds) > 0
    before = text
    code, text = call(capfd, "curvature", run.folder, "--samples", "50", "--steps", "9", "--mode", "eval")
    assert code == 0, text
    assert next(line for line in text.splitlines() if "│ best" in line) in before  # no dropout, no batch norm
    assert (run.folder / "figures/curvature_best.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--checkpoint", "frist"], "kept are: best, last"),
        (["--samples", "106"], "--samples: 106 is more than the 105 training rows; set at most 105"),
        (["--samples", "0"], "--samples: must be at least 1; received 0"),
        (["--steps", "100000"], "--steps: 100000 is more than the model's"),
        (["--mode", "trian"], "--mode: must be train or eval; received trian"),
        (["data.btach_size=3"], "did you mean 'batch_size'"),
    ],
)
def test_wrong_words_about_curvature(run, capfd, arguments, says):
    code, text = call(capfd, "curvature", run.folder, *arguments)
    assert code == 1
    assert says in text
    assert len(text.splitlines()) <= 3


def test_help_names_the_commands(capfd):
    code, text = call(capfd, "--help")
    assert code == 0
    assert "test" in text
    assert "resume" in text
    assert "curvature" in text


def test_versions(capfd):
    code, text = call(capfd, "--version")
    assert code == 0
    assert re.fullmatch(r"iolaus \d+\.\d+\.\d+, torch \d\S+, pytorch-lightning 2\.6\.6\n", text)


def test_a_command_that_is_not_there(capfd):
    code, text = call(capfd, "comapre")
    assert code == 2
    assert "there is no command 'comapre'; did you mean 'compare'?" in text


def test_a_file_that_cannot_be_written_is_told_in_a_line(run, capfd):
    """A link that leads through a file opens for nobody, root included."""
    log = run.folder / "train.log"
    log.unlink()
    log.symlink_to(run.folder / "config.yaml" / "train.log")
    code, text = call(capfd, "resume", run.folder, "trainer.max_epochs=5")
    assert (code, text) == (1, f"{log}: Not a directory\n")


@pytest.fixture
def read_only(run):
    """The run's folder, where nothing can be written: by its rights, which do not bind root, or by its mount."""
    is_root = os.geteuid() == 0
    if is_root:
        bound = subprocess.run(["mount", "--bind", run.folder, run.folder], capture_output=True, check=False)
        if bound.returncode != 0:
            pytest.skip("root writes into every folder where it may not mount one")
        subprocess.run(["mount", "-o", "remount,bind,ro", run.folder], check=True)
    else:
        for file in run.folder.rglob("*"):
            file.chmod(0o555 if file.is_dir() else 0o444)
        run.folder.chmod(0o555)
    yield run.folder
    if is_root:
        subprocess.run(["umount", run.folder], check=True)
    else:
        run.folder.chmod(0o755)


def test_a_folder_that_cannot_be_written_is_told_in_a_line(read_only, capfd):
    code, text = call(capfd, "resume", read_only, "trainer.max_epochs=5")
    reason = "Read-only file system" if os.geteuid() == 0 else "Permission denied"
    assert code == 1
    assert text.startswith(f"{read_only}/")
    assert text.endswith(f": {reason}\n")
    assert len(text.splitlines()) == 1


def test_what_is_not_given_is_named(capfd):
    code, text = call(capfd, "test")
    assert code == 2
    assert text.endswith("required: RUN\n")
    code, text = call(capfd)
    assert code == 2
    assert "name a command  (there are: test, " in text


def test_a_run_that_only_looked_has_no_weights(run, capfd):
    shutil.rmtree(run.folder / "checkpoints")
    settings = yaml.safe_load((run.folder / "config.yaml").read_text())
    (run.folder / "config.yaml").write_text(yaml.safe_dump(settings | {"stages": ["lr_find"]}))
    for command in ("test", "resume", "export"):
        code, text = call(capfd, command, run.folder)
        assert code == 1
        assert "it was not to train: stages=[lr_find]; start" in text
        assert len(text.splitlines()) == 1
