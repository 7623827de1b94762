"""What a user should know about measured values: numbers that are not defined, and classes that are never predicted."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torchmetrics.classification import MulticlassConfusionMatrix

from iolaus.task.base import Task

MAX_NAMES = 5  # of classes in a line


def undefined_values(task: Task, values: Mapping[str, float]) -> Iterator[str]:
    """A line for each value that is NaN or infinite, with the reason.

    Args:
        task: whose metrics know why they have no value.
        values: by `<metric>/<split>`.
    """
    for key, value in values.items():
        if not math.isfinite(value):
            name, _, split = key.rpartition("/")
            yield f"{key} is not defined ({value}; null in JSON): {_reason(task, name, split)}"


def _reason(task: Task, name: str, split: str) -> str:
    if name == "loss":
        return f"look for extreme values in the {split} split"
    scores = getattr(task, f"{split}_scores", None)
    metrics = dict(scores.metrics.items(keep_base=True, copy_state=False)) if scores is not None else {}
    metric = metrics.get(name) or metrics.get(name.rpartition("_")[0])  # of several targets each has its number
    default = f"{type(metric).__name__} is not defined for the samples of the {split} split"
    return getattr(metric, "undefined_because", default)


def unpredicted_classes(task: Task, class_names: Any) -> Iterator[str]:
    """A line where classes of the test split were never predicted, by its confusion matrix."""
    metrics = dict(task.test_scores.metrics.items(keep_base=True, copy_state=False))
    for name, value in task.figures.items():
        if isinstance(metrics.get(name), MulticlassConfusionMatrix):
            matrix = torch.as_tensor(value).nan_to_num()
            missed = ((matrix.sum(0) == 0) & (matrix.sum(1) > 0)).nonzero()[:, 0].tolist()
            if missed:
                names = [repr(str(class_names[number] if class_names else number)) for number in missed[:MAX_NAMES]]
                more = f", ... ({len(missed)} of {len(matrix)})" if len(missed) > MAX_NAMES else ""
                classes = "class" if len(missed) == 1 else "classes"
                yield f"test: never predicted, though the test split has samples of it: {classes} {', '.join(names)}{more}"
