"""Segments: every customer in exactly one, what each is worth, and who moved between two dates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import InputError
from features.settings import Segments
from features.spine import instant
from features.store import Store
from serving.decisions import customers, rfm, rulebook
from serving.decisions.campaigns import attributes
from serving.decisions.rulebook import OTHER, Rulebook
from serving.decisions.targets import numbers
from serving.views.language import Note
from training.grid import GROW, KEEP, NAMES, PROSPECT, REST, WIN, Grid, top, worth
from training.intervals import total

__all__ = ["LEAST", "Lines", "Scheme", "Segmented", "segmented"]

Names = npt.NDArray[np.object_]
#: Figures of fewer customers would be figures of persons.
LEAST: Final = 10
NEW, GONE = "(new)", "(gone)"
STEPS: Final = {
    KEEP: "Look after them: service, early access; no discount that they do not need.",
    WIN: "Worth an offer now, with a control group: clv target.",
    GROW: "Sell more: a second category, larger baskets.",
    REST: "Cheap channels only; no paid offers.",
    PROSPECT: "Win the first order.",
}


@dataclass(frozen=True)
class Lines:
    """Where the grid's lines should run, if not as the model found them: money and a chance."""

    value: float | None = None
    churn: float | None = None

    def require(self) -> None:
        """Refuse lines that part nobody.

        Raises
        ------
        InputError
            Money of 0 or less, a chance outside 0 to 1.
        """
        if self.value is not None and not 0 < self.value < math.inf:
            raise InputError(f"--value-from must be money above 0. Got {self.value}.")
        if self.churn is not None and not 0 < self.churn < 1:
            raise InputError(f"--churn-from must be a chance between 0 and 1. Got {self.churn}.")


@dataclass(frozen=True)
class Scheme:
    """How customers are parted: its name, the segments in their order, and the step for each."""

    name: str
    steps: Mapping[str, str]
    grid: Grid | None = None  # its lines, where they are not the models' own
    rules: Rulebook | None = None

    @classmethod
    def of(
        cls,
        name: str,
        tables: Sequence[pd.DataFrame],
        months: int,
        lines: Lines,
        chosen: Segments,
    ) -> Scheme:
        """The scheme ``value-churn``, ``rfm`` or a file of rules.

        Without `lines`, value-churn is what the model named in the column ``segment`` of the
        `tables` of predictions; where one lacks it, the lines are found in the first of them.

        Raises
        ------
        InputError
            Another name, or a file that is not as it must be.
        """
        if name == "rfm":
            return cls(name, rfm.STEPS)
        if name != "value-churn":
            book = rulebook.read(Path(name))
            return cls(Path(name).name, book.steps, rules=book)
        lines.require()
        if lines == Lines() and all(_named(table) for table in tables):
            return cls(name, STEPS)
        known = tables[0][~_waiting(tables[0])]
        value = lines.value or chosen.value
        if value is None and len(known):
            value = top(_worth(known, months), chosen.valuable)
        return cls(name, STEPS, Grid(months, value or math.inf, lines.churn or chosen.churn))

    @property
    def needs_history(self) -> bool:
        """Whether it cannot do without the orders."""
        return self.name == "rfm"

    def assign(self, predictions: pd.DataFrame, store: Store | None) -> Names:
        """The segment of each row, (rows,).

        Raises
        ------
        InputError
            What the scheme asks for is not known.
        """
        if self.rules is not None:
            found = _columns(self.rules.columns, predictions, store)
            return self.rules.assign(found, len(predictions))
        if self.name == "rfm":
            days, orders, spend, refunds = _history(predictions, store, rfm.FEATURES).values()
            return rfm.segments(days, orders, spend - refunds)
        if self.grid is None:
            return predictions["segment"].to_numpy(object)
        churn = numbers(predictions, f"churn_{self.grid.months}m")
        names = self.grid.names(_worth(predictions, self.grid.months), churn)
        return np.asarray(np.where(_waiting(predictions), PROSPECT, names), object)


def _named(predictions: pd.DataFrame) -> bool:
    return "segment" in predictions and bool(predictions["segment"].isin(NAMES).all())


def _waiting(predictions: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """Who has not ordered yet."""
    if "evidence" not in predictions:
        return np.zeros(len(predictions), bool)
    return (predictions["evidence"] == "cold_start").to_numpy(bool)


def _worth(predictions: pd.DataFrame, months: int) -> npt.NDArray[np.float64]:
    clv, cost, churn = (
        numbers(predictions, f"{n}_{months}m") for n in ("clv", "retention_cost", "churn")
    )
    return worth(clv, cost, churn)


def _history(
    predictions: pd.DataFrame, store: Store | None, names: Sequence[str]
) -> dict[str, npt.NDArray[np.float64]]:
    """Features of the rows at the moment of their predictions."""
    if store is None:
        raise InputError(
            "The scheme needs the orders themselves. Got the predictions only. Name them by --data "
            "DATA."
        )
    as_of = instant(str(predictions["as_of"].iloc[0]), store.zone)
    found = customers.features(store, predictions["customer_id"].tolist(), as_of, names)
    if np.isnan(found[names[0]][~_waiting(predictions)]).all() and not _waiting(predictions).all():
        raise InputError(
            "The customers of the predictions must have orders in --data before "
            f"{predictions['as_of'].iloc[0]}. None of them has. Name the data that they were "
            "predicted from."
        )
    return found


def _columns(
    names: Sequence[str], predictions: pd.DataFrame, store: Store | None
) -> dict[str, Any]:
    """What conditions name: a column of the predictions, else a feature, else an attribute."""
    found: dict[str, Any] = {n: predictions[n].to_numpy(object) for n in names if n in predictions}
    rest = [name for name in names if name not in found]
    if not rest:
        return found
    if store is None:
        raise InputError(
            f"A rule names '{rest[0]}', which the predictions do not carry. Name the orders and "
            "customers by --data DATA."
        )
    known = set(customers.feature_names())
    told = [name for name in rest if name in known]
    if told:
        # Without an order before there is no feature, so the first one tells who has none.
        found |= _history(predictions, store, ["orders", *told])
    rest = [name for name in rest if name not in known]
    if not rest:
        return found
    have = customers.attribute_names(store)
    lacking = [name for name in rest if name not in have]
    if lacking:
        raise InputError(
            f"A rule must name a column of the predictions, a feature (clv features --dictionary) "
            f"or a column of the table customers ({', '.join(have) or 'there is none'}). Got "
            f"'{lacking[0]}'. Correct it."
        )
    table = attributes(store, predictions["customer_id"].tolist(), rest)
    return found | {name: table[name].to_numpy(object) for name in rest}


@dataclass(frozen=True)
class Segmented:
    """Customers by segment and what the segments are.

    ``frame`` has a row per customer of the predictions, sorted by id: customer_id, segment and,
    with an earlier table, segment_before. ``table`` has a row per segment, ``moves`` a row per
    segment before, ``reach`` one per segment and category. Where fewer than `LEAST` customers are,
    figures are left empty.
    """

    scheme: str
    as_of: str
    months: int
    frame: pd.DataFrame
    table: pd.DataFrame
    before: str | None = None  # moment of the earlier table
    moves: pd.DataFrame | None = None
    reach: pd.DataFrame | None = None
    lines: tuple[float, float] | None = None  # lowest worth and churn beyond the grid's lines
    notes: tuple[str, ...] = field(default_factory=tuple)

    def tables(self) -> dict[str, pd.DataFrame]:
        """The tables about segments by name, those that there are."""
        found = {"segments": self.table, "migration": self.moves, "categories": self.reach}
        return {name: table for name, table in found.items() if table is not None}

    def as_dict(self) -> dict[str, Any]:
        """Plain values; no customer's."""
        return {
            "scheme": self.scheme, "as_of": self.as_of, "horizon": self.months,
            "customers": len(self.frame), "before": self.before,
            "lines": self.lines and {"value": self.lines[0], "churn": self.lines[1]},
            **{name: _plain(table) for name, table in self.tables().items()},
            "notes": list(self.notes),
        }  # fmt: skip


def _plain(table: pd.DataFrame) -> list[dict[str, Any]]:
    known = table.astype(object).where(table.notna(), None)
    return [{str(k): v for k, v in row.items()} for row in known.to_dict("records")]


def segmented(
    predictions: pd.DataFrame,
    scheme: Scheme,
    months: int,
    *,
    store: Store | None = None,
    before: pd.DataFrame | None = None,
) -> Segmented:
    """Customers of `predictions` parted by `scheme`; with `before` also who moved since.

    Raises
    ------
    InputError
        What the scheme asks for is not known.
    """
    names = scheme.assign(predictions, store)
    order = [n for n in scheme.steps if n not in (PROSPECT, OTHER) or (names == n).any()]
    frame = pd.DataFrame({"customer_id": predictions["customer_id"], "segment": names})
    moves, notes = None, []
    if before is not None:
        earlier = pd.Series(scheme.assign(before, store), index=before["customer_id"])
        past = earlier.reindex(frame["customer_id"])
        frame["segment_before"] = past.where(past.notna(), NEW).to_numpy(object)
        moves = _moves(frame, earlier, [n for n in scheme.steps if n in {*names, *earlier}])
        notes += _unlike(predictions, before, scheme)
    pairs = reach = None
    if store is not None and "category" in store.columns_present:
        as_of = instant(str(predictions["as_of"].iloc[0]), store.zone)
        pairs = customers.categories(store, frame["customer_id"].tolist(), as_of)
        reach = _reach(names, pairs, order)
    return Segmented(
        scheme.name, str(predictions["as_of"].iloc[0]), months, frame,
        _table(predictions, names, months, scheme.steps, order, pairs),
        None if before is None else str(before["as_of"].iloc[0]), moves, reach,
        _seen(predictions, names, months) if scheme.name == "value-churn" else None, tuple(notes),
    )  # fmt: skip


def _unlike(predictions: pd.DataFrame, before: pd.DataFrame, scheme: Scheme) -> list[str]:
    versions = [str(table["model_version"].iloc[0]) for table in (before, predictions)]
    if versions[0] == versions[1]:
        return []
    own = scheme.name == "value-churn" and scheme.grid is None
    key = "notes.models_lines" if own else "notes.models"
    return [Note.of(key, before=versions[0], now=versions[1])]


def _seen(predictions: pd.DataFrame, names: Names, months: int) -> tuple[float, float] | None:
    """The lowest worth and the lowest churn beyond the lines, as the customers show them."""
    much, leaves = np.isin(names, (KEEP, WIN)), np.isin(names, (WIN, REST))
    if not much.any() or not leaves.any():
        return None
    value, churn = _worth(predictions, months), numbers(predictions, f"churn_{months}m")
    inside = names != PROSPECT
    if (value[inside & ~much] >= value[much].min()).any():
        return None  # the model's lines are of another horizon
    return float(value[much].min()), float(churn[leaves].min())


def _hidden(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Segments whose figures are not shown: the small ones, and one more if it would tell them."""
    small = (counts > 0) & (counts < LEAST)
    rest = np.where(small | (counts == 0), np.iinfo(np.int64).max, counts)
    if 0 < counts[small].sum() < LEAST and not (small | (counts == 0)).all():
        # What is missing from the whole would be these few.
        small[int(rest.argmin())] = True
    return small


def _table(
    predictions: pd.DataFrame,
    names: Names,
    months: int,
    steps: Mapping[str, str],
    order: Sequence[str],
    pairs: pd.DataFrame | None,
) -> pd.DataFrame:
    """A row per segment, then one of all customers."""
    members = [names == name for name in order]
    hidden = _hidden(np.array([m.sum() for m in members], np.int64))
    reached = None if pairs is None else np.bincount(pairs["place"], minlength=len(predictions))
    rows = []
    for name, here, hide in zip(order, members, hidden, strict=True):
        figures = {} if hide else _figures(predictions, here, months, reached)
        rows.append({"segment": name, **figures, "next_step": steps[name]})
    whole = _figures(predictions, np.ones(len(predictions), bool), months, reached)
    rows.append({"segment": "All", **whole, "next_step": ""})
    columns = ["segment", *whole, "next_step"]
    return pd.DataFrame(rows, columns=columns).astype({"customers": "Int64"})


def _figures(
    predictions: pd.DataFrame,
    here: npt.NDArray[np.bool_],
    months: int,
    reached: npt.NDArray[np.int64] | None,
) -> dict[str, Any]:
    """What a segment is; the three drivers and its customers multiply to its gross revenue."""
    h, n = months, int(here.sum())
    found: dict[str, Any] = {"customers": n, "share": n / len(predictions)}
    value, low, high = _total(predictions[here], h)
    found |= {f"clv_{h}m": value, f"clv_{h}m_low": low, f"clv_{h}m_high": high}
    found[f"clv_{h}m_per_customer"] = value / n if n else math.nan
    found[f"churn_{h}m"] = _mean(predictions, f"churn_{h}m", here)
    found |= _drivers(predictions[here], h)
    if reached is not None:
        found["categories"] = float(reached[here].mean()) if n else math.nan
        found["one_category"] = int((reached[here] == 1).sum())
    return found


def _total(rows: pd.DataFrame, h: int) -> tuple[float, float, float]:
    value = rows[f"clv_{h}m"].to_numpy(np.float64)
    if f"clv_{h}m_sd" not in rows or rows.empty:
        return math.fsum(value.tolist()), math.nan, math.nan
    spread, common = (rows[f"clv_{h}m_{n}"].to_numpy(np.float64) for n in ("sd", "common"))
    return total(value, spread, float(common[0]))


def _drivers(rows: pd.DataFrame, h: int) -> dict[str, float]:
    """Orders a month while active, money of an order, active months of a customer of the segment.

    Means that multiply: sums of what the customers' own multiply to, over one another.
    """
    pace, price, active = (
        rows[name].to_numpy(np.float64) if name in rows else np.full(len(rows), math.nan)
        for name in ("orders_per_month", f"order_value_{h}m", f"active_months_{h}m")
    )
    orders = pace * active
    whole, money, months = (math.fsum(each.tolist()) for each in (orders, orders * price, active))
    return {
        "orders_per_month": whole / months if months else math.nan,
        f"order_value_{h}m": money / whole if whole else math.nan,
        f"active_months_{h}m": months / len(rows) if len(rows) else math.nan,
    }


def _mean(predictions: pd.DataFrame, column: str, here: npt.NDArray[np.bool_]) -> float:
    values = numbers(predictions, column)[here]
    return math.fsum(values.tolist()) / len(values) if len(values) else math.nan


def _moves(frame: pd.DataFrame, earlier: pd.Series, order: Sequence[str]) -> pd.DataFrame:
    """A row per segment before and one of the new: customers, then the share that is where now.

    Shares of a row sum to 1; who is no longer predicted is in the last column.
    """
    gone = earlier[~earlier.index.isin(frame["customer_id"])]
    pairs = pd.concat([
        frame[["segment_before", "segment"]],
        pd.DataFrame({"segment_before": gone.to_numpy(object), "segment": GONE}),
    ])  # fmt: skip
    counts = pd.crosstab(pairs["segment_before"], pairs["segment"])
    counts = counts.reindex(index=[*order, NEW], columns=[*order, GONE], fill_value=0)
    sizes = counts.sum(axis=1)
    shares = counts.div(sizes.where(sizes > 0), axis=0)
    few = (sizes > 0) & (sizes < LEAST)
    shares[few] = math.nan
    shares.insert(0, "customers", sizes.astype("Int64").mask(few))
    shares.index.name, shares.columns.name = "from", None
    return shares.reset_index()


def _reach(names: Names, pairs: pd.DataFrame, order: Sequence[str]) -> pd.DataFrame:
    """Segment, category, customers who bought of it, their share of the segment."""
    size = pd.Series(names).value_counts()
    by = pairs.assign(segment=names[pairs["place"]]).groupby(["segment", "category"]).size()
    found = by.rename("customers").reset_index()
    found["share"] = found["customers"] / found["segment"].map(size)
    found = found[found["segment"].map(size) >= LEAST]
    place = {name: i for i, name in enumerate(order)}
    found = found.sort_values("segment", key=lambda one: one.map(place), kind="stable")
    found = found.reset_index(drop=True)
    few = found["customers"] < LEAST
    found["share"] = found["share"].mask(few)
    return found.astype({"customers": "Int64"}).assign(
        customers=lambda table: table["customers"].mask(few)
    )
