"""Who may come to the desk: tokens, sessions, roles, forms of others."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from browser import Browser, look, needs_browser
from desks import KEY, SHOTS, get, served
from starlette.responses import Response

from features.errors import InputError
from features.settings import Settings
from serving import tokens
from serving.api import Fixed
from serving.desk.frame import Desk, Page, Visit, language_of
from serving.desk.routes import PAGES, PENDING, _Frame
from serving.desk.session import HOURS, MARK, Sessions, Tries, cookie_of, own_place
from serving.metrics import Metrics

#: What serves here is not asked for predictions.
NOBODY = Fixed(SimpleNamespace(version="1", model=SimpleNamespace(settings=Settings())))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def desk() -> Iterator[str]:
    """A desk without anything to show, open to everybody."""
    with served(Desk(NOBODY, Sessions(KEY, None), Metrics())) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as one:
        yield one


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[tuple[str, dict[str, str], Path]]:
    """The desk where tokens are asked for, and a token of each role."""
    made = {role: tokens.make(tmp_path, f"of-{role}", role) for role in tokens.ROLES}
    kept = tokens.Tokens(tmp_path)
    desk = Desk(NOBODY, Sessions(KEY, kept, ended=tmp_path / "left"), Metrics())
    with served(desk, kept) as url:
        yield url, made, tmp_path


def proof_in(text: str) -> str:
    found = re.search(r'name="proof" value="(\w+)"', text)
    assert found
    return found[1]


def signed_in(url: str, token: str, **more: str) -> tuple[int, dict[str, str], str]:
    """The answer to a token, given as a browser gives it."""
    _, headers, text = get(url, "/desk/sign")
    cookie = headers["set-cookie"].split(";")[0]
    body = {"token": token, "proof": proof_in(text), **more}
    return get(url, "/desk/sign", body, cookie=cookie)


def test_who_signs_out_is_out_in_every_worker_whoever_kept_the_cookie(
    guarded: tuple[str, dict[str, str], Path],
) -> None:
    url, made, home = guarded
    mine, other = (signed_in(url, made["read"])[1]["set-cookie"].split(";")[0] for _ in range(2))
    text = get(url, "/", cookie=mine)[2]
    assert get(url, "/desk/leave", {"proof": "0"}, cookie=mine)[0] == 403
    assert get(url, "/", cookie=mine)[0] == 200
    status, headers, _ = get(url, "/desk/leave", {"proof": proof_in(text)}, cookie=mine)
    assert (status, headers["location"]) == (303, "/desk/sign")
    assert get(url, "/", cookie=mine)[0] == 303
    assert get(url, "/", cookie=other)[0] == 200
    now = [time.time()]
    worker = Sessions(KEY, tokens.Tokens(home), lambda: now[0], home / "left")
    assert worker.who(mine) is None
    person = worker.who(other)
    assert person is not None
    now[0] += HOURS * 3_600 + 1  # the cookie's own end has come
    worker.leave(person)
    assert len(list((home / "left").iterdir())) == 1
    worker.leave(worker.stranger())
    assert len(list((home / "left").iterdir())) == 1


def test_strangers_meet_the_page_to_sign_in_and_no_customer(
    guarded: tuple[str, dict[str, str], Path],
) -> None:
    url, made, _ = guarded
    for page in PAGES:
        status, headers, text = get(url, page.path, {} if page.sends else None)
        assert "canary" not in text
        if page.role is not None:
            assert (status, headers["location"][:16]) == (303, "/desk/sign?next=")
    assert get(url, "/v1/customers/007")[0] == 401
    assert get(url, "/desk/static/desk.css")[0] == 200
    status, headers, _ = signed_in(url, made["read"], next="/desk/segments?a=b")
    assert (status, headers["location"]) == (303, "/desk/segments?a=b")
    assert all(word in headers["set-cookie"] for word in ("HttpOnly", "SameSite=strict", "Path=/"))
    assert "Secure" not in headers["set-cookie"]
    assert made["read"] not in headers["set-cookie"]
    cookie = headers["set-cookie"].split(";")[0]
    status, _, text = get(url, "/desk/segments", cookie=cookie)
    assert status == 200
    assert "of-read" in text


@needs_browser
@pytest.mark.parametrize(("width", "language"), [(1280, "de"), (390, "hu")])
def test_one_signs_in_and_leaves_by_keys(
    guarded: tuple[str, dict[str, str], Path], browser: Browser, width: int, language: str
) -> None:
    url, made, _ = guarded
    page = browser.page(width, language=language, dark=language == "hu")
    page.open(url + "/desk/segments")
    assert page.read("document.activeElement.id") == "token"
    look(page)
    page.screenshot(SHOTS / f"sign-{language}-{width}.png")
    page.type("#token", "clv_wrong")
    page.press("Enter", leaves=True)
    assert page.read("document.activeElement.getAttribute('aria-describedby')") == "wrong"
    page.console.clear()  # which names the status 401
    look(page)
    page.type("#token", made["read"])
    page.press("Enter", leaves=True)
    assert page.url == url + "/desk/segments"
    look(page)
    page.screenshot(SHOTS / f"waiting-{language}-{width}.png")
    page.open(url + "/desk/nothing")
    page.console.clear()
    look(page)
    page.screenshot(SHOTS / f"refused-{language}-{width}.png")
    page.click("footer button", leaves=True)
    assert page.url == url + "/desk/sign"
    page.open(url)
    assert "/desk/sign?next=" in page.url


def test_a_proxy_with_encryption_makes_the_cookie_keep_to_it(
    guarded: tuple[str, dict[str, str], Path],
) -> None:
    _, headers, _ = get(guarded[0], "/desk/sign", x_forwarded_proto="https")
    assert "Secure" in headers["set-cookie"]


def test_a_session_ends_with_its_token_and_by_leaving(
    guarded: tuple[str, dict[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "LOOK", 0.0)
    url, made, home = guarded
    cookies = {}
    for role in ("read", "export"):
        _, headers, _ = signed_in(url, made[role])
        cookies[role] = headers["set-cookie"].split(";")[0]
        assert get(url, "/", cookie=cookies[role])[0] == 200
    _, _, text = get(url, "/", cookie=cookies["read"])
    status, headers, _ = get(url, "/desk/leave", {"proof": proof_in(text)}, cookie=cookies["read"])
    assert (status, headers["location"]) == (303, "/desk/sign")
    assert 'clv_desk=""' in headers["set-cookie"]
    time.sleep(1.1)
    tokens.revoke(home, "of-export")
    assert get(url, "/", cookie=cookies["export"])[0] == 303
    tokens.make(home, "of-export", "admin")  # of the same name, but another one
    assert get(url, "/", cookie=cookies["export"])[0] == 303


def test_roles_reach_as_far_as_they_are_named(guarded: tuple[str, dict[str, str], Path]) -> None:
    url, made, _ = guarded
    for role, status in (("read", 403), ("export", 404), ("admin", 404)):
        _, headers, _ = signed_in(url, made[role])
        cookie = headers["set-cookie"].split(";")[0]
        _, _, text = get(url, "/", cookie=cookie)
        proof = proof_in(text)
        found, _, said = get(url, "/desk/list/deleted", {"proof": proof}, cookie=cookie)
        assert found == status, role
        assert ("role export" in said) == (role == "read")


def test_a_wrong_token_is_refused_and_many_are_slowed(
    guarded: tuple[str, dict[str, str], Path],
) -> None:
    url, made, _ = guarded
    told = [signed_in(url, f"clv_wrong{k}") for k in range(6)]
    assert [status for status, _, _ in told] == [401] * 5 + [429]
    assert all("clv_wrong" not in text for _, _, text in told)
    assert 1 <= int(told[-1][1]["retry-after"]) <= 10
    assert signed_in(url, made["admin"])[0] == 429


@pytest.mark.parametrize(
    ("more", "status"),
    [({"origin": "http://elsewhere.example"}, 403), ({"origin": "null"}, 403),
     ({"origin": ""}, 403), ({"content_type": "text/plain"}, 415),
     ({"content_type": "multipart/form-data; boundary=x"}, 415)],
)  # fmt: skip
def test_forms_of_others_are_refused(desk: str, more: dict[str, str], status: int) -> None:
    sessions = Sessions(KEY, None)
    person = sessions.stranger()
    body = {"proof": sessions.proof(person), "name": "x"}
    cookie = f"clv_desk={sessions.cookie(person)}"
    assert get(desk, "/desk/list/deleted", body, cookie=cookie)[0] == 404  # there is no such list
    assert get(desk, "/desk/list/deleted", body, cookie=cookie, **more)[0] == status


def test_a_form_without_the_proof_of_its_session_is_refused(desk: str) -> None:
    for proof in ("", "0" * 64, "\u00e9"):
        found = get(desk, "/desk/list/deleted", {"proof": proof, "name": "x"})
        assert found[0] == 403
    other = Sessions(KEY, None)
    own = {"proof": other.proof(other.stranger()), "name": "x"}
    assert get(desk, "/desk/list/deleted", own)[0] == 403
    assert get(desk, "/desk/list/deleted", {"a" * 9: "b" * 70_000})[0] == 413


class Kept:
    """Tokens that a test changes."""

    def __init__(self, **known: str) -> None:
        self.known = known

    def find(self, text: str) -> tokens.Token | None:
        return self.named(text)

    def named(self, name: str) -> tokens.Token | None:
        role: Any = self.known.get(name)
        return role and tokens.Token(name, role, name.ljust(64, "0"), "2025-01-01")


def test_a_cookie_is_ours_whole_and_in_time_or_nothing() -> None:
    now = [1_000.0]
    sessions = Sessions(KEY, Kept(anna="read"), clock=lambda: now[0])
    found = sessions.signed_in("anna")
    assert found is not None
    person, cookie = found
    header = f"other=1; clv_desk={cookie}; more=2"
    assert sessions.who(header) == person
    assert (person.may("read"), person.may("export")) == (True, False)
    assert sessions.proven(person, sessions.proof(person))
    text, _, signature = cookie.partition(".")
    wrong = [text, f"{text}.", f"{text}.{signature[:-1]}", f"{text[:-2]}AA.{signature}",
             f".{signature}", "", text + "." + 64 * "\u00e9", f"\u00e9{cookie}"]  # fmt: skip
    for each in wrong:
        assert sessions.who(f"clv_desk={each}") is None
    assert Sessions(KEY + b"!", Kept(anna="read")).who(header) is None
    now[0] += HOURS * 3_600 + 1
    assert sessions.who(header) is None
    assert len(tokens.Token("a", "read", "0" * 64, "").sha256) > MARK


def test_tries_are_counted_by_address_and_forgotten() -> None:
    now = [0.0]
    tries = Tries(clock=lambda: now[0])
    assert [tries.wait("a") for _ in range(6)] == [0, 0, 0, 0, 0, 10]
    assert tries.wait("b") == 0
    now[0] = 10.1
    assert tries.wait("a") == 0


@pytest.mark.parametrize(
    ("text", "own"),
    [("/desk/segments?x=1", True), ("/", True), ("/?language=de", True), ("//evil.example", False),
     ("https://evil.example", False), ("/\\evil.example", False), ("/desk/\\evil", False),
     ("/desk/a\r\nb: c", False), ("/health", False), ("", False), ("/desk/sign?next=/", False),
     ("/desk/\u00e9", False)],
)  # fmt: skip
def test_after_signing_in_one_stays_here(text: str, own: bool) -> None:
    assert own_place(text) == (text if own else "/")


@pytest.mark.parametrize(
    ("cookie", "accepted", "language"),
    [("", "", "en"), ("de", "hu", "de"), ("xx", "hu", "hu"), ("", "fr-FR, nl-BE;q=0.4", "nl"),
     ("", "en;q=0.1, de;q=0.9", "de"), ("", "de;q=0, hu;q=0.1", "hu"), ("", "*", "en"),
     ("", "de-CH", "de"), ("", ";;;,,,q=", "en"), ("", "hu;q=2", "hu")],
)  # fmt: skip
def test_the_language_is_chosen_else_the_browsers(
    cookie: str, accepted: str, language: str
) -> None:
    assert language_of(cookie, accepted) == language


OTHERS = ['prefs={"a":1}', "\u00e9=\u00fc", '=a"b', "a; b", "=" * 15_000 + '"']


@pytest.mark.parametrize("other", OTHERS)
def test_cookies_of_others_on_the_same_host_lock_nobody_out(other: str) -> None:
    sessions = Sessions(KEY, Kept(anna="read"))
    found = sessions.signed_in("anna")
    assert found is not None
    assert sessions.who(f"{other}; clv_desk={found[1]}") == found[0]
    assert sessions.who(other) is None
    assert cookie_of(f"clv_desk_x=1; {other}", "clv_desk") == ""


def test_another_method_is_told_which_one_there_is(desk: str) -> None:
    status, headers, _ = get(desk, "/desk/lists", {})
    assert (status, set(headers["allow"].split(", "))) == (405, {"GET", "HEAD"})


def framed() -> tuple[_Frame, Any]:
    made = Desk(NOBODY, Sessions(KEY, None), Metrics())
    return _Frame(made), Visit(made, Sessions(KEY, None).stranger(), "en", "/")


def test_what_a_page_cannot_read_is_told_on_it() -> None:
    frame, visit = framed()

    def broken(_: Visit) -> Response:
        raise InputError("clv.toml must be TOML. Got a typo.\nMore.")

    response = asyncio.run(frame._made(Page("/", broken), visit))
    assert response.status_code == 503
    assert b"clv.toml must be TOML. Got a typo." in bytes(response.body)


def test_pages_beyond_those_that_can_be_made_are_refused_at_once() -> None:
    frame, visit = framed()
    go, done = threading.Event(), []

    def slow(_: Visit) -> Response:
        go.wait(30)
        return Response("made")

    async def many() -> list[Response]:
        waiting = [asyncio.create_task(frame._made(Page("/", slow), visit)) for _ in range(PENDING)]
        await asyncio.sleep(0)
        done.append(await frame._made(Page("/", slow), visit))
        waiting[0].cancel()  # who is gone leaves a page that is still being made
        await asyncio.sleep(0)
        done.append(await frame._made(Page("/", slow), visit))
        go.set()
        made = [await each for each in waiting[1:]]
        return [*made, await frame._made(Page("/", slow), visit)]

    made = asyncio.run(many())
    assert [each.status_code for each in done] == [503, 503]
    assert done[0].headers["retry-after"] == "1"
    assert {each.body for each in made} == {b"made"}
