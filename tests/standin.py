"""A service whose answers take as long as asked: what is around the application, without it.

    python -m tests.standin --port 0 --workers 2

``POST /v1/predict`` spins for 1.2 ms as the real one does; ``?sleep=S`` waits instead, ``?spin=S``
spins longer, ``?exit`` ends the process at once, ``?fail`` raises.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import Any
from urllib.parse import parse_qsl

from serving.configured import choose
from serving.serve import run

SPIN = 0.0012


def build(chosen: Any, live: Any) -> tuple[Any, None]:
    """An application that reads its body, takes its time and names version and process."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await _live_and_die(receive, send)
            return
        length, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ConnectionError("the body was cut off")
            length += len(message.get("body", b""))
            more = message.get("more_body", False)
        asked = dict(parse_qsl(scope["query_string"].decode(), keep_blank_values=True))
        loaded = live.loaded
        if "exit" in asked:
            os._exit(9)
        if "fail" in asked:
            raise KeyError("name@example.org")
        if "sleep" in asked:
            await asyncio.sleep(float(asked["sleep"]))
        elif scope["path"] == "/v1/predict":
            until = time.thread_time() + float(asked.get("spin", SPIN))
            while time.thread_time() < until:
                pass
        answer = {**live.status(), "version": loaded.version, "pid": os.getpid(), "came": length}
        await _send(send, json.dumps(answer).encode())

    return app, None


async def _live_and_die(receive: Any, send: Any) -> None:
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return


async def _send(send: Any, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    from tests.standin import build as made  # by a name that workers can import

    words = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    options = {key.removeprefix("--").replace("-", "_"): value for key, value in words.items()}
    numbers = {key: int(value) if value.isdigit() else value for key, value in options.items()}
    sys.exit(run(choose(numbers, None).serving, made))
