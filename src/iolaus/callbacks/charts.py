"""Training and validation of each metric in one chart of TensorBoard's tab Custom Scalars."""

import re

import pytorch_lightning as pl

from iolaus.callbacks.base import Look
from iolaus.task.base import Task


class Charts(Look):
    """Lays the charts out once, when the training begins; the curves themselves are what is logged anyway.

    | chart | holds |
    | --- | --- |
    | <metric> | <metric>/train and <metric>/val; loss first, with loss/step in a chart of its own |
    | lr | the learning rate of each group |

    Cost: a millisecond, once.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        with self.safely():
            for board in self.boards:
                board.add("custom_scalars", layout(pl_module))  # type: ignore[arg-type]


def layout(task: Task) -> dict[str, dict[str, list]]:
    """Charts by category; each names its curves by regular expressions, which match whole tags."""
    scores = (task.train_scores, task.val_scores)
    names = dict.fromkeys(str(name) for score in scores for name in score.metrics.keys(keep_base=True))
    charts = {"loss": ["Multiline", [r"^loss/(train|val)$"]]}
    # a metric of several numbers is logged as <metric>_0, <metric>_1, ...
    charts |= {name: ["Multiline", [rf"^{re.escape(name)}(_\d+)?/(train|val)$"]] for name in names}
    return {
        "training and validation": charts,
        "steps": {"loss/step": ["Multiline", [r"^loss/step$"]], "lr": ["Multiline", [r"^lr"]]},
    }
