"""Money over months, held against loops of exact decimals."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal, getcontext

import numpy as np
import pytest
from conftest import same_bits
from hypothesis import given
from hypothesis import strategies as st

from features.money import Cashflow, Cashflows, flow_of, monthly_rate, yearly_rate
from features.settings import Business, RateBySegment

getcontext().prec = 50
CENT = Decimal("0.01")
FLOW = Cashflow(margin=0.35, discount_rate=0.12, retention=1.75)


def value(by_month: list[str], margin: str, rate: str) -> Decimal:
    """Sum over months of margin / (1 + r)^((m - 1/2) / 12), by hand."""
    total = Decimal(0)
    for m, money in enumerate(by_month, start=1):
        years = (Decimal(m) - Decimal("0.5")) / 12
        total += Decimal(money) * Decimal(margin) / (1 + Decimal(rate)) ** years
    return total


def cents(number: Decimal | float) -> Decimal:
    return Decimal(number).quantize(CENT, ROUND_HALF_EVEN)


MONEY = st.decimals(-9_999, 999_999, places=2, allow_nan=False).map(str)


@given(
    st.lists(MONEY, min_size=24, max_size=24),
    st.sampled_from(["1", "0.4", "0.05"]),
    st.sampled_from(["0", "0.1", "0.125", "1"]),
    st.integers(1, 24),
)
def test_discounting_to_the_cent(by_month, margin, rate, months):
    flow = Cashflow(float(margin), float(rate), 0.0)
    sums = np.cumsum([Decimal(m) for m in by_month]).astype(float)[None, :]
    found = flow.discounted(sums, months)
    assert found.shape == (1,)
    exact = value(by_month[:months], margin, rate)
    # Half a cent decides the rounding; besides it the cents are equal.
    assert abs(Decimal(float(found[0])) - exact) < Decimal("1e-7")


def test_a_value_by_hand():
    """100 in month 1 and 60 in month 2, margin 50 %, 21 % a year."""
    flow = Cashflow(0.5, 0.21, 0.0)
    sums = np.array([[100.0, 160.0] + [160.0] * 22])
    assert cents(float(flow.discounted(sums, 1)[0])) == Decimal("49.60")  # 50 / 1.21^(1/24)
    assert cents(float(flow.discounted(sums, 2)[0])) == Decimal("78.90")  # + 30 / 1.21^(3/24)
    assert flow.discounted(sums, 24)[0] == flow.discounted(sums, 2)[0]


@pytest.mark.parametrize("months", [1, 12, 18, 24])
def test_cost_to_keep(months):
    exact = value(["1.75"] * months, "1", "0.12")
    assert cents(FLOW.retention_cost(months)) == cents(exact)
    # Nothing discounted: plain months.
    assert Cashflow(1.0, 0.0, 2.5).retention_cost(months) == 2.5 * months


def test_rates_of_month_and_year_are_inverse():
    assert monthly_rate(0.0) == yearly_rate(0.0) == 0.0
    assert yearly_rate(0.01) == pytest.approx(0.12682503013196972, abs=1e-15)  # 1.01^12 - 1
    for rate in (0.01, 0.1, 0.5, 1.0):
        assert yearly_rate(monthly_rate(rate)) == pytest.approx(rate, rel=1e-13)
        assert monthly_rate(yearly_rate(rate)) == pytest.approx(rate, rel=1e-13)
        # Twelve months of the factor are a year's discount.
        flow = Cashflow(1.0, rate, 0.0)
        assert flow.factor(13) * (1 + rate) == pytest.approx(flow.factor(1), rel=1e-14)
        assert flow.factor(2) * (1 + monthly_rate(rate)) == pytest.approx(flow.factor(1))
        assert flow.factor(1) == pytest.approx((1 + rate) ** (-1 / 24))


def test_a_row_does_not_depend_on_the_others():
    sums = np.cumsum(np.random.default_rng(1).normal(20, 90, (37, 24)), axis=1)
    whole = FLOW.discounted(sums, 18)
    each = np.concatenate([FLOW.discounted(sums[i : i + 1], 18) for i in range(37)])
    assert same_bits(whole, each)
    assert same_bits(whole, FLOW.discounted(np.asfortranarray(sums), 18))
    assert FLOW.discounted(sums[:0], 18).shape == (0,)


def test_months_add_up_to_value_less_the_cost_to_keep():
    sums = np.cumsum(np.random.default_rng(2).normal(20, 90, (37, 24)), axis=1)
    months = FLOW.monthly(sums)
    for h in range(1, 25):
        value = FLOW.discounted(sums, h) - FLOW.retention_cost(h)
        assert np.allclose(months[:, :h].sum(axis=1), value, rtol=1e-12, atol=1e-10)
    # One unit a month, nothing discounted, is one unit a month.
    free = Cashflow(1.0, 0.0, 0.0)
    steady = np.arange(1.0, 25.0)[None, :]
    assert (free.monthly(steady) == 1.0).all()
    assert free.discounted(steady, 24)[0] == 24.0
    assert (Cashflow(1.0, 0.0, 0.25).monthly(steady) == 0.75).all()


def test_rows_with_rates_of_their_own_are_as_alone():
    business = Business(
        margin=0.3, discount_rate=0.07, retention_cost=4.0,
        discount_rate_by_segment=RateBySegment("country", {"DE": 0.0, "BR": 0.3}),
    )  # fmt: skip
    sums = np.cumsum(np.random.default_rng(3).normal(20, 90, (6, 24)), axis=1)
    # Customers 0 to 3; the second has two rows, the last none.
    both = flow_of(business, ["BR", "DE", "", "XX"], np.array([0, 1, 1, 2, 2, 0]))
    assert isinstance(both, Cashflows)
    assert both.margin == 0.3
    for i, rate in enumerate([0.3, 0.0, 0.0, 0.07, 0.07, 0.3]):
        alone = Cashflow(0.3, rate, 4.0)
        one = sums[i : i + 1]
        assert both.factor(5)[i] == alone.factor(5)
        assert both.retention_cost(18)[i] == alone.retention_cost(18)
        assert both.discounted(sums, 18)[i] == alone.discounted(one, 18)[0]
        assert same_bits(both.running(sums)[i : i + 1], alone.running(one))
        assert same_bits(both.monthly(sums)[i : i + 1], alone.monthly(one))


def test_the_settings_of_the_business():
    business = Business(margin=0.3, discount_rate=0.07, retention_cost=4.0)
    assert Cashflow.of(business) == Cashflow(0.3, 0.07, 4.0)
