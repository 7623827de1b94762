"""Time of a training epoch against a tight hand-written loop, and of the usual way against both.

Each epoch of Iolaus, with progress, metrics, TensorBoard and checkpoints on, is paired with an epoch of the tight loop on the same
data in the same process; validation is not counted, everything else is.

    python benchmarks/step.py [epochs]
"""

import sys
import tempfile
import time

from timing import MNIST_SHAPE, built, machine, mnist_shaped, ratio  # first: it sets threads and imports lean

import pytorch_lightning as pl  # isort: skip
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

from iolaus.model.cnn import CNN
from iolaus.model.mlp import MLP

N = 75_000  # 60,000 of them in the training split
MEAN, STD = 33.3, 78.6


def adam(parameters):
    return torch.optim.Adam(parameters, fused=True)


class TightLoop:
    """The least that trains: batches by `index_select`, a fused optimizer, loss and hits summed on the device."""

    def __init__(self, model, batch_size, images, labels, bf16=False, augmentations=(), optimizer=adam):
        self.model, self.batch_size, self.images, self.labels = model, batch_size, images, labels
        self.optimizer = optimizer(model.parameters())
        self.bf16 = bf16
        self.augmentations = augmentations

    def epoch(self):
        self.model.train()
        here = self.images.device
        loss_sum, hits = torch.zeros((), device=here), torch.zeros((), dtype=torch.long, device=here)
        for rows in torch.randperm(len(self.images), device=here).split(self.batch_size):
            x, y = self.images.index_select(0, rows), self.labels.index_select(0, rows)
            for augment in self.augmentations:
                x, y = augment(x, y, torch.default_generator)
            x = x.float().sub_(MEAN).mul_(1 / STD)
            with torch.autocast(here.type, torch.bfloat16, enabled=self.bf16):
                output = self.model(x)
                loss = F.cross_entropy(output, y)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            with torch.no_grad():
                loss_sum += loss.detach() * len(y)
                hits += (output.argmax(1) == y).sum()
        return loss_sum.item(), hits.item()


class Paired(pl.Callback):
    """Runs an epoch of the other loop before each of Iolaus's, and notes both times."""

    def __init__(self, other):
        self.other, self.ours, self.theirs = other, [], []
        self._start = self._excluded = 0.0

    def on_train_epoch_start(self, trainer, task):
        now = time.perf_counter()
        if self._start:
            self.ours.append(now - self._start - self._excluded)
        self.other.epoch()
        self.theirs.append(time.perf_counter() - now)
        self._start, self._excluded = time.perf_counter(), 0.0

    def on_validation_start(self, trainer, task):
        if task.device.type == "cuda":
            torch.cuda.synchronize()
        self._validation = time.perf_counter()

    def on_validation_end(self, trainer, task):
        self._excluded += time.perf_counter() - self._validation


class PerSample(Dataset):
    """What torchvision's data sets do: an image at a time, through PIL and a list of transforms."""

    def __init__(self, images, labels):
        from torchvision import transforms

        self.images, self.labels = images, labels
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((MEAN / 255,), (STD / 255,))])

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        from PIL import Image

        return self.transform(Image.fromarray(self.images[index, 0].numpy())), int(self.labels[index])


class Usual(pl.LightningModule):
    """A LightningModule as tutorials write it: torchmetrics and `self.log` in each step, plain Adam."""

    def __init__(self, model):
        super().__init__()
        from torchmetrics.classification import MulticlassAccuracy

        self.model, self.accuracy = model, MulticlassAccuracy(10, average="micro")

    def training_step(self, batch, batch_idx):
        x, y = batch
        output = self.model(x)
        loss = F.cross_entropy(output, y)
        self.accuracy(output, y)
        self.log("loss/train", loss, on_step=True, on_epoch=True, prog_bar=True)
        self.log("accuracy/train", self.accuracy, on_step=True, on_epoch=True, prog_bar=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())


def against_tight_loop(name, model, batch_size, epochs, *overrides, bf16=False, n=N, optimizer=adam):
    run = built(
        f"data.batch_size={batch_size}",
        f"trainer.max_epochs={epochs + 1}",
        "callbacks.early_stopping=null",
        *overrides,
        n=n,
    )
    rows = run.data.rows["train"]
    images, labels = (t.index_select(0, rows) for t in run.data.datasets["train"].tensors)
    here = run.trainer.strategy.root_device
    if "trainer.channels_last=true" in overrides:
        model = model.to(memory_format=torch.channels_last)
    images, labels, augmentations = images.to(here), labels.to(here), run.data.augmentations
    paired = Paired(TightLoop(model.to(here), batch_size, images, labels, bf16, augmentations, optimizer))
    run.trainer.callbacks.insert(0, paired)
    run.trainer.fit(run.task, datamodule=run.data)
    ours, theirs = paired.ours[1:], paired.theirs[1 : len(paired.ours)]
    steps = len(run.data.train_dataloader())
    print(
        f"{name:34s} {ratio(ours, theirs)}   tight loop {1e6 * sorted(theirs)[len(theirs) // 2] / steps:.0f} us a step",
        flush=True,
    )


def against_usual_way(batch_size, steps, rounds):
    """Seconds a step of the usual way against Iolaus, epochs of `steps` steps in turn."""
    usual, ours = [], []
    images, labels = mnist_shaped(N)
    for _ in range(rounds):
        clock = Clock()
        pl.Trainer(
            max_epochs=1,
            limit_train_batches=steps,
            callbacks=[clock],
            default_root_dir=tempfile.mkdtemp(),
            enable_model_summary=False,
        ).fit(Usual(mlp()), DataLoader(PerSample(images, labels), batch_size=batch_size, shuffle=True))
        usual.append(clock.seconds)
        clock = Clock()
        run = built(
            f"data.batch_size={batch_size}",
            "trainer.max_epochs=1",
            f"trainer.limit_train_batches={steps}",
            *MLP_SIZE,
            n=N,
        )
        run.trainer.callbacks.append(clock)
        run.trainer.fit(run.task, datamodule=run.data)
        ours.append(clock.seconds)
    print(f"{'usual way / Iolaus, MLP, batch 64':34s} {ratio(usual, ours)}", flush=True)


class Clock(pl.Callback):
    """Seconds from the first to the last batch of an epoch."""

    def on_train_epoch_start(self, trainer, task):
        self._start = time.perf_counter()

    def on_train_batch_end(self, *args):
        self.seconds = time.perf_counter() - self._start


MLP_SIZE = ("model.hidden_dims=[256,128]",)


def mlp():
    return MLP(MNIST_SHAPE, 10, [256, 128])


if __name__ == "__main__":
    epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 12
    torch.manual_seed(0)
    print(machine())
    print("training epoch, Iolaus / tight loop")
    against_tight_loop("MLP 784-256-128-10, batch 64", mlp(), 64, epochs, *MLP_SIZE)
    against_tight_loop("MLP 784-256-128-10, batch 512", mlp(), 512, epochs, *MLP_SIZE)
    against_tight_loop("CNN 32-64-128, batch 64", CNN(MNIST_SHAPE, 10), 64, max(epochs // 4, 2), "model=cnn")
    against_usual_way(64, 100, 5)
