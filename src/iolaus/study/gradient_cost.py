"""What a gradient costs, in evaluations of the loss, as a network grows. Baur and Strassen, https://doi.org/10.1016/0304-3975(83)90110-X."""

import functools
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from iolaus.exhibits import Curves, Exhibit, Table
from iolaus.gradient.base import Evaluation
from iolaus.gradient.finite_difference import FiniteDifference
from iolaus.gradient.forward import Forward
from iolaus.gradient.reverse import Reverse
from iolaus.gradient.two_point import TwoPoint
from iolaus.study.base import Study, followed, several, slope

INPUTS, OUTPUTS, ROWS = 64, 10, 256
ENOUGH_S = 0.05  # of one measurement


class Perceptron(nn.Module):
    """One hidden layer and its cross-entropy on rows drawn once; it counts its evaluations."""

    def __init__(self, hidden_dim: int, seed: int):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.network = nn.Sequential(nn.Linear(INPUTS, hidden_dim), nn.Tanh(), nn.Linear(hidden_dim, OUTPUTS))
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.1, generator=generator)
        self.inputs = torch.randn(ROWS, INPUTS, generator=generator)
        self.target = torch.randint(0, OUTPUTS, (ROWS,), generator=generator)

    def step(self, batch: Any = None) -> Evaluation:
        """Loss, output and target."""
        output = self.network(self.inputs)
        return F.cross_entropy(output, self.target), output, self.target


class GradientCost(Study):
    """Perceptrons of growing width: the price of a gradient by each mode, in evaluations of the loss.

    Reverse mode costs a few evaluations for any number of parameters d, finite differences 2 d + 1. Times are of the processor, on
    this machine and with whatever else it does; where an evaluation takes less than the calls around it, ratios tell of those.

    Args:
        widths: of the hidden layer; a network has 75 times as many parameters, and 10.
        most_differences: parameters up to which finite differences are measured.
        seed: of weights, data and directions.
    """

    def __init__(self, widths: Sequence[int] = (1, 4, 16, 64, 256, 1024), most_differences: int = 5_000, seed: int = 0):
        super().__init__(seed)
        self.widths = several(widths, "widths")
        self.most_differences = most_differences

    def run(self) -> dict[str, Exhibit]:
        modes = {
            "reverse": Reverse(),
            "forward, 1 tangent": Forward(),
            "two_point, 1 direction": TwoPoint(),
            "finite differences": FiniteDifference(),
        }
        sizes: list[int] = []
        prices: dict[str, list[float]] = {name: [] for name in modes}
        for width in followed(self.widths, "widths"):
            module = Perceptron(width, self.seed)
            sizes.append(sum(p.numel() for p in module.parameters()))
            with torch.no_grad():
                evaluation_s = seconds(module.step)
            for name, mode in modes.items():
                is_too_much = isinstance(mode, FiniteDifference) and sizes[-1] > self.most_differences
                spent = float("nan") if is_too_much else seconds(functools.partial(_gradient, module, mode))
                prices[name].append(spent / evaluation_s)
        counted = {"2 d + 1 evaluations": [2.0 * d + 1 for d in sizes]}
        measured = sum(d <= self.most_differences for d in sizes)
        for name, price in prices.items():
            upto = measured if name == "finite differences" else len(sizes)
            self.values[f"power of d, {name.partition(',')[0]}"] = slope(sizes[:upto], price[:upto])
        self.values["price of reverse mode at most"] = max(prices["reverse"])
        rows = [
            [f"{d:,}", *("" if p != p else f"{p:,.1f}" for p in row)]
            for d, *row in zip(sizes, *prices.values(), strict=True)
        ]
        labels = ("parameters d", "time, in evaluations of the loss")
        return {
            "cost": Curves(sizes, prices | counted, labels, "the price of a gradient", "xy"),
            "prices": Table(
                ["parameters", *prices], rows, "Processor time of a gradient over that of an evaluation of the loss."
            ),
        }


def _gradient(module: Perceptron, mode: Any) -> None:
    module.zero_grad()
    mode(module, module.step, None, (0, 0))[0].backward()


def seconds(action: Any, enough_s: float = ENOUGH_S) -> float:
    """Processor seconds that an action takes: the least mean of five rounds, each as long as `enough_s`."""
    action()
    start = time.process_time()
    action()
    once = max(time.process_time() - start, 1e-7)
    count = max(int(enough_s / once), 1)
    rounds = []
    for _ in range(5 if count > 1 else 1):
        start = time.process_time()
        for _ in range(count):
            action()
        rounds.append((time.process_time() - start) / count)
    return min(rounds)
