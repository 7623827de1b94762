"""Schedules that have a length: where they end, and the settings that move their end."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from iolaus.rules import target_of

# Settings of lengths, which a run that goes on may change: the schedule is then what it would have been from the start.
LENGTHS = re.compile(r"scheduler(\.schedulers\.\d+)*\.(T_max|total_iters|total_steps|epochs|milestones)")


@dataclass(frozen=True)
class End:
    """Where a schedule ends, after which it raises, rises again or stays at its lowest rate.

    Args:
        key: the setting that moves the end.
        value: its value.
        at: the end, in steps of the schedule.
        unit: steps of the schedule by which one more of the value moves the end.
        is_strict: whether a step beyond is an error.
    """

    key: str
    value: int
    at: int
    unit: int = 1
    is_strict: bool = False

    def moved_to(self, end: int) -> str:
        """Return the setting that moves the end to a step of the schedule, or just beyond."""
        return f"{self.key}={self.value + -(-(end - self.at) // self.unit)}"


def schedule_ends(node: dict[str, Any], path: str = "scheduler", begin: int = 0) -> Iterator[End]:
    """Find the ends of a schedule and of the parts that last until its end.

    Args:
        node: settings of the schedule; lengths that are no whole numbers are passed over.
        path: where they stand.
        begin: the step of the whole schedule at which this part begins.
    """
    name = target_of(node).rpartition(".")[2]
    parts = node.get("schedulers") or []
    if name == "SequentialLR" and parts and (milestones := node.get("milestones")):
        yield from schedule_ends(parts[-1], f"{path}.schedulers.{len(parts) - 1}", begin + milestones[-1])
    elif name == "ChainedScheduler":
        for number, part in enumerate(parts):
            yield from schedule_ends(part, f"{path}.schedulers.{number}", begin)
    elif name == "OneCycleLR" and isinstance(steps := node.get("total_steps"), int):
        yield End(f"{path}.total_steps", steps, begin + steps, is_strict=True)
    elif name == "OneCycleLR":
        epochs, unit = node.get("epochs"), node.get("steps_per_epoch")
        if isinstance(epochs, int) and isinstance(unit, int):
            yield End(f"{path}.epochs", epochs, begin + epochs * unit, unit, is_strict=True)
    else:
        key = {"CosineAnnealingLR": "T_max", "PolynomialLR": "total_iters"}.get(name)
        if name == "LinearLR" and node.get("end_factor", 1.0) < node.get("start_factor", 1 / 3):  # and no warm-up
            key = "total_iters"
        if key and isinstance(value := node.get(key), int):
            yield End(f"{path}.{key}", value, begin + value)


def training_end(trainer: dict[str, Any], interval: str, steps_per_epoch: float | None) -> int | None:
    """Return how often a schedule steps until the trainer's limits end the training; None where that is not known.

    Args:
        trainer: its settings.
        interval: what the schedule steps after, an `epoch` or a `step`.
        steps_per_epoch: optimizer steps of an epoch; None: not known.
    """
    epochs, steps = (value if (value := trainer.get(key) or -1) > 0 else None for key in ("max_epochs", "max_steps"))
    if interval == "step":
        found = [steps, epochs and steps_per_epoch and round(epochs * steps_per_epoch)]
    else:
        found = [epochs, steps and steps_per_epoch and -int(-steps // steps_per_epoch)]
    return min((int(end) for end in found if end), default=None)


def outgrown(before: dict[str, Any], after: dict[str, Any], steps_per_epoch: float | None) -> list[str]:
    """Return the settings that let a schedule last as long as a training that has been made longer; none where it does.

    A schedule that had ended before the training did was meant so, and is left alone.

    Args:
        before: settings of the run.
        after: the same, changed.
        steps_per_epoch: optimizer steps of an epoch; None: not known.
    """
    interval = (before.get("scheduler") or {}).get("_interval_", "epoch")
    old, new = (training_end(settings["trainer"], interval, steps_per_epoch) for settings in (before, after))
    if new is None:
        return []
    ends = {end.key: end for end in schedule_ends(after.get("scheduler") or {})}
    found = []
    for end in schedule_ends(before.get("scheduler") or {}):
        if (old is None or end.at >= old) and end.key in ends and ends[end.key].at < new:
            found.append(ends[end.key].moved_to(new))
    return found
