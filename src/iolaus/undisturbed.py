"""Looking at a network in the middle of its training without leaving a trace, and with kernels that can be differentiated twice."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Literal

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from iolaus import random_state
from iolaus.model.layers.checkpointing import plain_blocks


@contextmanager
def undisturbed(module: nn.Module, mode: Literal["train", "eval"]) -> Iterator[None]:
    """Run a module in one mode; afterwards modes, buffers, gradients and all random numbers to come are as if nothing had happened.

    Inside, `.grad` of every parameter is None, gradients are enabled and inference mode is off, whatever is the case outside.

    Args:
        module: with all that it is made of.
        mode: of every part of it: train, as in a training step, or eval.
    """
    modes = {part: part.training for part in module.modules()}
    buffers = [
        (part, name, buffer.clone()) for part in modes for name, buffer in part._buffers.items() if buffer is not None
    ]
    grads = {parameter: parameter.grad for parameter in module.parameters()}
    state = random_state.capture()
    try:
        with torch.inference_mode(False), torch.enable_grad():
            for parameter in grads:
                parameter.grad = None
            module.train(mode == "train")
            yield
    finally:
        random_state.restore(state)
        for parameter, grad in grads.items():
            parameter.grad = grad
        with torch.no_grad():
            for part, name, content in buffers:
                now = part._buffers[name]  # another tensor, where the module was moved to a device meanwhile
                if now is not None and now.shape == content.shape:
                    now.copy_(content)
                else:
                    part._buffers[name] = content
        for part, training in modes.items():
            part.training = training


@contextmanager
def twice_differentiable(module: nn.Module) -> Iterator[None]:
    """Have a module computed by operations whose gradient can be differentiated again; its values stay the same up to rounding.

    Fused attention and cuDNN's recurrent networks have no second derivative, and compiled code none either: plain attention, torch's own
    recurrence and the uncompiled module take their place.

    Args:
        module: that is going to be evaluated.
    """
    with ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(plain_blocks())
        if any(isinstance(part, nn.RNNBase) for part in module.modules()):
            cudnn = torch.backends.cudnn
            kept = {"benchmark": cudnn.benchmark, "deterministic": cudnn.deterministic, "allow_tf32": cudnn.allow_tf32}
            stack.enter_context(cudnn.flags(enabled=False, **kept))
        if any(_is_compiled(part) for part in module.modules()):  # asked first: the compiler takes long to import
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


def _is_compiled(module: nn.Module) -> bool:
    return module._compiled_call_impl is not None or type(module).__name__ == "OptimizedModule"
