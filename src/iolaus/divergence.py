"""What a run says when its numbers are no longer finite."""

import pytorch_lightning as pl
import torch

from iolaus.errors import UserError

LARGE = 1e6  # a weight that no training means


class Diverged(UserError):
    """A loss, a gradient or a weight is NaN or infinite; no step was taken with it and no checkpoint holds it."""


def not_finite(module: torch.nn.Module) -> str | None:
    """Name of the first weight or buffer with a value that is NaN or infinite; None when all are finite."""
    for name, value in (*module.named_parameters(), *module.named_buffers()):
        # A sum is finite only if all terms are, short of overflow, and takes no memory for a mask.
        if value.is_floating_point() and not value.detach().sum().isfinite() and not value.detach().isfinite().all():
            return name
    return None


def diverged(trainer: pl.Trainer, loss: float | None, step: int) -> Diverged:
    """The message: which number, at which step, at what rate, why, and what to do.

    Args:
        trainer: of the run.
        loss: the value, when it is the loss that is not finite.
        step: how many steps were taken before.
    """
    rates = ", ".join(f"{group['lr']:g}" for group in trainer.optimizers[0].param_groups)
    task = trainer.lightning_module
    weight = not_finite(task)
    largest = max((p.detach().abs().max().item() for p in task.parameters() if p.numel()), default=0.0)
    if weight is not None:
        cause = f"after step {step} the weights {weight} are not finite: their gradient was not, or the step overflowed"
    elif largest > LARGE:
        cause = f"weights have grown to {largest:.3g}"
    else:
        cause = "all weights are finite and none is large: look for a logarithm or a division at zero, or extreme data"
    return Diverged(
        f"loss/train: {'cannot be computed' if loss is None else loss} in epoch {trainer.current_epoch + 1}, step {step + 1} "
        f"(learning rate {rates}): the run diverged;\n{cause};\n"
        "lower optim.lr, set trainer.gradient_clip_val=1, or let it go on from the last good point with a lower rate: "
        "callbacks=[default,go_back]"
    )
