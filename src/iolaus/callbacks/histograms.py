"""How weights and their gradients are distributed, over the training."""

from typing import Any

import pytorch_lightning as pl
import torch

from iolaus.callbacks.base import Look, at_least_one, is_due, is_last_epoch, short_name

BINS = 64

Gradients = dict[str, torch.Tensor]  # by the names of the weights


class Histograms(Look):
    """Histograms of each weight and of its gradient, after the last step of every n-th epoch and of the last one.

    Gradients are those that the step was taken with, clipped where they are: the last batch's, which are held while the validation does
    away with them, as early stopping may then end the training. No backward pass is made for it. Weights are those that are trained, also
    where an average of them is kept (callbacks=[default,ema,histograms]). Of a tensor the finite values are shown; where there are none it
    is left out, with a warning.

    | logged | is |
    | --- | --- |
    | weights/<name> | a histogram of a weight's values, in the tabs Histograms and Distributions |
    | gradients/<name> | of its gradient |

    Cost: two passes over the weights and the gradients each time, about 7 ms for 235,000 weights;
    1.03 times the epoch of benchmarks/callbacks.py.

    Args:
        every_n_epochs: epochs between looks; the last one is looked at too.
    """

    def __init__(self, every_n_epochs: int = 1):
        super().__init__()
        self.every_n_epochs = at_least_one(every_n_epochs)
        self._held: Gradients | None = None  # of an epoch that is not looked at, unless it comes to be the last

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._held = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.boards and trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self._held = {name: p.grad for name, p in pl_module.named_parameters() if p.grad is not None}
            if is_due(trainer, self.every_n_epochs):
                self._write_held(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if is_last_epoch(trainer):  # as the validation has made early stopping say
            self._write_held(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._write_held(trainer, pl_module)  # where early stopping watches the training itself, after the epoch's end

    def _write_held(self, trainer: pl.Trainer, task: pl.LightningModule) -> None:
        """Write the weights and the gradients that are held, once."""
        gradients, self._held = self._held, None
        if gradients is not None:
            with self.safely():
                self._write(trainer, task, gradients)

    def _write(self, trainer: pl.Trainer, task: pl.LightningModule, gradients: Gradients) -> None:
        tensors: dict[str, torch.Tensor] = {}
        for name, parameter in task.named_parameters():
            tensors[f"weights/{short_name(name)}"] = parameter.detach()
            if name in gradients:
                tensors[f"gradients/{short_name(name)}"] = gradients[name].detach()
        found = {tag: histogram(tensor) for tag, tensor in tensors.items()}
        for tag in [tag for tag, value in found.items() if value is None]:
            self.tell(f"{tag} has no finite value; it is left out")
        for board in self.boards:
            board.add_histograms({tag: value for tag, value in found.items() if value is not None}, trainer.global_step)


def histogram(tensor: torch.Tensor) -> tuple[list[float], list[float], float, float] | None:
    """Edges and counts of 64 bins from the least finite value to the greatest, the sum and the sum of squares; None where there is none."""
    values = tensor.coalesce().values() if tensor.is_sparse else tensor
    values = values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
    values = values.flatten()
    if not values.numel():
        return None
    ends = torch.stack([values.min(), values.max()])
    if not ends.isfinite().all():
        values = values[values.isfinite()]
        if not values.numel():
            return None
        ends = torch.stack([values.min(), values.max()])
    total, squares = values.sum(dtype=torch.float64), values.double().square().sum()
    low, high, *sums = torch.cat([ends.double(), torch.stack([total, squares])]).tolist()
    if low == high:
        return [low, high], [float(values.numel())], sums[0], sums[1]
    counts = torch.histc(values, BINS, low, high)
    return torch.linspace(low, high, BINS + 1, dtype=torch.float64).tolist(), counts.tolist(), sums[0], sums[1]
