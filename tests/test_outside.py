"""train.py outside its environment, where none of its packages is: it says how to get there."""

import shlex
import shutil
import subprocess
import sys

from conftest import ROOT


def outside(script, folder, *flags):
    """What Python says without the packages of any environment."""
    words = [sys._base_executable, "-S", "-I", *flags, str(script), "data=iris"]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True)


def test_it_says_how_to_activate(tmp_path):
    folder = tmp_path / "my checkout"
    (folder / ".venv" / "bin").mkdir(parents=True)
    shutil.copy(ROOT / "train.py", folder)
    (folder / ".venv" / ".ready").touch()
    (folder / ".venv" / "bin" / "activate").write_text("echo it is active\n")
    told = outside(folder / "train.py", tmp_path)
    assert told.returncode == 1
    assert told.stderr.count("\n") == 1
    assert "has no package omegaconf; activate the environment" in told.stderr
    advice = told.stderr.rpartition("again: ")[2].strip()
    assert subprocess.check_output(["bash", "-c", advice], cwd=tmp_path, text=True) == "it is active\n"


def test_it_says_how_to_make_the_environment(tmp_path):
    shutil.copy(ROOT / "train.py", tmp_path)
    advice = outside(tmp_path / "train.py", tmp_path).stderr.rpartition("again: ")[2].strip()
    assert advice == f"make -C {shlex.quote(str(tmp_path))} install && . .venv/bin/activate"


def test_an_old_python_is_told_apart(tmp_path):
    pretend = f"import runpy, sys; sys.version_info = (3, 9); runpy.run_path({str(ROOT / 'train.py')!r})"
    told = subprocess.run([sys.executable, "-S", "-c", pretend], cwd=tmp_path, capture_output=True, text=True)
    assert told.returncode == 1
    assert told.stderr.startswith("train.py: needs Python 3.11 or newer, and this is 3.")


def test_a_fault_of_a_package_keeps_its_traceback(tmp_path):
    shutil.copy(ROOT / "train.py", tmp_path)
    (tmp_path / "omegaconf.py").write_text("import a_package_that_is_not_there\n")
    told = subprocess.run([sys.executable, "train.py"], cwd=tmp_path, capture_output=True, text=True)
    assert "Traceback" in told.stderr
    assert "a_package_that_is_not_there" in told.stderr
