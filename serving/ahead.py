"""Imports beside other work: while data are read, half of the processors have nothing to do."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module

__all__ = ["importing"]


@contextmanager
def importing(*modules: str) -> Iterator[None]:
    """Import `modules` one after the other while the body runs; who needs one sooner waits for it.

    An error is left to the import that is written where the module is used. Where the body fails,
    what has not begun is left out: nobody waits for it to be told why.
    """
    enough = threading.Event()

    def work() -> None:
        with suppress(Exception):
            for name in modules:
                if enough.is_set():
                    return
                import_module(name)

    threading.Thread(target=work, name="importing").start()
    try:
        yield
    except BaseException:
        enough.set()
        raise
