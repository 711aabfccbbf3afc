"""Lists at the desk in a real browser: built, saved, downloaded, refused, deleted, on record."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlencode

import numpy as np
import pandas as pd
import pytest
from asking import ask
from browser import Browser, look, needs_browser
from conftest import clv, use_home
from desks import KEY, get, served
from waiting_desk import SETTINGS, inputs, lifted, predictions, prepared, write

from features.settings import Serving, Settings
from serving import tokens
from serving.desk import inputs as known
from serving.desk import saved
from serving.desk.frame import Desk
from serving.desk.prepared import Inputs, Prepared, Source
from serving.desk.preparing import prepare
from serving.desk.session import Sessions
from serving.metrics import Metrics
from serving.serve import application
from serving.views.language import LANGUAGES, words

SHOTS = Path(__file__).parents[1] / ".screenshots"
LIVE = SimpleNamespace(
    loaded=SimpleNamespace(model=SimpleNamespace(settings=Settings()), version="7"),
    status=dict,
)


@dataclass(frozen=True)
class Shop:
    url: str
    folder: Path
    shown: Prepared
    source: Source


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """A desk at a free port that lets everybody in, as on loopback."""
    folder = tmp_path_factory.mktemp("desk-lists")
    data = write(folder)
    with pytest.MonkeyPatch.context() as patch:
        use_home(patch, folder / "home")
        shown = prepared(folder)
        source = Source(inputs(folder).table, str(data))
        assert source.current() is not None
        assert source.status().state == "ready"
        with served(Desk(LIVE, Sessions(KEY, None), Metrics(), source)) as url:  # type: ignore[arg-type]
            yield Shop(url, folder, shown, source)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as one:
        yield one


def lines(shop: Shop) -> list[dict[str, str]]:
    file = shop.folder / "home" / "audit.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def proof(text: str) -> str:
    found = re.search(r'name="proof" value="(\w+)"', text)
    assert found
    return found[1]


@needs_browser
def test_a_list_is_built_saved_downloaded_and_deleted(
    shop: Shop, browser: Browser, tmp_path: Path
) -> None:
    page = browser.page(1280)
    page.open(f"{shop.url}/desk/lists")
    page.click("a.button[href='/desk/lists/new']", leaves=True)
    page.click("input[name='segment.Grow']")
    page.click("input[name='country.DE']")
    page.type("#value_from", "1.5")
    page.type("#top", "30")  # whose ids begin like no formula
    page.type("#offer_cost", "0.01")
    page.type("#campaign", "Spring")
    page.type("#control", "25")
    page.choose("#consent", "email")
    page.click("form.builder button", leaves=True)
    look(page)
    row = page.texts("section tbody tr")
    told = page.text("section .lead")
    page.type("#name", "../spring")
    page.click("form.keep button", leaves=True)
    assert page.text("#name-wrong") == words("en")("desk.lists.e_name")
    assert page.read("document.querySelector('#name').getAttribute('aria-invalid')") == "true"
    page.console.clear()  # which names the status 422
    page.type("#name", "spring-mail")
    page.click("form.keep button", leaves=True)
    assert page.url.endswith("/desk/list?name=spring-mail")
    assert page.text(".lead") == told
    look(page)

    options = ["--where", 'segment in ["Grow"]', "--where", 'country in ["DE"]', "--where",
               "clv_3m >= 1.5", "--top", 30, "--offer-cost", 0.01, "--campaign", "Spring",
               "--control", 0.25, "--channel", "email"]  # fmt: skip
    out, contacts = tmp_path / "list.csv", tmp_path / "contacts.csv"
    ran = clv("target", shop.folder / "data", "--predictions", shop.folder / "p.csv", "--out", out,
              "--contacts-out", contacts, *options)  # fmt: skip
    assert ran.code == 0, ran.err
    assert page.download("button[value=csv]") == ("spring-mail.csv", out.read_bytes())
    name, raw = page.download("button[value=contacts]")
    assert (name, raw) == ("spring-mail-contacts.csv", contacts.read_bytes())
    name, raw = page.download("button[value=xlsx]")
    assert name == "spring-mail.xlsx"
    with zipfile.ZipFile(io.BytesIO(raw)) as book:
        sheet = book.read("xl/worksheets/sheet1.xml").decode()
    assert (sheet.count("<row "), sheet.count("<f>")) == (len(pd.read_csv(out)) + 1, 0)
    first = pd.read_csv(out, dtype=str)["customer_id"][0].removeprefix("'")
    assert any(first in each for each in row)
    assert [(each["action"], each["list"], each["format"]) for each in lines(shop)] == [
        ("list_downloaded", "spring-mail", form) for form in ("csv", "contacts", "xlsx")
    ]

    page.click("a[href^='/desk/list/delete']", leaves=True)
    assert saved.find("spring-mail") is not None  # only asked so far
    look(page)
    page.click("main button", leaves=True)
    assert "spring-mail" in page.text("[role=status]")
    assert saved.find("spring-mail") is None
    assert lines(shop)[-1]["action"] == "list_deleted"
    assert page.console == []


@needs_browser
@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("width", [1280, 390])
def test_pages_of_lists_are_without_fault_in_every_language_and_width(
    shop: Shop, browser: Browser, language: str, width: int
) -> None:
    page = browser.page(width, language=language, dark=language == "hu")
    name = f"shot-{language}-{width}"
    text = get(shop.url, "/desk/lists/new")
    cookie = text[1]["set-cookie"].split(";")[0]
    form = {
        "proof": _proof(shop, cookie),
        "name": name,
        "top": "50",
        "campaign": "x",
        "control": "10",
    }
    assert get(shop.url, "/desk/lists/save", form, cookie=cookie)[0] == 303
    made = {"show": 1, "top": 50, "offer_cost": 0, "ranking": "winback", "churned": ""}
    wrong = {"show": 1, "top": "x", "control": "x", "value_from": 3, "value_to": 2, "on": "x"}
    pages = {
        "lists": "/desk/lists", "new": "/desk/lists/new",
        "built": f"/desk/lists/new?{urlencode(made)}",
        "wrong": f"/desk/lists/new?{urlencode(wrong)}", "list": f"/desk/list?name={name}",
        "delete": f"/desk/list/delete?name={name}", "campaigns": "/desk/campaigns",
    }  # fmt: skip
    for each, where in pages.items():
        page.open(shop.url + where)
        assert page.read("document.documentElement.lang") == language
        if each == "wrong":
            linked = page.read("[...document.querySelectorAll('#wrong a')].map(e => e.hash)")
            assert linked == ["#top", "#control", "#on", "#value_to"]
            for place in linked:
                assert page.read(f"document.querySelector('{place}').ariaInvalid") == "true"
        for part in page.read("[...document.querySelectorAll('details')].length") * ["details"]:
            page.read(f"document.querySelectorAll('{part}').forEach(e => e.open = true)")
        look(page)
        page.screenshot(SHOTS / f"{each}-{language}-{width}.png")
    page.close()


def _proof(shop: Shop, cookie: str) -> str:
    """What forms of this session carry."""
    query = urlencode({"show": 1, "top": 5})
    return proof(get(shop.url, f"/desk/lists/new?{query}", cookie=cookie)[2])


def test_without_the_role_nothing_is_shown_saved_or_handed_out(shop: Shop) -> None:
    home = shop.folder / "home"
    texts = {role: tokens.make(home, role, role) for role in ("read", "export")}
    kept = tokens.Tokens(home)
    ids = predictions()["customer_id"]
    with served(Desk(LIVE, Sessions(KEY, kept), Metrics(), shop.source), kept) as url:  # type: ignore[arg-type]
        cookies = {role: _signed(url, text) for role, text in texts.items()}
        for role, cookie in cookies.items():
            query = urlencode({"show": 1, "top": 40})
            _, _, text = get(url, f"/desk/lists/new?{query}", cookie=cookie)
            # Between tags: the digits of a proof may look like an id.
            seen = set(re.findall(r">\s*(c0\d+)\s*<", text)) & set(ids)
            assert bool(seen) == (role == "export")
            assert (words("en")("desk.lists.role") in text) == (role == "read")
        reader = cookies["read"]
        own = proof(get(url, "/desk/lists", cookie=reader)[2])
        before = len(lines(shop))
        saved_form = {"proof": own, "name": "mine", "top": "5"}
        for place, form in (
            ("/desk/lists/save", saved_form),
            ("/desk/list/download", {"proof": own, "name": "mine", "form": "csv"}),
            ("/desk/list/deleted", {"proof": own, "name": "mine"}),
        ):
            status, headers, text = get(url, place, form, cookie=reader)
            assert status == 403
            assert "content-disposition" not in headers
            assert words("en")("desk.refused.role") in text
        assert get(url, "/desk/list/delete?name=mine", cookie=reader)[0] == 403
        assert saved.find("mine") is None
        writer = cookies["export"]
        own = proof(get(url, "/desk/lists", cookie=writer)[2])
        status, _, _ = get(url, "/desk/lists/save", saved_form | {"proof": own}, cookie=writer)
        assert status == 303
        form = {"proof": own, "name": "mine", "form": "csv"}
        status, headers, text = get(url, "/desk/list/download", form, cookie=writer)
        assert (status, headers["cache-control"]) == (200, "no-store")
        assert headers["content-disposition"] == 'attachment; filename="mine.csv"'
        assert text.splitlines()[0].startswith('"customer_id"')
        assert [line["who"] for line in lines(shop)[before:]] == ["export"]
        # Without its own proof a form is somebody else's.
        assert get(url, "/desk/list/download", form | {"proof": "0"}, cookie=writer)[0] == 403
        assert get(url, "/desk/list/download", form, cookie=writer, origin="http://x")[0] == 403
        assert len(lines(shop)) == before + 1


def _signed(url: str, token: str) -> str:
    _, headers, text = get(url, "/desk/sign")
    cookie = headers["set-cookie"].split(";")[0]
    form = {"proof": proof(text), "token": token, "next": "/"}
    status, headers, _ = get(url, "/desk/sign", form, cookie=cookie)
    assert status == 303
    return headers["set-cookie"].split(";")[0]


@pytest.mark.parametrize("name", ["../home", "..%2f", "<script>", "a\r\nb", "x" * 500, ""])
def test_hostile_names_are_pages_that_are_not_there(shop: Shop, name: str) -> None:
    query = urlencode({"name": name})
    for place in ("/desk/list", "/desk/list/delete"):
        status, _, text = get(shop.url, f"{place}?{query}")
        assert status == 404
        assert "<script>" not in text
    deleted = urlencode({"deleted": name})
    assert 'role="status"' not in get(shop.url, f"/desk/lists?{deleted}")[2]


@pytest.mark.parametrize(("field", "text"), [
    ("top", ""), ("top", "-5"), ("top", "1e400"), ("control", "x"), ("seed", "[]"),
    ("ranking", "../x"), ("ranking", "uplift"), ("consent", "phone"), ("kind", "exe"),
    ("horizon", "7"), ("on", "\x00"),
])  # fmt: skip
def test_choices_that_no_form_makes_are_refused_and_save_nothing(
    shop: Shop, field: str, text: str
) -> None:
    _, headers, _ = get(shop.url, "/desk/lists")
    cookie = headers["set-cookie"].split(";")[0]
    form = {"proof": _proof(shop, cookie), "name": "hostile", "top": "5", field: text}
    status, _, told = get(shop.url, "/desk/lists/save", form, cookie=cookie)
    assert status == 400
    assert words("en")("desk.refused.form") in told
    assert saved.find("hostile") is None


def test_a_name_that_is_taken_is_told_with_the_list_still_there(shop: Shop) -> None:
    _, headers, _ = get(shop.url, "/desk/lists")
    cookie = headers["set-cookie"].split(";")[0]
    form = {"proof": _proof(shop, cookie), "name": "twice", "top": "7"}
    assert get(shop.url, "/desk/lists/save", form, cookie=cookie)[0] == 303
    status, _, text = get(shop.url, "/desk/lists/save", form, cookie=cookie)
    assert status == 422
    assert words("en")("desk.lists.e_taken") in text
    assert 'value="twice"' in text
    assert "7 customers" in text


def test_a_kept_list_can_be_built_upon_and_a_segment_too(shop: Shop) -> None:
    _, headers, _ = get(shop.url, "/desk/lists")
    cookie = headers["set-cookie"].split(";")[0]
    chosen = {"top": "33", "country.AT": "1", "churn_from": "25"}
    form = {"proof": _proof(shop, cookie), "name": "base", **chosen}
    assert get(shop.url, "/desk/lists/save", form, cookie=cookie)[0] == 303
    text = get(shop.url, "/desk/lists/new?from=base")[2]
    assert 'name="country.AT" value="1" checked' in text
    assert re.search(r'id="churn_from"[^>]* value="25"', text)
    assert re.search(r'id="top"[^>]* value="33"', text)
    text = get(shop.url, "/desk/lists/new?segment=Grow")[2]
    assert 'name="segment.Grow" value="1" checked' in text


def test_other_settings_are_those_of_every_page(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``clv serve --config`` reaches the service, its lists and the tables that are prepared."""
    config = tmp_path / "own.toml"
    config.write_text(SETTINGS.replace("margin = 0.4", "margin = 0.1").replace("0.5", "2.25"))
    given: list[dict[str, object]] = []
    monkeypatch.setattr("serving.serve.run", lambda *_, **rest: given.append(rest) or 0)
    assert clv("serve", "--config", config).code == 0
    assert given == [{"config": config}]
    use_home(monkeypatch, shop.folder / "home")
    monkeypatch.setenv("CLV_KEY", "a key of the tests of the desk")
    found = Inputs(shop.folder / "p.csv", str(shop.folder / "data"), config)
    prepare(found, known.place() / found.key(), ())
    chosen = Serving(predictions=str(found.table), data=str(found.data))
    app, _ = application(chosen, LIVE, **given[0])  # type: ignore[arg-type]
    texts = []
    for where in ("/desk/lists/new", "/desk/campaigns"):
        answer = ask(app, "GET", where)
        assert answer.status == 200
        texts.append((get(shop.url, where)[2], answer.body.decode()))
    say = words("en")
    costs = [say("desk.lists.cost_hint", amount=say.money(x, "USD")) for x in (0.5, 2.25)]
    for text, cost, other in zip(texts[0], costs, reversed(costs), strict=True):
        assert cost in text.replace("\u00a0", " ")
        assert other not in text.replace("\u00a0", " ")
    tables = [shop.shown, Prepared(known.place() / found.key())]
    effects = [table.table("campaigns")[1]["effect"] for table in tables]
    assert effects[1] == pytest.approx(effects[0] / 4)
    for text, effect in zip(texts[1], effects, strict=True):
        assert say.money(effect, "USD").replace(" ", "\u00a0") in text


@pytest.mark.parametrize("slope", [0.75, 0.05])
def test_a_model_of_uplift_is_offered_and_ranks(shop: Shop, slope: float) -> None:
    say, line = words("en"), (1.5, slope)
    add, flat = say("desk.lists.add_uplift"), say("desk.lists.flat_uplift", campaign="Autumn <b>")
    assert add.partition(":")[0] in get(shop.url, "/desk/lists/new")[2]
    choice = 'name="ranking" value="uplift"'
    asked = "/desk/lists/new?" + urlencode({"show": 1, "top": 9, "ranking": "uplift"})
    for place in ("/desk/lists/new", asked):
        assert choice not in get(shop.url, place)[2]
    assert say("desk.lists.e_uplift") in get(shop.url, asked)[2]
    model = lifted(shop.folder, line=line)
    shown = prepared(shop.folder, model)
    source = Source(inputs(shop.folder).table, str(shop.folder / "data"), None, model)
    assert source.current() is not None
    with served(Desk(LIVE, Sessions(KEY, None), Metrics(), source)) as url:  # type: ignore[arg-type]
        status, _, text = get(url, "/desk/lists/new")
        assert (status, choice in text, add.partition(":")[0] in text) == (200, True, False)
        assert (flat in unescape(text)) == (slope == 0.05)
        status, _, text = get(url, asked)
    assert (status, "Autumn <b>" in text) == (200, False)
    basis = say("desk.lists.basis_uplift", campaign="Autumn <b>", days=30)
    assert basis in unescape(text)
    assert "--uplift=FOLDER" in text
    away = shown.more.numbers("uplift_away")
    gain = np.where(np.isnan(away), -np.inf, 1.5 + slope * away)
    best = shown.base.frame()["customer_id"].astype(str).to_numpy()[gain >= np.sort(gain)[-9]]
    told = re.findall(r'class="id" href="[^"]*">(.*?)</a>', text)
    assert len(told) == 9
    assert {unescape(each) for each in told} <= set(best)


def test_nobody_left_is_said_in_words(shop: Shop) -> None:
    query = urlencode({"show": 1, "top": 5, "value_from": 10**9})
    status, _, text = get(shop.url, f"/desk/lists/new?{query}")
    assert status == 200
    assert words("en")("desk.lists.e_nobody") in text
    assert "expected" not in text.lower().split("<form", 2)[1]


def test_a_list_of_another_release_and_files_that_are_refused_are_told_in_words(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    say = words("en")
    cookie = get(shop.url, "/desk/lists")[1]["set-cookie"].split(";")[0]
    own = _proof(shop, cookie)
    form = {"proof": own, "name": "old", "top": "9999", "campaign": "x", "offer_cost": "0",
            "control": "10"}  # fmt: skip
    assert get(shop.url, "/desk/lists/save", form, cookie=cookie)[0] == 303
    asked = {"proof": own, "name": "old", "form": "contacts"}
    status, _, text = get(shop.url, "/desk/list/download", asked, cookie=cookie)
    assert (status, say("desk.lists.e_contacts") in text) == (422, True)
    monkeypatch.setattr(saved, "SHEET", 9)
    status, _, text = get(shop.url, "/desk/list/download", asked | {"form": "xlsx"}, cookie=cookie)
    assert (status, say("desk.lists.e_sheet") in text) == (422, True)
    kept = saved.find("old")
    assert kept is not None
    (kept.folder / "list.csv").unlink()
    status, _, text = get(shop.url, "/desk/list/download", asked | {"form": "csv"}, cookie=cookie)
    assert (status, say("desk.lists.e_files") in text) == (422, True)
    about = dict(kept.about) | {"choices": {"colour": "red"}}
    (kept.folder / "about.json").write_text(json.dumps(about))
    for place in ("/desk/list?name=old", "/desk/lists/new?from=old"):
        status, _, text = get(shop.url, place, cookie=cookie)
        assert (status, say("desk.lists.e_release") in text) == (200, True), place
    form |= {"name": "new", "campaign": "=1+1"}
    assert get(shop.url, "/desk/lists/save", form, cookie=cookie)[0] == 400
    query = urlencode({"show": 1, "top": 5, "campaign": "=1+1", "offer": "@x"})
    text = get(shop.url, f"/desk/lists/new?{query}", cookie=cookie)[2]
    assert text.count(say("desk.lists.e_formula")) == 4  # at the field and in the summary
    assert 'href="#campaign"' in text
    assert 'href="#offer"' in text
