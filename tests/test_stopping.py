"""Signals, divergence, and faults in the world around a run: what is told, what is kept."""

import json
import os
import shutil
import signal
import time

import pytest
import torch
import yaml
from forked import Child, copy_of, differences, finished, kill_at_step, scalars
from test_resume import NOISY, OWN_DATA, SMALL

from iolaus.errors import UserError
from iolaus.report import Report
from iolaus.resume import prepare
from iolaus.signals import Stopped
from iolaus.task.base import Task

MANY = ("trainer.max_epochs=100000", "~callbacks.early_stopping")


def until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def results(run):
    return json.loads((run / "results.json").read_text())


def started(run):
    """Whether a run has trained a few epochs."""
    file = run / "metrics.csv"
    return file.exists() and len(file.read_text().splitlines()) > 3


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, *(pytest.param(n, marks=pytest.mark.slow) for n in (signal.SIGINT, signal.SIGUSR1))]
)
def test_a_signal_stops_after_the_batch_with_a_resume_point(tmp_path, number):
    child = Child(tmp_path, *SMALL, *MANY, "output_dir=run")
    until(lambda: started(tmp_path / "run"))
    child.send(number)
    assert child.wait() == 128 + number
    assert "iolaus resume run" in child.text
    assert signal.Signals(number).name in child.text
    outcome = results(tmp_path / "run")
    assert outcome["status"] == "interrupted"
    assert outcome["error"] == f"stopped by {signal.Signals(number).name}"
    fewer = Child(tmp_path, "resume=run", "trainer.max_epochs=1")
    assert fewer.wait() == 1
    assert "trainer.max_epochs: 1 is less than the" in fewer.text
    assert "max_epochs: 100000" in (tmp_path / "run/config.yaml").read_text()
    last = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    assert last["global_step"] == outcome["steps"]
    again = Child(tmp_path, "resume=run", f"trainer.max_epochs={outcome['epochs'] + 3}")
    assert again.wait() == 0, again.text
    assert "not resumable" not in again.text
    assert results(tmp_path / "run")["epochs"] == outcome["epochs"] + 3


def slow(method, seconds):
    """For `before`: a step that takes long, as of a large model."""

    def arm():
        step = getattr(Task, method)

        def slowly(self, *arguments):
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                time.sleep(0.01)
            return step(self, *arguments)

        setattr(Task, method, slowly)

    return arm


@pytest.mark.slow
def test_a_second_ctrl_c_ends_at_once(tmp_path):
    assert Child(tmp_path, *SMALL, "output_dir=run", "trainer.max_epochs=1").wait() == 0
    point = (tmp_path / "run/checkpoints/last.ckpt").read_bytes()
    child = Child(tmp_path, "resume=run", "trainer.max_epochs=3", before=slow("training_step", 60))
    until(lambda: "going on from" in child.text)
    time.sleep(1)
    child.send(signal.SIGINT)
    until(lambda: "once more ends at once" in child.text)
    begin = time.monotonic()
    child.send(signal.SIGINT)
    assert child.wait() == 130
    assert time.monotonic() - begin < 20
    assert (tmp_path / "run/checkpoints/last.ckpt").read_bytes() == point


@pytest.mark.slow
@pytest.mark.parametrize("grace", [0.2, pytest.param(60, marks=pytest.mark.slow)])
def test_a_signal_inside_a_validation(tmp_path, grace):
    """It may end within its time, and then no step is lost; else the run ends, and resumes from the point before."""
    arguments = [
        *SMALL,
        "trainer.max_epochs=3",
        f"callbacks.resume_points.validation_grace_s={grace}",
        "data.eval_batch_size=6",
    ]
    assert Child(tmp_path, *arguments, "output_dir=whole").wait() == 0
    child = Child(tmp_path, *arguments, "output_dir=run", before=slow("validation_step", 0.5))
    until(lambda: (tmp_path / "run/checkpoints/last.ckpt").exists())
    time.sleep(0.3)
    child.send(signal.SIGTERM)
    assert child.wait() == 143
    step = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["global_step"]
    assert step == (6 if grace < 1 else 8)
    assert Child(tmp_path, "resume=run").wait() == 0
    assert differences(tmp_path / "whole", tmp_path / "run") == []


@pytest.mark.slow
def test_on_slurm_the_job_is_queued_again_and_goes_on(tmp_path, monkeypatch):
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    (tools / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    for name, value in {"SLURM_JOB_ID": "17", "SLURM_NTASKS": "1", "SLURM_JOB_NAME": "bash"}.items():
        monkeypatch.setenv(name, value)
    command = [*SMALL, "trainer.max_epochs=30", "callbacks.early_stopping.patience=60"]
    whole = Child(tmp_path, *command, "output_dir=whole")
    assert whole.wait() == 0, whole.text
    child = Child(tmp_path, *command)
    until(lambda: any(started(f.parent) for f in tmp_path.glob("outputs/*/*/metrics.csv")))
    child.send(signal.SIGUSR1)
    assert child.wait() == 128 + signal.SIGUSR1
    assert (tmp_path / "asked").read_text() == "requeue 17\n"
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    again = Child(tmp_path, *command)
    assert again.wait() == 0, again.text
    (run,) = [f.parent for f in tmp_path.glob("outputs/*/*/metrics.csv")]
    assert results(run)["status"] == "completed"
    assert differences(tmp_path / "whole", run) == []


# diverging runs


def test_a_diverging_run_keeps_the_last_good_point(tmp_path):
    arguments = [
        *SMALL,
        "optim=sgd",
        "optim.lr=1e3",
        "optim.momentum=0.9",
        "data.batch_size=4",
        "callbacks.resume_points.every_n_steps=1",
    ]
    child = Child(tmp_path, *arguments, "task=regression", "data=diabetes", "output_dir=run")
    assert child.wait() == 1
    told = next(line for line in child.text.splitlines() if line.startswith("loss/train:"))
    step = int(told.split("step ")[1].split()[0])
    assert "learning rate 1000" in told
    assert "lower optim.lr" in child.text
    last = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    assert last["global_step"] in (step - 1, step - 2)
    for file in (tmp_path / "run/checkpoints").glob("*.ckpt"):
        state = torch.load(file, weights_only=True)["state_dict"]
        assert all(value.isfinite().all() for value in state.values()), file


def test_a_gradient_that_overflows_is_told_by_its_weights(tmp_path, monkeypatch):
    def explode(task, optimizer):
        if task.global_step == 5:
            next(iter(task.model.parameters())).grad.fill_(float("inf"))

    def arm():
        Task.on_before_optimizer_step = lambda self, optimizer: explode(self, optimizer)

    child = Child(tmp_path, *SMALL, "optim=sgd", "output_dir=run", before=arm)
    assert child.wait() == 1
    assert "after step 6 the weights model.layers.1.weight are not finite" in child.text


@pytest.mark.slow
def test_going_back_with_a_lower_rate(tmp_path):
    arguments = [*SMALL, "optim=sgd", "optim.lr=1e25", "callbacks=[default,go_back]", "callbacks.go_back.factor=1e-13"]
    child = Child(tmp_path, *arguments, "output_dir=run")
    assert child.wait() == 0, child.text
    assert child.text.count("going back") == 2
    assert results(tmp_path / "run")["status"] == "completed"
    assert results(tmp_path / "run")["epochs"] == 5
    assert [rate for _, rate in scalars(tmp_path / "run")["lr"]] == pytest.approx([0.1] * 5)
    child = Child(tmp_path, *arguments, "callbacks.go_back.retries=1", "output_dir=other")
    assert child.wait() == 1


def test_going_back_scales_the_whole_schedule():
    from iolaus.callbacks.go_back import GoBack

    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.5)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)

    class Trainer:
        optimizers = [optimizer]
        lr_scheduler_configs = [type("Config", (), {"scheduler": schedule})]

    back = GoBack(factor=0.1)
    back.times = 2
    back.load_state_dict({"times": 1})  # the point had one lowering in its rates
    back.on_train_start(Trainer, None)
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.05, 0.05, 0.025, 0.025])


def test_going_back_scales_the_parts_of_a_composed_schedule():
    from iolaus.callbacks.go_back import GoBack

    def rates(factor, lr):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
        lr_scheduler = torch.optim.lr_scheduler
        warmup = lr_scheduler.LinearLR(optimizer, 0.1, 1.0, 3)
        cosine = lr_scheduler.CosineAnnealingLR(optimizer, 4)
        schedule = lr_scheduler.SequentialLR(optimizer, [warmup, cosine], [3])
        configs = [type("Config", (), {"scheduler": schedule})]
        back = GoBack(factor=factor)
        back.times = 1
        back.on_train_start(type("Trainer", (), {"optimizers": [optimizer], "lr_scheduler_configs": configs}), None)
        found = []
        for _ in range(7):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        return found

    assert rates(0.1, 0.5) == pytest.approx(rates(1.0, 0.05))


# faults in the world


@pytest.fixture
def killed(tmp_path):
    """A run that was killed in its third epoch, beside the same one that was not."""
    assert Child(tmp_path, *SMALL, "output_dir=whole").wait() == 0
    assert Child(tmp_path, *SMALL, "output_dir=killed", before=kill_at_step(20)).wait() == -signal.SIGKILL
    return tmp_path


@pytest.mark.parametrize("damaged", [["last"], pytest.param(["last", "previous"], marks=pytest.mark.slow)])
def test_a_damaged_point_is_told_and_passed_over(killed, damaged):
    for name in damaged:
        file = killed / f"killed/checkpoints/{name}.ckpt"
        file.write_bytes(file.read_bytes()[:-3000])
    child = Child(killed, "resume=killed")
    assert child.wait() == 0, child.text
    assert child.text.count("damaged or incomplete") == len(damaged)
    assert ("starting from the beginning" if len(damaged) == 2 else "going on from previous.ckpt") in child.text
    assert differences(killed / "whole", killed / "killed") == []


def test_a_folder_that_was_moved(killed):
    (killed / "elsewhere").mkdir()
    shutil.move(killed / "killed", killed / "elsewhere/run")
    child = Child(killed, "resume=elsewhere/run")
    assert child.wait() == 0, child.text
    assert differences(killed / "whole", killed / "elsewhere/run") == []
    assert not (killed / "killed").exists()


@pytest.mark.slow
def test_files_that_a_killed_save_left_are_removed(killed):
    (killed / "killed/checkpoints/best.ckpt.partial").write_bytes(b"half")
    assert Child(killed, "resume=killed").wait() == 0
    assert not list((killed / "killed").rglob("*.partial"))


@pytest.mark.slow
def test_data_that_changed_are_told(tmp_path):
    def table(noise):
        (tmp_path / "a.csv").write_text("x,y\n" + "".join(f"{i / 10},{i / 5 + noise}\n" for i in range(90)))

    table(0)
    arguments = ("data=csv", "data.path=a.csv", "data.target=y", *SMALL[1:])
    assert Child(tmp_path, *arguments, "output_dir=run", before=kill_at_step(9)).wait() == -signal.SIGKILL
    table(0.001)
    child = Child(tmp_path, "resume=run")
    assert child.wait() == 0, child.text
    assert "the data changed since the resume point (train checksum" in child.text


def test_two_processes_do_not_share_a_folder(tmp_path):
    first = Child(tmp_path, *SMALL, *MANY, "output_dir=run")
    until(lambda: started(tmp_path / "run"))
    second = Child(tmp_path, "resume=run")
    assert second.wait() == 1
    assert "another process is training in" in second.text
    first.send(signal.SIGKILL)
    first.wait()


@pytest.mark.slow
def test_two_runs_started_in_the_same_moment(tmp_path):
    places = [tmp_path / name for name in "ab"]
    for place in places:
        place.mkdir()
    children = [Child(place, *SMALL, f"output_dir={tmp_path}/run") for place in places]
    codes = [child.wait() for child in children]
    assert sorted(codes) == [0, 1], [child.text for child in children]
    loser = children[codes.index(1)].text
    assert "another process is training in" in loser or "holds a run already" in loser
    assert results(tmp_path / "run")["status"] == "completed"


@pytest.mark.slow
def test_the_folder_is_removed_while_the_run_goes_on(tmp_path):
    child = Child(tmp_path, *SMALL, *MANY, "output_dir=run")
    until(lambda: started(tmp_path / "run"))
    (tmp_path / "run").rename(tmp_path / "gone")
    assert child.wait() == 1
    told = [line for line in child.text.partition("epoch 1")[2].splitlines() if not line.startswith("epoch")]
    assert len(told) <= 5, child.text
    assert "is gone" in child.text


@pytest.mark.slow
def test_the_folder_cannot_be_written_any_more(tmp_path):
    """As root may write anywhere, a file stands where the folder of the checkpoints was."""
    child = Child(tmp_path, *SMALL, *MANY, "output_dir=run", "callbacks.resume_points.every_n_steps=50")
    until(lambda: (tmp_path / "run/checkpoints/previous.ckpt").exists())
    (tmp_path / "run/checkpoints").rename(tmp_path / "kept")
    (tmp_path / "run/checkpoints").write_text("in the way")
    assert child.wait() == 1
    assert "the checkpoint cannot be written" in child.text
    assert "Traceback" not in child.text
    assert results(tmp_path / "run")["status"] == "failed"
    assert (tmp_path / "kept/last.ckpt").stat().st_size > 1000


@pytest.mark.slow
def test_a_worker_that_is_killed_is_told(tmp_path):
    deadly = NOISY.replace(
        "x = torch.full",
        "import os\n        os.kill(os.getpid(), 9) if torch.utils.data.get_worker_info() else 0\n        x = torch.full",
    )
    (tmp_path / "own_noise.py").write_text(deadly)
    child = Child(tmp_path, *SMALL, *OWN_DATA, "data.num_workers=1", "output_dir=run")
    assert child.wait() == 1
    assert "data.num_workers: a process that reads data was killed" in child.text
    assert "Traceback" not in child.text


@pytest.mark.slow
def test_tensorboard_s_file_cannot_be_written(tmp_path):
    """Its file may fail at any time; the run goes on without it."""

    def arm():
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        add, calls = EventFileWriter.add_event, [0]

        def fail(self, event):
            calls[0] += 1
            if calls[0] > 10:
                raise OSError(28, "No space left on device")
            add(self, event)

        EventFileWriter.add_event = fail

    child = Child(tmp_path, *SMALL, "output_dir=run", before=arm)
    assert child.wait() == 0, child.text
    assert child.text.count(f"TensorBoard's file in {tmp_path / 'run'}") == 1


@pytest.mark.slow
def test_a_clock_that_goes_back(tmp_path):
    def arm():
        now = time.time
        time.time = lambda: now() - 1000 * (time.monotonic() % 7)

    child = Child(tmp_path, *SMALL, "output_dir=run", before=arm)
    assert child.wait() == 0, child.text
    assert Child(tmp_path, *SMALL, "output_dir=whole").wait() == 0
    assert differences(tmp_path / "whole", tmp_path / "run") == []


# what one may ask for


@pytest.mark.slow
def test_a_complete_run_can_be_trained_on(tmp_path):
    assert Child(tmp_path, *SMALL, "trainer.max_epochs=9", "output_dir=whole").wait() == 0
    assert Child(tmp_path, *SMALL, "output_dir=run").wait() == 0
    child = Child(tmp_path, "resume=run")
    assert child.wait() == 1
    assert "the run is complete, 5 epochs" in child.text
    assert "trainer.max_epochs=10" in child.text
    child = Child(tmp_path, *SMALL, "resume=run", "trainer.max_epochs=9")
    assert child.wait() == 0, child.text
    assert differences(tmp_path / "whole", tmp_path / "run") == []
    assert yaml.safe_load((tmp_path / "run/config.yaml").read_text())["trainer"]["max_epochs"] == 9
    assert results(tmp_path / "run")["overrides"][-1] == "trainer.max_epochs=9"


@pytest.mark.slow
def test_a_run_that_stopped_early_can_be_trained_on(tmp_path):
    words = (*SMALL, "callbacks.early_stopping.min_delta=9")
    assert Child(tmp_path, *words, "callbacks.early_stopping.patience=2", "output_dir=whole").wait() == 0
    assert Child(tmp_path, *words, "callbacks.early_stopping.patience=1", "output_dir=run").wait() == 0
    child = Child(tmp_path, "resume=run")
    assert child.wait() == 1
    assert "the run is complete, 2 epochs" in child.text
    assert "callbacks.early_stopping.patience=2" in child.text
    assert Child(tmp_path, "resume=run", "callbacks.early_stopping.patience=2").wait() == 0
    assert results(tmp_path / "run")["epochs"] == 3
    found = differences(tmp_path / "whole", tmp_path / "run")
    # a count of validation batches apart, which Lightning sets to 0 in each epoch but the first after a restart
    assert [line for line in found if ".val_batches." not in line and ".val_loop." not in line] == []


@pytest.mark.slow
def test_a_run_by_steps_can_be_trained_on(tmp_path):
    """Also from the last step of an epoch, where a loader that remembers its place would give an empty one."""
    for steps in (16, 19):
        whole, run = f"whole{steps}", f"run{steps}"
        assert (
            Child(tmp_path, *SMALL, "trainer.max_epochs=-1", "trainer.max_steps=40", f"output_dir={whole}").wait() == 0
        )
        assert (
            Child(tmp_path, *SMALL, "trainer.max_epochs=-1", f"trainer.max_steps={steps}", f"output_dir={run}").wait()
            == 0
        )
        child = Child(tmp_path, f"resume={run}", "trainer.max_steps=40")
        assert child.wait() == 0, child.text
        assert results(tmp_path / run)["steps"] == 40
        weights = [
            torch.load(tmp_path / r / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for r in (whole, run)
        ]
        assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return finished(tmp_path_factory.mktemp("made"), *SMALL, "trainer.max_epochs=1")


def test_a_run_keeps_its_list_of_callbacks(made):
    """Its own list says nothing new, another one is refused; members may be taken out, and their settings changed."""
    own, words = results(made)["choices"]["callbacks"], ["trainer.max_epochs=2"]
    same = f"callbacks=[{', '.join(own)}]"
    _, job = prepare(made, [same, *words], [])
    assert job.overrides[-1] == words[0]
    assert same not in job.overrides
    for other in (["throughput", *own], own[::-1] if len(own) > 1 else [*own, "ema"]):
        with pytest.raises(UserError, match=r"the run has callbacks=.*, and goes on with it; start a run of its own"):
            prepare(made, [f"callbacks=[{','.join(other)}]", *words], [])
    with pytest.raises(UserError, match="a run keeps its callbacks, whose settings alone may be changed"):
        prepare(made, ["++callbacks=[default]", *words], [])
    config, _ = prepare(made, ["~callbacks.checkpoint", "callbacks.resume_points.every_n_steps=7", *words], [])
    assert "checkpoint" not in config.callbacks
    assert config.callbacks.resume_points.every_n_steps == 7


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["resume=nowhere"], "nowhere: not a run's folder"),
        (["resume=run", "model=cnn"], "the run has model=mlp, and goes on with it"),
        (["resume=run", "trainer.max_epoch=1"], "did you mean 'max_epochs'?"),
        (["resume=run", "optim.lr=0.1"], "optim.lr=0.1: a run goes on with what it was begun with"),
        (["resume=run", "data.batch_size=4"], "a run goes on with what it was begun with"),
        (["resume=run", "trainer.max_epochs=-7"], "trainer.max_epochs: must be at least 1"),
        (["resume=run", "trainer.max_epochs=1,2"], "one value, not several"),
        (["resume=run", "-m"], "goes with settings only"),
        (["resume=run", "~callbacks.resume_points"], "keeps no resume points"),
        (["resume=run", "callbacks.resume_points.every_n_minutes=0"], "every_n_minutes: must be above 0"),
    ],
)
def test_wrong_words(made, tmp_path, arguments, says):
    copy_of(made, tmp_path / "run")
    child = Child(tmp_path, *arguments)
    assert child.wait() == 1
    assert says in child.text, child.text
    assert len(child.text.splitlines()) <= 8


@pytest.mark.slow
def test_what_was_reached_is_kept_where_a_run_is_stopped_before_it_goes_on(command, tmp_path):
    outcome = command("data=iris", "trainer.max_epochs=2", "stages=[fit]", "logger=[]", "output_dir=run")
    config, job = prepare(outcome.folder, ["trainer.max_epochs=3"], [])
    with pytest.raises(Stopped), Report(config, job):
        raise Stopped(signal.SIGTERM)
    results = json.loads((outcome.folder / "results.json").read_text())
    assert (results["status"], results["error"]) == ("interrupted", "stopped by SIGTERM")
    assert results["epochs"] == 2
    assert results["objective"] == outcome.results["objective"]
    assert results["metrics"] == outcome.results["metrics"]
