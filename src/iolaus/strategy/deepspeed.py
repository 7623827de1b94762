"""ZeRO: optimizer state, gradients and weights shared out among GPUs. Rajbhandari and others, https://arxiv.org/abs/1910.02054."""

from typing import Literal

from pytorch_lightning.strategies import DeepSpeedStrategy


class DeepSpeed(DeepSpeedStrategy):
    """Training by DeepSpeed on GPUs of NVIDIA; what it saves is a folder that DeepSpeed alone reads.

    Composed and checked, not yet tried on a GPU.

    Args:
        stage: of ZeRO: 1 shares out the optimizer's state, 2 the gradients too, 3 the weights too.
        offload_optimizer: whether the optimizer's state lies in the processor's memory.
        offload_parameters: whether the weights lie there; stage 3 alone.
        overlap_comm: whether gradients are sent while the backward pass goes on.
    """

    package = "deepspeed"
    extra = "deepspeed"

    def __init__(
        self,
        stage: Literal[1, 2, 3] = 2,
        offload_optimizer: bool = False,
        offload_parameters: bool = False,
        overlap_comm: bool = True,
    ):
        super().__init__(
            stage=stage,
            offload_optimizer=offload_optimizer,
            offload_parameters=offload_parameters,
            overlap_comm=overlap_comm,
        )
