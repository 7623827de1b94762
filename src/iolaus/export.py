"""A run's model as a file for other programs: ONNX, a program of torch, or weights alone, with what its numbers mean beside it."""

import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from iolaus.commands import install_command
from iolaus.errors import UserError, did_you_mean
from iolaus.finished import Finished, restored
from iolaus.predict import PARTIAL, check_output
from iolaus.runs import installed, read_results
from iolaus.strict_json import to_json

# What each format needs besides torch.
FORMATS = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "pt2": (), "safetensors": ("safetensors",)}
# Facts of the data that a stranger needs, where the data have them.
FACTS = (
    "input_kind",
    "input_shape",
    "target_kind",
    "num_classes",
    "class_names",
    "vocab_size",
    "characters",
    "rate_hz",
    "size",
    "channels",
    "transforms",
    "source_tokens",
    "target_tokens",
    "columns",
    "target",
)
MOST_NUMBERS = 5_000  # of the example in the description


def export(
    folder: Path, overrides: list[str], form: str | None, output: Path | None, checkpoint: str, allow: list[str]
) -> None:
    """Write a run's model and its description, FILE.json; neither is left where the file does not give what the run gives.

    Args:
        folder: the run's.
        overrides: settings KEY=VALUE to change.
        form: onnx, pt2 or safetensors; None: as `output` ends, or onnx.
        output: the file; None: model.FORMAT in the run's folder.
        checkpoint: best, last, previous, or a file.
        allow: packages of one's own that the settings may name.

    Raises:
        UserError: for a format that is unknown or whose packages are missing, a task without a graph, a network that cannot be one, and
            a file that differs from the run by more than 1e-5 of an output's largest value.
    """
    form = form or (output.suffix[1:] if output is not None else "onnx")
    if form not in FORMATS:
        known = ", ".join(FORMATS)
        raise UserError(f"--format: there is no format {form!r}{did_you_mean(form, FORMATS)}  (there are: {known})")
    if missing := [name for name in FORMATS[form] if find_spec(name) is None]:
        raise UserError(f"--format {form}: needs {', '.join(missing)}: {install_command('export')}")
    output = output or folder / f"model.{form}"
    if output.parent != folder:
        check_output(output, (f".{form}",))
    run = restored(folder, overrides, checkpoint, allow)
    run.task.cpu()
    try:
        # in a folder beside it, by its own name, since a large ONNX model names the file of its weights
        with tempfile.TemporaryDirectory(prefix=f"{output.name}{PARTIAL}-", dir=output.parent) as place:
            made = Path(place, output.name)
            told = _write_weights(run, made) if form == "safetensors" else _write_graph(run, made, form)
            parts = sorted(file.name for file in made.parent.iterdir() if file != made)
            description = {"file": output.name, "needs": parts, "format": form} | told | _facts(run, folder)
            text = to_json(description, indent=1, ensure_ascii=False, default=str)
            for name in [*parts, output.name]:
                made.with_name(name).replace(output.with_name(name))
            if form == "onnx" and not parts:
                output.with_name(f"{output.name}.data").unlink(
                    missing_ok=True
                )  # the weights of a larger one, which nothing reads any more
        output.with_name(output.name + ".json").write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"--output: {output}: {error.strerror}") from None
    print(f"{output}: {output.stat().st_size:,} bytes; {told['verified']['what']}")
    for name in parts:
        file = output.with_name(name)
        print(f"{file}: {file.stat().st_size:,} bytes, its weights, without which it cannot be read")
    print(f"{output}.json: what its inputs and outputs are")


def _write_graph(run: Finished, path: Path, form: str) -> dict[str, Any]:
    """Write a graph and compare it with the task; what there is to know of it."""
    from iolaus import portable

    graph = run.task.graph()
    batches, source = portable.examples(run.settings, run.task, graph, run.data)
    found = portable.traced(run.task, graph, batches[-1])
    fixed = sorted({n for names in graph.free.values() for n in names.values()} - _names(found.dimensions))
    if fixed:  # what was cut is whole again
        batches[1] = tuple(part[:3] for part in batches[-1])
    write, load = getattr(portable, f"write_{form}"), getattr(portable, f"run_{form}")
    write(found, path)
    runs = load(path, len(found.inputs))
    difference = portable.largest_difference(run.task, runs, batches)
    if difference > portable.TOLERANCE:
        raise UserError(
            f"export: the {form} file differs from the run by {difference:.3g} of an output's largest value, more than "
            f"{portable.TOLERANCE:g}, and was removed; --format safetensors writes the weights, bit for bit"
        )
    sizes = ", ".join(map(str, portable.SIZES))
    what = f"equal to the run within {difference:.1e} of the largest value, for batches of {sizes} {source}"
    expected = runs(*batches[0])
    return {
        "inputs": [
            _tensor(name, part, names)
            for name, part, names in zip(found.inputs, batches[0], found.dimensions, strict=True)
        ],
        "outputs": [
            _tensor(name, part, dict(enumerate(sizes)))
            for name, part, sizes in zip(graph.outputs, expected, found.sizes, strict=True)
        ],
        "use": graph.use,
        "largest_sizes": {name: most for name, most in graph.most.items() if name not in fixed},
        "verified": {"what": what, "largest_difference": difference, "batch_sizes": list(portable.SIZES)},
        "example": _example(
            [*zip(found.inputs, batches[0], strict=True)], [*zip(graph.outputs, expected, strict=True)]
        ),
    }


def _names(dimensions: list[dict[int, str]]) -> set[str]:
    return {name for names in dimensions for name in names.values()}


def _tensor(name: str, part: Any, names: dict[int, Any]) -> dict[str, Any]:
    """An input or output; dimensions of any size by name."""
    return {
        "name": name,
        "dtype": str(part.dtype).removeprefix("torch."),
        "shape": [names.get(number, size) for number, size in enumerate(part.shape)],
    }


def _example(inputs: list[tuple[str, Any]], outputs: list[tuple[str, Any]]) -> dict[str, Any] | None:
    """One batch and what the file gives for it, so that whoever has it can see that it works; None where it would be long."""
    if sum(part.numel() for _, part in inputs + outputs) > MOST_NUMBERS:
        return None
    return {name: part.tolist() for name, part in inputs + outputs}


def _write_weights(run: Finished, path: Path) -> dict[str, Any]:
    """Write weights and compare them bit for bit."""
    from iolaus import portable

    shared = portable.write_safetensors(run.task, path)
    if not portable.is_equal(run.task, path, shared):
        raise UserError(f"export: {path.name} read back is not what was written; look at the disk")
    what = "equal to the run's weights bit for bit"
    use = "weights by the names that the run's modules have: model.* the network, standardize_* mean and deviation"
    return {"use": use, "shared": shared, "verified": {"what": what, "largest_difference": 0.0}}


def _facts(run: Finished, folder: Path) -> dict[str, Any]:
    """What the numbers mean, and where the model is from."""
    results = read_results(folder)
    data = run.settings["data"]
    known = {name: value for name in FACTS if (value := getattr(run.data, name, data.get(name))) not in (None, [], ())}
    standardised = {
        name: {"mean": layer.mean.tolist(), "deviation": layer.deviation.tolist()}
        for name, layer in run.task.named_children()
        if type(layer).__name__ == "Standardize"
    }
    packages = ("iolaus", "torch", *(name for names in FORMATS.values() for name in names))
    return {
        "data": known | dict(_plain_items(run.data.state_dict())),
        "standardisation": {"where": "a part of the graph: inputs and outputs are not standardised"} | standardised,
        "run": {
            "folder": str(folder),
            "checkpoint": run.checkpoint.name,
            "name": run.settings.get("name"),
            **{key: results.get(key) for key in ("task", "command", "seed", "best_epoch", "num_parameters", "git")},
            "metrics": results.get("metrics"),
        },
        "versions": results.get("versions"),
        "exported_by": {package: number for package in packages if (number := installed(package)) is not None},
        "settings": run.settings,
    }


def _plain_items(state: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """What the data module learned from the training data, but for tensors."""
    for key, value in state.items():
        if isinstance(value, dict):
            if inner := dict(_plain_items(value)):
                yield key, inner
        elif value is None or isinstance(value, str | int | float | bool | list | tuple):
            yield key, value
