"""Sums of leaves of few rows are those of xgboost, to the bit."""

from __future__ import annotations

import fitted
import numpy as np
from conftest import same_bits

from training import forest, members
from training.integrals import FEW


def test_few_rows_get_the_sum_of_leaves_that_xgboost_gives_many():
    rng = np.random.default_rng(3)
    for member in fitted.base().model.members.values():
        assert members._forest(member.raw) is not None
        X = rng.normal(0.0, 30.0, (5 * FEW, member._model.num_features()))
        X[rng.random(X.shape) < 0.2] = np.nan
        X[0] = 1e300
        many = member.correction(X)
        few = np.concatenate([member.correction(X[i : i + 1]) for i in range(len(X))])
        assert same_bits(few, many)


def test_trees_that_add_up_otherwise_are_left_to_xgboost(monkeypatch):
    raw = fitted.base().model.members["value"].raw
    members._forest.cache_clear()
    monkeypatch.setattr(members, "sums", lambda _, X: np.zeros(len(X), np.float32))
    assert members._forest(raw) is None
    found = members.Booster(raw).correction(np.zeros((1, members._loaded(raw).num_features())))
    assert found[0] != 0.0
    members._forest.cache_clear()


def test_what_trees_see_is_narrowed_and_never_infinite():
    values = np.array([[1.5, np.nan, 1e300], [-1e300, 2.0, 0.1]])
    found = forest.narrowed(values, np.array([2, 0, 1]), np.array([[7.0, -np.inf]]))
    most = np.finfo(np.float32).max
    expected = [[most, 1.5, np.nan, 7.0], [0.1, -most, 2.0, -most]]
    np.testing.assert_array_equal(found, np.array(expected, np.float32))
