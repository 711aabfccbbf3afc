from __future__ import annotations

import naive
import numpy as np
import pandas as pd
import pytest
from conftest import bucket, history, same_bits, table

from features import behaviour, catalogue
from features.behaviour import Rows
from features.errors import InputError
from features.spine import DAY, Cutoffs, add_months, instant, text
from features.store import Bucket
from training import labels

ZONE = "Europe/Berlin"
TIMES = [
    instant(day, ZONE) for day in ("2019-08-31", "2020-10-25T14:00", "2021-11-30", "2023-01-31")
]
CUTOFFS = Cutoffs.at(TIMES, ZONE)
MONTHS = (1, 3, 12, 24)
KNOWN = instant("2024-01-31", ZONE)
ENDS = [add_months(t, h, ZONE) for t in TIMES for h in MONTHS]


@pytest.fixture(scope="module")
def lines() -> pd.DataFrame:
    made = history(31, customers=60, lines=4_000, marks=[*TIMES, *ENDS])
    return made[made["ts"] < KNOWN]


@pytest.fixture(scope="module")
def whole(lines: pd.DataFrame) -> Bucket:
    return bucket(lines, ZONE)


@pytest.fixture(scope="module")
def rows(whole: Bucket) -> Rows:
    return behaviour.build(whole, CUTOFFS, catalogue.catalogue())


def test_labels_against_plain_loops(lines, whole, rows):
    found = labels.build(whole, rows, CUTOFFS, MONTHS, KNOWN, ZONE)
    by = naive.by_customer(table(lines, ZONE).to_pylist())
    assert set(found) == set(MONTHS)
    for h, made in found.items():
        ripe = []
        for r, (who, cut) in enumerate(zip(rows.who, rows.cut, strict=True)):
            as_of = int(CUTOFFS.times[cut])
            end = naive.later(as_of, h, ZONE)
            ripe.append(end <= KNOWN)
            if end > KNOWN:
                assert np.isnan([made.gross[r], made.refunds[r], made.orders[r]]).all()
                assert np.isnan(made.net[r])
                assert np.isnan(made.churned[r])
                continue
            gross, refunds, orders = naive.labels(by[rows.ids[who]], as_of, end, ZONE)
            assert made.gross[r] == pytest.approx(gross, abs=1e-9)
            assert made.refunds[r] == pytest.approx(refunds, abs=1e-9)
            assert made.net[r] == pytest.approx(gross - refunds, abs=1e-9)
            assert made.orders[r] == orders
            assert made.churned[r] == (orders == 0)
        assert made.ripe.tolist() == ripe
    # Of the newest cutoff 12 months are ripe to the day, 24 are not.
    newest = rows.cut == 3
    assert found[12].ripe.all()
    assert (~found[24].ripe).sum() == newest.sum() > 40
    assert {0.0, 1.0} <= set(found[1].churned)
    assert np.nanmin(found[1].net) < 0


def test_both_brackets():
    as_of = instant("2023-01-31", ZONE)
    end = instant("2023-02-28", ZONE)  # one month, clamped
    made = pd.DataFrame(
        {
            "customer_id": "c",
            "ts": [as_of - DAY, as_of - 1, as_of, end - 1, end, end - 2],
            "amount": [1, 20, 300, 4_000, 50_000, -7],
            "order_id": list("uvwxyz"),
        }
    )
    here, cutoffs = bucket(made, ZONE), Cutoffs.at([as_of], ZONE)
    rows = behaviour.build(here, cutoffs, catalogue.catalogue())
    found = labels.build(here, rows, cutoffs, [1], end, ZONE)[1]
    assert (found.gross[0], found.refunds[0], found.net[0]) == (43.0, 0.07, 43.0 - 0.07)
    assert (found.orders[0], found.churned[0]) == (2, 0)
    short = labels.build(here, rows, cutoffs, [1], end - 1, ZONE)[1]
    assert not short.ripe.any()
    assert np.isnan(short.churned).all()


def test_what_lies_behind_the_window_changes_nothing(lines, whole, rows):
    """The embargo: rows at or after its end may come, change and go."""
    known = add_months(TIMES[2], 12, ZONE)
    one = labels.build(whole, rows, CUTOFFS, MONTHS, known, ZONE)
    ahead = lines[lines["ts"] >= known]
    changed = pd.concat([lines[lines["ts"] < known], ahead.assign(amount=ahead["amount"] * -9)])
    here = bucket(changed, ZONE)
    again = behaviour.build(here, CUTOFFS, catalogue.catalogue())
    two = labels.build(here, again, CUTOFFS, MONTHS, known, ZONE)
    sure = rows.cut < 3
    assert same_bits(again.values[again.cut < 3], rows.values[sure])
    for h in MONTHS:
        for name in ("gross", "refunds", "orders", "churned"):
            a, b = getattr(one[h], name), getattr(two[h], name)
            assert same_bits(a[sure], b[again.cut < 3])
        assert np.isnan(one[h].gross[~sure]).all()
    assert len(ahead) > 300


def test_labels_of_some_rows_and_of_a_part_of_the_bucket(whole, rows):
    every = labels.build(whole, rows, CUTOFFS, [3], KNOWN, ZONE)[3]
    which = np.arange(len(rows)) % 3 == 0
    some = labels.build(whole, rows.take(which), CUTOFFS, [3], KNOWN, ZONE)[3]
    assert same_bits(some.gross, every.gross[which])
    part = whole.take(20, 41)
    mine = behaviour.build(part, CUTOFFS, rows.catalogue)
    found = labels.build(part, mine, CUTOFFS, [3], KNOWN, ZONE)[3]
    here = (rows.who >= 20) & (rows.who < 41)
    assert same_bits(found.gross, every.gross[here])
    assert same_bits(found.orders, every.orders[here])


def test_ripeness_and_its_refusal():
    as_of = instant("2023-06-30", ZONE)
    end = instant("2024-06-30", ZONE)
    assert labels.ripe(as_of, 12, end, ZONE)
    assert not labels.ripe(as_of, 12, end - 1, ZONE)
    labels.require_ripe(as_of, 12, end, ZONE)
    with pytest.raises(InputError) as told:
        labels.require_ripe(as_of, 12, end - 1, ZONE)
    words = str(told.value)
    for part in ("12 months", "2023-06-30", "2024-06-30", text(end - 1, ZONE)):
        assert part in words
    assert "earlier date or a shorter horizon" in words
    assert "\n" not in words
