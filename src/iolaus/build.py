"""From a checked configuration to live objects: data, task, trainer."""

import copy
import importlib
import inspect
import logging
import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, open_dict
from pytorch_lightning.callbacks import Checkpoint, ProgressBar
from pytorch_lightning.plugins.precision import DoublePrecision, HalfPrecision
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import nn

from iolaus import ranks
from iolaus.callbacks.histograms import Histograms
from iolaus.callbacks.monitor_check import MonitorCheck
from iolaus.callbacks.resume_points import ResumePoints, newest_point
from iolaus.check import plain
from iolaus.checkpoint import CheckpointFiles, read
from iolaus.consistency import logged_names
from iolaus.data.base import SPLITS, DataModule
from iolaus.errors import UserError
from iolaus.functional.keys import mix
from iolaus.gradient.reverse import Reverse
from iolaus.history import History
from iolaus.logger.dropping import drop_on_os_error
from iolaus.optim.groups import parameter_groups
from iolaus.references import interpolations
from iolaus.rules import OWN_KEYS, is_meant, target_of
from iolaus.small_batch import join_small_batch, limit_batches
from iolaus.task.base import Task
from iolaus.trainer import HalfWeights, Trainer

log = logging.getLogger("iolaus")

FUSED_ON_SHARDS = ("torch.optim.Adam", "torch.optim.AdamW")  # which torch has fused for parts of weights too

Kind = TypeVar("Kind", bound=pl.Callback)


@dataclass
class Run:
    """The live objects of one run, and the resolved settings they were made from."""

    config: dict[str, Any]
    data: DataModule
    task: Task
    trainer: Trainer
    history: History

    def callback(self, kind: type[Kind]) -> Kind | None:
        """The run's callback of a class; None when it has none."""
        return next((c for c in self.trainer.callbacks if isinstance(c, kind)), None)  # type: ignore[attr-defined]

    @property
    def best_checkpoint(self) -> str | None:
        """Path of the checkpoint with the best objective; None when none was kept."""
        best = [
            getattr(c, "best_model_path", "") for c in self.trainer.checkpoint_callbacks if getattr(c, "monitor", None)
        ]
        return best[0] if best and best[0] else None


def build(
    config: DictConfig, data: DataModule | None = None, checkpoint: Path | None = None, resumed: bool = False
) -> Run:
    """Make everything a run needs, the data first: what only its file knows is filled in before the others read it.

    Args:
        config: checked; facts of the data that are null are set here, so that the saved settings are complete.
        data: read by another run with the same settings of the data, to be used again.
        checkpoint: whose weights are going to be used: tables are encoded as those that it learned from were; None: a run that learns.
        resumed: whether the run goes on; tables are then encoded as its newest resume point has them, also by an earlier version.

    Raises:
        UserError: for arguments that a class refuses, data that contradict the settings, a device that is not there.
    """
    quiet()
    pl.seed_everything(config.seed, workers=True, verbose=False)
    reused = data is not None
    if data is None:
        data = make(plain(config.data), "data")
        if checkpoint is not None and data.keeps_learned:
            _load_learned(data, read(checkpoint))
        elif resumed and data.keeps_learned and (point := newest_point(Path(config.output_dir, "checkpoints"), False)):
            _load_learned(data, point[1])
        ranks.in_turn(data.prepare_data)
        data.setup()
    with open_dict(config):
        fill_facts(config, data)
    shape = plain(config)["data"]["input_shape"]
    if (
        data.transforms and data.input_shape is not None
    ):  # models read the shape of what they get, the data set that of its file
        config.data.input_shape = list(data.input_shape)
    settings = plain(config)
    settings["data"]["input_shape"] = shape
    pl.seed_everything(config.seed, workers=True, verbose=False)  # the weights do not depend on what the data drew
    if not reused:
        data.augmentations += [make(node, f"augment.{name}") for name, node in settings.get("augment", {}).items()]
    parts = _of_processes(settings)
    task = build_task(parts)
    if data.standardize:
        task.fit_statistics(data.statistics())
    if ranks.rank() > 0:  # the weights are the same, what is drawn in the training is not
        pl.seed_everything(mix(config.seed, ranks.rank()) % 2**32, workers=True, verbose=False)
    history = History(Path(settings["output_dir"], "metrics.csv"))
    trainer = build_trainer(parts, history)
    if isinstance(trainer.precision_plugin, DoublePrecision | HalfPrecision):
        # Lightning would do it after it has loaded a checkpoint, whose weights would be rounded on the way.
        task = trainer.precision_plugin.convert_module(task)  # type: ignore[assignment]
    if isinstance(trainer.precision_plugin, HalfPrecision) and task.rounds_inputs:
        trainer.strategy.precision_plugin = HalfWeights(trainer.precision_plugin.precision)
    if not reused and checkpoint is None:
        join_small_batch(task, data, settings)
    for schedule in (
        settings.get("scheduler") or {},
        parts.get("scheduler") or {},
    ):  # which is made once the fit begins
        if "steps_per_epoch" in schedule and schedule["steps_per_epoch"] is None:
            schedule["steps_per_epoch"] = steps_per_epoch(data, settings["trainer"])
    return Run(settings, data, task, trainer, history)


def fill_facts(config: DictConfig, data: DataModule) -> None:
    """Set the facts of the data that the settings leave open; settings of an earlier version lack some.

    Raises:
        UserError: for a name in the data that settings would take for a reference.
    """
    facts = {k: v for k, v in data.facts().items() if k in config.data and config.data[k] is None}
    for fact, value in facts.items():
        if (text := next(interpolations(value), None)) is not None:
            raise UserError(
                f"data.{fact}: the data hold the name {text!r}, and ${{ means a reference in settings; rename it in the file"
            )
    config.data.update(facts)


def restore(settings: dict[str, Any], checkpoint: Path) -> tuple[DataModule, Task]:
    """A run's data module, which knows what its checkpoint tells and has read no file, and its task with the checkpoint's weights.

    Raises:
        UserError: for a checkpoint of other data or another model.
    """
    quiet()
    content = read(checkpoint)
    data: DataModule = make(settings["data"], "data")
    _load_learned(data, content)
    task = build_task(settings)
    task.on_load_checkpoint(content)
    if settings["trainer"].get("precision") == "64-true":
        task.double()
    task.load_state_dict(content["state_dict"])
    wants_gpu = settings["trainer"].get("accelerator") in ("auto", "gpu", "cuda")
    return data, task.to("cuda" if wants_gpu and torch.cuda.is_available() else "cpu").eval()


def _load_learned(data: DataModule, content: dict[str, Any]) -> None:
    """Let data know what a checkpoint tells of those it is from."""
    if (state := content.get(type(data).__qualname__)) is not None:
        data.load_state_dict(state)


def steps_per_epoch(data: DataModule, trainer: dict[str, Any]) -> int:
    """Optimizer steps of an epoch, with the trainer's limits."""
    batches = limit_batches(data.num_train_batches, trainer)
    return max(-(-batches // trainer.get("accumulate_grad_batches", 1)), 1)


def _of_processes(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with what only the number of processes tells; the saved ones do not say it, as a run may go on with another number."""
    parts = copy.deepcopy(settings)
    _scale_rates(parts)
    strategy = target_of(parts["trainer"].get("strategy"))
    if ranks.count() == 1 and strategy.startswith("iolaus.strategy.") and not strategy.endswith(".DeepSpeed"):
        parts["trainer"]["strategy"] = "auto"  # one alone has nothing to average or to share
    is_fused = parts["optim"].get("fused") and parts["optim"]["_target_"] not in FUSED_ON_SHARDS
    if is_fused and strategy.endswith(".FullySharded"):
        parts["optim"]["fused"] = None
    return parts


def _scale_rates(settings: dict[str, Any]) -> None:
    """Multiply learning rates by the number of processes or its root, where that is asked for. Goyal and others, https://arxiv.org/abs/1706.02677."""
    kind, world = settings["trainer"].get("scale_lr"), ranks.count()
    if kind is None or world == 1:
        return
    factor = world if kind == "linear" else math.sqrt(world)
    nodes = [settings["optim"], *(settings["optim"].get("_groups_") or {}).values(), settings.get("scheduler") or {}]
    for node in nodes:
        for key in {"lr", "max_lr"} & {key for key, value in node.items() if isinstance(value, int | float)}:
            log.info("trainer.scale_lr: %s %g -> %g", key, node[key], node[key] * factor)
            node[key] *= factor


def build_task(settings: dict[str, Any]) -> Task:
    """Model, loss, metrics, optimizer and schedule, joined by the task."""
    metrics = {
        split: {
            name: make(node, f"metrics.{name}")
            for name, node in settings.get("metrics", {}).items()
            if split in node.get("_splits_", SPLITS) and is_meant(node, settings["data"])
        }
        for split in SPLITS
    }
    scheduler = None
    if node := settings.get("scheduler"):
        interval = {
            "interval": node.get("_interval_", "epoch"),
            "monitor": settings["objective"]["monitor"],
            "name": "lr",
        }
        scheduler = (lambda optimizer: make_schedule(node, "scheduler", optimizer)), interval

    def optimizer(parameters: Iterable[tuple[str, nn.Parameter]]) -> Any:
        try:
            groups = parameter_groups(parameters, settings["optim"].get("_groups_") or {})
        except ValueError as error:
            raise UserError(f"optim.{error}") from None
        if len(groups) == 1 and groups[0]["name"] == "rest":
            groups = groups[0]["params"]
        return make(settings["optim"], "optim", params=groups)

    model = make(settings["model"], "model")
    if settings.get("init"):
        try:
            make(settings["init"], "init")(model)
        except ValueError as error:
            raise UserError(f"init.function: {error}") from error
    return make(
        settings["task"],
        "task",
        model=model,
        loss=make(settings["loss"], "loss"),
        metrics=metrics,
        optimizer=optimizer,
        scheduler=scheduler,
        gradient=make(settings["gradient"], "gradient") if settings.get("gradient") else Reverse(),
    )


def make_schedule(node: dict[str, Any], path: str, optimizer: Any) -> Any:
    """A schedule, and those it is made of, of one optimizer."""
    parts = node.get("schedulers", [])
    made = [make_schedule(part, f"{path}.schedulers.{i}", optimizer) for i, part in enumerate(parts)]
    rest = {key: value for key, value in node.items() if key != "schedulers"}
    if rest.get("max_lr") == optimizer.defaults.get("lr"):  # one-cycle rises to each group's own rate
        rest["max_lr"] = [group["lr"] for group in optimizer.param_groups]
    return make(rest, path, optimizer=optimizer, **({"schedulers": made} if parts else {}))


def build_trainer(settings: dict[str, Any], history: History) -> Trainer:
    """Lightning's Trainer with callbacks and loggers; bars, checkpoints and loggers are there when they are chosen."""
    callbacks = [make(node, f"callbacks.{name}") for name, node in settings.get("callbacks", {}).items() if node]
    # First in each hook: what it restores when a batch begins is what the others' hooks then see. Then what looks at the weights that were
    # trained, in whose place averages of them come at the end.
    callbacks.sort(key=lambda callback: (not isinstance(callback, ResumePoints), not isinstance(callback, Histograms)))
    points = [c.files for c in callbacks if isinstance(c, ResumePoints)]
    if not settings["trainer"].get("barebones"):  # which has no checkpoints, and no metrics to look at
        monitor = settings["objective"]["monitor"]
        callbacks.insert(0, MonitorCheck(monitor, None if monitor in logged_names(settings) else history))
    loggers = [
        drop_on_os_error(make(node, f"logger.{name}"), f"logger.{name}")
        for name, node in settings.get("logger", {}).items()
        if node
    ]
    return make(
        settings["trainer"],
        "trainer",
        callbacks=callbacks,
        logger=[*loggers, history],
        default_root_dir=settings["output_dir"],
        checkpoint_files=points[0] if points else CheckpointFiles(),
        enable_checkpointing=any(isinstance(c, Checkpoint) for c in callbacks),
        enable_progress_bar=any(isinstance(c, ProgressBar) for c in callbacks),
        enable_model_summary=False,
    )


def make(node: Any, path: str, **given: Any) -> Any:
    """Build what a checked node describes; a node without `_target_` stays as it is.

    Args:
        node: plain containers.
        path: the node's key, for messages.
        given: arguments that settings cannot hold.

    Raises:
        UserError: when the class refuses its arguments.
    """
    if isinstance(node, list):
        return [make(item, f"{path}.{i}") for i, item in enumerate(node)]
    if not isinstance(node, dict):
        return node
    arguments = {k: make(v, f"{path}.{k}") for k, v in node.items() if "_target_" not in node or k not in OWN_KEYS}
    if "_target_" not in node:
        return arguments
    module, _, name = node["_target_"].rpartition(".")
    cls = getattr(importlib.import_module(module), name)
    for key in _tensors(cls) & {k for k, v in arguments.items() if isinstance(v, list)}:
        arguments[key] = torch.tensor(arguments[key])
    try:
        return cls(**arguments, **given)
    except (TypeError, ValueError, RuntimeError, MisconfigurationException) as error:
        if (path == "trainer" and "backend" in str(error)) or "No CUDA" in str(error):
            raise UserError(
                f"trainer.accelerator: no {arguments['accelerator']} is seen on this machine; try trainer=cpu"
            ) from None
        raise UserError(f"{path}: {name}: {' '.join(str(error).split())}") from error


def _tensors(cls: Any) -> set[str]:
    """The arguments of a class that are tensors, such as the weights of classes."""
    if not issubclass(cls, nn.Module):
        return set()
    return {
        p.name
        for p in inspect.signature(cls).parameters.values()
        if "Tensor" in str(p.annotation) and "float" not in str(p.annotation)
    }


def quiet() -> None:
    """Silence Lightning's advertisements and hints that do not apply to how loaders and checkpoints work here."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for name in ("pytorch_lightning.utilities.rank_zero", "lightning_fabric.utilities.seed"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        r".*does not have many workers.*",
        r".*dataloader is\s+not resumable.*",  # ours begin at any batch
        r".*number of training batches.*smaller than the logging interval.*",
        r".*Checkpoint directory .* exists and is not empty.*",
        r".*lr_scheduler\.step\(\).*before.*optimizer\.step\(\).*",
        r".*defined a `validation_step` but have no `val_dataloader`.*",
        r".*isinstance\(treespec, LeafSpec\).*",
        r".*Total length of `list` across ranks is zero.*",
        r".*No (positive|negative) samples in targets.*",
        r".*will save all targets and predictions in the buffer.*",
        r".*The `srun` command is available.*",
        r".*`torch.jit.script` is deprecated.*",  # torch's own forward mode uses it
        r".*TF32 acceleration on top of oneDNN.*",
        r".*It is recommended to use `self.log\(.*sync_dist=True.*",  # scores are summed over the processes already
        r".*callbacks used to create the checkpoint need to be provided.*",
        r".*WeightAveraging callback with a model that overrides the configure_model.*",  # trainer=fsdp refuses it
    ):
        warnings.filterwarnings("ignore", message)
