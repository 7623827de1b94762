"""Each process holds a part of weights, gradients and optimizer state (FSDP2). Zhao and others, https://arxiv.org/abs/2304.11277."""

import os
from pathlib import Path
from typing import Any

from pytorch_lightning.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from iolaus import sharded
from iolaus.model.layers.checkpointing import blocks


class FullySharded(ModelParallelStrategy):
    """Fully sharded data parallel training: the weights of a block are put together when it computes, and let go after.

    Runs go on with another number of processes, and everything that reads checkpoints reads these too, whether they are one file, which
    the first process puts together and writes, or a folder of parts.

    Args:
        reshard_after_forward: whether a block's weights are let go between its forward and its backward pass, which saves their memory
            and sends them twice.
        sharded_checkpoints: whether each process writes its own part of a checkpoint, which is a folder then; no process needs the memory
            of the whole.
    """

    def __init__(self, reshard_after_forward: bool = True, sharded_checkpoints: bool = False):
        super().__init__(
            data_parallel_size="auto", tensor_parallel_size=1, save_distributed_checkpoint=sharded_checkpoints
        )
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

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | os.PathLike, storage_options: Any = None
    ) -> None:
        """Write a checkpoint in parts, which all processes do, or as one file."""
        path = Path(self.broadcast(filepath))
        if self._save_distributed_checkpoint or self.is_global_zero:
            self.checkpoint_io.save_checkpoint(checkpoint, path)

    def load_checkpoint(self, checkpoint_path: str | os.PathLike, weights_only: bool | None = None) -> dict[str, Any]:
        """Load a checkpoint; from one in parts each process reads what it holds, whatever number of processes wrote it.

        Raises:
            DamagedCheckpoint: for one that is not what was written.
            UserError: for one of another model.
        """
        path = Path(self.broadcast(checkpoint_path))
        if not path.is_dir():
            return super().load_checkpoint(path, weights_only=weights_only)
        sharded.verify(path, together=True)
        assert self.model is not None
        assert self.lightning_module is not None
        trains = self.lightning_module.trainer.training
        present: dict[str, Any] = {"state_dict": get_model_state_dict(self.model)}
        if trains:
            present["optimizer_states"] = [get_optimizer_state_dict(self.model, one) for one in self.optimizers]
        content = sharded.load(path, present)
        set_model_state_dict(self.model, content.pop("state_dict"), options=StateDictOptions(strict=True))
        if trains:
            for optimizer, state in zip(self.optimizers, content["optimizer_states"], strict=True):
                set_optimizer_state_dict(self.model, optimizer, state)
        return content
