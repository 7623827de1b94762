"""Activation checkpointing: blocks keep less for the backward pass and compute it again. Chen and others, https://arxiv.org/abs/1604.06174."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, Literal, TypeVar

import torch
from torch import nn
from torch.autograd import forward_ad
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

Policy = Literal["none", "full", "attention", "selective", "matmuls"]
Model = TypeVar("Model", bound=nn.Module)
Saves = Callable[[Any], bool]  # whether the output of a block's next operation is kept

CONTAINERS = (nn.Sequential, nn.ModuleList)
RUNNING_STATISTICS = nn.modules.batchnorm._NormBase
aten = torch.ops.aten
LINEAR = {aten.mm.default, aten.addmm.default}
MATMULS = LINEAR | {aten.bmm.default, aten.baddbmm.default, aten.convolution.default}
ATTENTION = {
    aten._scaled_dot_product_flash_attention.default,
    aten._scaled_dot_product_flash_attention_for_cpu.default,
    aten._scaled_dot_product_efficient_attention.default,
    aten._scaled_dot_product_cudnn_attention.default,
    aten._scaled_dot_product_fused_attention_overrideable.default,
}
_plain: ContextVar[bool] = ContextVar("plain_blocks", default=False)


def checkpoint_blocks(model: Model, policy: Policy) -> Model:
    """Let the blocks of a model keep less for the backward pass, in place; weights keep their names and gradients their bits.

    Blocks are the modules with parts and weights that stand in a Sequential or a ModuleList: layers of a transformer, residual blocks.
    Of nested ones the outermost count. Without gradients, in forward mode and under torch.func blocks compute as ever.

    Args:
        model: whose blocks are changed; it is returned.
        policy: `none`, or a key of POLICIES.

    Raises:
        ValueError: for a policy that is not there, or a model without blocks.
    """
    if policy == "none":
        return model
    if policy not in POLICIES:
        raise ValueError(f"activation_checkpointing: there are none, {', '.join(POLICIES)}; received {policy!r}")
    found = list(blocks(model))
    if not found:
        raise ValueError(
            "activation_checkpointing: the model has no blocks, modules with parts and weights in a list or a row; "
            f"it goes with none; received {policy!r}"
        )
    for block in found:
        if policy != "full":  # whose policies keep tensors that must not be changed in place
            for part in block.modules():
                if getattr(part, "inplace", False) is True:
                    part.inplace = False  # type: ignore[assignment]
        block.__class__ = _checkpointed(type(block), policy)  # type: ignore[arg-type]
    return model


def blocks(model: nn.Module) -> Iterator[nn.Module]:
    """The blocks of a model in order; those inside of others are a part of these."""
    for child in model.children():
        is_block = type(model) in CONTAINERS and type(child) not in CONTAINERS and any(True for _ in child.children())
        if is_block and any(True for _ in child.parameters()):
            yield child
        else:
            yield from blocks(child)


@contextlib.contextmanager
def plain_blocks() -> Iterator[None]:
    """Blocks compute as if there were no checkpointing: selective policies cannot be differentiated twice."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


def full(block: nn.Module) -> None:
    """Keep a block's inputs and nothing else: the least memory, for one more forward pass of the blocks, a third of a step's compute."""


def attention(block: nn.Module) -> Saves:
    """Keep the output of attention too: a little more memory, and the largest part of long sequences is computed once.

    Attention is torch's scaled_dot_product_attention where it runs in one kernel; blocks without it keep their inputs alone.
    """
    return lambda operation: operation in ATTENTION


def selective(block: nn.Module) -> Saves:
    """Keep attention and what it reads, queries, keys and values: for GPT-2 12 % more compute at under a third of the memory.

    In blocks without a part that is called attention every second product of matrices, or convolution, is kept. Korthikanti and
    others, https://arxiv.org/abs/2205.05198.
    """
    attends = any("Attention" in type(part).__name__ for part in block.modules())
    seen = {"products": 0, "attention": 0}

    def saves(operation: Any) -> bool:
        if not attends:
            seen["products"] += operation in MATMULS
            return operation in MATMULS and seen["products"] % 2 == 1
        # A softmax is attention in several steps: its products of queries and keys are large, and are computed again.
        seen["attention"] += operation in ATTENTION or operation is aten._softmax.default
        return operation in ATTENTION or (operation in LINEAR and not seen["attention"])

    return saves


def matmuls(block: nn.Module) -> Saves:
    """Keep the output of every product of matrices, convolution and attention: no such product is computed twice, the rest is cheap."""
    return lambda operation: operation in MATMULS or operation in ATTENTION


POLICIES: dict[str, Callable[[nn.Module], Saves | None]] = {
    "full": full,
    "attention": attention,
    "selective": selective,
    "matmuls": matmuls,
}


class Checkpointed(nn.Module):
    """What the class of a block becomes a subclass of: a class and no wrapper, so that names, copies and isinstance stay as they are."""

    activation_checkpointing: str

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """As the block computes it, keeping what the policy says."""
        compute = super().forward
        if not torch.is_grad_enabled() or _plain.get():
            return compute(*inputs, **named)
        if (
            torch.compiler.is_compiling()
        ):  # which changes running statistics once, and takes contexts of its own kind alone
            if self.activation_checkpointing != "full":
                named["context_fn"] = functools.partial(_selected, self, self.activation_checkpointing)
            return checkpoint(compute, *inputs, use_reentrant=False, **named)
        if _is_transformed(self):
            return compute(*inputs, **named)
        contexts = functools.partial(_contexts, self, self.activation_checkpointing)
        return checkpoint(compute, *inputs, use_reentrant=False, context_fn=contexts, **named)


@functools.cache
def _checkpointed(cls: type[nn.Module], policy: str) -> type[nn.Module]:
    """A class whose forward pass is checkpointed; it has the name of the class, which summaries show."""
    own = {"activation_checkpointing": policy, "__module__": cls.__module__, "__doc__": cls.__doc__}
    return type(cls.__name__, (Checkpointed, cls), own)


def _is_transformed(block: nn.Module) -> bool:
    """Whether this is forward mode, torch.func, or functional_call: what is computed later would see other weights."""
    return (
        forward_ad._current_level >= 0
        or torch._C._functorch.peek_interpreter_stack() is not None
        or not all(isinstance(weight, nn.Parameter) for weight in block.parameters())
    )


def _contexts(block: nn.Module, policy: str) -> tuple[Any, Any]:
    """What surrounds a block's forward pass, and its recomputation."""
    if policy == "full":
        return contextlib.nullcontext(), _statistics_kept(block)
    forward, again = _selected(block, policy)
    return forward, _both(_statistics_kept(block), again)


def _selected(block: nn.Module, policy: str) -> tuple[Any, Any]:
    """The same for what a policy selects: dispatch modes that keep its choice, and hand it out."""
    passes = [POLICIES[policy](block), POLICIES[policy](block)]  # each counts for itself

    def choose(context: Any, operation: Any, *_: Any, **__: Any) -> CheckpointPolicy:
        saves = passes[context.is_recompute]
        return CheckpointPolicy.MUST_SAVE if saves and saves(operation) else CheckpointPolicy.PREFER_RECOMPUTE

    return create_selective_checkpoint_contexts(choose)


@contextlib.contextmanager
def _both(first: Any, second: Any) -> Iterator[None]:
    with first, second:
        yield


@contextlib.contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Running statistics of batch norms have taken this batch in already: what is computed again updates copies."""
    norms = [part for part in block.modules() if isinstance(part, RUNNING_STATISTICS)]
    kept = [dict(part._buffers) for part in norms]
    for part in norms:
        part._buffers.update({name: value.clone() for name, value in part._buffers.items() if value is not None})
    try:
        yield
    finally:
        for part, buffers in zip(norms, kept, strict=True):
            part._buffers.update(buffers)
