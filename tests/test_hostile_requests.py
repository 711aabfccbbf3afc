"""Whatever is sent: each file of ``tests/hostile`` is a request and the answer it must get.

A file: ``note:`` why, ``expect:`` the status and perhaps the field that is named, then method and
route, headers, an empty line and the body. ``body: escaped`` reads \\xff and the like in the body,
``times: N`` repeats it. A new file is a new case.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fitted
import pytest
from asking import ask

from serving.api import Fixed, application
from serving.loader import Loaded

FOLDER = Path(__file__).parent / "hostile"
#: What an error must never tell: traces, places of this machine, what came.
SECRETS = (b"Traceback", b"/usr", b"/home", b"/tmp", b".py", b"site-packages", b"canary", b"Error")


@dataclass(frozen=True)
class Case:
    status: int
    where: str | None
    method: str
    place: str
    headers: list[tuple[str, str]]
    body: bytes


def read(file: Path) -> Case:
    head, _, body = file.read_bytes().partition(b"\n\n")
    lines = head.decode().splitlines()
    first = next(i for i, line in enumerate(lines) if line.split(" ", 1)[0].isupper())
    about = dict(line.split(": ", 1) for line in lines[:first])
    body = body.removesuffix(b"\n")
    if about.get("body") == "escaped":
        body = body.decode("unicode_escape").encode("latin-1")
    status, _, where = about["expect"].partition(" ")
    method, place = lines[first].split(" ", 1)
    headers = [tuple(line.split(": ", 1)) for line in lines[first + 1 :]]
    times = int(about.get("times", 1))
    return Case(int(status), where or None, method, place, headers, body * times)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def app() -> Any:
    return application(Fixed(Loaded(fitted.base().model, "1")))


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.txt")), ids=lambda file: file.stem)
def test_every_request_gets_the_answer_of_its_file(app, file):
    case = read(file)
    found = ask(app, case.method, case.place, case.body, case.headers)
    assert (found.status, found.body[:300] if found.status != case.status else b"") == (
        case.status, b"",
    )  # fmt: skip
    if found.status == 200:
        assert "error" not in found.json
        return
    error = found.json["error"]
    assert error["type"]
    assert error["message"]
    if case.where is not None:
        assert error["where"] == case.where
    assert not [secret for secret in SECRETS if secret in found.body]


def test_the_folder_is_read():
    assert len(list(FOLDER.glob("*.txt"))) >= 150
