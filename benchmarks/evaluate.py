"""Samples a second of a validation epoch, metrics included, against a tight loop of forward passes and hits.

python benchmarks/evaluate.py [rounds]
"""

import sys
import time

import torch
from timing import MNIST_SHAPE, built, machine, ratio  # first: it sets threads and imports lean

from iolaus.model.mlp import MLP

N = 60_000


@torch.inference_mode()
def tight(model, images, labels, batch_size):
    model.eval()
    hits = torch.zeros((), dtype=torch.long)
    for x, y in zip(images.split(batch_size), labels.split(batch_size), strict=True):
        hits += (model(x.float().sub_(33.3).mul_(1 / 78.6)).argmax(1) == y).sum()
    return hits.item()


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
