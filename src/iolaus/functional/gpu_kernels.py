"""What a GPU's kernels keep, for tensors without values. Dao and others, https://arxiv.org/abs/2205.14135."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn import functional as F

aten = torch.ops.aten
# What autocast computes in float32 on a GPU, of the functions whose results are as large as their inputs, and the losses.
# https://docs.pytorch.org/docs/stable/amp.html#cuda-ops-that-can-autocast-to-float32
IN_FLOAT32 = (
    *("layer_norm", "group_norm", "softmax", "softmin", "log_softmax", "softplus", "normalize"),
    *("cross_entropy", "nll_loss", "mse_loss", "l1_loss", "smooth_l1_loss", "kl_div", "poisson_nll_loss"),
    *("multi_margin_loss", "multilabel_margin_loss", "soft_margin_loss", "binary_cross_entropy_with_logits"),
)


@contextlib.contextmanager
def gpu_kernels() -> Iterator[None]:
    """Let functions of torch.nn.functional choose what a GPU would: for tensors without values, whose device would choose otherwise.

    Attention on tensors without values is computed in steps, each of which would be kept, and in float32. The functions themselves
    are replaced: a mode of torch would be off in the backward pass, where checkpointed blocks are computed again.
    """
    replaced: dict[str, Callable[..., Any]] = {
        "scaled_dot_product_attention": _attention,
        "dropout": _dropout,
        **{name: _in_float32(getattr(F, name)) for name in IN_FLOAT32},
    }
    kept = {name: getattr(F, name) for name in replaced}
    for name, function in replaced.items():
        setattr(F, name, function)
    try:
        yield
    finally:
        for name, function in kept.items():
            setattr(F, name, function)


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    """FlashAttention without a mask, memory-efficient attention with one."""
    if attn_mask is None:
        return aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, scale=scale)[0]
    if enable_gqa:
        key, value = (part.repeat_interleave(query.shape[1] // part.shape[1], 1) for part in (key, value))
    if attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(~attn_mask, float("-inf"))
    bias = attn_mask.to(query.dtype).expand(*query.shape[:2], query.shape[2], key.shape[2])
    return aten._scaled_dot_product_efficient_attention(
        query, key, value, bias, True, dropout_p, is_causal, scale=scale
    )[0]


def _dropout(input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
    return torch.native_dropout(input, p, True)[0] if training and p > 0 else input


def _in_float32(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that autocast computes in float32."""

    def wide(*arguments: Any, **named: Any) -> Any:
        if torch.is_autocast_enabled("cpu"):
            arguments = tuple(_wide(value) for value in arguments)
            named = {name: _wide(value) for name, value in named.items()}
        return function(*arguments, **named)

    return wide


def _wide(value: Any) -> Any:
    return value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
