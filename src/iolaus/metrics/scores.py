"""Loss and metrics of one split, gathered without cost in the step and computed once an epoch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torchmetrics import Metric, MetricCollection

MOST_ELEMENTS = 2**21  # of outputs and targets kept before the metrics take them in (8 MiB of float32)


class Scores(nn.Module):
    """Mean loss and metrics over an epoch of a split.

    A step only appends references; outputs become predictions and metrics take them in when many are kept or the epoch ends.
    Metrics must give the same value for any batching, as torchmetrics' do.

    Args:
        metrics: by name.
        to_preds: turns outputs into what the metrics take.
    """

    def __init__(self, metrics: dict[str, Metric], to_preds: Callable[[torch.Tensor], torch.Tensor]):
        super().__init__()
        self.metrics = MetricCollection(dict(metrics))
        self.to_preds = to_preds
        self._losses: list[torch.Tensor] = []
        self._sizes: list[int] = []
        self._kept: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._elements = 0

    def add(self, loss: torch.Tensor, output: torch.Tensor, target: torch.Tensor) -> None:
        """Keep one batch: its mean loss, its outputs (B, ...) and targets (B, ...)."""
        self._losses.append(loss.detach())
        self._sizes.append(len(target))
        self._kept.append((output.detach(), target))
        self._elements += output.numel() + target.numel()
        if self._elements > MOST_ELEMENTS:
            self.flush()

    def flush(self) -> None:
        """Let the metrics take in what is kept."""
        if self._losses:  # one tensor for many: scattered scalars would keep memory around them from being used again
            self._losses = [torch.cat([loss.reshape(-1) for loss in self._losses])]
        if self._kept and len(self.metrics):
            outputs, targets = zip(*self._kept, strict=True)
            self.metrics.update(self.to_preds(torch.cat(outputs).float()), torch.cat(targets))
        self._kept, self._elements = [], 0

    def compute(self) -> dict[str, Any]:
        """`loss` and each metric of the samples since the last reset; single numbers are 0-d tensors."""
        self.flush()
        sizes = torch.tensor(self._sizes, dtype=torch.float32, device=self._losses[0].device)
        loss = self._losses[0].float() @ sizes / sizes.sum()
        return {"loss": loss, **(self.metrics.compute() if len(self.metrics) else {})}

    def reset(self) -> None:
        """Forget all samples."""
        self._losses, self._sizes, self._kept, self._elements = [], [], [], 0
        self.metrics.reset()
