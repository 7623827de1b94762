"""The rates of schedules at named steps, against their closed forms; and inside whole runs."""

import math

import pytest
import torch
from conftest import composed
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from iolaus.build import make_schedule
from iolaus.check import plain

LR = 0.8


def rates(option, steps, *overrides):
    """The rate at each step of a schedule on its own."""
    settings = plain(composed(f"scheduler={option}", "trainer.max_epochs=20", f"optim.lr={LR}", *overrides))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR, momentum=0.9)
    schedule = make_schedule(settings["scheduler"], "scheduler", optimizer)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def cosine(share):
    return (1 + math.cos(math.pi * share)) / 2


CLOSED = {
    "constant": ([], lambda t: 1.0),
    "step": (["scheduler.step_size=4"], lambda t: 0.1 ** (t // 4)),
    "multi_step": (["scheduler.milestones=[3,7]"], lambda t: 0.1 ** ((t >= 3) + (t >= 7))),
    "exponential": (["scheduler.gamma=0.9"], lambda t: 0.9**t),
    "cosine": ([], lambda t: cosine(t / 20)),
    "warm_restarts": (
        ["scheduler.T_0=4"],
        lambda t: cosine(t / 4) if t < 4 else cosine((t - 4) / 8) if t < 12 else cosine((t - 12) / 16),
    ),
    "polynomial": (["scheduler.power=2"], lambda t: (1 - t / 20) ** 2),
    "warmup": (["scheduler.total_iters=10"], lambda t: min(0.01 + 0.99 * t / 10, 1.0)),
    "warmup_cosine": ([], lambda t: 0.1 + 0.9 * t / 5 if t < 5 else cosine((t - 5) / 15)),
    "chained": ([], lambda t: (0.1 if t < 5 else 1.0) * 0.95**t),
    "one_cycle": (
        ["scheduler.epochs=20", "scheduler.steps_per_epoch=1"],
        lambda t: (
            1 / 25 + (1 - 1 / 25) * (1 - cosine(t / 5)) if t <= 5 else 1 / 25e4 + (1 - 1 / 25e4) * cosine((t - 5) / 14)
        ),
    ),
}


@pytest.mark.parametrize("option", CLOSED)
def test_closed_forms(option):
    overrides, share = CLOSED[option]
    assert rates(option, 20, *overrides) == pytest.approx([LR * share(t) for t in range(20)], rel=1e-6, abs=1e-9)


def logged(folder):
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return [e.value for e in events.Scalars("lr")]


def test_a_schedule_by_steps_in_a_run(command):
    """Wine has 8 batches an epoch: after a warm-up of 16 steps the third epoch begins at the full rate."""
    outcome = command("data=wine", "scheduler=warmup", "scheduler.total_iters=16", "trainer.max_epochs=3")
    assert logged(outcome.folder) == pytest.approx([1e-3 * f for f in (0.01, 0.01 + 0.99 / 2, 1.0)], rel=1e-5)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_one_cycle_ends_with_the_run(command, accumulate):
    """The number of steps comes from the data, the batches of a step and the epochs; the rate ends at its least."""
    outcome = command(
        "data=wine",
        "scheduler=one_cycle",
        "trainer.max_epochs=4",
        f"trainer.accumulate_grad_batches={accumulate}",
        "stages=[fit]",
    )
    assert outcome.code == 0, outcome.text
    state = torch.load(outcome.folder / "checkpoints/last.ckpt", weights_only=True)["lr_schedulers"][0]
    steps = 4 * math.ceil(8 / accumulate)
    assert outcome.results["steps"] == steps
    assert state["total_steps"] == steps


def test_wrong_parts_of_a_composed_schedule(command):
    outcome = command("scheduler=warmup_cosine", "scheduler.schedulers.0.start_facto=1", "data=iris")
    assert outcome.code == 1
    wrong = "scheduler.schedulers=[{_target_: torch.optim.lr_scheduler.LinearLR, start_facto: 1}]"
    outcome = command("scheduler=warmup_cosine", wrong, "data=iris")
    assert outcome.code == 1
    assert "did you mean 'start_factor'" in outcome.text
