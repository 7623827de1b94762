"""Samples of each kind of data in words: what goes in, and what should come out."""

from collections.abc import Sequence
from typing import Any

import torch

from iolaus.data.base import DataModule

MOST_FEATURES = 8  # of a table's row
MOST_AMOUNTS = 8  # of a target
MOST_LETTERS = 200  # of a text in a cell
MOST_ITEMS = 6  # of a ranking's candidates


def inputs_in_words(inputs: Sequence[torch.Tensor], data: Any) -> dict[str, str]:
    """The inputs of one sample by name; empty for kinds that are seen or heard, or not known.

    Args:
        inputs: of a batch of one.
        data: the data module, which names what numbers stand for.
    """
    first = inputs[0][0]
    match data.input_kind:
        case "table":
            return {f"x{k}": f"{value:.4g}" for k, value in enumerate(first.flatten()[:MOST_FEATURES].tolist(), 1)}
        case "tokens":
            decode = getattr(data, "decode", lambda tokens: " ".join(map(str, tokens)))
            return {"tokens": decode(first.tolist())[:MOST_LETTERS]}
        case "sentence":
            joint = "" if data.source_tokens == "characters" else " "
            return {"source": joint.join(data.source_text(first.tolist()))[:MOST_LETTERS]}
        case "user_item":
            items = [data.items[item] for item in inputs[1][0, :MOST_ITEMS].tolist()]
            more = ", ..." if inputs[1].shape[1] > MOST_ITEMS else ""
            return {"user": data.users[int(first)], "candidates": ", ".join(items) + more}
        case "point_pair":
            return {"from": data.point_names[int(first)], "to": data.point_names[int(inputs[1][0])]}
    return {}


def target_in_words(sample: Sequence[torch.Tensor], data: Any) -> str:
    """The target of one sample; empty for kinds that are not known.

    Args:
        sample: a batch of one: inputs and, last, the target.
        data: the data module.
    """
    target = sample[-1]
    match data.target_kind:
        case "class" if target.numel() == 1 or target.ndim == 2:
            return class_name(int(target.argmax() if target.ndim == 2 else target), data)
        case "real":
            return amounts(target)
        case "sentence":
            return data.decode(target[0].tolist())[:MOST_LETTERS]
        case "transcript":
            return "".join(data.characters[token - 1] for token in target[0].tolist() if token > 0)[:MOST_LETTERS]
        case "distance":
            return f"{float(target) ** 0.5:.4g}"
        case "click":
            return ", ".join(data.items[item] for item in sample[1][target > 0].tolist())
    return ""


def amounts(values: torch.Tensor) -> str:
    """Numbers in a line, the first of many."""
    listed = [f"{value:.4g}" for value in values.flatten()[:MOST_AMOUNTS].tolist()]
    return ", ".join(listed + ["..."] * (values.numel() > MOST_AMOUNTS))


def class_name(number: int, data: DataModule) -> str:
    """What a class is called."""
    return str(data.class_names[number]) if data.class_names else str(number)


def one_of(batch: Sequence[torch.Tensor], number: int) -> tuple[torch.Tensor, ...]:
    """One sample of a batch, as a batch of one on the processor."""
    return tuple(part[number : number + 1].cpu() for part in batch)
