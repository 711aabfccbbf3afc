"""The tables of the simulated shop: its history as the contract has it, and the truth after it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.draws import Floats, Ints, ids, names, pick, stamps, stream
from features.shop import (
    CATEGORIES,
    CHANNELS,
    CHF_PRICE,
    COUNTRIES,
    LEADS_VISITS,
    OFFER_DAYS,
    PER_CATEGORY,
    SALES,
    Calendar,
    buying_days,
    order_mean,
)

__all__ = ["history", "truth"]

_COOLING = 75.0  # days before leaving in which a customer's interest fades


def history(
    lines: pd.DataFrame, people: pd.DataFrame, contacts: pd.DataFrame, cal: Calendar, seed: int
) -> dict[str, pd.DataFrame]:
    """What a model may see: all tables of the contract, up to the end of the history."""
    past = lines[lines["day"] < cal.days]
    return {
        "orders": _orders_table(past, people, cal),
        "customers": _customers_table(people, cal, seed),
        "events": _events_table(past, people, cal, seed),
        "spend": _spend_table(people, cal),
        "contacts": _contacts_table(contacts, people, cal),
        "rates": _rates_table(cal, 0, cal.days),
        "aliases": _aliases_table(people),
    }


def truth(
    lines: pd.DataFrame, people: pd.DataFrame, contacts: pd.DataFrame, cal: Calendar
) -> dict[str, pd.DataFrame]:
    """What a model may not see: the 24 months after the history and the campaigns' effects."""
    return {
        "customers": _future(lines, people, cal),
        "orders_future": _orders_table(lines[lines["day"] >= cal.days], people, cal),
        "rates_future": _rates_table(cal, cal.days, len(cal.rate)),
        "campaigns": _effects(contacts, people, cal),
    }


def _orders_table(lines: pd.DataFrame, people: pd.DataFrame, cal: Calendar) -> pd.DataFrame:
    own = ids("C", len(people), 7)
    who, day = lines["who"].to_numpy(), lines["day"].to_numpy()
    old = day < people["merged"].to_numpy()[who]
    product = lines["product"].to_numpy()
    return pd.DataFrame(
        {
            "customer_id": np.where(old, ids("OLD", len(people), 7)[who], own[who]),
            "order_ts": stamps(cal.start, day),
            "amount": lines["amount"].to_numpy() / 100,
            "order_id": np.array([f"O{k + 1:08d}" for k in lines["order"]], dtype=object),
            "product_id": ids("P", len(CATEGORIES) * PER_CATEGORY, 4)[product],
            "category": names(CATEGORIES, product // PER_CATEGORY),
            "channel": SALES[lines["sales"]],
            "quantity": lines["pieces"].to_numpy(),
            "discount": lines["discount"].to_numpy() / 100,
            "cost": lines["cost"].to_numpy() / 100,
            "currency": np.where(lines["swiss"], "CHF", "EUR").astype(object),
        }
    )


def _customers_table(people: pd.DataFrame, cal: Calendar, seed: int) -> pd.DataFrame:
    n = len(people)
    rng = stream(seed, "addresses")
    own = ids("C", n, 7)
    joined = stamps(cal.start, people["joined"].to_numpy())
    term = joined.astype("datetime64[D]") + rng.integers(1, 4, n) * np.timedelta64(365, "D")
    referrer = people["referrer"].to_numpy()
    mark = np.arange(1, n + 1)
    return pd.DataFrame(
        {
            "customer_id": own,
            "acquired_at": joined,
            "acquisition_channel": names(CHANNELS, people["channel"].to_numpy()),
            "acquisition_cost": people["cost"],
            "country": names(COUNTRIES, people["country"].to_numpy()),
            "birth_year": people["born"],
            "contract_end": pd.Series(term.astype("datetime64[us]")).where(rng.random(n) < 0.03),
            "referrer_id": np.where(referrer >= 0, own[np.maximum(referrer, 0)], None),
            "email": np.array([f"sample.{k}@example.com" for k in mark], dtype=object),
            "phone": np.array([f"+999{k:08d}" for k in mark], dtype=object),
            "first_name": "Sample",
            "last_name": np.array([f"Person{k}" for k in mark], dtype=object),
            "zip": np.array([f"{k:05d}" for k in rng.integers(0, 99_999, n)], dtype=object),
            "city": np.array([f"Sampletown {k}" for k in rng.integers(1, 40, n)], dtype=object),
            "consent_email": people["consent"],
            "consent_sms": people["consent"] & (rng.random(n) < 0.4),
            "consent_ads": rng.random(n) < 0.55,
            "loyalty_member": people["member"],
        }
    )


def _warmth(people: pd.DataFrame, who: Ints, day: Floats, floor: float) -> Floats:
    """Interest from 1 down to `floor`: it fades before a customer leaves, so it can be seen."""
    ahead = people["left"].to_numpy()[who] - day
    return np.clip(ahead / _COOLING, floor, 1.0)


def _events_table(
    lines: pd.DataFrame, people: pd.DataFrame, cal: Calendar, seed: int
) -> pd.DataFrame:
    """Visits, opened mails, support, surveys (0 to 10) and points, all within the history."""
    rng = stream(seed, "events")
    lo, hi = np.floor(people["joined"].to_numpy()) + 1, np.full(len(people), float(cal.days))
    opens = np.where(people["consent"], people["opens"].to_numpy() * 0.06, 0.0)
    who, day = cal.process(rng, people["rate"].to_numpy() * 5, lo, hi)
    seen = rng.random(len(who)) < _warmth(people, who, day, 0.02)
    lead = np.isinf(people["first"].to_numpy())[who]
    seen &= ~lead | (stream(seed, "leads' visits").random(len(who)) < LEADS_VISITS)
    place = np.where(people["sales"] == 1, "app", "web").astype(object)
    parts = [_kind("visit", who[seen], day[seen], np.nan, place[who[seen]])]
    who, day = cal.process(rng, opens, lo, hi)
    seen = rng.random(len(who)) < _warmth(people, who, day, 0.1)
    parts.append(_kind("mail_opened", who[seen], day[seen], np.nan, "email"))
    who, day = cal.process(rng, np.full(len(people), 0.004), *buying_days(people))
    seen = (rng.random(len(who)) < 1.05 - _warmth(people, who, day, 0.0)) & (day < cal.days)
    back = lines[(lines["amount"] < 0) & (rng.random(len(lines)) < 0.3)]
    who, day = np.r_[who[seen], back["who"]], np.r_[day[seen], back["day"]]
    parts.append(_kind("support", who, day, np.nan, "chat"))
    parts += _answers(lines, people, cal, rng)
    events = pd.concat(parts, ignore_index=True).sort_values(["ts", "who"], kind="stable")
    events["ts"] = stamps(cal.start, events["ts"].to_numpy())
    events["who"] = ids("C", len(people), 7)[events["who"]]
    return events.rename(columns={"who": "customer_id"}).reset_index(drop=True)


def _answers(
    lines: pd.DataFrame, people: pd.DataFrame, cal: Calendar, rng: np.random.Generator
) -> list[pd.DataFrame]:
    """Loyalty points with each order, and a survey some days after a few of them."""
    sold = lines[lines["amount"] > 0]
    euros = (
        sold["amount"] / 100 * np.where(sold["swiss"], cal.eur_per_chf(sold["day"].to_numpy()), 1)
    )
    orders = sold.assign(points=euros).groupby("order", sort=True)
    heads = orders.agg(who=("who", "first"), day=("day", "first"), points=("points", "sum"))
    club = heads[people["member"].to_numpy()[heads["who"]]]
    points = _kind("loyalty_points", club["who"], club["day"], np.floor(club["points"]), "club")
    asked = heads[rng.random(len(heads)) < 0.08]
    who, day = asked["who"].to_numpy(), np.floor(asked["day"].to_numpy()) + 3.75
    warm = _warmth(people, who, day, 0.0)
    score = np.clip(np.rint(5.0 + 3.2 * warm + rng.normal(0, 1.6, len(who))), 0, 10)
    told = day < cal.days
    return [points, _kind("survey", who[told], day[told], score[told], "email")]


def _kind(
    kind: str,
    who: Ints | pd.Series,
    day: Floats | pd.Series,
    value: float | Floats | pd.Series,
    channel: str | npt.NDArray[np.object_],
) -> pd.DataFrame:
    frame = pd.DataFrame({"who": np.asarray(who), "ts": np.asarray(day), "kind": kind})
    return frame.assign(value=np.asarray(value, np.float64), channel=channel)


def _spend_table(people: pd.DataFrame, cal: Calendar) -> pd.DataFrame:
    """Amount and fees per channel and month: together the acquisition cost of its sign-ups."""
    month = stamps(cal.start, people["joined"].to_numpy()).astype("datetime64[M]").astype(str)
    channel = names(CHANNELS, people["channel"].to_numpy())
    paid = people.assign(channel=channel, month=month.astype(object)).query("cost > 0")
    total = paid.groupby(["channel", "month"])[["cost"]].sum().reset_index()
    amount = np.round(total["cost"] / 1.1, 2)
    fees = np.round(total["cost"] - amount, 2)
    return total.assign(amount=amount, fees=fees, currency="EUR").drop(columns="cost")


def _contacts_table(contacts: pd.DataFrame, people: pd.DataFrame, cal: Calendar) -> pd.DataFrame:
    number = contacts["campaign"].to_numpy()
    day = contacts["day"].to_numpy() + 8 / 24
    return pd.DataFrame(
        {
            "campaign_id": [f"K{k + 1:02d}" for k in number],
            "customer_id": ids("C", len(people), 7)[contacts["who"]],
            "ts": stamps(cal.start, day),
            "arm": np.where(contacts["treated"], "treatment", "control").astype(object),
            "offer": np.array(["10 percent off", "free delivery"], dtype=object)[number % 2],
            "cost": np.where(contacts["treated"], 0.6, 0.0),
            "channel": "email",
        }
    )


def _rates_table(cal: Calendar, first: int, last: int) -> pd.DataFrame:
    day = stamps(cal.start, np.arange(first, last, dtype=np.float64))
    return pd.DataFrame({"currency": "CHF", "day": day, "rate": cal.rate[first:last]})


def _aliases_table(people: pd.DataFrame) -> pd.DataFrame:
    who = np.flatnonzero(people["merged"] > people["first"])
    old, new = ids("OLD", len(people), 7), ids("C", len(people), 7)
    return pd.DataFrame({"old_id": old[who], "customer_id": new[who]})


def _future(lines: pd.DataFrame, people: pd.DataFrame, cal: Calendar) -> pd.DataFrame:
    """What each customer is, and what they really did in the 12 and 24 months after the history."""
    n = len(people)
    swiss = people["country"].to_numpy() == 3
    table = pd.DataFrame(
        {
            "customer_id": ids("C", n, 7),
            "alive": (people["left"] > cal.days) & np.isfinite(people["first"]),
            "rate_per_month": people["rate"] * 30.4,
            "order_mean": order_mean(people) * np.where(swiss, CHF_PRICE * cal.rate.mean(), 1.0),
        }
    )
    for h in (12, 24):
        ahead = lines[(lines["day"] >= cal.days) & (lines["day"] < cal.window_end(h))]
        euros = np.where(ahead["swiss"], cal.eur_per_chf(ahead["day"].to_numpy()), 1.0)
        euros = euros * ahead["amount"].to_numpy() / 100
        sold = (ahead["amount"] > 0).to_numpy()
        heads = ahead[sold].drop_duplicates("order")
        who = ahead["who"].to_numpy()
        table[f"gross_{h}m"] = np.round(np.bincount(who[sold], euros[sold], n), 2)
        table[f"net_{h}m"] = np.round(np.bincount(who, euros, n), 2)
        table[f"orders_{h}m"] = np.bincount(heads["who"], minlength=n)
    return table


def _effects(contacts: pd.DataFrame, people: pd.DataFrame, cal: Calendar) -> pd.DataFrame:
    """What each campaign brings by construction, per treated customer of each segment."""
    who, day = contacts["who"].to_numpy(), contacts["day"].to_numpy()
    lo, hi = (bound[who] for bound in buying_days(people))
    grid = np.arange(len(cal.busy), dtype=np.float64)
    a = np.interp(np.maximum(lo, day + 1), grid, cal.busy)
    b = np.interp(np.minimum(hi, day + 1 + OFFER_DAYS), grid, cal.busy)
    channel = people["channel"].to_numpy()[who]
    lift = pick(CHANNELS, "lift", channel)
    orders = lift * people["rate"].to_numpy()[who] * np.maximum(b - a, 0)
    swiss = people["country"].to_numpy()[who] == 3
    value = order_mean(people)[who] * np.where(swiss, CHF_PRICE * cal.rate.mean(), 1.0)
    rows = pd.DataFrame(
        {
            "campaign_id": [f"K{k + 1:02d}" for k in contacts["campaign"]],
            "segment": names(CHANNELS, channel),
            "lift": lift,
            "extra_orders": orders,
            "extra_gross": orders * value,
            "treated": contacts["treated"],
        }
    )
    table = rows.groupby(["campaign_id", "segment", "lift"], as_index=False).agg(
        contacted=("treated", "size"),
        treated=("treated", "sum"),
        extra_orders=("extra_orders", "mean"),
        extra_gross=("extra_gross", "mean"),
    )
    return table.assign(days=OFFER_DAYS)
