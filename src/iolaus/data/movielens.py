"""MovieLens, ratings of films by their viewers, in the formats of its releases. Harper and Konstan, https://doi.org/10.1145/2827872."""

import csv
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from iolaus.data.clicks import Clicks
from iolaus.data.interactions_csv import Layout, read
from iolaus.errors import UserError

RATINGS = ("ratings.csv", "u.data", "ratings.dat")
NAMES = ("user", "item", "rating", "time")
TITLES = {  # file beside the ratings, and what stands between its cells
    "ratings.csv": ("movies.csv", ","),
    "u.data": ("u.item", "|"),
    "ratings.dat": ("movies.dat", "::"),
}


class MovieLens(Clicks):
    """The files as they are unpacked: ratings.csv of the later releases, u.data of 100K, ratings.dat of 1M and 10M.

    Which of them a file is, its first line tells. Films are called by their titles where movies.csv, u.item or movies.dat lies beside it,
    else by their numbers. Each user's latest click is the test, the one before it the validation.

    Args:
        path: the folder, or the file of ratings.
        min_rating: the lowest rating that is a click.
        base: the settings of Clicks and those that every data set has.

    Raises:
        UserError: for a file of another format; and for bad rows, with the line.
    """

    def __init__(self, path: str, min_rating: float = 4.0, **base: Any):
        super().__init__(**base)
        self.path = Path(path)
        self.min_rating = min_rating

    def load(self) -> dict[str, Dataset]:
        file = self.path
        if file.is_dir():
            there = [file / name for name in RATINGS if (file / name).is_file()]
            if not there:
                raise UserError(
                    f"data.path: {file} has none of {', '.join(RATINGS)}; give the unpacked folder of a release"
                )
            file = there[0]
        kind, layout = _format(file)
        found = read(file, layout, self.min_rating)
        titles = _titles(file.parent, *TITLES[kind])
        self.users, self.items = found.users, [titles.get(number, number) for number in found.items]
        return self.hold_out(*found.clicks)


def _format(file: Path) -> tuple[str, Layout]:
    """Which of the three a file is, by its first line."""
    if not file.is_file():
        raise UserError(f"data.path: {file} is not a file")
    with file.open(encoding="utf-8-sig", errors="replace") as lines:
        first = lines.readline().strip()
    roles = {"user": "user", "item": "item", "label": "rating", "time": "time"}
    if [name.strip().lower() for name in first.split(",")] == ["userid", "movieid", "rating", "timestamp"]:
        return "ratings.csv", Layout(",", NAMES, **roles, skipped=1)
    if len(first.split("::")) == 4:  # every second of the cells between single colons is empty
        between = [name for pair in zip(NAMES, ("1", "2", "3"), strict=False) for name in pair] + [NAMES[3]]
        return "ratings.dat", Layout(":", between, **roles, skipped=0)
    if len(first.split("\t")) == 4:
        return "u.data", Layout("\t", NAMES, **roles, skipped=0)
    raise UserError(
        f"data.path: {file} is no file of MovieLens, it begins with {first[:60]!r}; a table of your own is data=interactions_csv"
    )


def _titles(folder: Path, name: str, separator: str) -> dict[str, str]:
    """Titles by number, from the file beside the ratings; none where there is no such file."""
    if not (folder / name).is_file():
        return {}
    content = (folder / name).read_bytes()
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:  # the older releases
        lines = content.decode("latin-1").splitlines()
    rows = csv.reader(lines) if separator == "," else (line.split(separator) for line in lines)
    return {row[0]: row[1] for row in rows if len(row) > 1 and row[1]}
