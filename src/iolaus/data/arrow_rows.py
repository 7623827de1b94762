"""Rows of Arrow tables as inputs and targets. https://arrow.apache.org/docs/python/data.html."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from iolaus.data.picture import ImageDecoder
from iolaus.data.sniff import needed
from iolaus.data.stream_order import Block
from iolaus.errors import UserError, did_you_mean
from iolaus.overrides import override_text

Kind = Literal["number", "array", "image", "other"]
Where = Callable[[int], str]  # names a row of a block, for messages


def kind_of(form: Any) -> Kind:
    """What a column of an Arrow type holds: numbers, arrays of them, encoded images, or something else."""
    types = needed("pyarrow", "parquet_stream").types
    if types.is_dictionary(form):
        return kind_of(form.value_type)
    if types.is_integer(form) or types.is_floating(form) or types.is_boolean(form) or types.is_decimal(form):
        return "number"
    if types.is_binary(form) or types.is_large_binary(form):
        return "image"
    if types.is_struct(form) and form.get_field_index("bytes") >= 0:  # as Hugging Face's data sets have images
        return "image"
    inner = getattr(form, "value_type", None)
    if inner is not None and not types.is_map(form) and kind_of(inner) in ("number", "array"):
        return "array"
    return "other"


def chosen(schema: Any, columns: Sequence[str] | None, drop: Sequence[str], target: str, path: str) -> list[str]:
    """The columns of inputs: those named, or all but the target.

    Raises:
        UserError: for names that are not there, and columns that cannot go together.
    """
    for setting, names in (("target", [target]), ("columns", columns or []), ("drop", drop)):
        for name in names:
            if name not in schema.names:
                raise UserError(
                    f"data.{setting}: {path} has no column {name!r}{did_you_mean(name, schema.names)}  "
                    f"(it has: {', '.join(schema.names[:10])}{', ...' if len(schema.names) > 10 else ''})"
                )
    found = [name for name in (columns or schema.names) if name not in (target, *drop)]
    if not found:
        raise UserError("data.columns: no column is left to predict from")
    kinds = {name: kind_of(schema.field(name).type) for name in found}
    for name, kind in kinds.items():
        if kind == "other":
            raise UserError(
                f"data.path: {path} column {name!r} holds {schema.field(name).type}, neither numbers nor images; leave it out: "
                f"{override_text('data.drop', [*drop, name])}"
            )
        if kind != "number" and len(found) > 1:
            raise UserError(
                f"data.columns: {path} column {name!r} holds an {kind} in each row, which is an input of its own; choose it alone, "
                f"{override_text('data.columns', [name])}, or leave it out: {override_text('data.drop', [*drop, name])}"
            )
    return found


@dataclass
class ArrowRows:
    """Makes inputs and targets of blocks of rows.

    Args:
        columns: of the inputs: numbers, or one column of arrays or encoded images.
        target: column of the targets; None: there are none, as in files to predict for.
        input_kind: table, or image.
        item_shape: that arrays are given; None: as long as the first one is.
        target_kind: class or real.
        labels: the number of each label; None: labels are 0, 1, ... already.
        decoder: of encoded images.
        apply: transforms of images.

    Raises:
        UserError: by `convert`, for rows that are empty, not finite, or of another shape, with their number.
    """

    columns: Sequence[str]
    target: str | None
    input_kind: str
    item_shape: tuple[int, ...] | None
    target_kind: str
    labels: Mapping[Any, int] | None = None
    decoder: ImageDecoder = field(default_factory=ImageDecoder)
    apply: Callable[[torch.Tensor], torch.Tensor] | None = None
    shape: tuple[int, ...] | None = field(default=None, init=False)  # of the first item

    @property
    def names(self) -> list[str]:
        """The columns that are read."""
        return [*self.columns, *([self.target] if self.target is not None else [])]

    def convert(self, table: Any, where: Where) -> Block:
        """Inputs, and targets where there are any, of an Arrow table or a batch of its rows."""
        arrays = {name: _combined(table.column(name)) for name in self.columns}
        for name, array in arrays.items():
            _refuse_empty(array, name, where)
        first = next(iter(arrays.values()))
        if (kind := kind_of(first.type)) == "image":
            inputs = self._images(first, where)
        else:
            inputs = self._array(first, where) if kind == "array" else _numbers(arrays, where)
            inputs = self.apply(inputs) if self.apply is not None and len(inputs) else inputs
        return (
            (inputs,) if self.target is None else (inputs, self._targets(_combined(table.column(self.target)), where))
        )

    def _array(self, array: Any, where: Where) -> torch.Tensor:
        values, dims = _flat(array, self.columns[0], where)
        numbers = values.to_numpy(zero_copy_only=False)
        keeps_bytes = self.input_kind == "image" and numbers.dtype == np.uint8
        if self.input_kind == "image" and len(dims) == 2:
            dims = (1, *dims)
        shape = self.item_shape or self.shape or dims
        if math.prod(shape) != math.prod(dims):
            raise UserError(
                f"{where(0)} column {self.columns[0]!r}: holds {math.prod(dims)} numbers, and the shape of an input, {list(shape)}, "
                f"has {math.prod(shape)}"
            )
        self.shape = shape
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is told as such
            rows = np.array(numbers, dtype=None if keeps_bytes else np.float32).reshape(len(array), *shape)
        inputs = torch.from_numpy(rows)
        if inputs.is_floating_point() and not (finite := inputs.isfinite().flatten(1).all(1)).all():
            row = int((~finite).nonzero()[0])
            raise UserError(f"{where(row)} column {self.columns[0]!r}: has a value that is NaN or infinite")
        return inputs

    def _images(self, array: Any, where: Where) -> torch.Tensor:
        encoded = array if not hasattr(array.type, "get_field_index") else array.field("bytes")
        items = [self.image(item.as_py(), where(row)) for row, item in enumerate(encoded)]
        return torch.stack(items) if items else torch.empty(0, *(self.shape or ()))

    def image(self, encoded: bytes | None, place: str) -> torch.Tensor:
        """One encoded image, (C, H, W) bytes, of the same shape as all before."""
        if encoded is None:
            raise UserError(f"{place} has no image in itself; one that lies elsewhere is not read")
        found = self.decoder.decode(encoded, place)
        found = found if self.apply is None else self.apply(found)
        self.shape = self.shape or tuple(found.shape)
        if tuple(found.shape) != self.shape:
            raise UserError(
                f"{place} is an image of shape {list(found.shape)}, and the first has {list(self.shape)}; set data.size, as in "
                "data.size=[64,64], and data.channels"
            )
        return found

    def _targets(self, array: Any, where: Where) -> torch.Tensor:
        assert self.target is not None
        _refuse_empty(array, self.target, where)
        if self.target_kind == "real":
            if (kind := kind_of(array.type)) not in ("number", "array"):
                raise UserError(
                    f"{where(0)} column {self.target!r}: holds {array.type}, no amounts; for labels choose task=classification"
                )
            lists = ArrowRows([self.target], None, "table", None, "real")
            return lists._array(array, where) if kind == "array" else _numbers({self.target: array}, where)
        if self.labels is None:
            return _whole(array, self.target, where)
        return self._known_labels(array, where)

    def _known_labels(self, array: Any, where: Where) -> torch.Tensor:
        assert self.labels is not None
        distinct = array if hasattr(array, "dictionary") else array.dictionary_encode()
        codes = np.asarray(distinct.indices).astype(np.int64)
        numbers: list[int] = []
        for label in distinct.dictionary.to_pylist():
            numbers.append(self.labels.get(label_name(label), -1))
            if numbers[-1] < 0 and (is_it := np.equal(codes, len(numbers) - 1)).any():
                raise UserError(
                    f"{where(int(is_it.argmax()))} column {self.target!r}: label {label!r} is not among the known labels"
                )
        return torch.tensor(numbers, dtype=torch.int64)[torch.from_numpy(codes)]


def label_name(label: Any) -> str:
    """A label as the name of its class: whole numbers without a point."""
    if isinstance(label, bool):
        return str(int(label))
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label)


def count_labels(column: Any, counts: Counter[str]) -> None:
    """Add how many rows of an Arrow column have each label."""
    for pair in column.value_counts().to_pylist():
        if pair["values"] is not None:  # told with its row when it is read
            counts[label_name(pair["values"])] += pair["counts"]


def sorted_names(labels: Sequence[str]) -> list[str]:
    """Names of classes in their order: numbers by their size."""
    is_whole = all(label.lstrip("-").isdigit() for label in labels)
    return sorted(labels, key=int) if is_whole else sorted(labels)


def _combined(column: Any) -> Any:
    """One array of a column of several."""
    if hasattr(column, "combine_chunks"):
        column = column.combine_chunks()
    return column.chunk(0) if hasattr(column, "num_chunks") and column.num_chunks == 1 else column


def _refuse_empty(array: Any, name: str, where: Where) -> None:
    if array.null_count:
        row = int(np.asarray(array.is_null()).argmax())
        raise UserError(f"{where(row)} column {name!r}: the cell is empty; mend it, or leave the column out")


def _flat(array: Any, name: str, where: Where) -> tuple[Any, tuple[int, ...]]:
    """The numbers of arrays of one shape, end to end, and that shape."""
    count, dims = len(array), []
    declared = getattr(array.type, "shape", None)  # of Arrow's own tensors
    array = array.storage if hasattr(array, "storage") else array
    while getattr(array.type, "value_type", None) is not None:
        size = getattr(array.type, "list_size", None)
        if size is None:
            lengths = np.diff(array.offsets.to_numpy(zero_copy_only=False))
            if (other := lengths != lengths[0]).any():
                row = int(other.argmax()) * count // len(lengths)
                raise UserError(
                    f"{where(row)} column {name!r}: has {lengths[other][0]} numbers, and the row before has {lengths[0]}"
                )
            size = int(lengths[0])
        dims.append(size)
        array = array.flatten()
        if array.null_count:
            row = int(np.asarray(array.is_null()).argmax()) * count // len(array)
            raise UserError(f"{where(row)} column {name!r}: a number in it is missing")
    return array, tuple(declared or dims)


def _numbers(arrays: Mapping[str, Any], where: Where) -> torch.Tensor:
    """Columns of numbers side by side, (rows, columns) float32."""
    count = len(next(iter(arrays.values())))
    rows = np.empty((count, len(arrays)), dtype=np.float32)
    with np.errstate(over="ignore"):
        for number, array in enumerate(arrays.values()):
            rows[:, number] = array.to_numpy(zero_copy_only=False)
    if not np.isfinite(rows).all():
        row, column = np.argwhere(~np.isfinite(rows))[0].tolist()
        raise UserError(f"{where(row)} column {list(arrays)[column]!r}: has a value that is NaN or infinite")
    return torch.from_numpy(rows)


def _whole(array: Any, name: str, where: Where) -> torch.Tensor:
    """Labels that are 0, 1, ... already."""
    if kind_of(array.type) != "number":
        raise UserError(
            f"{where(0)} column {name!r}: holds {array.type}, and with data.num_classes labels are 0, 1, ...; "
            "leave num_classes out, or give data.class_names"
        )
    values = np.asarray(array.to_numpy(zero_copy_only=False), dtype=np.float64)
    if (bad := values != np.floor(values)).any():
        row = int(bad.argmax())
        raise UserError(
            f"{where(row)} column {name!r}: {values[row]:g} is no label; for amounts choose task=regression"
        )
    return torch.from_numpy(values.astype(np.int64))
