"""Who was champion when, and why: the audit file, and the way back through former champions."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from features.errors import InputError
from training import tracking
from training.tracking import MODEL

__all__ = ["history", "note", "record", "tag_history"]

FILE = "audit.jsonl"  # in CLV_HOME
HISTORY = "clv.champions"  # tag of the model: version numbers, the newest last


def record(
    action: str, before: int | None, after: int, *, reason: str, verdict: str, force: str = ""
) -> None:
    """A line in the audit file, on disk before the alias moves: no change goes unrecorded.

    ``verdict`` is what the gate said of the version that becomes champion, ``force`` why it does
    all the same.

    Raises
    ------
    InputError
        The file cannot be written.
    """
    told = {"from": before, "to": after, "reason": reason, "verdict": verdict, "force": force}
    note(action, told, "no version was moved")


def note(action: str, told: Mapping[str, Any], else_: str) -> None:
    """A line in the audit file, on disk before what it tells of happens; no customer's data.

    `else_` says what does not happen where it cannot be written.

    Raises
    ------
    InputError
        The file cannot be written.
    """
    line = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "action": action, **told}
    path = tracking.home() / FILE
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "ab") as file:
            file.write(json.dumps(line).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise InputError(
            f"The audit file must be writable. Got '{error.strerror}' for {path}. "
            f"Free some space or mend its mode; {else_}."
        ) from None


def history(store: tracking.Store, now: int | None) -> list[int]:
    """Champions up to the present one, which the alias alone decides.

    A process killed between alias and tag leaves a tag that is one longer: that end is dropped.
    """
    tag = store.get_registered_model(MODEL).tags.get(HISTORY, "")
    numbers = [int(number) for number in tag.split() if number.isdigit()]
    if now is None:
        return numbers
    if now not in numbers:
        return [*numbers, now]
    while numbers[-1] != now:
        numbers.pop()
    return numbers


def tag_history(store: tracking.Store, numbers: Sequence[int]) -> None:
    """Remember the champions, the newest last."""
    store.set_registered_model_tag(MODEL, HISTORY, " ".join(map(str, numbers[-500:])))
