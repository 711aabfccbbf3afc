"""Why a prediction is what it is: terms in money, or in the logit of churn, that add up to it.

The value of h months, before the cost to keep and what is pending, is v = D x exp(up) x (1 - own
share of returns), where D is the discounted margin of the anchor's forecast. The explanation walks

    start            v0 = D x (1 - share of returns of all): what people with this rhythm usually do
    features, level  phi_j x (v1 - v0) / ln(v1 / v0), with v1 = v0 x exp(up), up = sum of phi_j
    own returns      v1 x (1 - own share) / (1 - share of all) - v1
    pending, cost    less the refunds still on their way, less the cost to keep

phi_j are the Shapley values of the member's trees (`Booster.contributions`). The level is what
they leave: the trees' mean over the rows learned from, the model's own level, and rounding.
Churn is explained in its logit, where all terms are sums from the beginning.

A prospect's value is explained likewise, from that of people who signed up as long ago. Two members
correct it there, log value by up = sum of phi_j and the logit of no order by odds = sum of psi_j:

    features         (phi_j + psi_j x L / odds) x (v1 - v0) / ln(v1 / v0)

where L is what odds alone add to the log of v0, so that ln(v1 / v0) = up + L.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from scipy.special import exprel, inv_boxcox, logit, xlogy

from features.behaviour import Rows
from features.catalogue import Feature
from training import phrases
from training.model import Model, Predictions

__all__ = ["Reasons", "churn_reasons", "explain", "explain_churn", "explain_prospects"]

Floats = npt.NDArray[np.float64]
#: A chance keeps this distance from 0 and 1, so that its logit is finite.
SURE: Final = 1e-15
#: A logit moved by less moves the value along its tangent, taken over this step.
STEP: Final = 1e-4


@dataclass(frozen=True)
class Reasons:
    """Terms of rows, the start first; they add up to what is explained.

    ``parts`` (rows, terms) are in currency, or in the logit of churn. ``values`` (rows, terms) are
    those of the features, NaN where not known and for terms that have none.
    """

    terms: tuple[Feature, ...]
    parts: Floats
    values: Floats

    @property
    def total(self) -> Floats:
        """What is explained, (rows,)."""
        return _summed(self.parts)

    def place(self, name: str) -> int:
        """The column of a term."""
        return [term.name for term in self.terms].index(name)

    def families(self) -> tuple[tuple[str, ...], Floats]:
        """Names of the families in the order of the terms, and their sums, (rows, families)."""
        names = tuple(dict.fromkeys(term.family for term in self.terms))
        found = np.zeros((len(self.parts), len(names)))
        for j, term in enumerate(self.terms):
            found[:, names.index(term.family)] += self.parts[:, j]
        return names, found

    def largest(self, count: int) -> npt.NDArray[np.int64]:
        """Columns of the `count` largest terms after the start, by size, (rows, count)."""
        order = np.argsort(-np.abs(self.parts[:, 1:]), axis=1, kind="stable") + 1
        return np.asarray(order[:, :count], np.int64)


def explain(model: Model, rows: Rows, as_of: int, months: int) -> Reasons:
    """Terms in currency that add up to ``clv_{months}m`` of the predictions table.

    A row's terms have the same bits whatever rows stand beside it. Models without members know
    the start and the lines of their own only.
    """
    found = model.priced(rows, as_of, [months])
    seen = _Seen.of(model, "value", rows, as_of)
    gross = found.flow.discounted(found.gross, months)
    after = gross * (1.0 - model.returns.share)
    each = after * exprel(-seen.total)  # (v1 - v0) / ln(v1 / v0); scipy's loops are exact by row
    own = {
        phrases.START: after * inv_boxcox(-seen.total, 0.0),
        phrases.LEVEL: seen.level * each,
        phrases.RETURNED: gross * (model.returns.share - found.return_share),
        phrases.PENDING: 0.0 - found.pending_value,
        phrases.COST: np.full(len(rows), 0.0 - found.flow.retention_cost(months)),
    }
    money = [own.pop(phrases.START), *(seen.phi.T * each), *own.values()]
    unknown = np.full(len(rows), np.nan)
    values = [unknown, *seen.values.T, unknown, found.return_share, unknown, unknown]
    plain = model.settings.model.objective == "plain"
    terms = (
        phrases.begins(plain), *seen.terms, phrases.level(),
        phrases.own_returns(model.returns.share), phrases.fixed(phrases.PENDING),
        phrases.fixed(phrases.COST),
    )  # fmt: skip
    return Reasons(terms, _rows(money), _rows(values))


def explain_prospects(model: Model, rows: Rows, as_of: int, months: int) -> Reasons:
    """The same for prospects' rows of `features.people.prospects`: people without an order yet.

    Raises
    ------
    InputError
        The model knows no prospects.
    """
    own, zero = model.require_prospects(), np.zeros(len(rows))
    up, odds = own.corrections(rows)
    flow = model.flow(rows)

    def value(up: Floats, odds: Floats) -> Floats:
        found = own.predict(rows, as_of, [months], model.newcomer, (up, odds))
        return replace(found, flow=flow).value(months)

    near = np.abs(odds) < STEP
    step = np.where(near, STEP, odds)
    pull = xlogy(1.0, value(zero, step) / value(zero, zero)) / step
    total = up + odds * pull
    phi, psi = own.contributions(rows)
    parts = phi + psi * pull[:, None]
    end = value(up, odds)
    each = end * exprel(-total)
    money = [
        end * inv_boxcox(-total, 0.0), *(parts.T * each), (total - _summed(parts)) * each,
        zero, zero, np.full(len(rows), 0.0 - flow.retention_cost(months)),
    ]  # fmt: skip
    unknown = np.full(len(rows), np.nan)
    values = [unknown, *own.seen(rows).T, unknown, unknown, unknown, unknown]
    known = {feature.name: feature for feature in rows.catalogue.features}
    terms = (
        phrases.waits(), *(known[name] for name in own.columns), phrases.level(),
        phrases.own_returns(model.returns.share), phrases.fixed(phrases.PENDING),
        phrases.fixed(phrases.COST),
    )  # fmt: skip
    return Reasons(terms, _rows(money), _rows(values))


def explain_churn(model: Model, rows: Rows, as_of: int, months: int) -> Reasons:
    """Terms in the logit of ``churn_{months}m`` that add up to it: start, features, level."""
    return churn_reasons(model, rows, as_of, model.predict(rows, as_of, [months]))


def churn_reasons(model: Model, rows: Rows, as_of: int, found: Predictions) -> Reasons:
    """As `explain_churn`, of predictions for one horizon that are there already."""
    seen = _Seen.of(model, "churn", rows, as_of)
    slope = model.calibration.slope
    odds = logit(np.clip(found.churn[:, 0], SURE, 1.0 - SURE))
    parts = [odds - slope * seen.total, *(slope * seen.phi.T), slope * seen.level]
    unknown = np.full(len(rows), np.nan)
    plain = model.settings.model.objective == "plain"
    terms = (phrases.begins(plain), *seen.terms, phrases.level())
    return Reasons(terms, _rows(parts), _rows([unknown, *seen.values.T, unknown]))


@dataclass(frozen=True)
class _Seen:
    """What a member makes of its inputs: ``phi`` and ``values`` (rows, inputs), the rest (rows,).

    ``total`` = sum of ``phi`` + ``level`` is the correction that predictions use, to the bit.
    """

    terms: tuple[Feature, ...]
    phi: Floats
    values: Floats
    level: Floats
    total: Floats

    @classmethod
    def of(cls, model: Model, kind: Literal["value", "churn"], rows: Rows, as_of: int) -> _Seen:
        if model.thin:
            none, zero = np.zeros((len(rows), 0)), np.zeros(len(rows))
            return cls((), none, none, zero, zero)
        X = model.seen(rows, as_of)
        member = model.members[kind]
        phi = member.contributions(X)
        total = member.correction(X) + model.levels[0 if kind == "value" else 1]
        known = {f.name: f for f in (*model.catalogue.features, *phrases.ANCHOR)}
        terms = tuple(known[name] for name in model.inputs)
        return cls(terms, phi, X, total - _summed(phi), total)


def _summed(parts: Floats) -> Floats:
    """Sums of rows from left to right: the same bits for a row alone as among others."""
    if parts.shape[1] == 0:
        return np.zeros(len(parts))
    return np.ascontiguousarray(np.cumsum(parts, axis=1)[:, -1])


def _rows(columns: Sequence[Floats]) -> Floats:
    return np.ascontiguousarray(np.stack(columns, axis=1))
