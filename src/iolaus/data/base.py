"""What every data set has in common: facts, splits, statistics and loaders."""

import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import Dataset, TensorDataset

from iolaus import ranks
from iolaus.data.bad_files import BadItem
from iolaus.data.facts import check_tokens, choose_positive_class
from iolaus.data.image_values import refuse_constant_images
from iolaus.data.loader import ALONE, AugmentedLoader, Batch, Key, Share, Start, in_order, make_loader, resident
from iolaus.data.memory import narrowed, parts
from iolaus.data.order import BLOCK, SCALARS, count_batches, fold, row_dtype, shares, shuffled, split
from iolaus.data.picture import ImageDecoder
from iolaus.data.score_warnings import score_warnings
from iolaus.data.statistics import mean_and_deviation
from iolaus.data.transformed import transform
from iolaus.data.unseen import Unseen
from iolaus.errors import UserError

SPLITS = ("train", "val", "test")
EVAL_BATCH_BYTES = 32 * 2**20  # of input, where eval_batch_size is not given
DRAWN = -1  # in place of an epoch, in the key of rows that are drawn for a look
STATISTICS_ROWS = 2_048  # of a data set outside memory that mean and deviation are estimated from


class DataModule(pl.LightningDataModule, ABC):
    """A data set in three splits. A subclass implements `load`; the rest follows.

    A split that `load` does not return is cut from the training data by the seed, of each class its share. A batch is the inputs, one or
    several, and the target.

    Args:
        input_kind: image, table, tokens, ...; a model says which it can take.
        input_shape: shape of one input; None: `load` sets it, or inputs differ in length.
        target_kind: class, real, tokens, ...; a loss says which it can take.
        num_classes: number of classes; None for real targets, or where `load` sets it.
        class_names: a name for each class; `load` may set them.
        class_weights: of each class, for losses that weigh them; None: in inverse proportion to the training split's numbers, 1 on average.
        num_targets: how many real numbers a target is.
        vocab_size: number of tokens; None for other inputs, or where `load` sets it.
        batch_size: samples in a batch of a device.
        eval_batch_size: the same for validation and test; None: as many as 32 MiB of input hold.
        val_fraction: share of the data (those of official splits aside) that becomes the validation split.
        test_fraction: the same for the test split.
        folds: parts that the training rows are cut into once the test split is off, for cross-validation; None: val_fraction counts.
        fold: number of the part that is the validation split then, from 0.
        transforms: of every image when it is read, in order: a list as augment.transforms takes it, without random ones.
        standardize: whether inputs and real targets are standardised by the training split's mean and deviation.
        num_workers: processes that read data sets outside memory; None: as many as pay, by measuring.
        seed: of splits and order.
        positive: the class of two that metrics of the positive class are of; None: the rarer one in the training split.

    Raises:
        UserError: for data that contradict the facts, labels out of range, numbers that are not finite, more folds than rows.
    """

    no_folds = ""  # why a data set is not cut into folds
    cuts_itself = False  # whether `load` cuts the splits that are not given, by `hold_out_rows`
    new_endings: frozenset[str] = frozenset()  # of the files of a folder that are predicted for; none: all of them
    decoder: ImageDecoder | None = None  # of encoded images
    keeps_learned = False  # whether `load` goes by what `load_state_dict` brought back, if it did

    def __init__(
        self,
        input_kind: str,
        input_shape: Sequence[int] | None,
        target_kind: str,
        num_classes: int | None = None,
        class_names: Sequence[str] | None = None,
        class_weights: Sequence[float] | None = None,
        num_targets: int = 1,
        vocab_size: int | None = None,
        batch_size: int = 64,
        eval_batch_size: int | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.2,
        folds: int | None = None,
        fold: int = 0,
        transforms: Sequence[Any] = (),
        standardize: bool = True,
        num_workers: int | None = None,
        seed: int = 0,
        positive: str | float | None = None,
    ):
        super().__init__()
        self.input_kind = input_kind
        self.input_shape = tuple(input_shape) if input_shape is not None else None
        self.target_kind = target_kind
        self.num_classes = num_classes
        self.class_names = list(class_names) if class_names is not None else None
        self.positive = positive
        self.class_weights = list(class_weights) if class_weights is not None else None
        self.num_targets = num_targets
        self.vocab_size = vocab_size
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self.folds = folds
        self.fold = fold
        self.transforms = list(transforms)
        self.standardize = standardize
        self.num_workers = num_workers
        self.seed = seed
        self.augmentations: list[Callable[..., Batch]] = []  # of training batches; build adds the chosen ones
        self.datasets: dict[str, Dataset] = {}
        self.rows: dict[str, torch.Tensor] = {}
        self.keeps_bad_items = False  # whether `new_items` gives a BadItem for what cannot be read, instead of raising
        self.min_train_rows = 1  # of a process in a training batch; a smaller last batch is joined to the one before
        self.unseen = Unseen()  # categories of the rows that were read since this was taken
        self.warnings: list[str] = []  # lines on what may make the score mean little, to be read before training
        self.notes: list[str] = []  # lines on how files and folders were understood
        self.is_shared = True  # by the processes that train together; each looks at all rows otherwise
        self._fingerprint: dict[str, Any] | None = None

    @abstractmethod
    def load(self) -> dict[str, Dataset]:
        """Read the data: at least the split `train`, and `val` and `test` where the data set has its own.

        A TensorDataset (inputs, targets) or another InMemory stays in memory and is the fast way; any other Dataset goes through torch's
        DataLoader, and may have `targets`, a tensor of all its labels, for stratified splits. Inputs are (N, *input_shape), of
        any dtype; targets are (N,) int64 classes or (N, num_targets) float32.
        """

    def setup(self, stage: str | None = None) -> None:
        if self.datasets:
            return
        self.datasets = {name: narrowed(dataset) for name, dataset in self._transformed(self.load()).items()}
        self._check_folds()
        lengths = {name: len(dataset) for name, dataset in self.datasets.items()}  # type: ignore[arg-type]
        self.rows = {name: torch.arange(n, dtype=row_dtype(n)) for name, n in lengths.items()}
        total = len(self.rows["train"])
        for name in ("test", "val"):
            if name not in self.rows and self.is_held_out(name) and total:
                self._cut(name, total)
        self.fit_splits()
        self._check()
        if self.input_kind == "image":
            refuse_constant_images(self.datasets, self.rows)
        dataset = self.datasets["train"]
        if self.input_kind == "table" and isinstance(dataset, TensorDataset) and dataset.tensors[0].ndim == 2:
            inputs, targets = dataset.tensors
            rows, columns = self.rows["train"], self.input_columns()
            self.warnings += score_warnings(inputs, targets, rows, columns, self.target_kind)

    def _transformed(self, datasets: dict[str, Dataset]) -> dict[str, Dataset]:
        """Transform images, and set the shape of the result."""
        if self.transforms:
            datasets, self.input_shape = transform(datasets, self.transforms)
        return datasets

    def fit_splits(self) -> None:
        """Called once the splits are known: what must be learned from the training rows alone belongs here."""

    def is_held_out(self, name: str) -> bool:
        """Whether a split that the data set does not have is cut from its training rows."""
        if name == "val" and self.folds is not None:
            return True
        return {"test": self.test_fraction, "val": self.val_fraction}[name] > 0

    def hold_out_rows(
        self, name: str, labels: torch.Tensor | None, n: int, total: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cut a split from n training rows: a fold, or a share.

        Args:
            name: val or test.
            labels: (n,) of the rows, where they are classes.
            n: rows that are left.
            total: rows that there were before any was cut off.

        Returns:
            the numbers of the rows that stay, and of those cut off.

        Raises:
            UserError: for more folds than rows, or than rows of a class.
        """
        if name == "val" and self.folds is not None:
            self._check_rows_of_folds(labels, n)
            return fold(labels, n, self.folds, self.fold, self.seed, 1)
        fraction = {"test": self.test_fraction, "val": self.val_fraction}[name]
        return split(labels, n, min(fraction * total / max(n, 1), 1.0), self.seed, ("test", "val").index(name))

    def _check_folds(self) -> None:
        """Refuse folds of data that cannot be cut into them."""
        if self.folds is None:
            return
        if self.no_folds:
            raise UserError(f"data.folds: {self.no_folds}; leave it at null")
        if not 0 <= self.fold < self.folds:
            raise UserError(
                f"data.fold: must be from 0 to {self.folds - 1} with data.folds={self.folds}; received {self.fold}"
            )
        if "val" in self.datasets and not self.cuts_itself:
            raise UserError(
                "data.folds: these data have a validation split of their own, which serves as it is; leave it at null"
            )

    def _check_rows_of_folds(self, labels: torch.Tensor | None, n: int) -> None:
        assert self.folds is not None
        if self.folds > n:
            raise UserError(f"data.folds: {self.folds} parts cannot be cut from {n} training rows; set fewer")
        if labels is not None and int(labels.min()) >= 0:
            counts = torch.bincount(labels)
            smallest = int(counts.where(counts > 0, n).argmin())
            if self.folds > counts[smallest]:
                name = self.class_names[smallest] if self.class_names else smallest
                raise UserError(
                    f"data.folds: {self.folds} parts cannot each have a row of class {name!r}, which has {int(counts[smallest])} "
                    "training rows; set fewer"
                )

    def _cut(self, name: str, total: int) -> None:
        """Cut a split from the training data."""
        labels = self._targets("train") if self.target_kind == "class" else None
        rows = self.rows["train"]
        if labels is not None:
            labels = _narrow(labels, rows)
        stay, cut = self.hold_out_rows(name, labels, len(rows), total)
        self.rows[name] = rows.index_select(0, cut)
        self.rows["train"] = rows.index_select(0, stay)
        self.datasets[name] = self.datasets["train"]

    def _targets(self, name: str) -> torch.Tensor | None:
        """All targets of a split's data set, where they are at hand."""
        dataset = self.datasets[name]
        return dataset.tensors[-1] if isinstance(dataset, TensorDataset) else getattr(dataset, "targets", None)

    def _check(self) -> None:
        """Refuse data that contradict the settings."""
        for name, rows in self.rows.items():
            if len(rows) == 0:
                total = sum(len(r) for r in self.rows.values())
                raise UserError(f"data: the {name} split is empty  (the data set has {total} rows in all)")
            inputs = self.datasets[name][int(rows[0])][0]
            if self.input_shape is not None and tuple(inputs.shape) != self.input_shape:
                raise UserError(
                    f"data.input_shape: says {list(self.input_shape)}, but an input of the {name} split has shape "
                    f"{list(inputs.shape)}"
                )
            dataset = self.datasets[name]
            if name == self._holder(dataset):
                self._check_targets(name)
                if self.input_kind == "tokens" and isinstance(dataset, TensorDataset):
                    check_tokens(dataset.tensors[0], self.vocab_size, name)
            if isinstance(dataset, TensorDataset) and dataset.tensors[0].is_floating_point():
                for block in rows.split(BLOCK):  # in blocks, so that no mask of the whole is made
                    finite = dataset.tensors[0].index_select(0, block).isfinite().flatten(1).all(1)
                    if not finite.all():
                        bad = int(block[~finite][0])
                        raise UserError(f"data: row {bad}, in the {name} split, has an input that is NaN or infinite")

    def _holder(self, dataset: Dataset) -> str:
        """The first split of those that share a data set: what concerns all its rows is done once, for that one."""
        return next(name for name, other in self.datasets.items() if other is dataset)

    def _check_targets(self, name: str) -> None:
        targets = self._targets(name)
        if targets is None:
            return
        if self.target_kind == "real":
            if targets.ndim != 2 or targets.shape[1] != self.num_targets:
                raise UserError(
                    f"data.num_targets: says {self.num_targets}, but targets have shape {list(targets.shape[1:])}"
                )
            if not targets.isfinite().all():
                raise UserError(f"data: a target of the {name} split is NaN or infinite")
        elif self.target_kind == "class":
            assert self.num_classes is not None, "load() must set num_classes where the settings do not"
            low, high = int(targets.min()), int(targets.max())
            if low < 0 or high >= self.num_classes:
                bad = low if low < 0 else high
                row = int((targets == bad).nonzero()[0])
                raise UserError(
                    f"data.num_classes: label {bad} (row {row} of the {name} split) is not in 0 .. {self.num_classes - 1}; "
                    f"num_classes is {self.num_classes}"
                )
            if self.class_names is not None and len(self.class_names) != self.num_classes:
                raise UserError(
                    f"data.num_classes: is {self.num_classes}, but there are {len(self.class_names)} class_names"
                )

    def facts(self) -> dict[str, Any]:
        """Facts that settings may ask for and the file may know: shape, classes, weights, positive class, vocabulary's size.

        Raises:
            UserError: for a positive class that the data do not have.
        """
        shape = list(self.input_shape) if self.input_shape is not None else None
        names = {"num_classes": self.num_classes, "class_names": self.class_names, "vocab_size": self.vocab_size}
        weights = self.class_weights or self._balancing_weights()
        return {"input_shape": shape, **names, "class_weights": weights, "positive": self._positive_class()}

    def _positive_class(self) -> str | None:
        """The name of the positive class of two."""
        classes = (self.num_classes or 0) if self.target_kind == "class" else 0
        labels = self._targets("train") if classes == 2 else None
        counts = None if labels is None else torch.bincount(_narrow(labels, self.rows["train"]), minlength=2)
        return choose_positive_class(
            self.positive, [str(name) for name in self.class_names or range(classes)][:classes], counts
        )

    def describe(self) -> list[str]:
        """Return lines that say how the data were understood: the target, the inputs, the rows of each split."""
        rows = ", ".join(f"{name} {len(self.rows[name]):,}" for name in SPLITS if name in self.rows)
        return [*self.describe_target(), *self.describe_inputs(), *self.notes, f"rows: {rows}"]

    def describe_target(self) -> list[str]:
        """Return lines on the target: classification with the training rows of each class, or regression with the range."""
        targets = self._targets("train")
        if self.target_kind == "class" and self.num_classes:
            names = self.class_names or [str(number) for number in range(self.num_classes)]
            if targets is not None:
                labels = _narrow(targets, self.rows["train"])
                counts = torch.bincount(labels, minlength=self.num_classes).tolist()
                names = [f"{name} ({count:,})" for name, count in zip(names, counts, strict=True)]
            positive = self._positive_class()
            ending = f"; positive: {positive}" if positive is not None else ""
            return [f"target: classification, {self.num_classes} classes (training rows): {listed(names)}{ending}"]
        if self.target_kind == "real" and targets is not None and targets.ndim == 2 and targets.shape[1] == 1:
            values = targets.index_select(0, self.rows["train"].to(targets.device))
            return [f"target: regression, {float(values.min()):g} to {float(values.max()):g} in the training rows"]
        kind = f"regression, {self.num_targets} numbers" if self.target_kind == "real" else self.target_kind
        return [f"target: {kind}"]

    def input_columns(self) -> dict[str, slice]:
        """Return the features that each column of a table becomes, by its name."""
        assert self.input_shape is not None
        return {f"feature {number}": slice(number, number + 1) for number in range(self.input_shape[0])}

    def describe_inputs(self) -> list[str]:
        """Return lines on the inputs: their kind and shape, and what was left out or converted."""
        shape = " x ".join(map(str, self.input_shape)) if self.input_shape else ""
        line = f"inputs: {self.input_kind}{f' of {shape}' if shape else ''}"
        return [line, *(self.decoder.describe() if self.decoder is not None else [])]

    def _balancing_weights(self) -> list[float] | None:
        """Rows / (classes * rows of the class): every class then counts the same. None where the labels are not at hand."""
        labels = self._targets("train") if self.target_kind == "class" else None
        if labels is None or self.num_classes is None:
            return None
        counts = torch.bincount(_narrow(labels, self.rows["train"]), minlength=self.num_classes).clamp_min(1)
        return [round(weight, 6) for weight in (len(self.rows["train"]) / (self.num_classes * counts)).tolist()]

    def statistics(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Mean and deviation over the training split, float32, of `input` unless it is tokens, and of a real `target`.

        Images have one of each a channel, (C, 1, 1); everything else one a feature. A constant feature has deviation 1.
        """
        dataset, rows = self.datasets["train"], self.rows["train"]
        if not isinstance(dataset, TensorDataset):
            rows = rows[torch.linspace(0, len(rows) - 1, min(len(rows), STATISTICS_ROWS)).long()]
            samples = [dataset[int(row)] for row in rows]
            targets = torch.stack([torch.as_tensor(s[1]) for s in samples])
            dataset = TensorDataset(torch.stack([s[0] for s in samples]), targets)
            rows = torch.arange(len(samples))
        inputs, targets = dataset.tensors[0], dataset.tensors[-1]
        found = {}
        if self.input_kind != "tokens":
            found["input"] = mean_and_deviation(inputs, rows, per_channel=self.input_kind == "image")
        if self.target_kind == "real":
            found["target"] = mean_and_deviation(targets, rows, per_channel=False)
        return found

    def new_items(self, source: Path | str) -> Iterator[Any]:
        """What a file, or a text given in its place, holds to predict for: items as the task's `predict` takes them, one by one.

        A subclass gives `bad_item(error)` in the place of a row that cannot be read where the next one can.

        Nothing but the settings and what `load_state_dict` brought back is known then: the training data need not be there.

        Raises:
            UserError: for a source that is not what these data are made of.
        """
        raise UserError(f"predict: {type(self).__name__} does not read new files")

    def bad_item(self, error: UserError) -> BadItem:
        """Return what stands in the place of an item that cannot be read.

        Raises:
            UserError: the error itself, unless bad items are kept.
        """
        if not self.keeps_bad_items:
            raise error
        return BadItem(str(error))

    def row_text(self, row: Any) -> str:
        """A row of values as the text that `new_items` takes in place of a file.

        Args:
            row: values in order.

        Raises:
            UserError: for what is no list of numbers and texts.
        """
        if not isinstance(row, list) or not all(isinstance(value, str | int | float) for value in row):
            raise UserError(f"a row of these data is a list of values; received {str(row)[:100]}")
        return ",".join(map(str, row))

    def fingerprint(self) -> dict[str, Any]:
        """What the data are: rows of each split and a checksum of their content.

        A data set outside memory may tell its content as a text by a method `fingerprint()`.
        """
        if self._fingerprint is None:
            found: dict[str, Any] = {f"{name} rows": len(rows) for name, rows in self.rows.items()}
            sums = {name: _checksum(d) for name, d in self.datasets.items() if name == self._holder(d)}
            found |= {f"{name} checksum": f"{sums[self._holder(d)]:08x}" for name, d in self.datasets.items()}
            self._fingerprint = found
        return self._fingerprint

    def _loader(self, name: str, batch_size: int, key: Key | None = None, start: Start = int) -> Any:
        if name not in self.datasets:
            return []
        if self.trainer is not None:
            here = self.datasets[name]
            there = resident(here, self.trainer.strategy.root_device)
            self.datasets = {n: there if d is here else d for n, d in self.datasets.items()}
        min_rows = self.min_train_rows if name == "train" else 1
        return make_loader(
            self.datasets[name], self.rows[name], batch_size, key, self.num_workers, start, self.share, min_rows
        )

    @property
    def num_train_batches(self) -> int:
        """Batches of an epoch, the same for each process."""
        return count_batches(len(self.rows["train"]), self.batch_size, self.share[1], self.min_train_rows)

    @property
    def share(self) -> Share:
        """This process among those that share the rows, and their number."""
        return _share() if self.is_shared else ALONE

    def is_spare(self, split: str, batch_idx: int) -> bool:
        """Whether a batch holds a sample only to keep this process in step with others, of which one has it: it must not count."""
        rank, world = self.share
        size = self.batch_size if split == "train" else self._eval_batch_size(split)
        return world > 1 and batch_idx * size * world + rank >= len(self.rows[split])

    def _eval_batch_size(self, name: str) -> int:
        if self.eval_batch_size is not None or name not in self.datasets:
            return self.eval_batch_size or self.batch_size
        inputs = self.datasets[name][0][0]
        size = max(EVAL_BATCH_BYTES // max(4 * inputs.numel(), 1), self.batch_size)
        return int(min(size, 16_384))

    def some_batches(self, split: str, size: int, batch_size: int, seed: int) -> list[Batch]:
        """Batches of some of a split's rows, drawn by a seed, without augmentation; no generator shows a trace of it."""
        rows = shuffled(self.rows[split], seed, DRAWN)[:size]
        return [tuple(batch) for batch in make_loader(self.datasets[split], rows, batch_size, key=None, num_workers=0)]

    def rows_in_order(self, split: str) -> torch.Tensor:
        """The rows of a split in the order in which this process' validation or test goes through them."""
        lengths, size = getattr(self.datasets[split], "lengths", None), self._eval_batch_size(split)
        rank, world = _share()
        rows = in_order(self.rows[split], (), size * world, lengths)
        return torch.cat(list(shares(rows, size, rank, world)))

    @contextmanager
    def looked_at_whole(self) -> Iterator[None]:
        """Loaders go through all rows in each process, where several train together."""
        self.is_shared, before = False, self.is_shared
        try:
            yield
        finally:
            self.is_shared = before

    def samples(self, split: str, rows: Sequence[int]) -> list[Batch]:
        """Some rows of a split, each as a batch of one: the inputs and the target."""
        dataset = self.datasets[split]
        return [
            tuple(next(iter(make_loader(dataset, torch.tensor([row]), 1, key=None, num_workers=0)))) for row in rows
        ]

    def train_dataloader(self) -> Any:
        def key() -> tuple[int, ...]:
            # Overfitting repeats the same batches, so their order must not change.
            if self.trainer is None or self.trainer.overfit_batches:  # type: ignore[attr-defined]
                return (self.seed, 0)
            return (self.seed, self.trainer.current_epoch)

        def start() -> int:
            if self.trainer is None or not self.trainer.fit_loop.restarting:
                return 0
            return self.trainer.fit_loop.epoch_loop.batch_progress.current.completed

        loader = self._loader("train", self.batch_size, key, start)
        return AugmentedLoader(loader, self.augmentations, key, start, self.share) if self.augmentations else loader

    def val_dataloader(self) -> Any:
        return self._loader("val", self._eval_batch_size("val"))

    def test_dataloader(self) -> Any:
        return self._loader("test", self._eval_batch_size("test"))

    def loader(self, split: str) -> Any:
        """The loader of val or test."""
        return self.val_dataloader() if split == "val" else self.test_dataloader()


def listed(names: Sequence[str], limit: int = 10) -> str:
    """Return names as one text, the first of them where there are many."""
    return ", ".join(names[:limit]) + (f", and {len(names) - limit:,} more" if len(names) > limit else "")


def _share() -> Share:
    """This process among those that train together, and their number."""
    return ranks.rank(), ranks.count()


def _checksum(dataset: Dataset) -> int:
    """CRC-32 of a data set's content: of the bytes of tensors, or of what the data set says of itself."""
    describe, held = getattr(dataset, "fingerprint", None), parts(dataset)
    if held is None or describe is not None:
        return zlib.crc32(describe().encode()) if describe is not None else 0
    value = 0
    for tensor in held:
        for block in tensor.split(BLOCK if tensor.ndim > 1 else SCALARS):
            value = zlib.crc32(block.cpu().contiguous().numpy().data, value)
    return value


def _narrow(labels: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """The labels of these rows, no wider than they need be, without a wide copy of all."""
    found = torch.empty(len(rows), dtype=torch.int16 if int(labels.max()) < 2**15 else torch.int32)
    for part, block in zip(found.split(SCALARS), rows.split(SCALARS), strict=True):
        part.copy_(labels.index_select(0, block))
    return found
