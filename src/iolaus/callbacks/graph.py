"""Drawings of the network: graph.dot and graph.svg in the run's folder, and TensorBoard's graph. https://github.com/mert-kurttutan/torchview."""

import logging
import shutil
import subprocess
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.core.module import _jit_is_scripting
from torch import nn

from iolaus.logger.tensorboard import TensorBoard
from iolaus.undisturbed import undisturbed
from iolaus.user_code import failure_line, warn_on_failure

log = logging.getLogger("iolaus")


class Graph(pl.Callback):
    """Draws the network once, when the training has ended; the run is not changed by it, and not ended by what cannot be drawn.

    | written | needs |
    | --- | --- |
    | graph.dot | the package torchview |
    | graph.svg | also Graphviz' program dot |
    | TensorBoard's graph | logger=[tensorboard] |

    Cost: nothing an epoch; at the end two passes of two samples and their drawing, about a second for a small network.

    Args:
        output_dir: the run's folder.
        depth: levels of nested modules that are drawn.
    """

    def __init__(self, output_dir: str, depth: int = 3):
        self.output_dir = output_dir
        self.depth = depth

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        model: nn.Module = pl_module.model  # type: ignore[assignment]
        with warn_on_failure("graph.svg", Path(self.output_dir)):
            self._draw(model, pl_module.example(2)[:-1], trainer.loggers)  # type: ignore[operator]

    def _draw(self, model: nn.Module, inputs: tuple[torch.Tensor, ...], loggers: Iterable[Any]) -> None:
        draw(model, inputs, Path(self.output_dir), self.depth)
        for logger in loggers:
            if isinstance(logger, TensorBoard):
                with _looking(model, "TensorBoard's graph"), _jit_is_scripting():
                    logger.experiment.add_graph(model, inputs, use_strict_trace=False)


def draw(model: nn.Module, inputs: tuple[torch.Tensor, ...], folder: Path, depth: int = 3) -> list[Path]:
    """Draw a network as graph.dot, and as graph.svg where the program `dot` is there.

    Returns:
        the files; none where torchview is not installed, or the network cannot be drawn, which a line tells.
    """
    try:
        from torchview import draw_graph
    except ModuleNotFoundError:
        log.info("graph.svg: not drawn, torchview is not installed: pip install torchview")
        return []
    written: list[Path] = []
    with _looking(model, "graph.svg"):
        drawn = draw_graph(
            model, input_data=inputs, depth=depth, device=inputs[0].device, mode="eval", expand_nested=True
        )
        (folder / "graph.dot").write_text(drawn.visual_graph.source, encoding="utf-8")
        written.append(folder / "graph.dot")
        if shutil.which("dot"):
            command = ["dot", "-Tsvg", "graph.dot", "-o", "graph.svg"]
            subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=60)
            written.append(folder / "graph.svg")
    return written


@contextmanager
def _looking(model: nn.Module, what: str) -> Iterator[None]:
    """Run a model, uncompiled, for a look: in evaluation mode, without gradients or a trace; failures are told."""
    compiled, model._compiled_call_impl = model._compiled_call_impl, None
    try:
        with undisturbed(model, "eval"), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:  # tracers fail in as many ways as there are networks
        log.warning("%s: not drawn: %s", what, failure_line(error))
    finally:
        model._compiled_call_impl = compiled
