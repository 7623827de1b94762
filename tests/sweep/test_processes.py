"""Sweeps whose jobs fail, are killed, are stopped and go on: each job is one job, and the same words again do what is left."""

import json
import logging
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT
from omegaconf import OmegaConf

from iolaus.runs import note_results
from iolaus.sweep import part
from iolaus.sweep.finish import finish
from iolaus.sweep.jobs import Claims, Job, Together, each, jobs_of, read_plan, write_plan
from iolaus.sweep.launcher import Sweep, _shared_out
from iolaus.sweep.processes import Fresh, Pool

TRAIN = str(ROOT / "train.py")
QUICK = [
    "data=iris",
    "model=linear",
    "trainer.max_epochs=2",
    "callbacks=[resume_points,checkpoint]",
    "metrics=[]",
    "stages=[fit]",
]
# Run in a job before it trains: it kills itself when its rate is a certain one.
FATAL = """
import os, signal
from iolaus.task.supervised import Supervised


class Fatal(Supervised):
    def on_train_epoch_end(self):
        super().on_train_epoch_end()
        rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        if rate == 0.02 and not os.path.exists("mended"):
            os.kill(os.getpid(), signal.SIGKILL)
        if rate == 0.03 and not os.path.exists("mended"):
            raise RuntimeError("this one fails")
"""


def run(place: Path, *words: str, code: int = 0, script: str = TRAIN) -> str:
    done = subprocess.run(
        [sys.executable, script, *words],
        cwd=place,
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def states(place: Path) -> dict[str, str]:
    (sweep,) = (place / "outputs/sweeps").iterdir()
    return {job.folder.name: job.state for job in jobs_of(sweep)}


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Three jobs, of which one fails and one is killed; the same words again."""
    place = tmp_path_factory.mktemp("swept")
    (place / "fatal.py").write_text(FATAL)
    words = [
        "-m",
        *QUICK,
        "allow=[fatal]",
        "task._target_=fatal.Fatal",
        "optim.lr=0.01,0.02,0.03",
        "callbacks.resume_points.every_n_steps=1",
    ]
    first = run(place, *words, code=1)
    before = states(place)
    (place / "mended").touch()
    second = run(place, *words)
    return place, words, first, before, second


@pytest.mark.slow
def test_a_job_that_fails_and_one_that_is_killed_stop_nothing(swept):
    _, _, text, before, _ = swept
    assert before == {
        "0_optim.lr-0.01": "completed",
        "1_optim.lr-0.02": "interrupted",
        "2_optim.lr-0.03": "failed",
    }
    assert "#1 interrupted" in text
    assert "killed by signal 9" in text
    assert (
        "#2 failed: UserCodeError: task: Fatal.on_train_epoch_end raised RuntimeError in epoch 1: this one fails"
        in text
    )
    assert "iolaus resume outputs/sweeps/" in text
    assert "sweep: 1 completed, 1 failed, 1 killed" in text
    assert "job 1 killed: killed by signal 9 (out of memory?)" in text


@pytest.mark.slow
def test_the_same_words_again_run_what_is_left(swept):
    place, _, _, _, text = swept
    assert set(states(place).values()) == {"completed"}
    assert "which the same words began" in text
    assert "1 of 3 jobs are done already" in text
    assert "sweep: 3 completed" in text
    (sweep,) = (place / "outputs/sweeps").iterdir()
    assert (sweep / "report.html").is_file()
    assert "going on from" in (sweep / "1_optim.lr-0.02/job.log").read_text()  # from its resume point
    (earlier,) = (sweep / "earlier").iterdir()  # what failed began anew, and what it left is kept
    assert "this one fails" in (earlier / "job.log").read_text()


@pytest.mark.slow
def test_what_a_sweep_leaves(swept):
    place, words, _, _, _ = swept
    (sweep,) = (place / "outputs/sweeps").iterdir()
    plan = read_plan(sweep)
    assert plan["words"] == words
    assert [job["number"] for job in plan["jobs"]] == [0, 1, 2]
    results = json.loads((sweep / "0_optim.lr-0.01/results.json").read_text())
    assert "optim.lr=0.01" in results["overrides"]
    assert "the best of 2" in (sweep / "0_optim.lr-0.01/job.log").read_text()


@pytest.mark.slow
def test_a_sweep_that_is_complete_begins_anew(swept):
    place, words, _, _, _ = swept
    from iolaus.sweep import jobs

    directory = os.getcwd()
    os.chdir(place)
    try:
        assert jobs.unfinished(words) is None
    finally:
        os.chdir(directory)


@pytest.mark.slow
def test_stopped_by_control_c_and_gone_on_with(tmp_path):
    """All jobs stop with a resume point; `iolaus resume SWEEP` goes on with them."""
    words = [
        "-m",
        "data=iris",
        "model=linear",
        "metrics=[]",
        "stages=[fit]",
        "optim.lr=0.01,0.02",
        "trainer.max_epochs=400",
        "callbacks=[resume_points,checkpoint]",
    ]
    process = subprocess.Popen(
        [sys.executable, TRAIN, *words, "output_dir=sweep"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    end = time.monotonic() + 60
    while len(list(tmp_path.glob("sweep/*/metrics.csv"))) < 2 and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 130, text
    assert "2 interrupted" in text
    assert all(job.state == "interrupted" and job.is_resumable() for job in jobs_of(tmp_path / "sweep"))
    done = subprocess.run(
        [sys.executable, "-m", "iolaus", "resume", "sweep"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(job.state == "completed" for job in jobs_of(tmp_path / "sweep"))


@pytest.mark.slow
def test_jobs_in_fresh_processes(tmp_path):
    run(tmp_path, "-m", *QUICK, "optim.lr=0.01,0.02", "hydra.launcher.warm=false")
    assert list(states(tmp_path).values()) == ["completed"] * 2


@pytest.mark.slow
def test_a_job_that_takes_too_long_is_stopped(tmp_path):
    text = run(
        tmp_path,
        "-m",
        *QUICK[:2],
        "metrics=[]",
        "optim.lr=0.01,0.02",
        "trainer.max_epochs=100000",
        "callbacks=[resume_points]",
        "hydra.launcher.timeout_s=4",
        code=1,
    )
    assert text.count("stopped after 4 s, hydra.launcher.timeout_s") == 2


@pytest.mark.slow
def test_jobs_are_the_single_runs(tmp_path):
    """The same metrics to the last digit as the plain command's."""
    run(tmp_path, "-m", *QUICK, "optim.lr=0.01,0.02")
    (sweep,) = (tmp_path / "outputs/sweeps").iterdir()
    for job in jobs_of(sweep):
        run(tmp_path, *QUICK, job.varying[0] if job.varying else job.overrides[-1], f"output_dir=single{job.number}")
        single = json.loads((tmp_path / f"single{job.number}/results.json").read_text())
        assert single["metrics"] == json.loads((job.folder / "results.json").read_text())["metrics"]


@pytest.mark.slow
def test_hydra_s_own_launcher_still_works(tmp_path):
    run(tmp_path, "-m", *QUICK, "optim.lr=0.01,0.02", "hydra/launcher=basic", "hydra/sweeper=basic")
    (sweep,) = (tmp_path / "outputs/sweeps").iterdir()
    assert len(list(sweep.glob("*/results.json"))) == 2


@pytest.mark.slow
def test_what_can_be_is_trained_together(tmp_path):
    """Rates of one network as a stack, the other network alone; the numbers are those of the plain commands."""
    plain = [word for word in QUICK if word != "model=linear"]
    text = run(tmp_path, "-m", *plain, "hydra/launcher=vectorized", "model=linear,gru", "optim.lr=0.01,0.02")
    assert "2 jobs are trained together: #0, #1" in text
    assert "#2 is trained apart: model=Recurrent has no stacked form" in text
    (sweep,) = (tmp_path / "outputs/sweeps").iterdir()
    jobs = jobs_of(sweep)
    assert [job.state for job in jobs] == ["completed"] * 4
    run(tmp_path, *plain, "model=linear", "optim.lr=0.02", "output_dir=single")
    single = json.loads((tmp_path / "single/results.json").read_text())["objective"]["value"]
    assert jobs[1].value == pytest.approx(single, rel=1e-5)
    for job in jobs[:2]:  # as a process leaves them that is killed before they have a resume point
        file = job.folder / "results.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"status": "interrupted"}))
        shutil.rmtree(job.folder / "checkpoints")
    again = run(tmp_path, "-m", *plain, "hydra/launcher=vectorized", "model=linear,gru", "optim.lr=0.01,0.02")
    assert "2 jobs are trained together: #0, #1" in again
    assert [job.state for job in jobs_of(sweep)] == ["completed"] * 4


def test_a_process_of_several_jobs_ends_each(tmp_path):
    """What was completed before a signal came stays so; the others were killed."""
    members = [Job(number, ["a=1"], tmp_path / str(number)) for number in range(3)]
    for job, status in zip(members, ("completed", "running", None), strict=True):
        job.folder.mkdir()
        if status:
            (job.folder / "results.json").write_text(json.dumps({"status": status, "objective": {"value": 0.5}}))
    together = Together(0, [], tmp_path / "together", members=members)
    together.end(-9)
    assert [job.state for job in members] == ["completed", "interrupted", "interrupted"]
    assert [job.error for job in members] == [None, *["killed by signal 9 (out of memory?)"] * 2]
    assert each([together, Job(5, [], tmp_path)])[:3] == members
    assert json.loads((members[1].folder / "results.json").read_text())["status"] == "interrupted"


@pytest.mark.parametrize(
    ("jobs", "shares", "parts"),
    [(5, 2, [[0, 2, 4], [1, 3]]), (3, 2, [[0, 1, 2]]), (2, 8, [[0, 1]]), (8, 3, [[0, 3, 6], [1, 4, 7], [2, 5]])],
)
def test_the_jobs_of_a_group_are_shared_out(jobs, shares, parts):
    assert _shared_out(list(range(jobs)), shares) == parts


def test_a_part_is_handed_over_as_it_is(tmp_path, monkeypatch):
    """Settings that are not resolved yet, with functions that they call by name; nobody else can read the file, and it is gone then."""
    config = OmegaConf.create({"a": "${slug:x y}", "rate": 1e-3, "b": "???", 5: [1, "${a}"]})
    changes = {"rate": {"default": 0.1, "value": 1e-3}}
    file = tmp_path / "together/0/jobs.pickle"
    part.Part([config], [["rate=1e-3"]], [{"data": "iris"}], [changes], [], "all").write(file)
    assert file.stat().st_mode & 0o077 == 0
    given = []
    monkeypatch.setattr("iolaus.sweep.vectorized.train_together", lambda *arguments: given.append(arguments))
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.setattr(sys, "path", list(sys.path))
    part.main(file, "/somewhere/train.py")
    ((configs, (job,), figures),) = given
    assert configs == [config]
    assert OmegaConf.to_container(configs[0], resolve=True)[5] == [1, "x-y"]
    assert (job.overrides, job.choices, job.changed(), figures) == (["rate=1e-3"], {"data": "iris"}, changes, "all")
    assert sys.argv == ["/somewhere/train.py"]
    assert sys.path[0] == "/somewhere"
    assert not file.exists()


def test_what_a_process_ended_with(tmp_path):
    job = Job(0, ["a=1"], tmp_path / "job")
    job.end(-9)
    assert (job.state, job.error) == ("interrupted", "killed by signal 9 (out of memory?)")
    assert json.loads((job.folder / "results.json").read_text())["status"] == "interrupted"
    other = Job(1, ["a=2"], tmp_path / "other")
    other.folder.mkdir()
    (other.folder / "job.log").write_text("something\nmodel.x: there is no such thing\n\n")
    other.end(1)
    assert (other.state, other.error) == ("failed", "model.x: there is no such thing")
    stopped = Job(2, ["a=3"], tmp_path / "stopped")
    stopped.end(130)
    assert (stopped.state, stopped.error) == ("interrupted", "stopped before it began")
    assert not stopped.is_resumable()


def plan(folder, first):
    """In a process of its own: write twenty jobs into the plan of a sweep, one after the other."""
    for number in range(first, first + 20):
        write_plan(folder, ["-m"], folder / "train.py", [Job(number, [], folder / str(number))])


def test_a_plan_that_two_processes_write_has_the_jobs_of_both(tmp_path):
    both = [multiprocessing.get_context("fork").Process(target=plan, args=(tmp_path, first)) for first in (0, 20)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert [job["number"] for job in read_plan(tmp_path)["jobs"]] == list(range(40))


def hold(folder, number, pipe):
    """In a process of its own: run a job, until told to end."""
    claims = Claims(folder)
    pipe.send(claims.take(number))
    pipe.recv()


def test_jobs_of_another_process_are_left_to_it(tmp_path, monkeypatch, caplog):
    """Of three one is done by another process and one is run by it; its claim ends with it."""
    monkeypatch.setattr("iolaus.sweep.finish.report_sweep", lambda folder: "")
    caplog.set_level(logging.INFO)
    jobs = [Job(number, [f"seed={number}"], tmp_path / str(number)) for number in range(3)]
    write_plan(tmp_path, ["-m"], tmp_path / "train.py", jobs)
    here, there = multiprocessing.Pipe()
    other = multiprocessing.get_context("fork").Process(target=hold, args=(tmp_path, 1, there))
    other.start()
    assert here.recv()
    note_results(jobs[0].folder, {"status": "completed"})
    config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}, "overrides": {"hydra": []}}})
    with Sweep(config, SimpleNamespace(config_loader=None)) as sweep:
        assert [sweep.claim(job) for job in jobs] == [False, False, True]
    assert [job.state for job in jobs] == ["completed", "running elsewhere", "waiting"]
    assert finish(config)
    assert "1 job is run by another process" in caplog.text
    assert "to run what is left" in caplog.text
    caplog.clear()
    note_results(jobs[2].folder, {"status": "completed"})
    assert not finish(config)
    assert "to run what is left" not in caplog.text
    here.send("end")
    other.join()
    assert finish(config)
    assert [job.state for job in jobs_of(tmp_path)] == ["completed", "waiting", "completed"]


def test_a_sweep_of_hydra_s_own_launcher_is_not_begun_twice(tmp_path, command):
    """The second terminal is refused in a line, before it begins a job."""
    here, there = multiprocessing.Pipe()
    other = multiprocessing.get_context("fork").Process(target=hold, args=(tmp_path / "s", 0, there), daemon=True)
    other.start()
    assert here.recv()
    outcome = command("-m", *QUICK, "optim.lr=0.01,0.02", "hydra/launcher=basic", "output_dir=s")
    assert outcome.code == 1
    (line,) = outcome.text.splitlines()
    assert line.startswith("output_dir: another process runs the sweep in s, and hydra/launcher=basic shares no jobs")
    assert [file.name for file in (tmp_path / "s").iterdir()] == [".claims"]
    here.send("end")
    other.join()


SCRIPT = """
import json, os, signal, sys, time
words = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
folder, kind = words["hydra.run.dir"].strip('"'), words["kind"]
if kind == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if kind == "late":
    time.sleep(60)
if kind == "failed":
    sys.exit("kind: it cannot be " + kind)
results = {"status": kind, "objective": {"value": 0.5}, "gpus": os.environ.get("CUDA_VISIBLE_DEVICES")}
json.dump(results, open(folder + "/results.json", "w"))
"""


def test_a_pool_tells_how_each_job_ended(tmp_path, monkeypatch):
    """Of a script without torch: jobs that end well, are pruned, fail, are killed, take too long; each has a GPU to itself."""
    (tmp_path / "script.py").write_text(SCRIPT)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    starter = Fresh()
    pool = Pool(starter, gpus_per_job=1, timeout_s=1.5)
    assert sorted(pool.slots) == ["4", "7"]
    kinds = ["completed", "pruned", "failed", "killed", "late"]
    waiting = [Job(number, [f"kind={kind}"], tmp_path / kind) for number, kind in enumerate(kinds)]
    ended = {}
    while waiting or pool.running:
        while waiting and pool.has_room:
            job = waiting.pop(0)
            pool.start(job, [str(tmp_path / "script.py"), *job.overrides, f'hydra.run.dir="{job.folder}"'])
        ended |= {job.overrides[0].partition("=")[2]: job for job in pool.ended()}
    starter.close()
    assert {kind: job.state for kind, job in ended.items()} == {
        "completed": "completed",
        "pruned": "pruned",
        "failed": "failed",
        "killed": "interrupted",
        "late": "interrupted",
    }
    assert ended["completed"].value == 0.5
    assert ended["failed"].error == "kind: it cannot be failed"
    assert ended["killed"].error == "killed by signal 9 (out of memory?)"
    assert ended["late"].error == "stopped after 1.5 s, hydra.launcher.timeout_s"
    assert json.loads((tmp_path / "late/results.json").read_text())["error"] == ended["late"].error
    seen = {json.loads((tmp_path / kind / "results.json").read_text())["gpus"] for kind in kinds[:2]}
    assert seen == {"4", "7"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-m", "optim.lr=0.1,-1"], "optim.lr: must be above 0; received -1"),
        (["-m", "optim.lrr=0.1,1"], "optim.lrr: torch.optim.Adam has no argument 'lrr'"),
        (["-m", "optim.lr=range(1,1)"], "optim.lr: range(1,1) has no value"),
        (
            ["-m", "optim.lr=0.1,0.2", "hydra.launcher.n_jobs=0", "hydra/launcher=process"],
            "hydra.launcher.n_jobs: must be a whole number, at least 1; received 0",
        ),
        (["-m", "optim.lr=0.1,0.2", "hydra.launcher.njobs=1", "hydra/launcher=process"], "did you mean 'n_jobs'?"),
        (
            ["-m", "optim.lr=0.1,0.2", "hydra/launcher=process", "--cfg", "job"],
            "-m: --cfg and Hydra's --info show one run",
        ),
        (["resume=nowhere", "-m"], "goes with settings only"),
    ],
)
def test_mistakes_are_told_before_any_job(words, message, command, tmp_path):
    outcome = command(*words)
    assert outcome.code == 1
    assert message in outcome.text
    assert not (tmp_path / "outputs").exists()
