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

    def state(self) -> dict[str, Any]:
        """All that was gathered since the last reset, as plain containers and tensors."""
        kept = [torch.cat(parts) for parts in zip(*self._kept, strict=True)]
        # Metrics that share their sums know them under one name only, until they are asked one by one.
        metrics = dict(self.metrics.items(keep_base=True, copy_state=False))
        return {
            "losses": torch.cat([loss.reshape(-1) for loss in self._losses]) if self._losses else None,
            "sizes": list(self._sizes),
            "kept": kept,
            "metrics": {
                name: {"updates": metric._update_count, "state": _copy(metric.metric_state)}
                for name, metric in metrics.items()
            },
        }

    def load(self, state: dict[str, Any], device: torch.device) -> None:
        """Go on from what `state` gave, on a device; every later value has the same bits."""
        self.reset()
        self._losses = [] if state["losses"] is None else [state["losses"].to(device)]
        self._sizes = list(state["sizes"])
        self._kept = [tuple(part.to(device) for part in state["kept"])] if state["kept"] else []
        self._elements = sum(part.numel() for part in state["kept"])
        for name, metric in self.metrics.items(keep_base=True, copy_state=False):
            saved = state["metrics"][name]
            metric._update_count = saved["updates"]
            for key, value in saved["state"].items():
                setattr(
                    metric, key, value.to(device) if isinstance(value, torch.Tensor) else [v.to(device) for v in value]
                )

    def reset(self) -> None:
        """Forget all samples."""
        self._losses, self._sizes, self._kept, self._elements = [], [], [], 0
        self.metrics.reset()


def _copy(state: dict[str, Any]) -> dict[str, Any]:
    """A metric's sums, or lists of tensors, which go on changing."""
    return {k: v.clone() if isinstance(v, torch.Tensor) else [part.clone() for part in v] for k, v in state.items()}
