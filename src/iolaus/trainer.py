"""Lightning's Trainer with what Iolaus adds to it. https://lightning.ai/docs/pytorch/stable/common/trainer.html."""

import logging
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import HalfPrecision

from iolaus.checkpoint import CheckpointFiles
from iolaus.fast_loop import FastEpochLoop

log = logging.getLogger("iolaus")


class HalfWeights(HalfPrecision):
    """Weights and arithmetic in half precision; batches come as they are, for tasks that standardise them before they round them."""

    def convert_input(self, data: Any) -> Any:
        """The batch as it is."""
        return data


class Trainer(pl.Trainer):
    """Lightning's Trainer; plain steps run in the fast loop, the model can be compiled.

    Args:
        compile: true, or a mode of torch.compile, compiles the model; where that fails it runs as it is, and a line says so. Modes that
            record graphs of their own would write over outputs that scores still need: cuda_graphs records whole steps instead.
        cuda_graphs: whether a training step on a GPU is recorded once and replayed as one launch, which pays where the kernels of a
            step are short.
        channels_last: whether 4-dimensional weights and images are laid out channels last, which convolutions on GPUs and
            some processors like better.
        matmul_precision: of float32 products: highest, or high and medium, which let GPUs use TF32 and bf16 inside.
        fast_loop: whether plain steps run in the fast loop; false is Lightning's own.
        timeout_s: seconds after which another process of the run that does not answer is taken for lost.
        join_timeout_s: seconds within which all processes of the run must have come together.
        scale_lr: what learning rates are multiplied with where several processes train together: linear, their number; sqrt, its
            square root; None: nothing, the rates are meant for the batch of all.
        num_nodes: how many machines; auto: as whatever started the processes says.
        checkpoint_files: how checkpoints are written and read.
        lightning: the arguments of Lightning's Trainer.
    """

    def __init__(
        self,
        compile: bool | Literal["default", "max-autotune-no-cudagraphs"] = False,
        cuda_graphs: bool = False,
        channels_last: bool = False,
        matmul_precision: Literal["highest", "high", "medium"] = "highest",
        fast_loop: bool = True,
        timeout_s: float = 1800.0,
        join_timeout_s: float = 120.0,
        scale_lr: Literal["linear", "sqrt"] | None = None,
        num_nodes: int | Literal["auto"] = 1,
        checkpoint_files: CheckpointFiles | None = None,
        **lightning: Any,
    ):
        plugins = lightning.pop("plugins", None) or []
        plugins = [*(plugins if isinstance(plugins, list) else [plugins]), checkpoint_files or CheckpointFiles()]
        # of several machines it has been settled by now how many they are
        super().__init__(plugins=plugins, num_nodes=1 if num_nodes == "auto" else num_nodes, **lightning)
        self.compile_mode = "default" if compile is True else compile or None
        self.cuda_graphs = cuda_graphs
        self.channels_last = channels_last
        torch.set_float32_matmul_precision(matmul_precision)
        if fast_loop:
            stock = self.fit_loop.epoch_loop
            self.fit_loop.epoch_loop = FastEpochLoop(self, min_steps=stock.min_steps, max_steps=stock.max_steps)

    def prepare(self, task: pl.LightningModule, *inputs: torch.Tensor) -> None:
        """Lay out and compile a task's model, in place, so that its weights keep their names.

        Args:
            task: its `model` is the network.
            inputs: a small batch, to see whether the compiler works where the training will run.
        """
        if self.channels_last:
            task.model.to(memory_format=torch.channels_last)
        if self.compile_mode is None:
            return
        device = self.strategy.root_device
        model: torch.nn.Module = task.to(device).model  # type: ignore[assignment]
        model.compile(mode=self.compile_mode)
        try:
            task(*(part.to(device) for part in inputs))
        except Exception as error:  # whatever the compiler trips over: no C++ compiler, a backend's own errors
            model._compiled_call_impl = None
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            log.warning("trainer.compile: the model runs uncompiled, the compiler failed: %s", reason[:200])
