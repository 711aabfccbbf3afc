"""What comes before leaving, against plain loops over customers."""

from __future__ import annotations

import math
from dataclasses import replace

import fitted
import numpy as np
import pytest
from conftest import same_bits
from fitted import KNOWN

from features.behaviour import Rows
from training.calibration import Calibration
from training.drivers import _highest_and_lowest, drivers
from training.model import Model
from training.reasons import explain_churn

MONTHS = 12


@pytest.fixture(scope="module")
def model() -> Model:
    return replace(fitted.base().model, calibration=Calibration(0.2, 0.9), levels=(0.0, 0.1))


@pytest.fixture(scope="module")
def rows(model: Model) -> Rows:
    return fitted.rows(model, last=300)


def logistic(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def test_weights_and_money_against_loops_over_customers(model, rows):
    found = drivers(model, rows, KNOWN, MONTHS)
    known = explain_churn(model, rows, KNOWN, MONTHS)
    predicted = model.predict(rows, KNOWN, [MONTHS])
    usual = sum(known.parts[:, 0]) / len(rows)
    names = ["rhythm", *(term.name for term in known.terms[1:])]
    families = ["the rhythm's forecast", *(term.family for term in known.terms[1:])]
    weight = dict.fromkeys(names, 0.0)
    risk, kept = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    family_risk, family_kept = dict.fromkeys(families, 0.0), dict.fromkeys(families, 0.0)
    for i in range(len(rows)):
        parts = [known.parts[i, 0] - usual, *known.parts[i, 1:]]
        odds = usual + sum(parts)
        slope = (logistic(odds) - logistic(usual)) / (odds - usual)
        value = predicted.value(MONTHS)[i] / (1 - logistic(odds))
        moved = [part * slope * value for part in parts]
        for name, part, money in zip(names, parts, moved, strict=True):
            weight[name] += abs(part) / len(rows)
            risk[name] += max(money, 0.0)
            kept[name] += max(-money, 0.0)
        for family in set(families):
            both = sum(m for m, f in zip(moved, families, strict=True) if f == family)
            family_risk[family] += max(both, 0.0)
            family_kept[family] += max(-both, 0.0)
    table = found.features.set_index("feature")
    assert set(table.index) == {name for name in names if weight[name] > 1e-9} - {"level"}
    for name in table.index:
        assert table.loc[name, "weight"] == pytest.approx(weight[name], rel=1e-6)
        assert table.loc[name, "at_risk"] == pytest.approx(risk[name], rel=1e-6, abs=1e-6)
        assert table.loc[name, "kept"] == pytest.approx(kept[name], rel=1e-6, abs=1e-6)
    whole = found.families.set_index("family")
    for family in whole.index:
        assert whole.loc[family, "at_risk"] == pytest.approx(family_risk[family], rel=1e-6)
        assert whole.loc[family, "kept"] == pytest.approx(family_kept[family], rel=1e-6)
    assert found.customers == 300
    assert found.mean_churn == pytest.approx(predicted.churn[:, 0].mean())
    assert found.features["weight"].is_monotonic_decreasing
    assert found.families["weight"].is_monotonic_decreasing


def test_the_rhythm_leads_and_points_the_right_way(model, rows):
    """Buyers of the benchmark shop leave as Pareto/NBD says: silence comes before leaving."""
    found = drivers(model, rows, KNOWN, MONTHS).features.set_index("feature")
    assert found.index[0] == "rhythm"
    assert found.loc["rhythm", "churn_high"] > found.loc["rhythm", "churn_low"] + 0.3
    churn = model.predict(rows, KNOWN, [MONTHS]).churn[:, 0]
    checked = 0
    for name in set(found.index) & set(rows.catalogue.names):
        x = rows.column(name)
        told = sorted(x[~np.isnan(x)])
        quarter = -(-len(told) // 4)
        low, high = told[quarter - 1], told[len(told) - quarter]
        if low < high:
            most = [p for p, v in zip(churn, x, strict=True) if v >= high]
            least = [p for p, v in zip(churn, x, strict=True) if v <= low]
            assert found.loc[name, "churn_high"] == pytest.approx(sum(most) / len(most))
            assert found.loc[name, "churn_low"] == pytest.approx(sum(least) / len(least))
            checked += 1
    assert checked >= 3


@pytest.mark.parametrize(
    ("values", "high", "low"),
    [
        ([1, 2, 3, 4], 0.4, 0.1),
        ([4, 3, 2, 1], 0.1, 0.4),
        ([1, 2, math.nan, 4], 0.4, 0.1),
        ([1, 1, 2, 2], 0.35, 0.15),  # all who share the last value belong
        ([0, 0, 0, 4], 0.4, 0.2),  # most have none: those with some against them
        ([0, 4, 4, 4], 0.3, 0.1),
        ([0, 0, 5, 0, 0, 0, 0, 0], 0.3, 0.471428571428),
        ([9, 9, 9, 9, 9, 9, 1, 9], 0.414285714286, 0.7),  # nobody has more
        ([3, 3, 3, 3], math.nan, math.nan),
        ([math.nan] * 4, math.nan, math.nan),
        ([math.nan, 7, math.nan, math.nan], math.nan, math.nan),
    ],
)
def test_highest_against_lowest(values, high, low):
    churn = np.arange(1, len(values) + 1) / 10
    found = _highest_and_lowest(np.array(values, float), churn)
    assert found == pytest.approx((high, low), nan_ok=True)


def test_the_order_of_customers_changes_no_bit(model, rows):
    turned = np.random.default_rng(1).permutation(len(rows))
    shuffled = replace(rows, who=rows.who[turned], cut=rows.cut[turned], values=rows.values[turned])
    one, two = drivers(model, rows, KNOWN, MONTHS), drivers(model, shuffled, KNOWN, MONTHS)
    assert list(one.features["feature"]) == list(two.features["feature"])
    for name in ("weight", "at_risk", "kept", "churn_high", "churn_low"):
        assert same_bits(one.features[name].to_numpy(), two.features[name].to_numpy())


def test_a_model_of_few_data_knows_the_rhythm_only(model, rows):
    thin = replace(model, members={}, levels=(0.0, 0.0))
    found = drivers(thin, rows, KNOWN, MONTHS)
    assert list(found.features["feature"]) == ["rhythm"]
    assert list(found.families["family"]) == ["the rhythm's forecast"]
    one = drivers(model, fitted.rows(model, last=1), KNOWN, MONTHS)
    assert "rhythm" not in set(one.features["feature"])  # nobody to be compared with
    assert np.isfinite(one.families[["weight", "at_risk", "kept"]].to_numpy()).all()
