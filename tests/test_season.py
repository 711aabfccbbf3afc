"""The clock of the season: against a walk over the days, and against seasons that are known."""

from __future__ import annotations

from datetime import date, timedelta
from itertools import pairwise

import fitted
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as rules
from hypothesis import strategies as st

from features.spine import add_months, instant
from training.anchor import Anchor, History
from training.fitting import fit
from training.season import FLAT, Season, weeks_ahead

START = date(2021, 1, 1)
#: A shop of Christmas: mean 1 over the twelve months.
KNOWN = Season((0.9, 0.9, 1.0, 1.0, 0.9, 0.8, 0.7, 0.8, 0.9, 1.0, 1.2, 1.9))


def number(day: date) -> int:
    return (day - date(1970, 1, 1)).days


@given(st.dates(date(1900, 1, 1), date(2200, 1, 1)), st.integers(0, 1_500))
@rules(max_examples=40)
def test_weeks_are_a_walk_over_the_days(start, length):
    walked = sum(KNOWN.index[(start + timedelta(days=k)).month - 1] for k in range(length)) / 7
    begin, end = KNOWN.weeks([number(start), number(start) + length])
    assert end - begin == pytest.approx(walked, abs=1e-6)


def test_without_seasons_it_is_the_calendar():
    zone, cutoff = "Europe/Berlin", instant("2024-03-01", "Europe/Berlin")
    assert FLAT.flat
    assert not KNOWN.flat
    assert FLAT.weeks([0, 7, -21]).tolist() == [0.0, 1.0, -3.0]
    # A day of 23 hours lies within March.
    assert FLAT.ahead(cutoff, 1, zone) == weeks_ahead(cutoff, 1, zone) == (31 - 1 / 24) / 7


def test_ahead_is_the_length_of_the_months():
    zone = "UTC"
    cutoff = instant("2024-11-15", zone)
    # Half of November, then all of December.
    halves = (16 * 1.2 + 14 * 1.9) / 7
    assert KNOWN.ahead(cutoff, 1, zone) == pytest.approx(halves)
    rising = [KNOWN.ahead(cutoff, m, zone) for m in range(1, 25)]
    assert all(b > a for a, b in pairwise(rising))
    far = instant("9000-01-01", zone)
    assert KNOWN.ahead(far, 12, zone) == pytest.approx(365 / 7)


def random_days(season: Season, customers: int, years: int) -> tuple[np.ndarray, np.ndarray]:
    """First days (customers,) and who ordered on which later day (customers, days), at random."""
    rng = np.random.default_rng(3)
    days = np.arange(number(START), number(START) + years * 365)
    speed = np.diff(season.weeks(np.append(days, days[-1] + 1))) * 7
    first = rng.integers(0, len(days), customers)
    alive = np.arange(len(days)) > first[:, None]
    return first, (rng.random(alive.shape) < 0.02 * speed) & alive


def found_in(first: np.ndarray, bought: np.ndarray) -> Season:
    start, base = (START.year - 1970) * 12, number(START)
    days = [START + timedelta(days=k) for k in range(bought.shape[1])]
    months = [(day.year - START.year) * 12 + day.month - 1 for day in days]
    repeats = np.bincount(months, weights=bought.sum(axis=0)).astype(np.int64)
    return Season.fit(first + base, repeats, start, base + len(days), lambda weeks: 0.14 * weeks)


def test_known_seasons_are_found():
    found = found_in(*random_days(KNOWN, 4_000, 3))
    assert np.mean(found.index) == pytest.approx(1.0)
    assert np.allclose(found.index, KNOWN.index, atol=0.06)


def test_chance_is_no_season():
    found = found_in(*random_days(FLAT, 4_000, 3))
    assert np.allclose(found.index, 1.0, atol=0.02)


def test_few_orders_say_nothing_of_seasons():
    first, repeats = np.array([number(START)] * 5), np.array([0, 3] + [0] * 22)
    found = Season.fit(first, repeats, 51 * 12, number(date(2023, 1, 1)), lambda w: 0.01 * w)
    assert found.flat


def test_a_history_on_the_clock_keeps_its_order():
    plain = History(np.array([0.0, 3.0]), np.array([0.0, 5.0]), np.array([0.25 / 7, 6.0]),
                    np.array([9.0, 8.0]))  # fmt: skip
    day = number(date(2024, 1, 1))
    moved = plain.on(KNOWN, day)
    assert moved.frequency is plain.frequency
    # The newest order was a week ago, 1.9 times as long in December; the first five before that.
    assert moved.age[1] - moved.recency[1] == pytest.approx(1.9)
    first = date(2024, 1, 1) - timedelta(days=42)
    walked = sum(KNOWN.index[(first + timedelta(days=k)).month - 1] for k in range(42)) / 7
    assert moved.age[1] == pytest.approx(walked)
    assert moved.age[0] == 0.25 / 7
    assert plain.on(FLAT, day) is plain


@pytest.mark.parametrize(("months", "seasons"), [(14, False), (15, True)])
def test_a_history_of_a_year_and_a_quarter_tells_seasons(months, seasons):
    first, bought = random_days(KNOWN, 1_200, 2)
    who, day = np.nonzero(bought)
    both = pd.DataFrame(
        {"who": np.append(who, np.arange(len(first))), "day": np.append(day, first)}
    )
    orders = pd.DataFrame(
        {
            "customer_id": "c" + both["who"].astype(str),
            "order_ts": pd.Timestamp(START) + pd.to_timedelta(both["day"], unit="D"),
            "amount": 10.0,
        }
    )
    store = fitted.ingest({"orders": orders})
    known = add_months(instant("2021-01-01", "UTC"), months, "UTC")
    quick = fitted.settings(model={"objective": "btyd", "origins": 1, "thin_below": 0})
    anchor = fit(store, known, 3, quick).model.anchor
    assert anchor.season.flat is not seasons
    assert Anchor.from_dict(anchor.as_dict()) == anchor
    if seasons:
        assert np.corrcoef(anchor.season.index, KNOWN.index)[0, 1] > 0.9


@pytest.mark.parametrize("months", [14, 16])
def test_a_level_is_learned_only_where_seasons_are_known(months):
    store = fitted.store()
    known = add_months(store.first_ts, months, fitted.ZONE)
    model = fit(store, known, 3, fitted.settings(model={"origins": 2})).model
    assert model.members
    assert model.longest == 3
    rows = fitted.rows(model, known)
    ahead = model.anchor.season.ahead(known, 3, fitted.ZONE)
    forecast = model.anchor.forecast(model.history(rows, known), [ahead])
    total = model.predict(rows, known, [3]).gross[:, 2].sum()
    levelled = total == pytest.approx(forecast.value[:, 0].sum(), rel=1e-9)
    assert bool(levelled) is (months < 15)
    assert (model.levels == (0.0, 0.0)) is (months >= 15)
