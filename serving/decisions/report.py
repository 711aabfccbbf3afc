"""All that a report shows, from one reading of the data: the tables that the commands write.

Each table is made by the function that its own command calls (``clv value``, ``segments``,
``channels``, ``retention``, ``target``), so its numbers are those of that command's file. What the
data do not carry is not left out silently: ``missing`` says for each part what to add.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, TypeVar

import pandas as pd

from features.errors import ClvError, InputError
from features.money import Cashflow
from features.settings import Settings
from features.spine import instant
from features.store import Kept, Store
from serving.decisions import files, prospects, segments, targets
from serving.decisions.channels import Channels, channels
from serving.decisions.journeys import Journeys, journeys
from serving.decisions.listing import Asked, List, parts_of
from serving.decisions.money import known_people
from serving.decisions.portraits import Portrait, portrait
from serving.decisions.retained import Retained, retained
from serving.decisions.segments import Lines, Scheme, Segmented
from serving.decisions.worth import ALL, Worth, worth
from serving.views.language import Note
from training.compared import OURS
from training.curves import Curves
from training.fitting import Progress
from training.grid import PROSPECT, WIN

__all__ = ["TOP", "Report", "report"]

TOP: Final = 500  # customers on the target list, unless asked
KEPT: Final = 2_000_000  # order lines that are read once and stay in memory
PARTS: Final = (
    "model",
    "curves",
    "channels",
    "retention",
    "acquisition",
    "targets",
    "categories",
    "surveys",
)
Found = TypeVar("Found")


@dataclass(frozen=True)
class Report:
    """Every table of one moment; a part that could not be made is None and stands in ``missing``.

    ``missing`` maps parts of `PARTS` to the sentence that says what to add. ``scores`` are those
    of the model's card: the test on customers whose future it had not seen. ``portrait`` is None
    where nobody has ordered.
    """

    as_of: str
    months: int
    currency: str
    version: str
    predictions: pd.DataFrame
    worth: Worth
    groups: Segmented
    channels: Channels | None
    retained: Retained | None
    listed: List | None
    asked: Asked
    scores: Mapping[str, Any] | None
    portrait: Portrait | None
    missing: Mapping[str, Note]

    def figures(self) -> pd.DataFrame:
        """The key figures: figure, value, low, high, unit (count, money or share)."""
        h, rows = self.months, self.groups.table
        every = rows[rows["segment"] == "All"].iloc[0].to_dict()
        sums = self.worth.summary()
        whole = sums[sums["by"] == ALL].iloc[0].to_dict()
        made = [
            _figure("customers", whole["customers"], "count"),
            _figure("prospects", whole["prospects"], "count"),
            _figure("past_orders", whole["past_orders"], "count"),
            _figure("past_revenue", whole["past_revenue"], "money"),
            _figure("past_margin", whole["past_margin"], "money"),
            _figure(f"clv_{h}m", every[f"clv_{h}m"], "money", every[f"clv_{h}m_low"],
                    every[f"clv_{h}m_high"]),
            _figure(f"clv_{h}m_per_customer", every[f"clv_{h}m_per_customer"], "money"),
            _figure(f"churn_{h}m", every[f"churn_{h}m"], "share"),
            _figure(f"keep_at_most_{h}m", whole[f"keep_at_most_{h}m"], "money"),
            _figure(f"win_at_most_{h}m", whole[f"win_at_most_{h}m"], "money"),
        ]  # fmt: skip
        if self.retained is not None:
            told, m = self.retained.whole, self.retained.months
            made += [
                _figure(f"{name}_{m}m", told[name], "share", told[f"{stem}_low"],
                        told[f"{stem}_high"])
                for name, stem in (("repeat_rate", "repeat"), ("retention", "retention"))
            ]  # fmt: skip
        return pd.DataFrame(made)

    @cached_property
    def customers(self) -> pd.DataFrame:
        """A row per customer of the predictions, sorted by id: segment, past, future, at risk."""
        h, own = self.months, self.worth.table()
        said = self.predictions
        made = pd.DataFrame({"customer_id": said["customer_id"]})
        made["segment"] = self.groups.frame["segment"].to_numpy(object)
        for name in ("evidence", "past_orders", "past_revenue", "past_margin"):
            made[name] = own[name].to_numpy()
        ahead = (f"churn_{h}m", f"orders_{h}m", f"revenue_{h}m", f"clv_{h}m", f"clv_{h}m_low",
                 f"clv_{h}m_high")  # fmt: skip
        for name in (*ahead, "next_order_on"):
            if name in said:
                made[name] = said[name].to_numpy()
        for name in (f"total_{h}m", f"keep_at_most_{h}m"):
            made[name] = own[name].to_numpy()
        return made

    def best(self, most: int) -> pd.DataFrame:
        """The rows of `customers` that are worth most in the months ahead; who waits is none."""
        every = self.customers
        return _first(every[every["segment"] != PROSPECT], f"clv_{self.months}m", most)

    def slipping(self, most: int) -> pd.DataFrame:
        """Those worth much and likely to leave, by what it costs to lose them."""
        every = self.customers
        return _first(every[every["segment"] == WIN], f"keep_at_most_{self.months}m", most)

    def targets(self) -> pd.DataFrame | None:
        """The target list as ``clv target --top N`` writes it."""
        return None if self.listed is None else parts_of(self.listed, self.asked)

    def quality(self) -> pd.DataFrame | None:
        """A row per metric of the out-of-time test, a column per model, ours first."""
        if not self.scores:
            return None
        models = dict(self.scores["models"])
        names = sorted(models, key=lambda name: (name != OURS, name))
        made = pd.DataFrame({name: models[name] for name in names}).astype("float64")
        return made.rename_axis("metric").reset_index()

    def tracking(self) -> pd.DataFrame | None:
        """Predicted and real revenue of the test by month, summed from its moment on."""
        told = (self.scores or {}).get("by_month")
        if not told:
            return None
        made = pd.DataFrame({name: told[name] for name in ("predicted", "actual")})
        made.insert(0, "month", list(range(1, len(made) + 1)))
        return made

    def tested(self, name: str) -> pd.DataFrame | None:
        """A table of the test: ``slices`` of customers, or ``coverage`` of the intervals."""
        told = (self.scores or {}).get(name)
        return pd.DataFrame(told) if told else None

    def curves(self) -> Curves | None:
        """What the pictures of the test show; None where the card does not carry it."""
        told = (self.scores or {}).get("curves")
        return Curves.from_dict(told) if told else None

    def as_dict(self) -> dict[str, Any]:
        """Plain values; no customer's."""
        known = self.figures().astype(object)
        return {
            "as_of": self.as_of, "horizon": self.months, "currency": self.currency,
            "model_version": self.version, "customers": len(self.predictions),
            "figures": known.where(known.notna(), None).to_dict("records"),
            "missing": dict(self.missing),
        }  # fmt: skip


def _figure(name: str, value: Any, unit: str, low: Any = None, high: Any = None) -> dict[str, Any]:
    told = (None if pd.isna(one) else float(one) for one in (value, low, high))
    return dict(zip(("figure", "value", "low", "high", "unit"), (name, *told, unit), strict=True))


def _first(rows: pd.DataFrame, by: str, most: int) -> pd.DataFrame:
    """The first by a column, falling; equal ones stand by their id."""
    return rows.sort_values(by, ascending=False, kind="stable").head(most).reset_index(drop=True)


def report(
    store: Store,
    predictions: pd.DataFrame,
    settings: Settings,
    *,
    spend: pd.DataFrame | None = None,
    horizon: int | None = None,
    top: int = TOP,
    scores: Callable[[str], Mapping[str, Any]] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Everything a report shows of `predictions` (what `files.predictions` reads).

    Parameters
    ----------
    spend : what `features.campaigns.spend` gives, None where there is no such table.
    horizon : months to decide by; default: the shortest predicted.
    top : customers on the target list, its control group included.
    scores : the test scores of a model's version.

    Raises
    ------
    InputError
        Predictions of other data, or without what the value of a customer is made of.
    """
    months, version = files.horizon_of(predictions, horizon), _text(predictions, "model_version")
    asked, missing = Asked(top=top, horizon=horizon), dict[str, Note]()
    told = progress or (lambda _stage, _done: None)
    store = Kept.over(store) if store.rows <= KEPT else store
    moment = instant(_text(predictions, "as_of"), store.zone)

    def attempt(part: str, make: Callable[[], Found]) -> Found | None:
        try:
            return make()
        except ClvError as error:
            missing[part] = _lacking(part, error)
            return None

    told("working out the tables", 0.0)
    people = known_people(store, moment)
    journey = attempt("retention", lambda: journeys(store, moment))
    shared = people if moment <= store.coverage_end else None
    value = worth(store, predictions, settings, spend, (), horizon, people)
    told("working out the tables", 0.3)
    groups = _segmented(store, predictions, months, settings)
    if groups.reach is None:
        missing["categories"] = Note.of("missing.categories")
    told("working out the tables", 0.5)
    paid = attempt(
        "channels", lambda: _channels(store, spend, predictions, settings, shared, journey)
    )
    kept = drawn = None
    if journey is not None:
        kept = attempt("retention", lambda: retained(store, settings, found=journey))
        names = groups.frame["segment"].to_numpy(object)
        drawn = portrait(journey, predictions, names, months, moment)
    missing |= _told_by(kept)
    told("working out the tables", 0.8)
    listed = attempt("targets", lambda: _listed(predictions, months, settings, asked))
    found = attempt("model", lambda: _scores(version, scores))
    if found is not None and "curves" not in found:
        missing["curves"] = Note.of("missing.curves")
    told("working out the tables", 1.0)
    return Report(
        _text(predictions, "as_of"), months, settings.business.currency, version, predictions,
        value, groups, paid, kept, listed, asked, found, drawn, missing,
    )  # fmt: skip


def _lacking(part: str, error: ClvError) -> Note:
    """What to add, by an error that says so itself or by the part that it stopped."""
    said = error.args[0] if error.args else ""
    return said if isinstance(said, Note) else Note.of(f"missing.{part}", detail=str(error))


def _told_by(kept: Retained | None) -> dict[str, Note]:
    """What retention could tell more of."""
    found = dict[str, Note]()
    if kept is not None and kept.beside.table.empty:
        found["surveys"] = Note.of("missing.surveys")
    if kept is not None and kept.channels is None:
        found["acquisition"] = Note.of("missing.acquisition")
    return found


def _text(predictions: pd.DataFrame, column: str) -> str:
    return str(predictions[column].iloc[0])


def _segmented(
    store: Store, predictions: pd.DataFrame, months: int, settings: Settings
) -> Segmented:
    scheme = Scheme.of("value-churn", [predictions], months, Lines(), settings.segments)
    return segments.segmented(predictions, scheme, months, store=store)


def _channels(
    store: Store,
    spend: pd.DataFrame | None,
    predictions: pd.DataFrame,
    settings: Settings,
    people: pd.DataFrame | None,
    journey: Journeys | None,
) -> Channels:
    if spend is None:
        raise InputError(Note.of("missing.spend"))
    flow = Cashflow.of(settings.business)
    return channels(store, spend, predictions, flow, people=people, found=journey)


def _listed(predictions: pd.DataFrame, months: int, settings: Settings, asked: Asked) -> List:
    gain = targets.kept_gain(predictions, months, settings.judgement.save_rate)
    cost = settings.judgement.contact_cost
    chosen = targets.choose(
        predictions, gain, cost=cost, top=asked.top, control=asked.control,
        out=prospects.others(predictions, False), name=asked.campaign, seed=asked.seed,
    )  # fmt: skip
    return List(chosen, months, _text(predictions, "as_of"), cost, settings, None, None)


def _scores(
    version: str, scores: Callable[[str], Mapping[str, Any]] | None
) -> Mapping[str, Any] | None:
    found = scores(version) if scores else None
    if not found or not found.get("models"):
        raise InputError(Note.of("missing.untested", version=version))
    return found
