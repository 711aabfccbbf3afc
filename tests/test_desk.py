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
from desks import KEY, SHOTS, figures, get, served, tables

from serving import loader, tokens
from serving.api import Fixed
from serving.decisions import rfm, segments
from serving.decisions.report import Report
from serving.desk import gallery, pictures
from serving.desk.frame import Desk, Shown, arguments, commands, soft
from serving.desk.prepared import Inputs, Prepared, Source, Status, place
from serving.desk.preparing import prepare
from serving.desk.routes import PAGES
from serving.desk.session import COOKIE, Sessions
from serving.lookup import latest, newest
from serving.metrics import Metrics
from serving.views.language import LANGUAGES, Note, words
from serving.views.pictures import Drawing, drawings
from serving.views.retold import retold
from serving.views.shown import kind
from training import drawing

ROOT = Path(__file__).parents[1]
#: Ids that a page, an address or a header could take for more than an id.
#: The language whose pictures are drawn: that of the longest words.
DRAWN = "hu"
HOSTILE = (
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "../../health", ".",
    "%2e%2e%2f", "a&b=c#d?e;f", "{{ 7 * 7 }}", "javascript:alert(1)", "x\r\nset-cookie: a=b",
    "' OR '1'='1", "\u202egnirts", "=HYPERLINK(1)",
)  # fmt: skip
READ = {
    "start": "/", "customers": "/desk/customers?q=canary-0", "segments": "/desk/segments",
    "changes": "/desk/changes", "channels": "/desk/channels", "retention": "/desk/retention",
    "model": "/desk/model",
}  # fmt: skip
#: Pictures on each page.
PICTURES = {"start": 1, "segments": 2, "channels": 1, "retention": 1, "model": 4}


@dataclass(frozen=True)
class Shop:
    """A desk that is served: where, and what it shows."""

    url: str
    home: Path
    data: Path
    table: Path  # the predictions
    shown: Prepared
    metrics: Metrics
    ids: dict[str, str]  # hostile ids by those of the trained shop
    report: Report  # that the pictures were drawn from


def renamed(trained: Trained, data: Path) -> dict[str, str]:
    """The trained shop's data with hostile ids, and what channels cost."""
    shutil.copytree(trained.data, data)
    plain = [name for name in sorted(set(trained.orders["customer_id"])) if "canary" in name]
    ids = dict(zip(plain[5::9], HOSTILE, strict=False))
    for name in ("orders", "customers"):
        table = pd.read_parquet(data / f"{name}.parquet")
        table["customer_id"] = table["customer_id"].replace(ids)
        if name == "orders":
            goods = pd.Series(("Tea & cake", "Toys", "Wine", "<Books>"))
            table["category"] = goods[(table["amount"] * 100).astype(int) % 4].to_numpy()
        table.to_parquet(data / f"{name}.parquet")
    paid = sorted(set(trained.customers["acquisition_channel"]))[1:]
    months = [str(month) for month in pd.period_range("2022-01", "2025-06", freq="M")]
    spend = [{"channel": c, "month": m, "amount": 20.0 + len(c)} for c in paid for m in months]
    pd.DataFrame(spend).to_csv(data / "spend.csv", index=False)
    return ids


def seen(patch: pytest.MonkeyPatch) -> list[Report]:
    """The reports that pictures are drawn of, from here on."""
    reports, plain = [], gallery.draw

    def draw(made: Report, *rest: Any) -> None:
        reports.append(made)
        plain(made, *rest)

    patch.setattr(gallery, "draw", draw)
    return reports


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
        drawn = seen(patch)
        prepare(inputs, place() / inputs.key(), [DRAWN])
        source = Source(latest(folder / "home"), str(data))
        assert source.current() is not None
        metrics = Metrics()
        with served(Desk(Fixed(model), Sessions(KEY, None), metrics, source)) as url:
            shown = source.current()
            assert shown is not None
            yield Shop(url, folder / "home", data, table, shown, metrics, ids, drawn[0])


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
        told = page.read(
            "Promise.all([...document.images].map(e => { e.loading = 'eager'; "
            "return e.decode().then(() => [e.naturalWidth / e.naturalHeight, e.width / e.height])"
            "}))"
        )
        assert len(told) == (PICTURES.get(name, 0) if language == DRAWN else 0)
        for whole, kept in told:  # drawn, and no line of the page moved for it
            assert kept == pytest.approx(whole, abs=0.02)
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


class Held:
    """Cells of pages held against numbers of files, by the way of writing of a language."""

    def __init__(self, shop: Shop, folder: Path, language: str) -> None:
        self.shop, self.folder, self.language = shop, folder, language
        self.say, self.h = words(language), shop.shown.months
        self.show = Shown(self.say, shop.shown.currency)
        self.cells = 0

    def page(self, place: str) -> str:
        return get(self.shop.url, place, accept_language=self.language)[2]

    def run(self, *words: object) -> None:
        ran = clv(*words)
        assert ran.code == 0, ran.err

    def file(self, name: str) -> pd.DataFrame:
        """A file of a command, empty cells None."""
        table = pd.read_csv(self.folder / name, keep_default_na=False, na_values=[""])
        return table.astype(object).where(table.notna(), None)

    def equal(self, cell: list[str] | str, *wanted: str) -> None:
        assert ([cell] if isinstance(cell, str) else cell) == list(wanted)
        self.cells += len(wanted)

    def span(self, low: str, high: str) -> str:
        return self.say("desk.show.span", low=low, high=high)


@pytest.fixture
def held(shop: Shop, tmp_path: Path) -> Held:
    return Held(shop, tmp_path, "de")


def test_channels_are_those_of_their_command(held: Held) -> None:
    show, shop = held.show, held.shop
    held.run("channels", shop.data, "--predictions", shop.table, "--out", held.folder / "c.csv")
    rows = held.file("c.csv").to_dict("records")
    (found,) = tables(held.page("/desk/channels"))
    assert len(found) == len(rows) > 4
    for row, cells in zip(rows, found, strict=True):
        held.equal(cells[0][0], show.segment("All") if row["channel"] == "All" else row["channel"])
        held.equal(cells[1], show.count(row["customers"]))
        held.equal(cells[2], show.whole(row["cost"]))
        held.equal(cells[3], show.money(row["cac"]))
        ends = [show.number(row[f"ltv_12m_{end}"], 0) for end in ("low", "high")]
        held.equal(cells[4], show.money(row["ltv_12m"]), held.span(*ends))
        ratio = [show.number(row["ltv_to_cac"])]
        if row["ltv_to_cac_low"] is not None:
            ends = [show.number(row[f"ltv_to_cac_{end}"]) for end in ("low", "high")]
            ratio.append(held.span(*ends))
        held.equal(cells[5], *ratio)
        held.equal(cells[6], show.count(row["payback_month"]))
    assert held.cells > 40


def test_who_stays_is_what_its_command_writes(held: Held) -> None:
    show, shop = held.show, held.shop
    held.run("retention", shop.data, "--out", held.folder / "r")
    again, stayed, by_channel = tables(held.page("/desk/retention"))
    curves = held.file("r/survival.csv")
    month = 365.25 / 12
    for event, rows, turned in (("second_order", again, True), ("lapsed", stayed, False)):
        steps = curves[(curves["event"] == event) & (curves["channel"] == "all")]
        for cells in rows:
            months = int(cells[0][0].split()[0])
            last = steps[steps["day"] <= months * month].iloc[-1]
            value, low, high = (float(last[name]) for name in ("survival", "low", "high"))
            if turned:
                value, low, high = 1 - value, 1 - high, 1 - low
            held.equal(cells[1], show.share(value))
            held.equal(cells[2], held.span(show.share(low), show.share(high)))
    rows = held.file("r/channels.csv").to_dict("records")
    assert len(rows) == len(by_channel)
    for row, cells in zip(rows, by_channel, strict=True):
        held.equal(cells[0], row["channel"])
        held.equal(cells[1], show.count(row["customers"]))
        for cell, name, stem in ((2, "repeat_rate", "repeat"), (3, "retention", "retention")):
            ends = [show.share(row[f"{stem}_{end}"]) for end in ("low", "high")]
            held.equal(cells[cell], show.share(row[name]), held.span(*ends))
    assert held.cells > 30


def test_key_figures_segments_and_moves_are_those_of_their_commands(held: Held) -> None:
    show, shop, h = held.show, held.shop, held.h
    before = next(shop.home.glob("predictions/as_of=2025-04-01/*.parquet"))
    held.run("segments", shop.table, "--data", shop.data, "--before", before, "--out",
             held.folder / "s.csv", "--summary", held.folder / "sums.csv")  # fmt: skip
    held.run("value", shop.data, "--predictions", shop.table, "--out", held.folder / "v.csv",
             "--summary", held.folder / "whole.csv")  # fmt: skip
    rows = held.file("sums.csv").to_dict("records")
    (found,) = tables(held.page("/desk/segments"))
    for row, cells in zip(rows, found, strict=True):
        held.equal(cells[0], show.segment(row["segment"]))
        held.equal(cells[1], show.count(row["customers"]))
        held.equal(cells[2], show.share(row["share"]))
        ends = [show.count(row[f"clv_{h}m_{end}"]) for end in ("low", "high")]
        held.equal(cells[3], show.count(row[f"clv_{h}m"]), held.span(*ends))
        held.equal(cells[4], show.money(row[f"clv_{h}m_per_customer"]))
        held.equal(cells[5], show.share(row[f"churn_{h}m"]))
        held.equal(cells[6], show.number(row["orders_per_month"], 2))
        held.equal(cells[7], show.money(row[f"order_value_{h}m"]))
    page, say = held.page("/"), held.say
    every = rows[-1]
    (found,) = tables(page)
    for row, cells in zip(rows[:-1], found[::2], strict=True):
        held.equal(cells[0], show.segment(row["segment"]))
        for cell, text in ((1, show.count(row["customers"])), (2, show.count(row[f"clv_{h}m"])),
                           (3, show.share(row[f"churn_{h}m"]))):  # fmt: skip
            held.equal(cells[cell], text)
    (whole,) = held.file("whole.csv").to_dict("records")
    told = figures(page)
    held.equal(told[say("desk.start.each")], show.money(every[f"clv_{h}m_per_customer"]))
    held.equal(told[say("desk.start.churn", months=h)], show.share(every[f"churn_{h}m"]))
    held.equal(told[say("desk.start.risk")], show.whole(whole[f"keep_at_most_{h}m"]))
    held.equal(told[say("desk.start.past")], show.whole(whole["past_revenue"]))
    for amount in ("", "_low", "_high"):
        assert show.whole(every[f"clv_{h}m{amount}"]) in page
    now = held.file("s.csv")
    # The file marks ids that a spreadsheet would run; its rows are those of the predictions.
    now["customer_id"] = pd.read_parquet(shop.table)["customer_id"]
    _moves(held, now)
    _categories(held, now)
    assert held.cells > 80


def _moves(held: Held, now: pd.DataFrame) -> None:
    """Who moved: from the file of customers, counted anew."""
    show = held.show
    moves = pd.crosstab(now["segment_before"], now["segment"])
    found, *_ = tables(held.page("/desk/changes"))
    names = [row["segment"] for row in held.shop.shown.table("segments")[:-1]]
    for cells in found:
        (before,) = [name for name in (*names, "(new)") if [show.segment(name)] == cells[0]]
        if before in moves.index:
            stay = moves.loc[before]
            for name, cell in zip(names, cells[2:], strict=False):
                held.equal(cell, show.share(stay.get(name, 0) / stay.sum()))


def _categories(held: Held, now: pd.DataFrame) -> None:
    """Which categories reach whom: from the orders, counted anew."""
    orders = pd.read_parquet(held.shop.data / "orders.parquet")
    moment = pd.Timestamp(held.shop.shown.as_of)
    orders = orders[(orders["order_ts"] < moment) & (orders["amount"] > 0)]
    pairs = orders[["customer_id", "category"]].drop_duplicates().merge(now, on="customer_id")
    told = re.findall(r"<dd>(.*?)</dd>", held.page("/desk/segments"), re.DOTALL)
    names = [row["segment"] for row in held.shop.shown.table("segments")[:-1]]
    for name, text in zip(names, told, strict=True):
        some = pairs.loc[pairs["segment"] == name, "category"].value_counts()
        shares = some / (now["segment"] == name).sum()
        shown = re.findall(r"^([^(\n]+) \((.+?)\)", html.unescape(text).replace(", ", "\n"), re.M)
        assert [share for _, share in shown] == list(map(held.show.share, shares.nlargest(3)))
        for category, share in shown:
            held.equal(share, held.show.share(shares[category]))


def test_changes_are_those_of_the_two_files(held: Held) -> None:
    show, shop, h, say = held.show, held.shop, held.h, held.say
    before = pd.read_parquet(next(shop.home.glob("predictions/as_of=2025-04-01/*.parquet")))
    now = pd.read_parquet(shop.table)
    both = now.merge(before, on="customer_id", suffixes=("", "_before"))
    page = held.page("/desk/changes")
    then, value = both[f"clv_{h}m_before"], both[f"clv_{h}m"]
    held.equal(figures(page)[say("desk.changes.stayed")], show.change((value - then).sum()))
    for amount in (before[f"clv_{h}m"].sum(), now[f"clv_{h}m"].sum()):
        assert show.whole(amount) in page
    by_id = both.assign(change=value - then).set_index("customer_id")
    _, rises, falls = tables(page)
    for rows, most in (
        (rises, by_id["change"].nlargest(10)),
        (falls, by_id["change"].nsmallest(10)),
    ):
        for cells, (name, by) in zip(rows, most.items(), strict=True):
            row = by_id.loc[name]
            held.equal(cells[0], str(name))
            held.equal(cells[1], show.count(row[f"clv_{h}m_before"]))
            held.equal(cells[2], show.count(row[f"clv_{h}m"]))
            held.equal(cells[3], show.signed(by))
    assert held.cells > 80


def test_how_good_the_model_is_stands_on_its_card(held: Held) -> None:
    show, say = held.show, held.say
    (card,) = {file.read_text() for file in held.shop.home.rglob("card.json")}
    scores = json.loads(card)["scores"]
    page = held.page("/desk/model")
    names = ["anchored boosting", *sorted(set(scores["models"]) - {"anchored boosting"})]
    metrics = scores["models"][names[0]]
    heads = {say.heading(name).replace(" %", "\u00a0%"): name for name in metrics}
    for table in tables(page):
        for cells in table:
            metric = heads.pop(cells[0][0])
            for name, cell in zip(names, cells[1:], strict=True):
                value = scores["models"][name][metric]
                form = {"share": lambda x: show.share(x, 1), "money": show.money}.get(
                    kind(metric), lambda x: show.number(x, 3)
                )
                held.equal(cell, form(value))
    assert list(heads.values()) == ["n"]  # which the first sentence tells
    told = figures(page)
    bias = scores["intervals"]["bias"]
    sure = say("desk.model.sure", low=show.share(bias[1], 1), high=show.share(bias[2], 1))
    held.equal(told[say.heading("bias")], show.share(bias[0], 1), sure)
    (inside,) = [row["inside"] for row in scores["coverage"] if row["group"] == "all"]
    held.equal(told[say("desk.model.inside")][0], show.share(inside, 1))
    for name in ("predicted", "actual"):
        assert show.whole(scores["by_month"][name][-1]) in page
    assert show.date(scores["cutoff"]) in page
    assert held.cells > 120


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

    settings = None


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
                        day = Shown(said, "").date(shown.as_of)
                        assert said("desk.notice.preparing", date=day) in text


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


# Pictures


def addresses(text: str) -> list[str]:
    return [html.unescape(each) for each in re.findall(r'<img src="([^"]+)"', text)]


def test_pictures_are_those_of_the_report_each_on_its_page(shop: Shop) -> None:
    say = words(DRAWN)
    there = drawings(shop.report, say)
    shown = shop.shown.pictures(DRAWN)
    assert shown is not None
    assert len(there) == len(shown) == sum(PICTURES.values())
    found = {}
    for page, many in PICTURES.items():
        text = get(shop.url, READ[page], accept_language=DRAWN)[2]
        assert len(addresses(text)) == many, page
        for each in addresses(text):
            found[each.rpartition("/")[2].partition(".")[0]] = each
        for name in (each for each in shown if f"/{each}.svg" in text):
            one = shown[name]
            assert one is not None
            alt = html.escape(there[name].alt, quote=True).replace("&quot;", "&#34;")
            assert f'alt="{alt}" width="{one.width}" height="{one.height}"' in text
    assert found.keys() == there.keys()
    for name, where in found.items():
        status, headers, text = get(shop.url, where)
        assert (status, headers["content-type"]) == (200, "image/svg+xml")
        assert text.startswith("<svg")
        assert not re.search(r"<script|\son\w+=|href=\"(?!#|data:image/png)", text)
        assert headers["cache-control"].startswith("private, max-age=")
        assert headers["x-content-type-options"] == "nosniff"
        policy = headers["content-security-policy"]
        assert policy == (
            "default-src 'none'; img-src data:; style-src 'unsafe-inline'; sandbox; "
            "frame-ancestors 'none'"
        )
        if name in ("matrix", "gain"):
            assert text == there[name].svg()
        # Without its version it may be another one tomorrow.
        assert get(shop.url, where.partition("?")[0])[1]["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "name",
    ["hu/none.svg", "hu/matrix", "hu/list.json", "hu/../../about.json", "xx/matrix.svg",
     "de/matrix.svg", "hu/..%2f..%2fabout.json", "hu/..%2fmatrix.svg", "../hu/matrix.svg",
     "hu/%00.svg", "hu/.svg", "hu/MATRIX.svg", "hu/matrix.svg/"],
)  # fmt: skip
def test_no_other_file_is_a_picture(shop: Shop, name: str) -> None:
    status, headers, text = get(shop.url, f"/desk/picture/{name}")
    assert (status, headers["cache-control"]) == (404, "no-store")
    assert "<svg" not in text.replace('<svg class="beside"', "")


def test_pictures_are_for_those_who_may_see_the_page(shop: Shop) -> None:
    asked = addresses(get(shop.url, "/desk/segments", accept_language=DRAWN)[2])[0]
    text = tokens.make(shop.home, "reader")
    kept = tokens.Tokens(shop.home)
    source: Any = Standing(shop.shown, Status("ready"))
    desk = Desk(Fixed(loader.load("champion")), Sessions(KEY, kept), Metrics(), source)
    with served(desk, kept) as url:
        status, headers, told = get(url, asked)
        assert (status, headers["location"], "<svg" in told) == (303, "/desk/sign", False)
        person = desk.sessions.signed_in(text)
        assert person is not None
        status, _, told = get(url, asked, cookie=f"{COOKIE}={person[1]}")
        assert (status, told[:4]) == (200, "<svg")


def test_pages_are_there_before_their_pictures_and_say_so(shop: Shop, tmp_path: Path) -> None:
    shutil.copytree(shop.shown.folder, tmp_path / "now")
    (tmp_path / "now" / "pictures" / DRAWN / gallery.LIST).unlink()
    now = Prepared(tmp_path / "now")
    assert (now.whole, now.complete, shop.shown.complete) == (True, False, True)
    source: Any = Standing(now, Status("ready"))
    said = html.escape(words(DRAWN)("desk.show.drawing"))
    with served(
        Desk(Fixed(loader.load("champion")), Sessions(KEY, None), Metrics(), source)
    ) as url:
        for page in PICTURES:
            text = get(url, READ[page], accept_language=DRAWN)[2]
            assert (text.count(said), addresses(text)) == (1, []), page
            assert "<table" in text
        assert get(url, f"/desk/picture/{DRAWN}/matrix.svg")[0] == 404
        assert said not in get(url, "/desk/changes", accept_language=DRAWN)[2]
        # Then they are there, without anything being opened anew.
        for file in (shop.shown.folder / "pictures" / DRAWN).iterdir():
            shutil.copy(file, tmp_path / "now" / "pictures" / DRAWN)
        assert len(addresses(get(url, "/desk/model", accept_language=DRAWN)[2])) == 4


def test_a_picture_that_fails_is_told_and_takes_nothing_along(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CLV_DEBUG", raising=False)

    def fails() -> Any:
        raise ValueError("canary")

    several = {"spread": Drawing("One", "One by one.", lambda: drawing.blank(2, 1)),
               "map": Drawing("Two", "Two by two.", fails)}  # fmt: skip
    monkeypatch.setattr("serving.views.pictures.drawings", lambda *_: several)
    shutil.copytree(shop.shown.folder, tmp_path / "now")
    gallery.draw(shop.report, tmp_path / "now", DRAWN, lambda: True)
    source: Any = Standing(Prepared(tmp_path / "now"), Status("ready"))
    with served(
        Desk(Fixed(loader.load("champion")), Sessions(KEY, None), Metrics(), source)
    ) as url:
        (one,) = addresses(get(url, "/", accept_language=DRAWN)[2])
        assert one.partition("?")[0] == f"/desk/picture/{DRAWN}/spread.svg"
        text = get(url, "/desk/segments", accept_language=DRAWN)[2]
        assert html.escape(words(DRAWN)("desk.show.undrawn")) in text
        assert addresses(text) == []
        assert get(url, f"/desk/picture/{DRAWN}/map.svg")[0] == 404
    # Where a customer was erased meanwhile, nothing more is written.
    gallery.draw(shop.report, tmp_path / "gone", DRAWN, lambda: False)
    assert not (tmp_path / "gone").exists()


# Words


#: Words of English sentences that none of the other languages has.
ENGLISH = re.compile(r"\b(the|and|with|must|Got|this|have|from|which|cannot|your|are)\b")


def english(page: str, language: str) -> list[str]:
    """English words that a reader of another language meets, those told as English apart."""
    body = page.split("<body>")[1].split("<footer>", maxsplit=1)[0]
    mark = words(language)("desk.show.english", text="")
    for left_out in (r"<code>.*?</code>", r"--[a-z-]+", re.escape(html.escape(mark)) + "[^<]*"):
        body = re.sub(left_out, "", body)
    return ENGLISH.findall(html.unescape(re.sub(r"<[^>]+>", " ", body)))


def spoiled(shop: Shop, folder: Path) -> Prepared:
    """What is shown where everything lacks something, has a warning or could not be read."""
    shutil.copytree(shop.shown.folder, folder)
    file = folder / "about.json"
    about = json.loads(file.read_text())
    about["missing"] |= {
        "channels": ["other", Note.kept(Note.of("missing.channels", detail="spend.csv, line 7"))],
        "retention": ["other", "The orders must have a date. Got none."],
        "model": ["other", Note.kept(Note.of("missing.untested", version="3"))],
        "history": ["other", "The store cannot be read."], "contacts": ["no_contacts", "x"],
    }  # fmt: skip
    file.write_text(json.dumps(about))
    file = folder / "tables.json"
    tables = json.loads(file.read_text())
    for name in ("channels", "retention", "quality"):
        tables.pop(name)
    tables["changes"]["notes"] = [
        Note.kept(Note.of(key, before="1", now="2"))
        for key in ("notes.models", "notes.models_lines")
    ]
    told = {"campaign": "x", "first": "2025-01-01", "last": "2025-01-02", "treated": 5,
            "control": 5, "days": None, "passed": 3, "warnings": [Note.kept(note) for note in (
                Note.of("notes.control", found="1%", meant="2%", times="900"),
                Note.of("notes.differed", name="past", treated="1", control="2", times="9"),
            )]}  # fmt: skip
    reasons = ("early", "few", "The contacts must lie on one day. Got two.")
    tables["campaigns"] = [told | {"reason": reason} for reason in reasons]
    file.write_text(json.dumps(tables))
    return Prepared(folder)


@pytest.mark.parametrize("language", LANGUAGES[1:])
def test_no_page_speaks_english_to_who_reads_another_language(
    shop: Shop, tmp_path: Path, language: str
) -> None:
    live = Fixed(loader.load("champion"))
    bad, said = spoiled(shop, tmp_path / "bad"), words(language)
    memory = Note.of("desk.waiting.memory")
    states = [(shop.shown, Status("ready")), (bad, Status("failed", memory)),
              (bad, Status("preparing")), (None, Status("nothing")),
              (None, Status("failed", Note.of("desk.waiting.fault", kind="OSError"))),
              (None, Status("failed", "The file p.csv must be readable."))]  # fmt: skip
    places = [*READ.values(), "/desk/customer?id=007", "/desk/customer?id=nobody",
              "/desk/campaigns",
              "/desk/lists", "/desk/lists/new", "/desk/nothing", "/desk/list?name=x",
              "/desk/lists/new?show=1&top=x&control=x&on=x&value_from=3&value_to=2",
              "/desk/lists/new?show=1&top=5&value_from=999999", "/desk/lists/new?show=1&top=9",
              "/desk/lists/new?show=1&top=5&contacted=9",
              "/desk/lists/new?show=1&top=5&consent=x&kind=google"]  # fmt: skip
    seen = 0
    for shown, state in states:
        source: Any = Standing(shown, state)
        with served(Desk(live, Sessions(KEY, None), Metrics(), source)) as url:
            for place in places:
                page = get(url, place, accept_language=language)[2]
                assert english(page, language) == [], (place, state)
                seen += html.escape(said.told(memory)) in page
                mark = html.escape(said("desk.show.english", text=""))
                if shown is None and state.message and not isinstance(state.message, Note):
                    assert (mark in page) == (said("desk.waiting.title") in page)
    assert seen > 10
    # The test would see it.
    assert english("<body><p>The orders must be there. Got none.<footer>", language) != []


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


@needs_browser
def test_the_overview_fits_the_narrowest_phone(shop: Shop, browser: Browser) -> None:
    for language in LANGUAGES:
        page = browser.page(360, language=language)
        page.open(shop.url + "/")
        held = page.read("(e => [e.scrollWidth, e.clientWidth])(document.querySelector('.wide'))")
        assert held[0] <= held[1], language
        page.close()


def test_headings_break_where_their_language_does_and_say_the_same() -> None:
    for language in LANGUAGES:
        say = words(language)
        said = " ".join(template.text for template in say.templates.values())
        for word in say("desk.frame.breaks").split():
            whole = word.replace("|", "")
            assert whole in said.replace(word, ""), word
            assert soft(f"({whole})", say).replace("\u00ad", "") == f"({whole})"
            assert soft(whole, say).split("\u00ad")[0] == word.split("|")[0]


def test_a_command_is_shown_in_words_that_hold_together() -> None:
    command = "clv target DATA --out=a-b.csv '--where=x >= <1>'"
    told = arguments(command)
    assert html.unescape(re.sub("<[^>]*>", "", told)) == command
    assert "<span>--out=a-b.csv</span>" in told


def test_metrics_of_a_kind_stand_by_their_number(shop: Shop) -> None:
    _, _, page = get(shop.url, "/desk/model")
    say = words("en")
    places = [page.index(f">{say.heading(f'capture_{top}')}<".replace(" %", "\u00a0%"))
              for top in (1, 5, 20)]  # fmt: skip
    assert places == sorted(places)


def test_a_day_is_not_broken_at_the_end_of_a_line() -> None:
    for language in LANGUAGES:
        say = words(language)
        day = Shown(say, "").date("2026-07-01")
        assert day.replace("\u00a0", " ").replace("\u2060", "") == say.date("2026-07-01")
        assert not re.search(r" |-(?!\u2060)", day)
