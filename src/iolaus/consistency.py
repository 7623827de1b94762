"""Settings that are right each and must also fit together: parts and data, objective and metrics, files and folders."""

import glob
import importlib.machinery
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from iolaus import ranks
from iolaus.commands import install_command
from iolaus.errors import did_you_mean
from iolaus.files import INDEX
from iolaus.overrides import override_text, removal_text
from iolaus.rules import CHOICES, FINDERS, GROUP_KEYS, GROUPS, KINDS, is_meant, target_of
from iolaus.schedule_ends import schedule_ends
from iolaus.signature import Definition, attribute, find

Node = dict[str, Any]
WANT_WHOLE_WEIGHTS = {"Averaging", "Curvature", "Histograms", "GradientNorm", "Embeddings", "Samples", "Graph"}
SPARSE = ("torch.optim.SparseAdam", "torch.optim.SGD", "torch.optim.Adagrad")  # which take sparse gradients

PASSWORD = re.compile(r"://[^/@\s]*:[^/@\s]*@")  # of an address


def inconsistencies(config: Node, choices: dict[str, Any], folders: Sequence[Path]) -> Iterator[str]:
    """Every pair of settings that cannot be meant together.

    Args:
        config: resolved, plain.
        choices: which option was chosen for each group, for messages in the user's words.
        folders: the folders that hold the options, for suggestions.
    """
    yield from misfits(config, choices, folders)
    yield from _objective(config)
    yield from _combinations(config)
    yield from _averaging(config)
    yield from _lengths(config)
    yield from _milestones(config)
    yield from _sparse_gradients(config)
    yield from _cycled_momentum(config)
    yield from _parameter_groups(config["optim"])
    yield from _study(config)
    yield from _finders(config)
    yield from _folds(config["data"])
    yield from _processes(config)
    yield from _strategy(config, choices)
    yield from _loggers(config.get("logger") or {})
    if config["data"].get("transforms") and config["data"].get("input_kind") != "image":
        yield "data.transforms: are for images, and the data have none"
    if folders:  # and not for a run that exists: it has its weights
        yield from _source(config)


def misfits(config: Node, choices: dict[str, Any], folders: Sequence[Path]) -> Iterator[str]:
    """Parts that cannot work with this kind of data, with options that can."""
    data = config["data"]
    source = f"data={choices['data']}" if "data" in choices else "this data set"
    for group in sorted(GROUPS):
        for node in _parts(config.get(group)):
            for fact, kinds in (node.get("_accepts_") or {}).items():
                if data.get(fact) is None or data[fact] in kinds or "${" in str(data[fact]):
                    continue
                choice = choices.get(group)
                name = f"{group}={choice}" if isinstance(choice, str) else f"{group} {node['_target_'].split('.')[-1]}"
                words = KINDS.get(fact, {})
                wants = " or ".join(words.get(a, f"{fact} {a}") for a in kinds)
                has = words.get(data[fact], f"{fact} {data[fact]}")
                others = _options(group, fact, data, folders)
                hint = f"; try {' or '.join(f'{group}={o}' for o in others[:3])}" if others else ""
                yield f"{name} with {source}: it wants {wants}, and the data have {has}{hint}"


def _averaging(config: Node) -> Iterator[str]:
    """An average that begins after the end, or beside another."""
    epochs = config["trainer"].get("max_epochs")
    nodes = {name: node for name, node in (config.get("callbacks") or {}).items() if isinstance(node, dict)}
    averages = {name: node for name, node in nodes.items() if str(node.get("_target_", "")).endswith(".Averaging")}
    if len(averages) > 1:
        names = list(averages)
        yield (
            f"callbacks: {' and '.join(names)} each test and keep weights that they average, and a run can keep one average; "
            f"leave all but one out, as in {removal_text(f'callbacks.{names[-1]}')}"
        )
    for name, node in averages.items():
        if isinstance(epochs, int) and 0 < epochs <= node.get("start", 0):
            yield (
                f"callbacks.{name}.start: averaging after {node['start']} epochs never begins with trainer.max_epochs={epochs}; "
                "set fewer, or a share such as 0.75"
            )


def _lengths(config: Node) -> Iterator[str]:
    """Lengths of schedules; where the trainer has no limit of epochs they have to be given."""
    limit = config["trainer"].get("max_epochs")
    for end in schedule_ends(config.get("scheduler") or {}):
        if end.value < 1:
            why = f", as trainer.max_epochs={limit} is no limit" if end.value == limit else ""
            yield f"{end.key}: must be at least 1; received {end.value}{why}"


def _milestones(config: Node) -> Iterator[str]:
    """A part of a composed schedule that begins after the end."""
    scheduler, epochs = config.get("scheduler") or {}, config["trainer"].get("max_epochs")
    milestones = scheduler.get("milestones")
    if "schedulers" not in scheduler or not isinstance(milestones, list) or not isinstance(epochs, int) or epochs < 1:
        return
    late = [m for m in milestones if isinstance(m, int) and m >= epochs]
    if late and scheduler.get("_interval_", "epoch") == "epoch" and epochs > 1:
        yield f"scheduler.milestones: the part after {late[0]} epochs never begins with trainer.max_epochs={epochs}"


def _sparse_gradients(config: Node) -> Iterator[str]:
    """Sparse gradients and optimizers that take them."""
    optimizer, is_sparse = str(config["optim"].get("_target_")), config["model"].get("sparse") is True
    if optimizer == "torch.optim.SparseAdam" and not is_sparse:
        yield "optim=sparse_adam: it wants sparse gradients; add model=additive model.sparse=true, or choose optim=adam"
    if is_sparse and optimizer not in SPARSE:
        yield f"model.sparse: {optimizer} takes no sparse gradients; choose optim=sparse_adam, sgd or adagrad, or model.sparse=false"
    if is_sparse and not _is_reverse(config):
        yield "model.sparse: sparse gradients come from reverse mode alone; set model.sparse=false, or gradient=reverse"
    if is_sparse and optimizer in SPARSE and any(config["optim"].get(key) for key in ("weight_decay", "fused")):
        yield "optim: sparse gradients go with weight_decay=0 and without fused=true; set optim.weight_decay=0 optim.fused=null"


def _is_reverse(config: Node) -> bool:
    """Whether gradients come from a backward pass."""
    return str((config.get("gradient") or {}).get("_target_", ".Reverse")).endswith(".Reverse")


def _cycled_momentum(config: Node) -> Iterator[str]:
    """One-cycle moves the momentum too, where the optimizer has one."""
    optim, scheduler = config["optim"], config.get("scheduler") or {}
    has_momentum = bool({"momentum", "betas"} & optim.keys()) and not str(optim["_target_"]).endswith(".MuonAndAdamW")
    if scheduler.get("cycle_momentum") is True and not has_momentum:
        yield f"scheduler=one_cycle: {optim['_target_']} has no momentum to cycle; set scheduler.cycle_momentum=false"


def _parameter_groups(optim: Node) -> Iterator[str]:
    """Groups of parameters: what chooses their members, and arguments of the optimizer."""
    groups = optim.get("_groups_") or {}
    if not isinstance(groups, dict) or not all(isinstance(group, dict) for group in groups.values()):
        yield f"optim._groups_: write NAME: {{match: PATTERN, lr: ...}} for each group; received {groups!r}"
        return
    known = [*(key for key in optim if not key.startswith("_")), *GROUP_KEYS]
    for name, group in groups.items():
        if not {"match", "ndim"} & group.keys():
            yield f"optim._groups_.{name}: must say its parameters by match (a pattern in their names) or ndim (dimensions at most)"
        for key in group.keys() - set(known):
            yield f"optim._groups_.{name}.{key}: {optim['_target_']} has no argument {key!r}{did_you_mean(key, known)}"
        try:
            re.compile(str(group.get("match", "")))
        except re.error as error:
            yield f"optim._groups_.{name}.match: {group['match']!r} is no regular expression: {error}"


def _parts(group: Any) -> list[Node]:
    """The nodes of a group: itself where one option is chosen, its keys' values where several are."""
    if not isinstance(group, dict):
        return []
    return [group] if "_target_" in group else [node for node in group.values() if isinstance(node, dict)]


def _options(group: str, fact: str, data: Node, folders: Sequence[Path]) -> list[str]:
    """The options of a group that say they accept a fact, and refuse no other one, those that a task or the defaults pick first."""
    fitting = []
    for file in sorted(f for folder in folders for f in (folder / group).glob("*.yaml")):
        parts = _parts(yaml.safe_load(file.read_text(encoding="utf-8")))
        accepted = [node.get("_accepts_") or {} for node in parts]
        fits = all(data.get(f) is None or data[f] in kinds for facts in accepted for f, kinds in facts.items())
        if fits and any(fact in facts for facts in accepted):
            fitting.append(file.stem)
    files = [file for folder in folders for file in (folder / "config.yaml", *(folder / "task").glob("*.yaml"))]
    text = "\n".join(file.read_text(encoding="utf-8") for file in files if file.is_file())
    picked = rf"^  - (?:override /{group}@\S+|{group}:) "
    return sorted(fitting, key=lambda option: re.search(rf"{picked}{option}$", text, re.MULTILINE) is None)


def _objective(config: Node) -> Iterator[str]:
    """The monitored value must be one that is logged, and its direction the metric's own."""
    objective = config.get("objective")
    if not isinstance(objective, dict) or not isinstance(objective.get("monitor"), str):
        yield f"objective.monitor: must be a logged value such as loss/val; received {objective!r}"
        return
    for key in objective.keys() - {"monitor", "mode"}:
        yield f"objective.{key}: there is no such setting{did_you_mean(key, ('monitor', 'mode'))}"
    nodes = {k: m for k, m in (config.get("metrics") or {}).items() if isinstance(m, dict)}
    metrics = {k: m for k, m in nodes.items() if is_meant(m, config["data"])}
    logged: dict[str, Node | None] = {f"loss/{split}": None for split in ("train", "val")}
    logged |= {f"{k}/{s}": m for k, m in metrics.items() for s in m.get("_splits_", ("train", "val")) if s != "test"}
    monitor = objective["monitor"]
    callbacks = {f"callbacks.{k}.monitor": c for k, c in (config.get("callbacks") or {}).items() if isinstance(c, dict)}
    watched = {"objective.monitor": monitor} | {k: c["monitor"] for k, c in callbacks.items() if c.get("monitor")}
    for key, value in watched.items():
        if value not in logged and (key == "objective.monitor" or value != monitor):
            names = ", ".join(sorted(logged))
            yield f"{key}: {value!r} is not logged while training{did_you_mean(value, logged)}\n  (logged are: {names})"
    if monitor not in logged:
        return
    higher: Any = False
    if (metric := logged[monitor]) is not None:
        definition = find(str(metric.get("_target_")))
        higher = attribute(definition, "higher_is_better") if isinstance(definition, Definition) else None
    right = {True: "max", False: "min"}.get(higher) if isinstance(higher, bool) else None
    if right and objective.get("mode") in CHOICES["objective.mode"] and objective["mode"] != right:
        better = "higher" if right == "max" else "lower"
        yield f"objective.mode: {better} is better for {monitor}, so mode must be {right}; received {objective['mode']!r}"


def _combinations(config: Node) -> Iterator[str]:
    """Settings that are right each and wrong together."""
    data, trainer = config["data"], config["trainer"]
    held_out = [data.get("val_fraction") if data.get("folds") is None else 0.0, data.get("test_fraction")]
    if all(isinstance(f, int | float) for f in held_out) and sum(held_out) >= 1:
        yield f"data.val_fraction + data.test_fraction: nothing is left to train on; they sum to {sum(held_out):g}"
    last = trainer.get("max_epochs")
    if not isinstance(last, int) or last < 1:
        last = math.inf
    if (trainer.get("min_epochs") or 0) > last:
        yield f"trainer.min_epochs: must not exceed trainer.max_epochs={last}; received {trainer['min_epochs']}"
    if (every := trainer.get("check_val_every_n_epoch") or 1) > last:
        yield f"trainer.check_val_every_n_epoch: no validation would come within {last} epochs; received {every}"
    for name, callback in (config.get("callbacks") or {}).items():
        several = isinstance(callback, dict) and callback.get("save_top_k") not in (None, 0, 1)
        if several and "{" not in str(callback.get("filename")):
            yield (
                f"callbacks.{name}.save_top_k: several files need names that differ; "
                f"set {override_text(f'callbacks.{name}.filename', 'best-{epoch:03d}')} too"
            )


def _folds(data: Node) -> Iterator[str]:
    """Which part of the training rows is the validation split, of data that can be cut so."""
    folds, number = data.get("folds"), data.get("fold")
    if folds is None:
        if number:
            yield f"data.fold: says which of data.folds parts is the validation split; set data.folds too; received {number}"
        return
    definition = find(str(data.get("_target_")))
    reason = attribute(definition, "no_folds") if isinstance(definition, Definition) else None
    if isinstance(reason, str) and reason:
        yield f"data.folds: {reason}; leave it at null"
    elif isinstance(folds, int) and isinstance(number, int) and number >= folds >= 2:
        yield f"data.fold: must be from 0 to {folds - 1} with data.folds={folds}; received {number}"


def _processes(config: Node) -> Iterator[str]:
    """Several processes: what started them, what the trainer is told, and what they cannot do together."""
    here, trainer = ranks.place(), config["trainer"]
    devices, machines = trainer.get("devices"), trainer.get("num_nodes", 1)
    number = len(devices) if isinstance(devices, list) else devices
    if here.launcher:
        yield from _mismatches(here, trainer, number)
    if not here.launcher and number in (1, "1", 0) and machines in (1, "auto"):
        return
    together = {str(node.get("_target_")).rpartition(".")[2] for node in _parts(config.get("callbacks"))}
    if "GoBack" in together:
        yield "callbacks.go_back: goes with one process; leave it out, and resume a run that diverged with a lower rate"
    if str(config["optim"].get("_target_")).endswith(".LBFGS"):
        yield "optim=lbfgs: its search along a line needs the loss of all data in one process; set trainer.devices=1"
    if config["stages"] == ["study"]:
        yield "stages: a study is done by one process; set trainer.devices=1"
    finders = [stage for stage in config["stages"] if stage in FINDERS]
    if finders and (here.world > 1 or _is_several(number) or _is_several(machines)):
        names = f"{' and '.join(finders)} {'tries' if len(finders) == 1 else 'try'}"
        yield f"stages: {names} steps of one process; run it alone with trainer.devices=1, and train with what it finds"
    is_sharded = target_of(trainer.get("strategy")).endswith((".FullySharded", ".ModelParallelStrategy"))
    if is_sharded and (found := together & WANT_WHOLE_WEIGHTS):
        names = " and ".join(sorted(found))
        yield f"trainer=fsdp: {names} among the callbacks wants whole weights in a process; leave it out, or take trainer=ddp"


def _is_several(number: Any) -> bool:
    """Whether a number of devices or machines is above one; what `auto` comes to is known later."""
    return str(number).isdigit() and int(number) > 1


def _mismatches(here: ranks.Place, trainer: Node, number: Any) -> Iterator[str]:
    """What started the processes, and the trainer, must mean the same number of them."""
    started = f"{here.launcher} started {here.world} processes, {here.local_world} on this machine"
    if here.world % here.local_world:
        yield f"{here.launcher}: machines must have equally many processes; this one has {here.local_world} of {here.world}"
    elif number in (1, "1") and here.local_world > 1 and trainer.get("strategy") == "auto":
        yield f"trainer.devices: {started}, and each would train alone; add trainer=ddp, or start one by python train.py"
    elif isinstance(number, int) and number > 0 and number != here.local_world:
        yield f"trainer.devices: {started}; set trainer.devices=auto or {here.local_world}; received {number}"
    machines = trainer.get("num_nodes", 1)
    if isinstance(machines, int) and machines != max(here.world // here.local_world, 1):
        yield f"trainer.num_nodes: {started}; set trainer.num_nodes=auto; received {machines}"


def _loggers(loggers: Node) -> Iterator[str]:
    """Loggers whose package is not there, and passwords where they would be saved."""
    for name, node in loggers.items():
        definition = find(str(node.get("_target_"))) if isinstance(node, dict) else None
        if not isinstance(definition, Definition):
            continue
        yield from _missing_package(definition, f"logger={name}")
        for key, value in node.items():
            if isinstance(value, str) and PASSWORD.search(value):
                yield f"logger.{name}.{key}: has a password in it, which config.yaml would keep; give it by the environment"


def _strategy(config: Node, choices: dict[str, Any]) -> Iterator[str]:
    """A strategy whose package is not there, and what its checkpoints do not go with."""
    strategy = config["trainer"].get("strategy")
    definition = find(target_of(strategy))
    if isinstance(definition, Definition):
        yield from _missing_package(definition, f"trainer={choices.get('trainer', 'auto')}")
    points = [node for node in _parts(config.get("callbacks")) if str(node.get("_target_")).endswith(".ResumePoints")]
    is_deepspeed = target_of(strategy).endswith((".DeepSpeed", ".DeepSpeedStrategy"))
    if is_deepspeed and (received := config["trainer"].get("accelerator")) not in ("gpu", "cuda"):
        yield f"trainer.accelerator: DeepSpeed trains on GPUs of NVIDIA alone; set it to gpu; received {received!r}"
    if points and is_deepspeed:
        yield (
            "callbacks.resume_points: DeepSpeed saves in a format of its own, from which a run cannot go on with the same bits; leave it "
            "out, as in '~callbacks.resume_points', or take trainer=fsdp"
        )
    if points and points[0].get("background") and isinstance(strategy, dict) and strategy.get("sharded_checkpoints"):
        yield (
            "callbacks.resume_points.background: all processes write a checkpoint in parts together, and none in the background; "
            "set it to false, or trainer.strategy.sharded_checkpoints=false"
        )


def _missing_package(definition: Definition, choice: str) -> Iterator[str]:
    """That the package which a class names, and needs, is not installed."""
    package, extra = attribute(definition, "package"), attribute(definition, "extra")
    if isinstance(package, str) and package and not _is_installed(package):
        yield f"{choice}: the package {package} is not installed; {install_command(str(extra))}"


def _is_installed(package: str) -> bool:
    """Whether a package can be imported; folders of its name, such as wandb/ beside the runs, are none."""
    spec = importlib.machinery.PathFinder.find_spec(package)
    return spec is not None and spec.origin is not None


def _study(config: Node) -> Iterator[str]:
    """A study is a stage of its own."""
    is_stage = "study" in config["stages"]
    if is_stage and (config["stages"] != ["study"] or not config.get("study")):
        yield "stages: a study is done alone and by its name, as in study=worked_function"
    if config.get("study") and not is_stage:
        yield f"stages: study goes with stages=[study], which is what study=NAME sets; received {config['stages']!r}"


def _finders(config: Node) -> Iterator[str]:
    """A rate can be looked for where there is one, and it is what the steps depend on."""
    optim = config["optim"]
    name = str(optim.get("_target_")).rpartition(".")[2]
    if "lr_find" in config["stages"]:
        if not isinstance(optim.get("lr"), int | float):
            yield f"stages: lr_find looks for optim.lr, which {name} does not have; choose another optimizer, or leave lr_find out"
        elif name == "Rprop":
            yield "stages: lr_find tells nothing of Rprop, whose rate is that of its first step alone; leave it out"
        yield from _range_of_rates(config["lr_find"])


def _range_of_rates(finder: Node) -> Iterator[str]:
    """Rates must rise, and a loss that has diverged is above its least; as the class itself says, but before there is a run."""
    low, high, threshold = (finder.get(key) for key in ("min_lr", "max_lr", "threshold"))
    if isinstance(low, int | float) and isinstance(high, int | float) and not 0 < low < high:
        yield f"lr_find.min_lr: must be above 0 and below lr_find.max_lr; received {low:g} and {high:g}"
    if isinstance(threshold, int | float) and threshold <= 1:
        yield f"lr_find.threshold: must be above 1; received {threshold:g}"


def _source(config: Node) -> Iterator[str]:
    """The run that first weights are taken from."""
    source, partial = config.get("init_from"), config.get("init_partial")
    if not isinstance(partial, bool):
        yield f"init_partial: must be true or false; received {partial!r}"
    if source is None:
        return
    if source == "":
        yield "init_from: names nothing; give a run's folder or a checkpoint, as in init_from=outputs/first, or leave it out"
    elif not isinstance(source, str) or not Path(source).exists():
        yield f"init_from: {source} does not exist  (working directory: {Path.cwd()})"
    elif Path(source).is_dir() and not [*Path(source, "checkpoints").glob("*.ckpt"), *Path(source).glob(INDEX)]:
        yield f"init_from: {source} is no folder of a run that kept its weights, it has no checkpoints/*.ckpt"


def missing_files(data: Node) -> Iterator[str]:
    """Files of the data that are not there."""
    for key, value in data.items():
        if not (key == "path" or key.endswith("_path")) or not isinstance(value, str) or Path(value).exists():
            continue
        if "num_streams" not in data or not glob.glob(
            value, recursive=True
        ):  # data that are streamed may have a pattern
            yield f"data.{key}: {value} does not exist  (working directory: {Path.cwd()})"
