"""Checkpoint files that are whole or not there: written beside the target, checked bit for bit when they are read.

A file is torch's own zip archive with a comment at its end: the CRC-32 of all bytes before it. It finds every single flipped
bit, every burst of up to 32 of them, and a cut-off end; torch itself does not look. Whatever reads torch's files reads these.
"""

import errno
import os
import time
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from torch.utils._pytree import tree_map

from iolaus import ranks
from iolaus.errors import CannotWrite, DamagedCheckpoint
from iolaus.files import PARTIAL, remove
from iolaus.files import replace as put

MARK = b"iolaus crc32 "
COMMENT = len(MARK) + 8  # the mark and eight hexadecimal digits
READ = 2**24  # bytes that are read at once


class CheckpointFiles(TorchCheckpointIO):
    """How Lightning writes and reads checkpoints here.

    A save goes to a file beside the target, is flushed to the disk and takes the target's name in one step, so that a kill or a full disk
    at any moment leaves the earlier file as it was. A load takes tensors and plain containers only, whatever the environment says.

    Args:
        background: whether files are written by a thread from a copy of the state, while training goes on. A save waits for the one before;
            the end of the run waits for the last.
    """

    def __init__(self, background: bool = False):
        self._writer = ThreadPoolExecutor(1, "checkpoint") if background else None
        self._pending: Future | None = None
        self._sizes: list[int] = []
        self._seconds: list[float] = []

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | os.PathLike, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Raises:
            CannotWrite: when the disk is full or the folder cannot be written; the earlier file is intact.
        """
        self.save(checkpoint, Path(path))

    def save(self, checkpoint: dict[str, Any], path: Path, replace: Callable[[Path, Path], None] = put) -> None:
        """Write a checkpoint and give it its name by `replace`, which takes the written file and the target.

        Where its weights are shared out among processes, each writes its part of a folder, and all have to call this.
        """
        start = time.perf_counter()
        self.wait()
        if in_parts(checkpoint):
            self._sizes.append(write_parts(checkpoint, path, replace))
        elif self._writer is None:
            self._sizes.append(write(checkpoint, path, replace))
        else:
            copy = tree_map(lambda v: v.detach().cpu().clone() if isinstance(v, torch.Tensor) else v, checkpoint)
            self._pending = self._writer.submit(write, copy, path, replace)
        self._seconds.append(time.perf_counter() - start)

    def wait(self) -> None:
        """Wait for a save in the background; its errors are raised here."""
        pending, self._pending = self._pending, None
        if pending is not None:
            self._sizes.append(pending.result())

    def summary(self) -> str:
        """How many files were written, their size, and the time that the training waited for them."""
        self.wait()
        count = max(len(self._sizes), 1)
        return (
            f"{len(self._sizes)} checkpoints saved, {sum(self._sizes) / count / 1e6:.2f} MB and "
            f"{1e3 * sum(self._seconds) / count:.1f} ms each"
        )

    def load_checkpoint(
        self, path: str | os.PathLike, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a checkpoint onto the processor; see `read`."""
        self.wait()
        return read(Path(path))

    def teardown(self) -> None:
        """Wait for a save in the background."""
        self.wait()


def write(checkpoint: dict[str, Any], path: Path, replace: Callable[[Path, Path], None] = put) -> int:
    """Write a checkpoint so that `path` is at every moment either what it was or the whole new file.

    Returns:
        its size in bytes.

    Raises:
        CannotWrite: when it cannot be written.
    """
    partial = path.with_name(path.name + PARTIAL)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w+b") as file:
            torch.save(checkpoint, file)
            size = _seal(file)
            file.flush()
            os.fsync(file.fileno())
        replace(partial, path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch tells of a full disk as a RuntimeError
        with suppress(OSError):
            partial.unlink()
        raise _cannot_write(path, error) from error
    return size


def in_parts(checkpoint: dict[str, Any]) -> bool:
    """Whether every process has its part of a checkpoint to write."""
    if ranks.count() == 1:
        return False
    from iolaus import (
        sharded,
    )  # here and not above: its part of torch is large, and asked for by several processes alone

    return sharded.has_parts(checkpoint)


def write_parts(checkpoint: dict[str, Any], path: Path, replace: Callable[[Path, Path], None] = put) -> int:
    """Write a checkpoint as a folder, of which each process writes its part; see `write`."""
    from iolaus import sharded

    partial = path.with_name(path.name + PARTIAL)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        size = sharded.write(checkpoint, partial)
        if ranks.is_first():
            _sync_folder(partial)
            replace(partial, path)
            _sync_folder(path.parent)
        ranks.gather(None)
    except (OSError, RuntimeError) as error:
        if ranks.is_of_connection(error):
            raise
        if ranks.is_first():
            remove(partial)
        raise _cannot_write(path, error) from error
    return size


def _seal(file: BinaryIO) -> int:
    """Append the checksum as the archive's comment; the number of bytes in all."""
    end = file.seek(0, os.SEEK_END)
    file.seek(end - 2)  # the last two bytes of an archive without a comment are the comment's length
    if file.read(2) != b"\0\0":
        raise RuntimeError("torch.save wrote an archive that ends otherwise than expected")
    file.seek(end - 2)
    file.write(COMMENT.to_bytes(2, "little"))
    file.write(MARK + b"%08x" % _crc(file, end))
    return end + COMMENT


def _crc(file: BinaryIO, size: int) -> int:
    """CRC-32 of the first `size` bytes."""
    file.seek(0)
    value = 0
    while size > 0:
        block = file.read(min(READ, size))
        if not block:
            break
        value, size = zlib.crc32(block, value), size - len(block)
    file.seek(0, os.SEEK_END)
    return value


def _sync_folder(folder: Path) -> None:
    """Make a renaming last through a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _cannot_write(path: Path, error: Exception) -> CannotWrite:
    cause = error if isinstance(error, OSError) else error.__context__  # torch raises its own error after the system's
    if isinstance(cause, OSError):
        is_full, reason = cause.errno in (errno.ENOSPC, errno.EDQUOT), cause.strerror
    else:
        reason = str(error).splitlines()[0]
        is_full = "file write failed" in str(error) or "unexpected pos" in str(error)
    if is_full:
        return CannotWrite(path, "the disk is full; the checkpoint before it is intact")
    return CannotWrite(path, f"the checkpoint cannot be written: {reason}")


def verify(path: Path) -> None:
    """Compare a file with its checksum, and refuse archives that would unpack to more than they are.

    Raises:
        DamagedCheckpoint: for anything but a whole checkpoint of ours.
    """
    if not path.is_file():
        raise DamagedCheckpoint(f"{path}: not a file")
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END) - COMMENT
            file.seek(max(size, 0))
            comment = file.read()
            if size <= 0 or comment != MARK + b"%08x" % _crc(file, size):
                raise DamagedCheckpoint(
                    f"{path}: damaged or incomplete (its checksum does not fit), or not a checkpoint of Iolaus"
                )
            with zipfile.ZipFile(file) as archive:
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                    raise DamagedCheckpoint(f"{path}: holds compressed records, which checkpoints never do")
                if sum(entry.file_size for entry in archive.infolist()) > size:
                    raise DamagedCheckpoint(f"{path}: claims to hold more than its size")
    except (OSError, zipfile.BadZipFile) as error:
        raise DamagedCheckpoint(f"{path}: cannot be read: {error}") from None


def read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, on the processor: tensors and plain containers only; one that lies in parts is put together.

    Raises:
        DamagedCheckpoint: when the file is not what was written, or holds anything else.
    """
    if path.is_dir():
        from iolaus import sharded

        sharded.verify(path)
        return sharded.read(path)
    verify(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's reader fails in many ways on a file that was made to look whole
        raise DamagedCheckpoint(f"{path}: not a checkpoint: {str(error).splitlines()[0][:200]}") from None
    if not isinstance(content, dict) or not {"state_dict", "pytorch-lightning_version"} <= content.keys():
        raise DamagedCheckpoint(f"{path}: not a checkpoint of a run, it has no state_dict")
    return content


def read_state(path: Path) -> dict[str, Any]:
    """What a checkpoint tells of the run; of one in parts without its weights. The processes that train together do this together.

    Raises:
        DamagedCheckpoint: as `read`.
    """
    if not path.is_dir():
        return read(path)
    from iolaus import sharded

    sharded.verify(path, together=True)
    return sharded.read_rest(path)
