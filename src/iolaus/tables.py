"""Tables as text: for the terminal and in Markdown."""

import io
from collections.abc import Sequence

from iolaus.strict_json import to_json
from iolaus.terminal import has_boxes, width


def markdown(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """A table in Markdown."""

    def line(cells: Sequence[object]) -> str:
        texts = (str(c).replace("|", r"\|").replace("\n", " ") for c in cells)
        return "| " + " | ".join(texts) + " |"

    return [line(columns), "| " + " | ".join("---" for _ in columns) + " |", *map(line, rows)]


def text_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for the terminal, cells after the first aligned to the right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.HEAVY_HEAD if has_boxes() else box.ASCII)
    for number, name in enumerate(columns):
        table.add_column(Text(name), justify="right" if number else "left")
    for row in rows:
        table.add_row(*map(Text, row))  # as they are: brackets would be taken for rich's markup
    text = io.StringIO()
    Console(file=text, width=width()).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def _cell(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 1e6 else f"{value:.4e}"


def metrics_table(columns: dict[str, dict[str, float]]) -> list[list[str]]:
    """Rows of metric name and its value in each column; keys lose their split, which the column says."""
    names = list(dict.fromkeys(key.rpartition("/")[0] for values in columns.values() for key in values if "/" in key))
    rows = []
    for name in names:
        cells = [
            next((_cell(v) for k, v in values.items() if k.rpartition("/")[0] == name), "")
            for values in columns.values()
        ]
        # what is named alike beside a score of the positive class alone is a mean, which hides a rare class
        rows.append([f"{name} (both classes)" if f"positive_{name}" in names else name, *cells])
    return rows


def table_text(title: str, columns: dict[str, dict[str, float]]) -> str:
    """A table of metrics as text, a column for each split; the title alone where there is none."""
    if not columns:
        return title
    return f"{title}\n{text_table(['metric', *columns], metrics_table(columns))}"


def short(value: object, most: int = 120) -> str:
    """A setting as it is written in a command, cut where it is long."""
    if isinstance(value, list):
        text = f"[{', '.join(map(short, value))}]"
    else:
        text = value if isinstance(value, str) else to_json(value, ensure_ascii=False, default=str)
    return text if len(text) <= most else text[: most - 3] + "..."
