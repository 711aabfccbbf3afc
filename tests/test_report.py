"""The report as people see it: in a browser and an office program, in four languages; its numbers.

Screenshots go to ``.screenshots/``, to be looked at.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from browser import Browser, needs_browser
from conftest import CANARY, Trained, clv, use_home
from reading import Page, Read
from test_commands import columns
from test_language import keys
from test_workbook import SHEETS, Rows, book, table, told

from serving.views import shown
from serving.views.language import LANGUAGES, Note, Words, words

SCREENSHOTS = Path(__file__).parents[1] / ".screenshots"
WIDTHS = (1280, 390)
OFFICE = shutil.which("soffice")
#: Tables that a file of a command, the workbook and the page have: sheet and titles of their parts.
TABLES = {
    "of.csv": ("segments", ("segments", "drivers")),
    "c.csv": ("channels", ("channels", "ltv", "return", "ahead", "again")),
    "kept/channels.csv": ("channels", ("retention", "repeat", "stays")),
    "kept/surveys.csv": ("experience", ("surveys",)),
}


@cache
def number(text: str, language: str) -> tuple[float, float]:
    """A number as a language writes it, and half of its last digit; a share is of 1."""
    say = words(language)
    bare = text.replace("\u00a0", " ").removesuffix("%").strip()
    group, decimal = (say(f"form.{mark}").replace("\u00a0", " ") for mark in ("group", "decimal"))
    plain = bare.replace(group, "").replace(decimal, ".")
    scale = 100.0 if "%" in text else 1.0
    return float(plain) / scale, 0.5000001 * 10.0 ** -len(plain.partition(".")[2]) / scale


@pytest.fixture(scope="module")
def pages(desk: Path) -> dict[str, Page]:
    return {one: Page.of((desk / f"{one}.html").read_text("utf-8")) for one in LANGUAGES}


@pytest.fixture(scope="module")
def books(desk: Path) -> dict[str, dict[str, Rows]]:
    return {one: book(desk / f"{one}.xlsx") for one in LANGUAGES}


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_number_that_stands_in_several_places_is_the_same(
    language: str, desk: Path, pages: dict[str, Page], books: dict[str, dict[str, Rows]]
) -> None:
    say, compared = words(language), 0
    for file, (sheet, parts) in TABLES.items():
        frame = shown.told(told(desk / file), say)
        key = [" ".join(str(cell).split()) for cell in frame.iloc[:, 0]]
        if file.endswith("surveys.csv"):
            key = [f"{a}: {b}" for a, b in zip(key, frame["level"], strict=True)]
        rows = books[language][say(f"workbook.sheet.{sheet}")]
        for part in parts:
            title = say(f"workbook.part.{part}")
            sheets, read = table(rows, title), pages[language].tables[title]
            for column in frame.select_dtypes("number"):
                heading = say.heading(str(column))
                if heading not in sheets:
                    continue
                for name, true, cell in zip(key, frame[column], sheets[heading], strict=True):
                    compared += same(true, cell, read, (name, heading), language)
    assert compared > 200


def same(true: float, cell: object, read: Read, place: tuple[str, str], language: str) -> int:
    """A number of a file, a cell of the workbook and one of the page are one; 0 if none is told."""
    row, heading = place
    text = read.rows[row][read.head.index(heading) - 1] if heading in read.head else None
    if np.isnan(true):
        assert cell is None
        assert text in (None, words(language)("form.not_known"))
        return 0
    assert cell == pytest.approx(true, rel=1e-14, abs=6e-7)
    if text is not None:
        value, near = number(text, language)
        assert abs(value - true) <= near + 6e-7, (place, text, true)
    return 1


@pytest.mark.parametrize("language", LANGUAGES)
def test_key_figures_are_those_of_the_commands(
    language: str, desk: Path, pages: dict[str, Page], books: dict[str, dict[str, Rows]]
) -> None:
    say = words(language)
    sums, every = told(desk / "sums.csv").iloc[0], told(desk / "of.csv").iloc[-1]
    title = say("workbook.part.figures")
    cells = table(books[language][say("workbook.sheet.figures")], title)
    cells = cells.set_index(say.heading("figure"))[say.heading("value")]
    for source, names in (
        (sums, ("customers", "past_orders", "past_revenue", "past_margin", "keep_at_most_3m")),
        (every, ("clv_3m", "clv_3m_per_customer", "churn_3m")),
    ):
        for name in names:
            assert cells[say.heading(name)] == pytest.approx(source[name], rel=1e-14)
            text = pages[language].tables[title].rows[say.heading(name)][0]
            value, near = number(text, language)
            assert abs(value - source[name]) <= near


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_page_names_nobody_and_asks_nobody(
    language: str, desk: Path, pages: dict[str, Page]
) -> None:
    text, page = (desk / f"{language}.html").read_text("utf-8"), pages[language]
    assert CANARY not in text
    assert len(text.encode()) < 2_000_000
    assert f'<html lang="{language}">' in text
    assert "<b>toys</b>" not in text
    assert "&lt;b&gt;toys&lt;/b&gt;" in text
    page.asks_nobody()
    drawn = [one["src"] for one in page.pictures]
    assert len(drawn) == len(set(drawn)) == 13, "each picture once"
    assert len({one["alt"] for one in page.pictures}) == 13
    for source in drawn:
        svg = base64.b64decode(source.partition(",")[2]).decode()
        bare = re.sub(r"<!--.*?-->|http://www\.w3\.org/\S+", "", svg, flags=re.DOTALL)
        assert "http" not in bare


def test_no_language_keeps_words_of_another(pages: dict[str, Page]) -> None:
    """What two languages have in common are numbers, names of data and words of the trade."""
    english = {one for one in pages["en"].texts if len(one) > 24}
    for language in LANGUAGES[1:]:
        assert not english & set(pages[language].texts), language


def test_every_word_of_tables_is_used(desk: Path) -> None:
    """By use: what the report of a rich shop took, in four languages, and what else shows it."""
    used = set(json.loads((desk / "used.json").read_text()))
    seen, look = set[str](), Words._template
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Words, "_template", lambda say, key: (seen.add(key), look(say, key))[1])
        for name in (*columns(1, 12), "reasons"):
            words("en").heading(name)
        for name in ("p_order", "repeat", "active", "stayed_12m_low", "cost", "offer"):
            if f"columns.{name}" in words("en"):
                words("en").heading(name)
        poorly(words("en"))
    used |= seen
    for section in ("columns", "ends", "values", "workbook"):
        rest = {f"{section}.{key}" for key in keys(section)} - used - set(words("en").lists)
        assert rest <= PRINTED, (section, rest)


#: What a command prints, and what is told where something is missing.
PRINTED = {
    "workbook.missing", "workbook.rows", "workbook.lacks", "workbook.nobody_best",
    "workbook.nobody_slipping", "workbook.contents",
}  # fmt: skip


def poorly(say: Words) -> None:
    """What a poor shop has in its tables, in words."""
    frame = pd.DataFrame(
        {
            "channel": ["All", "not known", "web"], "evidence": ["thin", "extrapolated", "full"],
            "note": ["fewer than 10 customers: not told", "few customers (n=12); no spend",
                     "nobody has ordered"],
            "source": ["event nps", "customers.club", "event club"],
            "level": ["above 7.5", "not known", "with"], "group": ["buyers", "decile 03", "all"],
        }
    )  # fmt: skip
    made = shown.told(frame, say)
    assert made["note"].tolist()[1] == "few customers (n=12); no spend"
    assert made["level"].tolist() == ["above 7.5", "not known", "with"]
    levels = {"source": ["event nps"] * 2, "level": ["up to 3", "none"]}
    shown.told(pd.DataFrame(levels), say)
    slices = {"slice": ["first_channel", "orders", "all"], "level": ["other", "unknown", "x"]}
    shown.told(pd.DataFrame(slices), say)
    shown.told(pd.DataFrame({"arm": ["control", "treatment"]}), say)
    shown.told(pd.DataFrame({"evidence": ["cold_start"]}), say)
    assert shown.model("champion 3", say) == "champion 3"
    for name in shown.METHODS:
        assert shown.model(name, say) == name


def test_notes_are_said_in_each_language() -> None:
    for key in keys("notes"):
        holes = {"customers": 1234, "past": 0.5, "ahead": 0.25}
        wanted = words("en").templates[f"notes.{key}"].holes
        note = Note.of(f"notes.{key}", **{name: holes[name] for name in wanted})
        said = {language: words(language).told(note) for language in LANGUAGES}
        assert said["en"] == note
        assert len(set(said.values())) == 4
        if "customers" in wanted:
            assert "1.234" in said["de"]
    assert words("de").told("as it is") == "as it is"


def test_a_report_in_another_language_is_asked_for_by_an_option(
    desk: Path, tmp_path: Path, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_home(monkeypatch, trained.home)
    out = tmp_path / "bericht.html"
    asked = ("report", desk / "data", "--predictions", desk / "p.csv", "--out", out)
    ran = clv(*asked, "--language", "de")
    assert ran.code == 0, ran.err
    assert out.read_bytes() == (desk / "de.html").read_bytes()
    assert "Kundenwert, 3 Monate: 2.784,49" in ran.out
    ran = clv(*asked, "--language", "fr")
    assert (ran.code, "--language must be one of en, de, hu, nl" in ran.err) == (2, True)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


@needs_browser
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_browser_shows_the_page(language: str, desk: Path, chromium: Browser) -> None:
    page = chromium.page()
    place = (desk / f"{language}.html").as_uri()
    for width in WIDTHS:
        page.resize(width)
        page.open(place)
        # Nothing leaves a phone's screen but what scrolls by itself.
        assert page.read("document.documentElement.scrollWidth") <= width
        assert page.read("[...document.images].every(i => i.complete && i.naturalWidth > 300)")
        page.screenshot(SCREENSHOTS / f"report-{language}-{width}.png")
    assert page.console == []
    assert {one for one in page.requests if not one.startswith("data:")} == {place}
    assert page.read("document.documentElement.lang") == language
    page.close()


def test_an_office_program_shows_the_workbook(desk: Path, tmp_path: Path) -> None:
    if OFFICE is None and os.environ.get("CI") != "1":
        pytest.skip("LibreOffice is not on this machine (package libreoffice-calc-nogui)")
    assert OFFICE is not None
    profile = f"-env:UserInstallation={(tmp_path / 'profile').as_uri()}"
    files = [str(desk / f"{language}.xlsx") for language in LANGUAGES]
    subprocess.run(
        [OFFICE, "--headless", profile, "--convert-to", "pdf", "--outdir", str(tmp_path), *files],
        check=True, capture_output=True, timeout=200,
    )  # fmt: skip
    SCREENSHOTS.mkdir(exist_ok=True)
    for language in LANGUAGES:
        made = tmp_path / f"{language}.pdf"
        assert len(re.findall(rb"/Type ?/Page\b", made.read_bytes())) > len(SHEETS)
        shutil.copy(made, SCREENSHOTS / f"workbook-{language}.pdf")
        if (painter := shutil.which("pdftoppm")) is not None:
            subprocess.run(
                [painter, "-r", "40", "-l", "12", "-png", str(made),
                 str(SCREENSHOTS / f"workbook-{language}")],
                check=True, timeout=100,
            )  # fmt: skip
