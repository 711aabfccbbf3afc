"""A8: events are read by the contract's rules and become features through exact window sums."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import joblib
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from conftest import bucket, history, same_bits, table

from features import catalogue, events, passes, tables
from features.behaviour import Counts, Rows, build, engaged, learn
from features.catalogue import Catalogue, Vocabulary
from features.errors import BundleError, InputError
from features.formulas import Take
from features.settings import Settings, parse
from features.spine import DAY, Cutoffs, instant
from features.store import EVENTS, Bucket, Events, Store
from features.tables import Ingested, ingest, quarantine

ZONE = "Europe/Berlin"
TIMES = [instant(day, ZONE) for day in ("2019-06-01", "2020-10-25", "2021-03-28", "2023-02-14")]
CUTOFFS = Cutoffs.at(TIMES, ZONE)
#: Kinds as the shop writes them, and the names that their features must bear.
NAMED = {
    "visit": "visit", "Visit": "visit_2", "mail opened": "mail_opened", "survey": "survey",
    "order": "order_2", "event": "event_2", "": "kind", "5 stars": "kind_5_stars",
}  # fmt: skip
KINDS = tuple(NAMED)
WORDS = catalogue.catalogue(Vocabulary(events=KINDS, valued=("visit", "survey", "order")))
BEYOND = [f.name for f in WORDS.features if f.family == catalogue.BEYOND]
HEAD = "customer_id,ts,kind,value,channel\n"
ORDERS = "customer_id,order_ts,amount\na,2024-01-01,5\nb,2024-03-31 22:00,7\n"


def happened(seed: int, rows: int = 6_000) -> pd.DataFrame:
    """Random events of the customers of `history` and of others, with every oddity.

    At each cutoff and at the starts of its windows, and just beside; copies; unknown kinds.
    """
    rng = np.random.default_rng(seed)
    ids = [*sorted(history(7, customers=60, lines=900)["customer_id"].unique())[:-3], "x", "lead"]
    known = [kind for kind in KINDS if kind]
    value = pd.array(rng.integers(-9_000, 9_000, rows), "Int64")
    made = pd.DataFrame(
        {
            "customer_id": rng.choice(ids, rows),
            "ts": instant("2019-01-01", ZONE) + rng.integers(0, 5 * 365 * 24, rows) * DAY // 24,
            "kind": rng.choice([*known, "never seen"], rows),
            "value": pd.Series(value, dtype="Int64").mask(rng.random(rows) < 0.4),
        }
    )
    edges = [t - w * DAY + d for t in TIMES for w in (0, 30, 90, 365) for d in (-1, 0, 1)]
    for _ in range(3):
        made.loc[rng.choice(rows, len(edges), replace=False), "ts"] = edges
    return pd.concat([made, made.sample(rows // 50, random_state=seed)], ignore_index=True)


def kept(frame: pd.DataFrame) -> Events:
    """Events in the canonical order of the store."""
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    rows.sort(key=lambda r: (r["customer_id"].encode(), r["ts"], r["kind"].encode(),
                             r["value"] is not None, r["value"] or 0))  # fmt: skip
    return Events.of(pa.Table.from_pylist(rows, schema=EVENTS))


def by_loop(frame: pd.DataFrame, customer: str, as_of: int) -> dict[str, float]:
    """Features of one customer by plain loops over all rows."""
    found: dict[str, float] = {}
    mine = frame[frame["customer_id"] == customer].to_dict("records")
    past = [r for r in mine if r["ts"] < as_of and r["kind"] in NAMED]

    def since(rows: list[dict[str, Any]]) -> float:
        return min(((as_of - r["ts"]) / DAY for r in rows), default=np.nan)

    def within(rows: list[dict[str, Any]], days: int) -> list[dict[str, Any]]:
        return [r for r in rows if as_of - days * DAY <= r["ts"]]

    for kind, name in NAMED.items():
        rows = [r for r in past if r["kind"] == kind]
        for days in (30, 90, 365):
            found[f"{name}_count_{days}d"] = len(within(rows, days))
        found[f"{name}_count"] = len(rows)
        found[f"days_since_{name}"] = since(rows)
        rated = [r for r in rows if not pd.isna(r["value"])]
        year = [r["value"] / 1000 for r in within(rated, 365)]
        found[f"{name}_mean_365d"] = sum(year) / len(year) if year else np.nan
        newest = max(((r["ts"], r["value"]) for r in rated), default=(0, np.nan))[1]
        found[f"{name}_newest"] = newest / 1000
    month, quarter = len(within(past, 30)), len(within(past, 90))
    return found | {
        "days_since_event": since(past), "events_30d": month, "events_90d": quarter,
        "events_share_30_of_90": month / quarter if quarter else np.nan,
    }  # fmt: skip


@pytest.fixture(scope="module")
def lines() -> pd.DataFrame:
    return history(7, customers=60, lines=2_000)


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return happened(3)


def whole(lines: pd.DataFrame, frame: pd.DataFrame | None) -> Bucket:
    return Bucket.of(table(lines, ZONE), 100, None, ZONE, None if frame is None else kept(frame))


@pytest.fixture(scope="module")
def rows(lines: pd.DataFrame, frame: pd.DataFrame) -> Rows:
    return build(whole(lines, frame), CUTOFFS, WORDS)


def beyond(rows: Rows, words: Catalogue = WORDS) -> np.ndarray[Any, Any]:
    names = list(words.names)
    return rows.values[:, [names.index(name) for name in BEYOND]]


# Features


def test_every_feature_against_plain_loops(frame, rows):
    told = pd.DataFrame(
        [by_loop(frame, rows.ids[w], TIMES[c]) for w, c in zip(rows.who, rows.cut, strict=True)]
    )
    assert {f"{name}_count" for name in NAMED.values()} <= set(BEYOND)
    for name in BEYOND:
        np.testing.assert_allclose(rows.column(name), told[name], 1e-12, err_msg=name)
    # No event is without a kind; all other features take several values.
    busy = [name for name in BEYOND if NAMED[""] not in name.split("_") or "stars" in name]
    assert told[busy].nunique().min() >= 2
    assert (told.drop(columns=busy)[[c for c in BEYOND if c.startswith("kind_count")]] == 0).all(
        axis=None
    )
    assert sorted(set(told) - set(BEYOND)) == sorted(
        f"{name}_{what}" for kind, name in NAMED.items() for what in ("mean_365d", "newest")
        if kind not in WORDS.vocabulary.valued
    )  # fmt: skip


def test_window_sums_against_sql(frame, rows):
    spine = pd.DataFrame({"customer_id": rows.ids[rows.who], "as_of": CUTOFFS.times[rows.cut]})
    spine["row"] = np.arange(len(spine))
    past = frame[frame["kind"].isin(KINDS)]
    with duckdb.connect() as con:
        con.register("spine", spine)
        con.register("past", past)
        told = con.execute(
            """
            SELECT row, count(ts) FILTER (kind = 'survey' AND ts >= as_of - 90 * 86400000000) AS n,
              avg(value / 1000) FILTER (kind = 'survey' AND ts >= as_of - 365 * 86400000000) AS m,
              arg_max(value, (ts, value)) FILTER (kind = 'survey' AND value IS NOT NULL) / 1e3 v,
              count(ts) FILTER (ts >= as_of - 30 * 86400000000) AS events,
              (as_of - max(ts)) / 86400000000 AS since
            FROM spine LEFT JOIN past ON past.customer_id = spine.customer_id AND ts < as_of
            GROUP BY row, as_of ORDER BY row
            """
        ).df()
    for name, column in {
        "survey_count_90d": "n", "survey_mean_365d": "m", "survey_newest": "v",
        "events_30d": "events", "days_since_event": "since",
    }.items():  # fmt: skip
        np.testing.assert_allclose(rows.column(name), told[column].astype(float), 1e-12)


def test_brackets_by_hand():
    as_of = TIMES[1]
    made = pd.DataFrame(
        {
            "customer_id": "c",
            "ts": [as_of, as_of - 1, as_of - 30 * DAY, as_of - 30 * DAY - 1],
            "kind": "visit",
            "value": pd.array([1000, 2000, None, 4000], "Int64"),
        }
    )
    found = engaged(kept(made), np.array([0]), np.array([as_of]), WORDS)[0]
    got = dict(zip(BEYOND, found, strict=True))
    assert (got["visit_count_30d"], got["visit_count"]) == (2, 3)
    assert got["days_since_visit"] == 1 / DAY
    assert (got["visit_mean_365d"], got["visit_newest"]) == (3, 2)


def test_nothing_at_or_after_the_cutoff_is_seen(lines, frame):
    for cut, as_of in enumerate(TIMES):
        one = build(whole(lines, frame), Cutoffs.at([as_of], ZONE), WORDS)
        past = frame[frame["ts"] < as_of]
        ahead = past.sample(200, random_state=cut).assign(ts=as_of, value=7)
        for other in (past, pd.concat([past, ahead]), pd.concat([past, ahead.assign(kind="new")])):
            two = build(whole(lines, other), Cutoffs.at([as_of], ZONE), WORDS)
            assert same_bits(two.values, one.values)
    fewer = build(whole(lines, past.iloc[9:]), Cutoffs.at([as_of], ZONE), WORDS)
    assert not same_bits(fewer.values, one.values)


def test_alone_in_any_split_order_and_threads_the_same_bits(lines, frame, rows):
    here = whole(lines, frame)
    for edges in [[*range(len(here) + 1)], [0, 17, 17, 60]]:
        parts = [build(here.take(a, b), CUTOFFS, WORDS) for a, b in pairwise(edges)]
        assert same_bits(Rows.join(parts).values, rows.values)
    for customer in here.ids[::9]:
        alone = whole(
            lines[lines["customer_id"] == customer], frame[frame["customer_id"] == customer]
        )
        mine = rows.take(rows.ids[rows.who] == customer)
        assert same_bits(build(alone, CUTOFFS, WORDS).values, mine.values)
    mixed = whole(lines, frame.sample(frac=1, random_state=1))
    assert same_bits(build(mixed, CUTOFFS, WORDS).values, rows.values)
    for workers in (1, 2):
        jobs = (
            joblib.delayed(build)(here.take(a, a + 12), CUTOFFS, WORDS) for a in range(0, 60, 12)
        )
        parts = joblib.Parallel(workers, prefer="threads")(jobs)
        assert same_bits(Rows.join(parts).values, rows.values)


def test_any_rows_also_of_customers_without_an_order(frame, lines, rows):
    every = kept(frame)
    rng = np.random.default_rng(5)
    who = rng.integers(0, len(every), 500)
    as_of = rng.choice(TIMES, 500) + rng.integers(-5, 5, 500) * DAY
    found = engaged(every, who, as_of, WORDS)
    assert {"lead", "x"} <= set(every.ids[who])
    for i in rng.choice(500, 25, replace=False):
        told = by_loop(frame, every.ids[who[i]], int(as_of[i]))
        np.testing.assert_allclose(found[i], [told[name] for name in BEYOND], 1e-12)
        alone = engaged(every, who[i : i + 1], as_of[i : i + 1], WORDS)
        assert same_bits(alone, found[i : i + 1])
    place = {name: i for i, name in enumerate(every.ids)}
    known = np.array([customer in place for customer in rows.ids[rows.who]])
    who = np.array([place.get(customer, 0) for customer in rows.ids[rows.who]])[known]
    assert not known.all()  # some have orders, but no event
    again = engaged(every, who, CUTOFFS.times[rows.cut[known]], WORDS)
    assert same_bits(again, beyond(rows)[known])


def test_without_events_nothing_changes(lines, frame):
    plain, vocabulary = bucket(lines, ZONE), Vocabulary(("web",), ("c1",))
    words = catalogue.catalogue(vocabulary)
    assert words.names == catalogue.catalogue(replace(vocabulary, events=())).names
    assert "events" not in vocabulary.as_dict()
    told = build(plain, CUTOFFS, words)
    assert same_bits(build(whole(lines, frame), CUTOFFS, words).values, told.values)
    full = catalogue.catalogue(replace(vocabulary, events=KINDS))
    assert full.names[: len(words.names)] == words.names
    values = build(whole(lines, frame), CUTOFFS, full).values
    assert same_bits(values[:, : len(words.names)], told.values)
    # Features of orders are those that models without events were trained on.
    assert catalogue.feature_hash() == (
        "447f333d7ca71c6e22224c22d8dc212464bdd741897321c70c51cb19bdd885b6"
    )  # fmt: skip


def test_a_model_with_events_refuses_data_without_the_table(lines, frame):
    with pytest.raises(InputError, match=r"must hold the table events.*its header alone"):
        build(bucket(lines, ZONE), CUTOFFS, WORDS)
    nobody = build(whole(lines, frame.head(0)), CUTOFFS, WORDS)
    assert (nobody.column("visit_count") == 0).all()
    assert np.isnan(nobody.column("days_since_visit")).all()


# Vocabulary and catalogue


def test_the_vocabulary_is_the_most_frequent_kinds_of_the_past(lines, frame):
    rng = np.random.default_rng(1)
    many = frame.assign(kind=[f"k{min(k, 19):02d}" for k in rng.geometric(0.12, len(frame))])
    many["value"] = many["value"].mask(many["kind"].isin(["k01", "k04"]))
    here, before = whole(lines, many), TIMES[2]
    made = learn([Counts.of(here, before, ())])
    past = many[(many["ts"] < before) & many["customer_id"].isin(here.ids)]
    ranked = sorted(past["kind"].value_counts().items(), key=lambda pair: (-pair[1], pair[0]))
    assert made.events == tuple(kind for kind, _ in ranked)[:16]
    assert set(made.events) - set(made.valued) == {"k01", "k04"}
    parts = [Counts.of(here.take(a, b), before, ()) for a, b in pairwise([0, 9, 40, 60])]
    assert learn(parts[::-1]) == made
    later = many.assign(kind=many["kind"].where(many["ts"] < before, "new"))
    assert learn([Counts.of(whole(lines, later), before, ())]) == made
    assert Vocabulary.from_dict(made.as_dict()) == made


def test_older_cards_and_other_definitions(monkeypatch):
    old = {"channel": ["web"], "category": [], "attributes": []}
    assert Vocabulary.from_dict(old) == Vocabulary(("web",))
    card = WORDS.vocabulary.as_dict()
    assert Vocabulary.from_dict(card) == WORDS.vocabulary
    with pytest.raises(BundleError, match="events_hash"):
        Vocabulary.from_dict({**card, "events_hash": "other"})
    overall = catalogue.engagement._overall()
    changed = [("events_30d", "events", Take("event[30]") * 2.0, "x"), *overall[2:]]
    monkeypatch.setattr(catalogue.engagement, "_overall", lambda: changed)
    with pytest.raises(BundleError, match="Train again"):
        Vocabulary.from_dict(card)


# Reading


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.csv").write_text(text, encoding="utf-8")
    return folder


def stored(found: Ingested) -> pd.DataFrame:
    files = sorted((found.folder / "events").glob("*.parquet"))
    return pd.concat([pq.read_table(f).to_pandas() for f in files], ignore_index=True)


def counts(found: Ingested) -> dict[str, int]:
    return {rule.name: rule.rows for rule in found.rules if rule.table == "events"}


BAD = (
    HEAD
    + "a,2024-01-02 10:00,visit,,web\n"  # line 2
    + ",2024-01-02,visit,,web\n"
    + "a,,visit,,\n"
    + "a,yesterday,visit,,\n"
    + "a,1969-12-31,visit,,\n"
    + "a,2024-01-03,  ,,\n"
    + "a,2024-04-01,visit,1.5,app\n"  # the orders end on 2024-03-31
    + "007,2024-01-04,survey,many,\n"
    + "007,2024-01-05,survey,1e9,\n"
    + "007,2024-01-06,survey,-2.5,\n"
    + "a,2024-01-02 10:00,visit,,web\n"
    + "NA,2024-03-31 23:59:59.999999, survey ,0.0005,\n"
)


def test_bad_rows_are_counted_shown_and_set_aside(tmp_path):
    found = ingest(write(tmp_path / "d", orders=ORDERS, events=BAD), Settings(), tmp_path / "w")
    assert counts(found) == {
        "event_missing_customer": 1, "event_missing_time": 1, "event_unreadable_time": 1,
        "event_impossible_time": 1, "event_missing_kind": 1, "event_after_coverage": 1,
        "event_unreadable_value": 2,
    }  # fmt: skip
    assert (found.events_in, found.events_kept, found.rows_refused, found.refused) == (12, 6, 0, 6)
    examples = {rule.name: rule.examples for rule in found.rules}
    assert examples["event_unreadable_time"] == (("events.csv", 5, "ts", "yesterday"),)
    assert examples["event_unreadable_value"] == (
        ("events.csv", 9, "value", "many"), ("events.csv", 10, "value", "1e9"),
    )  # fmt: skip
    assert {rule.share for rule in found.rules if rule.rows == 1} == {1 / 12}
    assert "Events in 12 = kept 6 + refused 6" in found.format()
    told = stored(found)
    day = [pd.Timestamp(f"2024-01-0{d}").value // 1000 for d in (4, 5, 6)]
    assert told["customer_id"].tolist() == ["007"] * 3 + ["NA", "a", "a"]
    assert told["ts"].tolist()[:3] == day
    assert told["kind"].tolist() == ["survey"] * 4 + ["visit"] * 2
    assert told["value"].fillna(0).tolist() == [0, 0, -2500, 1, 0, 0]
    path = tmp_path / "refused.csv"
    assert quarantine(found, path) == found.refused
    with path.open(newline="", encoding="utf-8") as file:
        aside = list(csv.DictReader(file))
    assert [row["line"] for row in aside] == ["3", "4", "5", "6", "7", "8"]
    late = next(row for row in aside if row["rule"] == "event_after_coverage")
    assert (late["file"], late["customer_id"], late["kind"], late["value"], late["channel"]) == (
        "events.csv", "a", "visit", "1.5", "app",
    )  # fmt: skip
    assert late["ts"].startswith("2024-04-01 00:00:00")


def test_the_store_is_what_plain_sql_says(tmp_path):
    made = happened(9, 2_000).query("kind != ''")
    text = made.assign(
        ts=pd.to_datetime(made["ts"], unit="us").dt.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        value=made["value"].astype("Float64") / 1000,
    ).sample(frac=1, random_state=2)
    text.to_csv(write(tmp_path, orders=ORDERS) / "events.csv", index=False)
    found = ingest(tmp_path, Settings(), tmp_path / "work")
    with duckdb.connect() as con:
        told = con.execute(
            f"""
            SELECT customer_id, epoch_us(ts::TIMESTAMPTZ) AS ts, kind,
                   (value::DECIMAL(18, 3) * 1000)::BIGINT AS value
            FROM read_csv('{tmp_path / "events.csv"}', all_varchar = true, nullstr = '')
            ORDER BY customer_id, ts, kind, value NULLS FIRST
            """
        ).df()
    pd.testing.assert_frame_equal(stored(found), told, check_dtype=False)
    assert found.events_kept == len(made) == len(told)


@pytest.mark.parametrize(("naive", "aware"), [(2, 3), (3, 2)])
def test_times_with_and_without_a_zone_are_never_mixed(tmp_path, naive, aware):
    lines = {naive: "a,2024-01-02 10:00,visit,,\n", aware: "a,2024-01-02T10:00:00+01:00,visit,,\n"}
    data = write(tmp_path / "d", orders=ORDERS, events=HEAD + lines[2] + lines[3])
    with pytest.raises(
        InputError,
        match=rf"^ts must .* without in events.csv line {naive} and .* events.csv line {aware}\.",
    ):
        ingest(data, Settings(), tmp_path / "w")
    assert not list((tmp_path / "w").iterdir())


def test_local_times_belong_to_the_business_and_instants_to_themselves(tmp_path):
    settings = parse({"business": {"time_zone": "Asia/Tokyo"}})
    local = HEAD + "a,2024-01-02 10:00,visit,,\n"
    there = HEAD + "a,2024-01-02T01:00:00Z,visit,,\n"
    one, two = (
        ingest(write(tmp_path / n, orders=ORDERS, events=text), settings, tmp_path / n / "w")
        for n, text in (("local", local), ("there", there))
    )
    assert stored(one)["ts"].tolist() == [instant("2024-01-02T01:00", "UTC")]
    pd.testing.assert_frame_equal(stored(one), stored(two))
    assert one.fingerprint == two.fingerprint


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("a,03/04/2024,visit,,\n" * 3, r"day and month.*line 2: '03/04/2024'.*date_order"),
        ('a,"2024-01-02\n' * 3, r"events\.csv"),
        ("a,2024-01-02\n" * 3, r"readable UTF-8.*encoding"),
    ],
)
def test_a_table_misread_as_a_whole_is_refused(tmp_path, rows, said):
    data = write(tmp_path / "d", orders=ORDERS, events=HEAD + rows)
    with pytest.raises(InputError, match=said):
        ingest(data, Settings(), tmp_path / "w")


def test_a_table_must_have_its_columns(tmp_path):
    data = write(tmp_path / "d", orders=ORDERS, events="who,ts,kind\na,2024-01-02,visit\n")
    with pytest.raises(InputError, match=r"customer_id, ts, kind. Missing: customer_id. Set \[col"):
        ingest(data, Settings(), tmp_path / "w")
    mapped = parse({"columns": {"events": {"customer_id": "who"}}})
    assert stored(ingest(data, mapped, tmp_path / "w"))["customer_id"].tolist() == ["a"]
    with pytest.raises(InputError, match=r"\[columns.events\] takes the names"):
        ingest(data, parse({"columns": {"events": {"person": "who"}}}), tmp_path / "w")


def test_aliases_come_first(tmp_path):
    came = HEAD + "old,2024-01-02,visit,,\nb,2024-01-03,visit,,\n"
    pairs = "old_id,customer_id\nold,older\nolder,b\n"
    data = write(tmp_path / "d", orders=ORDERS, events=came, aliases=pairs)
    assert stored(ingest(data, Settings(), tmp_path / "w"))["customer_id"].tolist() == ["b", "b"]


def frames(seed: int, rows: int) -> dict[str, pd.DataFrame]:
    """Orders and events as frames."""
    lines = history(seed, customers=50, lines=3_000)
    made = happened(seed, rows).query("kind != ''").reset_index(drop=True)
    orders = pd.DataFrame(
        {
            "customer_id": lines["customer_id"],
            "order_ts": pd.to_datetime(lines["ts"], unit="us"),
            "amount": lines["amount"] / 100,
        }
    )
    return {
        "orders": orders,
        "events": made.assign(
            ts=pd.to_datetime(made["ts"], unit="us"), value=made["value"].astype("Float64") / 1000
        ),
    }


UNTIL = parse({"orders": {"complete_until": "2024-12-31"}})


def whole_store(found: Ingested, words: Catalogue = WORDS) -> pd.DataFrame:
    store, parts = Store.of(found), []
    for here in store:
        made = build(here, CUTOFFS, words)
        parts.append(pd.DataFrame(made.values, index=[made.ids[made.who], made.cut]))
    return pd.concat(parts).sort_index()


def test_many_events_few_orders_and_any_number_of_buckets(tmp_path, monkeypatch):
    data = frames(4, 4_000)
    one = ingest(data, UNTIL, tmp_path / "one")
    for module in (passes, tables):
        monkeypatch.setattr(module, "BUCKETS", 8)
    monkeypatch.setattr(events, "PARTS", 8)
    monkeypatch.setattr(passes, "SMALL", 1_000)
    many = ingest(data, UNTIL, tmp_path / "many")
    monkeypatch.setattr(passes, "SMALL", 1_000_000)
    monkeypatch.setattr(events, "LARGE", 500)
    parts = ingest({**data, "events": data["events"].sample(frac=1, random_state=0)}, UNTIL,
                   tmp_path / "parts")  # fmt: skip
    assert (one.buckets, many.buckets, parts.buckets) == (1, 8, 8)
    assert one.fingerprint == many.fingerprint == parts.fingerprint
    assert one.as_dict()["rules"] == many.as_dict()["rules"] == parts.as_dict()["rules"]
    key = ["customer_id", "ts", "kind", "value"]
    told = [stored(f).sort_values(key, na_position="first", ignore_index=True)
            for f in (one, many, parts)]  # fmt: skip
    pd.testing.assert_frame_equal(told[0], told[1])
    for name in sorted(p.name for p in (many.folder / "events").iterdir()):
        files = [(f.folder / "events" / name).read_bytes() for f in (many, parts)]
        assert files[0] == files[1]
    first = whole_store(one)
    for other in (many, parts):
        assert same_bits(whole_store(other).to_numpy(), first.to_numpy())
    # People without an order stay in the store; who has both stands in one bucket.
    held = [Store.of(many).events(i) for i in range(many.buckets)]
    assert sum("lead" in part.ids for part in held if part is not None) == 1
    assert not any("lead" in here.ids for here in Store.of(many))


def test_any_way_in_gives_the_same_events(tmp_path):
    data = frames(6, 500)
    told = ingest(data, UNTIL, tmp_path / "a")
    files = tmp_path / "files"
    files.mkdir()
    data["orders"].to_parquet(files / "orders.parquet")
    (files / "events").mkdir()
    data["events"].iloc[:200].to_parquet(files / "events" / "1.parquet")
    data["events"].iloc[200:].drop(columns="value").assign(value=data["events"]["value"]).to_csv(
        files / "events" / "2.csv", index=False
    )
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    engine = sa.create_engine(url)
    for name, frame in data.items():
        text = {c: frame[c].astype(str) for c in frame if frame[c].dtype.kind == "M"}
        frame.assign(**text).to_sql(name, engine, index=False)
    engine.dispose()
    for i, way in enumerate((files, url)):
        found = ingest(way, UNTIL, tmp_path / f"w{i}")
        pd.testing.assert_frame_equal(stored(found), stored(told))
        assert found.fingerprint == told.fingerprint


def test_float_ids_beyond_their_precision_and_missing_ones(tmp_path):
    made = pd.DataFrame(
        {"customer_id": [17850.0, 2.0**53, np.nan], "ts": "2024-01-02", "kind": "visit",
         "value": [np.nan, 1.25, np.inf]}
    )  # fmt: skip
    orders = pd.DataFrame({"customer_id": ["17850"], "order_ts": ["2024-02-01"], "amount": [1]})
    found = ingest({"orders": orders, "events": made}, Settings(), tmp_path / "w")
    assert counts(found) == {"event_imprecise_customer": 1, "event_missing_customer": 1}
    assert stored(found).to_dict("records")[0]["customer_id"] == "17850"


def test_the_fingerprint_knows_events_but_not_their_order(tmp_path):
    data = frames(5, 300)
    orders = {"orders": data["orders"]}

    def of(name: str, given: Mapping[str, pd.DataFrame]) -> str:
        return ingest(given, UNTIL, tmp_path / name).fingerprint

    plain, full = of("plain", orders), of("full", data)
    assert of("mixed", {**data, "events": data["events"].iloc[::-1]}) == full != plain
    assert of("fewer", {**data, "events": data["events"].iloc[1:]}) not in (full, plain)
    assert of("header", {**data, "events": data["events"].head(0)}) == plain
    assert not (tmp_path / "plain" / "events").exists()


def test_a_header_alone_says_that_nobody_came(tmp_path):
    data = frames(8, 100)
    found = ingest({**data, "events": data["events"].head(0)}, UNTIL, tmp_path / "w")
    here = Store.of(found).bucket(0)
    assert here.events is not None
    assert learn([Counts.of(here, TIMES[-1], ())]) == Vocabulary()
    assert (build(here, CUTOFFS, WORDS).column("events_90d") == 0).all()


def test_two_hundred_thousand_events(tmp_path):
    """Counted by SQL over the same rows."""
    rng = np.random.default_rng(0)
    n = 200_000
    base = pd.Timestamp("2022-01-01").value // 1000
    made = pd.DataFrame(
        {
            "customer_id": [f"c{k}" for k in rng.integers(0, 3_000, n)],
            "ts": pd.to_datetime(base + rng.integers(0, 900 * DAY, n), unit="us"),
            "kind": rng.choice(["visit", "survey"], n, p=[0.9, 0.1]),
        }
    )
    made.to_parquet(tmp_path / "events.parquet")
    days = pd.date_range("2022-01-01", "2024-06-30", periods=3_000)
    pd.DataFrame({"customer_id": [f"c{k}" for k in range(3_000)], "order_ts": days, "amount": 1}
                 ).to_parquet(tmp_path / "orders.parquet")  # fmt: skip
    found = ingest(tmp_path, Settings(), tmp_path / "work")
    assert found.events_kept == n
    as_of = instant("2023-10-01", "UTC")
    words = catalogue.catalogue(Vocabulary(events=("visit", "survey")))
    told = []
    for here in Store.of(found):
        rows = build(here, Cutoffs.at([as_of], "UTC"), words)
        columns = ("visit_count_90d", "survey_count", "days_since_event")
        told.append(
            pd.DataFrame({"id": rows.ids[rows.who], **{c: rows.column(c) for c in columns}})
        )
    with duckdb.connect() as con:
        con.register("made", made)
        known = con.execute(
            f"""
            SELECT customer_id AS id, count(*) FILTER (kind = 'visit' AND epoch_us(ts) >=
              {as_of - 90 * DAY}) AS visit_count_90d,
              count(*) FILTER (kind = 'survey') AS survey_count,
              ({as_of} - max(epoch_us(ts))) / {DAY} AS days_since_event
            FROM made WHERE epoch_us(ts) < {as_of} GROUP BY ALL
            """
        ).df()
    both = pd.concat(told).merge(known, on="id", how="inner", suffixes=("", "_sql"))
    assert len(both) == len(pd.concat(told)) > 2_000
    for name in ("visit_count_90d", "survey_count", "days_since_event"):
        np.testing.assert_allclose(both[name], both[f"{name}_sql"], 1e-12)
