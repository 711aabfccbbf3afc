"""A seeded shop with known truth.

Two profiles. `bench` is fixed, so that figures mean the same everywhere: purchases follow BG/NBD
and spend follows gamma-gamma, hence the best possible forecast is known in closed form. `shop` is
a whole shop (season, returns, products, events, campaigns), whose truth is its own future.

Times are naive UTC, amounts have two decimals, and every purpose draws from its own stream, so
that the same arguments give the same bytes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import hyp2f1

from features.draws import Floats, Ints, draw, ids, micros, names, pick, stamps, stream
from features.errors import InputError
from features.shop import (
    END,
    Calendar,
    draw_contacts,
    draw_heads,
    draw_lines,
    draw_people,
    draw_refunds,
)
from features.shop_tables import history, truth
from features.spine import DAY

__all__ = ["BENCH_AS_OF", "Shop", "bench", "expect", "shop", "write"]

WEEK = 7 * DAY
BENCH_WEEKS, BENCH_PAST = 234, 130
# A Monday from which 24 calendar months are 730 days, 2 more than the 104 weeks of the truth.
BENCH_AS_OF = pd.Timestamp("2024-07-01")


@dataclass(frozen=True)
class Shop:
    """What was simulated: `tables` a model may see, `truth` it may not, `settings` as TOML."""

    tables: dict[str, pd.DataFrame]
    truth: dict[str, pd.DataFrame]
    settings: str


def _check(customers: int, seed: int) -> None:
    if customers < 1:
        raise InputError(f"The number of customers must be 1 or more. Got {customers}.")
    if seed < 0:
        raise InputError(f"The seed must be 0 or more. Got {seed}.")


def _settings(end: pd.Timestamp, more: str) -> str:
    last = (end - pd.Timedelta(days=1)).date()
    # Without complete_until a quiet last day would shorten what the data cover.
    return (
        f'[business]\ncurrency = "EUR"\ntime_zone = "UTC"\n{more}\n'
        f"[orders]\ncomplete_until = {last}\n"
    )


def write(shop: Shop, folder: Path) -> None:
    """Write a shop to a new or empty folder, each file whole or not at all.

    Tables as ``NAME.parquet`` beside ``clv.toml``. Truth goes to ``truth/NAME.parquet``, where no
    reader of the folder takes it for a table; the benchmark's own to ``truth.parquet``.

    Raises
    ------
    InputError
        The folder holds something, or is a file.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"The folder must be new or empty. Got {folder}. Name another one.")
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in shop.tables.items():
        _put(folder / f"{name}.parquet", table)
    for name, table in shop.truth.items():
        _put(folder / ("truth.parquet" if name == "truth" else f"truth/{name}.parquet"), table)
    _put(folder / "clv.toml", shop.settings)


def _put(path: Path, content: pd.DataFrame | str) -> None:
    path.parent.mkdir(exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    if isinstance(content, str):
        part.write_text(content, encoding="utf-8")
    else:
        content.to_parquet(part, index=False)
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    part.replace(path)


# Per acquisition channel: purchase rate per week ~ Gamma(r, alpha), chance to drop out after a
# repeat ~ Beta(a, b), amount ~ Gamma(p, nu) with nu ~ Gamma(q, gamma); cost: mean spend with fees
# for a sign-up, such that neither the cheapest channel nor that of the best customers pays most.
_LAWS = pd.DataFrame.from_dict(
    {
        "search": (0.4, 0.4, 8, 1.2, 2.0, 6, 3.6, 12, 5),
        "social": (0.3, 0.6, 6, 0.7, 2.4, 6, 3.6, 15, 15),
        "affiliate": (0.2, 0.8, 5, 0.4, 3.0, 6, 3.4, 20, 15),
        "referral": (0.1, 1.2, 5, 0.25, 4.0, 5, 3.2, 25, 45),
    },
    orient="index",
    columns=["share", "r", "alpha", "a", "b", "p", "q", "gamma", "cost"],
    dtype=np.float64,
)


def bench(customers: int, seed: int = 0) -> Shop:
    """The benchmark shop: BG/NBD purchases, gamma-gamma spend, 130 weeks of arrivals, 234 in all.

    `orders` holds both the history before `BENCH_AS_OF` and the 104 weeks after it, `spend` the
    months before. Truth: ``truth`` as `expect` gives it at `BENCH_AS_OF` for 24 months.

    Raises
    ------
    InputError
        Fewer than one customer, or a negative seed.
    """
    _check(customers, seed)
    rng = stream(seed, "bench customers")
    law = draw(rng, _LAWS, customers)
    arrival = np.sort(rng.uniform(0, BENCH_PAST, customers))
    who, week = _bench_times(law, arrival, seed)
    start = BENCH_AS_OF - pd.Timedelta(weeks=BENCH_PAST)
    people = pd.DataFrame(
        {
            "customer_id": ids("C", customers, 7),
            "acquired_at": stamps(start, arrival * 7),
            "acquisition_channel": names(_LAWS, law),
        }
    )
    orders = _bench_orders(people, law, who, start, week, seed)
    end = start + pd.Timedelta(weeks=BENCH_WEEKS)
    told = {"truth": expect(orders, people, BENCH_AS_OF)}
    found = {"orders": orders, "customers": people, "spend": _bench_marketing(people, law, seed)}
    return Shop(found, told, _settings(end, ""))


def _bench_marketing(people: pd.DataFrame, law: Ints, seed: int) -> pd.DataFrame:
    """Spend and fees of each channel and month, about in proportion to its sign-ups."""
    signed = pd.DataFrame(
        {
            "channel": people["acquisition_channel"],
            "month": people["acquired_at"].dt.strftime("%Y-%m").astype(object),
            "cost": pick(_LAWS, "cost", law),
        }
    )
    table = signed.groupby(["channel", "month"], sort=True)["cost"].sum().reset_index()
    noise = stream(seed, "bench marketing").gamma(100.0, 0.01, len(table))
    cost = np.round(table["cost"] * noise, 2)
    amount = np.round(cost / 1.1, 2)
    fees = np.round(cost - amount, 2)
    return table.assign(amount=amount, fees=fees).drop(columns="cost")


def _bench_orders(
    people: pd.DataFrame, law: Ints, who: Ints, start: pd.Timestamp, week: Floats, seed: int
) -> pd.DataFrame:
    order = np.argsort(week, kind="stable")
    who = who[order]
    return pd.DataFrame(
        {
            "customer_id": people["customer_id"].to_numpy(dtype=object)[who],
            "order_ts": stamps(start, week[order] * 7),
            "amount": _bench_amounts(law, who, seed),
            "order_id": ids("O", len(who), 8),
            "channel": people["acquisition_channel"].to_numpy(dtype=object)[who],
        }
    )


def _bench_times(law: Ints, arrival: Floats, seed: int) -> tuple[Ints, Floats]:
    """Customer and week of every purchase: at arrival, then at exponential gaps while alive.

    A customer may drop out after each repeat, never after the first purchase (Fader, Hardie and
    Lee 2005). One round per repeat over those who are left, since customers far outnumber rounds.
    """
    rng = stream(seed, "bench purchases")
    gap = pick(_LAWS, "alpha", law) / np.maximum(rng.gamma(pick(_LAWS, "r", law)), 1e-12)
    leave = rng.beta(pick(_LAWS, "a", law), pick(_LAWS, "b", law))
    left = np.arange(len(law))
    who, weeks = [left], [arrival]
    now = arrival
    while len(left):
        now = now + rng.exponential(gap[left])
        inside = now < BENCH_WEEKS
        left, now = left[inside], now[inside]
        who.append(left)
        weeks.append(now)
        stays = rng.random(len(left)) >= leave[left]
        left, now = left[stays], now[stays]
    return np.concatenate(who), np.concatenate(weeks)


def _bench_amounts(law: Ints, who: Ints, seed: int) -> Floats:
    rng = stream(seed, "bench spend")
    nu = rng.gamma(pick(_LAWS, "q", law)) / pick(_LAWS, "gamma", law)
    amount = rng.gamma(pick(_LAWS, "p", law)[who]) / nu[who]
    return np.asarray(np.maximum(np.rint(amount * 100), 1) / 100)


def expect(
    orders: pd.DataFrame, customers: pd.DataFrame, as_of: pd.Timestamp, h: int = 24
) -> pd.DataFrame:
    """The best possible forecast for a benchmark shop: expectations at the true parameters.

    One row per customer with an order before `as_of`, sorted by id: customer_id, as_of, h,
    expected_revenue, expected_orders, p_no_order, for the 52 h / 12 weeks after `as_of`.

    Purchases by BG/NBD (Fader, Hardie and Lee 2005, equation 10), spend by gamma-gamma on all
    purchases, the first included (Fader and Hardie 2013): E = p (gamma + total) / (p n + q - 1).
    No order within t: the likelihood at age T + t over that at age T.
    """
    past = orders[orders["order_ts"] < as_of]
    past = past.assign(cents=(past["amount"] * 100).round().astype("int64"))
    seen = past.groupby("customer_id").agg(
        n=("cents", "size"),
        cents=("cents", "sum"),
        first=("order_ts", "min"),
        last=("order_ts", "max"),
    )
    channel = customers.set_index("customer_id")["acquisition_channel"].reindex(seen.index)
    law = _LAWS.index.get_indexer(pd.Index(channel))
    n = seen["n"].to_numpy(np.float64)
    first, last = (micros(seen[name].to_numpy()) for name in ("first", "last"))
    tx, age = (last - first) / WEEK, (micros(as_of.to_datetime64()) - first) / WEEK
    orders_ahead, silent = _bgnbd(law, n - 1, tx, age, 52 * h / 12)
    p, q, gamma = (pick(_LAWS, name, law) for name in ("p", "q", "gamma"))
    value = p * (gamma + seen["cents"].to_numpy(np.float64) / 100) / (p * n + q - 1)
    columns = {"expected_revenue": orders_ahead * value, "expected_orders": orders_ahead}
    table = pd.DataFrame({"customer_id": seen.index, "as_of": as_of, "h": h})
    return table.assign(**columns, p_no_order=silent)


def _bgnbd(law: Ints, x: Floats, tx: Floats, T: Floats, t: float) -> tuple[Floats, Floats]:
    """Expected purchases in (T, T + t] and the chance of none, given x repeats, the last at tx."""
    r, alpha, a, b = (pick(_LAWS, name, law) for name in ("r", "alpha", "a", "b"))
    log_odds = np.log(a / (b + np.maximum(x, 1) - 1)) + (r + x) * np.log((alpha + T) / (alpha + tx))
    gone = np.where(x > 0, np.exp(np.minimum(log_odds, 700)), 0.0)  # odds of having left
    silent = (((alpha + T) / (alpha + T + t)) ** (r + x) + gone) / (1 + gone)
    z = t / (alpha + T + t)
    # Euler's transformation of the paper's 2F1: its own series fails for frequent buyers.
    stay = (1 - z) ** (a - 1) * hyp2f1(a + b - 1 - r, a - 1, a + b + x - 1, z)
    return (a + b + x - 1) / (a - 1) * (1 - stay) / (1 + gone), silent


def shop(customers: int, years: float = 4.5, seed: int = 0) -> Shop:
    """A whole shop with `years` of history and the 24 months that follow as its truth.

    `customers` counts sign-ups. Seven in ten buy at once, two in ten some weeks later, the others
    never (leads): these come more often by paid_social and affiliate and pay a quarter of the
    visits, so that channel and first visits tell who will buy. The tables are those of the
    contract: orders, customers, events, spend, contacts, rates (EUR per unit), aliases. Refund
    lines carry the order_id of their order and negative amount, quantity and cost.

    Truth: ``orders_future`` (lines of the next 24 months, by today's ids), ``rates_future``,
    ``customers`` (alive, rate_per_month, order_mean in EUR; realised gross, net and orders of 12
    and 24 months, net less refunds of past orders too) and ``campaigns`` (per campaign and
    segment the lift on the order rate and the expected additional orders and gross EUR per
    treated customer in the 28 days after the day of contact; a segment is an acquisition channel).

    Raises
    ------
    InputError
        Fewer than one customer, a negative seed, years outside 0.5 to 30.
    """
    _check(customers, seed)
    if not 0.5 <= years <= 30:
        raise InputError(f"The years of history must be 0.5 to 30. Got {years}.")
    cal = Calendar.of(years, seed)
    people = draw_people(customers, cal, seed)
    contacts = draw_contacts(people, cal, seed)
    lines = draw_lines(draw_heads(people, contacts, cal, seed), people, seed)
    lines = pd.concat([lines, draw_refunds(lines, people, seed)], ignore_index=True)
    lines = lines.sort_values("day", kind="stable", ignore_index=True)
    return Shop(
        history(lines, people, contacts, cal, seed),
        truth(lines, people, contacts, cal),
        _settings(END, "margin = 0.4\n"),
    )
