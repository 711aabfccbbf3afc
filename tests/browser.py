"""A headless Chromium for tests, driven over its own protocol on two pipes: no driver, no port.

    with Browser() as browser:
        page = browser.page(width=390)
        page.open("http://127.0.0.1:8080/")
        page.type("#search", "0042")
        page.click("button[type=submit]", leaves=True)

A page of its own keeps cookies of its own. It reaches loopback only, and remembers what it asked
for (`requests`) and what the browser complained of (`console`).
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import pytest

__all__ = ["CHROMIUM", "Browser", "Page", "look", "needs_browser"]

#: Debian's package chromium; other systems name it otherwise.
CHROMIUM: Final = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
#: Marks tests that need it: left out without one, and said so; in CI they fail instead.
needs_browser = pytest.mark.skipif(
    CHROMIUM is None and os.environ.get("CI") != "1",
    reason="Chromium is not installed (Debian: apt-get install chromium)",
)
OPTIONS: Final = (
    "--headless", "--no-sandbox", "--remote-debugging-pipe", "--disable-gpu", "--hide-scrollbars",
    "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-default-apps", "--disable-extensions", "--disable-sync", "--disable-dev-shm-usage",
    "--disable-features=Translate,OptimizationHints,MediaRouter,DialMediaRouteProvider",
    "--force-color-profile=srgb", "--font-render-hinting=none",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)  # fmt: skip
FAULTS: Final = Path(__file__).with_name("faults.js")
PATIENCE: Final = 30.0  # seconds for anything that must come


class Browser:
    """One Chromium, and the pages in it."""

    def __init__(self) -> None:
        assert CHROMIUM, "Chromium must be installed (Debian: apt-get install chromium)"
        self._folder = tempfile.TemporaryDirectory(prefix="clv-browser-")
        ours, theirs = os.pipe(), os.pipe()  # commands to it, answers of it

        def ends() -> None:
            """It reads commands from 3 and writes to 4, whatever the pipes' numbers are here."""
            high = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (ours[0], theirs[1])]
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        self._process = subprocess.Popen(
            [CHROMIUM, *OPTIONS, f"--user-data-dir={self._folder.name}/profile"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            preexec_fn=ends, close_fds=True,  # noqa: PLW1509  it does nothing but dup
            pass_fds=(3, 4), start_new_session=True,
        )  # fmt: skip
        os.close(ours[0])
        os.close(theirs[1])
        self._write, self._read = ours[1], theirs[0]
        self._buffer, self._count = bytearray(), 0
        self._answers: dict[int, dict[str, Any]] = {}
        self._pages: dict[str, Page] = {}
        self._done: dict[str, str] = {}  # downloads: id -> state
        self._started: list[tuple[str, str]] = []  # downloads: id and suggested name

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.close()

    def close(self) -> None:
        """End it and all that it kept."""
        with contextlib.suppress(AssertionError, OSError):
            self.send("Browser.close")
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        os.close(self._write)
        os.close(self._read)
        with contextlib.suppress(OSError):  # a child of it may still be writing
            self._folder.cleanup()

    def page(
        self, width: int = 1280, height: int = 900, language: str = "en", dark: bool = False
    ) -> Page:
        """A new page with cookies of its own; below 600 px it is a phone."""
        context = self.send("Target.createBrowserContext")["browserContextId"]
        target = self.send(
            "Target.createTarget", url="about:blank", browserContextId=context
        )["targetId"]  # fmt: skip
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        folder = Path(tempfile.mkdtemp(dir=self._folder.name))
        self.send(
            "Browser.setDownloadBehavior", behavior="allowAndName", browserContextId=context,
            downloadPath=str(folder), eventsEnabled=True,
        )  # fmt: skip
        page = self._pages[session] = Page(self, session, context, folder)
        for part in ("Page", "Runtime", "Network", "Log"):
            page.send(f"{part}.enable")
        page.resize(width, height)
        page.send("Network.setExtraHTTPHeaders", headers={"Accept-Language": language})
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        still = {"name": "prefers-reduced-motion", "value": "reduce"}
        page.send("Emulation.setEmulatedMedia", media="", features=[scheme, still])
        return page

    def send(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """A command and its answer; what happens meanwhile is told to the pages."""
        self._count += 1
        number = self._count
        told: dict[str, Any] = {"id": number, "method": method, "params": params}
        if session is not None:
            told["sessionId"] = session
        os.write(self._write, json.dumps(told).encode() + b"\0")
        until = time.monotonic() + PATIENCE
        while number not in self._answers:
            assert self.listen(until - time.monotonic()), f"{method}: no answer"
        answer = self._answers.pop(number)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return dict(answer["result"])

    def listen(self, seconds: float) -> bool:
        """Take what comes within so many seconds; whether anything came."""
        ready, _, _ = select.select([self._read], [], [], max(0.0, seconds))
        if not ready:
            return False
        data = os.read(self._read, 1 << 20)
        assert data, "Chromium has ended"
        self._buffer += data
        *whole, rest = self._buffer.split(b"\0")
        self._buffer = bytearray(rest)
        for each in whole:
            self._take(json.loads(bytes(each)))
        return True

    def _take(self, message: dict[str, Any]) -> None:
        if "id" in message:
            self._answers[message["id"]] = message
            return
        method, params = message["method"], message.get("params", {})
        if method == "Browser.downloadWillBegin":
            self._started.append((params["guid"], params["suggestedFilename"]))
        elif method == "Browser.downloadProgress":
            self._done[params["guid"]] = params["state"]
        elif message.get("sessionId") in self._pages:
            self._pages[message["sessionId"]].hear(method, params)


class Page:
    """A page: opened, read, clicked and typed into as a person would."""

    def __init__(self, browser: Browser, session: str, context: str, folder: Path) -> None:
        self.browser, self._session, self._context, self._folder = (
            browser, session, context, folder,
        )  # fmt: skip
        self.console: list[str] = []  # errors and warnings of the browser and of scripts
        self.requests: list[str] = []  # addresses
        self.status: dict[str, int] = {}  # of the newest answer of each address
        self.headers: dict[str, Mapping[str, str]] = {}

    def hear(self, method: str, params: Mapping[str, Any]) -> None:
        """What the browser tells of this page."""
        if method == "Runtime.exceptionThrown":
            self.console.append(str(params["exceptionDetails"].get("text")))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.console.append(str([each.get("value") for each in params["args"]]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            entry = params["entry"]
            self.console.append(f"{entry['text']} {entry.get('url', '')}")
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Network.responseReceived":
            answer = params["response"]
            self.status[answer["url"]] = answer["status"]
            names = {name.lower(): value for name, value in answer["headers"].items()}
            self.headers[answer["url"]] = names

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """A command of the protocol to this page."""
        return self.browser.send(method, self._session, **params)

    def close(self) -> None:
        """Close it, and forget its cookies."""
        self.browser.send("Target.disposeBrowserContext", browserContextId=self._context)

    def resize(self, width: int, height: int = 900) -> None:
        """Another width; below 600 px it is a phone."""
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height,
            deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip

    def open(self, url: str) -> Page:
        """Go there, and wait until all is loaded."""
        failed = self.send("Page.navigate", url=url).get("errorText")
        assert not failed, f"{url}: {failed}"
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")
        return self

    def read(self, script: str) -> Any:
        """The value of an expression of JavaScript."""
        told = self.send(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def until(self, script: str) -> None:
        """Wait until an expression is true, also over a change of page."""
        end = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(AssertionError):
                if self.read(f"Boolean({script})"):
                    return
            assert time.monotonic() < end, f"never: {script}"
            self.browser.listen(0.02)

    @property
    def url(self) -> str:
        """Where it is."""
        return str(self.read("location.href"))

    def text(self, selector: str = "body") -> str:
        """What a reader sees of the first element that fits."""
        return str(self.read(f"document.querySelector({json.dumps(selector)}).innerText"))

    def texts(self, selector: str) -> list[str]:
        """The same of all that fit."""
        found = f"[...document.querySelectorAll({json.dumps(selector)})].map(e => e.innerText)"
        return list(self.read(found))

    def click(self, selector: str, leaves: bool = False) -> None:
        """Click the middle of it with the mouse; `leaves`: wait for the page that follows."""
        quoted = json.dumps(selector)
        place = self.read(
            f"(() => {{ const e = document.querySelector({quoted}); e.scrollIntoView("
            "{block: 'center', behavior: 'instant'}); const r = e.getClientRects()[0];"
            "return [r.x + r.width / 2, r.y + r.height / 2] })()"
        )
        if leaves:
            self.read("window.left = true")
        for kind in ("mousePressed", "mouseReleased"):
            self.send(
                "Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left",
                clickCount=1,
            )  # fmt: skip
        if leaves:
            self._arrive()

    def type(self, selector: str, text: str) -> None:
        """Replace what stands in a field, as typed."""
        found = f"const e = document.querySelector({json.dumps(selector)})"
        self.read(f"(() => {{ {found}; e.focus(); e.select() }})()")
        self.send("Input.insertText", text=text)

    def press(self, key: str, leaves: bool = False) -> None:
        """A key: Enter, Tab, Escape, ArrowDown ..."""
        codes = {"Enter": 13, "Tab": 9, "Escape": 27, "ArrowDown": 40, "ArrowUp": 38, " ": 32}
        own = {"key": key, "code": key, "windowsVirtualKeyCode": codes[key]}
        if leaves:
            self.read("window.left = true")
        text = {"text": "\r"} if key == "Enter" else {"text": " "} if key == " " else {}
        self.send("Input.dispatchKeyEvent", type="keyDown", **own, **text)
        self.send("Input.dispatchKeyEvent", type="keyUp", **own)
        if leaves:
            self._arrive()

    def choose(self, selector: str, value: str) -> None:
        """An option of a select, as if chosen."""
        quoted, chosen = json.dumps(selector), json.dumps(value)
        self.read(
            f"(() => {{ const e = document.querySelector({quoted}); e.value = {chosen};"
            "e.dispatchEvent(new Event('change', {bubbles: true})) })()"
        )

    def _arrive(self) -> None:
        self.until("!window.left && document.readyState === 'complete'")

    def download(self, selector: str) -> tuple[str, bytes]:
        """Click it and take the file that follows: the name it was given, and its bytes."""
        before = len(self.browser._started)
        self.click(selector)
        end = time.monotonic() + PATIENCE
        while True:
            begun = self.browser._started[before:]
            if begun and self.browser._done.get(begun[0][0]) == "completed":
                return begun[0][1], (self._folder / begun[0][0]).read_bytes()
            assert time.monotonic() < end, f"no download by {selector}"
            self.browser.listen(0.05)

    def screenshot(self, path: Path, whole: bool = True) -> Path:
        """A PNG of the page, in its whole length."""
        shown = self.send(
            "Page.captureScreenshot", format="png", captureBeyondViewport=whole,
            optimizeForSpeed=True,
        )  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(shown["data"]))
        return path

    def pdf(self) -> bytes:
        """The page as it is printed."""
        return base64.b64decode(self.send("Page.printToPDF", printBackground=True)["data"])


def look(page: Page) -> None:
    """No fault of contrast, labels, headings, tables or width, and nothing asked of others."""
    told = page.read(FAULTS.read_text(encoding="utf-8").partition("\n")[2])
    assert told["faults"] == []
    assert told["texts"] > 5
    assert not page.console, page.console
    own = ("http://127.0.0.1:", "data:")  # the browser draws its calendar from such a one
    assert [url for url in page.requests if not url.startswith(own)] == []
