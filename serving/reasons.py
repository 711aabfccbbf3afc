"""Reasons for others: a column of the predictions table, one customer, the drivers of churn."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from features import people
from features.behaviour import Rows, build
from features.catalogue import Vocabulary
from features.errors import InputError
from features.people import People
from features.reading import Data, as_of_in, read
from features.rules import minor_digits
from features.spine import Cutoffs, text
from features.store import Store
from serving.loader import Loaded
from serving.views.language import Words, words
from serving.views.sentences import family, noun, sentence
from training import phrases
from training.drivers import Drivers
from training.drivers import drivers as measured
from training.fitting import Progress
from training.model import Model
from training.reasons import Reasons, explain, explain_prospects
from training.samples import gather

__all__ = ["Told", "cents", "column", "drivers", "lines_of", "one"]

#: Decimals of money in the column: enough that its lines add up to 1e-6.
DECIMALS: Final = 8
#: Customers that drivers are measured on; of a larger base a share, chosen by their ids.
DRIVERS_ROWS: Final = 50_000
How = Callable[[Model, Rows, int, int], Reasons]
OWN: Final = (phrases.LEVEL, phrases.RETURNED, phrases.PENDING, phrases.COST)


def column(
    model: Model,
    rows: Rows,
    as_of: int,
    months: int,
    count: int,
    how: How = explain,
    language: str = "en",
) -> list[str]:
    """For each row a JSON list of {feature, money, text} that adds up to ``clv_{months}m``.

    First where the explanation starts, then the `count` largest of all other terms, at last
    everything else in one line. Rows of prospects take ``explain_prospects`` as `how`. The texts
    are in `language`.
    """
    found = lines_of(model, rows, as_of, months, count, how, language)
    return [json.dumps(lines, ensure_ascii=False, allow_nan=False) for lines in found]


def lines_of(
    model: Model,
    rows: Rows,
    as_of: int,
    months: int,
    count: int,
    how: How = explain,
    language: str = "en",
) -> list[list[dict[str, Any]]]:
    """As `column`, not yet written as JSON."""
    known, say = how(model, rows, as_of, months), words(language)
    currency, total = model.settings.business.currency, known.total
    chosen = known.largest(count)
    found = []
    for i in range(len(rows)):
        lines = [_line(known, i, j, currency, say) for j in _told(known, i, (0, *chosen[i]))]
        lines.append(_rest(lines, float(total[i]), say))
        found.append(lines)
    return found


def _told(known: Reasons, row: int, places: Iterable[int]) -> list[int]:
    """The start, and those of the others that are not zero."""
    return [j for j in places if j == 0 or known.parts[row, j] != 0]


def _line(known: Reasons, row: int, j: int, currency: str, say: Words) -> dict[str, Any]:
    term = known.terms[j]
    return {
        "feature": term.name,
        "money": round(float(known.parts[row, j]), DECIMALS),
        "text": sentence(say, term, float(known.values[row, j]), currency),
    }


def _rest(lines: Sequence[dict[str, Any]], total: float, say: Words) -> dict[str, Any]:
    """The line that is missing to `total`."""
    rest = phrases.fixed(phrases.REST)
    left = total - math.fsum(line["money"] for line in lines)
    return {"feature": rest.name, "money": round(left, DECIMALS), "text": noun(say, rest)}


@dataclass(frozen=True)
class Told:
    """One customer's prediction and why: plain values for a program or a person."""

    predicted: dict[str, Any]  # the row of the predictions table
    months: int
    currency: str
    reasons: list[dict[str, Any]]
    families: list[dict[str, Any]]
    language: str = "en"

    def as_dict(self) -> dict[str, Any]:
        """Plain values; the money of reasons and of families adds up to ``clv_{months}m``."""
        about = {"horizon": self.months, "currency": self.currency}
        return {**self.predicted, **about, "reasons": self.reasons, "families": self.families}


def one(
    loaded: Loaded,
    data: Data,
    customer: str,
    *,
    as_of: str | None = None,
    months: int = 12,
    count: int = 8,
    config: Path | None = None,
    allow_gap: bool = False,
    progress: Progress | None = None,
    language: str = "en",
) -> Told:
    """Prediction and reasons of one customer; `count` features by name, the rest in one line.

    Texts are in `language`, one of ``language.LANGUAGES``.

    Somebody of the table customers without an order before `as_of` is told as a prospect.

    Raises
    ------
    InputError
        The data know nobody of this id before `as_of`, or somebody without an order whom the model
        cannot tell of; or they are not as they must be.
    """
    say = words(language)
    settings, model = loaded.settings(data, config), loaded.model
    with read(data, settings, progress) as (store, _):
        moment = as_of_in(store, as_of, settings, allow_gap)
        rows, how, table = _customers(loaded, store, customer, moment), explain, model.table
        if rows is None:
            rows, how = _prospects(loaded, store, customer, moment), explain_prospects
            table = model.prospect_table
    if rows is None:
        raise InputError(
            "--customer must be an id of the orders or of the table customers, byte for byte, that "
            f"is known before {text(moment, settings.business.time_zone)}. Got {customer!r}. "
            "Mend the id (007 is not 7) or take a later --as-of."
        )
    frame = table(rows, moment, [months], loaded.version)
    known = how(model, rows, moment, months)
    currency = settings.business.currency
    row = frame.astype(object).where(frame.notna(), None).to_dict("records")[0]
    return Told(
        {str(name): value for name, value in row.items()}, months, currency,
        _by_feature(known, count, currency, say), _by_family(known, currency, say), language,
    )  # fmt: skip


def _customers(loaded: Loaded, store: Store, customer: str, as_of: int) -> Rows | None:
    """The row of a customer with an order before `as_of`; None without."""
    bucket = store.of_customer(customer)
    if bucket is None:
        return None
    cutoffs = Cutoffs.at([as_of], loaded.model.settings.business.time_zone)
    rows = build(bucket, cutoffs, loaded.model.catalogue)
    return rows if len(rows) else None


def _prospects(loaded: Loaded, store: Store, customer: str, as_of: int) -> Rows | None:
    """The row of somebody who signed up before `as_of` and has no order before it; else None.

    Raises
    ------
    InputError
        There is such a person, and the model knows no prospects.
    """
    if not people.known(store):
        return None
    model = loaded.model
    cutoffs = Cutoffs.at([as_of], model.settings.business.time_zone)
    words = model.prospects.vocabulary if model.prospects else Vocabulary()
    rows = people.prospects(People.of(store, store.place(customer)), cutoffs, words)
    rows = rows.take(rows.ids[rows.who] == customer)
    if len(rows) == 0:
        return None
    model.require_prospects()
    return rows


def _by_feature(known: Reasons, count: int, currency: str, say: Words) -> list[dict[str, Any]]:
    """Start, the largest features, the others together, then the lines of their own."""
    own = [known.place(name) for name in OWN]
    features = [j for j in known.largest(known.parts.shape[1])[0] if j not in own]
    features = _told(known, 0, features)
    found = [_line(known, 0, j, currency, say) for j in (0, *features[:count])]
    last = [_line(known, 0, j, currency, say) for j in _told(known, 0, own)]
    if len(features) > count:
        found.append(_rest([*found, *last], float(known.total[0]), say))
    return [*found, *last]


def _by_family(known: Reasons, currency: str, say: Words) -> list[dict[str, Any]]:
    """Families after the start by size, each told by its largest term."""
    names, parts = known.families()
    order = [0, *(np.argsort(-np.abs(parts[0, 1:]), kind="stable") + 1)]
    found = []
    for k in order:
        inside = [j for j, term in enumerate(known.terms) if term.family == names[k]]
        lead = max(inside, key=lambda j: abs(float(known.parts[0, j])))
        told = sentence(say, known.terms[lead], float(known.values[0, lead]), currency)
        if k == 0 or parts[0, k] != 0:
            named = family(say, known.terms[lead])
            found.append({"family": named, "money": float(parts[0, k]), "text": told})
    return found


def cents(amounts: Sequence[float], currency: str) -> list[float]:
    """Amounts rounded to the currency's decimals so that they add up to their rounded sum.

    What roundings leave is given, a smallest unit each, to the lines it was taken from most; the
    first line, where the sum starts, is never touched.
    """
    unit = 10 ** minor_digits(currency)
    exact = [amount * unit for amount in amounts]
    whole = [round(amount) for amount in exact]
    missing = round(math.fsum(exact)) - sum(whole)
    step = 1 if missing > 0 else -1
    owed = sorted(range(1, len(exact)), key=lambda i: (step * (whole[i] - exact[i]), i))
    for i in owed[: abs(missing)]:
        whole[i] += step
    return [amount / unit for amount in whole]


def drivers(
    loaded: Loaded,
    data: Data,
    *,
    as_of: str | None = None,
    months: int = 12,
    config: Path | None = None,
    workers: int | None = None,
    allow_gap: bool = False,
    progress: Progress | None = None,
) -> tuple[Drivers, str]:
    """What comes before leaving, over all customers with an order before `as_of`, and that date.

    Of a large base a share is measured and its money scaled up.

    Raises
    ------
    InputError
        Data or settings are not as they must be, or nobody has an order before `as_of`.
    """
    settings = loaded.settings(data, config)
    zone = settings.business.time_zone
    with read(data, settings, progress) as (store, _):
        moment = as_of_in(store, as_of, settings, allow_gap)
        share = min(1.0, DRIVERS_ROWS / max(store.customers, 1))
        rows, _labels = gather(store, loaded.model.catalogue, moment, zone, share, (), workers or 1)
    if len(rows) == 0:
        raise InputError(
            f"Somebody must have an order before {text(moment, zone)}. Nobody has. "
            "Take a later --as-of."
        )
    found = measured(loaded.model, rows, moment, months)
    return _scaled(found, 1.0 / share), text(moment, zone)


def _scaled(found: Drivers, factor: float) -> Drivers:
    """Money of a share of the customers as money of all."""

    def up(table: pd.DataFrame) -> pd.DataFrame:
        return table.assign(at_risk=table["at_risk"] * factor, kept=table["kept"] * factor)

    return Drivers(up(found.features), up(found.families), found.customers, found.mean_churn)
