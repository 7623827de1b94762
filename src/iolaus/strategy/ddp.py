"""Each process holds all weights; gradients are averaged in the backward pass. Li and others, https://arxiv.org/abs/2006.15704."""

import inspect
from typing import Any

from pytorch_lightning.strategies import DDPStrategy, Strategy
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from iolaus.errors import UserError
from iolaus.task.base import BATCH_NORMS

NAMES = inspect.signature(DistributedDataParallel).parameters
MAX_NAMED = 4  # parameters in a message
SYNC_BUFFERS = "forward_sync_buffers" if "forward_sync_buffers" in NAMES else "broadcast_buffers"  # as torch calls it
UNFINISHED = ("Expected to have finished reduction", "not used in producing")  # torch's words of it, and Lightning's


def unused_error(error: RuntimeError, strategy: Strategy) -> UserError | None:
    """Return torch's error of parameters without a gradient with the setting that looks for them; None for another error."""
    if not any(words in str(error) for words in UNFINISHED):
        return None
    names = getattr(strategy, "without_gradient", [])
    listed = ", ".join(names[:MAX_NAMED]) + (f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else "")
    trainer = "" if isinstance(strategy, DataParallel) else "trainer=ddp "
    return UserError(
        f"trainer.strategy.find_unused_parameters: the loss did not depend on {listed or 'some parameters'}, and the processes wait for "
        f"the gradient of each parameter; set {trainer}trainer.strategy.find_unused_parameters=true, or leave these parameters out"
    )


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
        self.without_gradient: list[str] = []
        super().__init__(
            find_unused_parameters=find_unused_parameters,
            gradient_as_bucket_view=gradient_as_bucket_view,
            static_graph=static_graph,
        )

    def look_for_unused(self, task: nn.Module) -> None:
        """Note the parameters that a backward pass gave no gradient, which may be used in other steps; an error names them."""
        self.without_gradient = [name for name, p in task.named_parameters() if p.requires_grad and p.grad is None]

    def _setup_model(self, model: nn.Module) -> Any:
        """Buffers are sent in each step only where a step changes them: those of batch norms are rank 0's."""
        self._ddp_kwargs[SYNC_BUFFERS] = any(isinstance(module, BATCH_NORMS) for module in model.modules())
        return super()._setup_model(model)
