"""A table of layers, output shapes, parameters and sizes, before training."""

import logging
import os
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn

from iolaus.files import write
from iolaus.undisturbed import undisturbed
from iolaus.user_code import warn_on_failure

log = logging.getLogger("iolaus")

MB = 2**20


class Summary(pl.Callback):
    """Writes model.txt: one row a layer in the order of use, then totals; and tells it, or of many layers a line.

    Args:
        output_dir: the run's folder.
        most_rows: layers whose table is told.
    """

    def __init__(self, output_dir: str, most_rows: int = 12):
        self.output_dir = output_dir
        self.most_rows = most_rows

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        with warn_on_failure("model.txt", Path(self.output_dir)):
            text = summarize(pl_module.model, *pl_module.example(1)[:-1])  # type: ignore[arg-type, operator]
            if trainer.is_global_zero:  # the others take part, where they hold parts of the weights
                file = Path(self.output_dir, "model.txt")
                write(file, text)
                log.info("%s", self._told(text, file))

    def _told(self, text: str, file: Path) -> str:
        """The table without its sizes, or a line where it is long."""
        title, rule, *rest = text.splitlines()
        layers = rest[: rest.index(rule)]
        parameters = next(line for line in rest if line.startswith("parameters: "))
        if len(layers) > self.most_rows:
            return f"{parameters} in {len(layers)} layers: {os.path.relpath(file)}"
        return "\n".join([title, rule, *layers, rule, parameters])


def summarize(model: nn.Module, *inputs: torch.Tensor) -> str:
    """The table as text. Sizes count float32 values; forward/backward counts each layer's output twice.

    The model is left as it was: run in evaluation mode with the random state kept.

    Args:
        model: any module.
        inputs: what it takes, with a batch of one.
    """
    rows: list[tuple[str, str, int, int]] = []
    names = {module: name for name, module in model.named_modules()}

    def note(module: nn.Module, _: Any, output: Any) -> None:
        tensor = output[0] if isinstance(output, tuple) else output
        shape = list(tensor.shape) if isinstance(tensor, torch.Tensor) else []
        count = sum(p.numel() for p in module.parameters())
        label = f"{names[module]} ({type(module).__name__})" if names[module] else type(module).__name__
        rows.append((label, str(["B", *shape[1:]]).replace("'", ""), count, tensor.numel() if shape else 0))

    leaves = [m for m in model.modules() if not any(m.children())]
    hooks = [leaf.register_forward_hook(note) for leaf in leaves]
    try:
        with undisturbed(model, "eval"), torch.no_grad():
            model(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    total = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    width = max([len(r[0]) for r in rows] + [len("layer")])
    shape_width = max([len(r[1]) for r in rows] + [len("output shape")])
    lines = [
        f"{'layer':<{width}}  {'output shape':<{shape_width}}  {'parameters':>12}",
        "-" * (width + shape_width + 16),
    ]
    lines += [f"{label:<{width}}  {shape:<{shape_width}}  {count:>12,}" for label, shape, count, _ in rows]
    lines += [
        lines[1],
        f"parameters: {total:,} ({trainable:,} trainable)",
        f"input size: {sum(i.numel() for i in inputs) * 4 / MB:.2f} MB",
        f"forward/backward pass size: {2 * 4 * sum(r[3] for r in rows) / MB:.2f} MB",
        f"parameters size: {total * 4 / MB:.2f} MB",
    ]
    return "\n".join(lines) + "\n"
