"""The service as processes: what the operator sees, with a stand-in for the application."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import Ran, Trained, clv, use_home

from features.errors import InputError
from serving.configured import choose
from serving.serve import listening, require_tokens

ROOT = Path(__file__).parents[1]


class Running:
    """A service in a process of its own, and its standard error."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process, self.lines = process, list[str]()
        self.port = 0
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.strip())

    def until(self, word: str, seconds: float = 90.0) -> str:
        """The first line with a word, which must come."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for line in list(self.lines):
                if word in line:
                    return line
            if self.process.poll() is not None and not self._reader.is_alive():
                break
            time.sleep(0.02)
        raise AssertionError(f"no {word!r} in {self.lines}")

    def get(self, path: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60) as answer:
            return dict(json.load(answer))

    def ended(self) -> int:
        code = self.process.wait(60)
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code


@contextmanager
def service(*words: str) -> Iterator[Running]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.standin", "--port", "0", *words],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    running = Running(process)
    try:
        line = running.until("answers on")
        running.port = int(line.partition("127.0.0.1:")[2].split()[0])
        yield running
    finally:
        if process.poll() is None:
            process.terminate()
        running.ended()


def test_workers_answer_are_started_again_and_finish_what_they_began(
    at_home: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_home(monkeypatch, Path(shutil.copytree(at_home.home, tmp_path / "home")))
    with service("--workers", "2", "--idle-seconds", "60") as running:
        assert running.get("/health")["version"] == "1"
        first = running.get("/health")["pid"]
        os.kill(first, signal.SIGKILL)
        assert f"worker {first} ended (-9)" in running.until("another one starts")
        began = time.monotonic()
        seen = set()
        while len(seen) < 2 and time.monotonic() - began < 60:  # nobody is turned away meanwhile
            seen.add(running.get("/health")["pid"])
        assert len(seen) == 2
        assert first not in seen
        with pytest.raises((urllib.error.URLError, ConnectionError)):
            running.get("/x?exit")
        # What was admitted is finished.
        answers: list[dict[str, Any]] = []
        slow = [
            threading.Thread(target=lambda: answers.append(running.get("/x?sleep=1.5")))
            for _ in range(5)
        ]
        for each in slow:
            each.start()
        time.sleep(0.7)
        # To all at once, as systemd, a container and a terminal do it.
        os.killpg(running.process.pid, signal.SIGTERM)
        for each in slow:
            each.join()
        assert [each["version"] for each in answers] == ["1"] * 5
        assert running.ended() == 0
        assert running.lines[-1] == "clv: stopped"
        assert len([line for line in running.lines if "ended" in line]) == 2  # those of above
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", running.port), timeout=1).close()


def test_without_a_model_it_ends_with_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_home(monkeypatch, tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "serving", "serve", "--port", "0"], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "clv train" in done.stderr


# What is refused before anything starts


def refused(ran: Ran, *words: str) -> None:
    assert ran.code == 2
    assert len(ran.err.splitlines()) == 1
    assert all(word in ran.err for word in words), ran.err


def test_others_are_let_in_with_tokens_alone(at_home: Trained, tmp_path: Path) -> None:
    refused(clv("serve", "--host", "::", "--port", 0), "token", "clv token", "127.0.0.1")
    serving = choose({}, None).serving
    assert require_tokens(serving) is False
    with pytest.MonkeyPatch.context() as patch:
        use_home(patch, tmp_path / "own")
        patch.setenv("CLV_SERVING_TOKENS", "always")
        with pytest.raises(InputError, match="there must be a token"):
            require_tokens(choose({}, None).serving)
        assert clv("token", "shop").code == 0
        assert require_tokens(choose({"host": "::"}, None).serving) is True


def test_a_model_of_uplift_is_read_before_anybody_is_served(
    at_home: Trained, tmp_path: Path
) -> None:
    whole = ("serve", "--predictions", "latest", "--data", at_home.data)
    refused(clv("serve", "--uplift", tmp_path), "--uplift needs --predictions")
    refused(clv("serve", "--predictions", "latest", "--uplift", tmp_path), "--uplift needs --data")
    refused(clv(*whole, "--uplift", tmp_path / "none"), "must be a folder. Got none")
    (tmp_path / "model").mkdir()
    refused(clv(*whole, "--uplift", tmp_path / "model"), "it must hold card.json")
    told = clv(*whole, "--uplift", "up", "--print-config", "--json").json
    assert told["uplift"] == {"value": "up", "from": "--uplift"}


def test_a_port_in_use_and_an_address_elsewhere_are_refused(at_home: Trained) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        refused(clv("serve", "--port", taken.getsockname()[1]), "--port", "use")
    with pytest.raises(InputError, match="--host"):
        listening(choose({"host": "192.0.2.1"}, None).serving)


# Settings


def test_every_setting_says_where_it_comes_from(at_home: Trained, tmp_path: Path) -> None:
    (tmp_path / "clv.toml").write_text(
        '[serving]\nport = 1\nqueue = 2\nworkers = 3\nhosts = ["a.example"]\n'
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLV_SERVING_QUEUE", "20")
        patch.setenv("CLV_SERVING_WORKERS", "4")
        patch.setenv("CLV_SERVING_HOSTS", "b.example, c.example")
        words = ("--config", tmp_path / "clv.toml", "--workers", 5, "--print-config")
        told = clv("serve", *words, "--json").json
        shown = clv("serve", *words)
    file = str(tmp_path / "clv.toml")
    assert told["port"] == {"value": 1, "from": file}
    assert told["queue"] == {"value": 20, "from": "CLV_SERVING_QUEUE"}
    assert told["workers"] == {"value": 5, "from": "--workers"}
    assert told["hosts"] == {"value": ["b.example", "c.example"], "from": "CLV_SERVING_HOSTS"}
    assert told["host"] == {"value": "127.0.0.1", "from": "default"}
    assert len(shown.out.splitlines()) == len(told)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [("PORT", "99999", "65535"), ("PORT", "x", "port"), ("QUEUE", "0", "queue"),
     ("SECONDS", "-1", "seconds"), ("TOKENS", "no", "tokens"), ("COLOUR", "1", "CLV_SERVING_HOST"),
     ("BODY_BYTES", "1.5", "body_bytes")],
)  # fmt: skip
def test_a_wrong_variable_is_named(name: str, value: str, said: str, at_home: Trained) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(f"CLV_SERVING_{name}", value)
        refused(clv("serve", "--print-config"), f"CLV_SERVING_{name}", said)


def test_data_must_be_there(at_home: Trained) -> None:
    refused(clv("serve", "--data", "none", "--print-config"), "--data")
    assert clv("serve", "--data", at_home.data, "--print-config").code == 0
