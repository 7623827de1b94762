"""Each process holds a part of weights, gradients and optimizer state (FSDP2). Zhao and others, https://arxiv.org/abs/2304.11277."""

from typing import Any

from pytorch_lightning.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from iolaus.model.layers.checkpointing import blocks


class FullySharded(ModelParallelStrategy):
    """Fully sharded data parallel training: the weights of a block are put together when it computes, and let go after.

    Checkpoints are one file, which the first process puts together and writes; so runs go on with another number of processes, and
    everything that reads checkpoints reads these too.

    Args:
        reshard_after_forward: whether a block's weights are let go between its forward and its backward pass, which saves their memory
            and sends them twice.
    """

    def __init__(self, reshard_after_forward: bool = True):
        super().__init__(data_parallel_size="auto", tensor_parallel_size=1, save_distributed_checkpoint=False)
        self.reshard_after_forward = reshard_after_forward

    def setup_environment(self) -> None:
        """All processes share the weights."""
        assert self.cluster_environment is not None
        self._data_parallel_size = self.cluster_environment.world_size()
        super().setup_environment()

    def shard(self, model: nn.Module, mesh: DeviceMesh) -> None:
        """Shard a network in place: each of its repeated blocks, then what is left."""
        settings: dict[str, Any] = {"mesh": mesh["data_parallel"], "reshard_after_forward": self.reshard_after_forward}
        for block in blocks(model):
            fully_shard(block, **settings)
        fully_shard(model, **settings)
