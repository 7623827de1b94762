"""How long the gradient is, as a whole and by layer. Pascanu and others, https://arxiv.org/abs/1211.5063."""

import logging
from typing import Any

import pytorch_lightning as pl
import torch

from iolaus.callbacks.base import short_name
from iolaus.logger.tensorboard import TensorBoard

log = logging.getLogger("iolaus")

MOST_KEPT = 1_000  # steps whose norms wait on the device


class GradientNorm(pl.Callback):
    """Euclidean norms of the gradient that a step is taken with, before it is clipped.

    | logged | is |
    | --- | --- |
    | gradient_norm/total | the mean over the epoch's measured steps of the whole gradient's norm; in metrics.csv too |
    | gradient_norm/<layer> | the same of each layer that has weights of its own, in TensorBoard |
    | gradient_norm/step | the whole gradient's norm of each measured step, in TensorBoard |

    Norms stay on the device until the epoch ends: a step is not waited for. Where they cannot be had, a line says so, once.

    Cost: two kernels a step; 1.14 times the epoch of benchmarks/callbacks.py, whose steps are small.

    Args:
        every_n_steps: steps between two that are measured.

    Raises:
        ValueError: for fewer than one.
    """

    def __init__(self, every_n_steps: int = 1):
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps must be at least 1; received {every_n_steps}")
        self.every_n_steps = every_n_steps
        self._stage = "fit"
        self._last = -1  # the step that was measured last
        self._is_told = False
        self._forget()

    def _forget(self) -> None:
        """Begin an epoch."""
        self._steps: list[int] = []
        self._rows: list[torch.Tensor] = []  # of each measured step the norm of each weight's gradient
        self._sum: torch.Tensor | None = None  # of the norms before these: of the whole, then of each layer
        self._count = 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._stage = stage

    def state_dict(self) -> dict[str, Any]:
        rows = torch.stack(self._rows).cpu() if self._rows else None
        total = None if self._sum is None else self._sum.clone()
        return {"steps": list(self._steps), "rows": rows, "sum": total, "count": self._count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self._stage == "fit":  # a test brings back the best weights' state
            self._steps, self._sum, self._count = list(state_dict["steps"]), state_dict["sum"], state_dict["count"]
            self._rows = list(state_dict["rows"]) if state_dict["rows"] is not None else []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        named = [(name, p) for name, p in pl_module.named_parameters() if p.requires_grad]
        owners = [short_name(name).rpartition(".")[0] or type(pl_module.model).__name__ for name, _ in named]
        self._layers = list(dict.fromkeys(owners))
        self._parameters = [p for _, p in named]
        self._owner = torch.tensor([self._layers.index(owner) for owner in owners])
        self._zeros = torch.zeros(len(named), device=pl_module.device)
        self._rows = [row.to(pl_module.device) for row in self._rows]
        self._boards = [logger for logger in trainer.loggers if isinstance(logger, TensorBoard)]

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        step = trainer.global_step
        # an optimizer with a closure evaluates a batch several times; the first counts
        if step % self.every_n_steps or step == self._last:
            return
        self._last = step
        try:
            self._rows.append(self._norms(trainer, optimizer))
        except RuntimeError as error:  # as of gradients of types that have no common one
            if not self._is_told:
                log.warning("callbacks.gradient_norm: left out: %s", " ".join(str(error).split())[:200])
            self._is_told = True
            return
        self._steps.append(step)
        if len(self._rows) >= MOST_KEPT:
            self._write_steps()

    @torch.no_grad()
    def _norms(self, trainer: pl.Trainer, optimizer: torch.optim.Optimizer) -> torch.Tensor:
        """The norm of each weight's gradient, 0 where there is none, on the device."""
        grads = [values(p.grad) for p in self._parameters if p.grad is not None]
        wide = (
            torch.float32 if grads and grads[0].dtype.itemsize < 4 else None
        )  # sums of half precision have few digits
        norms = torch.stack(torch._foreach_norm(grads, 2, wide)) if grads else self._zeros[:0]
        if len(grads) < len(self._parameters):
            there = [k for k, p in enumerate(self._parameters) if p.grad is not None]
            norms = self._zeros.to(norms.dtype).index_copy(0, torch.tensor(there, device=norms.device), norms)
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            norms = norms / scaler._scale  # which a fused optimizer takes away only inside its step
        return norms

    def _write_steps(self) -> None:
        """Write the norms that are kept, and add them to the epoch's sum."""
        if not self._rows:
            return
        squares = torch.stack(self._rows).cpu().double().square()
        by_layer = torch.zeros(len(squares), len(self._layers), dtype=torch.float64)
        by_layer.index_add_(1, self._owner, squares)
        norms = torch.cat([squares.sum(1, keepdim=True), by_layer], 1).sqrt()
        for board in self._boards:
            for step, whole in zip(self._steps, norms[:, 0].tolist(), strict=True):
                board.log_metrics({"gradient_norm/step": whole}, step)
        self._sum = norms.sum(0) if self._sum is None else self._sum + norms.sum(0)
        self._count += len(norms)
        self._rows, self._steps = [], []

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._write_steps()
        if self._sum is not None:
            total, *layers = (self._sum / self._count).tolist()
            step = trainer.global_step - 1  # as all that is logged at an epoch's end
            for logger in trainer.loggers:
                logger.log_metrics({"gradient_norm/total": total}, step)
            for board in self._boards:
                board.log_metrics({f"gradient_norm/{n}": v for n, v in zip(self._layers, layers, strict=True)}, step)
        self._forget()


def values(grad: torch.Tensor) -> torch.Tensor:
    """A gradient's values, of a sparse one those that are there."""
    return grad.coalesce().values() if grad.is_sparse else grad
