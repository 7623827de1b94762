"""Several networks of one shape as one: stacked weights, one vmapped step, torch's own optimizer with a group for each.

A stack of n small networks costs about what its arithmetic costs, where n single ones cost n times the overhead of each operation.
Functional transforms: https://pytorch.org/docs/stable/func.html.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad_and_value, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.optim import Optimizer
from torch.utils._pytree import tree_map

from iolaus.task.base import BATCH_NORMS, Task

Tensors = dict[str, torch.Tensor]
Evaluation = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # losses (K,), outputs (K, B, ...), targets (K, B, ...)

# What torch.func does in Python for each operation is two thirds of a small step's time, and recording them takes as long as fifty steps.
RECORDED = 50  # evaluations of a shape, past or to come, for which it is


class SmoothedCrossEntropy(nn.CrossEntropyLoss):
    """Cross entropy whose label smoothing is a tensor, so that each of a stack may have its own.

    The smoothed loss is linear in the amount: it lies between the loss of the labels and that of the uniform distribution.
    """

    amount: torch.Tensor

    @classmethod
    def of(cls, loss: nn.CrossEntropyLoss) -> "SmoothedCrossEntropy":
        """The same loss, by the number that it has."""
        made = cls(loss.weight, ignore_index=loss.ignore_index, reduction=loss.reduction)
        made.register_buffer("amount", torch.tensor(loss.label_smoothing))
        return made

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss."""
        ends = [
            F.cross_entropy(
                input,
                target,
                weight=self.weight,
                ignore_index=self.ignore_index,
                reduction=self.reduction,
                label_smoothing=amount,
            )
            for amount in (0.0, 1.0)
        ]
        return (1 - self.amount) * ends[0] + self.amount * ends[1]


@dataclass
class Moment:
    """All that a member of a stack was at one moment."""

    weights: torch.Tensor
    others: Tensors
    optimizer: dict[str, Any]


class Stack:
    """Tasks of one shape, trained as one.

    All trainable weights of a member are a row of one matrix; a member whose training has ended is left out of steps, and the stack
    is made smaller once a quarter has ended.

    Args:
        tasks: alike in all but numbers; their weights are where training begins.
        optimizers: of each task; their settings count, and are read again by `settings`.
        epochs: for how many they are to be trained; 0 where nobody knows.

    Shape:
        rows, gradients: (K, P), K members of P weights.
    """

    def __init__(self, tasks: Sequence[Task], optimizers: Sequence[Optimizer], epochs: int = 0):
        self.epochs = epochs
        self.epoch = 0  # that is being trained
        self.device = tasks[0].device
        smoothing = {task.loss.label_smoothing for task in tasks if isinstance(task.loss, nn.CrossEntropyLoss)}
        tasks = [_smoothed(task) for task in tasks] if len(smoothing) > 1 else tasks
        self._call = _Call(copy.deepcopy(tasks[0]))
        self.slices: dict[str, tuple[slice, torch.Size]] = {}
        start = 0
        for name, parameter in tasks[0].named_parameters():
            if parameter.requires_grad:
                self.slices[name] = slice(start, start + parameter.numel()), parameter.shape
                start += parameter.numel()
        own = [dict(task.named_parameters()) for task in tasks]
        with torch.no_grad():
            rows = torch.stack([torch.cat([weights[name].flatten() for name in self.slices]) for weights in own])
        others = [
            dict(task.named_buffers()) | {n: p.detach() for n, p in weights.items() if n not in self.slices}
            for task, weights in zip(tasks, own, strict=True)
        ]
        norms = any(isinstance(module, BATCH_NORMS) for module in tasks[0].modules())
        self._shared, self._own = {}, {}  # what is neither trained nor another in another member, and what is
        for name, value in others[0].items():
            if not norms and all(torch.equal(value, other[name]) for other in others):
                self._shared[name] = value.detach().clone()
            else:
                self._own[name] = torch.stack([other[name].detach() for other in others])
        kind: Any = type(optimizers[0])
        self.optimizer: Optimizer = kind(
            [{**_settings(o), "params": [nn.Parameter(row)]} for o, row in zip(optimizers, rows, strict=True)]
        )
        self._take(rows)

    def _take(self, rows: torch.Tensor) -> None:
        """Have these rows as the weights; the optimizer keeps what it knows of each."""
        self.rows, self.gradients = rows, torch.zeros_like(rows)
        self._graphs: dict[Any, Callable] = {}
        self._seen: dict[Any, int] = {}
        self._first_epoch = self.epoch  # with these rows
        self._weights = self._named(rows)
        for group, row, gradient in zip(self.optimizer.param_groups, rows, self.gradients, strict=True):
            (before,) = group["params"]
            weights = nn.Parameter(row)
            weights.grad = gradient
            group["params"] = [weights]
            if before in self.optimizer.state:
                self.optimizer.state[weights] = self.optimizer.state.pop(before)

    def _named(self, rows: torch.Tensor) -> Tensors:
        """Views of the weights by name, (K, ...)."""
        return {
            name: rows[:, part].unflatten(1, shape) if shape else rows[:, part.start]
            for name, (part, shape) in self.slices.items()
        }

    def __len__(self) -> int:
        return len(self.rows)

    def end(self, member: int) -> None:
        """Leave a member out of all steps to come."""
        self.optimizer.param_groups[member]["params"][0].grad = None

    def keep(self, members: list[int]) -> None:
        """Make the stack smaller."""
        groups = self.optimizer.param_groups
        for member in set(range(len(groups))) - set(members):
            self.optimizer.state.pop(groups[member]["params"][0], None)
        self.optimizer.param_groups = [groups[member] for member in members]
        self._own = {name: value[members] for name, value in self._own.items()}
        self._take(self.rows[members])

    def settings(self, member: int, optimizer: Optimizer) -> None:
        """Take rate, momentum and whatever else a schedule may have changed from a member's own optimizer."""
        self.optimizer.param_groups[member].update(_settings(optimizer))

    def gradient(self, batch: tuple[torch.Tensor, ...], apart: bool) -> Evaluation:
        """Evaluate a training step of each member; `gradients` then holds its gradient.

        Args:
            batch: inputs and target, the same for all, or with a first dimension of K.
            apart: whether they have that dimension.
        """
        gradients, losses, output, target, buffers = self._run("train", batch, apart)
        torch.cat([gradients[name].flatten(1) for name in self.slices], 1, out=self.gradients)
        for name, value in buffers.items():
            self._own[name].copy_(value)
        return losses, output, target

    def evaluate(self, batch: tuple[torch.Tensor, ...], apart: bool) -> Evaluation:
        """Evaluate each member on a batch of another split; see `gradient`."""
        return self._run("eval", batch, apart)

    def clip(self, limits: Sequence[float | None], algorithm: str | None) -> None:
        """Clip the gradient of each member that has a limit, by norm or by value, as torch does."""
        limit = torch.tensor([float("inf") if v is None else v for v in limits], device=self.device)[:, None]
        if algorithm == "value":
            self.gradients.copy_(self.gradients.minimum(limit).maximum(-limit))
        else:
            norm = self.gradients.norm(dim=1, keepdim=True)
            self.gradients.mul_((limit / (norm + 1e-6)).clamp(max=1.0))

    def step(self) -> None:
        """A step of the optimizer, of each member that goes on."""
        if not adam_step(self.optimizer):
            self.optimizer.step()

    def finite(self) -> list[bool]:
        """Whether all numbers of each member are finite."""
        good = self.rows.isfinite().all(1)
        for value in self._own.values():
            good &= value.flatten(1).isfinite().all(1) if value.ndim > 1 else value.isfinite()
        return good.tolist()

    def moment(self, member: int) -> Moment:
        """What a member is now."""
        state = self.optimizer.state.get(self.optimizer.param_groups[member]["params"][0], {})
        others = {name: value[member].clone() for name, value in self._own.items()}
        return Moment(self.rows[member].clone(), others, {key: _copied(value) for key, value in state.items()})

    @torch.no_grad()
    def restore(self, moment: Moment, task: Task, optimizer: Optimizer) -> None:
        """Give a member's own task and optimizer what it was at a moment."""
        tensors = dict(task.named_parameters()) | dict(task.named_buffers())
        for name, value in moment.others.items():
            if name in tensors:
                tensors[name].copy_(value)
        for name, (part, shape) in self.slices.items():
            tensors[name].copy_(moment.weights[part].view(shape))
            if moment.optimizer:
                optimizer.state[tensors[name]] = {
                    key: value[part].view(shape).clone() if _like(value, moment.weights) else _copied(value)
                    for key, value in moment.optimizer.items()
                }

    @torch.no_grad()
    def _run(self, mode: str, batch: tuple[torch.Tensor, ...], apart: bool) -> Any:
        """Evaluate the stack; by the graph of its operations, where batches of this shape come up often enough to record it."""
        arguments = (self._weights, self._own, self._shared, batch)
        key = (mode, apart, *(part.shape for part in batch))
        if key not in self._graphs:
            single = self._trained if mode == "train" else self._evaluated

            def member(weights: Tensors, own: Tensors, shared: Tensors, batch: Any) -> Any:
                return single(weights, own, shared, batch)

            self._call.train(mode == "train")
            stacked = vmap(member, in_dims=(0, 0, None, 0 if apart else None))
            seen = self._seen[key] = self._seen.get(key, 0) + 1
            to_come = seen / (self.epoch - self._first_epoch + 1) * (self.epochs - self.epoch)
            if max(seen, to_come) <= RECORDED:
                return stacked(*arguments)
            self._graphs[key] = make_fx(stacked)(*arguments)
        return self._graphs[key](*arguments)

    def _trained(self, weights: Tensors, own: Tensors, shared: Tensors, batch: Any) -> Any:
        def loss_of(weights: Tensors, own: Tensors) -> Any:
            own = {name: value.clone() for name, value in own.items()}  # batch norms write into theirs
            loss, output, target = self._call.evaluation("step", weights | own | shared, batch)
            return loss, (output, target, own)

        gradients, (loss, (output, target, own)) = grad_and_value(loss_of, has_aux=True)(weights, own)
        return gradients, loss, output, target, own

    def _evaluated(self, weights: Tensors, own: Tensors, shared: Tensors, batch: Any) -> Any:
        return self._call.evaluation("evaluate", weights | own | shared, batch)


@torch.no_grad()
def adam_step(optimizer: Optimizer) -> bool:
    """A step of fused Adam or AdamW whose groups have one tensor each, by the kernel that its own step comes to, a group at a time.

    Its own step does as much in Python for each group as the kernel takes for a small one. Bits are the same. Nothing is done, and false
    given back, by another optimizer, or where states are yet to be made.
    """
    groups = [group for group in optimizer.param_groups if group["params"][0].grad is not None]
    states = [optimizer.state.get(group["params"][0]) for group in groups]
    if not isinstance(optimizer, torch.optim.Adam) or not all(group["fused"] for group in groups) or not all(states):
        return False
    if groups:
        torch._foreach_add_([state["step"] for state in states], 1)  # type: ignore[index]
    for group, state in zip(groups, states, strict=True):
        assert state is not None
        kernel: Any = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
        (weights,), (beta1, beta2) = group["params"], group["betas"]
        kernel(
            [weights],
            [weights.grad],
            [state["exp_avg"]],
            [state["exp_avg_sq"]],
            [state["max_exp_avg_sq"]] if group["amsgrad"] else [],
            [state["step"]],
            lr=group["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=group["amsgrad"],
            maximize=group["maximize"],
        )
    return True


class _Call(nn.Module):
    """A task's step as the forward pass that `functional_call` calls."""

    def __init__(self, task: Task):
        super().__init__()
        self.task = task

    def forward(self, part: str, batch: Any) -> Any:
        return getattr(self.task, part)(batch)

    def evaluation(self, part: str, tensors: Tensors, batch: Any) -> Any:
        """Loss, output and target with these weights and buffers."""
        return functional_call(self, {f"task.{name}": value for name, value in tensors.items()}, (part, batch))


def _smoothed(task: Task) -> Task:
    """A copy whose label smoothing is a tensor."""
    copied = copy.deepcopy(task)
    assert isinstance(copied.loss, nn.CrossEntropyLoss)
    copied.loss = SmoothedCrossEntropy.of(copied.loss).to(task.device)
    return copied


def _settings(optimizer: Optimizer) -> dict[str, Any]:
    """The settings of an optimizer's only group."""
    (group,) = optimizer.param_groups
    return {key: value for key, value in group.items() if key != "params"}


def _like(value: Any, row: torch.Tensor) -> bool:
    return isinstance(value, torch.Tensor) and value.shape == row.shape


def _copied(value: Any) -> Any:
    return tree_map(lambda part: part.clone() if isinstance(part, torch.Tensor) else part, value)
