"""Learning from pairs of input and target: classification and regression."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from iolaus.functional.float64 import to_float64
from iolaus.metrics.scores import Measured
from iolaus.model.layers.standardize import Standardize
from iolaus.task.base import Graph, Task


class Supervised(Task):
    """Inputs are standardised, the model maps them to outputs, the loss compares these with the target. Tokens stay whole numbers.

    Real targets are standardised for the loss and predictions turned back for the metrics, which are in the target's own unit.

    Args:
        input_kind: image: standardised by channel; tokens: not at all; others: by feature.
        input_shape: shape of one input.
        output_dim: number of the model's outputs: classes, or real targets.
        target_kind: class or real.
        parts: model, loss, metrics, optimizer and scheduler; see Task.

    Shape:
        batch: inputs (B, *input_shape); targets (B,) int64 classes, (B, output_dim) their probabilities, or (B, output_dim) real
            numbers. output: (B, output_dim).
    """

    rounds_inputs = True

    def __init__(self, input_kind: str, input_shape: Sequence[int], output_dim: int, target_kind: str, **parts: Any):
        super().__init__(**parts)
        self.target_kind = target_kind
        self.output_dim = output_dim
        self.input_shape = tuple(input_shape)
        self.input_kind = input_kind
        channels = [input_shape[0], *[1] * (len(input_shape) - 1)]
        self.standardize_input: nn.Module = nn.Identity()
        if input_kind != "tokens":
            self.standardize_input = Standardize(channels if input_kind == "image" else input_shape)
        self.standardize_target = Standardize([output_dim]) if target_kind == "real" else nn.Identity()

    def fit_statistics(self, statistics: dict[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Take mean and deviation of `input` and `target`."""
        if isinstance(self.standardize_input, Standardize):
            self.standardize_input.fit(*statistics["input"])
        if isinstance(self.standardize_target, Standardize):
            self.standardize_target.fit(*statistics["target"])

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Outputs for raw inputs: logits (B, classes), or standardised numbers (B, output_dim)."""
        inputs = inputs.long() if self.input_kind == "tokens" else inputs
        return self.model(self.standardize_input(inputs))

    def example(self, n: int) -> tuple[torch.Tensor, ...]:
        """Zeros, (n, *input_shape), and classes 0 or amounts 0."""
        dtype = next((p.dtype for p in self.parameters()), None)
        kind = torch.int64 if self.input_kind == "tokens" else dtype
        inputs = torch.zeros(n, *self.input_shape, device=self.device, dtype=kind)
        if self.target_kind == "class":
            return inputs, torch.zeros(n, dtype=torch.int64, device=self.device)
        return inputs, torch.zeros(n, self.output_dim, device=self.device, dtype=dtype)

    def step(self, batch: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        inputs, target = batch
        output = self(inputs)
        loss = self.loss(output, self.standardize_target(target))
        if self.target_kind == "class" and target.ndim == 2:  # probabilities of blended samples
            target = target.argmax(1)
        return loss, output, target

    def to_preds(self, output: torch.Tensor) -> torch.Tensor:
        if isinstance(self.standardize_target, Standardize):
            if getattr(self.loss, "log_input", False):  # the output is the logarithm of the amount
                output = output.exp()
            return self.standardize_target.inverse(output)
        if isinstance(linear := getattr(self.loss, "linear", None), nn.Linear):
            output = linear(output)
        if isinstance(self.loss, nn.AdaptiveLogSoftmaxWithLoss):  # the weights of the classes are a part of the loss
            return self.loss.log_prob(output).exp()
        return output.softmax(-1)

    def to_metrics(self, output: torch.Tensor, target: torch.Tensor) -> Measured:
        if self.target_kind == "class":
            return self.to_preds(output), target, {}
        # Around a mean of a million deviations, float32 would round predictions to a sixteenth of a deviation.
        return self.to_preds(to_float64(output)), to_float64(target), {}

    def to_labels(self, output: torch.Tensor) -> torch.Tensor | None:
        are_logits = not isinstance(self.loss, nn.AdaptiveLogSoftmaxWithLoss) and not hasattr(self.loss, "linear")
        return output.argmax(-1) if self.target_kind == "class" and are_logits else None

    def graph(self) -> Graph:
        if self.target_kind == "real":
            return Graph(("predictions",), "amounts in the target's own unit, one a column")
        return Graph(("probabilities",), "probabilities of class_names, in their order; without names, of 0, 1, ...")

    def traceable(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.to_preds(self(*inputs).float())

    @torch.no_grad()
    def predict(self, items: list[torch.Tensor], data: Any) -> list[dict[str, Any]]:
        """Of classes the likeliest, its probability and all others', or those of the `top` likeliest; of amounts each target's prediction.

        Args:
            items: inputs (*input_shape).
            data: the data module, which names the classes.
        """
        output = self(torch.stack(items).to(self.device)).float()
        preds = self.to_preds(to_float64(output) if self.target_kind == "real" else output).cpu()
        if self.target_kind == "real":
            names = ["prediction"] if self.output_dim == 1 else [f"prediction_{i}" for i in range(self.output_dim)]
            return [dict(zip(names, row, strict=True)) for row in preds.tolist()]
        names = [str(name) for name in data.class_names or range(self.output_dim)]
        if self.top is not None:
            values, best = preds.topk(min(self.top, self.output_dim))
            return [
                dict(_ranked([names[i] for i in row], probabilities))
                for row, probabilities in zip(best.tolist(), values.tolist(), strict=True)
            ]
        return [
            {"prediction": names[max(range(len(row)), key=row.__getitem__)], "probability": max(row)}
            | {f"p_{name}": p for name, p in zip(names, row, strict=True)}
            for row in preds.tolist()
        ]


def _ranked(names: list[str], probabilities: list[float]) -> Iterator[tuple[str, Any]]:
    """Prediction and probability, then prediction_2, probability_2, ...: classes, the likeliest first."""
    for rank, (name, probability) in enumerate(zip(names, probabilities, strict=True), 1):
        ending = f"_{rank}" if rank > 1 else ""
        yield f"prediction{ending}", name
        yield f"probability{ending}", probability
