"""Reasons add up, are Shapley values, and are the same for a customer alone."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from functools import cache

import fitted
import numpy as np
import pytest
import xgboost as xgb
from conftest import same_bits
from fitted import KNOWN, ZONE
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit

from features.behaviour import Rows
from serving.reasons import cents, column
from training import phrases
from training.calibration import Calibration
from training.fitting import fit
from training.members import Booster, Problem
from training.model import ANCHOR_COLUMNS, Model
from training.reasons import Reasons, explain, explain_churn

OWN = ("level", "own_returns", "refunds_on_their_way", "cost_to_keep")


@pytest.fixture(scope="module")
def model() -> Model:
    """With levels and a calibration, as a model of short labels has them."""
    base = fitted.base().model
    return replace(base, levels=(0.2, -0.3), calibration=Calibration(0.1, 0.8))


@pytest.fixture(scope="module")
def rows(model: Model) -> Rows:
    return fitted.rows(model)


@pytest.fixture(scope="module")
def known(model: Model, rows: Rows) -> Reasons:
    return explain(model, rows, KNOWN, 12)


def thin(model: Model) -> Model:
    return replace(model, members={}, levels=(0.0, 0.0))


@cache
def plain() -> Model:
    return fit(fitted.store(), KNOWN, 12, fitted.settings(model={"objective": "plain"})).model


def value_by_month(model: Model, rows: Rows, months: int) -> np.ndarray:
    """Discounted margin of the anchor's own forecast, month by month."""
    business, total = model.settings.business, np.zeros(len(rows))
    history, before = model.history(rows, KNOWN), np.zeros(len(rows))
    for m in range(1, months + 1):
        weeks = model.anchor.season.ahead(KNOWN, m, ZONE)
        now = model.anchor.forecast(history, [weeks]).value[:, 0]
        rate = (1 + business.discount_rate) ** ((m - 0.5) / 12)
        total += (now - before) * business.margin / rate
        before = now
    return total


@pytest.mark.parametrize("months", [1, 12, 24])
@pytest.mark.parametrize("kind", ["whole", "thin", "plain"])
def test_the_terms_add_up_to_the_predictions(model, rows, kind, months):
    chosen = {"whole": lambda: model, "thin": lambda: thin(model), "plain": plain}[kind]()
    table = chosen.table(rows, KNOWN, [months], "1")
    money = explain(chosen, rows, KNOWN, months)
    clv = table[f"clv_{months}m"].to_numpy()
    by_hand = np.array([math.fsum(row) for row in money.parts])
    assert np.abs(by_hand - clv).max() < 1e-9 * max(1.0, np.abs(clv).max())
    assert np.allclose(money.total, by_hand, rtol=0, atol=1e-9)
    churn = explain_churn(chosen, rows, KNOWN, months)
    odds = np.array([math.fsum(row) for row in churn.parts])
    assert np.allclose(expit(odds), table[f"churn_{months}m"], rtol=0, atol=1e-12)
    names = [term.name for term in money.terms]
    assert names[0] == churn.terms[0].name == "start"
    assert names[-4:] == list(OWN)
    inside = {"whole": [*model.columns, *ANCHOR_COLUMNS], "thin": []}.get(kind, names[1:-4])
    assert names[1:-4] == inside
    assert (kind == "plain") == (money.terms[0].meaning == "as new customers usually do")
    assert bool(set(ANCHOR_COLUMNS) & set(names)) == (kind == "whole")


def test_the_terms_by_hand(model, rows, known):
    """Each line of the walk, row by row, with the anchor asked month by month."""
    X = model.seen(rows, KNOWN)
    phi = model.members["value"].contributions(X)
    up = model.members["value"].correction(X) + 0.2
    start = value_by_month(model, rows, 12)
    all_back = model.returns.share
    own_back = model.predict(rows, KNOWN, [12]).return_share
    place = {term.name: j for j, term in enumerate(known.terms)}
    business = model.settings.business
    for i in range(0, len(rows), 37):
        v0 = start[i] * (1 - all_back)
        v1 = v0 * math.exp(up[i])
        each = (v1 - v0) / math.log(v1 / v0)
        assert known.parts[i, 0] == pytest.approx(v0, rel=1e-9)
        for k, name in enumerate(model.inputs):
            found = known.parts[i, place[name]]
            assert found == pytest.approx(phi[i, k] * each, rel=1e-6, abs=1e-9)
            same = known.values[i, place[name]], X[i, k]
            assert same[0] == same[1] or np.isnan(same).all()
        left = up[i] - math.fsum(phi[i])
        assert known.parts[i, place["level"]] == pytest.approx(left * each, rel=1e-6, abs=1e-9)
        back = v1 / (1 - all_back) * (all_back - own_back[i])
        assert known.parts[i, place["own_returns"]] == pytest.approx(back, rel=1e-9, abs=1e-9)
        recent = rows.column("spend_30d")[i]
        late = model.returns.pending * own_back[i] * recent * business.margin
        late /= (1 + business.discount_rate) ** (0.5 / 12)
        found = known.parts[i, place["refunds_on_their_way"]]
        assert found == pytest.approx(-late, rel=1e-9, abs=1e-12)
    rate = [(1 + business.discount_rate) ** ((m - 0.5) / 12) for m in range(1, 13)]
    cost = sum(business.retention_cost / each for each in rate)
    assert np.allclose(known.parts[:, place["cost_to_keep"]], -cost, rtol=1e-12)


def test_money_has_the_sign_and_the_order_of_the_contributions(model, rows, known):
    phi = model.members["value"].contributions(model.seen(rows, KNOWN))
    money = known.parts[:, 1 : 1 + phi.shape[1]]
    assert np.array_equal(np.sign(money), np.sign(phi))
    order = np.argsort(phi, axis=1, kind="stable")
    assert (np.diff(np.take_along_axis(money, order, axis=1), axis=1) >= 0).all()


def test_where_nothing_is_corrected_a_contribution_counts_by_the_value(model, rows):
    """(v - v0) / ln(v / v0) tends to v0; the level is set so that one row's correction is 0."""
    up = model.members["value"].correction(model.seen(rows, KNOWN))
    level = replace(model, levels=(-float(up[5]), 0.0))
    found = explain(level, rows, KNOWN, 12)
    phi = model.members["value"].contributions(model.seen(rows, KNOWN))[5]
    assert np.allclose(found.parts[5, 1 : 1 + len(phi)], phi * found.parts[5, 0], rtol=1e-12)


def test_a_customer_alone_has_the_same_reasons(model, rows, known):
    churn = explain_churn(model, rows, KNOWN, 12)
    lines = column(model, rows, KNOWN, 12, 3)
    for i in (0, 7, 400, 1_499):
        alone = fitted.rows(model, first=i, last=i + 1)
        one = explain(model, alone, KNOWN, 12)
        assert same_bits(one.parts[0], known.parts[i])
        assert same_bits(one.total, known.total[i : i + 1])
        assert same_bits(explain_churn(model, alone, KNOWN, 12).parts[0], churn.parts[i])
        assert column(model, alone, KNOWN, 12, 3) == [lines[i]]


def test_families_are_sums_of_their_terms(known):
    names, parts = known.families()
    assert len(set(names)) == len(names)
    for i in (0, 99):
        by: dict[str, float] = {}
        for j, term in enumerate(known.terms):
            by[term.family] = by.get(term.family, 0.0) + known.parts[i, j]
        assert dict(zip(names, parts[i], strict=True)) == pytest.approx(by, rel=1e-12, abs=1e-12)
    assert phrases.FORECAST in names
    assert {"recency and rhythm", "money"} < set(names)


def test_the_column_tells_the_largest_and_adds_up(model, rows, known):
    clv = model.table(rows, KNOWN, [12], "1")["clv_12m"]
    size = {term.name: j for j, term in enumerate(known.terms)}
    for count in (1, 4):
        for i, text in enumerate(column(model, rows, KNOWN, 12, count)):
            lines = json.loads(text)
            assert [set(line) for line in lines] == [{"feature", "money", "text"}] * len(lines)
            assert sum(line["money"] for line in lines) == pytest.approx(clv[i], abs=1e-6)
            names = [line["feature"] for line in lines]
            assert (names[0], names[-1]) == ("start", "everything_else")
            assert len(names) == len(set(names)) == count + 2
            told = [abs(known.parts[i, size[name]]) for name in names[1:-1]]
            others = [abs(known.parts[i, j]) for n, j in size.items() if n not in names]
            assert told == sorted(told, reverse=True)
            assert min(told) >= max(others)
    # Nothing that is zero is told.
    few = json.loads(column(thin(model), rows, KNOWN, 12, 30)[0])
    assert all(line["money"] for line in few[:-1])
    assert few[-1]["money"] == pytest.approx(0.0, abs=1e-6)


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=40), st.sampled_from(["EUR", "JPY", "KWD"])
)
def test_rounded_lines_add_up(amounts, currency):
    unit = {"EUR": 100, "JPY": 1, "KWD": 1000}[currency]
    found = cents(amounts, currency)
    whole = [each * unit for each in found]
    assert all(abs(each - round(each)) < 1e-3 for each in whole)
    assert sum(map(round, whole)) == round(math.fsum(amount * unit for amount in amounts))
    assert all(abs(a - b) * unit < 1.001 for a, b in zip(amounts, found, strict=True))
    assert abs(amounts[0] - found[0]) * unit <= 0.501


# Shapley values by brute force


def tiny(kind: str) -> tuple[Booster, np.ndarray]:
    rng = np.random.default_rng(3)
    X = np.round(rng.normal(size=(400, 3)), 2)
    X[rng.random(X.shape) < 0.1] = np.nan
    y = (np.nan_to_num(X[:, 0]) * (np.nan_to_num(X[:, 1]) > 0) + rng.normal(size=400) > 0) * 1.0
    fold = np.arange(400) % 5
    problem = Problem(kind, X, y, np.zeros(400), np.ones(400), fold)  # type: ignore[arg-type]
    return Booster.fit(problem, 0), X


def expected(node: dict, x: np.ndarray, told: tuple[int, ...]) -> float:
    """A tree's answer where only the columns `told` are known: else by the rows that went there."""
    if "leaf" in node:
        return node["leaf"]
    by = {child["nodeid"]: child for child in node["children"]}
    k = int(node["split"][1:])
    if k in told:
        way = node["missing"] if np.isnan(x[k]) else (
            node["yes"] if np.float32(x[k]) < np.float32(node["split_condition"]) else node["no"]
        )  # fmt: skip
        return expected(by[way], x, told)
    return sum(c["cover"] * expected(c, x, told) for c in by.values()) / node["cover"]


@pytest.mark.parametrize("kind", ["value", "churn"])
def test_contributions_are_shapley_values(kind):
    booster, X = tiny(kind)
    raw = xgb.Booster(model_file=bytearray(booster.raw))
    trees = [json.loads(tree) for tree in raw.get_dump(dump_format="json", with_stats=True)]
    some = X[::40]
    found = booster.contributions(some)
    assert (found.std(axis=0) > 0).all()
    for i, x in enumerate(some):
        worth = {
            told: sum(expected(tree, x, told) for tree in trees)
            for n in range(4)
            for told in itertools.combinations(range(3), n)
        }
        for k in range(3):
            others = [told for told in worth if k not in told]
            shapley = sum(
                math.factorial(len(told)) * math.factorial(2 - len(told)) / 6
                * (worth[tuple(sorted((*told, k)))] - worth[told])
                for told in others
            )  # fmt: skip
            assert found[i, k] == pytest.approx(shapley, abs=1e-5)
        assert worth[0, 1, 2] == pytest.approx(booster.correction(some)[i], abs=1e-5)
        assert found[i].sum() + worth[()] == pytest.approx(worth[0, 1, 2], abs=1e-5)


def test_an_endless_attribute_is_explained_too():
    """An attribute of 1e300 is beyond 32 bits: it is learned, predicted and explained as huge."""
    booster, X = tiny("value")
    huge = X[:4].copy()
    huge[:, 0] = [1e300, -1e300, 3e38, -3e38]
    found = booster.contributions(huge)
    assert np.isfinite(found).all()
    left = booster.correction(huge) - found.sum(axis=1)
    assert np.allclose(left, left[0], atol=1e-5)
    assert same_bits(booster.correction(huge), booster.correction(np.clip(huge, -9e37, 9e37)))
    X[::50, 2] = -1e300
    rest = np.ones(400)
    learned = Booster.fit(Problem("churn", X, rest * (X[:, 0] > 0), 0 * rest, rest,
                                  np.arange(400) % 5), 0)  # fmt: skip
    assert learned.sane


def test_logits_of_certainty_stay_finite(model, rows):
    sure = replace(model, calibration=Calibration(100.0, 1.0))
    churn = explain_churn(sure, rows, KNOWN, 12)
    assert np.isfinite(churn.parts).all()
    assert (churn.total >= logit(1 - 1e-14)).all()
