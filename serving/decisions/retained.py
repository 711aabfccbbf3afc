"""From the store to all that is told of retention: rates, lives, channels, cohorts, surveys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.parquet as pq

from features.settings import Settings
from features.spine import add_months, text
from features.store import Store
from serving.decisions import cohorts as grouped
from serving.decisions import loyalty, survival
from serving.decisions.campaigns import attributes
from serving.decisions.cohorts import Cohorts
from serving.decisions.journeys import Journeys, journeys
from serving.decisions.loyalty import NOT_KNOWN, Beside
from serving.decisions.retention import FEWEST, by_group, span
from serving.decisions.survival import MONTH, Curve, Lives, Share, curve

__all__ = ["STAYED", "Retained", "lives", "retained"]

STAYED: Final = (3, 6, 12, 24, 36)  # months after which it may be told who stays
AGAIN: Final = (1, 3, 6, 12)  # and by which, who has ordered again
CHANNEL: Final = "acquisition_channel"


@dataclass(frozen=True)
class Retained:
    """All figures of retention as of one moment.

    ``whole`` is the row of `by_group` over everybody, of ``months`` up to the ``landmark`` and
    after it; ``life`` the curve of who has
    not lapsed by ``lives.rule``, ``again`` that of who has no second order; both also
    ``by_channel``, where the table customers tells one. ``within`` are the months over which mean
    lives are taken.
    """

    as_of: str
    landmark: str
    currency: str
    months: int
    orders: int
    whole: dict[str, Any]
    lives: Lives
    life: Curve
    again: Curve
    by_channel: dict[str, tuple[Curve, Curve]]
    channels: pd.DataFrame | None
    cohorts: Cohorts
    beside: Beside
    within: int
    notes: tuple[str, ...]

    @property
    def stayed(self) -> tuple[int, ...]:
        """Months after which it is told who stays."""
        return _stayed(self.lives, self.life)

    @property
    def mean_life(self) -> Share:
        """Mean months as a customer within the first `within`, the last silence included."""
        return _months(self.life, self.within)

    @property
    def returned(self) -> float:
        """Share of those who lapsed and have ordered again since; NaN if nobody lapsed."""
        lapsed = int(self.lives.seen.sum())
        return self.lives.returned / lapsed if lapsed else float("nan")

    def as_dict(self) -> dict[str, Any]:
        """Plain values; what is not known is None."""
        stayed = {f"{h}m": _plain(self.life.at(h * MONTH)) for h in self.stayed}
        again = {f"{h}m": _plain(_ordered(self.again, h)) for h in AGAIN}
        whole = _row(self.whole)
        whole["mean_orders"] = whole.pop("orders")  # within `months` of the first order
        return {
            "as_of": self.as_of, "landmark": self.landmark, "currency": self.currency,
            "orders": self.orders, "months": self.months, **whole,
            "life": {
                "rule": self.lives.rule, "lapsed": int(self.lives.seen.sum()),
                "returned": _number(self.returned), "stayed": stayed,
                "median_months": _number(self.life.median() / MONTH),
                "mean_months": _plain(self.mean_life), "mean_within_months": self.within,
            },
            "ordered_again": again,
            "channels": [] if self.channels is None else _records(self.channels),
            "cohorts": {"period": self.cohorts.period, "hidden": self.cohorts.hidden,
                        "rows": _records(self.cohorts.table)},
            "surveys_and_loyalty": _records(self.beside.table),
            "notes": list(self.notes),
        }  # fmt: skip


def retained(
    store: Store,
    settings: Settings,
    *,
    until: int | None = None,
    months: int | None = None,
    period: str | None = None,
    silence: int | None = None,
    by: Sequence[str] | None = None,
    found: Journeys | None = None,
) -> Retained:
    """Everything of one store, as known at the instant `until` (default: the data's end).

    Parameters
    ----------
    months : see `retention.span`.
    period : see `cohorts.period_for`.
    silence : days without an order that end a life, whatever `[business] churn` says.
    by : columns of customers to show beside retention; by default those that their names tell.
    found : what `journeys.journeys` gives of `until`, if it is there already.

    Raises
    ------
    InputError
        The data are too short for what is asked, or a column is missing.
    """
    found = journeys(store, until) if found is None else found
    asked = span(found, months)
    ended = lives(found, store, settings, silence)
    life, again = curve(ended.days, ended.seen), _again(found, None)
    channel = _channel(found, store)
    curves = {} if channel is None else {
        name: (curve(ended.days[channel == name], ended.seen[channel == name]),
               _again(found, channel == name))
        for name in sorted(set(channel.tolist())) if (channel == name).sum() >= FEWEST
    }  # fmt: skip
    within = _within(life, [pair[0] for pair in curves.values()])
    made = grouped.cohorts(found, grouped.period_for(found, period), settings.business.margin)
    told = loyalty.beside(found, store, asked, by)
    everybody = by_group(found, pd.DataFrame({"group": np.full(len(found), "all", object)}), asked)
    table = (
        None
        if channel is None
        else _channels(found, channel, curves, asked, within, _stayed(ended, life))
    )
    landmark = add_months(found.until, -asked, store.zone)
    return Retained(
        text(found.until, store.zone), text(landmark, store.zone),
        settings.business.currency, asked, len(found.day),
        _first(everybody), ended, life, again, curves, table, made, told, within,
        (*_notes(found, ended, channel, curves, made), *told.notes),
    )  # fmt: skip


def lives(found: Journeys, store: Store, settings: Settings, silence: int | None = None) -> Lives:
    """Lives by the business's own definition of churn, or by a silence of so many days.

    Raises
    ------
    InputError
        Contracts are to say it, and the table customers has no contract_end.
    """
    rule = settings.business.churn
    if silence is not None or not rule.startswith(("own_gap", "contract_end")):
        days = round(min(settings.horizons.months) * MONTH) if silence is None else silence
        return survival.silences(found, days)
    if rule == "contract_end":
        ends = attributes(store, found.ids.tolist(), [rule])[rule]
        return survival.contracts(found, ends.to_numpy(object))
    days = round(min(settings.horizons.months) * MONTH)
    return survival.silences(found, days, float(rule.split(":")[1]))


def _stayed(ended: Lives, life: Curve) -> tuple[int, ...]:
    """Two of `STAYED`: the longest of a year or less that the curve shows, and the next."""
    # Before a silence is over nobody can have lapsed by it.
    least = (ended.silence or 0) / MONTH + 1
    shown = [h for h in STAYED if h > least and h * MONTH <= life.reach]
    first = max((k for k, h in enumerate(shown) if h <= 12), default=0)
    return tuple(shown[first : first + 2]) or (int(max(life.reach, 0) / MONTH),)


def _again(found: Journeys, which: npt.NDArray[np.bool_] | None) -> Curve:
    second = survival.second_orders(found)
    here = slice(None) if which is None else which
    return curve(second.days[here], second.seen[here])


def _channel(found: Journeys, store: Store) -> npt.NDArray[np.object_] | None:
    """The acquisition channel of each customer; None where the data know none."""
    path = store.people(0)
    if not path.exists() or CHANNEL not in pq.read_schema(path).names:
        return None
    column = attributes(store, found.ids.tolist(), [CHANNEL])[CHANNEL].astype(object)
    return column.where(column.notna(), NOT_KNOWN).to_numpy(object)


def _within(life: Curve, curves: Sequence[Curve]) -> int:
    """Months over which means are taken: as long as the curves last that last half as long."""
    reaches = [life.reach, *(each.reach for each in curves if each.reach >= life.reach / 2)]
    return int(max(min(reaches), 0) / MONTH)


def _channels(
    found: Journeys,
    channel: npt.NDArray[np.object_],
    curves: dict[str, tuple[Curve, Curve]],
    months: int,
    within: int,
    stayed: Sequence[int],
) -> pd.DataFrame:
    """By acquisition channel: retention, repeat rate, loyalty, who stays, mean life in months."""
    table = by_group(found, pd.DataFrame({"channel": channel}), months)
    table = table[table["channel"].isin(list(curves))].reset_index(drop=True)
    for h in stayed:
        ends = [curves[name][0].at(h * MONTH) for name in table["channel"]]
        table = table.assign(**_three(f"stayed_{h}m", ends))
    means = [_months(curves[name][0], within) for name in table["channel"]]
    return table.assign(**_three("mean_life", means), mean_life_within=within)


def _three(name: str, told: Sequence[Share]) -> dict[str, list[float]]:
    ends = ("", "_low", "_high")
    return {f"{name}{end}": [each[k] for each in told] for k, end in enumerate(ends)}


def _months(life: Curve, within: int) -> Share:
    return Share(*(end / MONTH for end in life.mean(within * MONTH)))


def _ordered(again: Curve, months: int) -> Share:
    """Share with a second order within `months` of the first."""
    none = again.at(months * MONTH)
    return Share(1 - none.value, 1 - none.high, 1 - none.low)


def _notes(
    found: Journeys,
    ended: Lives,
    channel: npt.NDArray[np.object_] | None,
    curves: dict[str, Any],
    made: Cohorts,
) -> list[str]:
    notes = []
    if not ended.seen.any():
        days = found.complete - int(found.first_day.min())
        notes.append(
            f"nobody has lapsed by the rule '{ended.rule}' in {days:,} days of history, so no life "
            "has an end yet; --silence DAYS takes a shorter silence"
        )
    if channel is None:
        notes.append("no channels: the table customers has no acquisition_channel")
    elif hidden := len(set(channel.tolist())) - len(curves):
        notes.append(f"{hidden} channels of fewer than {FEWEST} customers are not told")
    if made.hidden:
        notes.append(f"{made.hidden} cohorts of fewer than {FEWEST} customers are not told apart")
    return notes


def _first(table: pd.DataFrame) -> dict[str, Any]:
    """The first row, its counts whole; the group's name is left out."""
    return {str(k): v for k, v in table.iloc[:, 1:].to_dict("records")[0].items()}


def _number(value: float) -> float | None:
    return None if value != value else round(float(value), 6)  # noqa: PLR0124  the test for NaN


def _plain(told: Share) -> list[float | None]:
    return [_number(value) for value in told]


def _row(row: dict[Any, Any]) -> dict[str, Any]:
    return {
        str(key): _number(value) if isinstance(value, float) else
        int(value) if isinstance(value, np.integer) else value
        for key, value in row.items()
    }  # fmt: skip


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [_row(row) for row in table.to_dict("records")]
