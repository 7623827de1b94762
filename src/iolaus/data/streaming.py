"""What data sets that are read while they are trained on have in common: shards, splits, samples and loaders; no list of all rows."""

import logging
import os
import time
import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from iolaus import ranks
from iolaus.augment.transforms import composed
from iolaus.data.arrow_rows import sorted_names
from iolaus.data.base import DRAWN, EVAL_BATCH_BYTES, STATISTICS_ROWS, DataModule
from iolaus.data.folders import describe_split_folders, find_split_folders
from iolaus.data.loader import MOST_WORKERS, SHORT_S, Batch, Key, Start
from iolaus.data.order import permutation
from iolaus.data.sniff import shard_files
from iolaus.data.statistics import mean_and_deviation
from iolaus.data.stream_loader import StreamLoader
from iolaus.data.stream_order import Block, Plan, Spans, hold_out
from iolaus.errors import UserError
from iolaus.functional.keys import mix

log = logging.getLogger("iolaus")

SAMPLE_BYTES = 32 * 2**20  # of that sample, which has as many rows as fit, and 64 at least
SAMPLED = 32  # shards that the sample for mean, deviation and shapes is taken from
DRAWN_PLACES = 16  # where rows are drawn for a look
BUFFER_BYTES = 64 * 2**20  # of rows that are shuffled together, where shuffle_buffer is not given
MOST_BUFFERED = 65_536
MOST_LABELS = 10_000  # more different ones are no classes
FEWEST_CHANGES = 64  # of the label that shuffled rows should have, to judge by them
SORTED = 0.1  # of these changes: rows with fewer are sorted
FEWEST_STRETCHES = 3  # that a split should have for each class, where a stretch holds one class


@dataclass(frozen=True)
class Shard:
    """A part of the data that is read from its beginning on.

    Args:
        path: its file.
        rows: how many it has.
        part: number of the part of the file; 0 where the file is one.
        first: number of its first row in the file.
        marks: where in the file some of its rows begin, for formats that do not tell.
        labels: how many rows each label has, where that was counted.
    """

    path: Path
    rows: int
    part: int = 0
    first: int = 0
    marks: Sequence[int] = ()
    labels: Counter[str] = field(default_factory=Counter, compare=False)

    def place(self, row: int) -> str:
        """The name of a row for messages."""
        return f"data.path: {self.path} row {self.first + row}"


ReadShard = Callable[[Shard, int, int], Iterator[Block]]


class Streamed(Dataset):
    """The rows of a split.

    Args:
        shards: of the split's files.
        spans: its rows among them.
        read: blocks of a shard's rows, from one up to another.
        num_classes: of the targets; None: they are no classes.
    """

    def __init__(self, shards: Sequence[Shard], spans: Spans, read: ReadShard, num_classes: int | None):
        self.shards = shards
        self.spans = spans
        self.read_shard = read
        self.num_classes = num_classes

    def __len__(self) -> int:
        return len(self.spans)

    def read(self, shard: int, start: int, stop: int) -> Iterator[Block]:
        """Blocks of a shard's rows; exactly as many rows as there should be.

        Raises:
            UserError: for a shard with fewer, and labels that are none.
        """
        found = self.shards[shard]
        count = 0
        for block in self.read_shard(found, start, stop):
            if self.num_classes is not None:
                self._check_labels(block[-1], found, start + count)
            count += len(block[0])
            yield block
        if count != stop - start:
            raise UserError(
                f"data.path: {found.path} ends at row {start + count}, and should have {found.rows}; it is cut off, or has changed "
                "since it was counted"
            )

    def _check_labels(self, labels: torch.Tensor, shard: Shard, first: int) -> None:
        assert self.num_classes is not None
        bad = (labels < 0) | (labels >= self.num_classes)
        if bad.any():
            row = int(bad.nonzero()[0])
            raise UserError(
                f"data.num_classes: {shard.place(first + row).removeprefix('data.path: ')}: label {int(labels[row])} is not in 0 .. "
                f"{self.num_classes - 1}; num_classes is {self.num_classes}"
            )

    def only(self, spans: Spans) -> "Streamed":
        """Some of the rows."""
        return Streamed(self.shards, spans, self.read_shard, self.num_classes)


class StreamedData(DataModule, ABC):
    """A data set in shards, larger than memory: rows are read where the training is, and none is kept.

    Rows are read by `num_streams` streams side by side, each of which has an equal part of the shuffled shards and gives its rows in an
    order shuffled within a buffer. Streams are shared out to processes and workers, so that no row is read twice, and the batches are the
    same for any number of them. Where a run goes on inside an epoch, each stream begins in its buffer. A subclass reads shards.

    A split without files of its own is whole shards of the training files, drawn by the seed, and a part of one: rows should have been
    shuffled when they were written.

    Args:
        path: a file, a folder of them, one with folders train, val, test, or a pattern with * or ?.
        val_path: the same for the validation split.
        test_path: the same for the test split.
        num_streams: streams that are read side by side; a multiple of the number of processes.
        shuffle_buffer: rows in all streams that are shuffled together; 0: shards alone are shuffled; None: as many as 64 MiB hold.
        num_rows: of each file, in the order of the names; None: the files tell, or are counted.
        base: the settings that every data set has; see DataModule.

    Raises:
        UserError: for files that are not there, empty or damaged, and rows that are not as the first.
    """

    no_folds = "data that are streamed are not cut into folds, as each would be read whole for its rows"
    endings: tuple[str, ...] = ()  # of its files

    def __init__(
        self,
        path: str | Sequence[str],
        val_path: str | None = None,
        test_path: str | None = None,
        num_streams: int = 8,
        shuffle_buffer: int | None = None,
        num_rows: Sequence[int] | None = None,
        **base: Any,
    ):
        super().__init__(**base)
        self.path = path
        self.val_path = val_path
        self.test_path = test_path
        self.num_streams = num_streams
        self.shuffle_buffer = shuffle_buffer
        self.num_rows = list(num_rows) if num_rows is not None else None
        self.item_shape = self.input_shape  # before transforms
        self.read_s = 0.0  # seconds that reading a row takes
        self._files: dict[str, list[Path]] = {}
        self._sample: Block | None = None
        self._sampled: list[int] = []  # rows of each stretch of the sample
        self._counts: Counter[str] = Counter()  # of the labels

    @abstractmethod
    def scan(self, file: Path, rows: int | None) -> list[Shard]:
        """The shards of a file, with their rows counted and, of classes that are not known, the labels.

        Args:
            file: the file.
            rows: how many it has, as the user says.
        """

    @abstractmethod
    def reader(self, files: Sequence[Path]) -> ReadShard:
        """What reads blocks of a shard's rows, once the classes are known."""

    def load(self) -> dict[str, Dataset]:
        self._check_streams()
        self._files = self._found()
        found = {split: self._scanned(files) for split, files in self._files.items()}
        if self.target_kind == "class":
            self._settle_classes(found["train"])
        classes = self.num_classes if self.target_kind == "class" else None
        datasets: dict[str, Dataset] = {}
        for split, shards in found.items():
            if not sum(shard.rows for shard in shards):
                raise UserError(f"data.path: the files of the {split} split have no rows  ({self._files[split][0]})")
            spans = Spans.of([shard.rows for shard in shards])
            datasets[split] = Streamed(shards, spans, self.reader(self._files[split]), classes)
        return datasets

    def setup(self, stage: str | None = None) -> None:
        if self.datasets:
            return
        self.datasets = self.load()
        self._check_folds()
        train: Any = self.datasets["train"]
        total, spans = len(train), train.spans
        for number, name in enumerate(("test", "val")):
            if name not in self.datasets and self.is_held_out(name):
                fraction = {"test": self.test_fraction, "val": self.val_fraction}[name]
                count = min(max(round(fraction * total), 1), len(spans) - 1)
                spans, held = hold_out(spans, count, self.seed, number)
                self.datasets[name] = train.only(held)
        self.datasets["train"] = train.only(spans)
        self.rows = {name: range(len(d)) for name, d in self.datasets.items()}  # type: ignore[misc, arg-type]
        self._check()
        self._warn_of_sorted_rows()

    def _check_streams(self) -> None:
        world = self.share[1]
        if self.num_streams < 1 or self.num_streams % world:
            raise UserError(
                f"data.num_streams: {self.num_streams} streams cannot be shared evenly by {world} processes; set a multiple of {world}"
            )

    def _found(self) -> dict[str, list[Path]]:
        """The files of each split."""
        paths: dict[str, Any] = {"train": self.path, "val": self.val_path, "test": self.test_path}
        if isinstance(self.path, str) and Path(self.path).is_dir():
            inside = find_split_folders(Path(self.path), self.endings)
            read = {name: place for name, place in inside.items() if name == "train" or not paths[name]}
            self.notes += [describe_split_folders(Path(self.path), read)] if read else []
            paths = {"train": inside.get("train", self.path)} | {n: paths[n] or inside.get(n) for n in ("val", "test")}
        keys = {"train": "path", "val": "val_path", "test": "test_path"}
        return {
            name: shard_files(path, self.endings, f"data.{keys[name]}")
            for name, path in paths.items()
            if path is not None
        }

    def _scanned(self, files: list[Path]) -> list[Shard]:
        """The shards of all files, of which processes that train together look at their share each."""
        rank, world = self.share
        is_train = files == self._files["train"]
        told: list[int | None] = [None] * len(files)
        if is_train and self.num_rows is not None:
            if len(self.num_rows) != len(files):
                raise UserError(
                    f"data.num_rows: has {len(self.num_rows)} numbers, and there are {len(files)} files; give the rows of each, in "
                    "the order of their names"
                )
            told = list(self.num_rows)
        began = time.monotonic()
        own = {number: self.scan(files[number], told[number]) for number in range(rank, len(files), world)}
        together = {k: shards for part in (ranks.gather(own) if world > 1 else [own]) for k, shards in part.items()}
        if (seconds := time.monotonic() - began) > 2:
            log.info("looked through %d files in %.1f s", len(files), seconds)
        return [shard for number in range(len(files)) for shard in together[number]]

    def _settle_classes(self, shards: list[Shard]) -> None:
        """Names of the classes by the labels that were counted, where the settings do not say them."""
        counts: Counter[str] = Counter()
        for shard in shards:
            counts.update(shard.labels)
        self._counts = counts
        if self.class_names is not None:
            self.num_classes = self.num_classes or len(self.class_names)
            if self.num_classes != len(self.class_names):
                raise UserError(
                    f"data.num_classes: is {self.num_classes}, but there are {len(self.class_names)} class_names"
                )
            return
        if self.num_classes is not None:
            return
        if len(counts) < 2:
            raise UserError(
                f"data.target: {'the labels are not counted' if not counts else f'there is one label alone ({next(iter(counts))})'}; "
                "give data.num_classes, or data.class_names"
            )
        if len(counts) > max(sum(counts.values()) // 2, 2) or len(counts) > MOST_LABELS:
            raise UserError(
                f"data.target: there are {len(counts)} different labels in {sum(counts.values())} rows; for amounts choose "
                "task=regression"
            )
        self.class_names = sorted_names(list(counts))
        self.num_classes = len(self.class_names)

    @property
    def labels(self) -> dict[str, int] | None:
        """The number of each label; None where labels are 0, 1, ... already, under names of the user's own perhaps."""
        if self.class_names is None or (self._counts and not set(self._counts) <= set(self.class_names)):
            return None
        return {name: number for number, name in enumerate(self.class_names)}

    @property
    def transform(self) -> Callable[[torch.Tensor], torch.Tensor] | None:
        """The transforms of every image.

        Raises:
            UserError: for those that cannot be.
        """
        try:
            return composed(self.transforms, at_random=False) if self.transforms else None
        except (ValueError, TypeError, RuntimeError) as error:
            raise UserError(f"data.{' '.join(str(error).split())[:300]}") from error

    def _check(self) -> None:
        """Read the sample and a row of each other split: what all rows must be like is known from it."""
        inputs, targets = self.sample()
        shape = tuple(inputs.shape[1:])
        if self.input_shape is not None and shape != self.input_shape and not self.transforms:
            raise UserError(f"data.input_shape: says {list(self.input_shape)}, but an input has shape {list(shape)}")
        self.input_shape = shape
        if self.target_kind == "real":
            self.num_targets = targets.shape[1]
        world = self.share[1]
        for name, dataset in self.datasets.items():
            if len(self.rows[name]) < world:
                raise UserError(
                    f"data: the {name} split has {len(self.rows[name])} rows, fewer than the {world} processes that share it"
                )
            if name != "train":
                first = self._read(dataset, [(0, 1)])
                if tuple(first[0].shape[1:]) != shape:
                    raise UserError(
                        f"data.{name}_path: an input of the {name} split has shape {list(first[0].shape[1:])}, and one of the training "
                        f"split {list(shape)}"
                    )

    def sample(self) -> Block:
        """Up to 2,048 training rows, of 32 MiB, the first ones of up to 32 shards."""
        if self._sample is None:
            train: Any = self.datasets["train"]
            count = len(train.spans.shard)
            chosen = torch.linspace(0, count - 1, min(count, SAMPLED)).long().unique().numpy()
            size = sum(part.nbytes for part in self._read(train, [(0, 1)]))
            each = -(-min(STATISTICS_ROWS, max(SAMPLE_BYTES // size, 64)) // len(chosen))
            before = train.spans.length.cumsum() - train.spans.length
            places = [(int(before[k]), int(before[k] + min(each, train.spans.length[k]))) for k in chosen]
            self._sampled = [stop - start for start, stop in places]
            began = time.perf_counter()
            self._sample = self._read(train, places)
            self.read_s = (time.perf_counter() - began) / len(self._sample[0])
        return self._sample

    def _warn_of_sorted_rows(self) -> None:
        """Tell where rows of one class follow one another, and so few stretches of them are held out that classes may be lacking.

        Shuffled rows of classes with shares p_k change their label from one to the next with probability q = 1 - sum p_k^2. Of the m pairs
        of neighbours in the sample each second one is independent of the others; with mu = m q, Chernoff's bound gives
        P(changes <= mu / 10) <= 2 exp(-(mu / 2) (1 - 0.1 + 0.1 ln 0.1)), below 1e-9 for mu >= 64: shuffled rows are never warned of. Rows
        of fewer pairs, as of shards of one row each, are not judged, and neither are many stretches, which are drawn at random.
        """
        held = {
            name: self.datasets[name] for name in ("val", "test") if name in self.datasets and name not in self._files
        }
        few = [n for n, d in held.items() if len(d.spans.shard) < FEWEST_STRETCHES * (self.num_classes or 0)]  # type: ignore[attr-defined]
        if self.target_kind != "class" or not few:
            return
        parts = self.sample()[1].split(self._sampled)
        changes = sum(int((part[1:] != part[:-1]).sum()) for part in parts)
        counts = torch.tensor(list(self._counts.values()) or torch.cat(parts).bincount().tolist(), dtype=torch.float64)
        pairs = sum(len(part) - 1 for part in parts)
        expected = pairs * (1 - (counts / counts.sum()).square().sum().item())
        if expected >= FEWEST_CHANGES and changes <= SORTED * expected:
            log.warning(
                "data.path: rows seem to be sorted by class (%d changes of the label in %d rows, %d if they were shuffled), so the %s "
                "split held out of them may lack classes, or have some that training lacks; shuffle the rows when writing, or give %s",
                changes,
                pairs + len(parts),
                round(expected),
                " and ".join(few),
                " and ".join(f"data.{name}_path" for name in few),
            )

    def _read(self, dataset: Any, places: Sequence[tuple[int, int]]) -> Block:
        """Some stretches of a split's rows."""
        blocks = [
            block
            for first, last in places
            for shard, start, stop in dataset.spans.cut(first, last)
            for block in dataset.read(shard, start, stop)
        ]
        if len({tuple(part.shape[1:] for part in block) for block in blocks}) > 1:
            shapes = [list(block[0].shape[1:]) for block in blocks]
            other = next(shape for shape in shapes if shape != shapes[0])
            raise UserError(f"data.path: inputs have different shapes, {shapes[0]} and {other}")
        return tuple(torch.cat(parts) for parts in zip(*blocks, strict=True))

    def statistics(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """As for every data set, estimated from the sample."""
        inputs, targets = self.sample()
        rows = torch.arange(len(inputs))
        found = {"input": mean_and_deviation(inputs, rows, per_channel=self.input_kind == "image")}
        if self.target_kind == "real":
            found["target"] = mean_and_deviation(targets, rows, per_channel=False)
        return found

    def _balancing_weights(self) -> list[float] | None:
        """By the labels of all files at `path`, those of held-out rows among them; None where they were not counted."""
        if self.target_kind != "class" or not self._counts or self.num_classes is None:
            return None
        names = self.class_names if self.labels is not None else [str(number) for number in range(self.num_classes)]
        counts = [max(self._counts.get(name, 0), 1) for name in names or []]
        total = sum(self._counts.values())
        return [round(total / (self.num_classes * count), 6) for count in counts]

    def facts(self) -> dict[str, Any]:
        return super().facts() | {"num_targets": self.num_targets}

    def fingerprint(self) -> dict[str, Any]:
        """Rows of each split; names, sizes and rows of the files; what the order depends on besides the seed."""
        if self._fingerprint is None:
            found: dict[str, Any] = {f"{name} rows": len(rows) for name, rows in self.rows.items()}
            for name, files in self._files.items():
                dataset: Any = self.datasets[name]
                text = [f"{file.name} {os.path.getsize(file)}" for file in files]
                text += [f"{shard.path.name} {shard.part} {shard.rows}" for shard in dataset.shards]
                found[f"{name} checksum"] = f"{zlib.crc32(chr(10).join(text).encode()):08x}"
            self._fingerprint = found | {"streams": self.num_streams, "shuffle buffer": self._buffer()}
        return self._fingerprint

    def _buffer(self) -> int:
        if self.shuffle_buffer is not None:
            return self.shuffle_buffer
        inputs = self.sample()[0]
        size = inputs[0].numel() * inputs.element_size()
        return int(min(max(BUFFER_BYTES // max(size, 1), self.num_streams), MOST_BUFFERED))

    def _eval_batch_size(self, name: str) -> int:
        if self.eval_batch_size is not None or name not in self.datasets:
            return self.eval_batch_size or self.batch_size
        size = EVAL_BATCH_BYTES // max(4 * self.sample()[0][0].numel(), 1)
        return int(min(max(size, self.batch_size), 16_384))

    def _loader(self, name: str, batch_size: int, key: Key | None = None, start: Start = int) -> Any:
        if name not in self.datasets:
            return []
        dataset: Any = self.datasets[name]
        rank, world = self.share
        plan = Plan(
            *(dataset.spans, batch_size, self.num_streams, self._buffer()),
            rank=rank,
            world=world,
            min_rows=self.min_train_rows if name == "train" else 1,
        )
        return StreamLoader(plan, dataset.read, key, start, self._workers(batch_size))

    def _workers(self, batch_size: int) -> int:
        """How many processes to read with: none where a batch takes less than two milliseconds, else one a spare processor."""
        if self.num_workers is not None:
            return self.num_workers
        if self.read_s * batch_size < SHORT_S:
            return 0
        processors = (os.cpu_count() or 1) // ranks.place().local_world
        return min(max(processors - 1, 1), MOST_WORKERS)

    def some_batches(self, split: str, size: int, batch_size: int, seed: int) -> list[Batch]:
        """As for every data set, from up to 16 places of the split."""
        dataset: Any = self.datasets[split]
        size = min(size, len(dataset))
        count = min(size, DRAWN_PLACES)
        each, total = -(-size // count), len(dataset)
        room = total // count  # each place has a stretch of its own
        generator = torch.Generator().manual_seed(mix(seed, DRAWN))
        drawn = torch.randint(max(room - each, 0) + 1, (count,), generator=generator).tolist()
        starts = [number * room + start for number, start in enumerate(drawn)]
        found = self._read(dataset, [(start, min(start + each, total)) for start in starts])
        order = permutation(len(found[0]), seed, DRAWN)[:size]
        return [tuple(part[rows] for part in found) for rows in order.split(batch_size)]

    def state_dict(self) -> dict[str, Any]:
        return {"class_names": self.class_names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.class_names = state_dict["class_names"]
