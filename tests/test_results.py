"""What results.json says of the code: the user's repository, and beside it our own version."""

import os
import resource
import subprocess

import pytest

from iolaus.results import framework, git
from iolaus.runs import installed


@pytest.fixture(autouse=True)
def asked_anew():
    """What is known of our own checkout is forgotten before and after each test."""
    framework.cache_clear()
    yield
    framework.cache_clear()


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """An empty repository, in which the test runs; `ask` calls git in it."""
    folder = tmp_path / "my project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "me")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "me@example.com")
    ask("init", "--quiet")
    return folder


def ask(*words):
    return subprocess.run(["git", *words], check=True, capture_output=True, text=True).stdout.strip()


def test_outside_a_repository_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert git() is None


def test_the_commit_is_that_of_the_working_directory(repository, monkeypatch):
    (repository / "model.py").write_text("a = 1\n")
    assert git() == {"commit": None, "dirty": False, "untracked": 1}  # before the first commit
    ask("add", "model.py")
    assert git()["dirty"] is True
    ask("commit", "-qm", "first")
    commit = ask("rev-parse", "HEAD")
    assert git() == {"commit": commit, "dirty": False, "untracked": 0}
    assert commit != framework()["commit"]
    (repository / "model.py").write_text("a = 2\n")
    (repository / "new.py").write_text("")
    (repository / "sub folder").mkdir()
    monkeypatch.chdir(repository / "sub folder")
    assert git() == {"commit": commit, "dirty": True, "untracked": 1}


def test_git_s_index_is_left_alone(repository):
    """Git that may write no file would be killed while it refreshes the index, and its lock would end every later commit."""
    (repository / "model.py").write_text("a = 1\n")
    ask("add", "model.py")
    ask("commit", "-qm", "first")
    os.utime(repository / "model.py", (1, 1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        found = git()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert found is not None
    assert found["dirty"] is False
    assert not (repository / ".git/index.lock").exists()


def test_what_runs_write_is_no_part_of_the_code(repository):
    ask("commit", "-qm", "first", "--allow-empty")
    for name in ("outputs/digits/1/results.json", "my run/results.json", "ignored/x", ".gitignore"):
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_text("ignored\n")
    assert git(repository / "my run")["untracked"] == 1  # .gitignore itself
    assert git()["untracked"] == 2
    assert git(repository)["untracked"] == 2  # a run in the repository's own folder hides nothing
    assert git(repository.parent)["dirty"] is False


def test_our_own_commit_is_that_of_our_checkout_alone(repository, monkeypatch):
    """An environment that stands in the user's repository makes us no checkout of it."""
    ask("commit", "-qm", "first", "--allow-empty")
    (repository / "site-packages").mkdir()
    (repository / "site-packages" / "results.py").write_text("")
    monkeypatch.setattr("iolaus.results.__file__", str(repository / "site-packages" / "results.py"))
    assert framework() == {"name": "iolaus", "version": installed("iolaus"), "commit": None, "dirty": None}


def test_without_git_nothing_is_known(repository, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert git() is None
    assert framework()["commit"] is None
