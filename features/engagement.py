"""What events become: features of behaviour beyond orders, by kind of event and over all kinds.

Names come from the kinds: events of kind ``visit`` give ``visit_count_90d`` and
``days_since_visit``; of a kind that carries values there are the mean and the newest one too.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Sequence
from typing import Final

from features.formulas import Expr, Take
from features.spine import DAY
from features.windows import EVENT_PARTS, EVENT_WINDOWS

__all__ = ["Entry", "entries", "inputs", "slugs"]

LONGEST: Final = EVENT_WINDOWS[-1]
NAME: Final = 40  # characters of a kind in the name of a feature
Entry = tuple[str, str, Expr, str]  # name, unit, formula, meaning


def inputs(names: Sequence[str]) -> list[str]:
    """Names of the kernel's integers for kinds called `names`; formulas refer to them.

    ``visit[90]`` counts a window, ``visit`` all time, ``event`` the events of all kinds.
    """
    return [f"{name}{part}" for name in (*names, "event") for part in EVENT_PARTS]


def slugs(kinds: Sequence[str], taken: Collection[str]) -> list[str]:
    """A short name for each kind: letters, digits and underscores, no feature's name twice.

    ``Opened mail!`` becomes ``opened_mail``; a second kind that would bear that name, or whose
    features would meet one that is `taken`, becomes ``opened_mail_2``.
    """
    used = {*taken, *(name for name, *_ in _overall())}
    found: list[str] = []
    for kind in kinds:
        text = unicodedata.normalize("NFKC", kind).casefold()
        base = re.sub(r"[\W_]+", "_", text).strip("_")[:NAME].rstrip("_")
        if not base or base[0].isdigit():
            base = f"kind_{base}".rstrip("_")
        slug, number = base, 1
        # A kind called "event" would meet the sums over all kinds.
        while slug == "event" or slug in found or used & _names(slug):
            number += 1
            slug = f"{base}_{number}"
        used |= _names(slug)
        found.append(slug)
    return found


def _names(slug: str) -> set[str]:
    return {name for name, *_ in _of_kind(slug, slug, True)}


def entries(kinds: Sequence[str], valued: Collection[str], taken: Collection[str]) -> list[Entry]:
    """Features of each kind in the order given, then those over all `kinds`.

    `valued` are the kinds with values; `taken` are names of features that exist already.
    """
    if not kinds:
        return []
    found: list[Entry] = []
    for kind, slug in zip(kinds, slugs(kinds, taken), strict=True):
        found += _of_kind(slug, kind, kind in valued)
    return found + _overall()


def _since(name: str) -> Expr:
    # No event at all: 0 / 0 is "not known".
    return Take(f"{name}.since") / DAY * (Take(name) / Take(name))


def _of_kind(slug: str, kind: str, valued: bool) -> list[Entry]:
    found: list[Entry] = [
        (f"{slug}_count_{days}d", "events", Take(f"{slug}[{days}]") + 0.0,
         f"events of kind {kind} in the last {days} days")
        for days in EVENT_WINDOWS
    ]  # fmt: skip
    found += [
        (f"{slug}_count", "events", Take(slug) + 0.0, f"events of kind {kind} ever"),
        (f"days_since_{slug}", "days", _since(slug), f"days since the newest event of kind {kind}"),
    ]
    if not valued:
        return found
    total, number = Take(f"{slug}.values[{LONGEST}]"), Take(f"{slug}.valued[{LONGEST}]")
    ever = Take(f"{slug}.valued")
    return [
        *found,
        (f"{slug}_mean_{LONGEST}d", "as given", total / number / 1000.0,
         f"mean value of events of kind {kind} in the last {LONGEST} days"),
        (f"{slug}_newest", "as given", Take(f"{slug}.newest") / 1000.0 * (ever / ever),
         f"newest value of an event of kind {kind}"),
    ]  # fmt: skip


def _overall() -> list[Entry]:
    return [
        ("days_since_event", "days", _since("event"), "days since the newest event of any kind"),
        ("events_30d", "events", Take("event[30]") + 0.0, "events in the last 30 days"),
        ("events_90d", "events", Take("event[90]") + 0.0, "events in the last 90 days"),
        ("events_share_30_of_90", "share", Take("event[30]") / Take("event[90]"),
         "share of the last 90 days' events that fell into the last 30"),
    ]  # fmt: skip
