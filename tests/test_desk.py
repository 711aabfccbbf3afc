"""The desk as people see it: a real browser, four languages, wide and on a phone; and who may."""

from __future__ import annotations

import html
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pandas as pd
import pytest
from browser import Browser, look, needs_browser
from conftest import Trained, clv, use_home
from desks import KEY, SHOTS, get, served

from serving import loader
from serving.api import Fixed
from serving.decisions import rfm, segments
from serving.desk import pictures
from serving.desk.frame import Desk, Shown, commands
from serving.desk.prepared import Inputs, Prepared, Source, Status, place
from serving.desk.preparing import prepare
from serving.desk.routes import PAGES
from serving.desk.session import Sessions
from serving.lookup import latest, newest
from serving.metrics import Metrics
from serving.views.language import LANGUAGES, words
from serving.views.retold import retold

ROOT = Path(__file__).parents[1]
#: Ids that a page, an address or a header could take for more than an id.
HOSTILE = (
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "../../health", ".",
    "%2e%2e%2f", "a&b=c#d?e;f", "{{ 7 * 7 }}", "javascript:alert(1)", "x\r\nset-cookie: a=b",
    "' OR '1'='1", "\u202egnirts", "=HYPERLINK(1)",
)  # fmt: skip
READ = {
    "start": "/", "customers": "/desk/customers?q=canary-0", "segments": "/desk/segments",
    "changes": "/desk/changes", "channels": "/desk/channels", "retention": "/desk/retention",
}  # fmt: skip


@dataclass(frozen=True)
class Shop:
    """A desk that is served: where, and what it shows."""

    url: str
    home: Path
    shown: Prepared
    metrics: Metrics
    ids: dict[str, str]  # hostile ids by those of the trained shop


def renamed(trained: Trained, data: Path) -> dict[str, str]:
    """The trained shop's data with hostile ids, and what channels cost."""
    shutil.copytree(trained.data, data)
    plain = [name for name in sorted(set(trained.orders["customer_id"])) if "canary" in name]
    ids = dict(zip(plain[5::9], HOSTILE, strict=False))
    for name in ("orders", "customers"):
        table = pd.read_parquet(data / f"{name}.parquet")
        table["customer_id"] = table["customer_id"].replace(ids)
        table.to_parquet(data / f"{name}.parquet")
    paid = sorted(set(trained.customers["acquisition_channel"]))[1:]
    months = [str(month) for month in pd.period_range("2022-01", "2025-06", freq="M")]
    spend = [{"channel": c, "month": m, "amount": 20.0 + len(c)} for c in paid for m in months]
    pd.DataFrame(spend).to_csv(data / "spend.csv", index=False)
    return ids


@pytest.fixture(scope="module")
def shop(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """Two scorings, worked out, at a free port of this process."""
    folder = tmp_path_factory.mktemp("desk")
    with pytest.MonkeyPatch.context() as patch:
        use_home(patch, trained.home)
        model = loader.load("champion")
        data = folder / "data"
        ids = renamed(trained, data)
        use_home(patch, folder / "home")
        shutil.copytree(trained.home, folder / "home", ignore=shutil.ignore_patterns("predictions"))
        for day, more in (("2025-04-01", ()), ("2025-07-01", ("--reasons", 3))):
            out = folder / f"{day}.parquet"
            ran = clv("predict", data, "--as-of", day, "--out", out, "--workers", 1, *more)
            assert ran.code == 0, ran.err
        table = newest(latest(folder / "home"))
        assert table is not None
        inputs = Inputs(table, str(data))
        prepare(inputs, place() / inputs.key())
        source = Source(latest(folder / "home"), str(data))
        assert source.current() is not None
        metrics = Metrics()
        with served(Desk(Fixed(model), Sessions(KEY, None), metrics, source)) as url:
            shown = source.current()
            assert shown is not None
            yield Shop(url, folder / "home", shown, metrics, ids)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as one:
        yield one


@needs_browser
@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("width", [1280, 390])
def test_pages_are_without_fault_in_every_language_and_width(
    shop: Shop, browser: Browser, language: str, width: int
) -> None:
    page = browser.page(width, language=language, dark=language == "nl")
    customer = shop.shown.table("rises")[0]["customer_id"]
    wanted = {**READ, "customer": "/desk/customer?" + urlencode({"id": customer}),
              "unknown": "/desk/customer?id=nobody"}  # fmt: skip
    for name, where in wanted.items():
        page.open(shop.url + where)
        assert page.read("document.documentElement.lang") == language
        if name == "unknown":
            page.console.clear()  # which names the status 404
        look(page)
        page.screenshot(SHOTS / f"{name}-{language}-{width}.png")
    page.close()


@needs_browser
def test_a_customer_is_found_and_read_and_one_goes_back(shop: Shop, browser: Browser) -> None:
    page = browser.page(language="de")
    page.open(shop.url)
    page.type("#search", "canary-00")
    page.until("document.querySelectorAll('#suggested option').length > 0")
    offered = page.read("[...document.querySelectorAll('#suggested option')].map(e => e.value)")
    assert offered == shop.shown.search("canary-00", 8)
    page.press("Enter", leaves=True)
    names = page.texts("tbody th")
    assert names == shop.shown.search("canary-00", 20)
    page.click("tbody tr:nth-child(3) a", leaves=True)
    assert names[2] in page.text("h1")
    row = shop.shown.customer(names[2])
    assert row is not None
    say, h = words("de"), shop.shown.months
    said = page.text("main").replace("\u00a0", " ")
    for amount in (row[f"clv_{h}m"], row[f"clv_{h}m_low"], row[f"clv_{h}m_high"]):
        assert say.money(amount, "EUR") in said
    assert say.percent(row[f"churn_{h}m"], 1).replace("\u00a0", " ") in said
    assert say.segment(row["segment"]) in said
    orders = shop.shown.orders(names[2])
    page.click("summary")
    assert [cell.replace("\u00a0", " ") for cell in page.texts("details tbody td")] == [
        say.money(each["amount"], "EUR") for each in reversed(orders or [])
    ]
    page.read("history.back()")
    page.until("document.querySelectorAll('tbody th').length > 3")
    assert page.texts("tbody th") == names
    page.type("#search", names[4])
    page.press("Enter", leaves=True)
    assert names[4] in page.text("h1")  # a whole id is opened at once
    page.close()


@needs_browser
def test_without_scripts_a_customer_is_found_all_the_same(shop: Shop, browser: Browser) -> None:
    page = browser.page()
    page.send("Emulation.setScriptExecutionDisabled", value=True)
    page.open(shop.url)
    page.type("#search", "canary-00")
    page.click("form.search button")
    page.until("document.querySelectorAll('tbody th a').length > 3")
    page.click("tbody tr:nth-child(2) a")
    page.until("document.querySelector('h1 .id')")
    assert page.text("h1 .id") == shop.shown.search("canary-00", 2)[1]
    page.close()


@needs_browser
def test_keys_alone_lead_everywhere_and_the_language_stays(shop: Shop, browser: Browser) -> None:
    page = browser.page(language="fr, hu;q=0.8, en;q=0.5")
    page.open(shop.url + "/desk/segments")
    assert page.read("document.documentElement.lang") == "hu"
    page.press("Tab")
    assert page.read("document.activeElement.className") == "skip"
    assert page.read("document.activeElement.getBoundingClientRect().x >= 0")
    page.press("Enter")
    page.until("document.activeElement.id === 'main'")
    outlines = []
    for _ in range(4):
        page.press("Tab")
        outlines.append(page.read("getComputedStyle(document.activeElement).outlineStyle"))
    assert set(outlines) == {"solid"}
    page.click("footer a[lang=nl]", leaves=True)
    assert page.url == shop.url + "/desk/segments"
    assert page.read("document.documentElement.lang") == "nl"
    page.open(shop.url + "/desk/channels")
    assert page.read("document.documentElement.lang") == "nl"
    assert page.pdf().startswith(b"%PDF")
    page.close()


@needs_browser
def test_hostile_ids_are_shown_as_they_are_and_do_nothing(shop: Shop, browser: Browser) -> None:
    page = browser.page()
    for name in shop.ids.values():
        page.open(shop.url + "/desk/customer?" + urlencode({"id": name}, quote_via=quote))
        assert page.read("document.querySelector('h1 .id').textContent") == name.replace("\r", "")
        assert page.read("document.querySelectorAll('main script, main img').length") == 0
        _, headers, text = get(shop.url, "/desk/customers?" + urlencode({"q": name[:1]}))
        assert "set-cookie: a" not in str(headers)
        assert not re.search(r"<(script|img)(?! src=\"/desk/)", text)
    assert page.console == []
    assert len(shop.ids) == len(HOSTILE)
    page.close()


# Without a browser


def test_every_page_has_the_headers_that_keep_it_safe(shop: Shop) -> None:
    for page in (*(one.path for one in PAGES if not one.sends), "/desk/nothing"):
        _, headers, _ = get(shop.url, page)
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; style-src 'self'; script-src 'self';"), page
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
        assert headers["cache-control"] == "no-store"
    for template in (ROOT / "serving/desk/templates").glob("*.html"):
        text = template.read_text(encoding="utf-8")
        assert not re.search(r"\|\s*safe|\sstyle=|\son\w+=|https?://|<style|\bautoescape\b", text)
        assert not re.search(r"<script(?! src=)", text), template


def test_the_api_beside_is_as_before(shop: Shop) -> None:
    status, _, text = get(shop.url, "/nothing")
    assert (status, json.loads(text)["error"]["type"]) == (404, "no_such_route")
    assert get(shop.url, "/v1/predict")[0] == 405
    assert get(shop.url, "/health")[0] == 200


@pytest.mark.parametrize(
    ("place", "status"),
    [("/desk/nothing", 404), ("/desk/", 404), ("/desk/static/../frame.py", 404),
     ("/desk/static/desk.py", 404), ("/desk/static/..%2fframe.py", 404),
     ("/desk/customer?id=%ff%fe", 404), ("/desk/customer?id=%00", 404), ("/desk/customer", 404),
     ("/desk/customers?q=" + "a" * 3_000, 200), ("/desk/leave", 405),
     ("/desk/customers?q=%ed%a0%80", 200), ("/desk/segments?place=1&visit=2&self=3", 200),
     ("/desk/segments?place=1&language=de", 303), ("/?" + "&".join("abcdefgh") * 900, 200),
     ("/desk/suggest?q=%22%3E", 200)],
)  # fmt: skip
def test_odd_addresses_are_answered_in_peace(shop: Shop, place: str, status: int) -> None:
    found, _, text = get(shop.url, place)
    assert found == status
    assert "Traceback" not in text


def test_numbers_are_those_of_the_tables(shop: Shop) -> None:
    say = words("en")
    text = get(shop.url, "/")[2].replace("\u00a0", " ")
    figures = {each["figure"]: each for each in shop.shown.table("figures")}
    value = figures[f"clv_{shop.shown.months}m"]
    for amount in (value["value"], value["low"], value["high"]):
        assert f"{say.number(amount)} EUR" in text
    for row in shop.shown.table("segments"):
        assert say.number(row["customers"]) in text
    rows = get(shop.url, "/desk/channels")[2]
    for row in shop.shown.table("channels"):
        if row["cohort"] == "All" and row["cac"] is not None:
            assert say.number(row["cac"], 2) in rows


def test_what_is_missing_says_what_to_add(trained: Trained, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        use_home(patch, trained.home)
        model = Fixed(loader.load("champion"))
    with served(Desk(model, Sessions(KEY, None), Metrics())) as url:
        for page in READ.values():
            status, _, text = get(url, page)
            assert status == 200
            assert "clv serve --predictions latest" in text
    with pytest.MonkeyPatch.context() as patch:
        use_home(patch, tmp_path)
        source = Source(latest(tmp_path), None)
        with served(Desk(model, Sessions(KEY, None), Metrics(), source)) as url:
            assert "clv predict" in get(url, "/")[2]


def test_tables_without_orders_say_which_option_brings_them(shop: Shop) -> None:
    table = newest(latest(shop.home))
    assert table is not None
    inputs = Inputs(table)
    prepare(inputs, place() / inputs.key())
    source = Source(table)
    live = Fixed(loader.load("champion"))
    with served(Desk(live, Sessions(KEY, None), Metrics(), source)) as url:
        for page in ("/", "/desk/channels", "/desk/retention", "/desk/customer?id=007"):
            assert "clv serve --data DATA" in get(url, page)[2], page
        assert "value" in get(url, "/desk/segments")[2]


@dataclass
class Standing:
    """A source that stands as a test wants it to."""

    shown: Prepared | None
    state: Status

    def current(self) -> Prepared | None:
        if self.state.message == "canary":
            raise ValueError("canary")
        return self.shown

    def status(self) -> Status:
        return self.state


def test_how_it_stands_is_told_beside_the_figures(shop: Shop) -> None:
    why = "predictions.csv <must> be readable."
    live = Fixed(loader.load("champion"))
    for shown in (None, shop.shown):
        for state in (Status("nothing"), Status("preparing"), Status("failed", why)):
            source: Any = Standing(shown, state)
            with served(Desk(live, Sessions(KEY, None), Metrics(), source)) as url:
                for language in LANGUAGES:
                    status, _, text = get(url, "/", accept_language=language)
                    assert status == 200
                    assert (html.escape(why) in text) == (state.state == "failed")
                    said = words(language)
                    if shown is None and state.state != "failed":
                        assert html.escape(said(f"desk.waiting.{state.state}")[:40]) in text
                    elif shown is not None and state.state == "preparing":
                        assert said("desk.notice.preparing", date=said.date(shown.as_of)) in text


def test_a_fault_of_ours_is_told_without_a_word_of_it(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    source: Any = Standing(None, Status("failed", "canary"))
    live = Fixed(loader.load("champion"))
    with served(Desk(live, Sessions(KEY, None), Metrics(), source)) as url:
        status, headers, text = get(url, "/desk/customer?id=canary-001", accept_language="nl")
    assert (status, headers["cache-control"]) == (500, "no-store")
    assert words("nl")("desk.refused.fault") in text
    assert "canary" not in text.replace("id=canary-001", "") + caplog.text
    assert "our fault: ValueError" in caplog.text


def test_counters_and_logs_name_pages_and_no_customer(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    for where in ("/desk/customer?id=canary-001", "/desk/customers?q=canary-0", "/desk/canary-1"):
        get(shop.url, where)
    told = shop.metrics.text({"version": "1"})
    assert "/desk/customer" in told
    assert "canary" not in told + caplog.text


# Words


def test_reasons_are_told_again_in_every_language(shop: Shop) -> None:
    catalogue = loader.load("champion").model.catalogue
    lines = [
        line for name in shop.shown.search("", 400)
        for line in (shop.shown.customer(name) or {})["reasons"]
    ]  # fmt: skip
    assert len(lines) > 500
    for language in LANGUAGES:
        told = [retold(line, catalogue, language, "EUR") for line in lines]
        back = [
            retold({**line, "text": text}, catalogue, "en", "EUR")
            for line, text in zip(lines, told, strict=True)
        ]
        assert back == [line["text"] for line in lines]
        same = sum(a == line["text"] for a, line in zip(told, lines, strict=True))
        assert same == (len(lines) if language == "en" else 0), language
    odd = {"feature": "orders", "money": 1.0, "text": "<b>hand written 12</b>"}
    assert retold(odd, catalogue, "de", "EUR") == odd["text"]
    assert retold({}, catalogue, "de", "EUR") == ""


def test_every_word_of_the_desk_is_used() -> None:
    texts = "".join(
        path.read_text(encoding="utf-8")
        for path in (ROOT / "serving/desk").rglob("*")
        if path.suffix in (".py", ".html")
    )
    for key in words("en").templates:
        if key.startswith("desk.lacking."):  # asked for by the code of a reason
            assert f'"{key.rpartition(".")[2]}"' in texts, key
        elif key.startswith("desk.steps."):  # instead of a step that names a command
            assert "clv " in words("en")(key.removeprefix("desk.")), key
        elif key.startswith("desk."):
            assert key in texts, key


def test_steps_on_a_page_name_no_command() -> None:
    for language in LANGUAGES:
        show = Shown(words(language), "EUR")
        for name in segments.STEPS | rfm.STEPS:
            assert show.step(name)
            assert "clv" not in show.step(name)
        assert show.segment("<Mine>") == "<Mine>"
        assert show.step("<Mine>") == ""


def test_commands_in_a_text_are_set_apart_and_nothing_else() -> None:
    made = commands("<i> Start: clv serve --predictions latest, or clv predict DATA --out FILE")
    assert made == (
        "&lt;i&gt; Start: <code>clv serve --predictions latest</code>, or "
        "<code>clv predict DATA --out FILE</code>"
    )
    assert commands("a & b") == "a &amp; b"


def test_a_picture_of_orders_has_its_marks_where_they_belong() -> None:
    orders = [{"date": "2024-07-01", "amount": 100.0}, {"date": "2025-01-01", "amount": -50.0},
              {"date": "2025-07-01", "amount": 25.0}]  # fmt: skip
    drawn = pictures.history(orders, "2025-07-01")
    assert drawn is not None
    assert (drawn.begin, drawn.end, drawn.largest) == ("2024-07-01", "2025-07-01", 100.0)
    up, back, last = drawn.bars
    assert [each.back for each in drawn.bars] == [False, True, False]
    assert up.height == pytest.approx(2 * back.height) == pytest.approx(4 * last.height)
    assert up.y + up.height == pytest.approx(drawn.line) == pytest.approx(back.y)
    assert (back.x - up.x) / (last.x - up.x) == pytest.approx(184 / 365)
    assert [year for _, year in drawn.years] == [2025]
    assert pictures.history([], "2025-07-01") is None
    one = pictures.history([{"date": "2025-06-30", "amount": 0.0}], "2025-07-01T00:00:00")
    assert one is not None
    assert one.begin == "2024-07-01"


def test_a_picture_of_intervals_is_on_one_scale() -> None:
    drawn = pictures.spans([("a", 50.0, 40.0, 100.0, None), ("b", -5.0, None, None, 25.0)])
    assert [(e.middle, e.low, e.high, e.mark) for e in drawn] == [
        (0.5, 0.4, 1.0, None), (0.0, None, None, 0.25),
    ]  # fmt: skip
    assert pictures.spans([]) == []
