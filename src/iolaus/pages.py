"""A report as a few kinds of parts, written in Markdown and as one HTML file that holds everything, pictures and sounds included."""

import base64
import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iolaus.tables import markdown as markdown_table

SMALLEST = 0.42  # of a picture's size on a narrow screen, where letters are still read; wider ones are scrolled
MOST_BYTES = 16 * 2**20  # of the files that a page holds; what goes beyond is linked
KINDS = {".png": "image/png", ".gif": "image/gif", ".svg": "image/svg+xml", ".wav": "audio/wav"}

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 0 1rem 3rem; color: #222; background: #fff; }
body { box-sizing: border-box; width: fit-content; min-width: min(62rem, 100%); max-width: 100%; }
h1 { font-size: 1.4rem; overflow-wrap: anywhere; } h2 { font-size: 1.15rem; margin-top: 2rem; } p, li { overflow-wrap: anywhere; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #ddd; text-align: left; white-space: nowrap; }
td.long { white-space: normal; min-width: 12rem; overflow-wrap: anywhere; } .number { text-align: right; }
tr.lost { color: #888; } .ranked tbody tr:first-child { font-weight: 600; } .ranked tbody tr.lost:first-child { font-weight: 400; }
code, pre { font: .85rem/1.4 ui-monospace, monospace; background: #f4f4f4; border-radius: 4px; }
code { padding: .1rem .25rem; overflow-wrap: anywhere; } pre { padding: .6rem; white-space: pre-wrap; overflow-wrap: anywhere; }
pre.aligned { white-space: pre; overflow-x: auto; } summary { cursor: pointer; font-size: 1.15rem; font-weight: 600; margin-top: 2rem; }
figure { margin: 1rem 0 0; overflow-x: auto; } img { max-width: 100%; height: auto; } audio { max-width: 100%; }
.caption { margin-top: .25rem; color: #555; font-size: .875rem; }
body > * { max-width: 60rem; } body > .wide { max-width: 100%; }
"""
LONG = 40  # letters of a cell that is broken into lines


@dataclass(frozen=True)
class Heading:
    """Of a section."""

    text: str


@dataclass(frozen=True)
class Words:
    """A paragraph; what stands between backticks is code."""

    text: str


@dataclass(frozen=True)
class Items:
    """A list; what stands between backticks is code."""

    items: Sequence[str]


@dataclass(frozen=True)
class Code:
    """A text as it is: commands, settings, an error.

    Args:
        text: of any number of lines.
        aligned: whether its columns stand under one another, so that lines are not broken.
        language: of its highlighting in Markdown.
    """

    text: str
    aligned: bool = False
    language: str = ""


@dataclass(frozen=True)
class Table:
    """Rows under names of columns; columns of numbers stand to the right.

    Args:
        columns: their names.
        rows: of as many cells.
        narrow: shorter names for the HTML page, which may be read on a phone.
        ranked: whether the first row is the best.
        lost: of each row, whether it has no result.
        caption: what the rows are.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    narrow: Sequence[str] | None = None
    ranked: bool = False
    lost: Sequence[bool] = ()
    caption: str = ""


@dataclass(frozen=True)
class Picture:
    """A picture or a sound, by its path from the page's folder."""

    file: str
    title: str
    caption: str = ""


@dataclass(frozen=True)
class Folded:
    """A section that is folded up until it is asked for."""

    title: str
    parts: Sequence["Part"]


Part = Heading | Words | Items | Code | Table | Picture | Folded


@dataclass
class Page:
    """A title and parts in order."""

    title: str
    parts: list[Part] = field(default_factory=list)


def markdown(page: Page) -> str:
    """The page in Markdown; pictures and sounds are files beside it."""
    return "\n".join([f"# {page.title}", *_markdown(page.parts), ""])


def _markdown(parts: Iterable[Part]) -> list[str]:
    lines: list[str] = []
    for part in parts:
        match part:
            case Heading(text=text):
                lines += ["", f"## {text}"]
            case Words(text=text):
                lines += ["", text]
            case Items(items=items):
                lines += ["", *(f"- {item}" for item in items)]
            case Code(text=text, language=language):
                fence = "````" if "```" in text else "```"
                lines += ["", f"{fence}{language}", text, fence]
            case Table():
                caption = ["", part.caption] if part.caption else []
                lines += [*caption, "", *markdown_table(part.columns, part.rows)]
            case Picture(file=file, title=title):
                mark = "" if file.endswith(".wav") else "!"
                lines += ["", f"{mark}[{title}]({file})", *(["", part.caption] if part.caption else [])]
            case Folded(title=title, parts=inner):
                lines += ["", f"## {title}", *_markdown(inner)]
    return lines


def page_html(page: Page, folder: Path) -> str:
    """The page as one HTML file; what its pictures and sounds hold is read from the folder, up to MOST_BYTES in all."""
    title = html.escape(page.title)
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style>"
    )
    body = "\n".join([f"<h1>{title}</h1>", *_Html(folder).parts(page.parts)])
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


class _Html:
    """Writes parts, and counts what it has taken in of files."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.room = MOST_BYTES

    def parts(self, parts: Iterable[Part]) -> list[str]:
        return [self.part(part) for part in parts]

    def part(self, part: Part) -> str:
        match part:
            case Heading(text=text):
                return f"<h2>{html.escape(text)}</h2>"
            case Words(text=text):
                return f"<p>{_inline(text)}</p>"
            case Items(items=items):
                return f"<ul>{''.join(f'<li>{_inline(item)}</li>' for item in items)}</ul>"
            case Code(text=text, aligned=aligned):
                return f"<pre{' class=aligned' if aligned else ''}>{html.escape(text)}</pre>"
            case Table():
                return _html_table(part)
            case Picture():
                return self.file(part)
            case Folded(title=title, parts=inner):
                return "\n".join(
                    [f"<details><summary>{html.escape(title)}</summary>", *self.parts(inner), "</details>"]
                )

    def file(self, part: Picture) -> str:
        """A picture or a sound inside the page, or a link to it where there is no room left."""
        title, path = html.escape(part.title), self.folder / part.file
        caption = f"<p class=caption>{_inline(part.caption)}</p>" if part.caption else ""
        try:
            size = path.stat().st_size
            content = path.read_bytes() if size <= self.room else None
        except OSError:
            return f"<p>{title}: {html.escape(part.file)} is not there any more</p>"
        if content is None:
            return f'<p><a href="{html.escape(part.file)}">{title}</a>, {size / 2**20:.1f} MB beside this page</p>{caption}'
        self.room -= size
        source = f"data:{KINDS[path.suffix]};base64,{base64.b64encode(content).decode()}"
        if path.suffix == ".wav":
            return f'<p>{title}<br><audio controls src="{source}"></audio></p>{caption}'
        return f'<figure><img alt="{title}" style="min-width: {_least(content)}px" src="{source}"></figure>{caption}'


def _least(picture: bytes) -> int:
    """The width on a narrow screen; the picture's own stands in its head. Line art that scales has none."""
    if picture.startswith(b"\x89PNG"):
        return int(SMALLEST * int.from_bytes(picture[16:20], "big"))
    if picture.startswith(b"GIF8"):
        return int(SMALLEST * int.from_bytes(picture[6:8], "little"))
    return 0


def _inline(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def _html_table(table: Table) -> str:
    columns = table.narrow or table.columns
    cells = [[str(cell) for cell in row] for row in table.rows]
    numbers = [all(_is_number(row[place]) for row in cells) for place in range(len(columns))]

    def line(row: Sequence[str], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=number' if is_number else ' class=long' if len(cell) > LONG else ''}>{html.escape(cell)}</{tag}>"
            for cell, is_number in zip(row, numbers, strict=True)
        )

    body = "\n".join(
        f"<tr{' class=lost' if place < len(table.lost) and table.lost[place] else ''}>{line(row, 'td')}</tr>"
        for place, row in enumerate(cells)
    )
    caption = f"<p>{_inline(table.caption)}</p>" if table.caption else ""
    return (
        f'{caption}<div class="wide"><table{" class=ranked" if table.ranked else ""}><thead><tr>{line(columns, "th")}</tr></thead>'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _is_number(text: str) -> bool:
    """Whether a cell is a number, a mean with its deviation, or nothing."""
    try:
        return not text or bool([float(part.replace(",", "")) for part in text.split(" ± ")])
    except ValueError:
        return False


def shortened(columns: Sequence[Any], keys: Iterable[str]) -> list[str]:
    """Names of columns, those of settings by their last parts where these differ: lr and not optim.lr."""
    known = set(keys)
    last = [key.rpartition(".")[2] if key in known else key for key in columns]
    return last if len(set(last)) == len(last) else list(columns)
