"""Documents: what is written is text and nothing else, and can be read by everybody."""

from __future__ import annotations

import itertools
import re

import pytest
from fitted import HOSTILE
from reading import Page

from training import drawing, pages
from training.pages import Bullets, Code, Document, Picture, Section, Table, Text

BAD = (*HOSTILE, "&lt;b&gt;", "</pre></style><script>", "a\u202eb\x00c\x1b[31m", "'", "# h", "1. x",
       "- x", "`" * 3, "    x", "Ünïcødé 😀", "w" * 500)  # fmt: skip


def document(words: str) -> Document:
    """One of each kind of block, with the same words everywhere."""
    table = Table(words, ("name", words), ((words, (words, words)),), frozenset({1}))
    blocks = (
        Text(words), Text(words, "warning"), Bullets((words, words)), Code(words), table,
        Picture(words, "<svg></svg>", words, "plots/x.png"),
    )  # fmt: skip
    return Document(words, (words,), (Section(words, blocks),))


def visible(words: str) -> str:
    """As it may be shown: on one line, without what cannot be seen."""
    return " ".join("".join(c if c.isprintable() else " " for c in words).split())


@pytest.mark.parametrize("words", BAD)
def test_every_text_stays_a_text(words: str) -> None:
    page = Page.of(pages.html(document(words)))
    page.asks_nobody()
    ordinary = Page.of(pages.html(document("ordinary")))
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in ordinary.tags]
    whole = visible(words)
    short = whole if len(whole) <= 120 else whole[:119] + "…"
    assert page.texts[0] == whole
    assert [row for table in page.tables.values() for row in table.rows.items()] == [
        (short, [f"{short} {short}"])
    ]
    assert page.pictures[0]["alt"] == whole


@pytest.mark.parametrize("words", BAD)
def test_markdown_holds_no_markup_of_others(words: str) -> None:
    text = pages.markdown(document(words))
    lines = text.splitlines()
    assert [line for line in lines if re.match(r"#+ ", line)] == [lines[0], lines[4]]
    assert not re.search(r"(?<!\\)<\w", re.sub(r"(?m)^    .*$", "", text))
    cells = [line for line in lines if line.startswith("|")]
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in cells] == [3, 3, 3]
    links = re.findall(r"(?<!\\)\]\(([^)]*)\)", re.sub(r"(?m)^    .*$", "", text))
    assert links == ["plots/x.png"]
    starts = [line for line in lines if re.match(r"[-+*] |\d+[.)] ", line)]
    assert len(starts) == 2


def test_the_same_document_gives_the_same_bytes() -> None:
    for write in (pages.html, pages.markdown):
        assert write(document("ordinary")) == write(document("ordinary"))


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2."""
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(one: str, other: str) -> float:
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def test_the_contrast_is_that_of_the_norm() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


def test_text_can_be_read_by_people_who_see_little_contrast() -> None:
    for text, ground in pages.COLOURS.values():
        assert contrast(text, ground) >= 4.5, (text, ground)
    # No colour is used beside those: what is set for text is one of them.
    style = Page.of(pages.html(document("ordinary"))).style
    used = set(re.findall(r"(?<![-\w])(?:color|background): (#\w+)", style))
    assert used == set(itertools.chain(*pages.COLOURS.values()))
    for text in (drawing.INK, drawing.QUIET):
        assert contrast(text, "#ffffff") >= 4.5
    for line, *_ in drawing.STYLES:
        assert contrast(line, "#ffffff") >= 3


def test_the_looks_of_lines_differ() -> None:
    for parts in zip(*drawing.STYLES, strict=True):
        assert len({str(each) for each in parts}) == len(drawing.STYLES)
