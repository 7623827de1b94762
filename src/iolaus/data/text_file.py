"""Text as a stream of bytes, cut into windows: each byte is to be predicted from those before it in its window."""

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch.utils.data import Dataset

from iolaus.data.base import SPLITS, DataModule
from iolaus.data.memory import InMemory
from iolaus.errors import UserError, unknown_encoding, wrong_encoding

LOOKED_AT = 2**24  # bytes at a file's beginning that are tried as text


class Windows(InMemory):
    """A stream of tokens in windows side by side; kept as it came, bytes as bytes.

    Args:
        stream: (N,) tokens.
        length: of a window, T.

    Shape:
        batch: tokens (B, T) int64 and those that follow each of them (B, T) int64.
    """

    def __init__(self, stream: torch.Tensor, length: int):
        self.stream = stream
        self.length = length
        self._steps = torch.arange(length + 1, device=stream.device)

    def __len__(self) -> int:
        return max((len(self.stream) - 1) // self.length, 0)

    def take(self, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Windows by their numbers."""
        window = self.stream[rows.long()[:, None] * self.length + self._steps].long()
        return window[:, :-1].contiguous(), window[:, 1:].contiguous()

    def parts(self) -> list[torch.Tensor]:
        """The stream."""
        return [self.stream]

    def to(self, device: torch.device) -> Self:
        """The same on a device."""
        return type(self)(self.stream.to(device), self.length)


class ByteStream(DataModule):
    """What streams of bytes have in common: windows, and texts as tokens and back.

    Args:
        base: the settings that every data set has; input_shape is the window's length.
    """

    no_folds = "a stream is cut once, since windows in its middle have neighbours on both sides that they resemble"

    def encode(self, text: str) -> list[int]:
        """The bytes of a text in UTF-8."""
        return list(text.encode("utf-8"))

    def decode(self, tokens: list[int]) -> str:
        """The text that bytes stand for; broken characters are shown as such."""
        return bytes(tokens).decode("utf-8", errors="replace")

    def new_items(self, source: Path | str) -> Iterator[str]:
        """The whole of a file, or a text, to go on from."""
        if isinstance(source, str):
            yield source
            return
        try:
            yield source.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise UserError(f"{source}: is not text in UTF-8") from None

    def _windows(self, streams: dict[str, torch.Tensor]) -> dict[str, Dataset]:
        """A data set for each split whose stream holds a window."""
        assert self.input_shape is not None
        (length,) = self.input_shape
        return {split: Windows(stream, length) for split, stream in streams.items() if len(stream) > length}


class TextFile(ByteStream):
    """A text of your own: its last part is the test, the part before that the validation.

    A UTF-8 file is mapped into memory and read where a batch needs it, so that it may be larger than memory; one in another encoding is
    read and turned into UTF-8.

    Args:
        path: the file.
        encoding: of the file, as Python names encodings.
        base: the settings that every data set has; input_shape is the window's length.

    Raises:
        UserError: for a file that is not text in this encoding, with the line, or that is too short.
    """

    def __init__(self, path: str, encoding: str = "utf-8", **base: Any):
        super().__init__(**base)
        self.path = Path(path)
        self.encoding = encoding

    def load(self) -> dict[str, Dataset]:
        if not self.path.is_file():
            raise UserError(f"data.path: {self.path} is not a file")
        stream = self._read()
        assert self.input_shape is not None
        (length,) = self.input_shape
        windows = (len(stream) - 1) // length
        if windows < 3:
            raise UserError(
                f"data.path: {self.path} has {len(stream)} bytes, fewer than three windows of data.input_shape=[{length}]; "
                "take a longer text or a smaller window"
            )
        shares = {"test": self.test_fraction, "val": self.val_fraction}
        sizes = {split: max(int(share * windows), 1) * length for split, share in shares.items() if share > 0}
        sizes["train"] = (windows - sum(sizes.values()) // length) * length
        if sizes["train"] < length:
            raise UserError(f"data.val_fraction + data.test_fraction: nothing is left to train on of {windows} windows")
        streams, start = {}, 0
        for split in (s for s in SPLITS if s in sizes):
            streams[split] = stream[start : start + sizes[split] + 1]  # and the byte that the last one is followed by
            start += sizes[split]
        return self._windows(streams)

    def _read(self) -> torch.Tensor:
        """The bytes, in UTF-8."""
        try:
            name = codecs.lookup(self.encoding).name
        except LookupError:
            raise unknown_encoding(self.encoding) from None
        try:
            if name in ("utf-8", "ascii"):
                if self.path.stat().st_size == 0:
                    return torch.empty(0, dtype=torch.uint8)
                with self.path.open("rb") as file:
                    codecs.getincrementaldecoder(name)().decode(file.read(LOOKED_AT))
                return torch.from_numpy(np.memmap(self.path, np.uint8, "c"))
            text = self.path.read_text(encoding=name)
        except UnicodeDecodeError as error:
            line = bytes(error.object[: error.start]).count(b"\n") + 1
            raise wrong_encoding(self.path, line, self.encoding, error.reason) from None
        return torch.frombuffer(bytearray(text, "utf-8"), dtype=torch.uint8)
