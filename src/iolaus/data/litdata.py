"""Samples that `litdata.optimize` wrote, larger than memory together, read with the package litdata. https://github.com/Lightning-AI/litdata."""

import functools
import json
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from iolaus.data.arrow_rows import label_name
from iolaus.data.picture import EXTENSIONS, ImageDecoder, new_images, of_shape
from iolaus.data.sniff import needed
from iolaus.data.stream_order import Block, stacked
from iolaus.data.streaming import MOST_LABELS, ReadShard, Shard, StreamedData
from iolaus.errors import UserError

INDEX = "index.json"  # what tells of a folder's chunks
BLOCK = 64  # samples that become tensors together
COLOURS = (1, 3, 4)  # numbers of channels that images have
UNSAFE = ("pickle", "graph")  # forms of values that could run code when they are read


class LitData(StreamedData):
    """Samples in chunks: dictionaries, tuples or lists of numbers, texts, arrays and images.

    A shard is a chunk. Unless the classes are known by `num_classes` or `class_names`, labels are counted by reading every sample once.

    Args:
        path: the folder that `litdata.optimize` wrote, or one with folders train, val, test.
        target: the target's key, or its position in a tuple.
        inputs: key or position of the input, or several, whose numbers stand side by side; None: all others.
        size: height and width that images are resized to; None: they have one size.
        channels: 1 for grey, 3 for colour; None: as the images have.
        value_range: what is black and white in images of more than 8 bits; see ImageDecoder.
        background: grey level behind transparent pixels, from 0 to 255.
        num_targets: of an array; None: the first sample says.
        stream: val_path, test_path, num_streams, shuffle_buffer and the settings that every data set has; see StreamedData.

    Raises:
        UserError: for folders without an index, chunks that are compressed, encrypted, cut off or hold pickled objects, and samples
            without input or target, by chunk and row.
    """

    endings = (".bin",)
    new_endings = EXTENSIONS | {".bin"}

    def __init__(
        self,
        path: str | Sequence[str],
        target: str | int,
        inputs: str | int | Sequence[str | int] | None = None,
        size: Sequence[int] | None = None,
        channels: int | None = None,
        value_range: Sequence[float] | None = None,
        background: int = 255,
        num_targets: int | None = None,
        **stream: Any,
    ):
        super().__init__(path, num_targets=num_targets or 1, **stream)
        if self.num_rows is not None:
            raise UserError("data.num_rows: the index tells how many samples each chunk has; leave it at null")
        self.target = target
        self.inputs = [inputs] if isinstance(inputs, str | int) else list(inputs) if inputs is not None else None
        self.decoder: ImageDecoder = ImageDecoder(size, channels, value_range, background)

    def scan(self, file: Path, rows: int | None) -> list[Shard]:
        _, number = chunk(file)
        counts: Counter[str] = Counter()
        if self.target_kind == "class" and self.class_names is None and self.num_classes is None:
            for at, sample in enumerate(samples(file, 0, number)):
                if len(counts) <= MOST_LABELS:
                    place = f"data.path: {file} row {at}"
                    counts[label_of(value_of(sample, self.target, "target", place), place)] += 1
        return [Shard(file, number, labels=counts)]

    def reader(self, files: Sequence[Path]) -> ReadShard:
        return self._samples(self.target)

    def new_items(self, source: Path | str) -> Iterator[torch.Tensor]:
        """The samples of a chunk, or an image file."""
        if isinstance(source, str):
            raise UserError("predict: give folders of chunks, or images; a text is none")
        if source.suffix != ".bin":
            if self.item_shape is not None and len(self.item_shape) != 3:
                raise UserError(
                    f"predict: {source} is no chunk, and the run's inputs are no images; give folders of chunks"
                )
            yield from new_images(source, of_shape(self.decoder, self.item_shape), self.transforms)
            return
        try:
            for (inputs,) in self._samples(None)(Shard(source, 0), 0, chunk(source)[1]):
                yield from inputs
        except UserError as error:
            raise UserError(str(error).removeprefix("data.path: ")) from None

    def _samples(self, target: str | int | None) -> "Samples":
        labels = self.labels if self.target_kind == "class" else None
        shape = self.item_shape if not self.transforms else None
        kinds = self.input_kind, self.target_kind
        return Samples(self.inputs, target, self.target, *kinds, labels, self.decoder, self.transform, shape)

    def state_dict(self) -> dict[str, Any]:
        shape = tuple(self.sample()[0].shape[1:]) if self.datasets and not self.transforms else self.item_shape
        return super().state_dict() | {"input_shape": list(shape) if shape is not None else None}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if state_dict["input_shape"] is not None:
            self.item_shape = tuple(state_dict["input_shape"])


@dataclass
class Samples:
    """Makes tensors of the samples of chunks.

    Args:
        inputs: keys or positions; None: all but the target's.
        target: key or position; None: there are no targets.
        never_input: key or position of what is no input, where a sample has it.
        input_kind: of arrays: bytes of images stay bytes.
        target_kind: class or real.
        labels: the number of each label; None: labels are 0, 1, ... already.
        decoder: of images.
        apply: transforms.
        shape: that inputs must have; None: as the first one has.
    """

    inputs: Sequence[str | int] | None
    target: str | int | None
    never_input: str | int
    input_kind: str
    target_kind: str
    labels: dict[str, int] | None
    decoder: ImageDecoder
    apply: Any
    shape: tuple[int, ...] | None

    def __call__(self, shard: Shard, start: int, stop: int) -> Iterator[Block]:
        rows = enumerate(samples(shard.path, start, stop), start)
        yield from stacked((self._item(sample, f"data.path: {shard.path} row {row}") for row, sample in rows), BLOCK)

    def _item(self, sample: Any, place: str) -> tuple[torch.Tensor, ...]:
        names = self.inputs
        if names is None:
            names = [name for name in keys_of(sample) if name != self.never_input]
        values = [value_of(sample, name, "inputs", place) for name in names]
        if len(values) == 1:
            inputs = self._input(values[0], names[0], place)
        else:
            inputs = torch.cat([self._numbers(v, name, place) for v, name in zip(values, names, strict=True)])
        if inputs.is_floating_point() and not inputs.isfinite().all():
            raise UserError(f"{place}: its inputs have a value that is NaN or infinite")
        inputs = inputs if self.apply is None else self.apply(inputs)
        self.shape = self.shape or tuple(inputs.shape)
        if tuple(inputs.shape) != self.shape:
            raise UserError(
                f"{place}: its input has shape {list(inputs.shape)}, and the first has {list(self.shape)}; for images set "
                "data.size, as in data.size=[64,64], and data.channels"
            )
        if self.target is None:
            return (inputs,)
        return inputs, self._target(value_of(sample, self.target, "target", place), place)

    def _input(self, value: Any, name: str | int, place: str) -> torch.Tensor:
        from PIL import Image

        if isinstance(value, Image.Image):
            return self.decoder.convert(value, f"{place}: its {name!r}")
        if self.input_kind != "image":
            return self._numbers(value, name, place, flat=False)
        pixels = self._tensor(value, name, place)
        pixels = pixels[None] if pixels.ndim == 2 else pixels
        if pixels.dtype != torch.uint8:
            return pixels.float()
        shape = list(pixels.shape)
        if len(shape) == 3 and shape[0] not in COLOURS and shape[2] in COLOURS:
            raise UserError(
                f"{place}: its {name!r} has shape {shape}; of arrays channels come first, as in {[shape[2], *shape[:2]]}: "
                "write array.transpose(2, 0, 1).copy(), or PIL's images"
            )
        if self.decoder.size is None and self.decoder.channels in (None, len(pixels)):
            return pixels
        array = pixels.permute(1, 2, 0).numpy()
        image = Image.fromarray(array[..., 0] if len(pixels) == 1 else array)
        return self.decoder.convert(image, f"{place}: its {name!r}")

    def _numbers(self, value: Any, name: str | int, place: str, flat: bool = True) -> torch.Tensor:
        found = self._tensor(value, name, place).float()
        return found.flatten() if flat or found.ndim == 0 else found

    def _tensor(self, value: Any, name: str | int, place: str) -> torch.Tensor:
        if not isinstance(value, bool | int | float | np.ndarray | np.number | torch.Tensor):
            raise UserError(
                f"{place}: its {name!r} is of type {type(value).__name__}, and inputs are numbers, arrays or one image of PIL"
            )
        return as_tensor(value)

    def _target(self, value: Any, place: str) -> torch.Tensor:
        if self.target_kind == "real":
            return self._numbers(value, self.target or 0, place)
        label = label_of(value, place)
        if self.labels is not None:
            if label not in self.labels:
                raise UserError(f"{place}: label {label!r} is not among the known labels")
            return torch.tensor(self.labels[label])
        if not label.isdigit():
            raise UserError(f"{place}: its target is {label[:40]!r}, which is no label 0, 1, ...")
        return torch.tensor(int(label))


def samples(file: Path, start: int, stop: int) -> Iterator[Any]:
    """Samples of a chunk, from one up to another.

    Raises:
        UserError: for what the library cannot read.
    """
    first, _ = chunk(file)
    data = opened(file.parent, os.getpid())
    for row in range(start, stop):
        try:
            sample = data[first + row]
        except (ValueError, IndexError, OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"data.path: {file} row {row} cannot be read by litdata: {reason}") from None
        yield sample


@functools.lru_cache(maxsize=4)
def opened(folder: Path, process: int) -> Any:
    """A folder as a process reads it; the library keeps one chunk of it in its memory."""
    return needed("litdata", "litdata").StreamingDataset(str(folder), shuffle=False, batch_decode=False)


def chunk(file: Path) -> tuple[int, int]:
    """Which sample of its folder a chunk begins with, and how many it has.

    Raises:
        UserError: for a folder without an index, or a chunk that it does not tell of, that is cut off, or that is not read here.
    """
    try:
        index = json.loads((file.parent / INDEX).read_text(encoding="utf-8"))
        settings, entries = index["config"], index["chunks"]
        forms = [str(form) for form in settings["data_format"]]
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"data.path: {file.parent} has no {INDEX} as litdata.optimize writes it") from None
    if unsafe := [form for form in forms if form.partition(":")[0] in UNSAFE]:
        raise UserError(
            f"data.path: {file.parent} holds pickled objects ({unsafe[0]}), which could run code when they are read; write numbers, "
            "texts, arrays or images"
        )
    for key in ("compression", "encryption"):
        if settings.get(key):
            raise UserError(
                f"data.path: {file.parent} is written with {key}={str(settings[key])[:40]}; write it without, as rows are read out of order"
            )
    first = 0
    for entry in entries:
        if entry["filename"] == file.name:
            if file.stat().st_size < entry["chunk_bytes"]:
                raise UserError(
                    f"data.path: {file} is cut off: {file.stat().st_size} bytes of {entry['chunk_bytes']}; copy it again"
                )
            return first, int(entry["chunk_size"])
        first += int(entry["chunk_size"])
    raise UserError(f"data.path: {file.parent / INDEX} does not tell of {file.name}; the folder is mixed with another")


def keys_of(sample: Any) -> list[str | int]:
    """The keys, or positions, of a sample."""
    return (
        list(sample)
        if isinstance(sample, Mapping)
        else list(range(len(sample)))
        if isinstance(sample, list | tuple)
        else [0]
    )


def value_of(sample: Any, name: str | int, setting: str, place: str) -> Any:
    """A part of a sample.

    Raises:
        UserError: when it has no such.
    """
    if name not in keys_of(sample):
        names = ", ".join(map(str, keys_of(sample)))
        raise UserError(f"data.{setting}: {place.removeprefix('data.path: ')} has no {name!r}  (it has: {names})")
    return sample[name] if isinstance(sample, Mapping | list | tuple) else sample  # type: ignore[index]


def as_tensor(value: Any) -> torch.Tensor:
    """A number or an array as a tensor; arrays lie in the file, which is not to be written to, and are copied."""
    return torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else torch.as_tensor(value)


def label_of(value: Any, place: str) -> str:
    """A label as the name of its class.

    Raises:
        UserError: for what is neither a number nor a text.
    """
    if isinstance(value, np.ndarray | np.number | torch.Tensor) and math.prod(value.shape) == 1:
        value = value.item()
    if not isinstance(value, bool | int | float | str):
        raise UserError(
            f"{place}: its target is of type {type(value).__name__}, and a label is one number or a text; choose another data.target"
        )
    return label_name(value)
