"""Progress of long work: a bar with rate and time left on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["counted", "shown"]


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


def counted(progress: Callable[[str, float], None], what: str, number: int) -> None:
    """Tell how many are done, where the display has room for a rate."""
    count = getattr(progress, "count", None)
    if count is not None:
        count(what, number)


class _Rate:
    """So many a second since the first word of a stage."""

    def __init__(self) -> None:
        self.what, self.number = "", 0

    def count(self, what: str, number: int) -> None:
        """Take the number that is done."""
        self.what, self.number = what, number

    def told(self, seconds: float) -> str:
        """The rate, once; empty if nothing was counted."""
        text = f", {self.number / seconds:,.0f} {self.what}/s" if self.number and seconds else ""
        self.number = 0
        return text


class _Lines(_Rate):
    """One line when a stage ends: what a log wants.

    A stage begins where another was last heard of, since some stages tell their end only.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stage, self.ended = "", False
        self.began = self.heard = time.monotonic()

    def __call__(self, stage: str, part: float) -> None:
        again = stage == self.stage and self.ended and part >= 1.0  # its end, told once more
        if stage != self.stage or (self.ended and not again):
            self.stage, self.began = stage, self.heard
        self.heard, self.ended = time.monotonic(), part >= 1.0
        if self.ended and not again:
            seconds = self.heard - self.began
            rate = self.told(seconds)
            print(f"{stage}: done in {seconds:.1f} s{rate}", file=sys.stderr, flush=True)


class _Bars(_Rate):
    """A bar for each stage."""

    def __init__(self, progress: Any) -> None:
        super().__init__()
        self.progress, self.tasks, self.began = progress, dict[str, int](), time.monotonic()

    def __call__(self, stage: str, part: float) -> None:
        if stage not in self.tasks:
            self.tasks[stage] = self.progress.add_task(stage, total=1.0, rate="")
            self.began = time.monotonic()
        rate = self.told(time.monotonic() - self.began).removeprefix(", ")
        more = {"rate": rate} if rate else {}
        self.progress.update(self.tasks[stage], completed=part, **more)


@contextmanager
def _bars() -> Iterator[_Bars]:
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
        TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[rate]}"),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield _Bars(progress)
