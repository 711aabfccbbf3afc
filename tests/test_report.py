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
from collections.abc import Callable, Iterator, Sequence
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
from training import registry

SCREENSHOTS = Path(__file__).parents[1] / ".screenshots"
WIDTHS = (1280, 390)
OFFICE = shutil.which("soffice")
#: Tables that a file of a command, the workbook and the page have: sheet and titles of their parts.
TABLES = {
    "of.csv": ("segments", ("segments", "drivers")),
    "c.csv": ("channels", ("channels", "realised", "ltv", "return", "ahead", "again")),
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


@pytest.mark.parametrize("language", LANGUAGES)
def test_tables_of_readers_are_those_of_the_commands(
    language: str, desk: Path, pages: dict[str, Page], books: dict[str, dict[str, Rows]]
) -> None:
    """Where a sheet shows some columns or rows of a table, or the table turned."""
    segments, cohorts = told(desk / "of.csv"), told(desk / "kept/cohorts.csv")
    rest, every = segments[segments["segment"] != "All"], cohorts[cohorts["cohort"] == "all"]
    every = every[["since", *(name for name in every if name not in ("since", "cohort"))]]
    grid = cohorts[cohorts["cohort"] != "all"].pivot_table(
        index="cohort", columns="since", values="active"
    )
    grid.columns = [str(since) for since in grid]
    found = {
        "leaving": tied(segments, ("experience", "leaving"), language, pages, books),
        "steps": tied(rest, ("marketing", "steps"), language, pages, books),
        "economics": tied(told(desk / "c.csv"), ("marketing", "economics"), language, pages, books),
        "retention": tied(told(desk / "kept/channels.csv"), ("marketing", "retention"), language,
                          {}, books),
        "all": tied(every, ("product", "all"), language, pages, books),
        "active": tied(grid.reset_index(), ("cohorts", "active"), language, pages, books,
                       str),
    }  # fmt: skip
    assert all(count > 5 for count in found.values()), found
    assert sum(found.values()) > 120, found


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_to_do_is_said_to_the_end(language: str, desk: Path, pages: dict[str, Page]) -> None:
    say = words(language)
    steps = pages[language].tables[say("workbook.part.steps")].rows
    assert len(steps) >= 4
    for name in told(desk / "of.csv")["segment"][: len(steps)]:
        assert steps[say.segment(name)][-1] == say.step(name)


def tied(
    frame: pd.DataFrame, place: tuple[str, str], language: str, pages: dict[str, Page],
    books: dict[str, dict[str, Rows]], heading: Callable[[str], str] | None = None,
    keys_: Sequence[str] | None = None,
) -> int:  # fmt: skip
    """Numbers of a table that a sheet and a page show as well; each is the same."""
    say, compared = words(language), 0
    title = say(f"workbook.part.{place[1]}")
    sheets = table(books[language][say(f"workbook.sheet.{place[0]}")], title)
    read = pages[language].tables[title] if pages else Read("", [], {})
    shows = shown.told(frame, say)
    first = shows.iloc[:, 0]
    key = keys_ or [say.number(x) if isinstance(x, int) else " ".join(str(x).split())
                    for x in first.tolist()]  # fmt: skip
    assert len(sheets) == len(frame)
    if pages:
        assert list(read.rows) == list(key)
    for column in shows.columns[1:][[pd.api.types.is_numeric_dtype(t) for t in shows.dtypes[1:]]]:
        named = (heading or say.heading)(str(column))
        if named in sheets:
            for name, true, cell in zip(key, shows[column], sheets[named], strict=True):
                compared += same(float(true), cell, read, (name, named), language)
    return compared


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_test_of_the_model_is_that_of_its_card(
    language: str, pages: dict[str, Page], books: dict[str, dict[str, Rows]],
    trained: Trained, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The scores that `clv train` keeps with the model and logs in MLflow."""
    use_home(monkeypatch, trained.home)
    say = words(language)
    card = json.loads((registry.fetch("1") / "card.json").read_text(encoding="utf-8"))
    scores, found = card["scores"], {}
    judged = pd.DataFrame(scores["models"]).rename_axis("metric").reset_index()
    judged = judged.sort_values("metric").reset_index(drop=True)
    judged["metric"] = judged["metric"].map(say.heading)
    found["quality"] = tied(judged, ("quality", "quality"), language, pages, books,
                            lambda name: shown.model(name, say))  # fmt: skip
    months = pd.DataFrame(scores["by_month"])
    months.insert(0, "month", range(1, len(months) + 1))
    found["tracking"] = tied(months, ("quality", "tracking"), language, pages, books)
    for name, first in (("slices", ["slice", "level"]), ("coverage", ["group"])):
        frame = pd.DataFrame(scores[name])
        frame = frame[first + [one for one in frame if one not in first]]
        worded = shown.told(frame, say)[first].astype(str).agg(": ".join, axis=1).tolist()
        found[name] = tied(frame, ("quality", name), language, pages, books, heads(frame, say),
                           [" ".join(one.split()) for one in worded])  # fmt: skip
    assert all(count > 20 for count in found.values()), found
    assert sum(found.values()) > 200, found


def heads(frame: pd.DataFrame, say: Words) -> Callable[[str], str]:
    """Headings of the columns that are told; of a card's others there are none."""

    def heading(name: str) -> str:
        try:
            return say.heading(name)
        except LookupError:
            return f"not told: {name}"

    return heading


@pytest.mark.parametrize("language", LANGUAGES)
def test_categories_are_those_of_the_segments(
    language: str, desk: Path, tmp_path: Path, pages: dict[str, Page],
    books: dict[str, dict[str, Rows]], trained: Trained, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    use_home(monkeypatch, trained.home)
    ran = clv("segments", desk / "p.csv", "--data", desk / "data", "--out", tmp_path / "s.csv",
              "--summary", tmp_path / "of.xlsx")  # fmt: skip
    assert ran.code == 0, ran.err
    head, *rows = [row for _, row in sorted(book(tmp_path / "of.xlsx")["categories"].items())]
    frame, say, compared = pd.DataFrame(rows, columns=head), words(language), 0
    long = table(books[language][say("workbook.sheet.segments")],
                 say("workbook.part.categories"))  # fmt: skip
    for column in ("customers", "share"):
        for cell, true in zip(long[say.heading(column)], frame[column], strict=True):
            assert cell == pytest.approx(true, rel=1e-14)
            compared += 1
    title = say("workbook.part.categories")
    wide, read = table(books[language][say("workbook.sheet.product")], title), pages[language]
    for row in frame.to_dict("records"):
        name = say.segment(row["segment"])
        own = wide.set_index(say.heading("category"))[name]
        compared += same(row["share"], own[row["category"]], read.tables[title],
                         (row["category"], name), language)  # fmt: skip
    assert compared == 3 * len(frame) > 20


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
        holes = {
            "customers": 1234, "past": 0.5, "ahead": 0.25, "least": 100, "before": "1", "now": "2",
            "found": 0.5, "meant": 0.1, "times": 1000, "name": "x", "treated": 1.5, "control": 2.5,
        }  # fmt: skip
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
