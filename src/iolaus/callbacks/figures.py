"""Figures of the validation while training: confusion matrix, ROC, precision and recall, scatter; and TensorBoard's own PR curves."""

from typing import Any

import pytorch_lightning as pl
import torch
from torchmetrics import MetricCollection

from iolaus import figures
from iolaus.callbacks.base import ValidationLook
from iolaus.callbacks.rows import class_name
from iolaus.data.base import DataModule
from iolaus.task.base import Task

MOST_CURVES = 10  # classes that have a curve of their own
MOST_SAMPLES = 100_000  # of a validation that the PR curves are made of


class Figures(ValidationLook):
    """Draws the metrics that are not single numbers, which otherwise are of the test alone, for the validation.

    | logged | is |
    | --- | --- |
    | figures/confusion_matrix/val, roc, precision_recall, scatter | those that the run has among its metrics, drawn as the test's are |
    | pr_curve/<class> | of the class against the others, in the tab PR Curves: with counts at each threshold |

    Predictions are those of the validation itself; of several processes that train together, of the first one's part.

    Cost: about 3 ms a validation, and 0.8 s a look at ten classes.

    Args:
        every_n_epochs: epochs between looks; the last one is looked at too.
    """

    def __init__(self, every_n_epochs: int = 5):
        super().__init__(every_n_epochs)
        self.forget()

    def prepare(self, task: Task, data: DataModule) -> None:
        metrics = dict(task.test_scores.metrics.items(keep_base=True, copy_state=False))
        self._drawn = {name: metric for name, metric in metrics.items() if name in figures.DRAWN}
        if "val" not in data.datasets:
            self.leave("there is no validation split")
        elif not self._drawn:
            self.leave(f"there is nothing to draw: none of the metrics is one of {', '.join(figures.DRAWN)}")

    def forget(self) -> None:
        self._metrics: MetricCollection | None = None
        self._preds: list[tuple[torch.Tensor, torch.Tensor]] = []  # probabilities and classes

    def hear(self, preds: Any, target: Any, more: dict[str, Any]) -> None:
        if self._metrics is None:
            copies: dict[str, Any] = {name: metric.clone() for name, metric in self._drawn.items()}
            for metric in copies.values():
                metric.distributed_available_fn = lambda: False  # other processes do not look
            self._metrics = MetricCollection(copies).to(preds.device)
            self._metrics.reset()
        self._metrics.update(preds, target, **more)
        if not target.is_floating_point() and sum(len(t) for _, t in self._preds) < MOST_SAMPLES:
            self._preds.append((preds, target))

    def look(self, trainer: pl.Trainer, task: Task, data: DataModule) -> None:
        if self._metrics is None:  # no validation in this epoch
            return
        values = torch.utils._pytree.tree_map(lambda v: v.detach().cpu().numpy(), self._metrics.compute())
        for name, value in values.items():
            with self.safely():
                picture = figures.png(figures.draw_metric(name, value, data.class_names, "val"))
                for board in self.boards:
                    board.add_picture(f"figures/{name}/val", picture, trainer.global_step)
        if self._preds:
            self._add_curves(data, trainer.global_step)
        self.forget()

    def _add_curves(self, data: DataModule, step: int) -> None:
        probabilities, classes = (torch.cat(parts).float().cpu() for parts in zip(*self._preds, strict=True))
        count = probabilities.shape[1]
        for number in range(min(count, MOST_CURVES)) if count > 2 else [1]:  # of two classes one curve says all
            is_class = (classes == number).numpy()
            if is_class.any():
                for board in self.boards:
                    tag = f"pr_curve/{class_name(number, data)}"
                    board.add("pr_curve", tag, is_class, probabilities[:, number].clamp(0, 1).numpy(), step)
