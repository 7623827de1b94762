"""Growth with the number of rows: time a row of a training epoch, and peak memory against the size of the data.

Each size is a process of its own: a table of 16 float32 columns, an MLP, batches of 1,024, one epoch.

    python benchmarks/growth.py [largest power of ten, 7 by default]
"""

import json
import resource
import subprocess
import sys
import time

import torch
from timing import built, machine

WIDTH = 16


def one(n: int) -> dict[str, float]:
    import pytorch_lightning as pl

    class Clock(pl.Callback):
        def on_train_epoch_start(self, *args):
            self.start = time.perf_counter()

        def on_train_batch_end(self, *args):
            self.seconds = time.perf_counter() - self.start

    clock = Clock()
    facts = [
        "data.input_kind=table",
        f"data.input_shape=[{WIDTH}]",
        "data._target_=growth.Rows",
        "data.batch_size=1024",
    ]
    run = built(*facts, "trainer.max_epochs=2", "~callbacks.early_stopping", n=n)
    run.trainer.callbacks.append(clock)
    run.trainer.fit(run.task, datamodule=run.data)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "us_a_row": 1e6 * clock.seconds / len(run.data.rows["train"]),
        "peak_mb": peak / 2**20,
        "data_mb": n * (4 * WIDTH + 8) / 2**20,
    }


def rows_module():
    from iolaus.data.base import DataModule

    class Rows(DataModule):
        """n rows of random numbers and the sign of their sum among ten classes."""

        def __init__(self, n: int, **base):
            super().__init__(**base)
            self.n = n

        def load(self):
            x = torch.randn(self.n, WIDTH, generator=torch.Generator().manual_seed(0))
            return {"train": torch.utils.data.TensorDataset(x, x[:, 0].mul(3).clamp_(-4, 5).long().add_(4))}

    return Rows


Rows = rows_module()

if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(one(int(sys.argv[2]))))
        sys.exit()
    print(machine())
    largest = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    results = {}
    for power in range(3, largest + 1):
        done = subprocess.run([sys.executable, __file__, "--one", str(10**power)], capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        results[power] = json.loads(done.stdout.splitlines()[-1])
    small = results[3]
    print("rows    us a row   against 1e4   peak MB   (peak - small run's) / data")
    for power, r in results.items():
        flat = r["us_a_row"] / results[4]["us_a_row"]
        memory = (r["peak_mb"] - small["peak_mb"]) / r["data_mb"]
        print(f"1e{power}   {r['us_a_row']:9.3f}   {flat:11.3f}   {r['peak_mb']:7.0f}   {memory:6.2f}", flush=True)
