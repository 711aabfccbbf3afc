"""The catalogue of behavioural features: one entry each, from which all else is made.

An entry has a name, family, unit, formula over exact window sums, and meaning. The data
dictionary, the feature hash and the values all come from these entries. Names tell the window:
``spend_90d`` is the spend in the 90 x 24 hours before the cutoff, without a suffix all time.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from features import costs, engagement, windows
from features.errors import BundleError
from features.formulas import Expr, Program, Take, larger, root, total
from features.spine import DAY

__all__ = [
    "BEYOND", "OTHER", "PROFILE", "SEASON", "Catalogue", "Feature", "Vocabulary", "catalogue",
    "events_hash", "feature_hash",
]  # fmt: skip

RHYTHM, FREQUENCY, MONEY, BASKET, RETURNS, SEASON, BEYOND, PROFILE = (
    "recency and rhythm",
    "frequency",
    "money",
    "breadth and basket",
    "returns and discounts",
    "season and channel",
    "behaviour beyond orders",
    "customer profile",
)
SPANS: Final = (30, 90, 180, 365, 730)
OTHER: Final = "other"


@dataclass(frozen=True)
class Vocabulary:
    """Levels of text columns that have a place of their own, most frequent first.

    Learned from rows before the first training origin and kept in the model. A column that was
    never given has no levels. ``attributes`` maps a static attribute to its levels, or to None
    where it is a number. ``events`` are kinds of events, ``valued`` those that carry values; other
    kinds are passed over. ``costs`` tells whether costs of orders are read (`features.costs`).
    """

    channel: tuple[str, ...] = ()
    category: tuple[str, ...] = ()
    attributes: tuple[tuple[str, tuple[str, ...] | None], ...] = ()
    events: tuple[str, ...] = ()
    valued: tuple[str, ...] = ()
    costs: bool = False

    def slots(self, group: str) -> tuple[str, ...]:
        """Names of the slots: the levels and, last, "other"; none where nothing was learned."""
        levels: tuple[str, ...] = getattr(self, group)
        return (*levels, OTHER) if levels else ()

    def as_dict(self) -> dict[str, Any]:
        """Plain values for the model card."""
        found: dict[str, Any] = {
            "channel": list(self.channel),
            "category": list(self.category),
            "attributes": [[n, None if v is None else list(v)] for n, v in self.attributes],
        }
        if self.events:
            found["events"] = list(self.events)
            found["valued"] = list(self.valued)
            found["events_hash"] = events_hash()
        if self.costs:
            found["costs"] = costs.version()
        return found

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Vocabulary:
        """The inverse of `as_dict`; older cards know nothing of events and costs.

        Raises
        ------
        BundleError
            The features of events or costs were defined otherwise where the card was written.
        """
        if raw.get("events") and raw.get("events_hash") != events_hash():
            raise BundleError(
                "The features of events must be those this code computes, events_hash "
                f"{events_hash()}. Got {raw.get('events_hash')!r}. Train again with this code."
            )
        return cls(
            tuple(raw["channel"]),
            tuple(raw["category"]),
            tuple((n, None if v is None else tuple(v)) for n, v in raw["attributes"]),
            tuple(raw.get("events", ())),
            tuple(raw.get("valued", ())),
            costs.known(raw.get("costs")),
        )


@dataclass(frozen=True)
class Feature:
    """One entry of the catalogue."""

    name: str
    family: str
    unit: str
    formula: Expr | str
    meaning: str

    def entry(self) -> dict[str, str]:
        """The line of the data dictionary."""
        return {
            "name": self.name, "family": self.family, "unit": self.unit,
            "formula": str(self.formula), "meaning": self.meaning,
        }  # fmt: skip


def _days(name: str) -> Expr:
    return Take(name) / DAY


def _money(expr: Expr) -> Expr:
    return expr / Take("unit")


def _sum(name: str, span: int | None = None) -> Expr:
    return Take(name) if span is None else Take(f"{name}[{span}]")


def _label(span: int | None) -> tuple[str, str]:
    """Suffix of the name and words for a window."""
    return ("", "ever") if span is None else (f"_{span}d", f"in the last {span} days")


def _rhythm() -> list[Feature]:
    gaps = Take("order_days") - 1
    mean = Take("gap_days") / gaps
    # A single gap has no spread: 0 / 0 is "not known", not 0.
    spread = root(Take("gap_days_squared") / gaps - mean * mean) * (gaps - 1) / (gaps - 1)
    since = _days("since_order")
    after_two = gaps / gaps
    months = larger(_days("tenure") / 30.4375, 1.0)
    items: list[tuple[str, str, Expr, str]] = [
        ("days_since_order", "days", since, "days since the newest order"),
        ("tenure_days", "days", Take("tenure_days") + 0.0, "local days since the first order"),
        ("order_span_days", "days", Take("span_days") + 0.0, "days from first to newest order day"),
        ("gap_mean_days", "days", mean, "mean days between order days"),
        ("gap_std_days", "days", spread, "spread of the days between order days"),
        ("gap_variation", "ratio", spread / mean, "spread of the gaps in units of their mean"),
        ("gap_last_days", "days", Take("last_gap") * after_two, "newest gap between order days"),
        ("gap_first_days", "days", Take("first_gap") * after_two, "first gap between order days"),
        ("gap_largest_days", "days", Take("largest_gap") * after_two, "largest gap so far"),
        ("overdue_ratio", "ratio", since / mean, "silence in units of the own mean gap"),
        ("overdue_spreads", "ratio", (since - mean) / spread, "silence beyond the mean gap, "
         "in units of the gaps' spread"),
        ("overdue_largest", "ratio", since / (Take("largest_gap") * after_two),
         "silence in units of the own largest gap"),
        ("gap_last_ratio", "ratio", Take("last_gap") / mean, "newest gap in units of the mean gap"),
        ("alive_share", "share", Take("span_days") / Take("tenure_days"),
         "first to newest order as a share of the time since the first"),
        ("active_months", "months", Take("active_months") + 0.0, "calendar months with an order"),
        ("active_months_365d", "months", _sum("active_months", 365) + 0.0,
         "calendar months whose first order came in the last 365 days"),
        ("active_months_730d", "months", _sum("active_months", 730) + 0.0,
         "calendar months whose first order came in the last 730 days"),
        ("active_month_share", "share", Take("active_months") / months,
         "calendar months with an order per month since the first"),
    ]  # fmt: skip
    return [Feature(name, RHYTHM, unit, expr, words) for name, unit, expr, words in items]


def _frequency() -> list[Feature]:
    found: list[Feature] = []
    for span in (*SPANS, None):
        suffix, words = _label(span)
        found += [
            Feature(f"orders{suffix}", FREQUENCY, "orders", _sum("orders", span) + 0.0,
                    f"orders {words}"),
            Feature(f"order_days{suffix}", FREQUENCY, "days", _sum("order_days", span) + 0.0,
                    f"days whose first order came {words}"),
            Feature(f"lines{suffix}", FREQUENCY, "lines", _sum("lines", span) + 0.0,
                    f"bought lines {words}"),
        ]  # fmt: skip
    months = larger(_days("tenure") / 30.4375, 1.0)
    rate = Take("orders") / months
    found += [
        Feature("orders_per_month", FREQUENCY, "orders per month", rate,
                "orders per month since the first"),
        Feature("orders_rate_change", FREQUENCY, "ratio", _sum("orders", 365) / 12.0 / rate,
                "monthly orders of the last 365 days against all time"),
        Feature("orders_share_90_of_365", FREQUENCY, "share",
                _sum("orders", 90) / _sum("orders", 365),
                "share of the last 365 days' orders that fell into the last 90"),
    ]  # fmt: skip
    for half, whole in ((90, 180), (365, 730)):
        found.append(
            Feature(f"orders_trend_{half}d", FREQUENCY, "orders",
                    _sum("orders", half) * 2.0 - _sum("orders", whole),
                    f"orders in the last {half} days less those in the {half} days before")
        )  # fmt: skip
    return found


def _money_features() -> list[Feature]:
    found: list[Feature] = []
    money = "currency"
    for span in (*SPANS, None):
        suffix, words = _label(span)
        spend, orders = _sum("spend", span), _sum("orders", span)
        found += [
            Feature(f"spend{suffix}", MONEY, money, _money(spend), f"spend {words}"),
            Feature(f"spend_per_order{suffix}", MONEY, money, _money(spend / orders),
                    f"spend per order {words}"),
        ]  # fmt: skip
    lines = Take("lines")
    whole = Take("spend_whole") / lines
    items: list[tuple[str, str, Expr, str]] = [
        ("net_spend", money, _money(Take("spend") - Take("refunds")), "spend less refunds ever"),
        ("net_spend_365d", money, _money(_sum("spend", 365) - _sum("refunds", 365)),
         "spend less refunds in the last 365 days"),
        ("spend_per_order_day", money, _money(Take("spend") / Take("order_days")),
         "spend per day with an order"),
        ("spend_per_month", money, _money(Take("spend")) / larger(_days("tenure") / 30.4375, 1.0),
         "spend per month since the first order"),
        ("line_spread", money, root(Take("spend_squared") / lines - whole * whole),
         "spread of the amounts of lines, in whole units of currency"),
        ("largest_line", money, _money(Take("largest_line")), "largest line ever"),
        ("first_order_spend", money, _money(Take("first_amount")), "spend of the first order"),
        ("last_order_spend", money, _money(Take("last_amount")), "spend of the newest order"),
        ("last_order_ratio", "ratio", Take("last_amount") * Take("orders") / Take("spend"),
         "newest order in units of the own mean order"),
        ("last_to_first_order", "ratio", Take("last_amount") / Take("first_amount"),
         "newest order in units of the first"),
        ("spend_share_365d", "share", _sum("spend", 365) / Take("spend"),
         "share of all spend that fell into the last 365 days"),
        ("spend_growth_365d", "ratio", _sum("spend", 365) / (_sum("spend", 730)
         - _sum("spend", 365)), "spend of the last 365 days against the 365 days before"),
        ("spend_trend_90d", money, _money(_sum("spend", 90) * 2.0 - _sum("spend", 180)),
         "spend in the last 90 days less that in the 90 days before"),
        ("spend_trend_365d", money, _money(_sum("spend", 365) * 2.0 - _sum("spend", 730)),
         "spend in the last 365 days less that in the 365 days before"),
        ("margin_share", "share", (Take("spend") - Take("refunds") - Take("cost"))
         / (Take("spend") - Take("refunds")), "margin as a share of net spend, given costs"),
    ]  # fmt: skip
    return found + [Feature(name, MONEY, unit, expr, words) for name, unit, expr, words in items]


def _basket() -> list[Feature]:
    found: list[Feature] = []
    for span in (90, 365, None):
        suffix, words = _label(span)
        found += [
            Feature(f"quantity{suffix}", BASKET, "pieces", _sum("quantity", span) / 1000.0,
                    f"pieces bought {words}"),
            Feature(f"lines_per_order{suffix}", BASKET, "lines per order",
                    _sum("lines", span) / _sum("orders", span), f"bought lines per order {words}"),
            Feature(f"new_products{suffix}", BASKET, "products", _sum("new_products", span) + 0.0,
                    f"products bought for the first time {words}"),
            Feature(f"new_categories{suffix}", BASKET, "categories",
                    _sum("new_categories", span) + 0.0,
                    f"categories bought for the first time {words}"),
        ]  # fmt: skip
    items: list[tuple[str, str, Expr, str]] = [
        ("products_per_order", "products", Take("new_products") / Take("orders"),
         "different products per order"),
        ("repeat_product_share", "share", (Take("lines") - Take("new_products")) / Take("lines"),
         "share of bought lines that brought no new product"),
        ("quantity_per_line", "pieces", Take("quantity") / 1000.0 / Take("lines"),
         "pieces per bought line"),
        ("price_per_piece", "currency", _money(Take("spend")) / (Take("quantity") / 1000.0),
         "spend per piece"),
        ("first_order_lines", "lines", Take("first_lines") + 0.0, "lines of the first order"),
    ]  # fmt: skip
    return found + [Feature(name, BASKET, unit, expr, words) for name, unit, expr, words in items]


def _returns() -> list[Feature]:
    found: list[Feature] = []
    for span in (90, 365, None):
        suffix, words = _label(span)
        found += [
            Feature(f"refunds{suffix}", RETURNS, "currency", _money(_sum("refunds", span)),
                    f"money given back {words}"),
            Feature(f"refund_lines{suffix}", RETURNS, "lines", _sum("refund_lines", span) + 0.0,
                    f"refunded lines {words}"),
            Feature(f"discounted_share{suffix}", RETURNS, "share",
                    _sum("discounted_lines", span) / _sum("lines", span),
                    f"share of bought lines with a discount {words}"),
        ]  # fmt: skip
    for span in (365, None):
        suffix, words = _label(span)
        found += [
            Feature(f"refund_share{suffix}", RETURNS, "share",
                    _sum("refunds", span) / _sum("spend", span), f"refunds per spend {words}"),
            Feature(f"discount_rate{suffix}", RETURNS, "share", _sum("discount", span)
                    / (_sum("spend", span) + _sum("discount", span)),
                    f"discount as a share of the price before it {words}"),
        ]  # fmt: skip
    known = Take("refund_lines") / Take("refund_lines")
    return [
        *found,
        Feature("days_since_refund", RETURNS, "days", _days("since_refund") * known,
                "days since the newest refund"),
        Feature("first_order_discounted", RETURNS, "0/1", Take("first_discounted") + 0.0,
                "1 if the first order had a discount"),
    ]  # fmt: skip


def _season(vocabulary: Vocabulary) -> list[Feature]:
    orders = Take("orders")
    found = [
        Feature("cutoff_month", SEASON, "month 1-12", Take("month") + 0.0, "month of the cutoff"),
        Feature("spend_next_90d_last_year", SEASON, "currency",
                _money(_sum("spend", 365) - _sum("spend", 275)),
                "spend in the coming 90 days, a year ago"),
        Feature("orders_next_90d_last_year", SEASON, "orders",
                _sum("orders", 365) - _sum("orders", 275), "orders in the coming 90 days, a year "
                "ago"),
        Feature("spend_90d_last_year", SEASON, "currency",
                _money(_sum("spend", 455) - _sum("spend", 365)),
                "spend in the same last 90 days, a year ago"),
        Feature("orders_90d_last_year", SEASON, "orders",
                _sum("orders", 455) - _sum("orders", 365), "orders in the same last 90 days, a "
                "year ago"),
    ]  # fmt: skip
    words = {
        "weekday": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday",
                    "Sunday"),
        "daypart": ("night", "morning", "afternoon", "evening"),
        "quarter": ("January to March", "April to June", "July to September",
                    "October to December"),
    }  # fmt: skip
    for group, names in words.items():
        for k, name in enumerate(names):
            found.append(
                Feature(f"{group}_{k + 1}_share", SEASON, "share", Take(f"{group}:{k}") / orders,
                        f"share of orders: {name}")
            )  # fmt: skip
    for group in ("channel", "category"):
        levels = vocabulary.slots(group)
        for k, level in enumerate(levels):
            found += [
                Feature(f"{group}_share[{level}]", SEASON, "share", Take(f"{group}:{k}") / orders,
                        f"share of orders with {group} {level}"),
                Feature(f"first_{group}[{level}]", SEASON, "0/1",
                        Take(f"first_{group}:{k}") + 0.0,
                        f"1 if the first order's {group} was {level}"),
            ]  # fmt: skip
        if levels:
            counts: list[Expr] = [Take(f"{group}:{k}") for k in range(len(levels))]
            found.append(
                Feature(f"top_{group}_share", SEASON, "share", total(counts, larger) / orders,
                        f"share of orders in the customer's main {group}")
            )  # fmt: skip
    return found


@dataclass(frozen=True)
class Catalogue:
    """All features under one vocabulary, compiled."""

    vocabulary: Vocabulary
    features: tuple[Feature, ...]  # of orders, of events, then attributes of customers

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Feature names, the columns of the matrix in their order."""
        return tuple(feature.name for feature in self.features)

    @cached_property
    def places(self) -> dict[str, int]:
        """The column of each feature."""
        return {name: i for i, name in enumerate(self.names)}

    @cached_property
    def program(self) -> Program:
        """The formulas over orders, as one register program."""
        return Program.of(self._formulas(events=False), windows.inputs(*self.sizes))

    @cached_property
    def event_program(self) -> Program:
        """The formulas over events, as one register program."""
        taken = {f.name for f in self.features if f.family != BEYOND}
        names = engagement.slugs(self.vocabulary.events, taken)
        return Program.of(self._formulas(events=True), engagement.inputs(names))

    def _formulas(self, events: bool) -> list[Expr]:
        chosen = (f.formula for f in self.features if (f.family == BEYOND) == events)
        return [formula for formula in chosen if isinstance(formula, Expr)]

    @property
    def sizes(self) -> tuple[int, int]:
        """Number of channel and category slots."""
        return len(self.vocabulary.slots("channel")), len(self.vocabulary.slots("category"))

    def dictionary(self) -> list[dict[str, str]]:
        """The data dictionary: one entry per feature."""
        return [feature.entry() for feature in self.features]


def catalogue(vocabulary: Vocabulary | None = None) -> Catalogue:
    """The catalogue under a vocabulary; without one, the features that need none."""
    words = vocabulary or Vocabulary()
    orders = [
        *_rhythm(), *_frequency(), *_money_features(), *_basket(), *_returns(), *_season(words),
    ]  # fmt: skip
    if words.costs:
        orders += [Feature(name, MONEY, *about) for name, about in costs.ENTRIES.items()]
    profile = _profile(words)
    taken = {feature.name for feature in (*orders, *profile)}
    events = engagement.entries(words.events, words.valued, taken)
    beyond = [Feature(name, BEYOND, unit, expr, told) for name, unit, expr, told in events]
    return Catalogue(words, (*orders, *beyond, *profile))


def _profile(words: Vocabulary) -> list[Feature]:
    features: list[Feature] = []
    for name, levels in words.attributes:
        # The prefix keeps an attribute called "spend" apart from the feature of that name.
        own = f"customer_{name}"
        if levels is None:
            features.append(
                Feature(own, PROFILE, "number", f"customers.{name}", f"{name} of the customer")
            )
            continue
        for level in (*levels, OTHER):
            features.append(
                Feature(f"{own}[{level}]", PROFILE, "0/1", f"customers.{name} = {level}",
                        f"1 if the customer's {name} is {level}")
            )  # fmt: skip
    return features


def feature_hash() -> str:
    """Hash of the definitions: a model and the running code must agree on it.

    Levels are left out (they are the model's own); what a level's feature would be is in. Events
    have a hash of their own, `events_hash`, so that a model without them does not depend on it.
    """
    probe = Vocabulary(("a",), ("a",), (("number", None), ("text", ("a",))))
    payload = json.dumps([catalogue(probe).dictionary(), list(windows.WINDOWS.items())])
    return hashlib.sha256(payload.encode()).hexdigest()


def events_hash() -> str:
    """Hash of the definitions over events; a model that reads events carries it."""
    made = catalogue(Vocabulary(events=("a", "b", "B!"), valued=("a",))).features
    payload = json.dumps([[f.entry() for f in made if f.family == BEYOND], windows.EVENT_PARTS])
    return hashlib.sha256(payload.encode()).hexdigest()
