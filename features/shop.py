"""The people of the simulated shop and what they buy, over its history and the two years after.

All of it before any table is written: days count from the shop's start, money is in cents of the
line's own currency. `features.shop_tables` turns it into the tables of the contract.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import ndtr, ndtri

from features.draws import Floats, Ints, draw, pick, stream

__all__ = [
    "CATEGORIES", "CHANNELS", "CHF_PRICE", "COUNTRIES", "END", "LEADS_VISITS", "OFFER_DAYS",
    "PER_CATEGORY", "SALES", "Calendar", "buying_days", "clock", "draw_contacts", "draw_heads",
    "draw_lines", "draw_people", "draw_refunds", "order_mean",
]  # fmt: skip

END = pd.Timestamp("2026-07-01")
# rate: orders per month while a customer; life: mean days as a customer; taste: towards dearer
# products, in standard deviations; cost: mean EUR for a sign-up; lift: of a contact on the rate.
CHANNELS = pd.DataFrame.from_dict(
    {
        "organic": (0.30, 0.40, 900, 0.1, 0, 0.2),
        "paid_search": (0.25, 0.32, 650, 0.0, 14, 0.5),
        "paid_social": (0.22, 0.22, 380, -0.2, 11, 0.9),
        "affiliate": (0.13, 0.26, 450, -0.1, 8, 0.0),
        "referral": (0.10, 0.50, 1200, 0.3, 5, -0.3),
    },
    orient="index",
    columns=["share", "rate", "life", "taste", "cost", "lift"],
    dtype=np.float64,
)
# rate: multiplies the order rate.
COUNTRIES = pd.DataFrame.from_dict(
    {
        "DE": (0.58, 1.0, 0.0),
        "FR": (0.18, 0.8, 0.1),
        "AT": (0.14, 1.1, 0.0),
        "CH": (0.10, 1.2, 0.5),
    },
    orient="index",
    columns=["share", "rate", "taste"],
)
# price: median EUR; spread: of its logarithm; cost: share of the list price; returns: chance that
# a line comes back.
CATEGORIES = pd.DataFrame.from_dict(
    {
        "books": (0.14, 16, 0.35, 0.62, 0.02),
        "toys": (0.10, 24, 0.55, 0.55, 0.05),
        "garden": (0.07, 32, 0.70, 0.58, 0.05),
        "kitchen": (0.11, 35, 0.65, 0.54, 0.06),
        "beauty": (0.12, 19, 0.50, 0.40, 0.03),
        "sport": (0.08, 45, 0.60, 0.56, 0.12),
        "shoes": (0.08, 70, 0.40, 0.50, 0.38),
        "tops": (0.10, 29, 0.45, 0.42, 0.30),
        "coats": (0.04, 110, 0.45, 0.45, 0.35),
        "audio": (0.05, 85, 0.70, 0.72, 0.09),
        "lamps": (0.04, 55, 0.60, 0.50, 0.08),
        "tea": (0.07, 12, 0.40, 0.48, 0.01),
    },
    orient="index",
    columns=["share", "price", "spread", "cost", "returns"],
    dtype=np.float64,
)
SALES = np.array(["web", "app", "store"], dtype=object)
PER_CATEGORY = 25  # products
_OWN_TASTE = 0.7  # correlation of a product's price rank with the customer's taste
_FAVOURITE = 0.5  # share of lines from the favourite category
_MORE_LINES, _MORE_PIECES = 0.7, 0.25  # means of the Poisson counts above one
OFFER_DAYS, _EVERY = 28, 91  # a campaign's effect; from campaign to campaign
CHF_PRICE = 1.05  # price in CHF of what costs 1 EUR
# Who never buys came by other channels and looks around less: so both tell who will.
_LEADS = CHANNELS.assign(share=[0.10, 0.17, 0.43, 0.27, 0.03])
LEADS_VISITS = 0.25  # of the visits that others with their interest pay


@dataclass(frozen=True)
class Calendar:
    """The days of a shop: season and exchange rate.

    Days count from `start`; `busy[d]` is the season summed over all days before d.
    """

    start: pd.Timestamp
    days: int  # of history
    busy: Floats
    rate: Floats  # EUR per CHF on each day

    @classmethod
    def of(cls, years: float, seed: int) -> Calendar:
        """The calendar of a history of `years` up to `END`."""
        start = END - pd.DateOffset(months=round(12 * years))
        span = pd.date_range(start, END + pd.DateOffset(months=24), inclusive="left")
        day = span.day_of_year.to_numpy()
        season = 1 + 1.1 * np.exp(-(((day - 344) / 13) ** 2) / 2)
        season -= 0.3 * np.exp(-(((day - 205) / 22) ** 2) / 2)
        season *= np.array([1.0, 0.95, 0.93, 0.97, 1.0, 1.05, 1.1])[span.day_of_week]
        walk = stream(seed, "rates").normal(0, 0.003, len(span)).cumsum()
        days = (END - start).days
        return cls(
            start,
            days,
            np.r_[0.0, (season / season.mean()).cumsum()],
            np.round(np.exp(walk) * 0.96, 5),
        )

    def window_end(self, h: int) -> int:
        """The day on which a window of h calendar months after the history ends."""
        return (END + pd.DateOffset(months=h) - self.start).days

    def process(
        self, rng: np.random.Generator, rate: Floats, lo: Floats, hi: Floats
    ) -> tuple[Ints, Floats]:
        """Who and when (at a time of day) of seasonal Poisson processes on the days [lo, hi)."""
        grid = np.arange(len(self.busy), dtype=np.float64)
        a = np.interp(lo, grid, self.busy)
        b = np.maximum(np.interp(hi, grid, self.busy), a)
        who = np.repeat(np.arange(len(rate)), rng.poisson(rate * (b - a)))
        at = np.interp(a[who] + (b - a)[who] * rng.random(len(who)), self.busy, grid)
        return who, np.floor(at) + clock(rng, len(who))

    def eur_per_chf(self, day: Floats) -> Floats:
        """EUR per CHF at each day."""
        return np.asarray(self.rate[np.clip(day.astype(np.int64), 0, len(self.rate) - 1)])


def clock(rng: np.random.Generator, n: int) -> Floats:
    """Times of day as a share of the day, most of them in the afternoon."""
    return (7 + 16 * rng.beta(2.2, 1.8, n)) / 24


def draw_people(n: int, cal: Calendar, seed: int) -> pd.DataFrame:
    """One row per sign-up, in the order of arrival: attributes and what nobody can see."""
    rng = stream(seed, "people")
    crowd = np.diff(cal.busy[: cal.days + 1]) * 1.2 ** (np.arange(cal.days) / 365.25)
    joined = np.sort(rng.choice(cal.days, n, p=crowd / crowd.sum()) + clock(rng, n))
    channel, country = draw(rng, CHANNELS, n), draw(rng, COUNTRIES, n)
    rate = rng.gamma(1.3, pick(CHANNELS, "rate", channel) / 1.3 / 30.4)
    u, minutes, wait = rng.random(n), rng.exponential(0.01, n), rng.exponential(45.0, n)
    # Most buy when they sign up, some later, some never: leads.
    first = joined + np.select([u < 0.72, u < 0.92], [minutes, wait], np.inf)
    ended = pick(CHANNELS, "life", channel) * rng.exponential(size=n) / rng.gamma(2.0, size=n)
    channel = np.where(np.isfinite(first), channel, draw(stream(seed, "leads"), _LEADS, n))
    cost = np.round(pick(CHANNELS, "cost", channel) * rng.gamma(6.0, 1 / 6, n), 2)
    people = pd.DataFrame({"joined": joined, "channel": channel, "country": country})
    people = people.assign(
        rate=rate * pick(COUNTRIES, "rate", country),
        first=first,
        left=np.where(np.isfinite(first), first, joined) + ended,
        cost=cost,
    )
    return _habits(people, cal, rng)


def _habits(people: pd.DataFrame, cal: Calendar, rng: np.random.Generator) -> pd.DataFrame:
    """What people like, how they behave, and where their account came from."""
    n = len(people)
    joined, channel, country = (people[k].to_numpy() for k in ("joined", "channel", "country"))
    taste = pick(CHANNELS, "taste", channel) + pick(COUNTRIES, "taste", country)
    return people.assign(
        taste=taste + rng.normal(0, 0.9, n),
        favourite=draw(rng, CATEGORIES, n),
        sales=rng.choice(3, n, p=[0.6, 0.28, 0.12]),
        returns=rng.gamma(2.0, 0.5, n),
        deals=rng.beta(1.5, 6.0, n) + 0.15 * (channel == 3),
        opens=rng.beta(2.0, 4.0, n),
        member=rng.random(n) < 0.35,
        consent=rng.random(n) < 0.75,
        # One in a hundred was merged from an older account, whose orders still bear the old id.
        merged=np.where(rng.random(n) < 0.01, rng.uniform(joined, cal.days), -np.inf),
        referrer=np.where(channel == 4, np.floor(rng.random(n) * np.arange(n)), -1).astype(int),
        born=np.rint(rng.normal(1984, 13, n).clip(1940, 2006)).astype(int),
    )


def draw_contacts(people: pd.DataFrame, cal: Calendar, seed: int) -> pd.DataFrame:
    """Campaigns: a random half of those who bought and agreed to mail; 6 in 10 are treated."""
    rng = stream(seed, "contacts")
    parts = []
    for number, day in enumerate(range(200, cal.days - OFFER_DAYS - 7, _EVERY)):
        able = people["consent"] & (people["first"] < day) & (rng.random(len(people)) < 0.5)
        who = np.flatnonzero(able)
        parts.append(
            pd.DataFrame({"campaign": number, "day": day, "who": who}).assign(
                treated=rng.random(len(who)) < 0.6
            )
        )
    empty = pd.DataFrame({"campaign": [], "day": [], "who": []}, dtype=np.int64)
    return pd.concat([empty.assign(treated=np.zeros(0, bool)), *parts], ignore_index=True)


def draw_heads(
    people: pd.DataFrame, contacts: pd.DataFrame, cal: Calendar, seed: int
) -> pd.DataFrame:
    """Who orders when, history and future, in the order of time."""
    rng = stream(seed, "orders")
    lift = pick(CHANNELS, "lift", people["channel"].to_numpy())
    most = 1 + max(0.0, float(CHANNELS["lift"].max()))
    lo, hi = buying_days(people)
    who, day = cal.process(rng, people["rate"].to_numpy() * most, lo, hi)
    treated = np.zeros((len(people), 1 + int(contacts["campaign"].max() if len(contacts) else 0)))
    treated[contacts["who"], contacts["campaign"]] = contacts["treated"]
    campaign, since = np.divmod(np.floor(day).astype(int) - 201, _EVERY)
    inside = (campaign >= 0) & (campaign < treated.shape[1]) & (since < OFFER_DAYS)
    offered = inside & (treated[who, np.where(inside, campaign, 0)] > 0)
    # Thinning one faster process gives the plain rate, and the lifted one after a contact.
    keep = rng.random(len(who)) * most < 1 + lift[who] * offered
    starts = np.flatnonzero(people["first"] < len(cal.rate))
    heads = pd.DataFrame(
        {
            "who": np.r_[starts, who[keep]],
            "day": np.r_[people["first"].to_numpy()[starts], day[keep]],
        }
    )
    return heads.sort_values("day", kind="stable", ignore_index=True)


def buying_days(people: pd.DataFrame) -> tuple[Floats, Floats]:
    """Days [lo, hi) on which a repeat may fall: from the day after the first order."""
    first = np.minimum(people["first"].to_numpy(), 1e6)
    return np.floor(first) + 1, np.floor(people["left"].to_numpy())


def _ranks() -> Floats:
    """Standard normal rank of the dearness of each product of a category, cheap to dear."""
    return np.asarray(ndtri((np.arange(PER_CATEGORY) + 0.5) / PER_CATEGORY))


def _prices() -> Ints:
    """List prices in cents, one row per category, cheap to dear."""
    price, spread = (CATEGORIES[name].to_numpy()[:, None] for name in ("price", "spread"))
    return np.asarray(np.rint(price * np.exp(spread * _ranks()) * 100), np.int64)


def draw_lines(heads: pd.DataFrame, people: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The lines of each order; money in cents of the line's own currency."""
    rng = stream(seed, "lines")
    own = people.loc[heads["who"], ["deals", "favourite", "taste", "country", "sales"]]
    depth = rng.choice([0.1, 0.2, 0.3], len(heads), p=[0.5, 0.3, 0.2])
    depth *= rng.random(len(heads)) < own["deals"].to_numpy()
    swap = rng.random(len(heads)) < 0.1
    sales = np.where(swap, rng.integers(0, 3, len(heads)), own["sales"].to_numpy())
    order = np.repeat(np.arange(len(heads)), 1 + rng.poisson(_MORE_LINES, len(heads)))
    n = len(order)
    favourite = own["favourite"].to_numpy()[order]
    category = np.where(rng.random(n) < _FAVOURITE, favourite, draw(rng, CATEGORIES, n))
    taste = _OWN_TASTE * own["taste"].to_numpy()[order]
    rank = ndtr(taste + np.sqrt(1 - _OWN_TASTE**2) * rng.normal(size=n))
    place = np.minimum((rank * PER_CATEGORY).astype(np.int64), PER_CATEGORY - 1)
    swiss = own["country"].to_numpy()[order] == 3
    price = np.rint(_prices()[category, place] * np.where(swiss, CHF_PRICE, 1)).astype(np.int64)
    pieces = 1 + rng.poisson(_MORE_PIECES, n)
    discount = np.rint(price * pieces * depth[order]).astype(np.int64)
    cost = np.rint(price * pieces * pick(CATEGORIES, "cost", category)).astype(np.int64)
    lines = pd.DataFrame({"order": order, "product": category * PER_CATEGORY + place})
    lines = lines.assign(who=heads["who"].to_numpy()[order], day=heads["day"].to_numpy()[order])
    lines = lines.assign(sales=sales[order], swiss=swiss, pieces=pieces, discount=discount)
    lines = lines.assign(amount=price * pieces - discount, cost=cost)
    # A refund is matched to its line by order and product, so a product stands once per order.
    return lines.drop_duplicates(["order", "product"], ignore_index=True)


def draw_refunds(lines: pd.DataFrame, people: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Lines that come back, whole or in part, as negative lines of the same order, days later."""
    rng = stream(seed, "refunds")
    chance = pick(CATEGORIES, "returns", (lines["product"] // PER_CATEGORY).to_numpy())
    chance = chance * people["returns"].to_numpy()[lines["who"]]
    back: pd.DataFrame = lines[rng.random(len(lines)) < np.minimum(chance, 0.9)]
    pieces = rng.integers(1, back["pieces"], endpoint=True)
    day = np.floor(back["day"] + 2 + rng.gamma(2.0, 6.0, len(back))) + clock(rng, len(back))
    amount, cost = (-(back[name] * pieces // back["pieces"]) for name in ("amount", "cost"))
    return back.assign(day=day, pieces=-pieces, discount=0, amount=amount, cost=cost)


def order_mean(people: pd.DataFrame) -> Floats:
    """Expected gross of an order at list prices in EUR less the usual discounts, given the taste.

    Drawing the same product twice in an order counts once; that is a few per cent at most and
    left out here.
    """
    grid = np.linspace(-6, 6, 121)
    edge = ndtri(np.arange(PER_CATEGORY + 1) / PER_CATEGORY)
    gap = (edge - _OWN_TASTE * grid[:, None]) / np.sqrt(1 - _OWN_TASTE**2)
    price = np.diff(ndtr(gap), axis=1) @ _prices().T / 100  # per taste and category
    taste = people["taste"].to_numpy()
    each = np.stack([np.interp(taste, grid, column) for column in price.T])
    own = each[people["favourite"].to_numpy(), np.arange(len(people))]
    mixed = _FAVOURITE * own + (1 - _FAVOURITE) * (CATEGORIES["share"].to_numpy() @ each)
    cheaper = 1 - 0.17 * np.minimum(people["deals"].to_numpy(), 1)
    return np.asarray(mixed * (1 + _MORE_LINES) * (1 + _MORE_PIECES) * cheaper)
