"""A run that is trained on: its schedule is refused or lengthened, never followed beyond its end."""

import json
from types import SimpleNamespace

import pytest
import torch
import yaml
from conftest import composed

from iolaus.build import build, make_schedule
from iolaus.callbacks.go_back import GoBack
from iolaus.callbacks.longer_schedule import apply_lengths
from iolaus.check import check, plain
from iolaus.errors import ConfigError, UserError
from iolaus.preflight import preflight
from iolaus.resume import prepare
from iolaus.schedule_ends import outgrown

pytestmark = pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")

PLAIN = ("data=iris", "model=linear", "logger=[]", "trainer.accelerator=cpu", "output_dir=run")
LINEAR = {"_target_": "torch.optim.lr_scheduler.LinearLR", "start_factor": 1.0, "end_factor": 0.0, "total_iters": 4}
CHAIN = {
    "_target_": "torch.optim.lr_scheduler.ChainedScheduler",
    "schedulers": [LINEAR, {"_target_": "torch.optim.lr_scheduler.ExponentialLR", "gamma": 0.9}],
}


def settings(epochs, *words):
    """Of a run with an epoch of two steps."""
    config = plain(composed(*PLAIN, f"trainer.max_epochs={epochs}", *words))
    if "steps_per_epoch" in config["scheduler"]:
        config["scheduler"]["steps_per_epoch"] = 2
    return config


CASES = {
    "one cycle": (["scheduler=one_cycle"], ["scheduler.epochs=9"]),
    "one cycle by its steps": (["scheduler=one_cycle", "scheduler.total_steps=8"], ["scheduler.total_steps=18"]),
    "cosine": (["scheduler=cosine"], ["scheduler.T_max=9"]),
    "cosine by steps": (["scheduler=cosine", "scheduler._interval_=step", "scheduler.T_max=8"], ["scheduler.T_max=18"]),
    "polynomial": (["scheduler=polynomial"], ["scheduler.total_iters=9"]),
    "warm-up and cosine": (
        ["scheduler=warmup_cosine", "scheduler.milestones=[1]"],
        ["scheduler.schedulers.1.T_max=8"],
    ),
    "a chain": ([CHAIN], ["scheduler.schedulers.0.total_iters=9"]),
    "a line down": ([LINEAR], ["scheduler.total_iters=9"]),
    # those that go on as they are
    "constant": ([], []),
    "a line up": (["scheduler=warmup"], []),
    "steps": (["scheduler=step"], []),
    "restarts": (["scheduler=warm_restarts"], []),
    "plateau": (["scheduler=plateau"], []),
    "averages": (["scheduler=swa"], []),
    "a cosine that had ended before": (["scheduler=cosine", "scheduler.T_max=2"], []),
    "a cosine that ends later anyway": (["scheduler=cosine", "scheduler.T_max=9"], []),
}


def of_case(case):
    words, wanted = CASES[case]
    own = [w for w in words if isinstance(w, dict)]
    config = settings(4, *(w for w in words if isinstance(w, str)))
    if own:
        config["scheduler"] = own[0]
    return config, wanted


@pytest.mark.parametrize("case", CASES)
def test_what_lets_a_schedule_last_as_long(case):
    before, wanted = of_case(case)
    after = before | {"trainer": before["trainer"] | {"max_epochs": 9}}
    assert outgrown(before, after, 2.0) == wanted
    assert outgrown(before, before, 2.0) == []
    fewer = before | {"trainer": before["trainer"] | {"max_epochs": 3}}
    assert outgrown(before, fewer, 2.0) == []


@pytest.mark.parametrize("limit", ["max_epochs", "max_steps"])
def test_a_limit_of_steps_counts_too(limit):
    before = settings(-1, "trainer.max_steps=8", "scheduler=cosine", "scheduler.T_max=4")
    after = before | {"trainer": before["trainer"] | {"max_steps": -1, "max_epochs": -1} | {limit: 9}}
    assert outgrown(before, after, 2.0) == ["scheduler.T_max=9" if limit == "max_epochs" else "scheduler.T_max=5"]


def with_momentum(lr=0.1):
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr, momentum=0.9)


def course(optimizer, schedule, steps):
    found = []
    for _ in range(steps):
        found.append([(g["lr"], g["momentum"]) for g in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize("case", [c for c, (_, wanted) in CASES.items() if wanted])
@pytest.mark.parametrize("factor", [None, 0.5])
def test_a_lengthened_schedule_goes_on_as_one_that_was_that_long(case, factor):
    """Against torch's own schedule of the new length, stepped from the start; rates that a divergence has lowered stay lower."""
    before, wanted = of_case(case)
    per_epoch = 2 if before["scheduler"].get("_interval_") == "step" else 1
    key, _, value = wanted[0].partition("=")
    longer = json.loads(json.dumps(before["scheduler"]))
    *parents, name = key.split(".")[1:]
    node = longer
    for part in parents:
        node = node[int(part)] if part.isdigit() else node[part]
    node[name] = int(value)

    reference = with_momentum()
    whole = course(reference, make_schedule(longer, "scheduler", reference), 9 * per_epoch)

    optimizer = with_momentum()
    schedule = make_schedule(before["scheduler"], "scheduler", optimizer)
    course(optimizer, schedule, 4 * per_epoch)
    back = GoBack(factor=factor or 1.0)
    back.applied = 1
    task = SimpleNamespace(new_optimizer=with_momentum, make_schedule=lambda o: make_schedule(longer, "scheduler", o))
    progress = SimpleNamespace(total=SimpleNamespace(completed=4 * per_epoch))
    trainer = SimpleNamespace(
        lr_scheduler_configs=[SimpleNamespace(scheduler=schedule)],
        optimizers=[optimizer],
        callbacks=[back],
        fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(scheduler_progress=progress)),
    )
    apply_lengths(trainer, task)
    rest = course(optimizer, schedule, 5 * per_epoch)
    for (lr, momentum), (own_lr, own_momentum) in zip(
        (groups[0] for groups in whole[4 * per_epoch :]), (groups[0] for groups in rest), strict=True
    ):
        assert own_lr == pytest.approx(lr * (factor or 1.0), abs=1e-12)
        assert own_momentum == momentum


def test_a_schedule_of_the_same_length_is_left_alone():
    optimizer = with_momentum()
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 7)
    course(optimizer, schedule, 3)
    state, rate = schedule.state_dict(), optimizer.param_groups[0]["lr"]
    make = lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 7, eta_min=0.01)  # noqa: E731  no length
    trainer = SimpleNamespace(lr_scheduler_configs=[SimpleNamespace(scheduler=schedule)], optimizers=[optimizer])
    apply_lengths(trainer, SimpleNamespace(new_optimizer=with_momentum, make_schedule=make))
    assert (schedule.state_dict(), optimizer.param_groups[0]["lr"]) == (state, rate)


@pytest.fixture
def complete(tmp_path, monkeypatch):
    """A run's folder after its end, as far as `prepare` looks."""
    monkeypatch.chdir(tmp_path)

    def make(*words, **results):
        config = settings(4, *words)
        (tmp_path / "run").mkdir()
        (tmp_path / "run/config.yaml").write_text(yaml.safe_dump(config | {"output_dir": str(tmp_path / "run")}))
        told = {"status": "completed", "epochs": 4, "steps": 8, "choices": {}, "overrides": []} | results
        (tmp_path / "run/results.json").write_text(json.dumps(told))
        return tmp_path / "run"

    return make


def test_what_is_suggested_is_accepted(complete):
    run = complete("scheduler=warmup_cosine", "scheduler.milestones=[1]")
    with pytest.raises(UserError, match="the run is complete, 4 epochs") as error:
        prepare(run, [], [])
    command = str(error.value).partition("raise what ended it: ")[2].split()
    assert command[:3] == ["iolaus", "resume", "run"]
    config, job = prepare(run, command[3:], [])
    assert (config.trainer.max_epochs, config.scheduler.schedulers[1].T_max) == (8, 7)
    assert job.train_on
    with pytest.raises(UserError, match=r"^trainer.max_epochs=6: .* add scheduler.schedulers.1.T_max=5$"):
        prepare(run, ["trainer.max_epochs=6"], [])
    with pytest.raises(UserError, match=r"add scheduler.schedulers.1.T_max=5$"):  # too short
        prepare(run, ["trainer.max_epochs=6", "scheduler.schedulers.1.T_max=4"], [])
    with pytest.raises(UserError, match="the run has no such setting"):
        prepare(run, ["trainer.max_epochs=6", "scheduler.schedulers.2.T_max=5"], [])
    with pytest.raises(UserError, match="a run goes on with what it was begun with"):
        prepare(run, ["scheduler.schedulers.1.eta_min=1"], [])


@pytest.mark.parametrize(
    ("words", "results", "suggested"),
    [
        (("trainer.max_time=00:00:00:01",), {"epochs": 2}, "trainer.max_time=null"),
        (("callbacks.early_stopping.patience=0",), {"epochs": 2}, "callbacks.early_stopping.patience=1"),
        (
            ("scheduler=one_cycle", "trainer.max_steps=6", "trainer.max_epochs=40", "scheduler.epochs=4"),
            {"epochs": 3, "steps": 6},
            "trainer.max_steps=12 scheduler.epochs=6",
        ),
    ],
)
def test_every_end_has_a_command(complete, words, results, suggested):
    run = complete(*words, **results)
    with pytest.raises(UserError) as error:
        prepare(run, [], [])
    assert str(error.value).endswith(f": iolaus resume run {suggested}")
    prepare(run, suggested.split(), [])


def test_a_length_must_be_one(tmp_path, monkeypatch):
    """Without a limit of epochs -1 would be taken for a length."""
    for scheduler, key in (("cosine", "T_max"), ("polynomial", "total_iters")):
        with pytest.raises(
            ConfigError, match=rf"scheduler.{key}: must be at least 1; received -1, as trainer.max_epochs=-1"
        ):
            check(composed(*PLAIN, f"scheduler={scheduler}", "trainer.max_epochs=-1", "trainer.max_steps=9"))


def test_a_schedule_that_ends_before_the_training(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    words = (*PLAIN, "callbacks=[]", "trainer.max_epochs=3")
    with pytest.raises(
        UserError,
        match=r"^scheduler.epochs: .* ends after 28 steps, and the training after 42; set scheduler.epochs=3$",
    ):
        preflight(build(composed(*words, "scheduler=one_cycle", "scheduler.epochs=2")))
    preflight(build(composed(*words, "scheduler=cosine", "scheduler._interval_=step")))
    assert (
        "scheduler.T_max: the schedule ends after 3 steps, and the training after 42; set scheduler.T_max=42"
        in caplog.text
    )


@pytest.mark.slow
def test_a_run_with_one_cycle_is_trained_on(command):
    words = ("data=iris", "scheduler=one_cycle", "logger=[]", "stages=[fit]")
    assert command(*words, "trainer.max_epochs=2", "output_dir=run").code == 0
    refused = command("resume=run", "trainer.max_epochs=4")
    assert refused.code == 1
    assert refused.text.strip().endswith("add scheduler.epochs=4")
    outcome = command("resume=run", "trainer.max_epochs=4", "scheduler.epochs=4")
    assert outcome.code == 0, outcome.text
