"""Every feature once more, from the meaning texts alone: plain loops over one customer's lines."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from fractions import Fraction
from itertools import pairwise
from statistics import fmean, pstdev
from typing import Any
from zoneinfo import ZoneInfo

DAY = 24 * 60 * 60 * 1_000_000
NAN = math.nan
Row = Mapping[str, Any]


@dataclass
class Order:
    ts: int
    local: datetime
    channel: str | None
    category: str | None
    lines: list[Row] = field(default_factory=list)

    @property
    def spend(self) -> int:
        return sum(line["amount"] for line in self.lines)


def moment(ts: int, zone: str) -> datetime:
    utc = datetime.fromisoformat("1970-01-01T00:00:00+00:00") + timedelta(microseconds=ts)
    return utc.astimezone(ZoneInfo(zone))


def orders_of(rows: Sequence[Row], zone: str) -> list[Order]:
    """Orders by their first bought line: one order_id; without one a customer's local day."""
    found: dict[tuple[str, object], Order] = {}
    for row in rows:
        if row["amount"] > 0:
            local = moment(row["ts"], zone)
            key = ("id", row["order_id"]) if row["order_id"] is not None else ("day", local.date())
            fresh = Order(row["ts"], local, row["channel"], row["category"])
            found.setdefault(key, fresh).lines.append(row)
    return list(found.values())


def over(a: float, b: float) -> float:
    return a / b if b != 0 and not math.isnan(b) else NAN


def months_since(orders: Sequence[Order], as_of: int) -> float:
    return max((as_of - orders[0].ts) / DAY / 30.4375, 1.0)


def rhythm(orders: Sequence[Order], as_of: int, zone: str) -> dict[str, float]:
    days = sorted({order.local.date() for order in orders})
    gaps = [(b - a).days for a, b in pairwise(days)]
    mean = fmean(gaps) if gaps else NAN
    spread = pstdev(gaps) if len(gaps) > 1 else NAN
    silence = (as_of - orders[-1].ts) / DAY
    tenure = (moment(as_of, zone).date() - days[0]).days
    span = (days[-1] - days[0]).days
    months = {(day.year, day.month) for day in days}
    return {
        "days_since_order": silence,
        "tenure_days": tenure,
        "order_span_days": span,
        "gap_mean_days": mean,
        "gap_std_days": spread,
        "gap_variation": over(spread, mean),
        "gap_last_days": gaps[-1] if gaps else NAN,
        "gap_first_days": gaps[0] if gaps else NAN,
        "gap_largest_days": max(gaps, default=NAN),
        "overdue_ratio": over(silence, mean),
        "overdue_spreads": over(silence - mean, spread),
        "overdue_largest": over(silence, max(gaps, default=NAN)),
        "gap_last_ratio": over(gaps[-1], mean) if gaps else NAN,
        "alive_share": over(span, tenure),
        "active_months": len(months),
        "active_month_share": len(months) / months_since(orders, as_of),
    }


def earliest(pairs: Sequence[tuple[object, int]]) -> dict[object, int]:
    found: dict[object, int] = {}
    for name, ts in pairs:
        found[name] = min(ts, found.get(name, ts))
    found.pop(None, None)
    return found


def window(rows: Sequence[Row], orders: Sequence[Order], begin: float) -> dict[str, float]:
    """What came at or after `begin`; names are those of the features without their suffix."""
    recent = [row for row in rows if row["ts"] >= begin]
    bought = [row for row in recent if row["amount"] > 0]
    back = [row for row in recent if row["amount"] < 0]
    ever = [row for row in rows if row["amount"] > 0]

    def new(pairs: Sequence[tuple[object, int]]) -> int:
        return sum(ts >= begin for ts in earliest(pairs).values())

    spend = sum(row["amount"] for row in bought) / 100
    refunds = -sum(row["amount"] for row in back) / 100
    discount = sum(row["discount"] or 0 for row in bought) / 100
    count = sum(order.ts >= begin for order in orders)
    return {
        "orders": count,
        "order_days": new([(order.local.date(), order.ts) for order in orders]),
        "active_months": new([(order.local.strftime("%Y-%m"), order.ts) for order in orders]),
        "lines": len(bought),
        "spend": spend,
        "spend_per_order": over(spend, count),
        "net_spend": spend - refunds,
        "quantity": sum(row["quantity"] or 0 for row in bought) / 1000,
        "lines_per_order": over(len(bought), count),
        "new_products": new([(row["product_id"], row["ts"]) for row in ever]),
        "new_categories": new([(row["category"], row["ts"]) for row in ever]),
        "refunds": refunds,
        "refund_lines": len(back),
        "discounted_share": over(sum((r["discount"] or 0) > 0 for r in bought), len(bought)),
        "refund_share": over(refunds, spend),
        "discount_rate": over(discount, spend + discount),
    }


def windows(rows: Sequence[Row], orders: Sequence[Order], as_of: int) -> dict[str, float]:
    found: dict[str, float] = {}
    for days in (None, 30, 90, 180, 365, 730):
        begin = -math.inf if days is None else as_of - days * DAY
        suffix = "" if days is None else f"_{days}d"
        found |= {name + suffix: v for name, v in window(rows, orders, begin).items()}
    return found


def money(
    rows: Sequence[Row], orders: Sequence[Order], as_of: int, ever: Mapping[str, float]
) -> dict[str, float]:
    def between(first: int, last: int) -> tuple[float, int]:
        """Spend and orders of ``[as_of - first days, as_of - last days)``."""
        a, b = as_of - first * DAY, as_of - last * DAY
        gross = sum(r["amount"] for r in rows if r["amount"] > 0 and a <= r["ts"] < b) / 100
        return gross, sum(a <= order.ts < b for order in orders)

    months = months_since(orders, as_of)
    amounts = [row["amount"] for row in rows if row["amount"] > 0]
    whole = [math.floor(Fraction(amount, 100) + Fraction(1, 2)) for amount in amounts]
    cost = sum(row["cost"] or 0 for row in rows) / 100
    net = ever["net_spend"]
    first, last = orders[0].spend, orders[-1].spend
    rate = ever["orders"] / months
    return {
        "orders_per_month": rate,
        "orders_rate_change": between(365, 0)[1] / 12 / rate,
        "orders_share_90_of_365": over(between(90, 0)[1], between(365, 0)[1]),
        "orders_trend_90d": between(90, 0)[1] - between(180, 90)[1],
        "orders_trend_365d": between(365, 0)[1] - between(730, 365)[1],
        "spend_trend_90d": between(90, 0)[0] - between(180, 90)[0],
        "spend_trend_365d": between(365, 0)[0] - between(730, 365)[0],
        "spend_share_365d": between(365, 0)[0] / ever["spend"],
        "spend_growth_365d": over(between(365, 0)[0], between(730, 365)[0]),
        "spend_next_90d_last_year": between(365, 275)[0],
        "orders_next_90d_last_year": between(365, 275)[1],
        "spend_90d_last_year": between(455, 365)[0],
        "orders_90d_last_year": between(455, 365)[1],
        "spend_per_order_day": ever["spend"] / ever["order_days"],
        "spend_per_month": ever["spend"] / months,
        "line_spread": pstdev(whole),
        "largest_line": max(amounts) / 100,
        "first_order_spend": first / 100,
        "last_order_spend": last / 100,
        "last_order_ratio": last / 100 / (ever["spend"] / ever["orders"]),
        "last_to_first_order": last / first,
        "margin_share": over(net - cost, net),
    }


def basket(
    rows: Sequence[Row], orders: Sequence[Order], as_of: int, ever: Mapping[str, float]
) -> dict[str, float]:
    back = [row["ts"] for row in rows if row["amount"] < 0]
    first = orders[0].lines
    brought_new = 0
    seen: set[str] = set()
    for row in rows:
        if row["amount"] > 0 and row["product_id"] not in (None, *seen):
            seen.add(row["product_id"])
            brought_new += 1
    return {
        "products_per_order": len(seen) / len(orders),
        "repeat_product_share": 1 - brought_new / ever["lines"],
        "quantity_per_line": ever["quantity"] / ever["lines"],
        "price_per_piece": over(ever["spend"], ever["quantity"]),
        "first_order_lines": len(first),
        "first_order_discounted": float(any((row["discount"] or 0) > 0 for row in first)),
        "days_since_refund": (as_of - max(back)) / DAY if back else NAN,
    }


def shares(orders: Sequence[Order]) -> dict[str, float]:
    of: dict[str, Callable[[Order], int]] = {
        "weekday": lambda order: order.local.isoweekday(),
        "daypart": lambda order: order.local.hour // 6 + 1,
        "quarter": lambda order: (order.local.month + 2) // 3,
    }
    sizes = {"weekday": 7, "daypart": 4, "quarter": 4}
    return {
        f"{group}_{k}_share": sum(pick(order) == k for order in orders) / len(orders)
        for group, pick in of.items()
        for k in range(1, sizes[group] + 1)
    }


def levels(orders: Sequence[Order], group: str, known: Sequence[str]) -> dict[str, float]:
    names = [getattr(order, group) for order in orders]
    slots = [name if name is None or name in known else "other" for name in names]
    count = Counter(slot for slot in slots if slot is not None)
    found = {f"{group}_share[{slot}]": count[slot] / len(orders) for slot in (*known, "other")}
    found |= {f"first_{group}[{slot}]": float(slots[0] == slot) for slot in (*known, "other")}
    return found | {f"top_{group}_share": max(count.values(), default=0) / len(orders)}


def features(
    rows: Sequence[Row],
    as_of: int,
    zone: str,
    channels: Sequence[str] = (),
    categories: Sequence[str] = (),
) -> dict[str, float] | None:
    """All features of one customer; `rows` are dictionaries in the canonical order of the store.

    None without an order before `as_of`.
    """
    past = [row for row in rows if row["ts"] < as_of]
    orders = orders_of(past, zone)
    if not orders:
        return None
    found = windows(past, orders, as_of)
    found |= money(past, orders, as_of, found) | basket(past, orders, as_of, found)
    found |= rhythm(orders, as_of, zone) | shares(orders)
    found |= levels(orders, "channel", channels) | levels(orders, "category", categories)
    return found | {"cutoff_month": moment(as_of, zone).month}


def by_customer(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[row["customer_id"]].append(row)
    return dict(found)


def later(as_of: int, months: int, zone: str) -> int:
    """The instant some calendar months later, by stepping through the calendar day by day."""
    local = moment(as_of, zone)
    year, month = local.year, local.month
    for _ in range(months):
        year, month = (year, month + 1) if month < 12 else (year + 1, 1)
    day = date(year, month, 1)
    while day.day < local.day and (day + timedelta(days=1)).month == month:
        day += timedelta(days=1)
    there = datetime.combine(day, local.time(), ZoneInfo(zone))
    return round(there.timestamp()) * 1_000_000 + local.microsecond


def labels(rows: Sequence[Row], as_of: int, end: int, zone: str) -> tuple[float, float, int]:
    """Gross, refunds and orders of ``[as_of, end)``; an order counts where its first line lies.

    Whoever buys has an order, also one that was begun before.
    """
    inside = [row["amount"] for row in rows if as_of <= row["ts"] < end]
    gross = sum(amount for amount in inside if amount > 0) / 100
    refunds = -sum(amount for amount in inside if amount < 0) / 100
    orders = sum(as_of <= order.ts < end for order in orders_of(rows, zone))
    return gross, refunds, max(orders, int(gross > 0))
