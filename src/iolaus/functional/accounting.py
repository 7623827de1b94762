"""Memory and floating-point operations of a training step, counted without doing it. Griewank and Walther, https://doi.org/10.1137/1.9780898717761."""

import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import nn
from torch.optim import LBFGS, Optimizer, SparseAdam
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


class SavedBytes(torch.autograd.graph.saved_tensors_hooks):
    """Bytes that autograd keeps for the backward pass of what is computed under it; each storage counts once.

    What a selective checkpoint keeps lies outside of autograd and is not seen.

    Args:
        others: tensors that are there anyway, such as weights and inputs, and do not count.
    """

    def __init__(self, others: Iterable[torch.Tensor] = ()):
        self._others = {_storage(tensor)._cdata for tensor in others}
        self._kept: dict[int, torch.UntypedStorage] = {}  # alive, so that no number is given twice
        super().__init__(self._keep, lambda tensor: tensor)

    def __enter__(self) -> Self:  # type: ignore[override]
        """Begin to count."""
        super().__enter__()
        return self

    def _keep(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = _storage(tensor)
        if storage._cdata not in self._others:
            self._kept[storage._cdata] = storage
        return tensor

    @property
    def total(self) -> int:
        """Bytes in all."""
        return sum(storage.nbytes() for storage in self._kept.values())


class LiveBytes(TorchDispatchMode):
    """Bytes of the tensors that were made under it and are alive, now and at most; each storage counts once.

    Args:
        others: tensors that are there anyway, such as weights and inputs, and do not count.
    """

    def __init__(self, others: Iterable[torch.Tensor] = ()):
        super().__init__()
        self.now = 0
        self.peak = 0
        self._known: dict[int, int] = {}
        for tensor in others:
            self._add(tensor, counts=False)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for part in tree_leaves(result):
            if isinstance(part, torch.Tensor):
                self._add(part)
        return result

    def _add(self, tensor: torch.Tensor, counts: bool = True) -> None:
        for storage in _storages(tensor):
            if storage._cdata not in self._known:
                size = storage.nbytes() if counts else 0
                self._known[storage._cdata] = size
                self.now += size
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._gone, storage._cdata).atexit = False

    def _gone(self, key: int) -> None:
        self.now -= self._known.pop(key)


class AnyNumber(TorchDispatchMode):
    """A number that is read off a tensor without values is one half, zero or no, where it does not matter for what is counted.

    First weights depend on such numbers, and steps of an optimizer on norms and averages.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            dtype = args[0].dtype
            return False if dtype == torch.bool else 0.5 if dtype.is_floating_point else 0
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True)
class Account:
    """What a step keeps and computes; bytes and floating-point operations.

    Args:
        kept: when the forward pass has ended, without weights and inputs.
        kept_in_blocks: of these, what the blocks added.
        peak: at most until the backward pass has ended, gradients included.
        flops: of forward and backward pass.
        flops_of_blocks: of these, the blocks' own.
    """

    kept: int
    kept_in_blocks: int
    peak: int
    flops: int
    flops_of_blocks: int


def account(
    module: nn.Module, blocks: Iterable[nn.Module], inputs: Iterable[torch.Tensor], step: Callable[[], Any]
) -> Account:
    """Count a step, in two passes: counting operations holds on to what is computed again, which memory would show.

    Args:
        module: whose weights get gradients; those that it has are there anyway, as when gradients are accumulated.
        blocks: parts of the module.
        inputs: tensors of the batch.
        step: computes the loss, a 0-d tensor.
    """
    blocks = list(blocks)
    given = {parameter: parameter.grad for parameter in module.parameters()}
    kept, kept_in_blocks, peak = _memory(module, blocks, list(inputs), step)
    for parameter, gradient in given.items():
        parameter.grad = gradient
    counter = FlopCounterMode(display=False)
    with counter:
        step().backward()
    names = {part: name for name, part in module.named_modules()}
    per_module = counter.get_flop_counts()
    of_blocks = sum(sum(per_module.get(f"{type(module).__name__}.{names[b]}", {}).values()) for b in blocks)
    return Account(kept, kept_in_blocks, peak, counter.get_total_flops(), of_blocks)


def _memory(
    module: nn.Module, blocks: list[nn.Module], inputs: list[torch.Tensor], step: Callable[[], Any]
) -> tuple[int, int, int]:
    """Bytes kept, of these in blocks, and the peak."""
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    live = LiveBytes([*module.parameters(), *module.buffers(), *gradients, *inputs])
    begun: list[int] = []
    added = 0

    def begin(*_: Any) -> None:
        begun.append(live.now)

    def end(*_: Any) -> None:
        nonlocal added
        added += live.now - begun.pop()

    hooks = [h for b in blocks for h in (b.register_forward_pre_hook(begin), b.register_forward_hook(end))]
    try:
        with live:
            loss = step()
            kept = live.now
            loss.backward()
    finally:
        for hook in hooks:
            hook.remove()
    return kept, added, live.peak


def optimizer_state(optimizer: Optimizer) -> tuple[int, bool]:
    """Bytes of an optimizer's state after its first steps, found by a step, and whether they are an upper bound.

    The weights must have gradients. Of LBFGS, whose state grows with its history, and SparseAdam, whose step depends on values, the
    state is computed from its definition.
    """
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    size = sum(p.numel() * p.element_size() for p in weights)
    if isinstance(optimizer, LBFGS):  # directions and steps of the history, a direction, a gradient
        return (2 * optimizer.param_groups[0]["history_size"] + 2) * size, True
    if isinstance(optimizer, SparseAdam):
        return 2 * size, False
    with AnyNumber():
        optimizer.step()
    tensors = [part for part in tree_leaves(list(optimizer.state.values())) if isinstance(part, torch.Tensor)]
    return sum(storage.nbytes() for storage in {s._cdata: s for t in tensors for s in _storages(t)}.values()), False


def _storages(tensor: torch.Tensor) -> Iterator[torch.UntypedStorage]:
    """Where the numbers of a tensor lie; of a sparse one, its values and their places."""
    if tensor.layout is torch.strided:
        yield _storage(tensor)
    elif tensor.layout is torch.sparse_coo:
        yield from map(_storage, (tensor._values(), tensor._indices()))


def _storage(tensor: torch.Tensor) -> torch.UntypedStorage:
    return tensor.untyped_storage()
