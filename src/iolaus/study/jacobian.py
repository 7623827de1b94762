"""A Jacobian by forward or by reverse mode: which is cheaper for n inputs and m outputs. Griewank and Walther, https://doi.org/10.1137/1.9780898717761."""

from collections.abc import Callable, Sequence

import torch
from torch.func import jacfwd, jacrev
from torch.utils.flop_counter import FlopCounterMode

from iolaus.exhibits import Curves, Exhibit, Table
from iolaus.study.base import Study, followed, several
from iolaus.study.gradient_cost import seconds


class Jacobian(Study):
    """The Jacobian of W2 tanh(W1 x), from n to m numbers, by a tangent for each input and by a cotangent for each output.

    Counted operations of matrices are equal at m = n: forward mode takes n products with the Jacobian, reverse mode m. In time reverse mode
    stays ahead a little longer, as one forward pass serves all cotangents.

    Args:
        num_inputs: n.
        outputs: m.
        hidden_dim: numbers between W1 and W2.
        seed: of the matrices.
    """

    def __init__(
        self,
        num_inputs: int = 100,
        outputs: Sequence[int] = (1, 10, 25, 50, 75, 100, 150, 200, 400, 1000),
        hidden_dim: int = 512,
        seed: int = 0,
    ):
        super().__init__(seed)
        self.num_inputs = num_inputs
        self.outputs = several(outputs, "outputs")
        self.hidden_dim = hidden_dim

    def run(self) -> dict[str, Exhibit]:
        shares = [m / self.num_inputs for m in self.outputs]
        measures = [self._measure(m) for m in followed(self.outputs, "outputs")]
        flops, times = ({mode: [found[k][mode] for found in measures] for mode in measures[0][k]} for k in (0, 1))
        self.values["m / n where the operations are equal"] = crossing(shares, flops)
        self.values["m / n where the times are equal"] = crossing(shares, times)
        rows = [
            [str(m), *(f"{f[mode]:,}" for mode in f), *(f"{1e3 * t[mode]:.2f}" for mode in t)]
            for m, (f, t) in zip(self.outputs, measures, strict=True)
        ]
        columns = ["outputs", *(f"{mode}: operations" for mode in flops), *(f"{mode}: ms" for mode in times)]
        return {
            "operations": Curves(
                shares,
                flops,
                ("m / n", "floating point operations"),
                f"a Jacobian of n = {self.num_inputs} inputs",
                "xy",
            ),
            "times": Curves(shares, times, ("m / n", "seconds"), f"a Jacobian of n = {self.num_inputs} inputs", "xy"),
            "jacobian": Table(columns, rows, "Operations are those of matrix products; times are the processor's."),
        }

    def _measure(self, m: int) -> tuple[dict[str, float], dict[str, float]]:
        """Operations and seconds of a Jacobian with m outputs, by mode."""
        generator = torch.Generator().manual_seed(self.seed)
        inner = torch.randn(self.hidden_dim, self.num_inputs, generator=generator) / self.num_inputs**0.5
        outer = torch.randn(m, self.hidden_dim, generator=generator) / self.hidden_dim**0.5
        x = torch.randn(self.num_inputs, generator=generator)

        def function(x: torch.Tensor) -> torch.Tensor:
            return outer @ (inner @ x).tanh()

        modes: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
            "forward": jacfwd(function),
            "reverse": jacrev(function),
        }
        flops, times = {}, {}
        for name, jacobian in modes.items():
            with FlopCounterMode(display=False) as counter:
                jacobian(x)
            flops[name] = float(counter.get_total_flops())
            times[name] = seconds(lambda j=jacobian: j(x))
        return flops, times


def crossing(x: Sequence[float], curves: dict[str, list[float]]) -> float:
    """Where forward mode becomes cheaper than reverse mode, on the line between measured points; NaN where it does not."""
    gaps = [f - r for f, r in zip(curves["forward"], curves["reverse"], strict=True)]
    for left, right, before, after in zip(x, x[1:], gaps, gaps[1:], strict=False):
        if before > 0 >= after:
            return left + (right - left) * before / (before - after)
    return float("nan")
