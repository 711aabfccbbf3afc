"""Past, future and total value: every line adds up, every sum is the sum of its customers."""

from __future__ import annotations

import math
import re
import tempfile
import tomllib
from decimal import ROUND_HALF_EVEN, Decimal
from functools import cache
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest
from conftest import Trained, clv

from features import simulate, tables
from features.campaigns import spend
from features.errors import InputError
from features.settings import Settings, parse
from features.spine import instant
from features.store import Store
from serving.decisions import files
from serving.decisions.worth import ALL, Worth, worth
from training.crosscheck import closed

NOW = "2026-01-01"
MONTHS = (3, 12)
PARTS = ("margin", "discount", "retention_cost", "clv")


@cache
def shop() -> tuple[dict[str, pd.DataFrame], Settings, Store]:
    """Every table of the contract, costs of acquisition left to the table of spend."""
    made = simulate.shop(700, 3.0, 2)
    found = dict(made.tables)
    found["customers"] = found["customers"].drop(columns="acquisition_cost")
    settings = parse(tomllib.loads(made.settings))
    return found, settings, Store.of(tables.ingest(found, settings, Path(tempfile.mkdtemp())))


@cache
def predictions() -> pd.DataFrame:
    """A table as clv predict writes it, with numbers of all sizes; some are prospects."""
    found, _, store = shop()
    places = str(store.folder / "orders" / "bucket-*.parquet")
    known = duckdb.sql(
        f"SELECT DISTINCT customer_id FROM '{places}' WHERE amount > 0 AND "
        f"ts < {instant(NOW, 'UTC')}"
    ).df()["customer_id"]
    joined = found["customers"][found["customers"]["acquired_at"] < NOW]["customer_id"]
    leads = sorted(set(joined) - set(known))
    assert len(leads) > 10
    ids = sorted([*known, *leads])
    rng = np.random.default_rng(4)
    table = pd.DataFrame({"customer_id": ids, "as_of": NOW, "model_version": "1"})
    table["evidence"] = np.where(table["customer_id"].isin(leads), "cold_start", "full")
    for h in MONTHS:
        revenue = rng.gamma(0.3, 300, len(ids)) - 1
        table[f"revenue_{h}m"], table[f"margin_{h}m"] = revenue, revenue * 0.4
        table[f"churn_{h}m"] = rng.random(len(ids))
        table[f"retention_cost_{h}m"] = 0.477 * h
        table[f"clv_{h}m"] = revenue * 0.4 * 0.95 - 0.477 * h
        table[f"active_months_{h}m"] = rng.random(len(ids)) * h
    table["colour"] = rng.choice(["red", "green", None], len(ids))
    return table


@cache
def made() -> Worth:
    found, settings, store = shop()
    by = ("channel", "cohort", "country", "colour")
    return worth(store, predictions(), settings, spend(found, settings), by)


def cents(values: pd.Series) -> list[int]:
    """Money as it is written, to the cent."""
    told = ["0" if pd.isna(x) else repr(float(x)) for x in values]
    found = [Decimal(x) * 100 for x in told]
    assert all(x == x.to_integral_value() for x in found)
    return [int(x) for x in found]


def test_the_parts_add_up_to_the_cent_for_every_customer() -> None:
    """In the files themselves: CSV, Parquet, from the whole shop."""
    table = made().table()
    with tempfile.TemporaryDirectory() as folder:
        places = [Path(folder) / "value.csv", Path(folder) / "value.parquet"]
        for place in places:
            files.write(table, place)
        read = [pd.read_csv(places[0], dtype={"customer_id": str}), pd.read_parquet(places[1])]
    assert len(table) == len(predictions()) > 500
    for frame in read:
        assert frame["customer_id"].tolist() == predictions()["customer_id"].tolist()
        past, paid = (cents(frame[name]) for name in ("past_margin", "acquisition_cost"))
        assert sum(paid) > 0
        for h in MONTHS:
            margin, discount, keep, clv_ = (cents(frame[f"{name}_{h}m"]) for name in PARTS)
            total = cents(frame[f"total_{h}m"])
            for i in range(len(frame)):
                assert clv_[i] == margin[i] - discount[i] - keep[i]
                assert total[i] == past[i] + clv_[i] - paid[i]
            due = predictions()[f"clv_{h}m"]
            exact = [(Decimal(x) * 100).quantize(Decimal(1), ROUND_HALF_EVEN) for x in due]
            assert all(abs(a - b) <= 1 for a, b in zip(clv_, exact, strict=True))
            spread = np.array(discount) / 100 - predictions()[f"margin_{h}m"] * 0.05
            assert spread.abs().max() < 0.0151


def test_sums_of_groups_are_the_sums_of_their_customers() -> None:
    """Exactly, by SQL over the written rows; and every scheme of groups ties to the whole."""
    table, groups = made().table(), made().groups()
    for name in ("channel", "cohort", "country", "colour"):
        rows = groups[groups["by"] == name].set_index("level")
        for column in made().money:
            if column.startswith("win_at_most"):
                continue
            whole = table.assign(cents=cents(table[column]), level=table[name])
            sql = (
                duckdb.from_df(whole)
                .query(
                    "rows",
                    "SELECT coalesce(level, 'not known') AS level, sum(cents)::BIGINT AS cents "
                    "FROM rows GROUP BY 1 ORDER BY 1",
                )
                .df()
            )
            assert sql["level"].tolist() == rows.index.tolist()
            assert sql["cents"].tolist() == rows[column].tolist()
            assert rows[column].sum() == groups[column].iloc[0]
        assert rows["customers"].sum() == groups["customers"].iloc[0]
        assert rows["prospects"].sum() == groups["prospects"].iloc[0] > 0
    assert groups["by"].iloc[0] == groups["level"].iloc[0] == ALL
    assert (groups[groups["by"] == "cohort"]["level"] == sorted(set(table["cohort"]))).all()


def test_the_past_ties_to_the_orders_and_the_costs_to_the_spend() -> None:
    found, settings, store = shop()
    places = str(store.folder / "orders" / "bucket-*.parquet")
    (revenue, margin), = duckdb.sql(
        f"SELECT sum(amount)::BIGINT, sum(amount - cost)::BIGINT FROM '{places}' "
        f"WHERE ts < {instant(NOW, 'UTC')}"
    ).fetchall()  # fmt: skip
    whole = made().groups().iloc[0]
    assert whole["past_revenue"] == revenue
    assert whole["past_margin"] + made().outside[1] == margin
    paid = spend(found, settings)
    paid = paid[paid["month"] < "2026-01"]
    table = made().table()
    buyers = table[(table["evidence"] == "full") & table["channel"].notna()]
    reached = set(zip(buyers["channel"], buyers["cohort"], strict=True))
    rows = paid[["channel", "month", "cost"]].itertuples(index=False)
    due = [cost for channel, month, cost in rows if (channel, month) in reached]
    assert whole["acquisition_cost"] == round(math.fsum(due) * 100)


def test_the_order_of_lines_does_not_matter() -> None:
    found, settings, _ = shop()
    mixed = {name: table.sample(frac=1, random_state=1) for name, table in found.items()}
    store = Store.of(tables.ingest(mixed, settings, Path(tempfile.mkdtemp())))
    again = worth(store, predictions(), settings, spend(mixed, settings), made().by)
    pd.testing.assert_frame_equal(again.frame, made().frame)
    pd.testing.assert_frame_equal(again.groups(), made().groups())


def test_what_to_spend_at_most_by_a_plain_loop() -> None:
    table, said = made().table().astype(object), predictions()
    assert made().horizon == 3
    for i, row in enumerate(said.to_dict("records")):
        clv_, cost, churn = row["clv_3m"], row["retention_cost_3m"], row["churn_3m"]
        kept, keep, win = (
            table[f"{n}_3m"].iloc[i] for n in ("value_if_kept", "keep_at_most", "win_at_most")
        )
        if row["evidence"] == "cold_start":
            assert pd.isna(kept)
            assert pd.isna(keep)
            assert win == pytest.approx(max(clv_, 0), abs=0.0051)
            continue
        assert pd.isna(win)
        stays = max(clv_ + cost, 0) / (1 - churn)
        assert kept == pytest.approx(stays - cost, abs=0.0051)
        assert keep == pytest.approx(min(churn * stays, max(stays - cost, 0)), abs=0.0051)
        assert 0 <= keep <= max(kept, 0)


def test_a_channel_may_pay_what_its_new_customers_are_worth() -> None:
    found, *_ = shop()
    table, groups = made().table(), made().summary()
    people = found["customers"].set_index("customer_id")
    joined = people["acquired_at"].reindex(table["customer_id"]).to_numpy()
    new = table[(joined >= np.datetime64("2025-01-01")) & (table["evidence"] == "full").to_numpy()]
    rows = groups[groups["by"] == "channel"].set_index("level")
    assert rows["new_customers"].sum() == len(new)
    for channel, some in new.groupby("channel"):
        told = rows["win_at_most_3m"][channel]
        if len(some) < 10:
            assert pd.isna(told)
            continue
        mean = float((some["past_margin"] + some["clv_3m"]).mean())
        assert told == pytest.approx(max(mean, 0), abs=0.0101)
        assert told <= max(mean, 0) + 1e-9  # never more than they are worth
    assert rows["win_at_most_3m"].notna().any()


def test_the_closed_formula_stands_beside_the_model() -> None:
    """m r / (1 + d - r) from the table's own means."""
    settings = shop()[1]
    rate = (1 + settings.business.discount_rate) ** (1 / 12) - 1
    rows = made().summary()
    for name, level in ((ALL, ALL), ("country", "DE")):
        here = made().table().reset_index(drop=True)
        keep = here["evidence"] == "full"
        if name != ALL:
            keep &= here[name] == level
        some = predictions()[keep.to_numpy()]
        month = float((some["margin_3m"] / some["active_months_3m"]).sum())
        formula = closed(month, float(1 - some["churn_3m"].mean()) ** (1 / 3), rate, 3)
        row = rows[(rows["by"] == name) & (rows["level"] == level)].iloc[0]
        assert row["formula_3m"] == pytest.approx(formula * (1 + rate) ** 0.5, abs=0.006)
        model = float((some["clv_3m"] + some["retention_cost_3m"]).sum())
        assert row["model_3m"] == pytest.approx(model, abs=0.006)
    bare = predictions().drop(columns=["active_months_3m", "active_months_12m"])
    found, settings, store = shop()
    without = worth(store, bare, settings, spend(found, settings))
    assert without.groups()["formula_3m"].isna().all()
    pd.testing.assert_frame_equal(without.frame, made().frame[list(without.frame)])


def test_costs_that_nobody_knows_are_missing_and_nothing_is_taken_off() -> None:
    _, settings, store = shop()
    found = worth(store, predictions(), settings, None, ("channel",), 12)
    table = found.frame
    assert table["acquisition_cost"].isna().all()
    assert set(table["acquisition"]) == {"unknown"}
    assert (table["total_12m"] == table["past_margin"] + table["clv_12m"]).all()
    assert found.groups()["cost_unknown"].iloc[0] == len(table)
    assert found.as_dict()["acquisition"]["unknown"] == len(table)
    assert "win_at_most_12m" in table
    sold = {"orders": shop()[0]["orders"].drop(columns="currency")}
    only = Store.of(tables.ingest(sold, settings, Path(tempfile.mkdtemp())))
    with pytest.raises(InputError, match="needs acquisition_channel in the table customers"):
        worth(only, predictions(), settings, None, ("channel",))


def test_people_without_a_prediction_are_counted_beside() -> None:
    _, settings, store = shop()
    some = predictions().iloc[::2].reset_index(drop=True)
    found = worth(store, some, settings)
    there = made().frame
    rest = there[~there["customer_id"].isin(some["customer_id"]) & (there["past_orders"] > 0)]
    assert found.outside[0] == len(rest) + made().outside[0]
    assert found.outside[1] == rest["past_margin"].sum() + made().outside[1]


def test_words_where_money_does_not_fit_together() -> None:
    _, settings, store = shop()
    assert made().notes == ()
    other = predictions().assign(margin_3m=predictions()["revenue_3m"])
    (note,) = worth(store, other, settings).notes
    assert "the forecast takes 100%: margins have moved" in note
    strange = predictions().assign(customer_id=predictions()["customer_id"] + "x")
    with pytest.raises(InputError, match="must be of these data"):
        worth(store, strange, settings)
    few = predictions().copy()
    few.loc[0, "customer_id"] = "0 nobody"
    found = worth(store, few, settings)
    assert re.search(r"1 customers of the predictions are not in these data", found.notes[0])
    assert found.frame["past_margin"].iloc[0] == 0


@pytest.mark.parametrize("column", ["evidence", "margin_12m", "retention_cost_3m", "churn_3m"])
def test_a_column_that_is_missing_is_named(column: str) -> None:
    _, settings, store = shop()
    with pytest.raises(InputError, match=f"must have the column {column}"):
        worth(store, predictions().drop(columns=column), settings)


def test_the_command_says_and_writes_all_of_it(at_home: Trained, tmp_path: Path) -> None:
    data, out, sums = at_home.data, tmp_path / "v.csv", tmp_path / "sums.xlsx"
    assert clv("predict", data, "--out", tmp_path / "p.parquet").code == 0
    asked = ("value", data, "--predictions", tmp_path / "p.parquet", "--by", "channel, cohort")
    ran = clv(*asked, "--out", out, "--summary", sums)
    assert ran.code == 0, ran.err
    for words in (
        "future value",
        "total value",
        "Closed formula",
        "by channel",
        "keep at most",
        "Acquisition cost not known for",
        f"Written to {out}, by group to {sums}",
    ):
        assert words in ran.out
    assert sums.stat().st_size > 0
    table = pd.read_csv(out, dtype={"customer_id": str}, keep_default_na=False)
    said = pd.read_parquet(tmp_path / "p.parquet")
    assert (np.abs(table["clv_12m"] - said["clv_12m"].to_numpy()) <= 0.00501).all()
    assert (table["retention_cost_12m"] > 5).all()
    told = clv(*asked, "--out", tmp_path / "v.parquet", "--horizon", 12, "--json").json
    assert told["horizon"] == 12
    assert told["groups"][0]["total_12m"] == pytest.approx(table["total_12m"].sum())
    for words, why in (
        (("--out", tmp_path / "v.txt"), "--out must end in .csv or .parquet or .xlsx"),
        (("--out", out, "--summary", tmp_path / "s.txt"), "--summary must end in"),
        (("--out", out, "--summary", out), "--summary must be another file than --out"),
        (("--out", out, "--by", "shoe_size"), "must have the column 'shoe_size'"),
        (("--out", out, "--horizon", "7"), "must carry --horizon 7"),
    ):
        refused = clv(*asked, *words)
        assert (refused.code, why in refused.err) == (2, True), refused.err
