"""Facts of the data that settings name and that their content must bear out."""

from collections.abc import Sequence

import torch

from iolaus.errors import UserError, did_you_mean
from iolaus.functional.classes import find_class


def choose_positive_class(
    chosen: str | float | None, class_names: Sequence[str], counts: torch.Tensor | None
) -> str | None:
    """The name of the positive class of two: the chosen one, or the rarer one, of equal ones the second; None for other data.

    Args:
        chosen: by `data.positive`; None: nobody did.
        class_names: of all classes; empty for data without classes.
        counts: training rows of each class; None where they are not at hand.

    Raises:
        UserError: for a chosen class that the data do not have, or data without two classes.
    """
    if len(class_names) != 2:
        if chosen is not None:
            have = f"{len(class_names) or 'no'} classes"
            raise UserError(f"data.positive: names one of two classes, and these data have {have}; leave it at null")
        return None
    if chosen is None:
        return class_names[0 if counts is not None and counts[0] < counts[1] else 1]
    if (number := find_class(chosen, class_names)) is None:
        known = did_you_mean(str(chosen), class_names)
        raise UserError(f"data.positive: there is no class {chosen!r}{known}  (there are: {', '.join(class_names)})")
    return class_names[number]


def check_tokens(tokens: torch.Tensor, vocab_size: int | None, split: str) -> None:
    """Refuse tokens that have no place in an embedding.

    Raises:
        UserError: for tokens that are no whole numbers, or lie outside the vocabulary, or a vocabulary of unknown size.
    """
    if tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
        raise UserError(
            f"data.input_kind: tokens must be whole numbers; received {tokens.dtype} in the {split} split. "
            "Give them as int64, or choose input_kind=table for amounts"
        )
    if vocab_size is None:
        raise UserError(
            "data.vocab_size: must be the number of tokens where inputs are tokens; received null. Set it, or let load() set it"
        )
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or high >= vocab_size:
        bad = low if low < 0 else high
        row = int((tokens == bad).flatten(1).any(1).nonzero()[0])
        raise UserError(
            f"data.vocab_size: token {bad} (row {row} of the {split} split) is not in 0 .. {vocab_size - 1}; "
            f"vocab_size is {vocab_size}"
        )
