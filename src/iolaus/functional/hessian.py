"""Products with the Hessian of a loss, without the matrix. Pearlmutter, https://doi.org/10.1162/neco.1994.6.1.147."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from iolaus import random_state

Loss = Callable[[Any], tuple[Tensor, Tensor | int]]


class Hessian:
    """H = d^2 L / dw^2 of the mean loss L over batches, by its products H v = d/dw (dL/dw . v): a backward pass of a backward pass.

    A product costs one gradient of the batches with its graph kept and one backward pass through that graph, 2 to 4 gradients in all, and
    holds the graph of one batch at a time. Every product draws the same random numbers of torch and begins with the same buffers, so
    that with dropout or batch norm in training mode, too, all products are those of one symmetric matrix.

    The module's modes and kernels are the caller's (`iolaus.undisturbed`): fused attention has no second derivative.

    Args:
        module: its parameters that require a gradient are w, in the order of `parameters()`, each once.
        loss: takes a batch and gives its mean loss, a 0-d tensor, and of how many things it is the mean, which is the batch's weight in L.
        batches: what `loss` takes.

    Shape:
        vectors: (d,), all of w flat, in float32 or, where a parameter is float64, in that.

    Raises:
        ValueError: where there are no parameters or no batches.
    """

    def __init__(self, module: nn.Module, loss: Loss, batches: Sequence[Any]):
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        if not self.parameters or not batches:
            raise ValueError(f"{'batches' if self.parameters else 'parameters'}: there are none")
        self.batches = batches
        self.device = self.parameters[0].device
        self.dtype = torch.float64 if any(p.dtype == torch.float64 for p in self.parameters) else torch.float32
        self.sizes = [p.numel() for p in self.parameters]
        self.dim = sum(self.sizes)
        self._loss = loss
        self._buffers = [(buffer, buffer.clone(), buffer._version) for buffer in module.buffers()]
        self._random = random_state.capture_torch(self.device)

    def __matmul__(self, vector: Tensor) -> Tensor:
        """H v, (d,).

        Raises:
            ValueError: for a model or a loss that cannot be differentiated twice.
        """
        parts = [part.to(p.dtype) for part, p in zip(self._parts(vector), self.parameters, strict=True)]
        return self._mean(lambda gradient: self._product(gradient, parts))

    def gradient(self) -> Tensor:
        """dL/dw, (d,)."""
        return self._mean(lambda gradient: gradient, create_graph=False)

    def _product(self, gradient: Sequence[Tensor], vector: Sequence[Tensor]) -> Sequence[Tensor]:
        pairs = [(g, v) for g, v in zip(gradient, vector, strict=True) if g.requires_grad]
        if not pairs:
            raise ValueError(
                "the gradient of the loss does not depend on the weights, so there is no second derivative"
            )
        outputs, weights = zip(*pairs, strict=True)
        try:
            return torch.autograd.grad(outputs, self.parameters, weights, materialize_grads=True)
        except RuntimeError as error:
            reason = " ".join(str(error).split()).rstrip(".")
            if "not implemented" in reason or "differentiate twice" in reason or "once_differentiable" in reason:
                raise ValueError(f"an operation has no second derivative: {reason[:200]}") from error
            raise

    def _parts(self, flat: Tensor) -> list[Tensor]:
        """A flat vector as views of the parameters' shapes."""
        return [part.view_as(p) for part, p in zip(flat.split_with_sizes(self.sizes), self.parameters, strict=True)]

    def _mean(self, of: Callable[[Sequence[Tensor]], Sequence[Tensor]], create_graph: bool = True) -> Tensor:
        """The mean over batches, by their weights, of what is made of each one's gradient."""
        self._begin_anew()
        total = torch.zeros(self.dim, dtype=self.dtype, device=self.device)
        places = self._parts(total)
        count = 0.0
        for batch in self.batches:
            loss, size = self._loss(batch)
            gradient = torch.autograd.grad(loss, self.parameters, create_graph=create_graph, materialize_grads=True)
            parts = [part.to_dense() if part.is_sparse else part for part in of(gradient)]
            torch._foreach_add_(places, parts, alpha=float(size))
            count += float(size)
        return total.div_(count)

    def _begin_anew(self) -> None:
        """Put random numbers and buffers back to where they were at first."""
        random_state.restore_torch(self._random, self.device)
        for number, (buffer, content, version) in enumerate(self._buffers):
            if buffer._version != version:  # it was written to
                with torch.no_grad():
                    buffer.copy_(content)
                self._buffers[number] = (buffer, content, buffer._version)
