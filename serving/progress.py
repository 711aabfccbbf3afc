"""Progress of long work: a bar with rate and time left on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["shown"]


@contextmanager
def shown(quiet: bool = False) -> Iterator[Callable[[str, float], None] | None]:
    """A callback (stage, part done) that draws on standard error; None when `quiet`."""
    if quiet:
        yield None
    elif sys.stderr.isatty():
        with _bars() as tell:
            yield tell
    else:
        yield _Lines()


class _Lines:
    """One line when a stage ends: what a log wants.

    A stage begins where another was last heard of, since some stages tell their end only.
    """

    def __init__(self) -> None:
        self.stage, self.ended = "", False
        self.began = self.heard = time.monotonic()

    def __call__(self, stage: str, part: float) -> None:
        again = stage == self.stage and self.ended and part >= 1.0  # its end, told once more
        if stage != self.stage or (self.ended and not again):
            self.stage, self.began = stage, self.heard
        self.heard, self.ended = time.monotonic(), part >= 1.0
        if self.ended and not again:
            seconds = self.heard - self.began
            print(f"{stage}: done in {seconds:.1f} s", file=sys.stderr, flush=True)


@contextmanager
def _bars() -> Iterator[Callable[[str, float], None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description:<26}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as progress:
        tasks: dict[str, int] = {}

        def tell(stage: str, part: float) -> None:
            if stage not in tasks:
                tasks[stage] = int(progress.add_task(stage, total=1.0))
            progress.update(tasks[stage], completed=part)  # type: ignore[arg-type]

        yield tell
