"""The pages that are read: overview, customers, segments, changes, channels, who stays, the model.

Every number is one of those that were worked out (`serving.desk.prepared`); here they are only
given the names by which the templates ask for them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from starlette.responses import Response

from serving.decisions.channels import ALL, FEW
from serving.desk import pictures
from serving.desk.frame import Page, Pages, Visit, link
from serving.desk.prepared import Prepared
from serving.reasons import cents
from serving.views import shown
from serving.views.language import Note
from serving.views.retold import retold

__all__ = ["PAGES"]

FOUND: Final = 20  # customers that a search lists
SUGGESTED: Final = 8
#: Of the table customers; how somebody is reached does not stand on a page.
PROFILE: Final = ("acquired_at", "acquisition_channel", "country")
#: Metrics in the order in which a reader asks: of sums, of each, of who is first, of who leaves.
METRICS: Final = (
    "bias", "wape", "mae", "capture_10", "normalised_gini", "auroc", "brier", "ece",
)  # fmt: skip
MOVED: Final = 10  # customers whose value rose most, or fell
Row = Mapping[str, Any]


def _shown(make: Callable[[Visit, Prepared], Response]) -> Callable[[Visit], Response]:
    """A page of what has been worked out, or one that says what it waits for."""

    def page(visit: Visit) -> Response:
        found = visit.prepared
        return visit.page("waiting.html", 200) if found is None else make(visit, found)

    return page


# The overview


def start(visit: Visit, found: Prepared) -> Response:
    """What the base is worth, where that lies, what changed."""
    return visit.page(
        "start.html", figures=_figures(found), segments=_segments(found),
        changes=found.table("changes"), found=found,
    )  # fmt: skip


def _figures(found: Prepared) -> dict[str, Row]:
    """Key figures by name, those of the horizon without it: ``clv``, ``churn`` ..."""
    end = f"_{found.months}m"
    whole = {f"clv{end}_per_customer": "each"}
    return {
        whole.get(each["figure"], each["figure"].removesuffix(end)): each
        for each in found.table("figures") or ()
    }


def _segments(found: Prepared) -> list[dict[str, Any]]:
    """A row per segment, the last one of all customers."""
    h = found.months
    names = {
        f"clv_{h}m": "value", f"clv_{h}m_low": "low", f"clv_{h}m_high": "high",
        f"clv_{h}m_per_customer": "each", f"churn_{h}m": "churn", f"order_value_{h}m": "order",
        f"active_months_{h}m": "active", "orders_per_month": "pace",
    }  # fmt: skip
    return [
        {names.get(name, name): value for name, value in row.items()}
        for row in found.table("segments") or ()
    ]


# Customers


def customers(visit: Visit, found: Prepared) -> Response:
    """Ids that begin as was typed; the one that is typed whole is opened at once."""
    typed = visit.query.get("q", "")
    wanted = typed if found.customer(typed) is not None else typed.strip()
    if wanted and found.customer(wanted) is not None:
        return visit.go(link("/desk/customer", id=wanted))
    names = found.search(wanted, FOUND + 1) if wanted else []
    rows = [_predicted(row, found.months) for row in map(found.customer, names[:FOUND]) if row]
    return visit.page(
        "customers.html", typed=wanted, rows=rows, more=len(names) > FOUND, found=found
    )


def suggest(visit: Visit) -> Response:
    """Ids that begin as was typed, for the field of the search."""
    found, typed = visit.prepared, visit.query.get("q", "").strip()
    names = found.search(typed, SUGGESTED) if found and typed else []
    return Response(json.dumps(names), media_type="application/json")


def customer(visit: Visit, found: Prepared) -> Response:
    """One customer: value, why, orders so far."""
    name = visit.query.get("id", "")
    row = found.customer(name)
    if row is None:
        return visit.page("unknown.html", 404, name=name)
    orders = found.orders(name)
    known = found.profile(name) or {}
    return visit.page(
        "customer.html", found=found, row=_predicted(row, found.months), name=name,
        reasons=_reasons(visit, row), profile={k: known[k] for k in PROFILE if known.get(k)},
        orders=orders, picture=pictures.history(orders, found.as_of) if orders else None,
    )  # fmt: skip


def _predicted(row: Row, h: int) -> dict[str, Any]:
    """A row of the predictions by names without the horizon."""
    end = f"_{h}m"
    names = {f"clv{end}": "value", **{f"clv{end}_{k}": k for k in ("low", "median", "high")}}
    return {names.get(k, k.removesuffix(end)): value for k, value in row.items()}


def _reasons(visit: Visit, row: Row) -> list[dict[str, Any]]:
    """The reasons in the visitor's language, each with the share that its bar has."""
    told = row.get("reasons")
    lines = [
        line for line in (told if isinstance(told, list) else [])
        if isinstance(line, dict) and isinstance(line.get("money"), int | float)
    ]  # fmt: skip
    known = visit.desk.live.loaded.model.catalogue
    currency, amounts = visit.desk.currency, [float(line["money"]) for line in lines]
    most = max(map(abs, amounts), default=0.0) or 1.0
    return [
        {"text": retold(line, known, visit.language, currency), "money": money,
         "share": abs(money) / most}
        for line, money in zip(lines, cents(amounts, currency), strict=True)
    ]  # fmt: skip


# What is told of many


def segments(visit: Visit, found: Prepared) -> Response:
    """What each segment is and what to do with it."""
    reach: dict[str, list[Row]] = {}
    for row in found.table("categories") or ():
        reach.setdefault(row["segment"], []).append(row)
    first = {
        name: sorted(rows, key=lambda row: -(row["share"] or 0.0))[:3]
        for name, rows in reach.items()
    }
    return visit.page("segments.html", found=found, segments=_segments(found), reach=first)


def changes(visit: Visit, found: Prepared) -> Response:
    """What is new since the scoring before."""
    told, moves = found.table("changes"), found.table("migration") or []
    ends = [name for name in (moves[0] if moves else {}) if name not in ("from", "customers")]
    return visit.page(
        "changes.html", found=found, changes=told, moves=moves, ends=ends,
        notes=[Note.back(note) for note in told["notes"]] if told else [],
        rises=(found.table("rises") or [])[:MOVED], falls=(found.table("falls") or [])[:MOVED],
    )  # fmt: skip


def channels(visit: Visit, found: Prepared) -> Response:
    """What a customer of each channel costs and brings."""
    about = found.table("channels_about") or {}
    h = about.get("months", found.months)
    names = {f"ltv_{h}m": "ltv", f"ltv_{h}m_low": "ltv_low", f"ltv_{h}m_high": "ltv_high"}
    rows = [
        {names.get(name, name): value for name, value in row.items()}
        | {"few": (row["customers"] or 0) < FEW}
        for row in found.table("channels") or ()
        if row["cohort"] == ALL
    ]
    return visit.page("channels.html", found=found, told=about, rows=rows)


def retention(visit: Visit, found: Prepared) -> Response:
    """How many come back, and how long they stay."""
    told = found.table("retention") or {}
    again = _spans(told.get("ordered_again", {}))
    stayed = _spans(told.get("life", {}).get("stayed", {}))
    # The share in the lead is that of the table below, where it has one.
    lead = dict(again).get(int(told.get("months", 0)), [told.get("repeat_rate")])[0]
    return visit.page(
        "retention.html", found=found, told=told, again=again, stayed=stayed, lead=lead
    )


def _spans(told: Mapping[str, Sequence[float | None]]) -> list[tuple[int, Sequence[float | None]]]:
    """Shares with their intervals by months."""
    return [(int(months.removesuffix("m")), each) for months, each in told.items()]


def _natural(name: str) -> list[tuple[int, str]]:
    """A name by which 5 comes before 10."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in name.split("_")]


def model(visit: Visit, found: Prepared) -> Response:
    """How the model did on a future that it had not seen, beside simpler ways."""
    every = {row["metric"]: row for row in found.table("quality") or ()}
    order = [name for name in METRICS if name in every]
    rest = sorted(every.keys() - {*METRICS, "n"}, key=_natural)
    named = [name for name in next(iter(every.values()), {}) if name != "metric"]
    return visit.page(
        "model.html", found=found, test=found.table("test"), track=found.table("tracking"),
        ours={name: row[named[0]] for name, row in every.items()},
        models=[shown.model(name, visit.say) for name in named],
        rows=[(name, shown.kind(name), [every[name][one] for one in named])
              for name in (*order, *rest)], first=len(order),
    )  # fmt: skip


PAGES: Pages = (
    Page("/", _shown(start)),
    Page("/desk/customers", _shown(customers)),
    Page("/desk/customer", _shown(customer)),
    Page("/desk/suggest", suggest),
    Page("/desk/segments", _shown(segments)),
    Page("/desk/changes", _shown(changes)),
    Page("/desk/channels", _shown(channels)),
    Page("/desk/retention", _shown(retention)),
    Page("/desk/model", _shown(model)),
)
