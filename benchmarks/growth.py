"""Growth: with rows, the time a row of a training epoch takes and peak memory against the size of the data; with classes, the time of
an epoch and its validation against a tight loop's; with the jobs of a sweep, the time a job takes.

Each size is a process of its own: a table of 16 float32 columns, an MLP, batches of 1,024, one epoch.

    python benchmarks/growth.py [largest power of ten, 7 by default]
"""

import json
import resource
import subprocess
import sys
import tempfile
import time

import torch
from timing import ROOT, built, machine

WIDTH = 16


def run_of(n: int, *overrides: str):
    facts = [
        "data.input_kind=table",
        f"data.input_shape=[{WIDTH}]",
        "data._target_=growth.Rows",
        "data.batch_size=1024",
    ]
    return built(*facts, "trainer.max_epochs=2", "~callbacks.early_stopping", *overrides, n=n)


def one(n: int) -> dict[str, float]:
    import pytorch_lightning as pl

    class Clock(pl.Callback):
        def on_train_epoch_start(self, *args):
            self.start = time.perf_counter()

        def on_train_batch_end(self, *args):
            self.seconds = time.perf_counter() - self.start

    clock = Clock()
    run = run_of(n)
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
        """n rows of random numbers, and of the first one in which share of its range it lies, as the class."""

        def __init__(self, n: int, **base):
            super().__init__(**base)
            self.n = n

        def load(self):
            x = torch.randn(self.n, WIDTH, generator=torch.Generator().manual_seed(0))
            share = x[:, 0].div(2**0.5).erf_().add_(1).mul_(self.num_classes / 2)
            return {"train": torch.utils.data.TensorDataset(x, share.long().clamp_(0, self.num_classes - 1))}

    return Rows


Rows = rows_module()


def classes(c: int) -> dict[str, float]:
    """Seconds of a training epoch with its validation, and of a loop of the same batches with loss and hits alone."""
    from iolaus.model.mlp import MLP

    run = run_of(100_000, f"data.num_classes={c}")
    start = time.perf_counter()
    run.trainer.fit(run.task, datamodule=run.data)
    ours = time.perf_counter() - start
    model = MLP([WIDTH], c, [128, 64])
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    x, y = (t.clone() for t in run.data.datasets["train"].tensors)
    start = time.perf_counter()
    for _ in range(2):
        for rows in run.data.rows["train"].split(1024):
            loss = torch.nn.functional.cross_entropy(model(x[rows]), y[rows].long())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            for rows in run.data.rows["val"].split(16_384):
                (model(x[rows]).argmax(1) == y[rows]).sum().item()
    return {"ours_s": ours, "theirs_s": time.perf_counter() - start}


def sweep(jobs: int) -> float:
    """Seconds of a sweep over seeds, its imports included."""
    with tempfile.TemporaryDirectory() as folder:
        seeds = ",".join(map(str, range(jobs)))
        words = ["-m", "data=iris", f"seed={seeds}", "trainer.max_epochs=3", f"output_dir={folder}/sweep"]
        start = time.perf_counter()
        subprocess.run([sys.executable, ROOT / "train.py", *words], capture_output=True, check=True)
        return time.perf_counter() - start


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(one(int(sys.argv[2]))))
        sys.exit()
    if sys.argv[1:2] == ["--classes"]:
        print(json.dumps(classes(int(sys.argv[2]))))
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
    print("classes   epoch with its validation, s   against a tight loop")
    for c in (10, 100, 1000):
        done = subprocess.run(
            [sys.executable, __file__, "--classes", str(c)], capture_output=True, text=True, check=True
        )
        r = json.loads(done.stdout.splitlines()[-1])
        print(f"{c:7d}   {r['ours_s'] / 2:28.3f}   {r['ours_s'] / r['theirs_s']:20.3f}", flush=True)
    print("jobs of a sweep   seconds a job beyond the first")
    first = sweep(1)
    for jobs in (2, 8, 32):
        print(f"{jobs:15d}   {(sweep(jobs) - first) / (jobs - 1):30.3f}", flush=True)
