"""Runs of a sweep that differ in numbers alone, trained together in one process: which can be, and why others cannot."""

import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from omegaconf import DictConfig

from iolaus.runs import Job, paths_moved
from iolaus.strict_json import to_json

# What may differ within a group: it enters the stacked computation as a number for each run, or is looked at between epochs.
FREE = re.compile(
    r"output_dir|name|(data\.)?seed"
    r"|optim\.(?!_target_$).*|scheduler(\..*)?|loss\.label_smoothing"
    r"|trainer\.(max_epochs|gradient_clip_val)"
    r"|callbacks\.early_stopping\.(min_delta|patience|stopping_threshold|divergence_threshold)"
)
# Each of these takes a weight's step from that weight's own gradient, so that all weights of a run may lie in one row.
OPTIMIZERS = {
    f"torch.optim.{name}"
    for name in (
        *("ASGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax"),
        *("NAdam", "RAdam", "RMSprop", "Rprop", "SGD"),
    )
}
MODELS = {
    *("iolaus.model.affine.AffineNetwork", "iolaus.model.cnn.CNN", "iolaus.model.linear.Linear"),
    *("iolaus.model.mlp.MLP", "iolaus.model.sequential.Sequential"),
}
LOSSES = {
    *(
        "torch.nn.CrossEntropyLoss",
        "torch.nn.MSELoss",
        "torch.nn.L1Loss",
        "torch.nn.HuberLoss",
        "torch.nn.SmoothL1Loss",
    ),
    "iolaus.loss.sum_of_squares.SumOfSquares",
}
TASKS = {"iolaus.task.supervised.Supervised"}
# Layers that draw random numbers, whose stacked draws would be others, or that torch.func cannot stack.
LAYERS = re.compile(r"Dropout|RReLU|RNN|LSTM|GRU|Attention|Transformer|Embedding|FractionalMaxPool")
# What comes before these has a bias without effect, whose gradient is rounding alone; all optimizers but SGD take full steps by it.
NORMS = re.compile(r"(Batch|Instance|Group)Norm")
CALLBACKS = {
    *("iolaus.callbacks.resume_points.ResumePoints", "iolaus.callbacks.summary.Summary"),
    *("iolaus.callbacks.progress.Progress", "pytorch_lightning.callbacks.ModelCheckpoint"),
    *("pytorch_lightning.callbacks.EarlyStopping", "pytorch_lightning.callbacks.LearningRateMonitor"),
}
# Settings with a value, or one of several, that the stacked loop knows; null and a missing key count as None.
KNOWN: dict[str, tuple[Any, ...]] = {
    "gradient._target_": ("iolaus.gradient.reverse.Reverse", None),
    "optim._groups_": (None, {}),
    "optim.capturable": (False, None),
    "optim.differentiable": (False, None),
    "trainer.compile": (False, None),
    "trainer.channels_last": (False, None),
    "trainer.cuda_graphs": (False, None),
    "trainer.strategy": ("auto", None),
    "trainer.devices": (1, "1", "auto", None),
    "trainer.num_nodes": (1, None),
    "trainer.precision": ("32-true", 32, "32", None),
    "trainer.fast_dev_run": (False, None),
    "trainer.min_epochs": (None,),
    "trainer.max_steps": (-1, None),
    "trainer.min_steps": (None,),
    "trainer.max_time": (None,),
    "trainer.limit_train_batches": (None, 1.0),
    "trainer.limit_val_batches": (None, 1.0),
    "trainer.overfit_batches": (0, None),
    "trainer.val_check_interval": (None, 1.0),
    "trainer.check_val_every_n_epoch": (1,),
    "trainer.num_sanity_val_steps": (0,),
    "trainer.accumulate_grad_batches": (1, None),
    "trainer.profiler": (None,),
    "trainer.detect_anomaly": (False, None),
    "trainer.barebones": (False, None),
    "trainer.plugins": (None, []),
    "trainer.reload_dataloaders_every_n_epochs": (0, None),
    "callbacks.checkpoint.save_top_k": (1, None),
    "callbacks.checkpoint.save_last": (None,),
    "callbacks.checkpoint.save_weights_only": (False, None),
    "callbacks.checkpoint.save_on_train_epoch_end": (None,),
    "callbacks.checkpoint.every_n_train_steps": (None,),
    "callbacks.checkpoint.train_time_interval": (None,),
    "callbacks.checkpoint.every_n_epochs": (None, 1),
    "callbacks.early_stopping.check_on_train_epoch_end": (None, True),
    "callbacks.lr_monitor.logging_interval": ("epoch",),
}


def stackable(configs: Sequence[dict[str, Any]]) -> tuple[list[list[int]], dict[int, str]]:
    """Which runs can be trained together.

    Args:
        configs: resolved settings of each run, as plain containers.

    Returns:
        the positions of each group, two or more that differ in numbers alone; and for every other position the reason, in a line.
    """
    reasons: dict[int, str] = {}
    groups: dict[str, list[int]] = {}
    for position, config in enumerate(configs):
        reason = next(_obstacles(config), None)
        if reason is not None:
            reasons[position] = reason
        else:
            groups.setdefault(to_json(_fixed(config), sort_keys=True, default=str), []).append(position)
    together = [group for group in groups.values() if len(group) > 1]
    for group in groups.values():
        if len(group) == 1:
            others = [configs[other] for other in range(len(configs)) if other != group[0] and other not in reasons]
            reasons[group[0]] = _difference(configs[group[0]], others)
    return together, dict(sorted(reasons.items()))


def train_together(
    configs: Sequence[DictConfig], jobs: Sequence[Job], figures: Literal["best", "all"] = "best"
) -> list[float | None]:
    """Train, test and report the runs of one group, each in its own folder.

    Args:
        configs: composed and checked, as `train` takes them; a group that `stackable` found.
        jobs: what the user asked for, of each.
        figures: of which runs they are drawn, the best one or all; drawing takes longer than training a small network.

    Returns:
        the best value of each run's objective; None for a run that failed, whose results.json says why.
    """
    from iolaus.sweep.together import Together  # torch: only once something is trained

    return Together(configs, jobs, figures).run()


def _obstacles(config: dict[str, Any]) -> Iterator[str]:
    """Why a run cannot be trained together with any other."""
    if config.get("stages") not in (["fit"], ["fit", "test"]):
        yield f"stages={config.get('stages')}: only fit, and fit with test, have a stacked form"
    for group, known in (("task", TASKS), ("model", MODELS), ("loss", LOSSES), ("optim", OPTIMIZERS)):
        target = (config.get(group) or {}).get("_target_")
        if target not in known:
            yield f"{group}={str(target).rpartition('.')[2]} has no stacked form"
    for name, node in (config.get("callbacks") or {}).items():
        if node and node.get("_target_") not in CALLBACKS:
            yield f"callbacks.{name} has no stacked form"
    for key, value in _leaves(config):
        if key.startswith("model.") and "dropout" in key and value:
            yield f"{key}={value} draws random numbers, and a stack would draw others"
        if key.startswith("model.") and (layer := LAYERS.search(f"{key}={value}")):
            yield f"{key}: {layer[0]} has no stacked form"
        if key.startswith("model.") and (norm := NORMS.search(f"{key}={value}")) and not _is_sgd(config):
            optimizer = str(_value(config, "optim._target_")).rpartition(".")[2]
            yield f"{key}: {norm[0]} with optim={optimizer} would follow another rounding; with SGD it has a stacked form"
    for key, values in KNOWN.items():
        group, _, rest = key.partition(".")
        if config.get(group) and (value := _value(config, key)) not in values and _there(config, rest, group):
            yield f"{key}={value} has no stacked form"
    monitor = (config.get("objective") or {}).get("monitor", "")
    if not str(monitor).endswith("/val"):
        yield f"objective.monitor={monitor}: only what is measured on the validation split has a stacked form"
    for name in ("checkpoint", "early_stopping"):
        if (own := _value(config, f"callbacks.{name}.monitor")) not in (None, monitor):
            yield f"callbacks.{name}.monitor={own} differs from the objective"


def _there(config: dict[str, Any], rest: str, group: str) -> bool:
    """Whether a setting's node is there: what is said of a callback does not matter without it."""
    parents = rest.split(".")[:-1]
    return not parents or bool(_value(config, ".".join([group, *parents])))


def _value(config: dict[str, Any], key: str) -> Any:
    node: Any = config
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node


def _fixed(config: dict[str, Any]) -> dict[str, Any]:
    """What must be equal within a group, by key; paths as they are below the run's own folder."""
    folder = config.get("output_dir")
    settings = paths_moved(config, str(folder), "RUN") if folder else config
    free = FREE if _smoothed(config) else re.compile(FREE.pattern.replace(r"|loss\.label_smoothing", ""))
    return {key: value for key, value in _leaves(settings) if not free.fullmatch(key)}


def _is_sgd(config: dict[str, Any]) -> bool:
    return _value(config, "optim._target_") == "torch.optim.SGD"


def _smoothed(config: dict[str, Any]) -> bool:
    return _value(config, "loss._target_") == "torch.nn.CrossEntropyLoss"


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is no container, and every empty one, by its key."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    children = [(f"{path}.{name}" if path else str(name), child) for name, child in items]
    if not children:
        yield path, node
    for key, child in children:
        yield from _leaves(child, key)


def _difference(config: dict[str, Any], others: list[dict[str, Any]]) -> str:
    """The setting in which a run differs from the one that is most like it."""
    own = _fixed(config)
    unlike = []
    for other in others:
        fixed = _fixed(other)
        keys = [
            key for key in own | fixed if own.get(key, None) != fixed.get(key, None) or (key in own) != (key in fixed)
        ]
        unlike.append(keys)
    if not unlike:
        return "no other run of the sweep is like it"
    return re.sub(r"(\.[0-9]+)+$", "", min(unlike, key=len)[0]) + " differs"  # of a list, its name
