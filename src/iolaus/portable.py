"""A task's predictions as a file for other programs, compared with the task itself. https://pytorch.org/docs/stable/export.html."""

import inspect
import logging
import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from iolaus.build import make
from iolaus.data.base import DataModule
from iolaus.errors import UserError
from iolaus.model.layers.checkpointing import plain_blocks
from iolaus.model.layers.scanned import scanned
from iolaus.task.base import Graph, Task

SIZES = (1, 3, 5)  # of the batches that are compared
TOLERANCE = 1e-5  # of the largest value of an output
ONE_FILE_BYTES = 1_900_000_000  # an ONNX file may have 2 GiB

Inputs = tuple[torch.Tensor, ...]


class Predictions(nn.Module):
    """What a task predicts for the inputs of a batch."""

    def __init__(self, task: Task):
        super().__init__()
        self.task = task

    def forward(self, *inputs: torch.Tensor) -> Any:
        """Predictions as tensors; see Task.graph."""
        return self.task.traceable(*inputs)


@dataclass(frozen=True)
class Traced:
    """A traced task.

    Args:
        program: torch's graph.
        graph: what it gives.
        inputs: names of its inputs.
        dimensions: of each input, the names of the dimensions of any size by their numbers.
        sizes: the shape of each output; what is of any size by name.
    """

    program: ExportedProgram
    graph: Graph
    inputs: list[str]
    dimensions: list[dict[int, str]]
    sizes: list[list[int | str]]


def examples(settings: dict[str, Any], task: Task, graph: Graph, learned: DataModule) -> tuple[list[Inputs], str]:
    """Inputs of 1, 3 and 5 samples, and where they are from: the run's data, or drawn where these are not there any more.

    Args:
        settings: of the run, resolved.
        task: that is exported.
        graph: what it gives.
        learned: the data module that knows what the training learned from the data: tables are encoded by that.

    Raises:
        UserError: where the data cannot be read, and are of a kind that cannot be drawn.
    """
    try:
        data = make(settings["data"], "data")
        if data.keeps_learned:
            data.load_state_dict(learned.state_dict())
        data.setup()
        split = next(name for name in ("test", "val", "train") if len(data.rows.get(name, ())) >= max(SIZES))
        batches = [data.some_batches(split, n, n, data.seed + n)[0][:-1] for n in SIZES]
        told = f"samples of the {split} split"
    except (UserError, StopIteration, OSError) as error:
        batches, told = [_drawn(task, n) for n in SIZES], "drawn at random, as the run's data are not there"
        if any(batch is None for batch in batches):
            raise UserError(f"export: the file is compared on the run's data, which are needed: {error}") from None
    batches = [tuple(part.cpu() for part in batch) for batch in batches]
    if len(batches[0]) == 1 and graph.free:  # windows, all of one length, of which a part will do too
        batches[1] = tuple(part[:, : -(-part.shape[1] // 2)] for part in batches[1])
    return batches, told


def _drawn(task: Task, n: int) -> Inputs | None:
    """Inputs that look like the training's: by its mean and deviation, or tokens; None for other kinds."""
    generator = torch.Generator().manual_seed(n)
    (example, *others) = task.example(n)[:-1]
    if others:
        return None
    layer = getattr(task, "standardize_input", None)
    if isinstance(layer, nn.Identity):
        tables = [part.num_embeddings for part in task.model.modules() if isinstance(part, nn.Embedding)]
        return (torch.randint(min(tables), example.shape, generator=generator),) if tables else None
    if layer is not None:
        noise = torch.randn(example.shape, generator=generator)
        return ((layer.mean.cpu() + layer.deviation.cpu() * noise).float(),)
    return (torch.randint(task.output_dim, example.shape, generator=generator),)  # type: ignore[call-overload]


def traced(task: Task, graph: Graph, example: Inputs) -> Traced:
    """Trace a task, with batches of any size; where a network needs its example's other sizes, these are kept.

    Raises:
        UserError: for a network that cannot be a graph.
    """
    names = list(inspect.signature(task.forward).parameters)[: len(example)]
    free = [{0: "batch"} | graph.free.get(name, {}) for name in names]
    problem: Exception | None = None
    for dimensions in [free] if all(len(f) == 1 for f in free) else [free, [{0: "batch"} for _ in names]]:
        try:
            with _tracing(task):
                shapes = tuple(dict.fromkeys(names, Dim.DYNAMIC) for names in dimensions)
                program = torch.export.export(Predictions(task), example, dynamic_shapes=(shapes,), strict=False)
            return Traced(program, graph, names, dimensions, _sizes(program, dimensions))
        except Exception as error:  # torch's tracer fails in many ways
            problem = problem or error
    raise UserError(
        f"export: {type(task.model).__name__} cannot be written as a graph: {_first_line(problem)}; --format safetensors writes its weights"
    ) from problem


def _sizes(program: ExportedProgram, dimensions: list[dict[int, str]]) -> list[list[int | str]]:
    """The shapes of the outputs; what is of any size by the names of the inputs' dimensions, as in num_samples//320."""
    nodes = {node.name: node for node in program.graph.nodes}
    names: dict[str, str] = {}
    for given, free in zip(program.graph_signature.user_inputs, dimensions, strict=True):
        shape = nodes[given].meta["val"].shape
        names |= {str(shape[number]): name for number, name in free.items()}

    def told(size: Any) -> int | str:
        return size if isinstance(size, int) else re.sub(r"[a-z]\w*", lambda m: names.get(m[0], m[0]), str(size))

    return [[told(size) for size in nodes[name].meta["val"].shape] for name in program.graph_signature.user_outputs]


@contextmanager
def _tracing(task: Task) -> Iterator[None]:
    """Fused paths, which graphs of other programs do not know, and remarks of the tracer are off."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(plain_blocks())
            stack.enter_context(scanned(task))
            stack.enter_context(_silent())
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def _silent() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _first_line(error: Exception | None) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__


def write_pt2(found: Traced, path: Path) -> None:
    """Write a program of torch."""
    with _silent():
        torch.export.save(found.program, path)


def run_pt2(path: Path, count: int) -> Callable[..., list[torch.Tensor]]:
    """What the file gives for inputs."""
    module = torch.export.load(path).module()
    return lambda *inputs: _listed(module(*inputs))


def write_onnx(found: Traced, path: Path) -> None:
    """Write an ONNX model, in one file where it is below 2 GB, else with its weights in FILE.data beside it, whose name it holds.

    Raises:
        UserError: for operations that ONNX does not have.
    """
    size = sum(t.numel() * t.element_size() for t in found.program.state_dict.values())
    try:
        with _silent(), torch.no_grad():
            torch.onnx.export(
                found.program,
                (),
                str(path),
                dynamo=True,
                external_data=size > ONE_FILE_BYTES,
                dynamic_shapes=(tuple(found.dimensions),),
                input_names=found.inputs,
                output_names=list(found.graph.outputs),
                verbose=False,
            )
    except Exception as error:  # torch's exporter fails in many ways
        reason = _first_line(error.__cause__ if isinstance(error.__cause__, Exception) else error)
        raise UserError(f"export: the model has no ONNX graph: {reason}; try --format pt2") from error


def run_onnx(path: Path, count: int) -> Callable[..., list[torch.Tensor]]:
    """What the file gives for inputs in onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]

    def run(*inputs: torch.Tensor) -> list[torch.Tensor]:
        given = {name: part.numpy() for name, part in zip(names, inputs, strict=True)}
        return [torch.from_numpy(part) for part in session.run(None, given)]

    return run


def largest_difference(task: Task, run: Callable[..., list[torch.Tensor]], batches: Sequence[Inputs]) -> float:
    """Between what a file and the task give, as a part of the largest value of an output; infinite for other shapes.

    Raises:
        UserError: where the file cannot be run on a batch.
    """
    worst = 0.0
    for batch in batches:
        with torch.no_grad():
            expected = _listed(task.traceable(*batch))
        try:
            with torch.no_grad():
                found = run(*batch)
        except Exception as error:
            raise UserError(
                f"export: the file does not take {[list(part.shape) for part in batch]}: {_first_line(error)}"
            ) from error
        if [part.shape for part in found] != [part.shape for part in expected]:
            return math.inf
        for one, other in zip(found, expected, strict=True):
            gap = (one.detach().double() - other.double()).abs().max() / other.double().abs().max().clamp_min(1e-30)
            worst = max(worst, float(gap.nan_to_num(math.inf)))
    return worst


def write_safetensors(task: Task, path: Path) -> dict[str, str]:
    """Write the weights and the numbers of the standardisation, each storage once.

    Returns:
        of weights that are shared and stand under another name, that name.
    """
    from safetensors.torch import save_file

    weights, first, shared = {}, dict[tuple[Any, ...], str](), {}
    for name, tensor in task.state_dict().items():
        place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype) if tensor.numel() else (name,)
        if place in first:
            shared[name] = first[place]
        else:
            first[place] = name
            weights[name] = tensor.detach().cpu().contiguous().clone()
    save_file(weights, path, metadata={"format": "pt"})
    return shared


def is_equal(task: Task, path: Path, shared: dict[str, str]) -> bool:
    """Whether every weight of the file has the task's bits."""
    from safetensors.torch import load_file

    found = load_file(path)
    return all(
        _bits_equal(tensor.detach().cpu().contiguous(), found[shared.get(name, name)])
        for name, tensor in task.state_dict().items()
    )


def _bits_equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    same = one.shape == other.shape and one.dtype == other.dtype
    return same and torch.equal(one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8))


def _listed(outputs: Any) -> list[torch.Tensor]:
    return list(outputs) if isinstance(outputs, tuple | list) else [outputs]
