"""When the next order comes and what makes up a value: J12 and Q1."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import fitted
import numpy as np
import pandas as pd
import pytest
from conftest import same_bits
from fitted import KNOWN, ZONE
from scipy.integrate import quad

from features.spine import DAY, add_months, instant, local_day
from training.btyd import ParetoNBD
from training.kernels import next_orders
from training.model import Model
from training.outlook import MONTH, days

MONTHS = np.arange(1, 25)


@pytest.fixture(scope="module")
def model() -> Model:
    return fitted.base().model


@pytest.fixture(scope="module")
def table(model):
    return model.table(fitted.rows(model), KNOWN, (1, 12, 24), "1")


# The next order


@pytest.mark.parametrize("rate", [0.05, 0.4, 4.0, 30.0])
@pytest.mark.parametrize("comes", [0.6, 0.95])
def test_one_rate_of_orders_has_its_half_time(rate, comes):
    """Orders at one rate while active; the median is known in closed form."""
    silence = 1.0 - comes * -np.expm1(-rate * MONTHS) / -np.expm1(-rate * 24)
    exact = -np.log1p(np.expm1(-rate * 24) / 2) / rate
    (found,) = next_orders(silence[None])
    assert found == pytest.approx(exact, abs=0.012)


def test_it_is_where_half_of_those_who_come_back_have_come():
    """Against Pareto/NBD on a grid of hours, for histories of every kind."""
    anchor = ParetoNBD(0.7, 6.0, 0.5, 12.0)
    rng = np.random.default_rng(3)
    x = rng.integers(0, 60, 400).astype(float)
    age = rng.uniform(4, 150, 400)
    recency = np.where(x > 0, age * rng.uniform(0.8, 1, 400), 0.0)
    ends = MONTHS * MONTH
    silence = anchor.p_no_order(*(v[:, None] for v in (x, recency, age)), ends)
    found = next_orders(silence)
    known = silence[:, -1] < 0.5
    assert 100 < known.sum() < 390
    assert np.array_equal(~np.isnan(found), known)
    for i in np.flatnonzero(known)[::5]:
        half = (1.0 + silence[i, -1]) / 2
        grid = np.linspace(0, ends[-1], 24 * 730)
        curve = anchor.p_no_order(x[i], recency[i], age[i], grid)
        exact = grid[np.argmax(curve <= half)]
        assert found[i] * MONTH == pytest.approx(exact, abs=2 / 7, rel=0.04)


def test_who_comes_in_the_last_month_only_comes_in_its_middle():
    silence = np.ones((1, 24))
    silence[0, -1] = 0.2
    assert next_orders(silence)[0] == 23.5
    silence[0, -1] = 0.5
    assert np.isnan(next_orders(silence)[0])


def test_a_sure_order_of_the_first_days_is_no_fault():
    silence = np.zeros((2, 24))
    silence[1, 0] = 1e-12
    assert (next_orders(silence) >= 0).all()
    assert (next_orders(silence) < 1).all()


def test_half_of_those_who_come_back_do_so_by_then(model, table):
    """Against the orders of the two years after `KNOWN`, which the model has not seen."""
    orders = fitted.shop()["orders"]
    later = orders[(orders["amount"] > 0) & (orders["order_ts"] >= "2024-07-01")]
    came = table["customer_id"].map(later.groupby("customer_id")["order_ts"].min())
    told = pd.to_datetime(table["next_order_on"])
    back = told.notna() & came.notna()
    assert back.sum() > 300
    # The standard error of a share of 445 is 0.024.
    assert 0.43 < (came.dt.normalize()[back] <= told[back]).mean() < 0.57
    # Those without a date mostly stay away, those with one mostly come.
    assert came[told.notna()].notna().mean() > 0.7
    assert came[told.isna()].notna().mean() < 0.35


def test_a_date_stands_where_an_order_is_more_likely_than_none(table):
    told = table["next_order_on"]
    assert (told.notna() == (table["churn_24m"] < 0.5)).all()
    assert told.dropna().str.fullmatch(r"\d{4}-\d\d-\d\d").all()
    assert told.dropna().between("2024-07-01", "2026-07-01").all()
    frequent = table[told.notna()].sort_values("orders_per_month")
    wait = pd.to_datetime(frequent["next_order_on"]) - pd.Timestamp("2024-07-01")
    assert wait.iloc[-50:].mean() < wait.iloc[:50].mean() / 3


@pytest.mark.parametrize(
    ("as_of", "zone"),
    [("2024-07-01", "UTC"), ("2024-01-31", "Europe/Berlin"), ("2024-03-30T23:30", "Europe/Berlin"),
     ("2024-09-28T22:15", "Pacific/Auckland"), ("2023-11-05T05:00", "America/New_York")],
)  # fmt: skip
def test_days_are_local_and_never_before_as_of(as_of, zone):
    """Against the calendar: that part of the way from one month's end to the next."""
    moment = instant(as_of, zone)
    months = np.array([0.0, 1e-9, 0.4, 1.0, 1.5, 7.25, 11.999, 23.9, 24.0, np.nan])
    found = days(months, moment, zone)
    local = datetime.fromisoformat(as_of) if "T" in as_of else datetime.fromisoformat(as_of[:10])
    clock = timedelta(hours=local.hour, minutes=local.minute)
    for value, told in zip(months[:-1], found[:-1], strict=True):
        whole = min(int(value), 23)
        start, end = (
            datetime(1970, 1, 1) + clock
            + timedelta(days=local_day(add_months(moment, whole + k, zone), zone))
            for k in (0, 1)
        )  # fmt: skip
        day = (start + (end - start) * (value - whole)).date()
        assert abs((date.fromisoformat(told) - day).days) <= (0 if zone == "UTC" else 1)
        assert told >= as_of[:10]
    assert pd.isna(found[-1])
    today = datetime.fromtimestamp(moment / DAY * 86_400, ZoneInfo(zone)).date()
    assert found[0] == today.isoformat()


def test_nobody_has_no_days():
    assert len(days(np.zeros(0), KNOWN, ZONE)) == 0
    assert pd.isna(days(np.array([np.nan]), KNOWN, ZONE)).all()


# The drivers


def test_the_drivers_make_up_gross_revenue_and_orders(model, table):
    found = model.predict(fitted.rows(model), KNOWN, (1, 12, 24))
    for h in (1, 12, 24):
        orders = table["orders_per_month"] * table[f"active_months_{h}m"]
        gross = orders * table[f"order_value_{h}m"]
        assert np.abs(gross - found.gross[:, h - 1]).max() < 1e-9
        assert np.abs(orders - table[f"orders_{h}m"]).max() < 1e-12
        net = gross * (1 - found.return_share) - found.pending
        assert np.abs(net - table[f"revenue_{h}m"]).max() < 1e-9


def test_nobody_is_active_for_more_time_than_there_is(model, table):
    for h in (1, 12, 24):
        ahead = model.anchor.season.ahead(KNOWN, h, ZONE) / MONTH
        active = table[f"active_months_{h}m"]
        assert active.between(0, ahead + 1e-9).all()
    assert (table["active_months_12m"] <= table["active_months_24m"]).all()
    assert (table["orders_per_month"] > 0).all()


def test_without_corrections_they_are_those_of_the_forecast(model):
    """The rate is Pareto/NBD's, the life its chance of life times the mean of what remains."""
    bare = replace(model, members={}, levels=(0.0, 0.0), calibration=type(model.calibration)())
    rows = fitted.rows(model, last=40)
    found = bare.table(rows, KNOWN, (12,), "1")
    known, law = model.history(rows, KNOWN), model.anchor.orders
    ahead = model.anchor.season.ahead(KNOWN, 12, ZONE)
    alive = law.p_alive(known.frequency, known.recency, known.age)
    rate = (law.r + known.frequency) / (law.alpha + known.age) * model.orders_per_day * MONTH
    assert found["orders_per_month"].to_numpy() == pytest.approx(rate, rel=1e-12)
    for i in range(40):
        # The lifetime of somebody alive at age T: chance ((beta + T) / (beta + T + u))^s beyond u.
        stays = law.beta + known.age[i]
        life = quad(lambda u, stays=stays: (stays / (stays + u)) ** law.s, 0, ahead)[0]
        assert found["active_months_12m"][i] == pytest.approx(alive[i] * life / MONTH, rel=1e-6)


def test_the_same_pace_whichever_horizons_are_asked(model, table):
    other = model.table(fitted.rows(model), KNOWN, (6,), "1")
    for name in ("orders_per_month", "next_order_on"):
        assert other[name].equals(table[name])


def test_a_row_alone_has_the_bits_of_the_batch(model, table):
    names = [c for c in table if c.startswith(("orders_per", "order_value", "active_months"))]
    for i in (0, 17, 333):
        alone = model.table(fitted.rows(model, first=i, last=i + 1), KNOWN, (1, 12, 24), "1")
        assert list(alone.dtypes) == list(table.dtypes)
        assert alone["next_order_on"].equals(
            table["next_order_on"][i : i + 1].reset_index(drop=True)
        )
        for name in names:
            one, many = (np.asarray(t[name], np.float64) for t in (alone, table))
            assert same_bits(one, many[i : i + 1])


def test_the_last_columns_before_the_version(table):
    names = list(table)
    assert names[-1] == "model_version"
    each = [f"{name}_{h}m" for h in (1, 12, 24) for name in ("order_value", "active_months")]
    assert names[-10:-1] == ["next_order_on", "orders_per_month", *each, "segment"]
