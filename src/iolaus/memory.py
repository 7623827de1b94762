"""What a training step needs with each policy of activation checkpointing: memory and compute, counted without allocating."""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from omegaconf import DictConfig, open_dict
from torch._subclasses.fake_tensor import FakeTensorMode
from tqdm import tqdm

from iolaus.build import build_task, fill_facts, make
from iolaus.check import plain
from iolaus.errors import UserError
from iolaus.functional.accounting import Account, AnyNumber, account, optimizer_state
from iolaus.functional.gpu_kernels import gpu_kernels
from iolaus.model.layers.checkpointing import POLICIES, blocks
from iolaus.strict_json import to_json
from iolaus.task.base import Task

# The precisions of Lightning: what weights are, and what autocast computes in.
TRUE = {"64": torch.float64, "32": torch.float32, "16": torch.float16, "bf16": torch.bfloat16}
PRECISIONS: dict[str, tuple[torch.dtype, torch.dtype | None]] = {
    **{f"{name}-true": (dtype, None) for name, dtype in TRUE.items()},
    **{name: (TRUE[name], None) for name in ("64", "32")},
    **{name: (torch.float32, TRUE[name.partition("-")[0]]) for name in ("16", "bf16", "16-mixed", "bf16-mixed")},
}
# Operations whose results no shape tells, in words.
UNTOLD = {
    "nonzero": "how many values it picks depends on the values, as the pairs of BPR do on the clicks",
    "_ctc_loss": "what CTC keeps depends on the lengths of the transcripts",
    "_pack_padded_sequence": "the size of a packed batch depends on the lengths of its sequences",
}
MOST_BATCHES = 64  # of the data that are looked at for the largest one
Shape = tuple[tuple[int, ...], torch.dtype]  # of a part of a batch


@dataclass(frozen=True)
class Need:
    """What a step needs with one policy, in bytes and floating-point operations; the fields are rows of the table.

    Args:
        parameters: weights and buffers.
        gradients: of the weights that are trained.
        optimizer_state: after its first steps; of LBFGS at most.
        activations: that the forward pass keeps, without weights and inputs.
        activations_of_blocks: of these, what the blocks added.
        peak_in_backward: activations and gradients at most at a time.
        total: at that time, everything.
        flops: of a step, forward and backward.
        extra_flops: in percent of a step without checkpointing.
        extra_flops_of_blocks: the same in percent of what the blocks compute.
    """

    parameters: int
    gradients: int
    optimizer_state: int
    activations: int
    activations_of_blocks: int | None
    peak_in_backward: int
    total: int
    flops: int
    extra_flops: float
    extra_flops_of_blocks: float | None


def memory(config: DictConfig, reads_data: bool, as_json: bool = False) -> str:
    """A table of what a step needs, a column for each policy that the model has; or the same as JSON.

    Args:
        config: composed and checked; facts of the data that are null are set here.
        reads_data: whether only the data tell what a batch looks like.
        as_json: numbers of bytes and operations.

    Raises:
        UserError: for a model that does not take the batch, or whose operations cannot be followed without values.
    """
    shapes = _read(config) if reads_data else None
    settings = plain(config)
    needs, notes = needed(settings, shapes)
    chosen = settings["model"].get("activation_checkpointing", "none")
    if as_json:
        columns = {policy: asdict(need) for policy, need in needs.items()}
        return to_json({"name": settings["name"], "chosen": chosen, "policies": columns, "notes": notes}, indent=2)
    return "\n".join([_table(needs, chosen), "", *notes])


def needed(settings: dict[str, Any], shapes: list[Shape] | None = None) -> tuple[dict[str, Need], list[str]]:
    """What a step needs by policy, and what there is to say about it.

    Args:
        settings: resolved and plain.
        shapes: of a batch's parts; None: a batch without content, made from the facts.
    """
    device = "a processor" if settings["trainer"].get("accelerator") == "cpu" else "a GPU"
    model = settings["model"]
    chosen = model.get("activation_checkpointing", "none")
    with _without_values(settings["trainer"]) as dtype:
        plain_step = _count(settings, "none", shapes)
        task, batch = plain_step.task, plain_step.batch
        needs = {"none": _need(plain_step, plain_step)}
        has_blocks = chosen != "none" or any(blocks(task.model))  # a choice without blocks is refused by the model
        others = list(POLICIES) if "activation_checkpointing" in model and has_blocks else []
        for policy in tqdm(others, "policies", leave=False, disable=None, delay=2):
            needs[policy] = _need(_count(settings, policy, shapes), plain_step)
    optimizer = settings["optim"]["_target_"].rpartition(".")[2]
    parts = " and ".join(str(list(part.shape)) for part in batch[:-1])
    notes = [
        f"{sum(p.numel() for p in task.parameters()):,} parameters; inputs {parts}; {settings['trainer']['precision']}; {optimizer}; "
        f"kernels of {device}"
    ]
    if plain_step.is_upper_bound:
        notes.append(f"optimizer state: at most, once the history of {optimizer} is full")
    gradient = (settings.get("gradient") or {}).get("_target_", "Reverse").rpartition(".")[2]
    if gradient != "Reverse":
        notes.append(f"counted with a backward pass; {gradient} has none, and keeps nothing of the forward pass")
    return needs, notes + _rule_of_thumb(settings, batch, dtype)


def step_bytes(settings: dict[str, Any], shapes: list[Shape]) -> int:
    """What a step takes at its peak, in bytes, with the policy that the model has.

    Args:
        settings: resolved and plain.
        shapes: of a batch's parts.

    Raises:
        UserError: for a model whose operations cannot be followed without values.
    """
    with _without_values(settings["trainer"]):
        counted = _count(settings, settings["model"].get("activation_checkpointing", "none"), shapes)
        return _need(counted, counted).total


def _read(config: DictConfig) -> list[Shape]:
    """Set the facts that only the data tell; the shapes of the largest of the first batches."""
    data = make(plain(config.data), "data")
    data.prepare_data()
    data.setup()
    with open_dict(config):
        fill_facts(config, data)
        config.data.input_shape = list(data.input_shape) if data.input_shape is not None else None
    batches = [
        [(tuple(part.shape), part.dtype) for part in batch]
        for _, batch in zip(range(MOST_BATCHES), data.train_dataloader(), strict=False)
    ]
    if not batches:
        raise UserError("data: the train split has no batch")
    return max(batches, key=lambda batch: sum(torch.Size(shape).numel() for shape, _ in batch))


def _precision(trainer: dict[str, Any]) -> tuple[torch.dtype, torch.dtype | None]:
    """What weights are, and what autocast computes in."""
    precision = str(trainer.get("precision") or "32-true")
    if precision not in PRECISIONS:
        raise UserError(f"trainer.precision: memory is counted for {', '.join(PRECISIONS)}; received {precision}")
    return PRECISIONS[precision]


@contextlib.contextmanager
def _without_values(trainer: dict[str, Any]) -> Iterator[torch.dtype]:
    """Tensors have shapes and types and no values, weights have the trainer's precision; gives the type that is computed in."""
    weights, computed = _precision(trainer)
    before = torch.get_default_dtype()
    torch.set_default_dtype(weights)
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(_quiet())
            stack.enter_context(FakeTensorMode())
            if trainer.get("accelerator") != "cpu":
                stack.enter_context(gpu_kernels())
            stack.enter_context(torch.random.fork_rng())
            yield computed or weights
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Shapes that do not fit are told in our words, without torch's traceback in its log."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


@dataclass(frozen=True)
class Counted:
    """A task after a step that was counted, its batch, and what else there was to count."""

    task: Task
    batch: list[torch.Tensor]
    step: Account
    optimizer_state: int
    is_upper_bound: bool  # of the optimizer's state
    accumulates: bool  # gradients of earlier batches are there when the step begins


def _count(settings: dict[str, Any], policy: str, shapes: list[Shape] | None) -> Counted:
    """Build the task with a policy, and count a step."""
    model, loss, optimizer = (settings[key]["_target_"].rpartition(".")[2] for key in ("model", "loss", "optim"))
    with _told(f"model: {model}"), AnyNumber():
        task = _task(settings, policy)
    made = task.configure_optimizers()  # which freezes what is to be frozen
    task.train()
    task.on_train_epoch_start()
    accumulates = settings["trainer"].get("accumulate_grad_batches", 1) > 1
    if accumulates:
        for parameter in _trained(task):
            parameter.grad = torch.zeros_like(parameter)
    _, computed = _precision(settings["trainer"])
    with _told(f"model: {model}", f" with loss {loss}"):
        batch = _batch(task, settings["data"]["batch_size"], shapes)

        def step() -> torch.Tensor:
            with torch.autocast("cpu", computed, enabled=computed is not None):
                return task.step(batch)[0]

        found = blocks(task.model) if "activation_checkpointing" in settings["model"] else ()
        counted = account(task, found, batch, step)
    with _told(f"optim: {optimizer}"):
        state, is_upper_bound = optimizer_state(made)
    return Counted(task, batch, counted, state, is_upper_bound, accumulates)


def _need(counted: Counted, reference: Counted) -> Need:
    """A row for each quantity, operations relative to a step without checkpointing."""
    task, step = counted.task, counted.step
    gradients = _size([p.grad for p in _trained(task) if p.grad is not None])
    weights = _size([*task.parameters(), *task.buffers()])
    peak = step.peak + (gradients if counted.accumulates else 0)
    extra = 100 * (step.flops - reference.step.flops)
    own = reference.step.flops_of_blocks
    return Need(
        parameters=weights,
        gradients=gradients,
        optimizer_state=counted.optimizer_state,
        activations=step.kept,
        activations_of_blocks=step.kept_in_blocks if own else None,
        peak_in_backward=peak,
        total=weights + counted.optimizer_state + _size(counted.batch) + max(peak, gradients),
        flops=step.flops,
        extra_flops=extra / max(reference.step.flops, 1),
        extra_flops_of_blocks=extra / own if own else None,
    )


def _trained(task: Task) -> list[torch.nn.Parameter]:
    return [parameter for parameter in task.parameters() if parameter.requires_grad]


def _task(settings: dict[str, Any], policy: str) -> Task:
    """The task without metrics and schedule, whose model has this policy, and first weights as its layers draw them."""
    model = dict(settings["model"])
    if "activation_checkpointing" in model:
        model["activation_checkpointing"] = policy
    if "pretrained" in model:
        model["pretrained"] = None
    return build_task(settings | {"model": model, "metrics": {}, "scheduler": None, "init": None})


def _batch(task: Task, size: int, shapes: list[Shape] | None) -> list[torch.Tensor]:
    if shapes is None:
        return list(task.example(size))
    return [torch.zeros(shape, dtype=torch.get_default_dtype() if d.is_floating_point else d) for shape, d in shapes]


@contextlib.contextmanager
def _told(what: str, more: str = "") -> Iterator[None]:
    """Errors of torch as the user's, in a line."""
    try:
        yield
    except (UserError, RuntimeError, ValueError, TypeError, IndexError, AttributeError, AssertionError) as error:
        if (operation := getattr(error.__cause__ or error, "func", None)) is not None:
            name = str(operation).split(".")[1]
            why = UNTOLD.get(name, "the size of a result depends on the values")
            raise UserError(
                f"{what}{more} cannot be counted: {why} ({name}), and memory is counted from shapes alone; train an epoch with "
                "callbacks=[default,throughput], which shows its memory in TensorBoard"
            ) from error
        if isinstance(error, UserError):
            raise
        raise UserError(f"{what} cannot take a batch of the data: {' '.join(str(error).split())[:300]}") from error


def _size(tensors: list[torch.Tensor]) -> int:
    """Bytes; of a sparse tensor as if it were not."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _rule_of_thumb(settings: dict[str, Any], batch: list[torch.Tensor], dtype: torch.dtype) -> list[str]:
    """For transformers of tokens, what the paper on ZeRO reckons with."""
    hidden_dim, num_layers = (settings["model"].get(key) for key in ("hidden_dim", "num_layers"))
    if (
        settings["data"]["input_kind"] != "tokens"
        or not hidden_dim
        or not num_layers
        or "num_heads" not in settings["model"]
    ):
        return []
    inputs = hidden_dim * num_layers * batch[0].numel() * dtype.itemsize
    return [
        f"rule of thumb for the blocks, 12 x hidden x batch x length x layers x {dtype.itemsize} bytes: {_bytes(12 * inputs)}; "
        f"their inputs alone {_bytes(inputs)}  (ZeRO, https://arxiv.org/abs/1910.02054)"
    ]


ROWS = {
    "parameters": "parameters",
    "gradients": "gradients",
    "optimizer_state": "optimizer state",
    "activations": "activations kept",
    "activations_of_blocks": "  by the blocks",
    "peak_in_backward": "peak in backward",
    "total": "total at the peak",
    "flops": "FLOPs of a step",
    "extra_flops": "extra FLOPs",
    "extra_flops_of_blocks": "  of the blocks'",
}


def _table(needs: dict[str, Need], chosen: str) -> str:
    heads = ["", *(f"{policy} *" if policy == chosen and len(needs) > 1 else policy for policy in needs)]
    columns = [asdict(need) for need in needs.values()]
    lines = [heads]
    for key, label in ROWS.items():
        values = [column[key] for column in columns]
        if values[0] is None or (key.startswith("extra") and len(values) == 1):
            continue
        lines.append([label, *(_shown(key, value) for value in values)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    text = [
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    ]
    return "\n".join([*text, "", "* chosen by model.activation_checkpointing"] if len(needs) > 1 else text)


def _shown(key: str, value: float) -> str:
    if key.startswith("extra"):
        return f"{value:.1f} %"
    return _scaled(value, "") if key == "flops" else _bytes(value)


def _bytes(number: float) -> str:
    return _scaled(number, "B")


def _scaled(number: float, unit: str) -> str:
    """Three digits and a prefix, in steps of a thousand."""
    for prefix in ("", "k", "M", "G", "T", "P"):
        if abs(number) < 999.5 or prefix == "P":
            break
        number /= 1000
    return f"{number:.3g} {prefix}{unit}".rstrip()
