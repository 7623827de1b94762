"""How fast the training is and what memory it takes, epoch by epoch."""

import os
import resource
import sys
import time
from pathlib import Path

import pytorch_lightning as pl
import torch

from iolaus.callbacks.base import EpochLook
from iolaus.data.base import DataModule
from iolaus.task.base import Task

MB = 2**20


class Throughput(EpochLook):
    """Measures each epoch without its validation; as it differs from run to run, it goes to TensorBoard and not to metrics.csv.

    | logged | is |
    | --- | --- |
    | throughput/samples_per_s | training samples a second |
    | throughput/steps_per_s | optimizer steps a second |
    | memory/rss_mb | memory of the training's process at the end of the epoch, in MiB |
    | memory/gpu_peak_mb | the most that tensors took on the GPU in the epoch, in MiB |

    Cost: a millisecond an epoch; a GPU is waited for when an epoch begins and ends.

    Args:
        every_n_epochs: epochs between those that are logged.
    """

    def __init__(self, every_n_epochs: int = 1):
        super().__init__(every_n_epochs)
        self._start: tuple[float, int, int] | None = None  # seconds, batches of the epoch, steps when it began
        self._paused = 0.0  # seconds of validation
        self._pause = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.boards:
            return
        if (device := trainer.strategy.root_device).type == "cuda":
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
        batches = trainer.fit_loop.epoch_loop.batch_progress.current.completed if trainer.fit_loop.restarting else 0
        self._start = time.perf_counter(), batches, trainer.global_step
        self._paused = 0.0

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.boards and (device := trainer.strategy.root_device).type == "cuda":
            torch.cuda.synchronize(device)
        self._pause = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._paused += time.perf_counter() - self._pause

    def look(self, trainer: pl.Trainer, task: Task, data: DataModule) -> None:
        if self._start is None:
            return
        start, first, step = self._start
        device = trainer.strategy.root_device
        values = {"memory/rss_mb": resident_mb()}
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            values["memory/gpu_peak_mb"] = torch.cuda.max_memory_allocated(device) / MB
        seconds = max(time.perf_counter() - start - self._paused, 1e-9)
        last = trainer.fit_loop.epoch_loop.batch_progress.current.completed
        rows = len(data.rows["train"])
        samples = min(last * data.batch_size, rows) - min(first * data.batch_size, rows)
        values["throughput/samples_per_s"] = samples / seconds
        values["throughput/steps_per_s"] = (trainer.global_step - step) / seconds
        for board in self.boards:
            board.log_metrics(values, trainer.global_step - 1)  # as all that is logged at an epoch's end


def resident_mb() -> float:
    """Memory of this process in MiB; where the system does not tell, the most that it was."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MB if sys.platform == "darwin" else peak / 1024
