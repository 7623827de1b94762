"""What the callbacks that look at a training cost: an epoch with each of them against one with the default callbacks alone.

In each round every callback trains six epochs with its default settings, and the default callbacks do; the first epoch is not counted, so
that of the five others two are looked at by those that look every five and at the last. Validation counts. Time is the processor's.

    python benchmarks/callbacks.py [rounds, 5 by default]
"""

import sys
import time

from timing import built, machine, ratio  # first: it sets threads and imports lean

import pytorch_lightning as pl  # isort: skip

N = 15_000  # 12,000 of them in the training split: 188 steps an epoch
SIZE = "model.hidden_dims=[256,128]"
NAMES = ("histograms", "gradient_norm", "inputs", "mistakes", "figures", "throughput", "charts", "embeddings", "look")


class Clock(pl.Callback):
    """Notes when epochs begin, and when the last one ends."""

    def __init__(self):
        self.times = []

    def on_train_epoch_start(self, trainer, task):
        self.times.append(time.process_time())

    def on_train_end(self, trainer, task):
        self.times.append(time.process_time())


def epochs_s(callbacks: str) -> float:
    """Seconds that five epochs take."""
    run = built(f"callbacks=[{callbacks}]", SIZE, "trainer.max_epochs=6", n=N)
    clock = Clock()
    run.trainer.callbacks.append(clock)
    run.trainer.fit(run.task, datamodule=run.data)
    return clock.times[-1] - clock.times[1]


if __name__ == "__main__":
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    print(machine())
    epochs_s("default,look")  # imports what is drawn with
    alone, found = [], {name: [] for name in NAMES}
    for _ in range(rounds):
        alone.append(epochs_s("default"))
        for name in NAMES:
            found[name].append(epochs_s(f"default,{name}"))
    print(f"five epochs with the default callbacks: {sorted(alone)[len(alone) // 2]:.2f} s")
    for name, times in found.items():
        print(f"MLP 784-256-128-10, batch 64, an epoch with {name} / without   {ratio(times, alone)}")
