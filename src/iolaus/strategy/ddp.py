"""Each process holds all weights; gradients are averaged in the backward pass. Li and others, https://arxiv.org/abs/2006.15704."""

import inspect
from typing import Any

from pytorch_lightning.strategies import DDPStrategy
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from iolaus.task.base import BATCH_NORMS

NAMES = inspect.signature(DistributedDataParallel).parameters
SYNC_BUFFERS = "forward_sync_buffers" if "forward_sync_buffers" in NAMES else "broadcast_buffers"  # as torch calls it


class DataParallel(DDPStrategy):
    """Distributed data parallel training.

    Args:
        find_unused_parameters: whether some parameters have no gradient in some steps, which costs a search each step.
        gradient_as_bucket_view: whether gradients live in the buffers that are sent, which saves a copy of them.
        static_graph: whether every step computes the same way, which lets it be sent in a better order.
    """

    def __init__(
        self, find_unused_parameters: bool = False, gradient_as_bucket_view: bool = True, static_graph: bool = False
    ):
        super().__init__(
            find_unused_parameters=find_unused_parameters,
            gradient_as_bucket_view=gradient_as_bucket_view,
            static_graph=static_graph,
        )

    def _setup_model(self, model: nn.Module) -> Any:
        """Buffers are sent in each step only where a step changes them: those of batch norms are rank 0's."""
        self._ddp_kwargs[SYNC_BUFFERS] = any(isinstance(module, BATCH_NORMS) for module in model.modules())
        return super()._setup_model(model)
