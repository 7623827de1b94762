"""Samples in tar files, larger than memory together, read with the package webdataset. https://github.com/webdataset/webdataset."""

import io
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from iolaus.data.arrow_rows import label_name
from iolaus.data.picture import ImageDecoder, new_images, of_shape
from iolaus.data.sniff import needed
from iolaus.data.stream_order import Block, stacked
from iolaus.data.streaming import ReadShard, Shard, StreamedData
from iolaus.errors import UserError

BLOCK = 32  # samples that become tensors together
MARK = 64  # samples between places that are kept of a file, to begin at
ARRAYS = ("npy",)
META = re.compile(r"__[^/]*__($|/)")  # names that webdataset passes over


class WebDataset(StreamedData):
    """Samples in tar files, each of several members with one name and different endings: `000.jpg` and `000.cls`.

    A shard is a tar file. Each is looked through once for the number of its samples and their labels, by the headers of its members; where
    a run goes on, the samples that come before are passed over.

    Args:
        path: a tar file, a folder of them, one with folders train, val, test, or a pattern.
        inputs: endings of the inputs, of which a sample has one: images, or npy for an array of numpy.
        targets: ending of the target: cls, a whole number; txt, the class's name, or an amount; npy, amounts.
        size: height and width that images are resized to; None: they have one size.
        channels: 1 for grey, 3 for colour; None: as the images have.
        value_range: what is black and white in images of more than 8 bits; see ImageDecoder.
        background: grey level behind transparent pixels, from 0 to 255.
        stream: val_path, test_path, num_streams, shuffle_buffer and the settings that every data set has; see StreamedData.

    Raises:
        UserError: for files that are no tar files, or cut off, and samples without input or target, by file and sample.
    """

    endings = (".tar",)

    def __init__(
        self,
        path: str | Sequence[str],
        inputs: Sequence[str] = ("jpg", "jpeg", "png", "webp", "npy"),
        targets: str = "cls",
        size: Sequence[int] | None = None,
        channels: int | None = None,
        value_range: Sequence[float] | None = None,
        background: int = 255,
        num_targets: int | None = None,
        **stream: Any,
    ):
        super().__init__(path, num_targets=num_targets or 1, **stream)
        if self.num_rows is not None:
            raise UserError("data.num_rows: tar files are looked through for their samples; leave it at null")
        self.inputs = [str(ending) for ending in inputs]
        self.targets = targets
        self.decoder: ImageDecoder = ImageDecoder(size, channels, value_range, background)

    def scan(self, file: Path, rows: int | None) -> list[Shard]:
        _package()
        counts: Counter[str] = Counter()
        marks: list[int] = []
        number = 0
        reads_labels = self.target_kind == "class" and self.targets in ("cls", "txt")
        with _told(file), tarfile.open(file, "r:") as archive:
            for key, members in groupby(_members(archive), lambda member: _key(member.name)):
                found = {_ending(member.name): member for member in members}
                if number % MARK == 0:
                    marks.append(min(member.offset for member in found.values()))
                self._check_sample(file, key, list(found))
                if reads_labels:
                    content = archive.extractfile(found[self.targets])
                    assert content is not None
                    counts[_text(content.read())] += 1
                number += 1
        return [Shard(file, number, marks=marks, labels=counts)]

    def _check_sample(self, file: Path, key: str, endings: list[str]) -> None:
        if not any(ending in endings for ending in self.inputs):
            raise UserError(
                f"data.inputs: {file} sample {key!r} has none of {', '.join(self.inputs)}  (it has: {', '.join(endings)})"
            )
        if self.targets not in endings:
            raise UserError(
                f"data.targets: {file} sample {key!r} has no {self.targets!r}  (it has: {', '.join(endings)})"
            )

    def reader(self, files: Sequence[Path]) -> ReadShard:
        labels = self.labels if self.target_kind == "class" else None
        return TarReader(
            self.inputs,
            self.targets,
            self.target_kind,
            self.input_kind,
            labels,
            self.decoder,
            self.transform,
            self.item_shape if not self.transforms else None,
        )

    def new_items(self, source: Path | str) -> Iterator[torch.Tensor]:
        """The samples of a tar file; or an image file, or all of a folder."""
        if isinstance(source, str):
            raise UserError("predict: give tar files or images; a text is none")
        if source.suffix != ".tar":
            yield from new_images(source, of_shape(self.decoder, self.item_shape), self.transforms)
            return
        reader = TarReader(
            *(
                self.inputs,
                None,
                self.target_kind,
                self.input_kind,
                None,
                self.decoder,
                self.transform,
                None,
            )
        )
        try:
            for (inputs,) in reader.blocks(source, 0, 0, None):
                yield from inputs
        except UserError as error:
            raise UserError(str(error).removeprefix("data.path: ")) from None

    def state_dict(self) -> dict[str, Any]:
        shape = tuple(self.sample()[0].shape[1:]) if self.datasets and not self.transforms else self.item_shape
        return super().state_dict() | {"input_shape": list(shape) if shape is not None else None}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if state_dict["input_shape"] is not None:
            self.item_shape = tuple(state_dict["input_shape"])


@dataclass
class TarReader:
    """Reads samples of tar files.

    Args:
        inputs: endings.
        targets: ending; None: there are none.
        target_kind: class or real.
        input_kind: of arrays: bytes of images stay bytes.
        labels: the number of each label; None: labels are 0, 1, ... already.
        decoder: of images.
        apply: transforms.
        shape: that inputs must have; None: as the first one has.
    """

    inputs: Sequence[str]
    targets: str | None
    target_kind: str
    input_kind: str
    labels: dict[str, int] | None
    decoder: ImageDecoder
    apply: Any
    shape: tuple[int, ...] | None

    def __call__(self, shard: Shard, start: int, stop: int) -> Iterator[Block]:
        mark = start // MARK
        yield from self.blocks(shard.path, shard.marks[mark], start - mark * MARK, stop - start)

    def blocks(self, path: Path, offset: int, skip: int, count: int | None) -> Iterator[Block]:
        """Blocks of the samples of a file from an offset on, without the first ones."""
        yield from stacked(self._items(path, offset, skip, count), BLOCK)

    def _items(self, path: Path, offset: int, skip: int, count: int | None) -> Iterator[tuple[torch.Tensor, ...]]:
        package = _package()
        with _told(path), path.open("rb") as file:
            file.seek(offset)
            members = package.tariterators.tar_file_iterator(file)
            samples = package.tariterators.group_by_keys({**member, "__url__": str(path)} for member in members)
            for sample in islice(samples, skip, None if count is None else skip + count):
                yield self._item(sample, path)

    def _item(self, sample: dict[str, Any], path: Path) -> tuple[torch.Tensor, ...]:
        place = f"data.path: {path} sample {sample['__key__']!r}"
        ending = next((ending for ending in self.inputs if ending in sample), None)
        if ending is None or (self.targets is not None and self.targets not in sample):
            what = ", ".join(self.inputs) if ending is None else self.targets
            raise UserError(f"{place} has no {what}  (it has: {', '.join(k for k in sample if k[:2] != '__')})")
        inputs = self._input(sample[ending], ending, place)
        self.shape = self.shape or tuple(inputs.shape)
        if tuple(inputs.shape) != self.shape:
            raise UserError(
                f"{place}: its {ending} has shape {list(inputs.shape)}, and the first has {list(self.shape)}; for images set "
                "data.size, as in data.size=[64,64], and data.channels"
            )
        return (inputs,) if self.targets is None else (inputs, self._target(sample[self.targets], place))

    def _input(self, content: bytes, ending: str, place: str) -> torch.Tensor:
        if ending in ARRAYS:
            array = _array(content, place)
            keeps_bytes = self.input_kind == "image" and array.dtype == np.uint8
            found = torch.from_numpy(np.ascontiguousarray(array, dtype=None if keeps_bytes else np.float32))
            found = found[None] if self.input_kind == "image" and found.ndim == 2 else found
            if found.is_floating_point() and not found.isfinite().all():
                raise UserError(f"{place}: its {ending} has a value that is NaN or infinite")
        else:
            found = self.decoder.decode(content, f"{place}: its {ending}")
        return found if self.apply is None else self.apply(found)

    def _target(self, content: bytes, place: str) -> torch.Tensor:
        if self.targets in ARRAYS:
            values = torch.from_numpy(np.asarray(_array(content, place), dtype=np.float32)).reshape(-1)
            return values if self.target_kind == "real" else values.long()[0]
        text = _text(content)
        if self.target_kind == "class" and self.labels is not None:
            if text not in self.labels:
                raise UserError(f"{place}: label {text!r} is not among the known labels")
            return torch.tensor(self.labels[text])
        try:
            return torch.tensor(int(text)) if self.target_kind == "class" else torch.tensor([float(text)])
        except ValueError:
            what = "label 0, 1, ..." if self.target_kind == "class" else "amount"
            raise UserError(f"{place}: its {self.targets} is {text[:40]!r}, which is no {what}") from None


def _package() -> Any:
    needed("webdataset", "webdataset")
    import webdataset.tariterators

    return webdataset


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The files of an archive as webdataset takes them, of which none is kept.

    Raises:
        tarfile.ReadError: for an archive with a damaged header, where tarfile takes it for the end.
    """
    end = 0
    while (member := archive.next()) is not None:
        archive.members = []  # type: ignore[attr-defined]
        end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        if member.isreg() and _ending(member.name) and not META.match(member.name):
            yield member
    assert archive.fileobj is not None
    archive.fileobj.seek(end)
    if archive.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise tarfile.ReadError(f"the header at byte {end} is none")


def _key(name: str) -> str:
    return _package().tariterators.base_plus_ext(name)[0]


def _ending(name: str) -> str:
    return (_package().tariterators.base_plus_ext(name)[1] or "").lower()


def _text(content: bytes) -> str:
    text = content.decode("utf-8", errors="replace").strip()
    return label_name(int(text)) if text.isdigit() else text


def _array(content: bytes, place: str) -> np.ndarray:
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
        if array.dtype.kind not in "biuf":
            raise ValueError(f"it holds {array.dtype}")
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"{place}: its npy cannot be read as an array of numbers: {error}") from None
    return array


@contextmanager
def _told(file: Path) -> Iterator[None]:
    """Errors of reading a tar file as the user's."""
    try:
        yield
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(
            f"data.path: {file} cannot be read as a tar file: {error}; it is damaged, or compressed"
        ) from None
    except ValueError as error:  # as webdataset has them
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"data.path: {file} cannot be read as a tar file of samples: {reason}") from None
