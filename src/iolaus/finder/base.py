"""What the finders have in common: they look for a setting before a fit, and say it; they never set it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

from iolaus.build import Run
from iolaus.exhibits import Exhibit, Table


@dataclass(frozen=True)
class Finding:
    """What a finder found.

    Args:
        figures: by name.
        table: all that was measured.
        words: for the terminal, with the setting to paste.
        suggestion: numbers by name, the setting first where there is one; for results.json.
    """

    figures: dict[str, Exhibit]
    table: Table
    words: str
    suggestion: dict[str, Any] = field(default_factory=dict)


class Finder(ABC):
    """Tries values of a setting on a run that is built; the run is afterwards as it was."""

    @abstractmethod
    def find(self, run: Run) -> Finding:
        """Try them."""
