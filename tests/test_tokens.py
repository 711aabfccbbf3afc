"""Tokens: made once, kept as digests, counted out in constant time."""

from __future__ import annotations

import ast
import hashlib
import hmac
import json
import os
import time
from datetime import date, timedelta
from pathlib import Path

import pytest
from conftest import clv

from features.errors import InputError
from serving import tokens

ROOT = Path(__file__).parents[1]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLV_HOME", str(tmp_path))
    return tmp_path


def test_a_token_is_kept_as_its_digest_for_the_owner_alone(home: Path) -> None:
    text = tokens.make(home, "shop", days=30)
    file = tokens.place(home)
    kept = file.read_text()
    assert text not in kept
    assert hashlib.sha256(text.encode()).hexdigest() in kept
    assert len(text) >= 4 + 43  # 256 bits
    if os.name == "posix":
        assert file.stat().st_mode & 0o777 == 0o600
    assert tokens.make(home, "other") != text
    assert [each.name for each in tokens.load(home)] == ["shop", "other"]
    assert sorted(path.name for path in home.iterdir()) == ["tokens.json"]


def test_what_is_made_or_revoked_counts_while_the_service_runs(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = tokens.Tokens(home)
    shop = tokens.make(home, "shop")
    assert known.find(shop) is None  # the file is not asked for every request
    monkeypatch.setattr(time, "monotonic", lambda now=time.monotonic: now() + tokens.LOOK)
    assert known.find(shop) == tokens.load(home)[0]
    tokens.revoke(home, "shop")
    monkeypatch.setattr(time, "monotonic", lambda now=time.monotonic: now() + 1)
    assert known.find(shop) is None


def test_a_file_that_broke_lets_nobody_in(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = tokens.make(home, "shop")
    known = tokens.Tokens(home)
    assert known.find(shop)
    tokens.place(home).write_text("{")
    monkeypatch.setattr(time, "monotonic", lambda now=time.monotonic: now() + tokens.LOOK)
    assert known.find(shop) is None


def test_an_expired_token_is_none(home: Path) -> None:
    shop = tokens.make(home, "shop", days=1)
    assert tokens.Tokens(home).find(shop)
    listed = json.loads(tokens.place(home).read_text())
    for days, good in ((0, True), (1, False)):
        listed[0]["until"] = (date.today() - timedelta(days=days)).isoformat()
        tokens.place(home).write_text(json.dumps(listed))
        assert bool(tokens.Tokens(home).find(shop)) is good


@pytest.mark.parametrize(
    "text",
    ["{", "[1]", '[{"name": "x"}]', '[{"name": "x", "role": "god", "sha256": "", "made": ""}]'],
)
def test_a_file_of_another_make_is_refused(text: str, home: Path) -> None:
    tokens.place(home).write_text(text)
    with pytest.raises(InputError, match="clv token made"):
        tokens.load(home)


def test_a_file_that_others_can_read_is_refused(home: Path) -> None:
    tokens.make(home, "shop")
    tokens.place(home).chmod(0o640)
    with pytest.raises(InputError, match="chmod 600"):
        tokens.load(home)


def test_every_digest_is_compared_in_constant_time(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [tokens.make(home, f"t{i}") for i in range(5)]
    asked: list[tuple[str, str]] = []

    def compare(a: str, b: str) -> bool:
        asked.append((a, b))
        return a == b

    monkeypatch.setattr(hmac, "compare_digest", compare)
    known = tokens.Tokens(home)
    for text, found in ((made[0], True), (made[4], True), ("x", False)):
        asked.clear()
        assert bool(known.find(text)) is found
        assert len(asked) == 5


def test_no_secret_is_compared_by_equality() -> None:
    """Names that hold secrets or digests of tokens stand in no == of the guard and its tokens."""
    secret = {"sha256", "given", "digest", "text", "secret"}
    for name in ("tokens", "guard"):
        tree = ast.parse((ROOT / f"serving/{name}.py").read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Compare):
                words = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
                words |= {each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute)}
                if any(isinstance(op, ast.Eq | ast.NotEq | ast.In) for op in node.ops):
                    assert not words & secret


# The command


def test_the_command_makes_lists_and_revokes(home: Path) -> None:
    made = clv("token", "shop", "--days", 30)
    text = made.out.splitlines()[0]
    assert made.code == 0
    assert tokens.Tokens(home).find(text)
    assert clv("token", "boss", "--role", "admin", "--json").json["token"].startswith("clv_")
    listed = clv("token")
    assert "shop" in listed.out
    assert "admin" in listed.out
    assert text not in listed.out
    assert [each["name"] for each in clv("token", "--json").json["tokens"]] == ["shop", "boss"]
    assert clv("token", "shop", "--revoke").code == 0
    assert tokens.Tokens(home).find(text) is None


@pytest.mark.parametrize(
    ("words", "said"),
    [(("shop",), "taken"), (("a/b",), "letters"), (("x", "--role", "god"), "read, export, admin"),
     (("none", "--revoke"), "one of: shop"), (("x", "--days", "0"), "days")],
)  # fmt: skip
def test_what_cannot_be_is_said_in_one_line(words: tuple[str, ...], said: str, home: Path) -> None:
    tokens.make(home, "shop")
    ran = clv("token", *words)
    assert ran.code == 2
    assert said in ran.err
    assert len(ran.err.splitlines()) == 1
