"""Muon for matrices, AdamW for everything else. Jordan and others, https://kellerjordan.github.io/posts/muon."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Muon, Optimizer


class MuonAndAdamW(Optimizer):
    """Steps hidden matrices by Muon, whose update is an orthogonalised momentum, and biases, norms, kernels and the like by AdamW.

    Muon's step is scaled to the size of AdamW's (https://arxiv.org/abs/2502.16982), so that one rate serves both.

    Args:
        params: parameters, or groups with settings of their own.
        lr: of both.
        weight_decay: of both, decoupled.
        momentum: of Muon.
        nesterov: whether Muon's momentum looks ahead.
        ns_steps: Newton-Schulz iterations of the orthogonalisation.
        betas: of AdamW.
        eps: of AdamW.

    Raises:
        ValueError: as AdamW and Muon do.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.001,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ):
        given = list(params)
        groups = given if given and isinstance(given[0], dict) else [{"params": given}]
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay})
        settings: dict[type[Optimizer], dict[str, Any]] = {
            Muon: {
                "momentum": momentum,
                "nesterov": nesterov,
                "ns_steps": ns_steps,
                "adjust_lr_fn": "match_rms_adamw",
            },
            AdamW: {"betas": betas, "eps": eps},
        }
        self.parts: list[Optimizer] = []
        for kind, own in settings.items():
            chosen = [_of_kind(group, kind is Muon) for group in self.param_groups]
            if chosen := [group for group in chosen if group["params"]]:
                self.parts.append(kind(chosen, lr=lr, weight_decay=weight_decay, **own))  # type: ignore[call-arg]
        # Schedules and checkpoints see one optimizer: its groups are those of both, and so is its state.
        self.param_groups = [group for part in self.parts for group in part.param_groups]
        for part in self.parts:
            part.state = self.state

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of both."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take a saved state; the parts see it too."""
        super().load_state_dict(state_dict)
        begin = 0
        for part in self.parts:
            end = begin + len(part.param_groups)
            part.param_groups, part.state = self.param_groups[begin:end], self.state
            begin = end


def _of_kind(group: dict[str, Any], matrices: bool) -> dict[str, Any]:
    """A group with those of its parameters that are matrices, or are not."""
    chosen: list[nn.Parameter] = [p for p in group["params"] if (p.ndim == 2) == matrices]
    return group | {"params": chosen}
