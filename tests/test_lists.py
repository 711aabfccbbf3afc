"""Lists built at the desk: those of the command byte for byte, kept whole, handed out on record."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import clv, use_home
from hypothesis import given
from hypothesis import strategies as st
from waiting_desk import AS_OF, HOSTILE, N, lifted, predictions, prepared, write

from features import tables
from features.errors import InputError
from features.settings import load
from features.store import Store
from serving.decisions import files, listing, targets
from serving.decisions.files import FORMULA
from serving.decisions.known import OfStore
from serving.decisions.listing import List
from serving.desk import choosing, saved
from serving.desk.lists import Choices, compose, left_out
from serving.desk.prepared import Prepared
from serving.views.language import LANGUAGES, words


@dataclass(frozen=True)
class Shop:
    folder: Path
    shown: Prepared
    uplift: Path  # the folder of its model

    @property
    def file(self) -> Path:
        return self.folder / "data" / "clv.toml"

    def compose(self, choices: Choices) -> tuple[List, Any]:
        return compose(self.shown, choices, load(self.file), self.file)

    def command(self, choices: Choices, out: Path) -> list[str]:
        data, table = str(self.folder / "data"), str(self.folder / "p.csv")
        months = choices.horizon or 3
        return choices.command(data, table, str(out), months, str(self.uplift))[1:]

    def save(self, name: str, choices: Choices, who: str = "anna") -> saved.Saved:
        made, asked = self.compose(choices)
        return saved.save(name, made, asked, choices, self.shown, who)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("lists")
    write(folder)
    with pytest.MonkeyPatch.context() as patch:
        use_home(patch, folder / "home")
        model = lifted(folder)
        yield Shop(folder, prepared(folder, model), model)


@pytest.fixture(scope="module")
def store(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The data as every command reads them."""
    work = tmp_path_factory.mktemp("store")
    return Store.of(tables.ingest(str(shop.folder / "data"), load(shop.file), work))


@pytest.fixture
def read_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the commands reading the same data again."""
    monkeypatch.setattr(listing, "read", lambda *_: contextlib.nullcontext((store, None)))


@pytest.fixture(autouse=True)
def empty(shop: Shop) -> Iterator[None]:
    """No list, and no line in the audit file."""
    yield
    shutil.rmtree(saved.place(), ignore_errors=True)
    (shop.folder / "home" / "audit.jsonl").unlink(missing_ok=True)


def audited(shop: Shop) -> list[dict[str, Any]]:
    file = shop.folder / "home" / "audit.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


# The same list as the command's

CHOICES = {
    "plain": Choices(top=80),
    "all of them": Choices(top=10_000, offer_cost=0.0, control=0.0),
    "filters": Choices(
        top=30, segment=("Grow", "Win over"), churn_from=0.3, churn_to=0.95, value_from=1.5,
        value_to=200.0, acquisition_channel=('a "b"', "o'c"), country=("DE",),
        evidence=("full", "thin"), older=30, newer=600, offer_cost=0.01,
    ),
    "consent and exclusions": Choices(
        top=50, consent="email", contacted=30, churned=True, offer="-5 %; now", seed=7,
        campaign="Spring", control=0.25, horizon=12,
    ),
    "budget": Choices(budget=20.0, offer_cost=0.4, control=0.2, on="2025-02-01", campaign="B"),
    "win back": Choices(ranking="winback", top=40, offer_cost=0.0, horizon=12),
    "prospects": Choices(ranking="prospects", top=25, offer_cost=0.0, country=("AT", "DE")),
    "uplift": Choices(ranking="uplift", top=90, country=("DE",), campaign="Again", horizon=12),
}  # fmt: skip


#: Of customers whose ids begin like no formula.
PLAIN = Choices(top=30, segment=("Grow",), country=("DE",), offer_cost=0.0, campaign="Spring")


@pytest.mark.parametrize("name", CHOICES)
def test_a_list_is_that_of_the_command_byte_for_byte(
    shop: Shop, tmp_path: Path, name: str, request: pytest.FixtureRequest
) -> None:
    choices = CHOICES[name]
    if name != "filters":
        request.getfixturevalue("read_once")
    assert Choices.of(json.loads(json.dumps(choices.as_dict()))) == choices
    kept = shop.save("one", choices)
    line = shop.command(choices, tmp_path / "list.csv")
    measured = bool(choices.campaign)
    if measured:
        line += ["--contacts-out", str(tmp_path / "contacts.csv")]
    ran = clv(*line, "--json")
    assert ran.code == 0, ran.err
    assert (kept.folder / "list.csv").read_bytes() == (tmp_path / "list.csv").read_bytes()
    assert (kept.folder / "contacts.csv").exists() == measured
    if measured:
        raw = (kept.folder / "contacts.csv").read_bytes()
        assert raw == (tmp_path / "contacts.csv").read_bytes()
    told = ran.json
    for key in ("listed", "treatment", "control", "cost", "expected_gain", "expected_gain_low",
                "left_out", "basis", "span"):  # fmt: skip
        assert kept.about[key] == told[key], key
    made, _ = shop.compose(choices)
    assert sum(left_out(made).values()) + told["listed"] == N


@pytest.mark.usefixtures("read_once")
@pytest.mark.parametrize("form", ["google", "meta", "klaviyo"])
def test_a_file_for_a_platform_is_that_of_the_command(
    shop: Shop, tmp_path: Path, form: str
) -> None:
    choices = Choices(top=60, kind=form, offer_cost=0.0)
    line = shop.command(choices, tmp_path / "a.csv")
    assert clv(*line).code == 0
    kept = shop.save(form, choices)
    assert saved.download(kept, form, shop.shown, "anna") == (tmp_path / "a.csv").read_bytes()


@pytest.mark.usefixtures("read_once")
def test_a_worksheet_is_that_of_the_command_and_made_once(shop: Shop, tmp_path: Path) -> None:
    choices = Choices(top=60)
    assert clv(*shop.command(choices, tmp_path / "a.xlsx")).code == 0
    kept = shop.save("one", choices)
    wanted = (tmp_path / "a.xlsx").read_bytes()
    for _ in range(2):
        assert saved.download(kept, "xlsx", None, "anna") == wanted


def test_filters_are_those_of_a_plain_loop(shop: Shop) -> None:
    choices = replace(CHOICES["filters"], top=10_000, contacted=90, consent="ads")
    made, _ = shop.compose(choices)
    data = shop.folder / "data"
    people = pd.read_parquet(data / "customers.parquet").set_index("customer_id")
    last = pd.read_parquet(data / "orders.parquet").groupby("customer_id")["order_ts"].max()
    met = pd.read_parquet(data / "contacts.parquet").set_index("customer_id")["ts"]
    wanted = {}
    for row in predictions().to_dict("records"):
        name = row["customer_id"]
        days = (pd.Timestamp(AS_OF) - last[name]) / pd.Timedelta(days=1) if name in last else None
        gain = 0.1 * row["churn_3m"] * (row["clv_3m"] + 1.0) / max(1 - row["churn_3m"], 1e-6) - 0.01
        if (
            row["segment"] in choices.segment and 0.3 <= row["churn_3m"] <= 0.95
            and 1.5 <= row["clv_3m"] <= 200 and people["country"][name] == "DE"
            and people["acquisition_channel"][name] in choices.acquisition_channel
            and row["evidence"] in ("full", "thin") and days is not None and 30 <= days <= 600
            and people["consent_ads"][name] == "true" and gain > 0
            and not (name in met.index and met[name] >= "2024-10-03")
        ):  # fmt: skip
            wanted[name] = gain
    assert len(wanted) > 5
    found = made.chosen.frame
    assert found["customer_id"].tolist() == sorted(wanted, key=lambda each: -wanted[each])
    assert found["gain"].tolist() == pytest.approx([wanted[n] for n in found["customer_id"]])


@pytest.mark.usefixtures("read_once")
def test_what_the_command_refuses_the_desk_refuses_alike(shop: Shop, tmp_path: Path) -> None:
    for choices, words_of in (
        (Choices(top=5, offer_cost=1e9), "Somebody must be left to contact"),
        (Choices(top=5, value_from=1e9, ranking="winback"), "Somebody must be left to contact"),
        (Choices(top=5, consent="fax"), "must have the column 'consent_fax'"),
        (Choices(top=5, control=1.0), "--control must be a share"),
        (Choices(), "--top N or --budget B"),
        (Choices(top=5, kind="fax"), "--format must be"),
    ):
        with pytest.raises(InputError, match=words_of):
            shop.compose(choices)
        if choices.ranking != "keep" or choices.consent:
            ran = clv(*shop.command(choices, tmp_path / "x.csv"))
            assert (ran.code, words_of in ran.err) == (2, True)
    for wrong in ({"ranking": "fax"}, {"rank": 1}):
        with pytest.raises(InputError, match="must be asked for by"):
            Choices.of(wrong)


def test_a_ranking_by_uplift_needs_a_model(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    choices = CHOICES["uplift"]
    words_of = choices.command("DATA", "P", "list.csv", 12)
    assert words_of[-1] == "--uplift=FOLDER"
    monkeypatch.delitem(shop.shown.tables, "uplift")
    with pytest.raises(InputError, match=r"Start the service with --uplift FOLDER"):
        shop.compose(choices)


# Conditions of the command


@pytest.mark.parametrize(("text", "told"), [
    ("churn_3m", "--where: a condition must be COLUMN"), ("churn_3m >= x", "written as TOML"),
    ("segment in []", "takes a list of texts"), ("colour == 1", "Got 'colour'"),
])  # fmt: skip
def test_conditions_that_are_none_are_refused(store: Store, text: str, told: str) -> None:
    table = predictions()
    with pytest.raises(InputError, match=told):
        targets.wanted([text], table, OfStore(store, table["customer_id"], AS_OF))


@pytest.mark.usefixtures("read_once")
def test_conditions_ask_predictions_attributes_and_features(shop: Shop, tmp_path: Path) -> None:
    out = tmp_path / "x.csv"
    ran = clv(*shop.command(Choices(top=500, offer_cost=0.0), out), "--where", "orders >= 2",
              "--where", 'country != "AT"', "--where", "clv_12m > 20")  # fmt: skip
    assert ran.code == 0, ran.err
    table = predictions().set_index("customer_id")
    people = pd.read_parquet(shop.folder / "data" / "customers.parquet").set_index("customer_id")
    some = (table["clv_12m"] > 20) & (table["evidence"] != "cold_start")
    some &= people.loc[table.index, "country"] != "AT"
    assert len(pd.read_csv(out)) == some.sum() > 20


# Saved lists


@pytest.mark.parametrize("name", [
    "", ".", "..", "a/b", "../x", "a b", "-x", "_x", "x" * 61, "ä", "a.csv", "a\n", "a\x00b",
    ".new-1", "%2e", "CON:", "a\\b",
])  # fmt: skip
def test_names_that_are_none_are_refused_and_found_nowhere(shop: Shop, name: str) -> None:
    with pytest.raises(InputError, match="must be letters, digits"):
        shop.save(name, Choices(top=5))
    assert saved.find(name) is None
    assert saved.every() == []


def test_the_second_of_a_name_is_told_and_the_first_stays(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = shop.save("Spring", Choices(top=5), "anna")
    before = {path.name: path.read_bytes() for path in first.folder.iterdir()}
    for name in ("Spring", "SPRING"):
        with pytest.raises(InputError, match="which is taken"):
            shop.save(name, Choices(top=9), "ben")
    # Both have looked before either has written.
    looks = iter([False, True])
    monkeypatch.setattr(saved, "taken", lambda _: next(looks))
    with pytest.raises(InputError, match="which is taken"):
        shop.save("Spring", Choices(top=9), "ben")
    found = saved.find("Spring")
    assert found is not None
    assert (found.about["who"], found.choices) == ("anna", Choices(top=5))
    assert {path.name: path.read_bytes() for path in found.folder.iterdir()} == before
    assert [path.name for path in saved.place().iterdir()] == ["Spring"]


def test_a_list_that_cannot_be_written_whole_is_not_there(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saved, "write", full)
    with pytest.raises(InputError, match=r"must be writable. Got 'No space left on device'"):
        shop.save("one", Choices(top=5))
    assert list(saved.place().iterdir()) == []


def test_lists_are_found_newest_first_and_what_is_none_is_passed_over(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    for k, name in enumerate(["b", "a", "c"]):
        kept = shop.save(name, Choices(top=5))
        about = dict(kept.about) | {"when": f"2025-01-0{k + 1}T00:00:00+00:00"}
        (kept.folder / "about.json").write_text(json.dumps(about))
    (saved.place() / "torn").mkdir()
    (saved.place() / "torn" / "about.json").write_text('{"name": ')
    (saved.place() / "list").write_text("no folder")
    assert [one.name for one in saved.every()] == ["c", "a", "b"]


def test_downloads_and_deletions_leave_a_line_without_any_customer(shop: Shop) -> None:
    kept = shop.save("one", PLAIN)
    for form in kept.forms:
        saved.download(kept, form, shop.shown, "anna")
    saved.delete(kept, "ben")
    assert saved.find("one") is None
    assert list(saved.place().iterdir()) == []
    lines = audited(shop)
    assert [line["action"] for line in lines] == ["list_downloaded"] * 6 + ["list_deleted"]
    assert [line.get("format") for line in lines[:6]] == [
        "csv", "xlsx", "google", "meta", "klaviyo", "contacts",
    ]  # fmt: skip
    assert {line["list"] for line in lines} == {"one"}
    assert {(line["who"], line["as_of"], line["predictions"]) for line in lines[:6]} == {
        ("anna", AS_OF, "7")
    }
    assert lines[0]["rows"] == 30 > lines[2]["rows"] > 0
    text = json.dumps(lines)
    assert not [name for name in predictions()["customer_id"] if f'"{name}"' in text]
    assert "@" not in text


def test_nothing_is_handed_out_where_no_line_can_be_left(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = shop.save("one", Choices(top=5))
    (shop.folder / "home" / "audit.jsonl").mkdir()
    try:
        with pytest.raises(InputError, match="nothing was handed out"):
            saved.download(kept, "csv", None, "anna")
        with pytest.raises(InputError, match="the list stays"):
            saved.delete(kept, "anna")
    finally:
        (shop.folder / "home" / "audit.jsonl").rmdir()
    assert saved.find("one") is not None


def test_a_worksheet_is_made_once_of_two_downloads_at_a_time_and_has_a_bound(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, made, wrote = shop.save("one", Choices(top=20)), [], files.write

    def slowly(frame: pd.DataFrame, out: Path, *more: Any) -> None:
        made.append(out)
        time.sleep(0.2)  # long enough for the other one to look
        wrote(frame, out, *more)

    monkeypatch.setattr(files, "write", slowly)
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda who: saved.download(kept, "xlsx", None, who), ("a", "b")))
    assert both[0] == both[1]
    assert len(made) == 1
    monkeypatch.setattr(saved, "SHEET", 19)
    with pytest.raises(InputError, match=r"takes 19 rows\. Got 20\. Take the list as CSV"):
        saved.download(kept, "xlsx", None, "a")


def test_a_list_that_cannot_be_read_is_told_in_one_line(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = shop.save("one", Choices(top=20, campaign="Spring"))
    with monkeypatch.context() as patch:
        patch.setattr(
            shutil, "copyfile", lambda *_: os.write(os.open("/dev/full", os.O_WRONLY), b"x")
        )
        with pytest.raises(InputError, match="Got 'No space left on device' for the list 'one'"):
            saved.download(kept, "csv", None, "anna")
    saved.delete(kept, "anna")
    for form in ("csv", "xlsx", "meta", "contacts"):
        with pytest.raises(InputError, match=r"The files of a list must be there|had as"):
            saved.download(kept, form, shop.shown, "anna")
    assert list(saved.place().iterdir()) == []  # and nothing brings it back


def test_choices_of_another_release_are_refused(shop: Shop) -> None:
    kept = shop.save("one", Choices(top=20))
    for choices in ({"top": 5, "colour": "red"}, {"ranking": "fax"}, None, [1]):
        about = dict(kept.about) | {"choices": choices}
        (kept.folder / "about.json").write_text(json.dumps(about))
        found = saved.find("one")
        assert found is not None
        with pytest.raises(InputError, match="Build it anew"):
            _ = found.choices


def test_consent_that_was_taken_back_counts_at_the_download(shop: Shop) -> None:
    kept = shop.save("one", Choices(top=60, kind="klaviyo", offer_cost=0.0))
    treated = pd.read_csv(kept.folder / "list.csv").query("arm == 'treatment'")

    class Less:
        """Of the same customers, of whom one agrees no longer."""

        names, zone = shop.shown.names, shop.shown.zone

        def attributes(self, columns: Any, some: Any = None) -> pd.DataFrame:
            found = shop.shown.attributes(columns, some)
            if "consent_email" in found:
                found.loc[0, "consent_email"] = "no"
            return found

    raw = saved.download(kept, "klaviyo", Less(), "anna")  # type: ignore[arg-type]
    assert raw.count(b"\n") - 1 == len(treated) - 1
    with pytest.raises(InputError, match="needs the table customers"):
        saved.download(kept, "klaviyo", None, "anna")
    with pytest.raises(InputError, match="A list is had as"):
        saved.download(kept, "../about", None, "anna")


def test_hostile_ids_start_no_formula_in_any_file(shop: Shop) -> None:
    kept = shop.save("one", Choices(top=10_000, offer_cost=0.0, campaign="=1+1", offer="@x"))
    listed = {row["customer_id"] for row in _rows(saved.download(kept, "csv", None, "a"))}
    assert len({name for name in HOSTILE if f"'{name}" in listed}) >= 4
    for form in ("csv", "google", "meta", "klaviyo"):
        for row in _rows(saved.download(kept, form, shop.shown, "a")):
            for cell in row.values():
                assert not cell.startswith(FORMULA) or _number(cell), (form, cell)


def test_contacts_that_begin_like_a_formula_are_had_by_command_only(shop: Shop) -> None:
    for name, choices in (
        ("ids", Choices(top=10_000, offer_cost=0.0, campaign="Spring")),
        ("campaign", Choices(top=10, campaign="@SUM(1)")),
        ("offer", Choices(top=10, campaign="Spring", offer="-5 %")),
    ):
        kept = shop.save(name, choices)
        with pytest.raises(InputError, match=r"by command: clv target \.\.\. --contacts-out"):
            saved.download(kept, "contacts", shop.shown, "anna")
    assert audited(shop) == []
    plain = shop.save("plain", PLAIN)
    raw = saved.download(plain, "contacts", shop.shown, "anna")
    assert raw == (plain.folder / "contacts.csv").read_bytes()


def test_a_preview_for_a_platform_looks_at_consent_and_makes_no_file(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("the file is made at the download")

    monkeypatch.setattr(listing, "audience_of", never)
    made, asked = shop.compose(Choices(top=500, kind="meta", offer_cost=0.0))
    people = pd.read_parquet(shop.folder / "data" / "customers.parquet").set_index("customer_id")
    assert (people["consent_ads"][made.chosen.frame["customer_id"]] == "true").all()
    assert (made.audience, asked.kind) == (None, "meta")


def _rows(raw: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(raw.decode(), newline="")))


def _number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def test_who_is_erased_is_taken_out_of_lists(shop: Shop) -> None:
    kept = shop.save("one", Choices(top=50, campaign="Spring"))
    saved.download(kept, "xlsx", None, "anna")
    table = files.read(kept.folder / "list.csv")
    gone = set(table["customer_id"].head(2))
    assert saved.forget(gone) == 2
    assert saved.forget(gone) == 0
    for path in kept.folder.iterdir():
        raw = path.read_bytes()
        assert not [name for name in gone if name.encode() in raw], path.name
    again = saved.find("one")
    assert again is not None
    assert again.about["rows"] == 48
    assert len(files.read(kept.folder / "list.csv")) == 48
    assert len(files.read(kept.folder / "contacts.csv")) == 48
    assert len(_rows(saved.download(again, "csv", None, "anna"))) == 48


class KilledError(Exception):
    """As a kill would end it."""


@pytest.mark.parametrize("step", range(5))
def test_an_erasure_that_is_killed_is_done_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    kept = shop.save("one", Choices(top=50, campaign="Spring"))
    saved.download(kept, "xlsx", None, "anna")
    gone = set(files.read(kept.folder / "list.csv")["customer_id"].head(2))
    (kept.folder / ".list.xlsx.rest.tmp").write_text(str(gone))
    left, replaced = [step], Path.replace

    def replace_(path: Path, target: Path) -> Path:
        if left[0] == 0:
            raise KilledError
        left[0] -= 1
        return replaced(path, target)

    with monkeypatch.context() as patch, contextlib.suppress(KilledError):
        patch.setattr(Path, "replace", replace_)
        saved.forget(gone)
    # Somebody takes a worksheet before it is done again.
    found = saved.find("one")
    assert found is not None
    saved.download(found, "xlsx", None, "ben")
    assert saved.forget(gone) == (2 if step < 4 else 0)
    for path in kept.folder.iterdir():
        raw = path.read_bytes()
        assert not [name for name in gone if name.encode() in raw], path.name
    table = files.read(kept.folder / "list.csv")
    assert json.loads((kept.folder / "about.json").read_text())["rows"] == len(table) == 48
    assert not (kept.folder / "list.xlsx").exists() or step == 4


# The form


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", CHOICES)
def test_a_form_filled_from_choices_makes_them_again(shop: Shop, name: str, language: str) -> None:
    choices, say = CHOICES[name], words(language)
    choices = replace(choices, offer=choices.offer.removeprefix("-"))  # which is refused
    form = choosing.blank(choices, say)
    query = dict(form.text)
    for field, values in form.ticked.items():
        query |= {f"{field}.{value}": "1" for value in values}
    found, again = choosing.read(query, shop.shown, say)
    assert again.wrong == {}
    assert found == choices


@pytest.mark.parametrize(("field", "text"), [
    ("top", ""), ("top", "0"), ("top", "1.5"), ("top", "many"), ("churn_from", "101"),
    ("churn_to", "-1"), ("control", "100"), ("value_from", "1e5"), ("value_to", "NaN"),
    ("offer_cost", "-1"), ("older", "-3"), ("newer", "2.5"), ("on", "31.01.2025"),
    ("on", "2025-02-30"), ("ranking", "fax"), ("consent", "fax"), ("kind", "fax"),
    ("horizon", "5"), ("seed", "x"), ("contacted", "1" * 40), ("top", "1000001"),
    ("control", "90.1"), ("control", "99.99999999999999"), ("campaign", "=1+1"), ("offer", "-5 %"),
    ("campaign", "\uff1d1"),
])  # fmt: skip
def test_what_is_wrong_is_said_at_its_field(shop: Shop, field: str, text: str) -> None:
    for language in LANGUAGES:
        say = words(language)
        _, form = choosing.read({"top": "5", "control": "10", field: text}, shop.shown, say)
        assert list(form.wrong) == [field]
        assert form.wrong[field] in {t.text for t in say.templates.values()}
        assert form.text[field] == text[:100]


def test_bounds_that_cross_and_a_missing_budget_are_said(shop: Shop) -> None:
    say = words("en")
    crossed = {"top": "5", "churn_from": "50", "churn_to": "40", "older": "9", "newer": "8"}
    assert set(choosing.read(crossed, shop.shown, say)[1].wrong) == {"churn_to", "newer"}
    for text in ("", "0", "-1"):
        _, form = choosing.read({"size": "budget", "budget": text}, shop.shown, say)
        assert set(form.wrong) == {"budget"}
    sent = {"top": "5", "segment.Nobody": "1", "segment.Grow": "1", "segment.": "1"}
    assert choosing.read(sent, shop.shown, say)[0].segment == ("Grow",)


@given(st.integers(0, 10**9), st.integers(0, 99), st.sampled_from(LANGUAGES))
def test_numbers_are_read_as_people_of_the_language_write_them(
    whole: int, cents: int, language: str
) -> None:
    say = words(language)
    value = float(f"{whole}.{cents:02d}")
    group, decimal = say("form.group"), say("form.decimal")
    for text in (say.number(value, 2), f"{value:.2f}".replace(".", decimal), f"{value:.2f}"):
        assert choosing._number(text, group, decimal) == value, text
    assert choosing._number(say.number(float(whole)), group, decimal) == whole


@pytest.mark.parametrize(
    "text", ["", "1e3", "inf", "nan", "0x1", "1,2,3", "1..2", "--1", "\uff11", "1_0"]
)
def test_what_is_no_number_is_none(text: str) -> None:
    for language in LANGUAGES:
        say = words(language)
        assert choosing._number(text, say("form.group"), say("form.decimal")) is None


def test_figures_of_a_list_are_sums_of_its_rows(shop: Shop) -> None:
    made, _ = shop.compose(Choices(top=100))
    treated = made.chosen.treated
    value, low, high = made.worth
    assert value == pytest.approx(treated["clv_3m"].sum())
    assert low < value < high
    assert made.chosen.gain[0] == pytest.approx(treated["gain"].sum())
    assert made.chosen.cost == pytest.approx(0.5 * len(treated))
    assert np.isfinite([low, high]).all()
