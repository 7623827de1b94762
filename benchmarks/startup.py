"""Time from the command to the first step, of help and of a refused setting, against importing torch and Lightning alone.

python benchmarks/startup.py [rounds]
"""

import subprocess
import sys
import tempfile
import time

from timing import ROOT, machine, ratio

SCRIPT = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
sys.argv = ["train.py", *sys.argv[1:]]
from train import main
from iolaus.launch import launch
from iolaus.startup import import_lightning
import iolaus.startup as startup
from pathlib import Path

def stop_after_a_step():
    import_lightning()
    from iolaus.fast_loop import FastEpochLoop
    step = FastEpochLoop._step
    def once(self, *arguments):
        step(self, *arguments)
        os._exit(0)
    FastEpochLoop._step = once

import iolaus.launch as launching
launching.import_lightning = stop_after_a_step
launch(main)
"""


def seconds(words: list[str], code: int = 0) -> float:
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=tempfile.mkdtemp())
    if done.returncode != code:
        sys.exit(f"{words}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return time.perf_counter() - start


if __name__ == "__main__":
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    train = str(ROOT / "train.py")
    commands = {
        "import torch, pytorch_lightning": (["-c", "import torch, pytorch_lightning"], 0),
        "train.py to the first step": (["-c", SCRIPT], 0),
        "train.py --help": ([train, "--help"], 0),
        "train.py optim.lrr=1 (refused)": ([train, "optim.lrr=1"], 1),
        "train.py --cfg job": ([train, "--cfg", "job"], 0),
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds + 1):  # the first round warms the disk's cache and is not counted
        for name, (words, code) in commands.items():
            times[name].append(seconds(words, code))
    print(machine())
    base, *others = times
    print(f"{base:34s} {sorted(times[base][1:])[rounds // 2]:.2f} s")
    for name in others:
        print(f"{name:34s} {ratio(times[name][1:], times[base][1:])}")
