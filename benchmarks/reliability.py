"""What resume points, safe checkpoint files, signals and the watch for divergence cost: a run with them against one without.

python benchmarks/reliability.py [pairs, 7 by default]
"""

import sys
import time

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from timing import built, machine, ratio

from iolaus.checkpoint import CheckpointFiles, read, write
from iolaus.task.base import Task

EPOCHS = "trainer.max_epochs=3"


def fit_s(*overrides: str, guarded: bool) -> float:
    """Seconds of a fit; without the guards: Lightning's own checkpoint files, no resume points, no look at the loss."""
    watch = Task.on_before_backward
    if not guarded:
        Task.on_before_backward = pl.LightningModule.on_before_backward
    try:
        run = built(*overrides, EPOCHS, *([] if guarded else ["~callbacks.resume_points"]))
        if not guarded:
            run.trainer.strategy.checkpoint_io = TorchCheckpointIO()
        start = time.perf_counter()
        run.trainer.fit(run.task, datamodule=run.data)
        return time.perf_counter() - start
    finally:
        Task.on_before_backward = watch


def seconds(action) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


if __name__ == "__main__":
    print(machine())
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    for name, overrides in {
        "MLP, batch 64": ["model.hidden_dims=[256,128]", "data.batch_size=64"],
        "MLP, batch 512": ["model.hidden_dims=[256,128]", "data.batch_size=512"],
    }.items():
        fit_s(*overrides, guarded=True)  # warm
        times = [(fit_s(*overrides, guarded=True), fit_s(*overrides, guarded=False)) for _ in range(pairs)]
        print(f"{name}, with / without: {ratio(*zip(*times, strict=True))}", flush=True)

    from pathlib import Path
    from tempfile import TemporaryDirectory

    state = {"state_dict": {"w": torch.randn(25_000_000)}, "pytorch-lightning_version": "2.6.6"}  # 100 MB
    with TemporaryDirectory() as folder:
        ours, theirs = Path(folder, "a.ckpt"), Path(folder, "b.ckpt")
        stock = TorchCheckpointIO()
        saves = [
            (seconds(lambda: write(state, ours)), seconds(lambda: stock.save_checkpoint(state, str(theirs))))
            for _ in range(pairs)
        ]
        print(f"a save of 100 MB, ours / Lightning's: {ratio(*zip(*saves, strict=True))}")
        loads = [
            (seconds(lambda: read(ours)), seconds(lambda: torch.load(theirs, weights_only=True))) for _ in range(pairs)
        ]
        print(f"a load of 100 MB, checked / unchecked: {ratio(*zip(*loads, strict=True))}")
        background = CheckpointFiles(background=True)
        waits = [seconds(lambda: background.save_checkpoint(state, ours)) for _ in range(2)][:1]
        background.wait()
        print(f"a save of 100 MB in the background keeps the training for {1e3 * waits[0]:.0f} ms")
