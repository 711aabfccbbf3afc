"""Documents for people: a title, sections of text, tables and pictures, as HTML or as Markdown.

HTML is one file that asks nobody for anything: style and pictures are inside, and its policy
forbids the browser to fetch or to run what might have slipped in. Every text is escaped here and
nowhere else, so what a section holds is always plain text.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Final

__all__ = [
    "COLOURS", "NOTHING", "Block", "Bullets", "Cell", "Code", "Document", "Picture", "Section",
    "Table", "Text", "html", "markdown",
]  # fmt: skip

NOTHING: Final = "–"  # noqa: RUF001  a cell without a number: a dash is not read as a minus
SHORT: Final = 25  # lines that a printed page keeps together
MOST_TEXT: Final = 120  # characters of a cell: names may be of any length, our own words fit
#: Text and ground that meet on a page; each pair can be read by people who see little contrast.
COLOURS: Final = {
    "ink": ("#1f2328", "#ffffff"),
    "quiet": ("#57606a", "#ffffff"),
    "head": ("#1f2328", "#eef1f4"),
    "code": ("#1f2328", "#f5f6f8"),
    "warning": ("#7a1f1f", "#fdf1f0"),
}
LINE: Final = "#c9d0d8"
POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
STYLE: Final = f"""
:root {{ color-scheme: light; }}
* {{ box-sizing: border-box; }}
body {{ margin: 0; color: {COLOURS["ink"][0]}; background: {COLOURS["ink"][1]};
  font: 16px/1.5 system-ui, "Segoe UI", "Liberation Sans", Arial, sans-serif; }}
main {{ max-width: 72rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }}
h1 {{ font-size: 1.7rem; line-height: 1.2; margin: 0 0 .5rem; overflow-wrap: anywhere; }}
h2 {{ font-size: 1.25rem; margin: 2.2rem 0 .6rem; padding-top: .6rem;
  border-top: 1px solid {LINE}; }}
p, ul {{ max-width: 46rem; margin: .6rem 0; overflow-wrap: anywhere; }}
ul {{ padding-left: 1.2rem; }}
li {{ margin: .2rem 0; }}
nav ul {{ list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .2rem 1rem; }}
a {{ color: inherit; }}
.quiet {{ color: {COLOURS["quiet"][0]}; font-size: .9rem; }}
.caption {{ font-weight: 600; font-size: .95rem; margin: 1.2rem 0 .2rem; }}
.warning {{ color: {COLOURS["warning"][0]}; background: {COLOURS["warning"][1]};
  border-left: 4px solid; padding: .4rem .8rem; }}
.wide {{ overflow-x: auto; margin: .3rem 0 .8rem; }}
.wide:focus {{ outline: 2px solid {COLOURS["quiet"][0]}; }}
table {{ border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .3rem .45rem; border-bottom: 1px solid {LINE}; text-align: right;
  vertical-align: top; }}
td {{ white-space: nowrap; }}
thead th {{ color: {COLOURS["head"][0]}; background: {COLOURS["head"][1]}; vertical-align: bottom;
  max-width: 9.5rem; }}
.word {{ text-align: left; }}
.below {{ display: block; font-weight: 400; font-size: .87em; color: {COLOURS["quiet"][0]}; }}
td.word {{ white-space: normal; min-width: 7rem; max-width: 26rem; overflow-wrap: anywhere; }}
tbody th {{ text-align: left; font-weight: 600; background: {COLOURS["ink"][1]}; min-width: 7.5rem;
  max-width: 18rem; overflow-wrap: break-word; }}
figure {{ margin: 1rem 0; }}
figure img {{ display: block; max-width: 100%; height: auto; }}
pre {{ color: {COLOURS["code"][0]}; background: {COLOURS["code"][1]}; padding: .8rem;
  overflow-x: auto; font-size: .8rem; line-height: 1.4; }}
@media screen and (min-width: 64rem) {{
  figure {{ display: inline-block; vertical-align: top; width: calc(50% - .8rem);
    margin: 1rem .6rem 1rem 0; }}
}}
@media (max-width: 40rem) {{
  th, td {{ padding: .3rem .4rem; }}
  /* The name of a row stays in sight while its numbers are drawn past. */
  tbody th {{ position: sticky; left: 0; min-width: 7.5rem; max-width: 10.5rem; hyphens: auto;
    font-size: .82rem; border-right: 1px solid {LINE}; }}
  td.word {{ min-width: 12rem; }}
  /* Shrunk to a phone's width, the words of a picture could not be read. */
  figure .wide img {{ max-width: none; width: 36rem; }}
}}
@media print {{
  @page {{ size: A4; margin: 14mm; }}
  :root, body {{ font-size: 9.5pt; }}
  main {{ max-width: none; padding: 0; }}
  nav {{ display: none; }}
  p, ul {{ max-width: none; }}
  table {{ font-size: 7.5pt; }}
  tbody th {{ min-width: 6rem; }}
  th, td {{ padding: 1.2mm 1.5mm; }}
  td.word {{ min-width: 0; }}
  thead th {{ print-color-adjust: exact; }}
  .wide {{ overflow: visible; }}
  h1, h2, h2 + p, h2 + p + ul, .caption {{ break-after: avoid; }}
  tr, figure, p, ul, table.short, pre.short {{ break-inside: avoid; }}
  thead {{ display: table-header-group; }}
  figure {{ margin: 3mm 0; }}
  figure img {{ max-width: 128mm; max-height: 100mm; }}
  pre {{ white-space: pre-wrap; overflow-wrap: anywhere; font-size: 7pt; }}
}}
"""


@dataclass(frozen=True)
class Text:
    """A paragraph; a quiet one explains, a warning stands out."""

    text: str
    kind: str = ""  # "", "quiet" or "warning"


@dataclass(frozen=True)
class Bullets:
    """A list of short texts."""

    items: tuple[str, ...]


@dataclass(frozen=True)
class Code:
    """Lines as they are typed or stored."""

    text: str


Cell = str | tuple[str, str]  # a text, or a text and what stands below it, such as its interval


@dataclass(frozen=True)
class Table:
    """Rows of cells, each named by its first one. `strong` cells are (row, column)."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    words: frozenset[int] = frozenset()  # columns that hold words; the others hold numbers
    strong: frozenset[tuple[int, int]] = field(default_factory=frozenset)


@dataclass(frozen=True)
class Picture:
    """An SVG; `alt` says in words what it shows, `file` is where its copy lies beside Markdown."""

    title: str
    svg: str
    alt: str
    file: str


Block = Text | Bullets | Code | Table | Picture


@dataclass(frozen=True)
class Section:
    """Blocks under a heading."""

    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Document:
    """What is written: `lead` are the lines under the title."""

    title: str
    lead: tuple[str, ...]
    sections: tuple[Section, ...]


def html(document: Document, language: str = "en", contents: str = "Contents") -> str:
    """One file, the same bytes for the same document; `contents` names its list of sections."""
    named = [(f"s{k + 1}", section) for k, section in enumerate(document.sections)]
    links = "".join(f'<li><a href="#{key}">{_text(s.title)}</a></li>' for key, s in named)
    body = [f"<h1>{_text(document.title)}</h1>", *(f"<p>{_text(x)}</p>" for x in document.lead)]
    body.append(f'<nav aria-label="{_text(contents)}"><ul>{links}</ul></nav>')
    for key, section in named:
        blocks = "\n".join(_html(block) for block in section.blocks)
        body.append(f'<section id="{key}">\n<h2>{_text(section.title)}</h2>\n{blocks}\n</section>')
    return (
        f'<!doctype html>\n<html lang="{language}">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(document.title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        "<body>\n<main>\n" + "\n".join(body) + "\n</main>\n</body>\n</html>\n"
    )


def markdown(document: Document) -> str:
    """The same as GitHub's Markdown; pictures are named by their file."""
    parts = [f"# {_mark(document.title)}", *(_paragraph(line) for line in document.lead)]
    for section in document.sections:
        parts += [f"## {_mark(section.title)}", *(_markdown(block) for block in section.blocks)]
    return "\n\n".join(parts) + "\n"


def _clean(text: str) -> str:
    """One line of visible characters: no control, no change of writing direction."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _cut(text: str) -> str:
    text = _clean(text)
    return text if len(text) <= MOST_TEXT else f"{text[: MOST_TEXT - 1]}…"


def _text(text: str) -> str:
    return escape(_clean(text))


def _html(block: Block) -> str:
    if isinstance(block, Text):
        kind = f' class="{escape(block.kind)}"' if block.kind else ""
        return f"<p{kind}>{_text(block.text)}</p>"
    if isinstance(block, Bullets):
        return "<ul>" + "".join(f"<li>{_text(item)}</li>" for item in block.items) + "</ul>"
    if isinstance(block, Code):
        text = _visible(block.text)
        short = ' class="short"' if text.count("\n") < SHORT else ""
        return f"<pre{short}>{escape(text)}</pre>"
    if isinstance(block, Table):
        return _html_table(block)
    data = base64.b64encode(block.svg.encode()).decode()
    # As an image a picture can run nothing, and its ids meet nobody else's.
    image = f'<img alt="{_text(block.alt)}" src="data:image/svg+xml;base64,{data}">'
    return f"<figure>{_wide(block.title, image)}</figure>"


def _html_table(table: Table) -> str:
    def cell(tag: str, row: int, column: int, given: Cell) -> str:
        text, below = (given, "") if isinstance(given, str) else given
        word = ' class="word"' if column in table.words or not column else ""
        scope = {"thead": ' scope="col"', "tbody": ' scope="row"'}.get(tag, "")
        name = "th" if scope else "td"
        shown = escape(_cut(text))
        if tag == "thead":
            shown = re.sub(r" ([↑↓])$", r"&nbsp;\1", shown)  # never alone on a line
        shown = f"<strong>{shown}</strong>" if (row, column) in table.strong else shown
        shown += f' <span class="below">{escape(_cut(below))}</span>' if below else ""
        return f"<{name}{scope}{word}>{shown}</{name}>"

    head = "".join(cell("thead", -1, j, text) for j, text in enumerate(table.head))
    rows = [
        "<tr>" + "".join(cell("" if j else "tbody", i, j, x) for j, x in enumerate(row)) + "</tr>"
        for i, row in enumerate(table.rows)
    ]
    body = f"<thead><tr>{head}</tr></thead>\n<tbody>\n" + "\n".join(rows) + "\n</tbody>"
    # Not as the table's own caption: that would be as wide as the table, and so leave a phone.
    caption = f'<p class="caption">{_text(table.caption)}</p>\n'
    short = ' class="short"' if len(rows) < SHORT else ""
    return caption + _wide(table.caption, f"<table{short}>\n{body}\n</table>")


def _wide(name: str, inside: str) -> str:
    """What may be wider than the page scrolls by itself, by keyboard too."""
    return f'<div class="wide" role="region" tabindex="0" aria-label="{_text(name)}">{inside}</div>'


def _markdown(block: Block) -> str:
    if isinstance(block, Text):
        loud = block.kind == "warning"
        return f"**{_mark(block.text)}**" if loud else _paragraph(block.text)
    if isinstance(block, Bullets):
        return "\n".join(f"- {_paragraph(item)}" for item in block.items)
    if isinstance(block, Code):
        # Indented, code cannot be ended by what stands in it.
        return "\n".join(f"    {line}" for line in _visible(block.text).splitlines())
    if isinstance(block, Table):
        return _markdown_table(block)
    return f"![{_mark(block.alt)}]({block.file})"


def _markdown_table(table: Table) -> str:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cells)} |"

    def cell(given: Cell, strong: bool) -> str:
        text, below = (given, "") if isinstance(given, str) else given
        shown = _mark(_cut(text))
        shown = f"**{shown}**" if strong else shown
        return f"{shown} {_mark(_cut(below))}" if below else shown

    left = {0, *table.words}
    rows = [
        [cell(given, (i, j) in table.strong) for j, given in enumerate(row)]
        for i, row in enumerate(table.rows)
    ]
    rule = ["---" if j in left else "---:" for j in range(len(table.head))]
    lines = [line([_mark(name) for name in table.head]), line(rule), *map(line, rows)]
    return f"{_paragraph(table.caption)}\n\n" + "\n".join(lines)


def _mark(text: str) -> str:
    """Plain text in Markdown: nothing in it is taken for markup, a link or a tag."""
    text = re.sub(r"([\\`*\[\]|~])", r"\\\1", _clean(text))
    # Within a word an underscore is itself: names of columns stay as they are.
    text = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", text)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _paragraph(text: str) -> str:
    """The same at the start of a line, where it is no heading and no list either."""
    return re.sub(r"^(\d*)([#+=.)-])", r"\1\\\2", _mark(text))


def _visible(text: str) -> str:
    return "\n".join("".join(c if c.isprintable() else " " for c in x) for x in text.splitlines())
