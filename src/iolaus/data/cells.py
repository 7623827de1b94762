"""Meaning of a table's cells: gaps, numbers in several notations, dates. Python alone, so that it can decide before torch is imported."""

import math
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import date
from functools import cached_property

# The texts that pandas.read_csv takes for an empty cell by default.
GAP_WORDS = frozenset(
    ["", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA"]
) | {"NULL", "NaN", "None", "n/a", "nan", "null"}
MAX_CLASSES = 20  # more distinct whole numbers than these are amounts, not labels
PLAIN_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", re.ASCII)
CURRENCIES = (
    r"(?:US|R|A|C|NZ|HK|S)?\$|[€£¥₹₽₩₺₫₴₪฿]|zł|kr\.?|Fr\.?"
    r"|USD|EUR|GBP|JPY|CHF|CNY|INR|AUD|CAD|NZD|SEK|NOK|DKK|PLN|CZK|BRL|MXN|ZAR|KRW"
)
AFFIXED = re.compile(
    rf"(?P<sign>[-+]?)\s?(?P<prefix>{CURRENCIES})?\s?(?P<number>[-+]?[\d.,][\d.,' \u00a0\u202f]*?)\s?(?P<suffix>[%‰]|{CURRENCIES})?",
    re.ASCII,
)
# (decimal sign, thousands separator), in the order in which they are tried; a space stands for every kind of space.
NOTATIONS = ((".", ""), (".", ","), (",", ""), (",", "."), (",", " "), (".", " "), (".", "'"), (",", "'"))

MONTHS = "jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec"
MONTH = rf"(?:{MONTHS})[a-z]*\.?"
CLOCK = r"\d{1,2}:\d{2}(?::\d{2}(?:[.,]\d+)?)?(?:\s?[ap]\.?m\.?)?(?:\s?(?:z|utc|gmt|[-+]\d{2}:?\d{2}))?"
DATES = [
    re.compile(pattern, re.IGNORECASE | re.ASCII)
    for pattern in (
        rf"(?P<y>\d{{4}})(?P<sep>[-/.])(?P<m>\d{{1,2}})(?:(?P=sep)(?P<d>\d{{1,2}}))?(?:[t ,]+{CLOCK})?",
        rf"(?P<a>\d{{1,2}})(?P<sep>[-/.])(?P<b>\d{{1,2}})(?P=sep)(?:\d{{4}}|\d{{2}})(?:[t ,]+{CLOCK})?",
        rf"(?:[a-z]{{3,9}},?\s)?(?P<d>\d{{1,2}})(?:st|nd|rd|th)?[-\s]{MONTH}[-,\s]+(?:\d{{4}}|\d{{2}})(?:[t ,]+{CLOCK})?",
        rf"(?:[a-z]{{3,9}},?\s)?{MONTH}[-\s](?:(?P<d>\d{{1,2}})(?:st|nd|rd|th)?,?\s)?(?:{CLOCK}\s)?\d{{4}}(?:[t ,]+{CLOCK})?",
        rf"\d{{4}}[-\s]{MONTH}(?:[-\s](?P<d>\d{{1,2}}))?",
        rf"(?P<d>\d{{1,2}}){MONTH}(?:\d{{4}}|\d{{2}})(?:[: ]{CLOCK})?",  # as SAS writes them
        rf"{MONTH}[-'](?:\d{{4}}|\d{{2}})",
        r"(?P<m>\d{1,2})[-/](?:19|20)\d{2}",
        r"\d{4}[-\s]?(?:q[1-4]|w[0-5]\d(?:-[1-7])?)|q[1-4][-\s/]?\d{4}",
        r"(?P<y>\d{4})(?P<m>\d{2})(?P<d>\d{2})t\d{4,6}z?",
        CLOCK,
    )
]


@dataclass(frozen=True)
class Notation:
    """How a column writes its numbers.

    Args:
        decimal: sign before the decimals.
        thousands: separator of groups of three digits; empty: there is none.
        affix: percent, per mille or currency sign that stands at the numbers; empty: there is none.
    """

    decimal: str = "."
    thousands: str = ""
    affix: str = ""

    def parse(self, cell: str) -> float | None:
        """Return the number that a cell writes, NaN for an empty one; None where it is no finite number in this notation.

        "18.5%" is 18.5. A currency sign may be absent, a percent sign may not, since 0.185 and 18.5% would be taken for one another.
        """
        if cell == "":
            return math.nan
        number = cell.replace("\u2212", "-")
        if self.affix:
            split = _split_affix(number)
            if split is None or not (split[1] == self.affix or (split[1] == "" and self.affix not in "%‰")):
                return None
            number = split[0]
        if self.thousands or self.decimal != ".":
            if not self._pattern.fullmatch(number):
                return None
            number = re.sub(rf"[{self._separators}]", "", number).replace(self.decimal, ".")
        value = float(number) if PLAIN_NUMBER.fullmatch(number) else math.inf
        return value if math.isfinite(value) else None

    @property
    def _separators(self) -> str:
        return r" \u00a0\u202f" if self.thousands == " " else re.escape(self.thousands) or "_"

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        groups = rf"\d{{1,3}}(?:[{self._separators}]\d{{3}})+|" if self.thousands else ""
        return re.compile(rf"[-+]?(?:{groups}\d+|(?=\D\d))(?:{re.escape(self.decimal)}\d*)?(?:[eE][-+]?\d+)?", re.ASCII)


def _split_affix(cell: str) -> tuple[str, str] | None:
    """Return a number's text and the sign at it, which may be empty; None for other texts, and for two signs."""
    found = AFFIXED.fullmatch(cell)
    if found is None or (found["prefix"] and found["suffix"]) or (found["sign"] and found["number"][0] in "-+"):
        return None
    return found["sign"] + found["number"], found["prefix"] or found["suffix"] or ""


class AmbiguousNumbers(ValueError):
    """Cells that are one number in one notation and another in a second one."""

    def __init__(self, cell: str, readings: dict[Notation, float]):
        self.cell, self.readings = cell, readings
        super().__init__(cell)


def find_notation(
    cells: Collection[str], decimal: str | None = None, thousands: str | None = None, share: float = 1.0
) -> Notation | None:
    """Return the notation in which cells are numbers; None where fewer than a share of them are.

    Args:
        cells: distinct cells without gaps.
        decimal: the decimal sign, where the user gives it.
        thousands: the separator of thousands, where the user gives it.
        share: of the cells that must be numbers, above 0.5 and at most 1.

    Raises:
        AmbiguousNumbers: where two notations read a cell as different numbers, as "18,500".
    """
    needed = max(math.ceil(share * len(cells)), 1)
    if decimal is None and thousands is None and _count(Notation().parse, cells) >= needed:
        return Notation()  # as in Python and pandas
    affixes = [split[1] for cell in cells if (split := _split_affix(cell.replace("\u2212", "-"))) is not None]
    if len(affixes) < needed:
        return None
    signs = {affix for affix in affixes if affix}
    if len(signs) > 1 or (signs & {"%", "‰"} and affixes.count("") > len(cells) - needed):
        return None
    affix = next(iter(signs), "")
    fitting = [
        notation
        for notation in (Notation(*pair, affix) for pair in _notations(decimal, thousands))
        if _count(notation.parse, cells) >= needed
    ]
    for notation in fitting[1:]:
        for cell in cells:
            first, second = fitting[0].parse(cell), notation.parse(cell)
            if first is not None and second is not None and first != second:
                raise AmbiguousNumbers(cell, {fitting[0]: first, notation: second})
    return fitting[0] if fitting else None


def _count(parse: Callable[[str], float | None], cells: Iterable[str]) -> int:
    return sum(parse(cell) is not None for cell in cells)


def _notations(decimal: str | None, thousands: str | None) -> list[tuple[str, str]]:
    """Return the notations to try: all, or those with the signs that the user gave."""
    if decimal is not None and thousands is not None:
        return [(decimal, thousands)]
    pairs = [(d, t) for d, t in NOTATIONS if decimal in (None, d) and thousands in (None, t)]
    return pairs or [(decimal or ".", thousands or "")]


def is_date(cell: str) -> bool:
    """Return whether a text is a date, a month of a year, a time of day, or a date and a time, in one of the common formats."""
    for pattern in DATES:
        if (found := pattern.fullmatch(cell)) is not None:
            parts = {key: int(value) for key, value in found.groupdict().items() if value and value.isdigit()}
            if "a" in parts:  # day and month in either order
                return min(parts["a"], parts["b"]) in range(1, 13) and max(parts["a"], parts["b"]) in range(1, 32)
            return parts.get("m", 1) in range(1, 13) and parts.get("d", 1) in range(1, 32)
    return False


def is_date_as_number(value: float) -> bool:
    """Return whether a number is a date such as 20240131, between 1900 and 2100."""
    if not (19000101 <= value <= 21001231 and value == int(value)):
        return False
    try:
        date(int(value) // 10000, int(value) // 100 % 100, int(value) % 100)
    except ValueError:
        return False
    return True


def is_amount(numbers: Collection[float]) -> bool:
    """Return whether numbers are amounts; at most 20 distinct whole numbers, each twice on average, are labels."""
    distinct = set(numbers)
    is_whole = all(number.is_integer() for number in distinct)
    return not (is_whole and len(distinct) <= MAX_CLASSES and 2 * len(distinct) <= len(numbers))
