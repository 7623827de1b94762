"""Loss and metrics of all members of a stack over an epoch: at once where a metric can, one by one where it cannot."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torchmetrics import Metric
from torchmetrics.classification import MulticlassStatScores

from iolaus.metrics.auroc import AUROC
from iolaus.metrics.scores import MOST_ELEMENTS, Scores
from iolaus.sweep.stack import Evaluation


class StackedScores:
    """As Scores, of K members.

    Args:
        scores: of each member, for one split.
    """

    def __init__(self, scores: Sequence[Scores]):
        self.scores = list(scores)
        self._twins = {name: _stacked(metric) for name, metric in self._metrics(0).items()}
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
        if self._twins:
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
            preds, target, more = self.scores[member].to_metrics(outputs[member], targets[member])
            for metric in self._metrics(member).values():
                metric.update(preds, target, **more)
        self._kept, self._elements, self._flushed = [], 0, True

    def compute(self) -> list[dict[str, Any]]:
        """`loss` and each metric of each member since the last time."""
        sizes = torch.tensor(self._sizes, dtype=torch.float32, device=self._losses[0].device)
        losses = torch.stack(self._losses, 1).float() @ sizes / sizes.sum()
        values = [{"loss": loss} for loss in losses]
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
        outputs, targets = (torch.cat(parts, 1) for parts in zip(*self._kept, strict=True))
        preds, targets, more = self.scores[0].to_metrics(outputs, targets) if self._together() else (None, targets, {})
        for name, twin in self._twins.items():
            if twin is not None and preds is not None and not more:
                for found, value in zip(values, twin(preds, targets), strict=True):
                    found[name] = value
                continue
            for member, found in enumerate(values):
                own, target, own_more = self.scores[member].to_metrics(outputs[member], targets[member])
                metric = self._metrics(member)[name]
                metric.update(own, target, **own_more)
                found[name] = metric.compute()
                metric.reset()

    def _together(self) -> bool:
        return any(twin is not None for twin in self._twins.values())


class _Samplewise:
    """A metric of class labels for many members: torchmetrics itself scores samples of several labels apart, and a member is one here."""

    def __init__(self, metric: MulticlassStatScores):
        self.metric = copy.deepcopy(metric)
        self.metric.reset()
        size = 1 if metric.average == "micro" and metric.top_k == 1 else metric.num_classes
        self.metric.multidim_average = "samplewise"
        self.metric._create_state(size=size, multidim_average="samplewise")

    def __call__(self, preds: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """(K,), of preds (K, N, C) and target (K, N)."""
        self.metric.update(preds.transpose(1, 2), target)
        value = self.metric.compute()
        self.metric.reset()
        return value


def _stacked(metric: Metric) -> Any:
    """A function of preds (K, N, C) and targets (K, N) that gives each member's value; None where there is no such form."""
    if isinstance(metric, AUROC):
        return metric.of_many
    if (
        isinstance(metric, MulticlassStatScores)
        and metric.average in ("micro", "macro")
        and metric.multidim_average == "global"
        and type(metric).update is MulticlassStatScores.update
        and metric.ignore_index is None
    ):
        return _Samplewise(metric)
    return None
