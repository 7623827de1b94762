"""Loss and metrics of all members of a stack over an epoch: at once where a metric can, one by one where it cannot."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torchmetrics import Metric
from torchmetrics.classification import MulticlassStatScores

from iolaus.functional.float64 import to_float64
from iolaus.metrics.auroc import AUROC
from iolaus.metrics.average_precision import AveragePrecision
from iolaus.metrics.balanced_accuracy import BalancedAccuracy
from iolaus.metrics.positive import PositiveScore
from iolaus.metrics.scores import MOST_ELEMENTS, Scores
from iolaus.sweep.stack import Evaluation


class StackedScores:
    """As Scores, of K members.

    Args:
        scores: of each member, for one split.
    """

    def __init__(self, scores: Sequence[Scores]):
        self.scores = list(scores)
        metrics = self._metrics(0)
        self._names = list(metrics)
        self._at_once = {
            name: metric for name, metric in metrics.items() if isinstance(metric, AUROC | AveragePrecision)
        }
        self._apart = {name: twin for name, m in metrics.items() if (twin := _samplewise(m)) is not None}
        self._others = len(metrics) > len(self._at_once) + len(self._apart)
        self._losses: list[torch.Tensor] = []
        self._sizes: list[int] = []
        self._kept: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._elements = 0
        self._flushed = False

    def _metrics(self, member: int) -> dict[str, Metric]:
        return dict(self.scores[member].metrics.items(keep_base=True, copy_state=False))

    def add(self, evaluation: Evaluation) -> None:
        """Keep one batch."""
        losses, output, target = evaluation
        self._losses.append(losses)
        self._sizes.append(target.shape[1])
        if len(self.scores[0].metrics):
            self._kept.append((output, target))
            self._elements += output.numel() + target.numel()
        if self._elements > MOST_ELEMENTS * len(self.scores):
            self._flush()

    def _flush(self) -> None:
        """Let each member's own metrics take in what is kept."""
        if not self._kept:
            return
        outputs, targets = (torch.cat(parts, 1) for parts in zip(*self._kept, strict=True))
        for member in range(len(self.scores)):
            preds, target, more = self.scores[member].measured(outputs[member], targets[member])
            for metric in self._metrics(member).values():
                metric.update(preds, target, **metric._filter_kwargs(**more))
        self._kept, self._elements, self._flushed = [], 0, True

    def compute(self) -> list[dict[str, Any]]:
        """`loss` and each metric of each member since the last time."""
        losses = to_float64(torch.stack(self._losses, 1))
        sizes = torch.tensor(self._sizes, dtype=torch.float64, device=losses.device)
        values = [{"loss": loss} for loss in (losses @ sizes / sizes.sum()).float()]
        if self._flushed:
            self._flush()
            for member, found in enumerate(values):
                found |= {name: metric.compute() for name, metric in self._metrics(member).items()}
                self.scores[member].reset()
        elif self._kept:
            self._compute_kept(values)
        self._losses, self._sizes, self._kept, self._elements, self._flushed = [], [], [], 0, False
        return values

    def _compute_kept(self, values: list[dict[str, Any]]) -> None:
        """Compute all metrics of what is kept: at once those that can, and the others one by one."""
        outputs, targets = (torch.cat(parts, 1) for parts in zip(*self._kept, strict=True))
        if self._apart or self._at_once:
            preds, target, _ = self.scores[0].measured(outputs, targets)
            found = {name: metric.of_many(preds, target) for name, metric in self._at_once.items()}
            if self._apart:
                found |= _of_labels(self._apart, preds.argmax(2) if preds.ndim == 3 else preds, target)
            for member, own in enumerate(values):
                own |= {name: value.reshape(-1)[member] for name, value in found.items()}
        for member, own in enumerate(values):
            others = {name: m for name, m in self._metrics(member).items() if name not in own} if self._others else {}
            if others:
                preds, target, more = self.scores[member].measured(outputs[member], targets[member])
            for name, metric in others.items():
                metric.update(preds, target, **metric._filter_kwargs(**more))
                own[name] = metric.compute()
                metric.reset()
            values[member] = {name: own[name] for name in ("loss", *self._names)}


def _samplewise(metric: Metric) -> MulticlassStatScores | None:
    """A metric of class labels for many members at once, where there is one; see `_of_labels`.

    torchmetrics itself scores samples of several labels each apart from one another; a member is one such sample here.
    """
    if (
        not isinstance(metric, MulticlassStatScores)
        or type(metric).update is not MulticlassStatScores.update
        or not (metric.average in ("micro", "macro") or isinstance(metric, BalancedAccuracy | PositiveScore))
        or metric.multidim_average != "global"
        or metric.ignore_index is not None
        or metric.top_k != 1
    ):
        return None
    twin = copy.deepcopy(metric)
    twin.multidim_average = "samplewise"
    return twin


def _of_labels(twins: dict[str, MulticlassStatScores], preds: torch.Tensor, target: torch.Tensor) -> dict[str, Any]:
    """The values of metrics that `_samplewise` gave, (K,) each, of classes (K, N): all from one count of pairs of classes."""
    members, n = target.shape
    classes = next(iter(twins.values())).num_classes
    assert classes is not None
    pairs = (torch.arange(members, device=target.device)[:, None] * classes + target) * classes + preds
    counts = torch.bincount(pairs.flatten(), minlength=members * classes**2).view(members, classes, classes)
    hits = counts.diagonal(dim1=1, dim2=2)
    wrong, missed = counts.sum(1) - hits, counts.sum(2) - hits
    states = {"tp": hits, "fp": wrong, "tn": n - hits - wrong - missed, "fn": missed}
    values = {}
    for name, twin in twins.items():
        for state, each in states.items():
            setattr(twin, state, each)
        twin._update_count = 1  # otherwise it warns that it was never updated
        values[name] = twin.compute()
        twin.reset()
    return values
