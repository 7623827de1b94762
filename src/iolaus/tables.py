"""Tables as text: for the terminal and in Markdown."""

import io
from collections.abc import Sequence

MOST_LETTERS = 120  # of a line of a table in the terminal


def markdown(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """A table in Markdown."""

    def line(cells: Sequence[object]) -> str:
        texts = (str(c).replace("|", r"\|").replace("\n", " ") for c in cells)
        return "| " + " | ".join(texts) + " |"

    return [line(columns), "| " + " | ".join("---" for _ in columns) + " |", *map(line, rows)]


def text_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for the terminal, cells after the first aligned to the right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for number, name in enumerate(columns):
        table.add_column(Text(name), justify="right" if number else "left")
    for row in rows:
        table.add_row(*map(Text, row))  # as they are: brackets would be taken for rich's markup
    text = io.StringIO()
    Console(file=text, width=MOST_LETTERS).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())
