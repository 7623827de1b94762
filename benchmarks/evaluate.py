"""Samples a second of a validation epoch, metrics included, against a tight loop of forward passes and hits; and of predictions for a
file, written as CSV, against a script that does the same.

python benchmarks/evaluate.py [rounds]
"""

import csv
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from timing import MNIST_SHAPE, ROOT, built, machine, mnist_shaped, ratio  # first: it sets threads and imports lean

from iolaus.model.mlp import MLP
from iolaus.predict import predict

N = 60_000


@torch.inference_mode()
def tight(model, images, labels, batch_size):
    model.eval()
    hits = torch.zeros((), dtype=torch.long)
    for x, y in zip(images.split(batch_size), labels.split(batch_size), strict=True):
        hits += (model(x.float().sub_(33.3).mul_(1 / 78.6)).argmax(1) == y).sum()
    return hits.item()


def script(model, images, output):
    """Probabilities of all classes, a line each, as one writes it by hand."""
    with open(output, "w", newline="") as file, torch.inference_mode():
        write = csv.writer(file).writerow
        write(["prediction", "probability", *range(10)])
        for x in images.split(256):
            for row in model(x.float().sub_(33.3).mul_(1 / 78.6)).softmax(1).tolist():
                write([row.index(max(row)), f"{max(row):.6g}", *(f"{p:.6g}" for p in row)])


def predictions(rounds: int, folder: Path) -> None:
    import numpy as np

    images, labels = (t.numpy() for t in mnist_shaped(20_000))
    np.savez(folder / "data.npz", inputs=images, targets=labels)
    words = ["data=npz", f"data.path={folder}/data.npz", "trainer.max_epochs=1", f"output_dir={folder}/run"]
    subprocess.run([sys.executable, ROOT / "train.py", *words], check=True, capture_output=True)
    model = MLP(MNIST_SHAPE, 10)
    ours, theirs = [], []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        predict(folder / "run", [str(folder / "data.npz")], [], "best", folder / "ours.csv", [])
        ours.append(time.perf_counter() - start)
        start = time.perf_counter()
        script(model, torch.from_numpy(np.load(folder / "data.npz")["inputs"]), folder / "theirs.csv")
        theirs.append(time.perf_counter() - start)
    print(f"predictions for a file of 20,000 images to CSV, Iolaus / a script   {ratio(ours[1:], theirs[1:])}")
    print(f"samples a second: {20_000 / sorted(ours)[len(ours) // 2]:,.0f}")


if __name__ == "__main__":
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    print(machine())
    run = built("data.val_fraction=0.9", "data.test_fraction=0.05", "model.hidden_dims=[256,128]", n=N)
    rows = run.data.rows["val"]
    images, labels = (t.index_select(0, rows) for t in run.data.datasets["val"].tensors)
    model = MLP(MNIST_SHAPE, 10, [256, 128])
    ours, theirs = [], []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        run.trainer.validate(run.task, datamodule=run.data, verbose=False)
        ours.append(time.perf_counter() - start)
        start = time.perf_counter()
        tight(model, images, labels, run.data.val_dataloader().batch_size)
        theirs.append(time.perf_counter() - start)
    print(f"validation, Iolaus with five metrics / tight loop with hits   {ratio(ours[1:], theirs[1:])}")
    print(f"samples a second: {len(rows) / sorted(ours)[len(ours) // 2]:,.0f}")
    with tempfile.TemporaryDirectory() as folder:
        predictions(rounds, Path(folder))
