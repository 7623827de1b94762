"""Loss and metrics of one split, gathered without cost in the step and computed once an epoch."""

import copy
import itertools
import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassStatScores

from iolaus import ranks
from iolaus.functional.float64 import has_float64, move_to_float64_device, to_float64

log = logging.getLogger("iolaus")

MOST_ELEMENTS = 2**21  # of outputs and targets kept before the metrics take them in (8 MiB of float32)
MOST_LOSSES = 4_096  # kept before they become one tensor

# What metrics are updated with: preds, target, and more arguments by name.
Measured = tuple[Any, Any, dict[str, Any]]


class Scores(nn.Module):
    """Mean loss and metrics over an epoch of a split.

    A step only appends references; metrics take in outputs and targets when many are kept or the epoch ends.
    Metrics must give the same value for any batching, as torchmetrics' do. Sums are kept in float64, whatever the precision of the
    training; where the device has no float64, metrics are computed on the processor.

    Args:
        metrics: by name.
        to_metrics: turns outputs and targets into what the metrics take.
        to_labels: turns outputs into the likeliest classes, where they have such, or gives None: metrics that look at nothing else need no
            probabilities.
    """

    def __init__(
        self,
        metrics: dict[str, Metric],
        to_metrics: Callable[[Any, torch.Tensor], Measured],
        to_labels: Callable[[Any], torch.Tensor | None] = lambda output: None,
    ):
        super().__init__()
        self.metrics = MetricCollection(dict(metrics))
        _keep_sums_in_float64(self.metrics)
        self.to_metrics = to_metrics
        self.to_labels = to_labels
        self._look_at_labels = all(isinstance(m, MulticlassStatScores) and m.top_k == 1 for m in metrics.values())
        self.listeners: list[Callable[[Any, Any, dict[str, Any]], None]] = []  # who gets what the metrics take in, too
        self._losses: list[torch.Tensor] = []
        self._sizes: list[torch.Tensor | int] = []
        self._kept: list[tuple[Any, torch.Tensor]] = []
        self._elements = 0

    def _apply(self, fn: Callable[..., torch.Tensor], recurse: bool = True) -> Any:
        """Follow the task to its device, not to its precision."""
        device = fn(torch.empty(0, device=self._device)).device
        return super()._apply(lambda part: part.to(device), recurse) if has_float64(device) else self

    def add(self, loss: torch.Tensor, output: Any, target: torch.Tensor, size: torch.Tensor | int) -> None:
        """Keep one batch: its mean loss and of how many it is the mean, its outputs, a tensor (B, ...) or several, its targets (B, ...)."""
        self._losses.append(loss.detach())
        self._sizes.append(size)
        if len(self.metrics) or self.listeners:
            elements = target.numel()
            if isinstance(output, torch.Tensor):
                output = output.detach()
                elements += output.numel()
            else:
                output = tree_map(torch.Tensor.detach, output)
                elements += sum(part.numel() for part in tree_leaves(output))
            self._kept.append((output, target))
            self.__dict__["_elements"] += elements  # past nn.Module's slow __setattr__
        if self._elements > MOST_ELEMENTS or len(self._losses) > MOST_LOSSES:
            self.flush()

    def flush(self) -> None:
        """Let the metrics take in what is kept."""
        if self._losses:  # one tensor for many: scattered scalars would keep memory around them from being used again
            self._losses, self._sizes = [self._joined_losses()], [self._joined_sizes()]
        for output, target in self._joined():
            preds, target, more = self.measured(output, target)
            self.metrics.update(preds, target, **more)
            for listener in self.listeners:
                listener(preds, target, more)
        self._kept, self._elements = [], 0

    def measured(self, output: Any, target: torch.Tensor) -> Measured:
        """What the metrics are updated with."""
        output = tree_map(lambda part: part.float() if part.is_floating_point() else part, output)
        return move_to_float64_device(self._measured(output, target))

    def _measured(self, output: Any, target: torch.Tensor) -> Measured:
        if self._look_at_labels and not self.listeners and (labels := self.to_labels(output)) is not None:
            return labels, target, {}
        return self.to_metrics(output, target)

    def _joined_losses(self) -> torch.Tensor:
        return torch.cat([loss.reshape(-1) for loss in self._losses])

    def _joined_sizes(self) -> torch.Tensor:
        device = move_to_float64_device(self._losses[0]).device
        if all(isinstance(size, int) for size in self._sizes):
            return torch.tensor(self._sizes, dtype=torch.float64, device=device)
        sizes = [size.to(device) if isinstance(size, torch.Tensor) else size for size in self._sizes]
        return torch.cat([torch.as_tensor(size, dtype=torch.float64, device=device).reshape(-1) for size in sizes])

    def _joined(self) -> Iterator[tuple[Any, torch.Tensor]]:
        """What is kept, batches that follow one another and have like shapes as one."""
        for _, batches in itertools.groupby(self._kept, lambda pair: [part.shape[1:] for part in tree_leaves(pair)]):
            yield tree_map(lambda *parts: torch.cat(parts), *batches)

    def compute(self) -> dict[str, Any]:
        """`loss` and each metric of the samples since the last reset, of all processes; single numbers are 0-d tensors."""
        self.flush()
        return {"loss": self._mean_loss(), **(self.metrics.compute() if len(self.metrics) else {})}

    @property
    def _device(self) -> torch.device:
        return next((metric.device for metric in self.metrics.values()), torch.device("cpu"))

    def _mean_loss(self) -> torch.Tensor:
        sums = torch.zeros(2, dtype=torch.float64, device=self._device)
        if self._losses:
            sizes = self._joined_sizes()
            sums = torch.stack([to_float64(self._joined_losses()) @ sizes, sizes.sum()])
        if ranks.count() > 1:
            torch.distributed.all_reduce(sums)
        return (sums[0] / sums[1]).float()

    def state(self) -> dict[str, Any]:
        """All that was gathered since the last reset, as plain containers and tensors."""
        # Metrics that share their sums know them under one name only, until they are asked one by one.
        metrics = dict(self.metrics.items(keep_base=True, copy_state=False))
        return {
            "losses": self._joined_losses() if self._losses else None,
            "sizes": self._joined_sizes() if self._losses else None,
            "kept": list(self._joined()),
            "metrics": {
                name: {"updates": metric._update_count, "state": _copy(metric.metric_state)}
                for name, metric in metrics.items()
            },
        }

    def load(self, state: dict[str, Any], device: torch.device) -> None:
        """Go on from what `state` gave, on a device; every later value has the same bits."""
        self.reset()
        if state["losses"] is not None:
            self._losses = [state["losses"].to(device)]
            self._sizes = [state["sizes"].to(device if has_float64(device) else "cpu")]
        self._kept = [tree_map(lambda part: part.to(device), pair) for pair in state["kept"]]
        self._elements = sum(part.numel() for part in tree_leaves(self._kept))
        for name, metric in self.metrics.items(keep_base=True, copy_state=False):
            saved = state["metrics"][name]
            if saved["state"].keys() != metric.metric_state.keys():
                log.warning(
                    "%s: an earlier version kept it otherwise; in this epoch it counts what is still to come", name
                )
                continue
            metric._update_count = saved["updates"]
            for key, value in saved["state"].items():
                setattr(metric, key, _as_state(value, metric._defaults[key], metric.device))

    def load_all(self, states: list[dict[str, Any]], device: torch.device) -> None:
        """Go on from what `state` gave in several processes, whose samples are all taken over."""
        self.load(states[0], device)
        for state in states[1:]:
            copies = {name: copy.deepcopy(m) for name, m in self.metrics.items(keep_base=True, copy_state=False)}
            other = Scores(copies, self.to_metrics, self.to_labels)
            other.load(state, device)
            self._losses += other._losses
            self._sizes += other._sizes
            self._kept += other._kept
            self._elements += other._elements
            others = dict(other.metrics.items(keep_base=True, copy_state=False))
            for name, metric in self.metrics.items(keep_base=True, copy_state=False):
                metric.merge_state(others[name])

    def reset(self) -> None:
        """Forget all samples."""
        self._losses, self._sizes, self._kept, self._elements = [], [], [], 0
        self.metrics.reset()


def _keep_sums_in_float64(metrics: nn.Module) -> None:
    """Let floating-point states of metrics be float64; torchmetrics' own `set_dtype` would turn counts too."""
    for metric in (module for module in metrics.modules() if isinstance(module, Metric)):
        for name, value in metric._defaults.items():
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                metric._defaults[name] = value.double()
                setattr(metric, name, getattr(metric, name).double())


def _as_state(value: Any, default: Any, device: torch.device) -> Any:
    """A saved state, on a metric's device and in the dtype of its default."""
    if isinstance(value, torch.Tensor):
        return value.to(device, default.dtype if isinstance(default, torch.Tensor) else value.dtype)
    return [part.to(device) for part in value]


def _copy(state: dict[str, Any]) -> dict[str, Any]:
    """A metric's sums, or lists of tensors, which go on changing."""
    return {k: v.clone() if isinstance(v, torch.Tensor) else [part.clone() for part in v] for k, v in state.items()}
