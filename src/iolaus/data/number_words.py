"""Numbers and dates in figures, and in English words."""

import calendar
import datetime
import random
from typing import Any

from iolaus.data.sentence_pairs import SentencePairs, TokenKind

SMALL = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
    "twenty": "twentieth",
    "thirty": "thirtieth",
}
MOST_DIGITS = 6
FIRST_YEAR, LAST_YEAR = 1800, 2099


class NumberWords(SentencePairs):
    """Whole numbers below a million and dates from 1800 to 2099, drawn by the seed, each once: what is tested was never trained on.

    A number has one to six digits with equal chance, so that short ones are not rare; there are as many dates as numbers.

    Args:
        size: pairs in all.
        source_tokens: what a source is cut into.
        base: see SentencePairs.
    """

    def __init__(self, size: int = 16_000, source_tokens: TokenKind = "characters", **base: Any):
        super().__init__(source_tokens, **base)
        self.size = size

    def read(self) -> dict[str, list[tuple[str, str]]]:
        draw = random.Random(self.seed)
        pairs: dict[str, str] = {}
        while len(pairs) < self.size:
            if draw.random() < 0.5:
                number = draw.randrange(10 ** draw.randint(1, MOST_DIGITS))
                pairs[str(number)] = number_in_words(number)
            else:
                first = datetime.date(FIRST_YEAR, 1, 1).toordinal()
                day = datetime.date.fromordinal(draw.randint(first, datetime.date(LAST_YEAR, 12, 31).toordinal()))
                pairs[day.isoformat()] = date_in_words(day)
        return {"train": list(pairs.items())}


def number_in_words(number: int) -> str:
    """A whole number from 0 to 999,999: `four thousand two hundred eleven`."""
    if number >= 1000:
        thousands, rest = divmod(number, 1000)
        return f"{number_in_words(thousands)} thousand" + (f" {number_in_words(rest)}" if rest else "")
    if number >= 100:
        hundreds, rest = divmod(number, 100)
        return f"{SMALL[hundreds]} hundred" + (f" {number_in_words(rest)}" if rest else "")
    if number < 20:
        return SMALL[number]
    tens, ones = divmod(number, 10)
    return TENS[tens - 2] + (f" {SMALL[ones]}" if ones else "")


def ordinal_in_words(number: int) -> str:
    """A number from 1 to 99 as a place: `twenty first`."""
    *before, last = number_in_words(number).split()
    return " ".join([*before, ORDINALS.get(last, f"{last}th")])


def year_in_words(year: int) -> str:
    """A year as it is said: `eighteen hundred`, `nineteen oh five`, `two thousand six`, `twenty twenty six`."""
    century, rest = divmod(year, 100)
    if century == 20 and rest < 10:
        return number_in_words(year)
    if rest == 0:
        return f"{number_in_words(century)} hundred"
    return f"{number_in_words(century)} {'oh ' if rest < 10 else ''}{number_in_words(rest)}"


def date_in_words(day: datetime.date) -> str:
    """`november twenty fourth twenty twenty six`."""
    return f"{calendar.month_name[day.month].lower()} {ordinal_in_words(day.day)} {year_in_words(day.year)}"
