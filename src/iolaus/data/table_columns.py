"""Columns of a table as tensors: numbers in the notation of their column, labels as classes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from iolaus.data.cells import AmbiguousNumbers, Notation
from iolaus.data.columns import classify, refuse_ambiguous, refuse_dates
from iolaus.errors import UserError
from iolaus.overrides import override_text

if TYPE_CHECKING:
    import pandas as pd


def target_notation(cells: "pd.Series", name: str, where: str, decimal: str | None, thousands: str | None) -> Notation:
    """Return the notation of a target's numbers.

    Args:
        cells: without gaps, with the number of each row as index.
        name: of the column.
        where: what stands before a row's number in messages.
        decimal: the decimal sign, where the user gives it.
        thousands: the separator of thousands, where the user gives it.

    Raises:
        UserError: for dates, and numbers that can be read in two ways.
    """
    try:
        kind = classify(cells.tolist(), decimal, thousands)
    except AmbiguousNumbers as error:
        raise refuse_ambiguous(error, f"{where}{(cells == error.cell).idxmax()}, column {name!r}") from None
    if kind.kind == "date":
        raise refuse_dates(kind.odd, f"{where}{(cells == kind.odd).idxmax()}, column {name!r}")
    return kind.notation or Notation()


def target_numbers(cells: "pd.Series", name: str, where: str, notation: Notation, na: Sequence[str]) -> torch.Tensor:
    """Return the numbers of a target, (rows, 1) float32.

    Raises:
        UserError: for other texts, and numbers that float32 cannot tell apart.
    """
    numbers = to_numbers(cells, notation)
    if numbers.isna().any():
        line = numbers.isna().idxmax()
        raise UserError(
            f"{where}{line}, column {name!r}: {cells[line]!r} is not a number; if it means an empty cell, set "
            f"{override_text('data.na', [*na, cells[line]])}, and for labels task=classification"
        )
    if loses_digits(numbers):
        raise UserError(
            f"data.target: column {name!r} is about {numbers.mean():.4g} and varies by {numbers.std():.2g}, too little for "
            "float32 to tell; subtract a constant from it"
        )
    return torch.tensor(numbers.to_numpy(), dtype=torch.float32)[:, None]


def target_names(cells: "pd.Series", name: str, decimal: str | None, thousands: str | None) -> list[str]:
    """Return the names of a target's classes: numbers by their size, then texts.

    Raises:
        UserError: for one class alone, or values that hardly repeat.
    """
    values = cells.unique()
    parsed = {value: Notation().parse(value) for value in values}
    names = sorted(values, key=lambda v: (parsed[v] is None, parsed[v] or 0.0, v))
    if len(names) < 2:
        raise UserError(
            f"data.target: column {name!r} holds one value alone ({values[0]!r}); there is nothing to learn"
        )
    if len(names) > len(cells) // 2:
        is_amount = classify(cells.tolist(), decimal, thousands).notation is not None
        amounts, neither = "for amounts choose task=regression", "they repeat too little for classes and are no numbers"
        raise UserError(
            f"data.target: column {name!r} has {len(names)} different values in {len(cells)} rows; "
            + (amounts if is_amount else f"{neither}; choose another target")
        )
    return names


def target_classes(cells: "pd.Series", names: Sequence[str], where: str) -> torch.Tensor:
    """Return the number of each label, (rows,) int64.

    Raises:
        UserError: for a label that is not among the names.
    """
    numbered = cells.map({name: number for number, name in enumerate(names)})
    if numbered.isna().any():
        line = numbered.isna().idxmax()
        raise UserError(f"{where}{line}: label {cells[line]!r} is not among the training labels")
    return torch.tensor(numbered.to_numpy(), dtype=torch.int64)


def to_numbers(cells: "pd.Series", notation: Notation) -> "pd.Series":
    """Return cells as float64; NaN for empty ones, text and infinite numbers."""
    import pandas as pd

    numbers = pd.to_numeric(cells, errors="coerce").astype("float64") if notation == Notation() else None
    numbers = pd.Series(float("nan"), index=cells.index) if numbers is None else numbers
    numbers = numbers.where(numbers.abs() < float("inf"))
    rest = cells[numbers.isna() & (cells != "")]
    if len(rest):
        parsed = {cell: notation.parse(cell) for cell in rest.unique()}
        numbers = numbers.copy()
        numbers[rest.index] = rest.map(parsed).astype("float64")
    return numbers


def loses_digits(numbers: "pd.Series") -> bool:
    """Return whether values lie so far from zero against their spread that float32, with its 7 digits, would blur them."""
    return bool(numbers.abs().mean() > 1e4 * numbers.std() > 0)
