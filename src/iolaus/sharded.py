"""Checkpoints in parts: a folder in which each process writes its share. https://docs.pytorch.org/docs/stable/distributed.checkpoint.html.

The parts of weights and optimizer state are in torch's own format, which its tools read; `meta.pt` holds the rest of the checkpoint,
and `index.json`, which is written last, the CRC-32 of every file. What torch would unpickle is read with a list of allowed names: nothing
is executed.
"""

import json
import os
import pickle
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata
from torch.distributed.tensor import DTensor

from iolaus import ranks
from iolaus.errors import DamagedCheckpoint, UserError
from iolaus.files import INDEX, remove
from iolaus.strict_json import to_json

REST, LAYOUT = "meta.pt", ".metadata"
PARTED = ("state_dict", "optimizer_states")  # of a checkpoint, what has parts
READ = 2**24  # bytes that are read at once

Keys = tuple[Any, ...]


def has_parts(checkpoint: dict[str, Any]) -> bool:
    """Whether a checkpoint's weights are shared out among the processes."""
    return any(isinstance(value, DTensor) for value in checkpoint.get("state_dict", {}).values())


def write(checkpoint: dict[str, Any], folder: Path) -> int:
    """Write a checkpoint into a folder of its own; every process takes part, and it is whole once all have returned.

    Args:
        checkpoint: of which each process holds its parts, and the first one the rest.
        folder: not there yet, or left by a save that was killed.

    Returns:
        its size in bytes.

    Raises:
        OSError, RuntimeError: in every process, where one of them cannot write.
    """
    if ranks.is_first():
        remove(folder)
    rank = ranks.rank()
    ranks.gather(None)
    parts = {_name(keys): value for keys, value in _leaves(checkpoint) if isinstance(value, DTensor)}
    try:
        dcp.save(parts, storage_writer=FileSystemWriter(folder))
    except CheckpointException as error:
        raise next(failure for failure, _ in error.failures.values()) from None
    files = {file.name: _crc(file) for file in folder.glob(f"__{rank}_*")}
    if ranks.is_first():
        with (folder / REST).open("wb") as file:
            torch.save(_map(checkpoint, lambda keys, value: None if isinstance(value, DTensor) else value), file)
            _flush(file)
        files |= {name: _crc(folder / name) for name in (REST, LAYOUT)}
    told = ranks.gather((files, sum((folder / name).stat().st_size for name in files)))
    index = {name: crc for theirs, _ in told for name, crc in theirs.items()}
    if ranks.is_first():
        with (folder / INDEX).open("wb") as file:
            file.write(to_json({"crc32": index}, indent=1).encode())
            _flush(file)
    return sum(size for _, size in told)  # the first process may have given the folder its name by now


def verify(folder: Path, together: bool = False) -> None:
    """Compare every file of a folder with its checksum.

    Args:
        folder: of the checkpoint.
        together: whether all processes do it, each for some of the files.

    Raises:
        DamagedCheckpoint: for anything but a whole checkpoint of ours; in every process, where they do it together.
    """
    world, rank = (ranks.count(), ranks.rank()) if together else (1, 0)
    problem = None
    try:
        index = _index(folder)
        for name in sorted(index)[rank::world]:
            file = folder / name
            if file.is_symlink() or not file.is_file() or _crc(file) != index[name]:
                problem = f"{file}: damaged or missing (its checksum does not fit)"
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = f"{folder}: not a whole checkpoint in parts: {str(error).splitlines()[0][:200]}"
    problems = [told for told in (ranks.gather(problem) if world > 1 else [problem]) if told]
    if problems:
        raise DamagedCheckpoint(problems[0])


def _index(folder: Path) -> dict[str, str]:
    """The checksum of each file.

    Raises:
        ValueError: for an index that was not written here.
    """
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))["crc32"]
    if not {REST, LAYOUT} <= index.keys() or any(Path(name).name != name for name in index):
        raise ValueError(f"{INDEX} is not what was written")
    return index


def read_rest(folder: Path) -> dict[str, Any]:
    """The content of a verified checkpoint, with None where the parts of weights and optimizer state belong."""
    try:
        with zipfile.ZipFile(folder / REST) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("compressed records, which checkpoints never hold")
        content = torch.load(folder / REST, map_location="cpu", weights_only=True)
        if not {"state_dict", "pytorch-lightning_version"} <= content.keys():
            raise ValueError("no state_dict")
    except Exception as error:  # torch's reader fails in many ways on a file that was made to look whole
        raise DamagedCheckpoint(f"{folder / REST}: not of a checkpoint: {str(error).splitlines()[0][:200]}") from None
    return content


def read(folder: Path) -> dict[str, Any]:
    """The content of a verified checkpoint put together on the processor, as one file would hold it."""
    rest, reader = read_rest(folder), _Reader(folder)
    try:
        told = reader.read_metadata().state_dict_metadata
        if not all(isinstance(part, TensorStorageMetadata) for part in told.values()):
            raise ValueError("parts that are no tensors")
        sizes = [part.size.numel() * part.properties.dtype.itemsize for part in told.values()]  # type: ignore[union-attr]
        if sum(sizes) > sum(file.stat().st_size for file in folder.iterdir()):
            raise ValueError("claims to hold more than its size")
        tensors = {
            name: torch.empty(part.size, dtype=part.properties.dtype)  # type: ignore[union-attr]
            for name, part in told.items()
        }
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*torch.distributed is disabled.*")  # which is meant
            dcp.load(tensors, storage_reader=reader, no_dist=True)
    except (Exception, CheckpointException) as error:
        raise DamagedCheckpoint(f"{folder}: its parts cannot be read: {str(error).splitlines()[0][:200]}") from None
    content = _map(rest, lambda keys, value: tensors.get(_name(keys), value))
    if "optimizer_states" in content:
        content["optimizer_states"] = [_numbered(state) for state in content["optimizer_states"]]
    return content


def load(folder: Path, present: dict[str, Any]) -> dict[str, Any]:
    """Read a verified checkpoint into the parts that each process has; they may be others than those that were written.

    Args:
        folder: of the checkpoint.
        present: `state_dict` and, to go on training, `optimizer_states` as the process has them; its parts are overwritten.

    Returns:
        the content, with these parts in it; without the optimizer's where they were not asked for.

    Raises:
        UserError: for a checkpoint of another model or optimizer.
    """
    rest, reader = read_rest(folder), _Reader(folder)
    if "optimizer_states" not in present:
        rest.pop("optimizer_states", None)
    parts = {_name(keys): value for keys, value in _leaves(present) if isinstance(value, DTensor)}
    saved = {_name(keys) for keys, value in _leaves(rest) if value is None}
    told = reader.read_metadata().state_dict_metadata
    for name in sorted(parts.keys() | {name for name in saved if name in told}):
        here = list(parts[name].shape) if name in parts else "none"
        there = list(told[name].size) if name in told else "none"  # type: ignore[union-attr]
        if here != there:
            raise UserError(
                f"checkpoint: it is of another model: {name.partition('/')[2]} has shape {there} there, and {here} in the model of "
                "these settings"
            )
    dcp.load(parts, storage_reader=reader)
    return _map(rest, lambda keys, value: parts.get(_name(keys), value))


def _numbered(state: dict[str, Any]) -> dict[str, Any]:
    """An optimizer's state by the numbers of its parameters, as torch's optimizers save it, and not by their names."""
    names = [name for group in state["param_groups"] for name in group["params"]]
    number = {name: count for count, name in enumerate(names)}
    groups = [group | {"params": [number[name] for name in group["params"]]} for group in state["param_groups"]]
    return {"state": {number[name]: values for name, values in state["state"].items()}, "param_groups": groups}


def _leaves(checkpoint: dict[str, Any]) -> Iterator[tuple[Keys, Any]]:
    """Values of what has parts, with where they stand."""
    found: list[tuple[Keys, Any]] = []
    _map(checkpoint, lambda keys, value: found.append((keys, value)))
    return iter(found)


def _map(checkpoint: dict[str, Any], change: Any) -> dict[str, Any]:
    """A checkpoint in which the values of what has parts are others; the rest is the same."""

    def walk(node: Any, keys: Keys) -> Any:
        if isinstance(node, dict):
            return {key: walk(value, (*keys, key)) for key, value in node.items()}
        if isinstance(node, list | tuple):
            return type(node)(walk(value, (*keys, key)) for key, value in enumerate(node))
        return change(keys, node)

    return {key: walk(value, (key,)) if key in PARTED else value for key, value in checkpoint.items()}


def _name(keys: Keys) -> str:
    return "/".join(str(key) for key in keys)


def _crc(file: Path) -> str:
    value = 0
    with file.open("rb") as stream:
        while block := stream.read(READ):
            value = zlib.crc32(block, value)
    return f"{value:08x}"


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


class _Reader(FileSystemReader):
    """Torch's reader, which unpickles what says where the parts lie: here with a list of names."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Where the parts lie."""
        folder = Path(self.path)
        with (folder / LAYOUT).open("rb") as file:
            metadata = _Allowed(file).load()
        if any(Path(part.relative_path).name != part.relative_path for part in metadata.storage_data.values()):
            raise DamagedCheckpoint(f"{folder}: its parts lie outside it")
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class _Allowed(pickle.Unpickler):
    """Unpickles the layout of a checkpoint and nothing else."""

    NAMES = {
        ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
        ("torch.serialization", "_get_layout"),
        ("pathlib", "PosixPath"),
        *(
            ("torch.distributed.checkpoint.metadata", name)
            for name in ("ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta", "TensorProperties")
        ),
        ("torch.distributed.checkpoint.metadata", "TensorStorageMetadata"),
        ("torch.distributed.checkpoint.metadata", "_MEM_FORMAT_ENCODING"),
    }

    def find_class(self, module: str, name: str) -> Any:
        """A class of the layout; a number type or a size of torch.

        Raises:
            DamagedCheckpoint: for any other name.
        """
        is_type = module == "torch" and (name == "Size" or isinstance(getattr(torch, name, None), torch.dtype))
        if not is_type and (module, name) not in self.NAMES:
            raise DamagedCheckpoint(f"a checkpoint's layout names {module}.{name}, which no checkpoint of ours does")
        return super().find_class(module, name)
