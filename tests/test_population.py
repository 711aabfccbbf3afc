"""What is said of somebody of whom nothing is known, where no model of prospects was learned."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import fitted
import numpy as np
import pandas as pd
import pytest
from conftest import Trained
from fitted import KNOWN

from features.errors import InputError
from serving.loader import Loaded, load
from training.intervals import LEVELS
from training.model import COLD_START, Model
from training.packing import pack, unpack
from training.population import Population
from training.predictions import Predictions

MONTHS = range(1, 25)


@cache
def model() -> Model:
    return replace(fitted.base().model, no_prospects="nobody signs up here")


@cache
def found() -> Predictions:
    return model().predict(fitted.rows(model()), KNOWN, MONTHS)


@cache
def population() -> Population:
    return Population.of(found(), KNOWN)


def test_it_is_the_mean_of_the_customers() -> None:
    one = population().predict([24, 3, 12], model().newcomer.cashflow)
    assert one.months == (3, 12, 24)
    for j, h in enumerate(one.months):
        assert one.revenue(h)[0] == pytest.approx(found().revenue(h).mean(), rel=1e-9)
        assert one.orders[0, j] == pytest.approx(found().orders[:, h - 1].mean(), rel=1e-9)
        assert one.churn[0, j] == pytest.approx(found().churn[:, h - 1].mean(), rel=1e-9)
    told, all_of_them = one.columns(), found().columns()
    assert told["clv_12m"][0] == pytest.approx(all_of_them["clv_12m"].mean(), rel=1e-9)
    assert population().customers == len(found().gross) == 1_500


def test_its_interval_is_that_of_a_customer_drawn_at_random() -> None:
    """Every customer at every point of their own distribution, counted one by one."""
    own = found().intervals
    assert own is not None
    h = own.months
    known = found().value(h), found().orders[:, h - 1], found().churn[:, h - 1]
    pool = np.concatenate([own.quantile(float(p), *known, h) for p in LEVELS])
    one = population().predict([h], model().newcomer.cashflow).columns()
    less = model().settings.business
    cost = sum(less.retention_cost / (1 + less.discount_rate) ** ((m - 0.5) / 12)
               for m in range(1, h + 1)) + found().pending_value.mean()  # fmt: skip
    scale = np.quantile(pool, 0.9)
    for name, level in (("low", 0.1), ("median", 0.5), ("high", 0.9)):
        told = one[f"clv_{h}m_{name}"][0] + cost
        assert told == pytest.approx(np.quantile(pool, level), abs=0.05 * scale)
    # Wider than anybody's of about the same value: customers differ, too.
    near = np.argsort(np.abs(known[0] - known[0].mean()))[:50]
    assert one[f"clv_{h}m_sd"][0] > np.median(own.spread(*known)[near])


def test_neither_order_nor_bundle_changes_a_bit() -> None:
    mixed = np.random.default_rng(3).permutation(1_500)
    names = ("gross", "orders", "churn", "return_share", "pending", "pace", "silence")
    other = replace(found(), **{name: getattr(found(), name)[mixed] for name in names})
    assert Population.of(other, KNOWN) == population()
    sealed = replace(model(), population=population())
    again = unpack(pack(sealed))
    assert again.population == population()
    assert unpack(pack(model())).population is None


def test_somebody_unknown_gets_it_and_a_prospects_model_comes_first() -> None:
    loaded = Loaded(replace(model(), population=population()), "7")
    told = loaded.predict_unknown("nobody knows", "2024-07-01", [6, 12])
    row = told.iloc[0]
    assert (len(told), row["customer_id"], row["evidence"]) == (1, "nobody knows", COLD_START)
    frames = {"orders": fitted.shop()["orders"].query("order_ts < '2024-07-01'")}
    assert list(told) == list(loaded.predict(frames, "2024-07-01", [6, 12]))
    assert row["clv_12m_low"] <= row["clv_12m_median"] <= row["clv_12m_high"]
    for rule, name in (
        ("own_gap:3", "inactive_own_gap"),
        ("contract_end", "inactive_contract_end"),
    ):
        other = replace(loaded.model, settings=fitted.settings(business={"churn": rule}))
        assert Loaded(other, "7").predict_unknown("x", "2024-07-01")[name].tolist() == [0]
    with pytest.raises(InputError, match="nobody signs up here"):
        Loaded(model(), "7").predict_unknown("x", "2024-07-01")


def test_it_needs_every_month_and_intervals() -> None:
    for wrong in (model().predict(fitted.rows(model()), KNOWN, [12]),
                  replace(found(), intervals=None)):  # fmt: skip
        with pytest.raises(ValueError, match="every month, with intervals"):
            Population.of(wrong, KNOWN)


def test_training_leaves_it_in_the_bundle(at_home: Trained) -> None:
    loaded = load()
    assert loaded.model.no_prospects == "the table customers holds buyers only"
    row = loaded.predict_unknown("nobody knows", at_home.as_of).iloc[0]
    frame = loaded.predict(at_home.frames, at_home.as_of)
    for name in ("revenue_12m", "orders_3m", "churn_12m", "clv_3m", "orders_per_month"):
        assert row[name] == pytest.approx(frame[name].mean(), rel=1e-9)
    assert isinstance(row["model_version"], str)
    assert pd.isna(row["next_order_on"]) == (row["churn_12m"] > 0.5)
