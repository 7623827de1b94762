"""Training of 32 learning rates as one stack against 32 single runs, and against 32 tight hand-written loops, in one warm process.

A round trains all rates one by one with `train`, then as one stack with `train_together`, then by loops of fused Adam that keep nothing but
weights; the time is that of the fits (metrics, validation, loggers, checkpoints and early stopping included), for a fixed number
of epochs. `everything` is the time of the whole calls, composing, building, testing and reporting included, but without figures; with
the word `whole` figures are drawn too.

python benchmarks/sweep.py [rounds] [whole] [words of a case's name]
"""

import json
import sys
import tempfile
import time
from pathlib import Path

from timing import ROOT, machine, ratio  # first: it sets threads and imports lean

import torch  # isort: skip
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from omegaconf import open_dict

from iolaus.build import build
from iolaus.report import Report
from iolaus.runs import Job
from iolaus.sweep.vectorized import train_together
from iolaus.train import train

N = 32
RATES = [10 ** (-4 + 3 * i / (N - 1)) for i in range(N)]
CASES = {
    "digits, MLP 64-128-64-10, batch 64": (20, []),
    "digits, linear, batch 64": (20, ["model=linear"]),
    "iris, MLP 4-128-64-3, batch 8": (20, ["data=iris"]),
}


def configs(folder, epochs, overrides):
    fixed = [f"trainer.max_epochs={epochs}", "~callbacks.progress", "~callbacks.early_stopping", *overrides]
    made = []
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        for number, rate in enumerate(RATES):
            config = compose("config", [*fixed, f"optim.lr={rate}"], return_hydra_config=True)
            with open_dict(config):
                config.pop("hydra")
                config.update({"output_dir": str(folder / str(number)), "name": "bench"})
            made.append(config)
    return made


def results(folder):
    return [json.loads((folder / str(number) / "results.json").read_text()) for number in range(N)]


def one_by_one(settings, folder):
    for config in settings:
        train(config, Job([], {}))
    found = results(folder)
    return sum(r["seconds"]["fit"] for r in found), found


def as_a_stack(settings, folder):
    train_together(settings, [Job([], {}) for _ in settings])
    found = results(folder)
    return max(r["seconds"]["fit"] for r in found), found


def by_loops(settings, epochs):
    """Batches of the same sizes through model, loss, gradient and fused Adam, and the loss on the validation split once an epoch."""
    run = build(settings[0])
    inputs, target = (t.index_select(0, run.data.rows["train"]) for t in run.data.datasets["train"].tensors)
    val = next(iter(run.data.val_dataloader()))
    inputs, target = run.task.standardize_input(inputs), target.long()
    start = time.perf_counter()
    for rate in RATES:
        model = run.task.model
        optimizer = torch.optim.Adam(model.parameters(), lr=rate, fused=True)
        for _ in range(epochs):
            for rows in torch.randperm(len(inputs)).split(run.data.batch_size):
                loss = F.cross_entropy(model(inputs.index_select(0, rows)), target.index_select(0, rows))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            with torch.no_grad():
                F.cross_entropy(run.task(val[0]), val[1])
    return time.perf_counter() - start


def compare(name, epochs, overrides, rounds):
    single, stacked, loops, gaps, whole = [], [], [], [], ([], [])
    folder = Path(tempfile.mkdtemp(prefix="iolaus-bench-"))
    as_a_stack(configs(folder / "warm", 1, overrides), folder / "warm")
    for number in range(rounds):
        start = time.perf_counter()
        own = configs(folder / f"own{number}", epochs, overrides)
        fit, left = one_by_one(own, folder / f"own{number}")
        middle = time.perf_counter()
        both = configs(folder / f"both{number}", epochs, overrides)
        together, right = as_a_stack(both, folder / f"both{number}")
        end = time.perf_counter()
        single.append(fit)
        stacked.append(together)
        loops.append(by_loops(configs(folder / f"loop{number}", epochs, overrides), epochs))
        whole[0].append(middle - start)
        whole[1].append(end - middle)
        gaps += [
            abs(a["metrics"]["last"][key] - b["metrics"]["last"][key]) / a["metrics"]["last"][key]
            for a, b in zip(left, right, strict=True)
            for key in ("loss/train", "loss/val")
        ]
    print(
        f"{name:36s} single runs / stack {ratio(single, stacked)}   stack {sorted(stacked)[len(stacked) // 2]:.1f} s",
        flush=True,
    )
    print(f"{'':36s} tight loops / stack {ratio(loops, stacked)}", flush=True)
    print(f"{'':36s} everything          {ratio(*whole)}", flush=True)
    print(f"{'':36s} largest gap of the last losses, relative: {max(gaps):.1e}", flush=True)


if __name__ == "__main__":
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    if "whole" not in sys.argv:
        Report._draw = lambda *_: None
    print(machine())
    words = [word for word in sys.argv[2:] if word != "whole"]
    for name, (epochs, overrides) in CASES.items():
        if not all(word in name for word in words):
            continue
        compare(name, epochs, overrides, rounds)
