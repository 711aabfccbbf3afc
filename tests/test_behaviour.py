from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import joblib
import naive
import numpy as np
import pandas as pd
import pytest
from conftest import bucket, history, same_bits, table

from features import behaviour, catalogue
from features.behaviour import Counts, Rows, build, learn
from features.catalogue import Vocabulary
from features.formulas import Take
from features.spine import DAY, Cutoffs, instant
from features.store import Bucket

ZONE = "Europe/Berlin"
DATES = [
    "2019-01-20", "2019-06-01", "2020-02-29", "2020-10-25", "2021-03-28", "2021-07-15",
    "2021-12-31", "2022-04-01", "2022-11-05", "2023-02-14", "2023-09-30", "2024-05-01",
]  # fmt: skip
TIMES = [instant(day, ZONE) for day in DATES]
CUTOFFS = Cutoffs.at(TIMES, ZONE)
CHANNELS, CATEGORIES = ("web", "app"), ("c1", "c2", "c9")
VOCABULARY = Vocabulary(
    CHANNELS, CATEGORIES, (("birth_year", None), ("country", ("DE", "FR")), ("plan", ()))
)
CATALOGUE = catalogue.catalogue(VOCABULARY)
#: Rounding alone; the spread of lines is a difference of two nearly equal numbers.
ROUNDING = {"line_spread": 1e-5}


@pytest.fixture(scope="module")
def lines() -> pd.DataFrame:
    return history(7, customers=60, lines=4_000, marks=TIMES)


@pytest.fixture(scope="module")
def people(lines: pd.DataFrame) -> pd.DataFrame:
    ids = sorted(lines["customer_id"].unique())[::-1]
    rng = np.random.default_rng(3)
    return pd.DataFrame(
        {
            "birth_year": rng.choice(["1980", "1999.5", "", "old", None], len(ids)),
            "country": rng.choice(["DE", "FR", "IT", "", None], len(ids)),
            "plan": rng.choice(["gold", None], len(ids)),
        },
        index=pd.Index(ids, name="customer_id"),
        dtype=object,
    ).iloc[1:]  # of one customer nothing is known


@pytest.fixture(scope="module")
def whole(lines: pd.DataFrame, people: pd.DataFrame) -> Bucket:
    return bucket(lines, ZONE, people)


@pytest.fixture(scope="module")
def rows(whole: Bucket) -> Rows:
    return build(whole, CUTOFFS, CATALOGUE)


def known(rows: Rows) -> list[tuple[str, int]]:
    return [(rows.ids[w], int(c)) for w, c in zip(rows.who, rows.cut, strict=True)]


def test_every_feature_against_plain_loops(lines, people, rows):
    by = naive.by_customer(table(lines, ZONE).to_pylist())
    expected = {}
    for customer in by:
        for cut, as_of in enumerate(CUTOFFS.times.tolist()):
            found = naive.features(by[customer], as_of, ZONE, CHANNELS, CATEGORIES)
            if found is not None:
                expected[customer, cut] = found
    assert known(rows) == sorted(expected)
    told = pd.DataFrame(list(expected.values()), index=list(expected)).loc[sorted(expected)]
    formulas = [name for name in CATALOGUE.names if not name.startswith("customer_")]
    assert set(formulas) <= set(told)
    for name in formulas:
        np.testing.assert_allclose(
            rows.column(name), told[name], 1e-9, ROUNDING.get(name, 1e-9), err_msg=name
        )
    # The data reach every corner: each feature takes several values, most also "not known".
    distinct = told[formulas].nunique()
    assert distinct.min() >= 2
    assert told[formulas].isna().any().sum() >= 20


def test_the_data_hold_the_hard_cases(lines, rows):
    frame = table(lines, ZONE).to_pandas()
    bought = frame[frame["amount"] > 0]
    assert frame["ts"].isin(TIMES).sum() >= len(TIMES)
    for days in (30, 365):
        assert frame["ts"].isin([t - days * DAY for t in TIMES]).sum() >= len(TIMES)
    assert bought.duplicated(["customer_id", "ts"]).sum() > 500
    spread = bought.groupby(["customer_id", "order_id"])["day"].nunique()
    assert (spread > 1).sum() > 50
    names = bought.groupby("customer_id").size().index
    assert set(frame["customer_id"]) - set(names) == {"000", "001", "002", "003"}
    assert not {"000", "001", "002", "003"} & {customer for customer, _ in known(rows)}
    first = frame.drop_duplicates("customer_id")
    assert (first["amount"] < 0).sum() > 10
    assert frame[["order_id", "product_id", "category", "channel", "cost"]].isna().any().all()
    assert (frame["amount"] == 0).any()


def test_attributes_of_customers(people, rows):
    about = people.reindex(rows.ids[rows.who])
    year = {"1980": 1980.0, "1999.5": 1999.5}
    np.testing.assert_array_equal(
        rows.column("customer_birth_year"), [year.get(v, np.nan) for v in about["birth_year"]]
    )
    country = [v if isinstance(v, str) else "" for v in about["country"]]
    for name, members in [("DE", {"DE"}), ("FR", {"FR"}), ("other", {"IT"})]:
        np.testing.assert_array_equal(
            rows.column(f"customer_country[{name}]"), [v in members for v in country]
        )
    np.testing.assert_array_equal(rows.column("customer_plan[other]"), about["plan"].eq("gold"))


def test_attributes_that_nobody_has_are_not_known(lines):
    made = build(bucket(lines.head(300), ZONE), CUTOFFS, CATALOGUE)
    assert np.isnan(made.column("customer_birth_year")).all()
    assert not made.column("customer_country[other]").any()


def test_windows_and_brackets_by_hand():
    as_of = instant("2023-07-01", "UTC")
    ago = [0, 1, 30 * DAY - 1, 30 * DAY, 30 * DAY + 1]
    made = pd.DataFrame(
        {
            "customer_id": "c",
            "ts": [as_of - t for t in ago],
            "amount": [1, 20, 300, 4_000, 50_000],
            "order_id": list("vwxyz"),
        }
    )
    found = build(bucket(made), Cutoffs.at([as_of], "UTC"), catalogue.catalogue())
    assert found.column("spend_30d").tolist() == [43.20]  # [as_of - 30 days, as_of)
    assert found.column("orders_30d").tolist() == [3]
    assert found.column("spend").tolist() == [543.20]
    assert found.column("days_since_order").tolist() == [1 / DAY]


def test_two_orders_of_one_day_split_by_the_cutoff():
    """R-G6: the instant decides, not the day."""
    at = [instant(f"2023-05-05T{hour}:00", ZONE) for hour in ("09", "15")]
    noon = instant("2023-05-05T12:00", ZONE)
    made = pd.DataFrame(
        {"customer_id": "c", "ts": at, "amount": [1_000, 700], "order_id": ["a", "b"]}
    )
    cutoffs = Cutoffs.at([at[0], noon, at[1], at[1] + 1], ZONE)
    found = build(bucket(made, ZONE), cutoffs, catalogue.catalogue())
    assert found.cut.tolist() == [1, 2, 3]  # nothing is known before the first order
    assert found.column("orders").tolist() == [1, 1, 2]
    assert found.column("spend").tolist() == [10, 10, 17]
    assert found.column("order_days").tolist() == [1, 1, 1]
    assert found.column("tenure_days").tolist() == [0, 0, 0]


def test_nothing_after_the_cutoff_is_seen(people):
    """R-A19, R-G5: rows at or after the cutoff may come, change and go."""
    lines = history(12, customers=25, lines=900)
    rng = np.random.default_rng(11)
    first, last = lines["ts"].min(), lines["ts"].max()
    seen = 0
    for round_ in range(20):
        as_of = int(rng.integers(first + 60 * DAY, last))
        if round_ % 4 == 0:
            as_of = int(lines["ts"].iloc[rng.integers(len(lines))])  # a line stands exactly at it
        cutoffs = Cutoffs.at([as_of - 40 * DAY, as_of], ZONE)
        past, ahead = lines[lines["ts"] < as_of], lines[lines["ts"] >= as_of]
        one = build(bucket(past, ZONE, people), cutoffs, CATALOGUE)
        changed = ahead.assign(
            amount=rng.permutation(ahead["amount"].to_numpy()) * 7,
            category="c1",
            order_id=rng.permutation(past["order_id"].to_numpy())[: len(ahead)]
            if len(ahead) <= len(past)
            else None,
            ts=ahead["ts"] + rng.integers(0, DAY, len(ahead)),
        )
        planted = changed.head(40).assign(ts=as_of, amount=999_999, customer_id="new")
        for future in (ahead, changed, pd.concat([changed, planted]), ahead.iloc[::2]):
            two = build(bucket(pd.concat([past, future]), ZONE, people), cutoffs, CATALOGUE)
            assert known(two) == known(one)
            assert same_bits(two.values, one.values)
        seen += len(one)
    assert seen > 400


def test_the_order_of_rows_does_not_matter(lines, people, rows):
    for seed in range(3):
        mixed = lines.sample(frac=1, random_state=seed)
        attributes = people.sample(frac=1, random_state=seed)
        two = build(bucket(mixed, ZONE, attributes), CUTOFFS, CATALOGUE)
        assert known(two) == known(rows)
        assert same_bits(two.values, rows.values)


def test_a_customer_alone_and_any_split_give_the_same_bits(lines, people, whole, rows):
    place = dict(zip(known(rows), rows.values, strict=True))
    for edges in [[*range(len(whole) + 1)], [0, 1, 17, 17, 59, 60], [0, 30, 60]]:
        for a, b in pairwise(edges):
            mine = set(whole.ids[a:b])
            apart = bucket(lines[lines["customer_id"].isin(mine)], ZONE, people)
            for part in (whole.take(a, b), apart):
                assert part.ids.tolist() == whole.ids[a:b].tolist()
                made = build(part, CUTOFFS, CATALOGUE)
                expected = [place[key] for key in place if key[0] in mine]
                assert known(made) == [key for key in place if key[0] in mine]
                assert same_bits(made.values, np.array(expected).reshape(made.values.shape))


def test_many_cutoffs_at_once_and_one_by_one(whole, rows):
    for cut, as_of in enumerate(CUTOFFS.times.tolist()):
        made = build(whole, Cutoffs.at([as_of], ZONE), CATALOGUE)
        here = rows.take(rows.cut == cut)
        assert np.array_equal(made.who, here.who)
        assert same_bits(made.values, here.values)


@pytest.mark.parametrize("workers", [1, 2])
def test_threads_give_the_same_bits(whole, rows, workers):
    edges = np.linspace(0, len(whole), 9).astype(int)
    parts = joblib.Parallel(n_jobs=workers, prefer="threads")(
        joblib.delayed(build)(whole.take(a, b), CUTOFFS, CATALOGUE) for a, b in pairwise(edges)
    )
    assert same_bits(np.vstack([part.values for part in parts]), rows.values)


def digest() -> str:
    """What a process with another clock, time zone and hash seed must give too."""
    made = build(bucket(history(5, marks=TIMES), ZONE), CUTOFFS, CATALOGUE)
    vocabulary = learn([Counts.of(bucket(history(5), ZONE), TIMES[5], ())])
    content = made.values.tobytes() + repr(vocabulary).encode()
    return hashlib.sha256(content).hexdigest() + catalogue.feature_hash()


def test_another_process_gives_the_same_features_and_hash():
    """R-E14: neither TZ nor the process matter."""
    here = Path(__file__).parent
    told = subprocess.run(
        [sys.executable, "-c", "import test_behaviour; print(test_behaviour.digest())"],
        env={**os.environ, "TZ": "Asia/Tokyo", "PYTHONHASHSEED": "77",
             "PYTHONPATH": os.pathsep.join([str(here), str(here.parent)])},
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert told.stdout.strip() == digest()


@pytest.mark.parametrize("zone", ["America/St_Johns", "Pacific/Kiritimati", "UTC"])
def test_the_time_zone_and_clock_of_the_machine_do_not_matter(
    rows, lines, people, zone, monkeypatch
):
    """R-E14."""
    now = time.time()
    monkeypatch.setenv("TZ", zone)
    monkeypatch.setattr(time, "time", lambda: now + DAY / 1e6)
    time.tzset()
    try:
        cutoffs = Cutoffs.at([instant(day, ZONE) for day in DATES], ZONE)
        made = build(bucket(lines, ZONE, people), cutoffs, CATALOGUE)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert same_bits(made.values, rows.values)


def test_cutoffs_in_two_seasons_differ():
    """B3: equal recency, other month, other window a year ago."""
    every = [instant(f"{year}-{month}-01", "UTC") for year in (2022, 2023) for month in (11, 12)]
    newest = [instant(day, "UTC") for day in ("2023-05-20", "2023-11-20")]
    made = pd.DataFrame({"customer_id": "c", "ts": [*every, *newest], "amount": 5_000})
    cutoffs = Cutoffs.at([t + 10 * DAY for t in newest], "UTC")
    found = build(bucket(made), cutoffs, catalogue.catalogue())
    assert found.column("days_since_order").tolist() == [10, 10]
    assert found.column("cutoff_month").tolist() == [5, 11]
    assert found.column("orders_next_90d_last_year").tolist() == [0, 1]
    assert found.column("spend_next_90d_last_year").tolist() == [0, 50]
    assert found.column("orders_90d_last_year").tolist() == [0, 1]


def test_the_catalogue_is_wide_and_documented():
    """B2."""
    plain = catalogue.catalogue()
    assert len(plain.names) >= 80
    families = {feature.family for feature in plain.features}
    assert families == {
        catalogue.RHYTHM, catalogue.FREQUENCY, catalogue.MONEY, catalogue.BASKET,
        catalogue.RETURNS, catalogue.SEASON,
    }  # fmt: skip
    assert {feature.family for feature in CATALOGUE.features} == families | {catalogue.PROFILE}
    for made in (plain, CATALOGUE):
        assert len(set(made.names)) == len(made.names)
        entries = made.dictionary()
        assert [entry["name"] for entry in entries] == list(made.names)
        for entry in entries:
            assert set(entry) == {"name", "family", "unit", "formula", "meaning"}
            assert all(isinstance(text, str) and text.strip() for text in entry.values())
    for days in (30, 90, 180, 365, 730):
        assert {f"spend_{days}d", f"orders_{days}d", f"lines_{days}d"} <= set(plain.names)


def test_the_hash_follows_the_definitions(monkeypatch):
    before = catalogue.feature_hash()
    assert before == catalogue.feature_hash()
    plain = catalogue._basket

    def changed(**fields: object) -> None:
        features = plain()
        features[0] = catalogue.Feature(**{**vars(features[0]), **fields})
        monkeypatch.setattr(catalogue, "_basket", lambda: features)

    seen = {before}
    for fields in (
        {"formula": Take("quantity[90]") / 1000.001},
        {"formula": Take("quantity[90]") / 1000.0000001},
        {"unit": "crates"},
        {"name": "pieces_90d"},
        {"meaning": "pieces"},
    ):
        changed(**fields)
        seen.add(catalogue.feature_hash())
    assert len(seen) == 6
    monkeypatch.undo()
    monkeypatch.setitem(catalogue.windows.WINDOWS, 30, 12)
    assert catalogue.feature_hash() not in seen


def test_the_vocabulary_is_the_most_frequent_levels_of_the_past(lines, people, whole):
    before = TIMES[6]
    static = ["birth_year", "country", "plan", "never_given"]
    edges = [0, 11, 40, 60]
    parts = [whole.take(a, b) for a, b in pairwise(edges)]
    made = learn([Counts.of(part, before, static) for part in parts])
    assert made == learn([Counts.of(part, before, static) for part in parts[::-1]])
    assert made == learn([Counts.of(whole, before, static)])
    by = naive.by_customer(table(lines, ZONE).to_pylist())
    orders = {
        customer: [o for o in naive.orders_of(by[customer], ZONE) if o.ts < before]
        for customer in by
    }
    for group, most in [("channel", 4), ("category", 16)]:
        count = pd.Series([getattr(o, group) for found in orders.values() for o in found])
        ranked = count.dropna().value_counts().reset_index()
        ranked.columns = ["level", "n"]
        ranked = ranked.sort_values(["n", "level"], ascending=[False, True])
        assert getattr(made, group) == tuple(ranked["level"][:most])
    assert len(made.category) == 16 < count.nunique()
    buyers = [customer for customer in orders if orders[customer]]
    country = people["country"].reindex(buyers)
    count = country[country.fillna("") != ""].value_counts()
    told = dict(made.attributes)
    assert list(told) == ["birth_year", "country", "plan"]
    assert sorted(told["country"]) == sorted(count.index)
    assert [count[level] for level in told["country"]] == sorted(count, reverse=True)
    assert "old" in told["birth_year"]  # one text among the numbers makes it text
    assert Vocabulary.from_dict(made.as_dict()) == made


def test_numbers_are_numbers_and_learned_late_levels_are_not_known(lines):
    ids = sorted(lines["customer_id"].unique())
    people = pd.DataFrame({"birth_year": [str(1950 + k) for k in range(len(ids))]}, index=ids)
    made = bucket(lines, ZONE, people)
    assert learn([Counts.of(made, TIMES[3], ["birth_year"])]).attributes == (("birth_year", None),)
    assert learn([Counts.of(made, int(lines["ts"].min()), ["birth_year"])]).channel == ()


def test_ties_are_broken_by_name_and_other_is_one_slot():
    names = ["b", "a", "other", "other", "other"]
    made = pd.DataFrame(
        {
            "customer_id": [f"{k}" for k in range(5)],
            "ts": TIMES[0],
            "amount": 100,
            "channel": names,
        }
    )
    people = pd.DataFrame({"plan": names}, index=made["customer_id"])
    here = bucket(made, attributes=people)
    vocabulary = learn([Counts.of(here, TIMES[1], ["plan"])])
    assert vocabulary.channel == ("a", "b")
    assert vocabulary.attributes == (("plan", ("a", "b")),)
    plan = catalogue.catalogue(vocabulary)
    assert len(set(plan.names)) == len(plan.names)
    found = build(here, Cutoffs.at([TIMES[1]], "UTC"), plan)
    for name in ("channel_share", "customer_plan"):
        assert found.column(f"{name}[other]").tolist() == [0, 0, 1, 1, 1]


def test_an_empty_bucket_has_no_rows(lines):
    empty = bucket(lines.iloc[:0], ZONE)
    made = build(empty, CUTOFFS, CATALOGUE)
    assert len(empty) == len(made) == 0
    assert made.values.shape == (0, len(CATALOGUE.names))
    assert len(build(bucket(lines, ZONE), Cutoffs.at([], ZONE), CATALOGUE)) == 0
    assert behaviour.learn([Counts.of(empty, TIMES[0], ())]) == Vocabulary()


def test_attributes_are_hidden_until_the_customer_was_acquired(lines):
    ids = sorted(lines["customer_id"].unique())
    middle = TIMES[len(TIMES) // 2]
    moment = datetime.fromtimestamp(middle / 1e6, UTC).isoformat()
    about = pd.DataFrame({"country": "DE", "acquired_at": moment}, index=ids)
    made = bucket(lines, ZONE, about)
    words = Vocabulary((), (), (("country", ("DE",)),))
    cutoffs = Cutoffs.at(list(TIMES), ZONE)
    rows = build(made, cutoffs, catalogue.catalogue(words))
    known = rows.column("customer_country[DE]") == 1
    assert (known == (cutoffs.times[rows.cut] > middle)).all()
    assert 0 < known.sum() < len(known)
