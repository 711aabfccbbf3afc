"""The closed retention formula beside the model: Q9."""

from __future__ import annotations

import math

import fitted
import numpy as np
import pandas as pd
import pytest

from features.money import Cashflow
from features.settings import Business
from training.crosscheck import closed, cross_check

BUSINESS = Business(margin=0.4, discount_rate=0.1, retention_cost=0.5)


@pytest.mark.parametrize("retention", [0.0, 0.3, 0.95, 1.0])
@pytest.mark.parametrize("rate", [0.0, 0.008, 0.5])
@pytest.mark.parametrize("months", [1, 12, 24])
def test_the_formula_is_the_sum_of_its_months(retention, rate, months):
    total = math.fsum(7.0 * retention**k / (1 + rate) ** k for k in range(1, months + 1))
    assert closed(7.0, retention, rate, months) == pytest.approx(total, rel=1e-12, abs=1e-15)


def test_for_ever_it_is_the_textbooks():
    assert closed(10.0, 0.9, 0.01) == pytest.approx(10 * 0.9 / (1 + 0.01 - 0.9), rel=1e-12)
    assert closed(10.0, 0.9, 0.01) == pytest.approx(closed(10.0, 0.9, 0.01, 2_000), rel=1e-12)
    assert closed(10.0, 1.0, 0.0) == math.inf


def constant(retention: float, months: int, customers: int = 3) -> pd.DataFrame:
    """A predictions table in which everybody stays with one chance and brings one margin."""
    flow, each = Cashflow.of(BUSINESS), [retention**k for k in range(1, months + 1)]
    spend = np.arange(1.0, customers + 1) * 20
    gross = spend[:, None] * np.cumsum(each)
    cost = flow.retention_cost(months)
    found = {
        "margin": 0.4 * gross[:, -1],
        "active_months": np.full(customers, sum(each)),
        "churn": np.full(customers, 1 - retention**months),
        "clv": flow.discounted(gross, months) - cost,
        "retention_cost": np.full(customers, cost),
    }
    return pd.DataFrame({f"{name}_{months}m": column for name, column in found.items()})


@pytest.mark.parametrize("months", [1, 12, 24])
def test_where_everybody_stays_with_one_chance_both_agree(months):
    found = cross_check(constant(0.93, months), months, BUSINESS)
    assert found.formula == pytest.approx(found.model, rel=1e-12)
    assert found.ratio == pytest.approx(1.0, rel=1e-12)
    assert found.margin == pytest.approx(0.4 * 120)
    assert found.retention == pytest.approx(0.93)


def test_a_base_that_is_gone_has_no_ratio():
    gone = constant(0.93, 12) * 0 + [0, 0, 1, 0, 0]
    found = cross_check(gone, 12, BUSINESS)
    assert (found.formula, found.model, found.ratio) == (0.0, 0.0, None)
    assert found.as_dict()["ratio"] is None


def test_on_a_shop_it_is_of_the_models_size():
    model = fitted.base().model
    table = model.table(fitted.rows(model), fitted.KNOWN, (12, 24), "1")
    for months in (12, 24):
        found = cross_check(table, months, model.settings.business)
        value = (table[f"clv_{months}m"] + table[f"retention_cost_{months}m"]).sum()
        assert found.model == pytest.approx(value)
        assert found.ratio is not None
        assert 0.7 < found.ratio < 1.4
