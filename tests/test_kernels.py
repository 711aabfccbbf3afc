"""The compiled columns of a prediction against plain numpy."""

from __future__ import annotations

import numpy as np
import pytest

from features.money import Cashflow
from training import kernels


def test_quantiles_between_bins_are_those_of_plain_numpy():
    rng = np.random.default_rng(2)
    centres, levels = np.sort(rng.normal(size=6)), kernels.LEVELS
    ratios = np.sort(rng.gamma(1.0, 1.0, (6, len(levels))), axis=1)
    shape = kernels.Shape(centres, levels, ratios, np.ones(6))
    value, churn = rng.gamma(1.0, 50.0, 400), rng.random(400)
    orders = (1 - churn) * np.exp(rng.normal(size=400))
    crowd = np.log(orders / (1 - churn))
    place = np.interp(crowd, centres, np.arange(6))
    for level in (0.1, 0.5, 0.9):
        at = np.clip((level - churn) / (1 - churn), levels[0], levels[-1])
        each = np.array([np.interp(at, levels, row) for row in ratios])
        below, rows = np.minimum(place.astype(int), 4), np.arange(400)
        part = place - below
        ratio = (1 - part) * each[below, rows] + part * each[below + 1, rows]
        expected = np.where(churn < level, ratio * value / (1 - churn), 0.0)
        found = kernels.quantiles(level, value, orders, churn, 0.0, shape)
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-12)
    one = kernels.Shape(centres[:1], levels, ratios[:1], np.ones(1))
    found = kernels.quantiles(0.9, value, orders, np.zeros(400), 0.0, one)
    np.testing.assert_allclose(found, np.interp(0.9, levels, ratios[0]) * value, rtol=1e-12)


@pytest.mark.parametrize("own", [False, True])
def test_columns_are_those_of_plain_numpy(own):
    rng = np.random.default_rng(5)
    n, h, flow = 60, (3, 12, 24), Cashflow(0.4, 0.1, 0.5)
    gross = np.cumsum(rng.gamma(1.0, 9.0, (n, 24)), axis=1)
    orders, churn = np.cumsum(rng.random((n, 3)), axis=1), rng.random((n, 3))
    pace, share, pending = rng.random(n) + 0.1, rng.random(n) / 2, rng.gamma(1.0, 2.0, n)
    margin = rng.uniform(0.1, 0.9, n) if own else 0.4
    out, drivers = kernels.told(
        gross, orders, churn, pace, share, pending, margin, flow.factors, flow.costs(h),
        np.array(h), np.zeros(3), np.array([0.1, 0.2, 0.3]), kernels.NO_SHAPE,
    )  # fmt: skip
    net = gross * (1 - share)[:, None] - pending[:, None]
    monthly = (np.diff(net, axis=1, prepend=0.0).T * margin).T
    worth = monthly * 1.1 ** (-(np.arange(24) + 0.5) / 12)
    for j, months in enumerate(h):
        cost = sum(0.5 * 1.1 ** (-(m + 0.5) / 12) for m in range(months))
        told = dict(zip(kernels.TOLD, out[j], strict=True))
        np.testing.assert_allclose(told["revenue"], net[:, months - 1], rtol=1e-12)
        np.testing.assert_allclose(told["margin"], margin * net[:, months - 1], rtol=1e-12)
        np.testing.assert_allclose(told["retention_cost"], cost, rtol=1e-12)
        np.testing.assert_allclose(told["clv"], worth[:, :months].sum(axis=1) - cost, rtol=1e-11)
        np.testing.assert_array_equal(told["orders"], orders[:, j])
        np.testing.assert_array_equal(told["churn"], churn[:, j])
        np.testing.assert_array_equal(told["common"], (j + 1) / 10)
        money, active = drivers[j]
        np.testing.assert_allclose(money * active * pace, gross[:, months - 1], rtol=1e-12)


def test_without_orders_there_is_no_value_of_one():
    zero = np.zeros((1, 24))
    flow = Cashflow(1.0, 0.0, 0.0)
    out, drivers = kernels.told(
        zero, zero[:, :1], zero[:, :1] + 1.0, np.zeros(1), np.zeros(1), np.zeros(1), 1.0,
        flow.factors, flow.costs((12,)), np.array([12]), np.zeros(1), np.zeros(1),
        kernels.NO_SHAPE,
    )  # fmt: skip
    assert drivers.ravel().tolist() == [0.0, 0.0]
    assert not np.signbit(out[0, 0, 0])
