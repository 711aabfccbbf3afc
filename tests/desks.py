"""The desk served at a free port of this process, and asked without a browser."""

from __future__ import annotations

import re
import threading
import time
from html import unescape
from html.parser import HTMLParser
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlencode

from features.settings import Serving
from serving import tokens
from serving.api import Options, application
from serving.connections import Server, configured
from serving.desk.frame import Desk
from serving.desk.routes import application as pages
from serving.guard import Guard

__all__ = ["KEY", "SHOTS", "figures", "get", "served", "tables"]

#: Pictures of pages, to be looked at; git leaves them out.
SHOTS = Path(__file__).parents[1] / ".screenshots"
KEY = b"a key of the tests of the desk"


class served:  # noqa: N801  it reads as what it does
    """A desk behind the guard at a free port, in a thread."""

    def __init__(self, desk: Desk, kept: tokens.Tokens | None = None) -> None:
        limits = Serving(port=0)
        app = application(desk.live, Options(desk=pages(desk)))
        guard = Guard(app, limits, kept, desk.metrics)
        self.server = Server(configured(guard, limits))
        self.server.config.port = 0
        self.thread = threading.Thread(target=self.server.run, daemon=True)

    def __enter__(self) -> str:
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        port = self.server.servers[0].sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}"

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.thread.join(30)


def get(
    url: str, place: str, body: dict[str, str] | None = None, **headers: str
) -> tuple[int, dict[str, str], str]:
    """Status, headers and text; `body` is sent as a form of the same origin."""
    host = url.removeprefix("http://")
    connection = HTTPConnection(host, timeout=30)
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if body is not None:
        sent = {"origin": url, "content-type": "application/x-www-form-urlencoded"} | sent
    connection.request("POST" if body is not None else "GET", place,
                       None if body is None else urlencode(body), sent)  # fmt: skip
    answer = connection.getresponse()
    text = answer.read().decode("utf-8", "replace")
    told = {name.lower(): value for name, value in answer.getheaders()}
    connection.close()
    return answer.status, told, text


class _Tables(HTMLParser):
    """Each table of a page as rows of cells, a cell as its texts: what stands in small is apart."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[list[list[list[str]]]] = []
        self.open = False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append([""])
            self.open = True
        elif tag == "small":
            self.tables[-1][-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self.open = self.open and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.open:
            self.tables[-1][-1][-1][-1] += data


def tables(page: str) -> list[list[list[list[str]]]]:
    """The tables of a page, without their heads: rows of cells of texts, the small ones behind."""
    parser = _Tables()
    parser.feed(page)
    return [
        [[[text.strip() for text in cell] for cell in row] for row in table[1:]]
        for table in parser.tables
    ]


def figures(page: str) -> dict[str, list[str]]:
    """The key figures of a page by their names: the number, and what stands below it."""
    found = {}
    for each in re.findall(r"<div><dt>(.*?)</dt>(.*?)</div>", page, re.DOTALL):
        told = re.findall(r"<dd[^>]*>(.*?)</dd>", each[1], re.DOTALL)
        found[unescape(each[0])] = [unescape(text).strip() for text in told]
    return found
