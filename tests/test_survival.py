"""Kaplan-Meier against numbers worked out by hand, against scipy, and lapses against a loop."""

from __future__ import annotations

import math
from datetime import date

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from test_retention import found, orders

from features.errors import InputError
from serving.decisions import survival
from serving.decisions.survival import curve

EPOCH = date(1970, 1, 1)
#: Weeks to relapse of 21 patients under 6-MP (Freireich et al. 1963); a plus is a censored one.
FREIREICH = "6 6 6 6+ 7 9+ 10 10+ 11+ 13 16 17+ 19+ 20+ 22 23 25+ 32+ 32+ 34+ 35+"


def freireich() -> tuple[np.ndarray, np.ndarray]:
    words = FREIREICH.split()
    days = np.array([int(word.rstrip("+")) for word in words])
    return days, np.array([not word.endswith("+") for word in words])


def random(n: int = 400, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    life, watched = rng.geometric(0.02, n), rng.integers(0, 120, n)
    return np.minimum(life, watched).astype(np.int64), life <= watched


def test_a_published_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures that textbooks give for these patients."""
    monkeypatch.setattr(survival, "FEWEST", 1)
    made = curve(*freireich())
    assert made.days.tolist() == [6, 7, 10, 13, 16, 22, 23]
    assert made.at_risk.tolist() == [21, 17, 15, 12, 11, 7, 6]
    assert made.events.tolist() == [3, 1, 1, 1, 1, 1, 1]
    want = [0.857, 0.807, 0.753, 0.690, 0.627, 0.538, 0.448]
    np.testing.assert_allclose(made.survival, want, atol=0.0006)
    # Standard errors 0.0764 and 0.0869 at weeks 6 and 7.
    errors = made.survival * np.sqrt(np.cumsum(made.events / made.at_risk
                                               / (made.at_risk - made.events)))  # fmt: skip
    np.testing.assert_allclose(errors[:2], [0.0764, 0.0869], atol=1e-4)
    assert made.median() == 23
    assert made.at(9.5) == made.at(7)
    assert made.at(5) == (1.0, 1.0, 1.0)


def test_the_curve_and_its_interval_are_those_of_scipy() -> None:
    days, seen = random()
    # Where nobody or everybody has had the event, scipy has no interval and warns.
    days, seen = np.append(days, [0, 500]), np.append(seen, [True, False])
    data = stats.CensoredData.right_censored(days, ~seen)
    theirs = stats.ecdf(data).sf
    ends = theirs.confidence_interval(0.95, method="log-log")
    made = curve(days, seen)
    assert len(made.days) > 40
    for own, other in ((made.survival, theirs), (made.low, ends.low), (made.high, ends.high)):
        np.testing.assert_allclose(own, other.evaluate(made.days), rtol=1e-9)


def test_the_curve_by_hand() -> None:
    """Ten at risk on every day: nothing is cut away. S = 18/20, then x 14/16, by hand."""
    days = np.array([1, 1, 2, 2, 3, 3, *[9] * 14])
    seen = np.array([1, 1, 0, 0, 1, 1, *[0] * 14], bool)
    made = curve(days, seen)
    assert made.survival.tolist() == pytest.approx([0.9, 0.9 * 14 / 16])
    assert (made.at_risk.tolist(), made.reach) == ([20, 16], 9)
    mean = made.mean(5)
    assert mean.value == pytest.approx(1 + 0.9 * 2 + 0.7875 * 2)
    # Areas beyond the two days: 3.375 and 1.575; d / (n (n - d)): 2 / 360 and 2 / 224.
    error = math.sqrt(3.375**2 * 2 / 360 + 1.575**2 * 2 / 224)
    assert mean.high - mean.value == pytest.approx(1.959964 * error, rel=1e-6)
    assert mean.value - mean.low == pytest.approx(1.959964 * error, rel=1e-6)
    assert math.isnan(made.median())


def test_the_mean_is_the_area_and_its_interval_that_of_resampling() -> None:
    days, seen = random(800)
    made = curve(days, seen)
    steps = np.arange(0, 60, 0.01)
    heights = [made.at(float(step)).value for step in steps[::100]]
    assert made.mean(60).value == pytest.approx(sum(heights), rel=1e-9)
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(400):
        pick = rng.integers(0, len(days), len(days))
        drawn.append(curve(days[pick], seen[pick]).mean(60).value)
    half = made.mean(60).high - made.mean(60).value
    assert half == pytest.approx(1.96 * float(np.std(drawn)), rel=0.12)


def test_intervals_hold_the_known_truth() -> None:
    """Lives of geometric length: 95 % intervals miss it in about one of twenty."""
    hits, means = [], []
    for seed in range(1_000):
        made = curve(*random(200, seed))
        truth = 0.98**30
        hits.append(made.at(30).low <= truth <= made.at(30).high)
        area = sum(0.98**k for k in range(1, 60)) + 1
        means.append(made.mean(60).low <= area <= made.mean(60).high)
    assert 0.935 <= np.mean(hits) <= 0.965
    assert 0.935 <= np.mean(means) <= 0.965


def test_a_curve_ends_where_fewer_than_ten_are_watched() -> None:
    days, seen = np.arange(1, 31), np.ones(30, bool)
    made = curve(days, seen)
    assert made.reach == 21
    assert made.at_risk[-1] == 10
    assert all(math.isnan(value) for value in (*made.at(22), *made.mean(22)))
    few = curve(np.arange(9), np.ones(9, bool))
    assert (len(few.days), few.reach) == (0, -1)
    assert math.isnan(few.at(0).value)
    gone = curve(np.full(12, 4), np.ones(12, bool))
    assert gone.survival.tolist() == [0.0]
    assert np.isnan([gone.low[0], gone.high[0]]).all()
    assert gone.mean(4).value == 4


# When customers lapse


def naive(days: list[int], end: int, limit: int, multiple: float | None) -> tuple[int, bool, bool]:
    """Day by day: how long somebody was watched, whether they lapsed, whether they came back."""
    first, last = days[0], days[0]
    seen: list[int] = []
    for day in range(first, end):
        if day in days:
            last = day
            if day not in seen:
                seen.append(day)
        allowed = limit
        if multiple is not None and len(seen) > 1:
            allowed = math.floor(multiple * ((seen[-1] - first) / (len(seen) - 1)))
        if day not in days and day - last >= allowed:
            return last + allowed - first, True, any(other > day for other in days)
    return end - 1 - first, False, False


@pytest.mark.parametrize(("limit", "multiple"), [(90, None), (365, None), (200, 1.5), (90, 3.0)])
def test_lapses_are_those_of_a_walk_through_the_days(limit: int, multiple: float | None) -> None:
    got = survival.silences(found(), limit, multiple)
    end = (date(2024, 7, 18) - EPOCH).days
    returned = 0
    for i, (_, mine) in enumerate(orders().groupby("customer_id")):
        days = [(day.date() - EPOCH).days for day in mine["day"]]
        time, lapsed, back = naive(days, end, limit, multiple)
        assert (got.days[i], got.seen[i]) == (time, lapsed)
        returned += back
    assert got.returned == returned > 0
    assert 0 < got.seen.sum() < len(found())
    assert str(limit) in got.rule


def test_second_orders_are_those_of_the_table() -> None:
    got = survival.second_orders(found())
    rows = orders().assign(day=lambda t: [(d.date() - EPOCH).days for d in t["day"]])
    for i, (_, mine) in enumerate(rows.groupby("customer_id")):
        days = mine["day"].tolist()
        assert got.seen[i] == (len(days) > 1)
        end = days[1] if len(days) > 1 else (date(2024, 7, 18) - EPOCH).days - 1
        assert got.days[i] == end - days[0]


def test_a_contract_holds_through_its_last_day() -> None:
    people = found()
    ends = np.full(len(people), None, object)
    first = pd.Timestamp(EPOCH) + pd.Timedelta(days=int(people.first_day[2]))
    ends[:6] = ["2024-07-17", "2024-07-18", str((first + pd.Timedelta(days=40)).date()),
                "2000-01-01", "", "2024-07-17T10:00:00"]  # fmt: skip
    got = survival.contracts(people, ends)
    assert got.seen[:7].tolist() == [True, False, True, True, False, True, False]
    assert (got.days[2], got.days[3]) == (40, 0)
    watched = (date(2024, 7, 18) - EPOCH).days - 1 - people.first_day
    assert got.days[[0, 1, 4, 6]].tolist() == watched[[0, 1, 4, 6]].tolist()


def test_a_silence_is_a_day_or_more() -> None:
    with pytest.raises(InputError, match=r"--silence must be 1 day or more. Got 0."):
        survival.silences(found(), 0)
