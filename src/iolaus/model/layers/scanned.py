"""Recurrent layers as loops that a graph can hold, over sequences of any length. https://onnx.ai/onnx/operators/onnx__Scan.html.

torch's loop is a private name, `torch._higher_order_ops.scan.scan`, as long as there is no public one. It is used here alone, and imported
only when a recurrent layer is traced: when it moves, models with such layers are not exported as graphs, which a line tells with the
reason, and all else is as before. `tests/test_export.py` fails then.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

States = tuple[torch.Tensor, ...]  # (B, H) of a layer and direction; of an LSTM the cell too


@contextmanager
def scanned(module: nn.Module) -> Iterator[None]:
    """While a module is traced, let its recurrent layers be one loop a layer and direction.

    torch writes a step for each of the example's steps, and so a graph for sequences of one length. The values are those of torch's own
    layers in eval mode up to rounding.

    Args:
        module: that is going to be traced.
    """
    layers = [part for part in module.modules() if isinstance(part, nn.RNNBase)]
    if layers:
        torch.compiler.reset()  # an earlier trace's loops would be taken again, with the sizes that were fixed in them
    for layer in layers:
        layer.forward = partial(_forward, layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _forward(layer: nn.RNNBase, x: torch.Tensor, hx: Any = None) -> tuple[torch.Tensor, Any]:
    """As the layer's own, for padded batches.

    Raises:
        ValueError: for packed sequences and projections.
    """
    if not isinstance(x, torch.Tensor) or x.ndim != 3 or layer.proj_size:
        raise ValueError(f"{type(layer).__name__}: packed sequences, single ones and projections cannot be exported")
    x = x.transpose(0, 1) if layer.batch_first else x
    given = hx if isinstance(hx, tuple) else (hx,)
    ends: list[States] = []
    for number in range(layer.num_layers):
        both = []
        for direction in range(1 + layer.bidirectional):
            k = len(ends)
            states = tuple(
                x.new_zeros(x.shape[1], layer.hidden_size) if part is None else part[k]
                for part in (given if hx is not None else (None,) * (2 if layer.mode == "LSTM" else 1))
            )
            end, steps = _looped(layer, f"l{number}{'_reverse' * direction}", x.flip(0) if direction else x, states)
            both.append(steps.flip(0) if direction else steps)
            ends.append(end)
        x = torch.cat(both, -1)
    last = tuple(torch.stack(parts) for parts in zip(*ends, strict=True))
    return x.transpose(0, 1) if layer.batch_first else x, last if layer.mode == "LSTM" else last[0]


def _looped(layer: nn.RNNBase, name: str, x: torch.Tensor, states: States) -> tuple[States, torch.Tensor]:
    """The last states, and the first of them after each step, (T, B, H), for x (T, B, D)."""
    from torch._higher_order_ops.scan import scan

    reads, keeps = (
        (getattr(layer, f"weight_{what}_{name}"), getattr(layer, f"bias_{what}_{name}", None)) for what in ("ih", "hh")
    )
    step = {"LSTM": _lstm, "GRU": _gru, "RNN_TANH": _tanh, "RNN_RELU": _relu}[layer.mode]

    def following(states: States, x: torch.Tensor) -> tuple[States, torch.Tensor]:
        # in the loop, as a product over all steps is traced with conditions that a batch of one does not meet
        states = step(states, F.linear(x, *reads), F.linear(states[0], *keeps))
        return states, states[0].clone()

    return scan(following, states, x, dim=0)


def _tanh(states: States, read: torch.Tensor, kept: torch.Tensor) -> States:
    return ((read + kept).tanh(),)


def _relu(states: States, read: torch.Tensor, kept: torch.Tensor) -> States:
    return ((read + kept).relu(),)


def _gru(states: States, read: torch.Tensor, kept: torch.Tensor) -> States:
    (r, z, n), (kept_r, kept_z, kept_n) = read.chunk(3, -1), kept.chunk(3, -1)
    new = (n + (r + kept_r).sigmoid() * kept_n).tanh()
    return (new + (z + kept_z).sigmoid() * (states[0] - new),)


def _lstm(states: States, read: torch.Tensor, kept: torch.Tensor) -> States:
    i, f, g, o = (read + kept).chunk(4, -1)
    cell = f.sigmoid() * states[1] + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell.tanh(), cell
