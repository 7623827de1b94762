"""A Hessian-vector product against a bare double backward pass over the same batches, written by hand.

python benchmarks/curvature.py [pairs, 31 by default]
"""

import sys
import time
from pathlib import Path

import torch
import yaml
from timing import ROOT, built, machine, ratio  # first: it sets threads and imports lean
from torch.nn import functional as F

from iolaus.functional.hessian import Hessian
from iolaus.undisturbed import twice_differentiable, undisturbed


def bare(model, parameters, batches, mean, deviation, vector):
    """The product as one writes it for a model, with nothing around it."""
    total = [torch.zeros_like(p) for p in parameters]
    count = sum(len(target) for _, target in batches)
    for inputs, target in batches:
        loss = F.cross_entropy(model((inputs - mean) / deviation), target)
        gradient = torch.autograd.grad(loss, parameters, create_graph=True)
        product = torch.autograd.grad(gradient, parameters, vector)
        for sum_, part in zip(total, product, strict=True):
            sum_.add_(part, alpha=len(target) / count)
    return total


def flow(layers) -> str:
    """Containers as Hydra reads them."""
    return yaml.safe_dump(layers, default_flow_style=True, width=10_000).strip()


def compare(name: str, pairs: int, samples: int, *overrides: str) -> None:
    run = built(*overrides, n=3_000)
    task, batches = run.task, run.data.some_batches("train", samples, 64, 0)
    layer = task.standardize_input

    def loss(batch):
        value, _, target = task.step(batch)
        return value, task.size(target)

    ours, theirs = [], []
    with undisturbed(task, "train"), twice_differentiable(task):
        hessian = Hessian(task, loss, batches)
        vector = torch.randn(hessian.dim)
        parts = [v.view_as(p) for v, p in zip(vector.split(hessian.sizes), hessian.parameters, strict=True)]
        for _ in range(pairs + 2):
            start = time.process_time()
            one = hessian @ vector
            ours.append(time.process_time() - start)
            start = time.process_time()
            other = bare(task.model, hessian.parameters, batches, layer.mean, layer.deviation, parts)
            theirs.append(time.process_time() - start)
    torch.testing.assert_close(one, torch.cat([part.reshape(-1) for part in other]), rtol=1e-3, atol=1e-5)
    print(f"{name}, {samples} samples, a product / a bare double backward   {ratio(ours[2:], theirs[2:])}")


if __name__ == "__main__":
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 31
    residual = yaml.safe_load(Path(ROOT, "conf/experiment/residual_spectrum.yaml").read_text())["model"]["layers"]
    print(machine())
    compare("MLP 784-128-10", pairs, 512, "model.hidden_dims=[128]")
    compare("MLP 784-16-10", pairs, 128, "model.hidden_dims=[16]")
    compare("a residual network", pairs, 128, "model=sequential", f"model.layers={flow(residual)}")
