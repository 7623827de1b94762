"""The batch size: samples a second and memory of a step over sizes, and the largest that the device has room for."""

import gc
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim import LBFGS

from iolaus.build import Run, steps_per_epoch
from iolaus.errors import UserError
from iolaus.exhibits import Curves, Exhibit, Table
from iolaus.finder.base import Finder, Finding
from iolaus.finder.trial import Batch, Trial
from iolaus.memory import step_bytes
from iolaus.study.base import followed

NEAR = 0.95  # of the best speed, which a smaller size is worth
FEWEST = 3  # steps that are timed
EXACT = 0.05  # how near the largest size is found, as a share of it
MIN_STEPS = 10  # of an epoch, below which a size is not suggested for its speed
CGROUP = Path("/sys/fs/cgroup")  # what a container may use


@dataclass(frozen=True)
class Measured:
    """A batch size, samples a second, bytes of a step at its peak (None where these cannot be counted), steps of an epoch."""

    size: int
    samples_per_s: float
    bytes: int | None
    steps: int


class BatchSizeFind(Finder):
    """Times a few steps of sizes 1, 2, 4, ... up to the training rows, with the batches that a fit would read.

    On a GPU sizes double until one does not fit, and the largest that does is found by halving what is left; memory is what torch has
    allocated at most, and that size is the suggestion. On a processor, where a step that does not fit would be killed or swapped, memory
    is counted beforehand without allocating, and sizes end where it would exceed `memory_gb`; the suggestion is the smallest size
    within 5 % of the best speed. A size that would leave fewer than 10 steps an epoch is not suggested for its speed; the line says
    what it would reach. How well a size trains is not judged: another batch size wants another learning rate.

    Args:
        max_size: the largest size that is tried; None: the rows of the training split.
        memory_gb: what a step may take, in 10^9 bytes; None: all that is free.
        seconds_per_size: how long each size is timed, at least three steps.
    """

    def __init__(self, max_size: int | None = None, memory_gb: float | None = None, seconds_per_size: float = 0.3):
        self.max_size = max_size
        self.memory_gb = memory_gb
        self.seconds_per_size = seconds_per_size

    def find(self, run: Run) -> Finding:
        """Time sizes.

        Raises:
            UserError: where not even one sample fits.
        """
        rows = len(run.data.rows["train"])
        most = min(rows, self.max_size or rows)
        before = run.data.batch_size
        try:
            on_gpu = run.trainer.strategy.root_device.type == "cuda"
            found = self._on_gpu(run, most) if on_gpu else self._on_processor(run, most)
        finally:
            run.data.batch_size = before
        if not found:
            raise UserError(
                "batch_size_find: not even a batch of one sample fits into the memory; set batch_size_find.memory_gb"
            )
        return _finding(sorted(found, key=lambda measured: measured.size), on_gpu, most)

    def _on_processor(self, run: Run, most: int) -> list[Measured]:
        """Sizes as long as their memory, which is counted first, does not exceed what there is."""
        limit = self.memory_gb * 1e9 if self.memory_gb else free_bytes()
        found = []
        for size in followed(list(doubling(most)), "batch_size_find"):
            needed = _counted(run, size)
            if needed is not None and needed > limit:
                break
            if (speed := self._speed_unless_too_small(run, size)) is not None:
                found.append(Measured(size, speed, needed, _steps(run, size)))
        return found

    def _on_gpu(self, run: Run, most: int) -> list[Measured]:
        """Sizes that fit, the largest among them."""
        device = run.trainer.strategy.root_device
        found: list[Measured] = []

        def fits(size: int) -> bool:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
            try:
                speed = self._speed_unless_too_small(run, size)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                error.__traceback__ = None  # whose frames hold the tensors
            else:
                used = torch.cuda.max_memory_allocated(device)
                if not self.memory_gb or used <= self.memory_gb * 1e9:
                    found.extend([Measured(size, speed, used, _steps(run, size))] if speed is not None else [])
                    return True
            gc.collect()
            return False

        largest_that(fits, most)
        torch.cuda.empty_cache()
        return found

    def _speed_unless_too_small(self, run: Run, size: int) -> float | None:
        """Samples a second; None for a single sample where the model wants several, as batch norms do."""
        try:
            return self._speed(run, size)
        except ValueError:
            if size > 1:
                raise
            return None

    def _speed(self, run: Run, size: int) -> float:
        """Samples a second of a size, reading included: the median of steps, after one that warms up."""
        run.data.batch_size = size
        with Trial(run) as trial:
            if not isinstance(trial.optimizer, LBFGS):
                for group in trial.optimizer.param_groups:
                    group["lr"] = group["lr"] * 0  # the weights stay where they are: no size diverges
            batches = _full(trial.batches(), size)
            seconds: list[float] = []
            end = None
            while end is None or len(seconds) < FEWEST or time.perf_counter() < end:
                start = time.perf_counter()
                trial.step([next(batches) for _ in range(trial.accumulate)])
                if end is None:
                    end = time.perf_counter() + self.seconds_per_size
                else:
                    seconds.append(time.perf_counter() - start)
        return size * trial.accumulate / statistics.median(seconds)


def doubling(most: int) -> Iterator[int]:
    """1, 2, 4, ... and the last."""
    size = 1
    while size < most:
        yield size
        size *= 2
    yield most


def largest_that(fits: Callable[[int], bool], most: int) -> int:
    """The largest size that fits, within 5 %, by doubling and then halving what is left; 0 where none does."""
    good, bad = 0, most + 1
    for size in doubling(most):
        if not fits(size):
            bad = size
            break
        good = size
    while good and bad - good > max(EXACT * good, 1):
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is a GPU's that has no room left, as torch, cuBLAS and cuDNN tell it."""
    told = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in told)


def free_bytes() -> int:
    """Memory that a process may still take: what the machine has free, or what is left to its container where that is less."""
    pages = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        pages = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError, IndexError):
        pass  # no Linux: what is free alone, without what could be freed
    try:
        limit, used = (int((CGROUP / name).read_text(encoding="utf-8")) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):  # no container, or one without a limit
        return pages
    return min(pages, max(limit - used, 0))


def _full(batches: Iterator[Batch], size: int) -> Iterator[Batch]:
    """Batches of the whole size: the last of an epoch may be smaller, or larger where a small one was joined to it."""
    return ([part[:size] for part in batch] for batch in batches if len(batch[-1]) >= size)


def _steps(run: Run, size: int) -> int:
    """Steps of an epoch with batches of a size."""
    run.data.batch_size = size
    return steps_per_epoch(run.data, run.config["trainer"])


def _counted(run: Run, size: int) -> int | None:
    """Bytes of a step with batches of a size; None where the model's operations cannot be followed without values."""
    run.data.batch_size = size
    batch = [part[:size] for part in next(iter(run.data.train_dataloader()))]
    settings = run.config | {"trainer": run.config["trainer"] | {"accelerator": "cpu"}}
    try:
        return step_bytes(settings, [(tuple(part.shape), part.dtype) for part in batch])
    except UserError:
        return None


def _quickest(found: list[Measured]) -> Measured:
    """The smallest size within 5 % of the best speed."""
    best = max(measured.samples_per_s for measured in found)
    return next(measured for measured in found if measured.samples_per_s >= NEAR * best)


def _epoch(measured: Measured) -> str:
    return f"an epoch has {measured.steps:,} step{'s' if measured.steps != 1 else ''} with batches of {measured.size}"


def _finding(found: list[Measured], on_gpu: bool, most: int) -> Finding:
    """The suggestion, and why."""
    quick = _quickest(found)
    largest = found[-1]
    enough = [measured for measured in found if measured.steps >= MIN_STEPS] or found[:1]
    fastest = largest if on_gpu else quick
    chosen = fastest if fastest in enough else enough[-1] if on_gpu else _quickest(enough)
    room = "the largest that was tried" if largest.size == most else "the largest that fits"
    told = f"  {quick.samples_per_s:,.0f} samples/s with {quick.size}, "
    if quick is largest:
        told += room
    else:
        told += f"the smallest within 5 % of the best; {largest.samples_per_s:,.0f} with {largest.size}, {room}"
    words = [f"batch_size_find: try data.batch_size={chosen.size}", told, f"  {_epoch(chosen)}"]
    if chosen is not fastest:
        words[-1] += f"; {_epoch(fastest)}, too few to be suggested"
    if None in {measured.bytes for measured in found}:
        words.append("  the memory of this model cannot be counted beforehand")
    sizes = [measured.size for measured in found]
    labels = ("batch size", "samples/s")
    marks: dict[str, Any] = {"marks": {f"suggested, {chosen.size}": chosen.size}}
    speed = Curves(sizes, {"speed": [m.samples_per_s for m in found]}, labels, "speed by batch size", "xy", **marks)
    figures: dict[str, Exhibit] = {"batch_size_find": speed}
    if None not in (memory := [m.bytes for m in found]):
        megabytes = [(needed or 0) / 1e6 for needed in memory]
        labels = ("batch size", "MB")
        title = "memory of a step at its peak"
        figures["batch_size_find_memory"] = Curves(sizes, {"memory": megabytes}, labels, title, "xy", **marks)
    columns = ["batch_size", "samples_per_s", "bytes", "steps_per_epoch"]
    table = Table(columns, [(m.size, m.samples_per_s, m.bytes, m.steps) for m in found])
    suggestion = {"data.batch_size": chosen.size, "quickest": quick.size, "largest": largest.size}
    return Finding(figures, table, "\n".join(words), suggestion)
