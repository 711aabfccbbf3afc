"""Documents read back as a browser would: tables, texts, pictures and addresses."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

import numpy as np

EMPTY = ("meta", "img", "br", "link")  # tags without an end
KNOWN = {
    "html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "p", "nav", "ul", "li",
    "a", "section", "div", "table", "thead", "tbody", "tr", "th", "td", "strong", "span", "figure",
    "img", "pre",
}  # fmt: skip


@dataclass
class Read:
    """One table."""

    caption: str
    head: list[str]
    rows: dict[str, list[str]]  # by their first cell


@dataclass
class Page(HTMLParser):
    """All that a page holds, after `of`."""

    tables: dict[str, Read] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)
    tags: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    style: str = ""

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.caption = self.cell = ""
        self.row: list[str] = []

    @classmethod
    def of(cls, text: str) -> Page:
        page = cls()
        page.feed(text)
        page.close()
        assert page.open == [], "every tag is closed"
        return page

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in EMPTY:
            self.open.append(tag)
        if tag in ("td", "th", "p", "li", "pre"):
            self.cell = ""
        if tag == "tr":
            self.row = []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag in ("td", "th"):
            self.row.append(" ".join(self.cell.split()))
        elif tag in ("p", "li", "pre"):
            self.caption = self.cell
            self.texts.append(self.cell)
        elif tag == "tr" and "thead" in self.open:
            self.tables[self.caption] = Read(self.caption, self.row, {})
        elif tag == "tr":
            rows = self.tables[self.caption].rows
            assert self.row[0] not in rows, "a row has a name of its own"
            rows[self.row[0]] = self.row[1:]

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            self.style += data
        self.cell += data

    @property
    def pictures(self) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.tags if tag == "img"]

    def table(self, start: str) -> Read:
        """The one whose caption starts so."""
        (found,) = (one for caption, one in self.tables.items() if caption.startswith(start))
        return found

    def asks_nobody(self) -> None:
        """Only known tags, none that runs or fetches, and no address outside."""
        assert {tag for tag, _ in self.tags} <= KNOWN
        for tag, attributes in self.tags:
            assert not [name for name in attributes if name.startswith("on")], tag
            for name in ("src", "href", "action", "srcset"):
                value = attributes.get(name, "#")
                assert value.startswith(("#", "data:image/svg+xml;base64,")), value
        assert "url(" not in self.style
        assert "@import" not in self.style
        policy = next(a for t, a in self.tags if a.get("http-equiv"))["content"]
        assert policy.startswith("default-src 'none'")


def shown(text: str, *wanted: float) -> None:
    """The numbers of a cell are `wanted`, each to its last digit; a dash is "not known"."""
    if text == "–":  # noqa: RUF001  the dash that is shown
        assert not np.isfinite(wanted).all(), wanted
        return
    found = re.findall(r"([+-]?[\d,]*\d(?:\.\d+)?)( %)?", text)
    assert len(found) == len(wanted), (text, wanted)
    for (number, percent), value in zip(found, wanted, strict=True):
        digits = len(number.partition(".")[2])
        told = float(number.replace(",", ""))
        true = 100 * value if percent else value
        assert abs(told - true) <= 0.5000001 * 10.0**-digits, (text, wanted)
