"""What a run is going to do, without doing it: the model's table, the groups of parameters, the schedule's rates."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from iolaus import figures
from iolaus.build import Run, make, make_schedule, steps_per_epoch
from iolaus.callbacks.graph import draw
from iolaus.callbacks.inputs import inputs
from iolaus.callbacks.summary import summarize
from iolaus.exhibits import Images
from iolaus.files import write
from iolaus.optim.groups import belongs
from iolaus.rules import GROUP_KEYS
from iolaus.user_code import warn_on_failure

MOST_IMAGES = 32
MOST_STEPS = 20_000  # of a schedule that are tried


def planned_rates(run: Run) -> tuple[list[float], dict[str, list[float]]] | None:
    """The learning rates that the schedule plans, found by stepping it with an optimizer of empty weights.

    Returns:
        the epochs, and for each group of parameters its rate then; None where there is no schedule, or where it depends on what the
        training shows.
    """
    node = run.config.get("scheduler")
    epochs = run.config["trainer"].get("max_epochs") or 0
    if not node or epochs < 1:
        return None
    rules = run.config["optim"].get("_groups_") or {}
    groups = {name: rule for name, rule in rules.items() if not rule.get("frozen")}
    names = [name for name, p in run.task.named_parameters() if p.requires_grad]
    parameters = dict(run.task.named_parameters())
    if any(not any(belongs(name, parameters[name], rule) for rule in rules.values()) for name in names):
        groups = {"rest": {}, **groups}
    optimizer = make(run.config["optim"], "optim", params=[_empty_group(rule) for rule in groups.values()])
    schedule = make_schedule(node, "scheduler", optimizer)
    if isinstance(schedule, ReduceLROnPlateau):
        return None
    a_step = node.get("_interval_") == "step"
    ticks = steps_per_epoch(run.data, run.config["trainer"]) if a_step else 1
    rates: list[list[float]] = []
    for _ in range(min(epochs * ticks, MOST_STEPS)):
        rates.append([float(group["lr"]) for group in optimizer.param_groups])
        schedule.step()
    columns = zip(*rates, strict=True)
    return [i / ticks for i in range(len(rates))], {n: list(c) for n, c in zip(groups, columns, strict=False)}


def _empty_group(rule: dict[str, Any]) -> dict[str, Any]:
    settings = {key: value for key, value in rule.items() if key not in GROUP_KEYS}
    return {"params": [nn.Parameter(torch.zeros(1, 1))], **settings}


def draw_schedule(run: Run, folder: Path) -> list[Path]:
    """figures/schedule.png, where there is a schedule to draw."""
    planned = planned_rates(run)
    return figures.save({"schedule": figures.schedule(*planned)}, folder / "figures") if planned else []


def draw_inputs(run: Run, folder: Path) -> list[Path]:
    """figures/inputs.png, the first training images with their targets, augmented as the training gets them."""
    if run.data.input_kind != "image":
        return []
    batch = next(iter(run.data.train_dataloader()))
    (shown,) = inputs([part[:MOST_IMAGES].cpu() for part in batch], run.data).values()
    assert isinstance(shown, Images)
    return figures.save({"inputs": figures.drawn(shown)}, folder / "figures")


def preview(run: Run, folder: Path) -> str:
    """Describe a run that was built, and draw its network and its schedule.

    Args:
        run: whose weights, modes and random state are left as they are.
        folder: for model.txt, graph.svg and figures/schedule.png.
    """
    table, drawn = "", list[Path]()
    with warn_on_failure("model.txt", folder):
        table = summarize(run.task.model, *run.task.example(1)[:-1])
        write(folder / "model.txt", table)
    with warn_on_failure("graph.svg", folder):
        drawn += draw(run.task.model, run.task.example(2)[:-1], folder)
    with warn_on_failure("figures/schedule.png", folder):
        drawn += draw_schedule(run, folder)
    with warn_on_failure("figures/inputs.png", folder):
        drawn += draw_inputs(run, folder)
    steps = steps_per_epoch(run.data, run.config["trainer"])
    lines = [
        *([table] if table else []),
        f"{steps:,} steps an epoch, {run.config['trainer'].get('max_epochs')} epochs at most",
    ]
    configured = run.task.configure_optimizers()
    optimizer = configured["optimizer"] if isinstance(configured, dict) else configured
    lines.append(f"optimizer: {run.config['optim']['_target_'].rpartition('.')[2]}")
    for group in optimizer.param_groups:
        count = sum(p.numel() for p in group["params"])
        settings = ", ".join(f"{key} {group[key]:g}" for key in ("lr", "weight_decay") if key in group)
        lines.append(f"  {group.get('name', 'all')}: {len(group['params'])} tensors, {count:,} parameters, {settings}")
    if planned := planned_rates(run):
        lines.append(f"schedule: {run.config['scheduler']['_target_'].rpartition('.')[2]}")
        lines += [f"  {name}: {_course(planned[0], rates)}" for name, rates in planned[1].items()]
    lines += ["", f"drawn: {', '.join(str(path.relative_to(folder)) for path in drawn) or 'nothing'}"]
    return "\n".join(lines)


def _course(epochs: Iterable[float], rates: list[float]) -> str:
    """A schedule in words."""
    top = max(zip(rates, epochs, strict=True), key=lambda pair: pair[0])
    return f"begins at {rates[0]:.3g}, is highest in epoch {int(top[1]) + 1} with {top[0]:.3g}, ends at {rates[-1]:.3g}"
