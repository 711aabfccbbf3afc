"""What every customer was, is and will be worth, part by part, and what to spend on them at most.

    past_margin      earned before the moment of the predictions (`serving.decisions.money`)
    clv_{h}m         margin_{h}m - discount_{h}m - retention_cost_{h}m
    total_{h}m       past_margin + clv_{h}m - acquisition_cost

All of it is whole minor units, each part rounded once (the discount is what the others leave), so
every line adds up for every customer, and sums over groups are the sums of their customers. Past
margin is neither compounded nor less a cost to keep: that setting speaks of the months ahead.

    value_if_kept    (clv + retention cost) / (1 - churn) - retention cost: what a customer is
                     worth given that they order again within the horizon
    keep_at_most     churn x (clv + retention cost) / (1 - churn), at most value_if_kept: what is
                     lost on average by leaving them alone, and so the most that a measure may cost
                     which is sure to keep them; one that keeps a tenth may cost a tenth
    win_at_most      of a prospect clv_{h}m, if above 0; of a group what its new customers (those
                     won in the year before) have earned since and will within the horizon, on
                     average: the most that winning one more like them may cost
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import InputError
from features.people import NEVER
from features.settings import Settings
from features.spine import add_months, instant
from features.store import Store
from serving.decisions import files
from serving.decisions.acquisition import LEAST, RECENT
from serving.decisions.campaigns import attributes
from serving.decisions.money import GIVEN, NONE, SHARED, UNKNOWN, acquisitions, realised_before
from serving.decisions.targets import LEAST_STAY
from serving.views.language import Note
from training.crosscheck import Crosscheck, cross_check
from training.model import COLD_START

__all__ = ["ALL", "Worth", "worth"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
ALL: Final = "all"
NOT_KNOWN: Final = "not known"
PAST: Final = ("past_revenue", "past_margin")
AHEAD: Final = ("margin", "discount", "retention_cost", "clv")
SPEND: Final = ("value_if_kept", "keep_at_most", "win_at_most")
APART: Final = 0.05  # of revenue: so far may past and expected margin lie apart unremarked


@dataclass(frozen=True)
class Worth:
    """One row per customer, sorted by customer_id, money in minor units.

    ``frame``: customer_id, as_of, evidence, the columns of `by`, past_orders, `PAST`, `AHEAD` of
    each horizon, acquisition_cost (missing where not known), acquisition (where that is from),
    total of each horizon, `SPEND` of the `horizon` decided by. ``outside`` is the margin earned
    with people who have no prediction, and their number.
    """

    frame: pd.DataFrame
    predictions: pd.DataFrame  # of the same rows
    recent: npt.NDArray[np.bool_]  # (rows,), who was won in the year before
    months: tuple[int, ...]
    horizon: int
    by: tuple[str, ...]
    settings: Settings
    unit: int
    outside: tuple[int, int]
    notes: tuple[str, ...]

    @property
    def money(self) -> list[str]:
        """The columns in minor units."""
        ahead = [f"{name}_{h}m" for h in self.months for name in AHEAD]
        totals = [f"total_{h}m" for h in self.months]
        spend = [f"{name}_{self.horizon}m" for name in SPEND]
        return [*PAST, *ahead, "acquisition_cost", *totals, *spend]

    @property
    def _each(self) -> str:
        return f"keep_at_most_each_{self.horizon}m"

    def table(self) -> pd.DataFrame:
        """The rows with money in currency."""
        return self._shown(self.frame)

    def _shown(self, frame: pd.DataFrame) -> pd.DataFrame:
        shown = frame.copy()
        for name in (*self.money, self._each):
            if name not in shown:
                continue
            shown[name] = shown[name].astype("Float64") / self.unit
        return shown

    def groups(self) -> pd.DataFrame:
        """Sums in minor units: of all, then of every level of each column of `by`.

        by, level, customers, prospects, past_orders, all money columns summed (win_at_most: per
        new customer, missing below ten of them), keep_at_most_each (per customer), cost_unknown
        (customers without a known acquisition cost), new_customers, then the closed formula's
        value before the cost to keep beside the model's, ``formula_{h}m`` and ``model_{h}m`` in
        currency, missing where the predictions lack the drivers.
        """
        rows = [self._sums(name, level, here) for name, level, here in self._levels()]
        return pd.DataFrame(rows)

    def summary(self) -> pd.DataFrame:
        """As `groups`, money in currency."""
        return self._shown(self.groups())

    def _levels(self) -> Iterator[tuple[str, str, npt.NDArray[np.bool_]]]:
        yield ALL, ALL, np.ones(len(self.frame), bool)
        for name in self.by:
            told = self.frame[name].fillna(NOT_KNOWN).astype(str).to_numpy(object)
            for level in sorted(set(told)):
                yield name, level, told == level

    def _sums(self, name: str, level: str, here: npt.NDArray[np.bool_]) -> dict[str, Any]:
        frame, h = self.frame[here], self.horizon
        cold = (frame["evidence"] == COLD_START).to_numpy()
        row: dict[str, Any] = {"by": name, "level": level, "customers": int((~cold).sum())}
        row |= {"prospects": int(cold.sum()), "past_orders": int(frame["past_orders"].sum())}
        row |= {column: int(frame[column].sum()) for column in self.money}
        row[self._each] = (
            row[f"keep_at_most_{h}m"] // row["customers"] if row["customers"] else pd.NA
        )
        new = frame[self.recent[here]]
        row[f"win_at_most_{h}m"] = pd.NA
        if len(new) >= LEAST:
            worth = int(new["past_margin"].sum() + new[f"clv_{h}m"].sum())
            row[f"win_at_most_{h}m"] = max(worth // len(new), 0)
        row["cost_unknown"] = int(frame["acquisition_cost"].isna().sum())
        row["new_customers"] = len(new)
        check = self.checked(here)
        row[f"formula_{h}m"] = math.nan if check is None else round(check.formula, 2)
        row[f"model_{h}m"] = math.nan if check is None else round(check.model, 2)
        return row

    def checked(self, here: npt.NDArray[np.bool_]) -> Crosscheck | None:
        """The closed formula over some rows' customers; None without any, or without drivers."""
        some = self.predictions[here]
        some = some[some["evidence"] != COLD_START]
        if some.empty or f"active_months_{self.horizon}m" not in some:
            return None
        return cross_check(some, self.horizon, self.settings.business)

    def as_dict(self) -> dict[str, Any]:
        """Plain values; no customer's."""
        shown = self.summary().astype(object)
        shown = shown.where(shown.notna(), None)
        sources = self.frame["acquisition"].value_counts()
        return {
            "as_of": str(self.frame["as_of"].iloc[0]),
            "horizon": self.horizon,
            "currency": self.settings.business.currency,
            "acquisition": {name: int(sources.get(name, 0))
                            for name in (GIVEN, SHARED, NONE, UNKNOWN)},
            "outside": {"customers": self.outside[0],
                        "past_margin": self.outside[1] / self.unit},
            "groups": shown.to_dict("records"),
            "notes": list(self.notes),
        }  # fmt: skip


def worth(
    store: Store,
    predictions: pd.DataFrame,
    settings: Settings,
    spend: pd.DataFrame | None = None,
    by: Sequence[str] = (),
    horizon: int | None = None,
    people: pd.DataFrame | None = None,
) -> Worth:
    """Value of the customers and prospects of a predictions table, part by part; see the module.

    Parameters
    ----------
    predictions : what `files.predictions` reads, of one moment.
    spend : what `features.campaigns.spend` gives, if there is such a table.
    by : ``channel`` and ``cohort`` (where and in which month somebody was won), columns of the
        predictions or of the table customers.
    horizon : to decide by, in months; by default the shortest.
    people : what `money.known_people` gives of the predictions' moment, if it is there already.

    Raises
    ------
    InputError
        Predictions of other data, without the horizon or a needed column; nobody knows a column.
    """
    decided = files.horizon_of(predictions, horizon)
    months = _months(predictions)
    until = instant(str(predictions["as_of"].iloc[0]), store.zone)
    won = acquisitions(store, until, spend, people).set_index("customer_id")
    # Floats, which a missing row would make of them, do not hold every instant.
    won = won.astype({"first": "Int64", "acquired": "Int64"})
    own = won.reindex(predictions["customer_id"])
    cold = (predictions["evidence"] == COLD_START).to_numpy()
    notes = _require_known(won, own, cold)
    past, outside = _past(store, predictions["customer_id"], until, settings.business.margin)
    frame = predictions[["customer_id", "as_of", "evidence"]].copy()
    for name in by:
        frame[name] = _level(store, predictions, own, name)
    frame = frame.assign(past_orders=past["orders"].to_numpy())
    frame = frame.assign(past_revenue=past["revenue"].to_numpy(),
                         past_margin=past["margin"].to_numpy())  # fmt: skip
    for h in months:
        frame = frame.assign(**_ahead(predictions, h, store.unit))
    cost = pd.array(own["cost"].to_numpy(), "Int64")
    source = own["source"].fillna(UNKNOWN).to_numpy(object)
    frame = frame.assign(acquisition_cost=cost, acquisition=source)
    taken = frame["acquisition_cost"].fillna(0).to_numpy(np.int64)
    for h in months:
        frame[f"total_{h}m"] = frame["past_margin"] + frame[f"clv_{h}m"] - taken
    frame = frame.assign(**_most(predictions, frame, decided, cold, store.unit))
    first = own["first"].fillna(NEVER).to_numpy(np.int64)
    acquired = own["acquired"].fillna(0).to_numpy(np.int64)
    recent = (first < NEVER) & (acquired >= add_months(until, -RECENT, store.zone))
    notes += _margins(store, frame, predictions, decided)
    return Worth(frame, predictions, recent, months, decided, tuple(by), settings, store.unit,
                 outside, tuple(notes))  # fmt: skip


def _months(predictions: pd.DataFrame) -> tuple[int, ...]:
    """The horizons, each with all that value is made of."""
    found = files.horizons(predictions)
    needed = ["evidence"]
    needed += [f"{name}_{h}m" for h in found
               for name in ("revenue", "margin", "retention_cost", "churn")]  # fmt: skip
    missing = [name for name in needed if name not in predictions]
    if missing:
        raise InputError(
            f"The predictions must have the column {missing[0]}. Got none. Make them by clv "
            "predict DATA --out FILE and leave its columns in."
        )
    return found


def _require_known(won: pd.DataFrame, own: pd.DataFrame, cold: npt.NDArray[np.bool_]) -> list[str]:
    strange = int((own["first"].isna() & ~cold).sum())
    if strange and strange == int((~cold).sum()):
        raise InputError(
            f"The predictions must be of these data. Got {strange:,} customers of whom none has "
            f"an order before their as_of, {len(won):,} others have. Name the data they were made "
            "from."
        )
    if not strange:
        return []
    return [Note.of("notes.strange", customers=strange)]


def _past(
    store: Store, names: pd.Series, until: int, margin: float
) -> tuple[pd.DataFrame, tuple[int, int]]:
    """What `names` brought before `until`, and how many others how much margin."""
    everybody = realised_before(store, until, margin)
    asked = pd.Index(names, dtype=object)
    rest = everybody[asked.get_indexer(everybody.index) < 0]
    found = everybody.reindex(asked, fill_value=0)
    return found, (len(rest), int(rest["margin"].sum()))


def _level(store: Store, predictions: pd.DataFrame, own: pd.DataFrame, name: str) -> Any:
    places = {"channel": "channel", "cohort": "month"}
    if name == "channel" and own["channel"].isna().all():
        raise InputError(
            "--by channel needs acquisition_channel in the table customers. Nobody has one. Add "
            "the column to customers.csv beside the orders."
        )
    if name in places:
        return own[places[name]].to_numpy(object)
    if name in predictions:
        return predictions[name].to_numpy(object)
    return attributes(store, predictions["customer_id"].tolist(), [name])[name].to_numpy(object)


def _minor(values: pd.Series | Floats, unit: int) -> Ints:
    return np.rint(np.asarray(values, np.float64) * unit).astype(np.int64)


def _ahead(predictions: pd.DataFrame, h: int, unit: int) -> dict[str, Ints]:
    """What clv is made of; the discount is what the other parts leave."""
    margin, cost, value = (
        _minor(predictions[f"{name}_{h}m"], unit) for name in ("margin", "retention_cost", "clv")
    )
    parts = (margin, margin - cost - value, cost, value)
    return {f"{name}_{h}m": part for name, part in zip(AHEAD, parts, strict=True)}


def _most(
    predictions: pd.DataFrame, frame: pd.DataFrame, h: int, cold: npt.NDArray[np.bool_], unit: int
) -> dict[str, Any]:
    """The most to spend, `SPEND`; a prospect is to be won and a customer to be kept."""
    churn, cost, value = (
        predictions[f"{name}_{h}m"].to_numpy(np.float64)
        for name in ("churn", "retention_cost", "clv")
    )
    given = np.maximum(value + cost, 0.0) / np.maximum(1.0 - churn, LEAST_STAY)
    kept = given - cost
    keep = np.minimum(churn * given, np.maximum(kept, 0.0))
    win = np.maximum(frame[f"clv_{h}m"].to_numpy(np.int64), 0)
    found = (_minor(kept, unit), _minor(keep, unit), win)
    blank = (cold, cold, ~cold)
    return {
        f"{name}_{h}m": pd.arrays.IntegerArray(amount, hidden)
        for name, amount, hidden in zip(SPEND, found, blank, strict=True)
    }


def _margins(store: Store, frame: pd.DataFrame, predictions: pd.DataFrame, h: int) -> list[str]:
    """A word where past and expected margin lie apart: the model takes another share than held."""
    sold, expected = int(frame["past_revenue"].sum()), math.fsum(predictions[f"revenue_{h}m"])
    if sold <= 0 or expected <= 0:
        return []
    past = int(frame["past_margin"].sum()) / sold
    ahead = math.fsum(predictions[f"margin_{h}m"]) / expected
    if abs(past - ahead) <= APART:
        return []
    # A model learns the share of the newest year, and costs may have moved since long ago.
    costs = {"cost", "margin_rate"} & set(store.columns_present)
    key = "notes.margins_costs" if costs else "notes.margins_setting"
    return [Note.of(key, past=past, ahead=ahead)]
