"""A network as a list of layers, each any layer of torch.nn, with input sizes inferred from the data's shape."""

import inspect
from collections.abc import Sequence as Many
from typing import Any

import torch
from torch import nn

from iolaus.errors import did_you_mean
from iolaus.model.layers.checkpointing import Policy, checkpoint_blocks

# Arguments that are read off the shape that arrives, by the dimension they are the size of.
INFERRED = {
    **dict.fromkeys(["in_channels", "num_features", "num_channels"], 1),
    **dict.fromkeys(["in_features", "in1_features", "in2_features", "normalized_shape"], -1),
    **dict.fromkeys(["input_size", "d_model", "embed_dim"], -1),
}
# Layers that take several tensors get the same one for each.
INPUTS = {
    "Bilinear": 2,
    "MultiheadAttention": 3,
    "TransformerDecoderLayer": 2,
    "CosineSimilarity": 2,
    "PairwiseDistance": 2,
}
COMPOSITIONS = ("parallel", "residual", "repeat", "unpooled")
JOINS = ("concat", "sum", "product")


class Sequential(nn.Module):
    """Layers in a row, from YAML.

    A layer is a name (`ReLU`), or a name with arguments (`Conv2d: {out_channels: 32, kernel_size: 3}`); what it takes in need not
    be said: a batch of zeros goes through while the network is built. Besides the layers of torch.nn:

    - `parallel: {branches: [[...], [...]], join: concat}`: branches side by side, joined along the channels, or by sum or product;
      branches may have names, `{wide: [...], deep: [...]}`;
    - `residual: [...]`: what arrives is added to what the layers make of it;
    - `repeat: {times: 3, layers: [...]}`: the layers again and again, each with weights of its own;
    - `unpooled: {kernel_size: 2, layers: [...]}`: max-pooling, the layers, and unpooling to where the maxima were;
    - a list: layers in a row, as one.

    Layers that also return their state (recurrent ones) hand on their outputs; they take the batch first.

    Args:
        layers: the list.
        input_shape: shape of one input.
        output_dim: number of outputs.
        head: whether Flatten and Linear to `output_dim` are added, where the layers end in another shape.
        activation_checkpointing: what the blocks keep for the backward pass; see checkpoint_blocks.

    Shape:
        input: (B, *input_shape); output: (B, output_dim).

    Raises:
        ValueError: for a wrong layer, argument or shape, with its position, and the shape that arrived there.
    """

    def __init__(
        self,
        layers: list[Any],
        input_shape: Many[int],
        output_dim: int,
        head: bool = True,
        activation_checkpointing: Policy = "none",
    ):
        super().__init__()
        self.layers, sample = _row(layers, torch.zeros(2, *input_shape), "layers")
        if head and tuple(sample.shape) != (2, output_dim):
            self.layers.append(nn.Flatten())
            self.layers.append(nn.Linear(sample[0].numel(), output_dim))
        checkpoint_blocks(self, activation_checkpointing)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The last layer's output."""
        return self.layers(x)


class Parallel(nn.Module):
    """Branches side by side; see Sequential."""

    def __init__(self, branches: dict[str, nn.Module], join: str):
        super().__init__()
        self.branches = nn.ModuleDict(branches)
        self.join = join

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The outputs of all branches, joined."""
        outputs = [branch(x) for branch in self.branches.values()]
        if self.join == "concat":
            return torch.cat(outputs, 1)
        stacked = torch.stack(outputs)
        return stacked.sum(0) if self.join == "sum" else stacked.prod(0)


class Residual(nn.Module):
    """x + f(x). He and others, https://arxiv.org/abs/1512.03385."""

    def __init__(self, layers: nn.Module):
        super().__init__()
        self.layers = layers

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The sum."""
        return x + self.layers(x)


class Unpooled(nn.Module):
    """Layers between max-pooling and unpooling. Zeiler and others, https://doi.org/10.1109/ICCV.2011.6126474."""

    def __init__(self, dimensions: int, kernel_size: int):
        super().__init__()
        self.pool = getattr(nn, f"MaxPool{dimensions}d")(kernel_size, return_indices=True)
        self.layers: nn.Module = nn.Identity()
        self.unpool = getattr(nn, f"MaxUnpool{dimensions}d")(kernel_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As large as the input, zero but where the maxima were."""
        pooled, places = self.pool(x)
        return self.unpool(self.layers(pooled), places, output_size=x.shape)


class Lookup(nn.Module):
    """An embedding of whole numbers, which may arrive as floats."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The vectors."""
        return self.layer(x.long())


class Outputs(nn.Module):
    """A layer that takes its input several times, or that returns its state too: only its outputs go on."""

    def __init__(self, layer: nn.Module, inputs: int):
        super().__init__()
        self.layer = layer
        self.inputs = inputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The outputs."""
        result = self.layer(*[x] * self.inputs)
        return result[0] if isinstance(result, tuple) else result


def _row(layers: Any, sample: torch.Tensor, where: str) -> tuple[nn.Sequential, torch.Tensor]:
    """Layers in a row, and what they make of a sample."""
    if not isinstance(layers, list | tuple) or not layers:
        raise ValueError(f"{where}: must be a list of layers; received {layers!r}")
    row = nn.Sequential()
    for number, description in enumerate(layers):
        place = f"{where}.{number}"
        layer = _layer(description, sample, place)
        row.append(layer)
        try:
            with torch.no_grad():
                layer.eval()
                sample = layer(sample)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise ValueError(f"{_arrived(place, description, sample)}: {' '.join(str(error).split())[:200]}") from error
        layer.train()
        if not isinstance(sample, torch.Tensor):
            raise ValueError(
                f"{_arrived(place, description, sample)}: it gives {type(sample).__name__} and not one tensor"
            )
    return row, sample


def _layer(description: Any, sample: torch.Tensor, where: str) -> nn.Module:
    """One layer, or one of the compositions."""
    if isinstance(description, list):
        return _row(description, sample, where)[0]
    name, arguments = _read(description, where)
    if name == "residual":
        return Residual(_row(arguments, sample, f"{where}.residual")[0])
    if name == "parallel":
        return _parallel(_known(arguments, ("branches", "join"), f"{where}.parallel"), sample, where)
    if name == "unpooled":
        return _unpooled(_known(arguments, ("kernel_size", "layers"), f"{where}.unpooled"), sample, where)
    if name == "repeat":
        given = _known(arguments, ("times", "layers"), f"{where}.repeat")
        times = given.get("times")
        if not isinstance(times, int) or times < 1:
            raise ValueError(f"{where}.repeat.times: must be a whole number of at least 1; received {times!r}")
        return _row([given.get("layers")] * times, sample, f"{where}.repeat")[0]
    return _of_torch(name, _known(arguments or {}, None, f"{where}.{name}"), sample, where)


def _parallel(given: dict[str, Any], sample: torch.Tensor, where: str) -> nn.Module:
    branches, join = given.get("branches"), given.get("join", "concat")
    if join not in JOINS:
        raise ValueError(f"{where}.parallel.join: received {join!r}; there are: {', '.join(JOINS)}")
    if isinstance(branches, list | tuple):
        branches = {str(i): branch for i, branch in enumerate(branches)}
    if not isinstance(branches, dict) or not branches:
        raise ValueError(f"{where}.parallel.branches: must be a list of lists of layers; received {branches!r}")
    made: dict[str, nn.Module] = {
        name: _row(branch, sample, f"{where}.parallel.branches.{name}")[0] for name, branch in branches.items()
    }
    return Parallel(made, join)


def _unpooled(given: dict[str, Any], sample: torch.Tensor, where: str) -> nn.Module:
    size, dimensions = given.get("kernel_size"), sample.ndim - 2
    if not isinstance(size, int) or size < 1:
        raise ValueError(f"{where}.unpooled.kernel_size: must be a whole number of at least 1; received {size!r}")
    if dimensions not in (1, 2, 3):
        raise ValueError(f"{_arrived(where, 'unpooled', sample)}: pooling wants (B, C, one to three sizes)")
    whole = Unpooled(dimensions, size)
    whole.layers = _row(given.get("layers"), whole.pool(sample)[0], f"{where}.unpooled")[0]
    return whole


def _read(description: Any, where: str) -> tuple[str, Any]:
    """Name and arguments of a layer."""
    if isinstance(description, str):
        return description, {}
    if isinstance(description, dict) and len(description) == 1:
        ((name, arguments),) = description.items()
        return str(name), arguments
    raise ValueError(f"{where}: write NAME or NAME: {{ARGUMENT: VALUE}}; received {description!r}")


def _known(arguments: Any, names: tuple[str, ...] | None, where: str) -> dict[str, Any]:
    """Arguments as a mapping, of these names alone."""
    if not isinstance(arguments, dict):
        raise ValueError(f"{where}: arguments are a mapping, {{ARGUMENT: VALUE}}; received {arguments!r}")
    for key in arguments:
        if names is not None and key not in names:
            raise ValueError(f"{where}.{key}: there is no such argument{did_you_mean(key, names)}")
    return arguments


def _of_torch(name: str, arguments: dict[str, Any], sample: torch.Tensor, where: str) -> nn.Module:
    """A layer of torch.nn, with what can be read off the sample's shape."""
    cls = getattr(nn, name, None)
    if not inspect.isclass(cls) or not issubclass(cls, nn.Module) or cls is nn.Module:
        layers = [n for n in dir(nn) if inspect.isclass(getattr(nn, n)) and issubclass(getattr(nn, n), nn.Module)]
        raise ValueError(f"{where}: there is no layer {name!r}{did_you_mean(name, [*layers, *COMPOSITIONS])}")
    is_recurrent = issubclass(cls, nn.RNNBase)
    parameters = set(inspect.signature((nn.RNNBase if is_recurrent else cls).__init__).parameters) - {"self"}
    if unknown := arguments.keys() - parameters:
        key = min(unknown)
        raise ValueError(f"{where}.{name}: it has no argument {key!r}{did_you_mean(key, parameters)}")
    filled = dict(arguments)
    for key, dimension in INFERRED.items():
        if key in parameters and key not in filled and -sample.ndim <= dimension < sample.ndim:
            filled[key] = sample.shape[dimension]
    if "batch_first" in parameters:
        filled.setdefault("batch_first", True)
    try:
        layer = cls(**filled)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise ValueError(f"{_arrived(where, name, sample)}: {' '.join(str(error).split())[:200]}") from error
    if isinstance(layer, nn.Embedding | nn.EmbeddingBag):
        return Lookup(layer)
    inputs = INPUTS.get(name, 1)
    return Outputs(layer, inputs) if is_recurrent or inputs > 1 else layer


def _arrived(where: str, description: Any, sample: Any) -> str:
    """The place of a layer, its name, and the shape that arrives there."""
    name = (
        description
        if isinstance(description, str)
        else next(iter(description))
        if isinstance(description, dict)
        else "list"
    )
    shape = ["B", *list(sample.shape)[1:]] if isinstance(sample, torch.Tensor) else type(sample).__name__
    return f"{where}: {name} received {str(shape).replace(chr(39), '')}"
