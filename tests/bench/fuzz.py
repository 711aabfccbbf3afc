"""The service against its own description: schemathesis makes requests out of it, right and wrong.

It needs the extra ``bench``. Tokens are asked for, every check is on, the seed is fixed.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

from tests.bench.overload import _home

__all__ = ["fuzz"]

SECONDS, SEED, CASES = 30, 1, 1_000
#: What the description cannot say is refused by 422: orders before as_of, the features of a model.
#: Too many of something are 413.
CONFIG = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", 401, 403, 404, 422]
[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 405, 406, 413, 415, 422, 429]
"""
#: Small limits make small requests, and many of them.
LIMITS = {"CUSTOMERS": "8", "ORDERS": "20", "LINES": "50", "TOKENS": "always"}


def fuzz() -> None:
    """Rounds of 30 seconds over every route of the service, as an admin, to `CASES` at least."""
    with _home() as home, tempfile.TemporaryDirectory() as place:
        limits = {f"CLV_SERVING_{key}": value for key, value in LIMITS.items()}
        env = {**os.environ, "CLV_HOME": str(home), **limits}
        name = f"fuzz{os.getpid()}"
        token = _clv(env, "token", name, "--role", "admin", "--json")["token"]
        serving = subprocess.Popen(
            [sys.executable, "-m", "serving", "serve", "--port", "0", "--predictions", "latest"],
            env=env, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert serving.stderr is not None
        try:
            line = next(each for each in serving.stderr if "answers on" in each)
            found = re.search(r"http://[0-9.:]+", line)
            assert found, line
            cases, seed = 0, SEED
            while cases < CASES and seed < SEED + 6:
                cases, seed = cases + _round(Path(place), found[0], token, seed), seed + 1
            print(f"  {cases:,} cases (wanted {CASES:,}), answers {_answers(found[0], token)}")
        finally:
            serving.send_signal(signal.SIGTERM)
            faults = serving.stderr.read().count("our fault")
            print(f"  ended with exit code {serving.wait(60)}; faults logged: {faults}")
            _clv(env, "token", name, "--revoke", "--json")


def _round(place: Path, base: str, token: str, seed: int) -> int:
    """Run it, print what it found, and tell how many cases it made."""
    config = place / "schemathesis.toml"
    config.write_text(CONFIG)
    words = [
        sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run",
        f"{base}/openapi.json", "--header", f"Authorization:Bearer {token}", "--checks", "all",
        "--phases", "examples,coverage,fuzzing", "--max-time", str(SECONDS), "--seed", str(seed),
        "--no-shrink", "--continue-on-failure", "--suppress-health-check", "all",
    ]  # fmt: skip
    done = subprocess.run(words, cwd=place, capture_output=True, text=True, check=False)
    count = re.search(r"(\d+) generated.*", done.stdout)
    if done.returncode or count is None:
        print(done.stdout, done.stderr)
    print(f"  seed {seed}, {SECONDS} s: {count[0] if count else 'no cases'}")
    return int(count[1]) if count else 0


def _answers(base: str, token: str) -> dict[str, int]:
    """Answers by status, as the service counted them."""
    asked = urllib.request.Request(  # noqa: S310  a service of ours
        f"{base}/metrics", headers={"Authorization": f"Bearer {token}"}
    )
    with urllib.request.urlopen(asked, timeout=10) as answer:  # noqa: S310
        text = answer.read().decode()
    found: Counter[str] = Counter()
    for status, count in re.findall(r'clv_requests_total\{.*status="(\d+)"\} (\d+)', text):
        found[status] += int(count)
    return dict(sorted(found.items()))


def _clv(env: dict[str, str], *words: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "serving", *words], env=env, check=True, text=True,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    return json.loads(done.stdout)
