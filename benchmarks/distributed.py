"""Several processes on one machine: a training epoch against a bare loop with DistributedDataParallel, and what messages cost.

The bare loop trains the same model with the same batches, optimizer and data in memory, in the same processes, in turn with the epochs of
Iolaus. Then the model of docs/scale.md for 1, 2 and 4 processes and networks of three sizes: the steps of all processes at once without
messages, and the time of all-reduces, foretell the time of a step, which is compared with the one that is measured.

    python benchmarks/distributed.py [epochs]
"""

import os
import socket
import statistics
import subprocess
import sys
import time

from timing import MNIST_SHAPE, built, machine, ratio  # first: it sets threads and imports lean

import torch  # isort: skip
import torch.nn.functional as F
from step import MEAN, MLP_SIZE, STD, N, Paired, mlp
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from iolaus import ranks
from iolaus.model.mlp import MLP

BATCH = 64
SIZES = (2**10, 2**23)  # bytes of the all-reduces that tell latency and bandwidth
HIDDEN = ([64, 32], [256, 128], [1024, 512])  # of the networks whose steps are foretold
FIRST_BUCKET, BUCKET = 2**20, 25 * 2**20  # bytes that DDP sends at once
STEPS = 40
ROUNDS = 7


class BareLoop:
    """The least that trains in several processes: rows shared out, gradients averaged by DDP, fused Adam."""

    def __init__(self, model, images, labels):
        self.model = DistributedDataParallel(model, gradient_as_bucket_view=True)
        self.images, self.labels = images, labels
        self.optimizer = torch.optim.Adam(model.parameters(), fused=True)
        self.number = 0

    def epoch(self, steps=None, model=None):
        model = model or self.model
        model.train()
        loss_sum, hits = torch.zeros(()), torch.zeros((), dtype=torch.long)
        world, rank = distributed.get_world_size(), distributed.get_rank()
        self.number += 1
        order = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(self.number))
        for rows in order.split(BATCH * world)[:steps]:
            x = self.images.index_select(0, rows[rank::world]).float().sub_(MEAN).mul_(1 / STD)
            y = self.labels.index_select(0, rows[rank::world])
            output = model(x)
            loss = F.cross_entropy(output, y)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            with torch.no_grad():
                loss_sum += loss.detach() * len(y)
                hits += (output.argmax(1) == y).sum()
        sums = torch.stack([loss_sum, hits.float()])
        distributed.all_reduce(sums)
        return sums


def member(epochs):
    """One of the processes."""
    ranks.join(120.0, 120.0)
    world = ranks.count()
    words = ["trainer=ddp", f"trainer.devices={world}", "trainer.num_nodes=1", f"data.batch_size={BATCH}"]
    run = built(*words, f"trainer.max_epochs={epochs + 1}", "~callbacks.early_stopping", *MLP_SIZE, n=N)
    images, labels = (t.index_select(0, run.data.rows["train"]) for t in run.data.datasets["train"].tensors)
    bare = BareLoop(mlp(), images, labels)
    paired = Paired(bare)
    run.trainer.callbacks.insert(0, paired)
    run.trainer.fit(run.task, datamodule=run.data)
    lines = []
    if epochs > 1:
        lines.append(
            f"{world} processes, MLP 784-256-128-10, batch {BATCH} each: time of an epoch, Iolaus / bare loop "
            f"{ratio(paired.ours[1:], paired.theirs[1 : len(paired.ours)])}"
        )
    lines += _foretold(world, images, labels)
    if ranks.is_first():
        print("\n".join(lines), flush=True)
    ranks.leave()


def _foretold(world, images, labels):
    """Steps of several networks: without messages, as foretold, and as they are."""
    loops = [BareLoop(MLP(MNIST_SHAPE, 10, hidden), images, labels) for hidden in HIDDEN]
    alone, steps, messages = [[] for _ in loops], [[] for _ in loops], {size: [] for size in SIZES}
    for _ in range(ROUNDS):  # in turn, as the machine's speed changes
        for size in SIZES:
            messages[size].append(_message_s(size))
        for loop, without, whole in zip(loops, alone, steps, strict=True):
            without.append(_step_s(loop, loop.model.module))
            whole.append(_step_s(loop, loop.model))
    small, large = (statistics.median(messages[size]) for size in SIZES)
    per_byte = (large - small) / (SIZES[1] - SIZES[0])
    yield f"{world} processes: latency {1e6 * small:.0f} us, bandwidth {1e-9 / per_byte:.2f} GB/s"
    for hidden, loop, without, whole in zip(HIDDEN, loops, alone, steps, strict=True):
        size = 4 * sum(p.numel() for p in loop.model.parameters())
        buckets = 1 + -(-max(size - FIRST_BUCKET, 0) // BUCKET)
        sent = (buckets * small + per_byte * size) * (world > 1)
        one, measured = statistics.median(without), statistics.median(whole)
        yield (
            f"    MLP {hidden}, {size / 1e6:.2f} MB: {1e3 * one:.2f} ms without messages, {1e3 * sent:.2f} ms of messages, "
            f"{1e3 * (one + sent):.2f} ms foretold, {1e3 * measured:.2f} ms measured, {measured / (one + sent):.2f} of it"
        )


def _step_s(loop, model):
    """Seconds a step, of the slowest process."""
    distributed.barrier()
    start = time.perf_counter()
    loop.epoch(STEPS, model)
    seconds = torch.tensor((time.perf_counter() - start) / STEPS)
    distributed.all_reduce(seconds, distributed.ReduceOp.MAX)
    return seconds.item()


def _message_s(size):
    """Median seconds of an all-reduce of so many bytes."""
    values, times = torch.zeros(size // 4), []
    for _ in range(10):
        distributed.barrier()
        start = time.perf_counter()
        distributed.all_reduce(values)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def group(world, epochs):
    """Start the processes of a group and wait for them."""
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        port = asked.getsockname()[1]
    shared = {"WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    several = []
    for rank in range(world):
        own = shared | {"RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": 1, "TORCHELASTIC_RUN_ID": "bench"}
        environment = os.environ | {key: str(value) for key, value in own.items()}
        several.append(subprocess.Popen([sys.executable, __file__, "member", str(epochs)], env=environment))
    for process in several:
        assert process.wait() == 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["member"]:
        member(int(sys.argv[2]))
    else:
        print(machine(), MNIST_SHAPE)
        epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 6
        group(2, epochs)
        group(4, 1)
