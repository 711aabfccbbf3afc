"""The two integrals of forecasts against quadrature, and each against its other form."""

import itertools

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import beta as beta_function

from training import integrals, lifetimes
from training.integrals import by_distinct, distinct, exp, log, orders_until_leaving
from training.lifetimes import leaves_first


def one(value):
    return np.array([float(value)])


@pytest.mark.parametrize(
    ("n", "s", "alpha", "beta", "age"),
    [
        (0.55, 0.6, 10.6, 11.7, 0.0),
        (3.5, 0.6, 10.6, 11.7, 39.0),
        (3.5, 0.6, 4.0, 150.0, 0.5),
        (3.5, 2.6, 150.0, 4.0, 0.5),
        (120.0, 0.3, 20.0, 5.0, 300.0),
        (0.2, 3.0, 6.0, 6.0, 20.0),
        (2.2, 0.4, 0.02, 60.0, 0.0),  # large q: by the trapezoid rule
        (0.7, 1.4, 60.0, 0.02, 0.0),
    ],
)
def test_leaves_first_is_the_integral_over_the_moment_of_leaving(n, s, alpha, beta, age):
    def density(v):  # age + u = (1 + age) e^v - 1: the decades of a heavy tail
        u = (1 + age) * np.expm1(v)
        race = -n * np.log1p(u / (alpha + age)) - (s + 1) * np.log1p(u / (beta + age))
        return s / (beta + age) * np.exp(race) * (1 + age) * np.exp(v)

    expected, _ = quad(density, 0, 200, epsabs=1e-13, epsrel=1e-12, limit=500, points=(0.01, 1, 9))
    assert leaves_first(one(n), s, alpha, beta, one(age))[0] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("tau", [1e-4, 0.5, 9.0, 400.0])
@pytest.mark.parametrize(
    ("s", "a", "b"),
    [(0.24, 0.8, 2.4), (5.2, 1.0, 3.0), (5.2, 1 + 1e-9, 3.0), (60.0, 0.3, 61.0), (30.0, 2.5, 1.2)],
)
def test_orders_until_leaving_is_the_mean_over_the_chance_to_leave(s, a, b, tau):
    def density(u):  # p = 1 / (1 + e^-u)
        p, rest = 1 / (1 + np.exp(-u)), 1 / (1 + np.exp(u))
        return p**a * rest**b * -np.expm1(-s * np.log1p(p * tau)) / p

    expected, _ = quad(density, -120, 100, epsabs=0, epsrel=1e-11, limit=2000, points=(-9, -3, 0))
    result = orders_until_leaving(one(s), a, one(b), one(tau))[0]
    assert result == pytest.approx(expected / beta_function(a, b), rel=1e-8)


def test_the_fraction_and_the_trapezoid_rule_agree_where_the_fraction_is_sure():
    grid = itertools.product([0.05, 0.6, 3.0], [0.2, 4.0, 500.0], [0.0, 0.3, 8.0, 90.0, 1e5])
    sure = []
    for k, m, q in grid:
        value, done = lifetimes._fraction(m, k + 1.0, q)
        sure.append(done)
        if done:
            assert k / (k + m) * value == pytest.approx(lifetimes._race(k, m, q), rel=1e-12)
    assert 0 < sum(sure) < len(sure), "the grid must reach both forms"


def test_the_series_and_the_panels_agree_where_the_series_is_sure():
    s, b, tau = (
        axis.ravel()
        for axis in np.meshgrid([0.05, 2.0, 40.0, 9000.0], [0.3, 2.0, 9000.0], [1e-3, 1.0, 30.0])
    )
    for a in (0.02, 0.7, 1.0, 1 + 1e-7, 6.0):
        series, sure = integrals._series(s, a, b, tau)
        panels = integrals._panels(s, a, b, tau)
        np.testing.assert_allclose(series[sure], panels[sure], rtol=2e-10)
        assert 0 < sure.sum() < sure.size, "the grid must reach both forms"


def test_exp_and_log_are_the_functions_they_name():
    y = np.linspace(-700, 700, 4001)
    np.testing.assert_allclose(exp(y), np.exp(y), rtol=4e-16)
    np.testing.assert_allclose(log(exp(y)), y, atol=1e-13)
    assert log(0.0) == -np.inf


def test_distinct_rows_give_the_columns_back():
    rng = np.random.default_rng(0)
    columns = [rng.integers(0, 4, 200).astype(float) for _ in range(3)]
    rows, place = distinct(columns)
    assert list(zip(*rows, strict=True)) == sorted(set(zip(*columns, strict=True)))
    for row, column in zip(rows, columns, strict=True):
        np.testing.assert_array_equal(row[place], column)


def test_by_distinct_asks_once_for_each_row_in_blocks(monkeypatch):
    monkeypatch.setattr(integrals, "BLOCK", 3)
    monkeypatch.setattr(integrals, "FEW", 0)
    asked = []

    def add(x, y):
        asked.extend(zip(x, y, strict=True))
        return x + y

    x, y = np.meshgrid([1.0, 2.0, 2.0, 1.0], [5.0, 7.0, 5.0])
    np.testing.assert_array_equal(by_distinct(add, x, y), x + y)
    assert sorted(asked) == [(1, 5), (1, 7), (2, 5), (2, 7)]
