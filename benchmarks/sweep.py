"""Training of 32 learning rates as stacks against 32 single runs, and against 32 tight hand-written loops.

A round trains all rates one by one with `train` in this process, then as hydra/launcher=vectorized does, in a stack for each processor in
processes forked from one that is warm, then by loops of fused Adam that keep nothing but weights; the time is that of the fits (metrics,
validation, loggers, checkpoints and early stopping included), for a fixed number of epochs. With the word `whole` figures are drawn, and
`everything` is the time of building, testing and reporting too.

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
from iolaus.sweep.jobs import Job as SweptJob
from iolaus.sweep.jobs import Together
from iolaus.sweep.part import Part
from iolaus.sweep.processes import Forked, Pool
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


def as_stacks(settings, folder, starter):
    pool = Pool(starter)
    for share in range(pool.size):
        own, place = settings[share :: pool.size], folder / f"process{share}"
        nothing = [None] * len(own)
        Part(own, [[] for _ in own], [{} for _ in own], nothing, "best").write(place / "jobs")
        jobs = [SweptJob(number, [], Path(config.output_dir)) for number, config in enumerate(own)]
        words = ["-m", "iolaus.sweep.part", str(place / "jobs"), str(ROOT / "train.py")]
        pool.start(Together(share, [], place, members=jobs), words)
    while pool.running:
        pool.ended()
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


def compare(name, epochs, overrides, rounds, whole):
    single, stacked, loops, gaps, all_of_it = [], [], [], [], ([], [])
    folder = Path(tempfile.mkdtemp(prefix="iolaus-bench-"))
    starter = Forked()
    as_stacks(configs(folder / "warm", 1, overrides), folder / "warm", starter)
    for number in range(rounds):
        own = configs(folder / f"own{number}", epochs, overrides)
        both = configs(folder / f"both{number}", epochs, overrides)
        start = time.perf_counter()
        fit, left = one_by_one(own, folder / f"own{number}")
        middle = time.perf_counter()
        together, right = as_stacks(both, folder / f"both{number}", starter)
        end = time.perf_counter()
        single.append(fit)
        stacked.append(together)
        loops.append(by_loops(configs(folder / f"loop{number}", epochs, overrides), epochs))
        all_of_it[0].append(middle - start)
        all_of_it[1].append(end - middle)
        gaps += [
            abs(a["metrics"]["last"][key] - b["metrics"]["last"][key]) / a["metrics"]["last"][key]
            for a, b in zip(left, right, strict=True)
            for key in ("loss/train", "loss/val")
        ]
    starter.close()
    print(
        f"{name:36s} single runs / stacks {ratio(single, stacked)}   stacks {sorted(stacked)[len(stacked) // 2]:.1f} s",
        flush=True,
    )
    print(f"{'':36s} tight loops / stacks {ratio(loops, stacked)}", flush=True)
    if whole:
        print(f"{'':36s} everything           {ratio(*all_of_it)}", flush=True)
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
        compare(name, epochs, overrides, rounds, "whole" in sys.argv)
