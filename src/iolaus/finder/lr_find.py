"""The learning rate range test: the loss while the rate rises. Smith, https://arxiv.org/abs/1506.01186."""

import math
from collections.abc import Sequence
from typing import Any

from iolaus.build import Run
from iolaus.errors import UserError
from iolaus.exhibits import Curves, Table
from iolaus.finder.base import Finder, Finding
from iolaus.finder.trial import Trial
from iolaus.study.base import followed

FALL = 0.02  # of the first loss, by which it must fall for the test to tell something
LEVEL = 0.01  # of the fall, within which two losses are alike
BELOW = 10.0  # how far below the rate of the least loss a training is stable


class LRFind(Finder):
    """Takes steps with a rate that rises exponentially, `lr_i = min_lr (max_lr / min_lr)^(i / (num_steps - 1))`.

    The loss of each step is that before it, so loss i + 1 is what rate i has done. It is smoothed as Adam smooths gradients,
    `m_i = b m_(i-1) + (1 - b) loss_i`, over `1 - b^(i + 1)`, which is without bias from the first step on. Once it is `threshold` times its
    least, it has diverged, and the test ends. Parameter groups with rates of their own keep their ratios.

    Two rates are told: a tenth of that with the least smoothed loss, which is the suggestion, and that of the steepest descent by the
    logarithm of the rate. Both are rules of thumb: look at the figure.

    Args:
        min_lr: of the first step.
        max_lr: of the last one.
        num_steps: of the optimizer.
        smoothing: the factor b; 0 is none.
        threshold: how many times its least a loss is that has diverged.

    Raises:
        ValueError: for rates that do not rise, fewer than ten steps, or a threshold of at most 1.
    """

    def __init__(
        self,
        min_lr: float = 1e-6,
        max_lr: float = 10.0,
        num_steps: int = 100,
        smoothing: float = 0.8,
        threshold: float = 4.0,
    ):
        if not 0 < min_lr < max_lr:
            raise ValueError(f"min_lr must be above 0 and below max_lr; received {min_lr:g} and {max_lr:g}")
        if num_steps < 10:
            raise ValueError(f"num_steps must be at least 10; received {num_steps}")
        if threshold <= 1:
            raise ValueError(f"threshold must be above 1; received {threshold:g}")
        self.min_lr = min_lr
        self.max_lr = max_lr
        self.num_steps = num_steps
        self.smoothing = smoothing
        self.threshold = threshold

    def find(self, run: Run) -> Finding:
        """Take the steps.

        Raises:
            UserError: where the loss is not finite before the third step.
        """
        rates, losses = self.ramp(run)
        smooth = smoothed(losses, self.smoothing)
        table = Table(["lr", "loss", "smoothed"], list(zip(rates, losses, smooth, strict=True)))
        bottom = min(smooth)
        if smooth[0] - bottom < FALL * abs(smooth[0]):
            none = f"lr_find: the loss falls with no rate from {rates[0]:.3g} to {rates[-1]:.3g}, so none is suggested"
            return Finding({"lr_find": self._figure(rates, losses, smooth, {})}, table, none)
        # the first rate that leads so far down: where the loss stays there, a higher one brings nothing
        least = next(n for n, value in enumerate(smooth) if value - bottom <= LEVEL * (smooth[0] - bottom))
        steepest = rates[steepest_descent(rates, smooth, least)]
        suggested = rounded(rates[least] / BELOW)
        marks = {f"suggested, {suggested:g}": suggested, f"steepest descent, {steepest:.2g}": steepest}
        suggestion = {"optim.lr": suggested, "steepest_descent": steepest, "least_loss": rates[least]}
        words = [
            f"lr_find: try {_settings(run, suggested)}",
            f"  a tenth of the rate with the least loss; it falls steepest at {steepest:.2g}, see figures/lr_find.png",
        ]
        if least == self.num_steps - 1:
            words.append(f"  it was still falling at lr_find.max_lr={self.max_lr:g}: set that higher")
        if run.config["optim"].get("line_search_fn"):
            words.append("  but with optim.line_search_fn the rate is a first try alone, so it matters little")
        return Finding({"lr_find": self._figure(rates, losses, smooth, marks)}, table, "\n".join(words), suggestion)

    def ramp(self, run: Run) -> tuple[list[float], list[float]]:
        """The rates, and the loss before each step; as many as there were before the loss diverged.

        Raises:
            UserError: where the loss is not finite before the third step.
        """
        lr, ratio = run.config["optim"]["lr"], self.max_lr / self.min_lr
        rates: list[float] = []
        losses: list[float] = []
        with Trial(run) as trial:
            groups = trial.optimizer.param_groups
            shares = [float(group["lr"]) / lr for group in groups]
            batches = trial.batches()
            for number in followed(range(self.num_steps), "lr_find"):
                rate = self.min_lr * ratio ** (number / (self.num_steps - 1))
                for group, share in zip(groups, shares, strict=True):
                    _set(group, share * rate)
                loss = trial.step([next(batches) for _ in range(trial.accumulate)])
                if not math.isfinite(loss):
                    break
                rates.append(rate)
                losses.append(loss)
                if self._has_diverged(losses):
                    break
        if len(losses) < 3:
            raise UserError(
                f"lr_find.min_lr: the loss is {loss} before step {len(losses) + 1} already; received {self.min_lr:g}"
            )
        return rates, losses

    def _has_diverged(self, losses: Sequence[float]) -> bool:
        """Whether the smoothed loss is so many times its least, or of a tenth of the first where that is more."""
        smooth = smoothed(losses, self.smoothing)
        scale = max(abs(min(smooth)), 0.1 * abs(smooth[0]))
        return smooth[-1] - min(smooth) > (self.threshold - 1) * scale

    def _figure(
        self, rates: Sequence[float], losses: Sequence[float], smooth: Sequence[float], marks: dict[str, float]
    ) -> Curves:
        """Both curves, as far up as the first loss and a little more."""
        low, high = min(smooth), max(smooth[: max(len(smooth) // 2, 3)])
        top = high + 0.5 * (high - low) + 1e-12
        shown = {
            name: [value if value <= top else math.nan for value in values]
            for name, values in (("loss", losses), ("smoothed", smooth))
        }
        return Curves(
            rates, shown, ("learning rate", "loss before the step"), "learning rate range test", "x", marks=marks
        )


def smoothed(values: Sequence[float], factor: float) -> list[float]:
    """Exponential means without bias: each is a weighted mean of the values so far, whose weights sum to 1."""
    mean, found = 0.0, []
    for number, value in enumerate(values, 1):
        mean = factor * mean + (1 - factor) * value
        found.append(mean / (1 - factor**number))
    return found


def steepest_descent(rates: Sequence[float], values: Sequence[float], least: int) -> int:
    """Where values fall most by the logarithm of the rate, before their least.

    Where batches are few or small, values jump before any rate does something; so the place is sought only once they have fallen for good,
    below a tenth of the fall from what they were in the middle of the flat part.
    """
    flat = sorted(values[: max(least // 2, 1)])[max(least // 2, 1) // 2]
    fallen = [
        n for n in range(1, least + 1) if all(v <= flat - 0.1 * (flat - values[least]) for v in values[n : least + 1])
    ]
    places = fallen or [least]

    def slope(place: int) -> float:
        before, after = max(place - 1, 0), min(place + 1, len(values) - 1)
        return (values[after] - values[before]) / math.log(rates[after] / rates[before])

    return min(places, key=slope)


def rounded(rate: float) -> float:
    """To two digits, as many as such a rate deserves."""
    return float(f"{rate:.1e}")


def _set(group: dict[str, Any], rate: float) -> None:
    """The rate of a group; where the optimizer holds it as a tensor it stays one."""
    if hasattr(group["lr"], "fill_"):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def _settings(run: Run, rate: float) -> str:
    """The words that set a rate, with those of groups that have rates of their own."""
    optim = run.config["optim"]
    words = [f"optim.lr={rate:g}"]
    for name, group in (optim.get("_groups_") or {}).items():
        if group.get("lr") is not None and not group.get("frozen"):
            words.append(f"optim._groups_.{name}.lr={rounded(rate * group['lr'] / optim['lr']):g}")
    return " ".join(words)
