"""First weights of one's choice. https://pytorch.org/docs/stable/nn.init.html."""

import inspect
from typing import Any

import torch
from torch import nn

from iolaus.errors import did_you_mean

FUNCTIONS = {
    name.removesuffix("_"): function
    for name, function in vars(nn.init).items()
    if name.endswith("_") and not name.startswith("_") and inspect.isfunction(function)
}
NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


class Initializer:
    """Draws the weights of every layer anew by a function of torch.nn.init; norms keep their ones.

    Vectors, for which functions such as xavier_uniform are not defined, are biases and are set to a constant.

    Args:
        function: name of a function of torch.nn.init without its last underscore, such as kaiming_normal.
        arguments: of the function, by name.
        bias: value of biases; None: as they are.

    Raises:
        ValueError: for a function or an argument that torch.nn.init does not have.
    """

    def __init__(self, function: str, arguments: dict[str, Any], bias: float | None = 0.0):
        if function not in FUNCTIONS:
            raise ValueError(f"function: torch.nn.init has no {function!r}{did_you_mean(function, FUNCTIONS)}")
        known = inspect.signature(FUNCTIONS[function]).parameters.keys() - {"tensor", "generator"}
        for key in arguments.keys() - known:
            raise ValueError(f"arguments.{key}: {function} has no such argument{did_you_mean(key, known)}")
        self.function = FUNCTIONS[function]
        self.bias = bias
        self.arguments = arguments

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> None:
        """Draw the weights of a model, in the order of its modules.

        Raises:
            ValueError: for a weight that the function does not suit.
        """
        drawn: set[nn.Parameter] = set()  # a weight that two layers share is drawn once
        for path, module in model.named_modules():
            for name, parameter in module.named_parameters(path, recurse=False):
                if isinstance(module, NORMS) or parameter in drawn:
                    continue
                drawn.add(parameter)
                if parameter.ndim > 1:
                    try:
                        self.function(parameter, **self.arguments)
                    except ValueError as error:
                        raise ValueError(f"{name}, {list(parameter.shape)}: {error}") from None
                elif self.bias is not None and "bias" in name:
                    parameter.fill_(self.bias)
