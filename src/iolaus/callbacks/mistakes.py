"""What the validation got most wrong, as pictures, rows or texts."""

from typing import Any

import pytorch_lightning as pl
import torch

from iolaus.board import write
from iolaus.callbacks.base import ValidationLook
from iolaus.callbacks.rows import amounts, class_name, inputs_in_words, target_in_words
from iolaus.data.base import DataModule
from iolaus.exhibits import Exhibit, Images, Table
from iolaus.metrics.error_rate import edit_distance
from iolaus.task.base import Task

KINDS = ("class", "real", "sentence", "transcript")  # of targets
MOST_TEXTS = 1_000  # that are compared letter by letter


class Mistakes(ValidationLook):
    """Samples of the validation whose prediction is wrong, the most confident ones first; of amounts those with the largest errors.

    | task | logged |
    | --- | --- |
    | classification and regression of images | figures/mistakes: the images, what they are and what they were taken for |
    | of tables | samples/mistakes: row, target, prediction, probability or error, and the inputs |
    | translation, speech | samples/mistakes: the texts with the most wrong letters for their length |

    Predictions are those of the validation itself; of several processes that train together, of the first one's part. Of the samples those
    alone are read again that are shown.

    Cost: about 1 ms a validation, and about 0.15 s a look at images.

    Args:
        num_samples: that are shown at most; of a table 20.
        every_n_epochs: epochs between looks; the last one is looked at too.
    """

    def __init__(self, num_samples: int = 32, every_n_epochs: int = 5):
        super().__init__(every_n_epochs)
        self.num_samples = num_samples
        self.forget()

    def prepare(self, task: Task, data: DataModule) -> None:
        if "val" not in data.datasets:
            self.leave("there is no validation split")
        elif data.target_kind == "class" and data.samples("val", data.rows["val"][:1].tolist())[0][-1].numel() > 1:
            self.leave("targets of several classes, such as masks, have no mistakes to list")
        elif data.target_kind not in KINDS:
            self.leave(f"targets of the kind {data.target_kind!r} have no mistakes to list")

    def forget(self) -> None:
        self._worst: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []  # how wrong, the place, the prediction
        self._texts: list[tuple[str, str]] = []  # prediction and target
        self._heard = 0

    def hear(self, preds: Any, target: Any, more: dict[str, Any]) -> None:
        if isinstance(preds, torch.Tensor):
            wrong, shown = how_wrong(preds, target)
            scores, places = wrong.topk(min(self.num_samples, len(wrong)))
            self._worst.append((scores, places + self._heard, shown[places]))
            self._heard += len(wrong)
        elif len(self._texts) < MOST_TEXTS:
            self._texts += zip(preds, target, strict=True)

    def look(self, trainer: pl.Trainer, task: Task, data: DataModule) -> None:
        exhibit = self._compared(data) if self._texts else self._supervised(data) if self._worst else None
        if exhibit is not None:
            write({"mistakes": exhibit}, self.boards, trainer.global_step)
        self.forget()

    def _supervised(self, data: DataModule) -> Exhibit:
        """The worst of all parts of the validation."""
        scores, places, shown = (torch.cat(parts).cpu() for parts in zip(*self._worst, strict=True))
        best = scores.argsort(descending=True, stable=True)[: self.num_samples]
        best = best[scores[best] > 0]
        rows = data.rows_in_order("val")[places[best]].tolist()
        samples = data.samples("val", rows)
        is_class = data.target_kind == "class"
        truth = [target_in_words([part.cpu() for part in sample], data) for sample in samples]
        taken = [class_name(int(pred), data) if is_class else amounts(pred) for pred in shown[best]]
        how = [f"{score:.1%}" if is_class else f"{score:.4g}" for score in scores[best].tolist()]
        if data.input_kind == "image" and samples:
            titles = [
                f"{t}\nas {p} {h}" if is_class else f"{t}\n{p}" for t, p, h in zip(truth, taken, how, strict=True)
            ]
            return Images(torch.cat([sample[0].float().cpu() for sample in samples]), titles)
        inputs = [inputs_in_words([part.cpu() for part in sample[:-1]], data) for sample in samples]
        columns = [
            "row",
            "target",
            "prediction",
            "probability" if is_class else "error",
            *(inputs[0] if inputs else ()),
        ]
        cells = zip(rows, truth, taken, how, *zip(*(row.values() for row in inputs), strict=True), strict=True)
        return Table(columns, list(cells))

    def _compared(self, data: DataModule) -> Table:
        """Texts beside what they should be, with their sources where these are texts."""
        wrong = [edit_distance(said, truth) for said, truth in self._texts[:MOST_TEXTS]]
        order = sorted(range(len(wrong)), key=lambda k: -wrong[k] / max(len(self._texts[k][1]), 1))
        chosen = [k for k in order if wrong[k]][: self.num_samples]
        samples = (
            data.samples("val", data.rows_in_order("val")[chosen].tolist()) if data.target_kind == "sentence" else []
        )
        sources = [inputs_in_words([part.cpu() for part in sample[:-1]], data) for sample in samples]
        cells = [
            [*(sources[n].values() if sources else ()), self._texts[k][1], self._texts[k][0], wrong[k]]
            for n, k in enumerate(chosen)
        ]
        return Table([*(sources[0] if sources else ()), "target", "prediction", "wrong letters"], cells)


def how_wrong(preds: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How wrong each prediction is, 0 where it is right, and what is shown of it.

    Shape:
        preds: (N, C) probabilities with targets (N,), or (N, T) amounts with targets (N, T); results: (N,), and (N,) classes or (N, T).
    """
    if target.is_floating_point():
        return (preds - target).abs().flatten(1).amax(1), preds
    probability, taken = preds.max(1)
    return probability.where(taken != target, 0), taken
