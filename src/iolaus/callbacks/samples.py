"""What the task has to show, while it is trained: texts, sounds, tables, maps."""

import pytorch_lightning as pl

from iolaus.board import write
from iolaus.callbacks.base import EpochLook, evaluating
from iolaus.data.base import DataModule
from iolaus.task.base import Task


class Samples(EpochLook):
    """Has the task show what the report shows at the end: of the validation split, with the weights that are trained.

    | task | logged |
    | --- | --- |
    | language modelling | samples/samples/val: texts that the model wrote; figures/loss_by_position/val |
    | translation | samples/translations/val, figures/attention/val |
    | speech | samples/clip_1/val, ...: sounds; figures/spectrogram_1/val, ... with what was heard; samples/transcripts/val |
    | ranking | samples/recommendations/val, figures/hit_rate/val |
    | scaling | figures/map/val, path (an animation), shepard; samples/coordinates/val, stress; of all pairs |

    A look costs what the task's predictions cost, and is told where it takes longer than two seconds; 0.1 s to several seconds.

    Args:
        every_n_epochs: epochs between looks; the last one is looked at too.
    """

    def __init__(self, every_n_epochs: int = 10):
        super().__init__(every_n_epochs)

    def prepare(self, task: Task, data: DataModule) -> None:
        if type(task).show is Task.show:
            self.leave("this task has nothing to show; see callbacks=[default,inputs,mistakes]")

    def look(self, trainer: pl.Trainer, task: Task, data: DataModule) -> None:
        with evaluating(task):
            shown = task.show(data, "val")
        write(shown, self.boards, trainer.global_step, "/val")
