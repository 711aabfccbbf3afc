"""Four languages with the same keys and holes, none missing or unused; numbers as people write."""

from __future__ import annotations

import ast
import json
import re
from datetime import date
from functools import cache
from pathlib import Path

import pytest
from babel import dates, numbers
from hypothesis import given
from hypothesis import strategies as st
from test_commands import columns
from test_sentences import FEATURES, OWN

from features.errors import InputError
from serving.decisions import group_words, journeys, rfm, segments
from serving.decisions.report import PARTS
from serving.views import shown
from serving.views.language import LANGUAGES, Note, Template, slug, words
from serving.views.sentences import key_of
from training import charts, curves, grid, plots, portraits, slices

ROOT = Path(__file__).parents[1]
LOCALES = {"en": "en_GB", "de": "de", "hu": "hu", "nl": "nl"}
DAYS = {"en": "d MMM y", "de": "dd.MM.y", "hu": "y. MM. dd.", "nl": "dd-MM-y"}
PICTURES = {
    "matrix": portraits.MatrixLabels, "spread": portraits.SpreadLabels,
    "map": portraits.MapLabels, "channels": portraits.ChannelLabels,
    "tracking": plots.TrackingLabels, "heat": charts.HeatLabels, "deciles": curves.DecileLabels,
    "gain": curves.GainLabels, "calibration": curves.CalibrationLabels,
}  # fmt: skip
#: Sections whose keys stand in the code in full, as f"section.{name}" or as a name alone.
PLAIN = ("form", "units", "time", "explain", "parted", "notes", "missing", "periods", "values",
         "workbook")  # fmt: skip


def keys(section: str) -> set[str]:
    """Keys of a section, templates and lists alike."""
    say, head = words("en"), f"{section}."
    return {key.removeprefix(head) for key in {**say.templates, **say.lists} if
            key.startswith(head)}  # fmt: skip


@cache
def literals() -> frozenset[str]:
    """Every text that stands in the code of serving; of texts with holes, what is fixed."""
    found: set[str] = set()
    for path in (ROOT / "serving").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found |= {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and
                  isinstance(n.value, str)}  # fmt: skip
    return frozenset(found)


@pytest.mark.parametrize("language", LANGUAGES)
def test_languages_have_the_same_keys_and_holes(language: str) -> None:
    english, other = words("en"), words(language)
    assert other.templates.keys() == english.templates.keys()
    for key, template in other.templates.items():
        # How a day is written is what languages differ in.
        if key != "form.date":
            assert template.holes == english.templates[key].holes, key
    assert {k: len(v) for k, v in other.lists.items()} == {
        k: len(v) for k, v in english.lists.items()
    }
    for key, template in other.templates.items():
        assert template.text, key


def test_no_language_is_left_in_english() -> None:
    """What several languages write alike is rare: names, signs, words of the trade."""
    english = words("en").templates
    for language in LANGUAGES[1:]:
        same = [
            key for key, template in words(language).templates.items()
            if template == english[key] and len(template.text) > 12 and "{" not in template.text
        ]  # fmt: skip
        assert same == [], language


def test_reasons_are_told_of_what_there_is_and_of_nothing_else() -> None:
    used = {key_of(feature).name for feature in (*FEATURES.values(), *OWN.values())}
    assert {key.split(".")[0] for key in keys("reasons")} == used
    forms = {frozenset(k.split(".")[1] for k in keys("reasons") if k.split(".")[0] == name)
             for name in used}  # fmt: skip
    known = [{"noun"}, {"noun", "told"}, {"noun", "one", "other"}, {"noun", "yes", "no"}]
    assert forms == {frozenset(each) for each in known}
    families = {feature.family for feature in FEATURES.values()} | {OWN["returns"].family}
    assert keys("families") == {slug(name) for name in families}


def test_segments_are_those_that_there_are_and_english_is_that_of_the_tables() -> None:
    steps = segments.STEPS | rfm.STEPS
    assert keys("steps") == {slug(name) for name in steps}
    assert keys("segments") == {slug(name) for name in (*steps, *group_words.COMMON)}
    assert set(grid.NAMES) <= set(steps)
    say = words("en")
    for name, step in steps.items():
        assert (say.segment(name), say.step(name)) == (name, step)
    assert [say.segment(name) for name in group_words.COMMON] == list(group_words.COMMON)


def test_labels_of_pictures_are_their_fields_and_english_is_their_default() -> None:
    assert {key.split(".")[0] for key in keys("pictures")} == set(PICTURES)
    assert set(PICTURES) <= literals()
    for part, kind in PICTURES.items():
        assert words("en").labels(part, kind) == kind()
        assert words("hu").labels(part, kind) != kind()


#: Keys that the code puts together from names of data, and where these come from.
EVIDENCE = ("full", "extrapolated", "thin", "cold_start")
NAMED = {
    "values": {
        *slices.STANDARD[1:], slices.FIRST_CHANNEL, "treatment", "control", *EVIDENCE,
        *map(slug, shown.METHODS), "up_to", "above",
    },
    "periods": set(journeys.PERIODS),
}  # fmt: skip


@pytest.mark.parametrize("section", PLAIN)
def test_no_other_words_are_unused(section: str) -> None:
    found = literals()
    for key in keys(section):
        kind, _, name = key.partition(".")
        whole = f"{section}.{key}" in found or key in found
        # The words of a sheet are asked for by its name: sheet.sales, lead.sales, do.sales.
        parted = section == "workbook" and kind in ("sheet", "lead", "do") and name in found
        by_part = section == "missing" and key in PARTS
        assert whole or parted or by_part or key in NAMED.get(section, ()), key


def test_no_words_are_missing() -> None:
    """Each text in the code that looks like a key is one, or the start of one."""
    every = {**words("en").templates, **words("en").lists}
    sections = {key.partition(".")[0] for key in every} - {"name"}
    assert sections >= {*PLAIN, "pictures", "columns", "ends", "heads", "segments", "steps"}
    looks = re.compile(rf"({'|'.join(sorted(sections))})\.[a-z_.]*")
    asked = {text for text in literals() if looks.fullmatch(text) and not text.endswith(".html")}
    assert len(asked) > 60
    for text in asked:
        begins = text.endswith((".", "_")) and any(key.startswith(text) for key in every)
        assert text in every or begins, text
    parts = {text for text in literals() if re.fullmatch(r"(part|chart)\.[a-z]+", text)}
    assert parts == {k for k in keys("workbook") if k.startswith(("part.", "chart."))}
    assert keys("columns") >= {"segment", "cohort"}


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_column_of_the_predictions_has_a_heading(language: str) -> None:
    say = words(language)
    names = [*columns(1, 12), "reasons"]
    headings = [say.heading(name) for name in names]
    assert len(set(headings)) == len(names)
    for name in ("ltv_12m_high", "roi_low", "clv_12m_per_customer", "realised_24m_customers"):
        assert say.heading(name)
    for wrong in ("colour", "colour_12m", "clv_12m_average", "12m", "_low"):
        with pytest.raises(LookupError):
            say.heading(wrong)


def test_headings_say_months_and_ends() -> None:
    assert words("de").heading("clv_12m_low") == "Kundenwert, 12 Monate, Untergrenze"
    assert words("hu").heading("churn_3m") == "Lemorzsolódás, 3 hónap"
    assert words("nl").heading("ltv_to_cac_high") == "LTV : CAC, bovengrens"


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_is_missing_or_too_much_is_an_error(language: str) -> None:
    say = words(language)
    for call in (
        lambda: say("explain.nothing"), lambda: say("explain"), lambda: say.segment("Keep clos"),
        lambda: say("parted.note"), lambda: say("parted.note", note="x", more="y"),
        lambda: say("explain.sum", note="x"),
    ):  # fmt: skip
        with pytest.raises(LookupError):
            call()
    with pytest.raises((LookupError, TypeError)):
        say.labels("matrix", portraits.MapLabels)


@pytest.mark.parametrize("language", ["", "EN", "fr", "../en", "de "])
def test_other_languages_are_refused(language: str) -> None:
    with pytest.raises(InputError, match="--language must be one of en, de, hu, nl"):
        words(language)


@pytest.mark.parametrize("text", ["{0}", "{}", "{a.b}", "{a[0]}", "{a!r}", "{a:.2f}", "{a"])
def test_a_template_has_plain_holes_only(text: str) -> None:
    with pytest.raises(ValueError, match=r"plain \{names\}|expected '}'"):
        Template.of("key", text)


@given(st.text())
def test_what_fills_a_hole_is_shown_as_it_is(text: str) -> None:
    for language in LANGUAGES:
        assert text in words(language)("parted.note", note=text)


@given(st.floats(-1e12, 1e12), st.integers(0, 3), st.sampled_from(LANGUAGES))
def test_numbers_are_written_as_by_the_common_locale_data(
    value: float, decimals: int, language: str
) -> None:
    pattern = "#,##0" + ("." + "0" * decimals if decimals else "")
    want = numbers.format_decimal(
        round(value, decimals) + 0.0, pattern, locale=LOCALES[language], decimal_quantization=True
    )
    assert words(language).number(value, decimals) == want


@pytest.mark.parametrize("language", LANGUAGES)
def test_days_months_and_shares_too(language: str) -> None:
    say, locale = words(language), LOCALES[language]
    for day in (date(2025, month, 2 * month + 1) for month in range(1, 13)):
        assert say.date(day) == dates.format_date(day, DAYS[language], locale=locale)
        assert say.date(day.isoformat()) == say.date(day)
        assert say.month(day.isoformat()[:7]) == dates.format_skeleton("yMMMM", day, locale=locale)
        assert say.lists["calendar.months"][day.month - 1] == dates.format_date(
            day, "LLLL", locale=locale
        )
    assert say.date("2025-03-07T10:00:00+01:00").endswith(" 10:00:00+01:00")
    for share in (0.0, 0.125, 1.0, -0.031, 12.5):
        assert say.percent(share) == numbers.format_percent(
            share, "#,##0.0\u00a0%" if language == "de" else "#,##0.0%", locale=locale
        )
    assert say.number(float("nan"), 2) == say("form.not_known") == say.percent(float("nan"))
    assert say.number(-0.001, 2) == say.number(0.0, 2)
    assert say.number(5.0, sign=True) == "+5"
    with pytest.raises(ValueError, match="2025-01-31"):
        say.date("yesterday")


def test_a_note_is_kept_and_told_again_in_any_language() -> None:
    note = Note.of("notes.unknown_channel", customers=1234)
    back = Note.back(json.loads(json.dumps(Note.kept(note))))
    assert isinstance(back, Note)
    for language in LANGUAGES:
        say = words(language)
        assert say.told(back) == say("notes.unknown_channel", customers=say.number(1234))
    assert back == note
    # Plain text stays, and so does a note of a release that had more words.
    assert Note.back(Note.kept("as it was")) == "as it was"
    for strange in ({"key": "notes.gone"}, {"holes": {"colour": "red"}}):
        told = Note.back({**json.loads(json.dumps(Note.kept(note))), **strange})
        assert (told, isinstance(told, Note)) == (str(note), False)
    assert isinstance(Note.why(InputError(note)), Note)
    assert Note.why(InputError("must hold")) == "must hold"
