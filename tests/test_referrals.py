"""Referrals against recursion in SQL; circles, strangers and old ids."""

from __future__ import annotations

import math
import re
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest
from conftest import Ran, clv

from serving.decisions.referrals import RULES, Referrals, referrals, referred
from training.intervals import total

N = 400
UNIT = 100


def people(seed: int = 0) -> pd.DataFrame:
    """Chains and trees among 400 people, nobody in a circle: referrers have smaller numbers."""
    rng = np.random.default_rng(seed)
    mother = np.floor(rng.random(N) * np.arange(N)).astype(int)
    named = rng.random(N) < 0.5
    named[0] = False
    ids = np.array([f"{k:03d}" for k in range(N)], object)
    return pd.DataFrame({"customer_id": ids, "referrer_id": np.where(named, ids[mother], None)})


def value(seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed + 1)
    known = rng.random(N) < 0.8
    made = pd.DataFrame(
        {
            "customer_id": [f"{k:03d}" for k in range(N)],
            "orders": rng.integers(0, 9, N),
            "past": rng.integers(-500, 90_000, N),
            "future": rng.integers(0, 40_000, N),
            "sd": rng.random(N) * 10_000,
        }
    )
    return made[known].reset_index(drop=True)


def made(links: pd.DataFrame | None = None) -> Referrals:
    return referrals(people() if links is None else links, value(), unit=UNIT, common=0.1)


def by_sql(links: pd.DataFrame) -> pd.DataFrame:
    """Direct and downstream figures by a recursive query."""
    query = """
        WITH RECURSIVE worth AS (
          SELECT customer_id, coalesce(orders, 0) AS orders, coalesce(past, 0) AS past,
                 coalesce(future, 0) AS future FROM links LEFT JOIN value USING (customer_id)),
        tree AS (
          SELECT referrer_id AS top, customer_id, 1 AS depth FROM links
          WHERE referrer_id IS NOT NULL
          UNION ALL
          SELECT tree.top, links.customer_id, depth + 1 FROM tree
          JOIN links ON links.referrer_id = tree.customer_id)
        SELECT top AS customer_id, count(*) FILTER (depth = 1) AS brought,
               count(*) FILTER (depth = 1 AND orders > 0) AS ordered,
               sum(past) FILTER (depth = 1) AS past, sum(future) FILTER (depth = 1) AS future,
               count(*) AS downstream, sum(past + future) AS downstream_value, max(depth) AS depth
        FROM tree JOIN worth USING (customer_id) GROUP BY 1 ORDER BY 1
    """
    with duckdb.connect() as con:
        con.register("links", links)
        con.register("value", value())
        return con.execute(query).df()


def test_referrals_are_those_of_a_recursive_query() -> None:
    got, want = made(), by_sql(people())
    table = got.table.sort_values("customer_id", ignore_index=True)
    assert table["customer_id"].tolist() == want["customer_id"].tolist()
    for name in ("brought", "ordered", "downstream"):
        assert table[name].tolist() == want[name].tolist()
    for name, other in (("past_margin", want["past"]), ("future", want["future"]),
                        ("brought_value", want["past"] + want["future"]),
                        ("downstream_value", want["downstream_value"])):  # fmt: skip
        np.testing.assert_allclose(table[name], other.astype(float) / UNIT, rtol=1e-12)
    assert got.longest == want["depth"].max() > 4
    assert got.table["brought_value"].is_monotonic_decreasing
    assert got.rules == dict.fromkeys(RULES, 0)


def test_nobody_is_counted_twice() -> None:
    got, worth, links = made(), value(), people()
    assert got.base == (worth["past"].sum() + worth["future"].sum()) / UNIT
    brought = set(links[links["referrer_id"].notna()]["customer_id"])
    mine = worth[worth["customer_id"].isin(brought)]
    assert got.brought == (mine["past"].sum() + mine["future"].sum()) / UNIT
    cents = (got.table["brought_value"] * UNIT).round().astype(int)
    assert cents.sum() == round(got.brought * UNIT)
    assert got.table["brought"].sum() == len(brought) == got.named
    # Downstream counts the last of a chain with everybody above: never a total.
    assert got.table["downstream_value"].sum() > got.brought
    sd = mine["sd"].to_numpy() / UNIT
    assert got.future == pytest.approx(total(mine["future"].to_numpy() / UNIT, sd, 0.1))
    own = got.table.set_index("customer_id")["own_value"]
    alone = worth.set_index("customer_id")
    both = (alone["past"] + alone["future"]) / UNIT
    np.testing.assert_allclose(own, both.reindex(own.index).fillna(0))
    most, share = got.top
    assert most == math.ceil(len(got.table) / 10)
    assert share == pytest.approx(got.table["brought_value"].head(most).sum() / got.brought)


def test_circles_strangers_and_oneself_do_not_count() -> None:
    links = people().set_index("customer_id")["referrer_id"]
    links[["010", "011", "012"]] = ["012", "010", "011"]  # a circle of three
    links[["020", "021"]] = ["021", "020"]  # of two
    links["022"] = "021"  # hangs on the circle, and stays
    links["030"] = "030"
    links["040"], links["041"] = "nobody", ""
    table = links.rename_axis("customer_id").reset_index()
    parent, rules = referred(table)
    assert rules == {"referral_self": 1, "referral_unknown": 2, "referral_circle": 5}
    broken = ["010", "011", "012", "020", "021", "030", "040", "041"]
    assert (parent[[int(name) for name in broken]] == -1).all()
    assert parent[22] == 21
    clean = table.assign(referrer_id=links.drop(broken).reindex(links.index).to_numpy(object))
    clean["referrer_id"] = clean["referrer_id"].where(clean["referrer_id"].notna(), None)
    want = by_sql(clean)
    got = made(table)
    assert dict(zip(got.table["customer_id"], got.table["downstream"], strict=True)) == dict(
        zip(want["customer_id"], want["downstream"], strict=True)
    )


def test_row_order_has_no_say() -> None:
    links, worth = people().sample(frac=1, random_state=1), value().sample(frac=1, random_state=2)
    other = referrals(links, worth, unit=UNIT, common=0.1)
    pd.testing.assert_frame_equal(other.table, made().table)


def test_nobody_brought_leaves_an_empty_table() -> None:
    links = people().assign(referrer_id=None)
    links.loc[3, "referrer_id"] = "nobody"
    got = made(links)
    assert (len(got.table), got.brought, got.longest) == (0, 0, 0)
    assert got.as_dict()["top_share"] is None


# The command


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """Six people: b and c brought by a (c by a's old id), d by c; e by a stranger; f is late."""
    pd.DataFrame(
        {
            "customer_id": ["a", "b", "c", "d", "e"],
            "order_ts": "2024-03-01",
            "amount": [100.0, 20.0, 30.0, 40.02, 50.0],
        }
    ).to_csv(tmp_path / "orders.csv", index=False)
    pd.DataFrame(
        {
            "customer_id": ["a", "b", "c", "d", "e", "f"],
            "acquired_at": ["", "2024-01-01", "2024-01-01", "", "2024-01-01", "2025-02-01"],
            "referrer_id": ["", "a", "old a", "c", "stranger", "a"],
        }
    ).to_csv(tmp_path / "customers.csv", index=False)
    (tmp_path / "aliases.csv").write_text("old_id,customer_id\nold a,a\n")
    (tmp_path / "clv.toml").write_text(
        '[business]\nmargin = 0.5\ncurrency = "EUR"\n[orders]\ncomplete_until = 2024-12-31\n'
    )
    table = {"customer_id": list("abcde"), "as_of": "2025-01-01", "clv_12m": [9, 1.25, 2, 3, 4],
             "clv_24m": 7.0, "churn_12m": 0.5, "churn_24m": 0.4, "model_version": "1"}  # fmt: skip
    pd.DataFrame(table).to_csv(tmp_path / "p.csv", index=False)
    return tmp_path


def run(desk: Path, out: str, *words: object) -> Ran:
    return clv("referrals", desk, "--predictions", desk / "p.csv", "--out", desk / out, *words)


def test_the_command_shows_who_brought_what(desk: Path) -> None:
    ran = run(desk, "r.csv")
    assert ran.code == 0, ran.err
    rows = pd.read_csv(desk / "r.csv").set_index("customer_id")
    assert rows.index.tolist() == ["a", "c"]
    assert rows.loc["a"].tolist() == [2, 2, 25.0, 3.25, 28.25, 3, 51.26, 59.0]
    assert rows.loc["c"].tolist() == [1, 1, 20.01, 3.0, 23.01, 1, 23.01, 17.0]
    assert "1 of 4 referrals do not count: the referrer is in no table" in ran.out
    said = run(desk, "r.xlsx", "--json", "--horizon", 24).json
    assert said["left_out"] == {"referral_self": 0, "referral_unknown": 1, "referral_circle": 0}
    assert (said["named"], said["counted"], said["referrers"], said["horizon"]) == (4, 3, 2, 24)
    assert said["value_brought"] == 66.01


def test_what_is_missing_is_said(desk: Path) -> None:
    def refused(ran: Ran, words: str) -> None:
        assert ran.code == 2, ran.out
        assert re.search(words, ran.err.splitlines()[-1]), ran.err

    refused(run(desk, "r.txt"), r"--out must end in .csv")
    refused(run(desk, "r.csv", "--horizon", 6), r"must carry --horizon 6. Got 12, 24")
    table = pd.read_csv(desk / "customers.csv")
    table.assign(referrer_id="").to_csv(desk / "customers.csv", index=False)
    refused(run(desk, "r.csv"), r"who brought whom in referrer_id. Got an empty column")
    table.drop(columns="referrer_id").to_csv(desk / "customers.csv", index=False)
    refused(run(desk, "r.csv"), r"must have the column 'referrer_id'")
    assert not (desk / "r.csv").exists()
