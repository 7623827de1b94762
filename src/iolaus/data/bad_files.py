"""Files and rows that cannot be read: refused, or left out and listed, in training and in prediction."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from iolaus.errors import UserError
from iolaus.terminal import FILE_ONLY

log = logging.getLogger("iolaus")

MAX_LISTED = 20  # files that a warning names; train.log has all


@dataclass(frozen=True)
class BadItem:
    """Stands in the place of an item to predict for that cannot be read."""

    reason: str


def unreadable_rows(dataset: Any) -> dict[int, str]:
    """Read each row of a data set of files once.

    Args:
        dataset: has a length, and raises a UserError for a row whose file cannot be read.

    Returns:
        the reason for each row that cannot be read.
    """
    reasons = {}
    for row in range(len(dataset)):
        try:
            dataset[row]
        except UserError as error:
            reasons[row] = str(error).removeprefix("data.path: ")
    return reasons


def list_left_out(reasons: Sequence[str], total: int, what: str = "files") -> list[str]:
    """Return warnings on files that were left out, a line each, and the number first; nothing where there are none.

    Args:
        reasons: one a file; each names its file.
        total: files that there are.
        what: they are.
    """
    if not reasons:
        return []
    lines = [
        f"data.bad_files=skip: {len(reasons)} of {total} {what} cannot be read and are left out",
        *reasons[:MAX_LISTED],
    ]
    if len(reasons) > MAX_LISTED:
        lines.append(f"and {len(reasons) - MAX_LISTED} more, which train.log lists")
        for reason in reasons[MAX_LISTED:]:
            log.warning("data: %s", reason, extra=FILE_ONLY)
    return lines


def refuse_empty_classes(counts: Mapping[str, int], folder: object) -> None:
    """Refuse training data that lost all files of a class.

    Args:
        counts: files that can be read of each class.
        folder: that holds them.

    Raises:
        UserError: naming the class.
    """
    for name, count in counts.items():
        if not count:
            raise UserError(
                f"data.bad_files: no file of class {name!r} in {folder} can be read; mend them, or remove the class"
            )
