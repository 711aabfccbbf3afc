"""On paper nothing is cut in two: not a picture or a row of a page, not a chart of a workbook.

A page is printed by a browser with every picture and every row in a colour of its own, and the
sheets of paper are searched for the colours.
"""

from __future__ import annotations

import base64
import re
import zipfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pypdfium2
import pytest
from browser import Browser, needs_browser
from hypothesis import given
from hypothesis import strategies as st

from serving.views import paper
from serving.views.language import LANGUAGES
from serving.views.paper import Block
from training import pages
from training.pages import Bullets, Document, Picture, Section, Table, Text

SHEET = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
DRAWING = "{http://schemas.openxmlformats.org/drawingml/2006/spreadsheetDrawing}"
#: Pictures become plain fields of their size, rows plain stripes; each colour says which.
PAINT = """(async () => {
  const code = (k, blue) => `rgb(${8 * (k % 32)},${8 * (k >> 5)},${blue})`;
  const rows = [...document.querySelectorAll('tbody tr')];
  rows.forEach((row, k) => [...row.cells].forEach(cell => cell.style.cssText =
    `background:${code(k, 99)};color:transparent;border:0;print-color-adjust:exact`));
  document.querySelectorAll('.below').forEach(one => one.style.color = 'transparent');
  const images = [...document.images];
  await Promise.all(images.map((image, k) => {
    const [w, h] = [image.naturalWidth, image.naturalHeight];
    image.src = 'data:image/svg+xml,' + encodeURIComponent(
      `<svg xmlns="http://www.w3.org/2000/svg" width="${w}" height="${h}">` +
      `<rect width="${w}" height="${h}" fill="${code(k, 201)}"/></svg>`);
    return image.decode();
  }));
  const tables = [...document.querySelectorAll('tbody')].map(one => one.rows.length);
  return {rows: rows.length, tables, images: images.map(i => i.naturalWidth / i.naturalHeight)};
})()"""
Boxes = dict[tuple[int, int], list[tuple[int, int, int]]]  # colour -> page, width, height


def report() -> Document:
    """Pictures and tables of all heights, so that page ends come everywhere."""
    svg = ('<svg xmlns="http://www.w3.org/2000/svg" width="690" height="{h}" '
           'viewBox="0 0 690 {h}"></svg>')  # fmt: skip
    sections = []
    for k in range(12):
        rows = tuple((f"row {k} {i}", "1.0", "word " * (3 + i % 9)) for i in range(1 + 7 * k % 40))
        sections.append(
            Section(
                f"Section {k}",
                (
                    Text("lead"), Bullets(("do this", "and that")),
                    Table("table", ("name", "number", "words"), rows, frozenset({2})),
                    Picture("one", svg.format(h=300 + 40 * k), "one", ""),
                    Picture("two", svg.format(h=430 if k else 1_700), "two", ""),
                ),
            )
        )  # fmt: skip
    return Document("Printed", ("lead",), tuple(sections))


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


def printed(chromium: Browser, place: Path) -> tuple[dict[str, Any], list[np.ndarray]]:
    """What was painted, and the sheets of paper as pixels."""
    page = chromium.page()
    page.open(place.as_uri())
    painted = page.read(PAINT)
    told = page.send("Page.printToPDF", printBackground=True, preferCSSPageSize=True)
    page.close()
    book = pypdfium2.PdfDocument(base64.b64decode(told["data"]))
    return painted, [sheet.render(scale=1, rev_byteorder=True).to_numpy() for sheet in book]


def boxes(sheets: list[np.ndarray], blue: int) -> Boxes:
    """Where each colour of `PAINT` stands; a few pixels are where two others meet."""
    found: Boxes = {}
    for number, sheet in enumerate(sheets):
        rows, columns = np.nonzero(sheet[..., 2] == blue)
        red, green = (sheet[rows, columns, each] for each in (0, 1))
        for colour in np.unique(np.stack([red, green]), axis=1).T:
            own = (red == colour[0]) & (green == colour[1])
            if own.sum() >= 60 and not (colour % 8).any():
                wide, high = np.ptp(columns[own]) + 1, np.ptp(rows[own]) + 1
                key = (int(colour[0]), int(colour[1]))
                found.setdefault(key, []).append((number, int(wide), int(high)))
    return found


@needs_browser
@pytest.mark.parametrize("name", ["made", *LANGUAGES])
def test_no_picture_and_no_row_is_cut_in_print(
    name: str, chromium: Browser, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    place = tmp_path / "made.html"
    if name == "made":
        place.write_text(pages.html(report()), encoding="utf-8")
    else:
        place = request.getfixturevalue("desk") / f"{name}.html"
    painted, sheets = printed(chromium, place)
    pictures, rows = boxes(sheets, 201), boxes(sheets, 99)
    assert len(sheets) > 5
    assert len(pictures) == len(painted["images"]) >= 13
    assert len(rows) == painted["rows"] > 100
    assert all(len(places) == 1 for places in (*pictures.values(), *rows.values()))
    stands = [rows[8 * (k % 32), 8 * (k // 32)][0][0] for k in range(len(rows))]
    for end, length in zip(np.cumsum(painted["tables"]), painted["tables"], strict=True):
        own = stands[end - length : end]
        assert len(set(own)) == 1 or length >= pages.SHORT, "a short table is on one page"
    for (red, green), ((_, wide, high),) in pictures.items():
        shape = painted["images"][red // 8 + 32 * (green // 8)]
        assert wide / high == pytest.approx(shape, abs=0.02 * shape)
        assert wide > 100, "and can be read"


@given(
    st.lists(st.floats(1, 3_000), min_size=1, max_size=30), st.floats(100, 4_000)
)  # fmt: skip
def test_only_what_is_longer_than_a_page_is_cut(heights: list[float], width: float) -> None:
    blocks = [Block(10 * k, height) for k, height in enumerate(heights)]
    told = paper.layout(blocks, width)
    # A printer's view of it: one page after another, each as long as its rows.
    parts = [*told.breaks, 10 * len(blocks)]
    assert parts[0] > 0
    for first, end in pairwise([0, *parts]):
        own = [block.height for block in blocks if first <= block.row < end]
        assert own
        for k, height in enumerate(own):
            before = sum(own[:k]) % told.page
            assert before + height <= told.page * (1 + 1e-9) or height > told.page
    assert width * told.scale / 100 <= (1047 if told.landscape else 719) or told.scale == 10


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_chart_of_a_workbook_is_cut_by_a_page(language: str, desk: Path) -> None:
    """By the file alone: heights of rows, the scale, where pages end and where drawings stand."""
    drawn = 0
    with zipfile.ZipFile(desk / f"{language}.xlsx") as inside:
        for name in inside.namelist():
            if not re.fullmatch(r"xl/worksheets/sheet\d+\.xml", name):
                continue
            sheet = ElementTree.fromstring(inside.read(name))  # noqa: S314  our own file
            links = name.replace("sheets/", "sheets/_rels/") + ".rels"
            if links not in inside.namelist():
                continue
            link = re.search(r"drawings/drawing\d+\.xml", inside.read(links).decode())
            assert link
            setup = sheet.find(f"{SHEET}pageSetup")
            assert setup is not None
            pages_end = [int(one.attrib["id"]) for one in sheet.iter(f"{SHEET}brk")]
            default = float(next(sheet.iter(f"{SHEET}sheetFormatPr")).attrib["defaultRowHeight"])
            own = {int(row.attrib["r"]) - 1: float(row.attrib.get("ht", default))
                   for row in sheet.iter(f"{SHEET}row")}  # fmt: skip
            landscape = setup.attrib.get("orientation") == "landscape"
            high = 8.27 if landscape else 11.69  # inches of A4
            points = 72 * (high - 1.1) * 100 / float(setup.attrib.get("scale", 100))
            for at in ElementTree.fromstring(inside.read(f"xl/{link[0]}")):  # noqa: S314
                first, last = (int(at.find(f"{DRAWING}{end}/{DRAWING}row").text)  # type: ignore
                               for end in ("from", "to"))  # fmt: skip
                begin = max([0, *(end for end in pages_end if end <= first)])
                assert not any(first < end <= last for end in pages_end)
                height = [own.get(row, default) for row in range(begin, last + 1)]
                # No program ends a page by itself between its beginning and the drawing's end.
                assert sum(height) <= points
                drawn += 1
    assert drawn >= (16 if language == "en" else 10)


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_number_is_wider_than_its_column(language: str, desk: Path) -> None:
    """Else a spreadsheet shows #### in its place; by the file's own widths and formats."""
    seen = 0
    with zipfile.ZipFile(desk / f"{language}.xlsx") as inside:
        styles = ElementTree.fromstring(inside.read("xl/styles.xml"))  # noqa: S314  our own file
        codes = {one.attrib["numFmtId"]: one.attrib["formatCode"]
                 for one in styles.iter(f"{SHEET}numFmt")}  # fmt: skip
        cells = styles.find(f"{SHEET}cellXfs")
        assert cells is not None
        forms = [codes.get(one.attrib["numFmtId"], "") for one in cells]
        for name in inside.namelist():
            if not name.startswith("xl/worksheets/sheet"):
                continue
            sheet = ElementTree.fromstring(inside.read(name))  # noqa: S314
            widths: dict[int, float] = {}
            for one in sheet.iter(f"{SHEET}col"):
                for k in range(int(one.attrib["min"]), int(one.attrib["max"]) + 1):
                    widths[k] = float(one.attrib["width"])
            for cell in sheet.iter(f"{SHEET}c"):
                number = cell.find(f"{SHEET}v")
                if number is None or cell.get("t", "n") != "n":
                    continue
                letters = re.sub(r"\d", "", cell.attrib["r"])
                place = sum(26**k * (ord(one) - 64) for k, one in enumerate(reversed(letters)))
                text = written(float(number.text or ""), forms[int(cell.attrib["s"])])
                assert len(text) + 1 <= widths[place], (name, cell.attrib["r"], text)
                seen += 1
    assert seen > 3_000


def written(value: float, form: str) -> str:
    """A number as a format of the workbook shows it."""
    code = re.sub(r"^\[[^]]*\]", "", form)
    if "y" in code:
        return "31.12.2026."
    if code.endswith("%"):
        return f"{100 * value:.1f}%"
    decimals = len(code.partition(".")[2])
    return f"{value:,.{decimals}f}" if "#" in code else f"{value:.{decimals}f}"
