"""Segments against naive loops, SQL and published maps: schemes, tables, moves, the command."""

from __future__ import annotations

import math
import re
import tempfile
import zipfile
from datetime import date
from functools import cache
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest
from conftest import clv
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from features import tables
from features.errors import InputError
from features.settings import Segments, Settings
from features.store import Store
from serving.decisions import rfm, rulebook, segments
from serving.decisions.group_words import hundredths
from serving.decisions.segments import Lines, Scheme
from training.grid import NAMES

N = 400
AS_OF, BEFORE = "2025-01-01", "2024-07-01"


def predictions(as_of: str = AS_OF, seed: int = 0, first: int = 0, n: int = N) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    churn = rng.beta(1.2, 1, n)
    clv = (1 - churn) * rng.gamma(2, 40, n) - 1.0
    pace, price = rng.gamma(2, 0.2, n), rng.gamma(3, 20, n)
    return pd.DataFrame(
        {
            "customer_id": [f"{k:04d}" for k in range(first, first + n)],
            "as_of": as_of,
            "evidence": "full",
            "churn_12m": churn,
            "retention_cost_12m": 1.0,
            "clv_12m": clv,
            "clv_12m_sd": np.abs(clv) * 0.7,
            "clv_12m_common": 0.1,
            "orders_per_month": pace,
            "order_value_12m": price,
            "active_months_12m": 12 * (1 - churn),
            "model_version": "1",
        }
    )


@cache
def orders() -> pd.DataFrame:
    """Up to five orders each, some after `AS_OF`, refunds, and a customer in twenty without any."""
    rng = np.random.default_rng(4)
    who = rng.integers(0, N, 4 * N)
    made = pd.DataFrame(
        {
            "customer_id": [f"{k:04d}" for k in who],
            "order_ts": pd.Timestamp("2023-01-01")
            + pd.to_timedelta(rng.integers(0, 800 * 24, len(who)), unit="h"),
            "amount": np.round(rng.gamma(2, 20, len(who)), 2) + 0.01,
            "category": rng.choice(["tea", "toys", "books", None], len(who)),
        }
    )
    back = made[::9].assign(amount=-made["amount"][::9])
    made = pd.concat([made, back]).reset_index(drop=True)
    made["order_id"] = [f"o{k}" for k in range(len(made))]
    return made[made["customer_id"].astype(int) % 20 > 0].reset_index(drop=True)


def people() -> pd.DataFrame:
    k = np.arange(N)
    return pd.DataFrame(
        {
            "customer_id": [f"{i:04d}" for i in k],
            "country": np.where(k % 3 == 0, "AT", "DE"),
            "consent_email": np.where(k % 4 == 0, "no", np.where(k % 4 == 1, "", "Yes")),
            "acquired_at": np.where(k % 2 == 0, "2024-05-31", "2024-06-01T08:00:00"),
        }
    )


@cache
def store() -> Store:
    found = {"orders": orders(), "customers": people()}
    settings = Settings(orders={"complete_until": date(2025, 6, 30)})  # type: ignore[arg-type]
    return Store.of(tables.ingest(found, settings, Path(tempfile.mkdtemp())))


def scheme(name: str, *found: pd.DataFrame, lines: Lines | None = None) -> Scheme:
    return Scheme.of(name, found or (predictions(),), 12, lines or Lines(), Segments())


def naive_grid(row: dict[str, float], value: float, churn: float) -> str:
    worth = (row["clv_12m"] + row["retention_cost_12m"]) / max(1 - row["churn_12m"], 1e-6)
    much, leaves = max(worth, 0) >= value, row["churn_12m"] >= churn
    return [["Grow", "Let rest"], ["Keep close", "Win over"]][much][leaves]


def test_value_and_churn_by_given_lines() -> None:
    table = predictions()
    made = segments.segmented(table, scheme("value-churn", lines=Lines(80, 0.6)), 12)
    told = [naive_grid(row, 80, 0.6) for row in table.to_dict("records")]
    assert made.frame["segment"].tolist() == told
    assert made.frame["customer_id"].tolist() == table["customer_id"].tolist()
    assert made.lines is not None
    assert made.lines[0] >= 80
    assert made.lines[1] >= 0.6


def test_without_lines_the_model_has_the_word_if_it_said_one() -> None:
    table = predictions()
    alone = segments.segmented(table, scheme("value-churn"), 12).frame["segment"]
    # A quarter is worth much, and half a chance is the line.
    assert alone.isin(["Keep close", "Win over"]).sum() == N / 4
    assert (alone.isin(["Win over", "Let rest"]) == (table["churn_12m"] >= 0.5)).all()
    named = table.assign(segment=np.resize(NAMES[:4], N))
    found = segments.segmented(named, scheme("value-churn", named), 12).frame["segment"]
    assert found.tolist() == named["segment"].tolist()
    # One table without the column: the same lines hold for both.
    both = scheme("value-churn", named, table)
    assert both.grid is not None
    assert both.assign(named, None).tolist() == both.assign(table, None).tolist()


def test_who_has_not_ordered_is_a_prospect() -> None:
    table = predictions()
    table.loc[:11, "evidence"] = "cold_start"
    made = segments.segmented(table, scheme("value-churn", table), 12)
    assert (made.frame["segment"][:12] == "Prospect").all()
    assert not (made.frame["segment"][12:] == "Prospect").any()
    assert made.table["segment"].tolist() == [*NAMES, "All"]


# The map that circulates as Python code, by regular expressions over "RF".
PUBLISHED = {
    r"[1-2][1-2]": "Hibernating", r"[1-2][3-4]": "At risk", r"[1-2]5": "Can't lose them",
    r"3[1-2]": "About to sleep", r"33": "Need attention", r"[3-4][4-5]": "Loyal",
    r"41": "Promising", r"51": "New customer", r"[4-5][2-3]": "Potential loyalist",
    r"5[4-5]": "Champions",
}  # fmt: skip
RFM = """
WITH heads AS (
    SELECT customer_id, order_id, min(order_ts) AS ts FROM lines
    WHERE order_ts < TIMESTAMP '2025-01-01' AND amount > 0 GROUP BY ALL
), money AS (
    SELECT customer_id, sum(cents) AS money FROM lines
    WHERE order_ts < TIMESTAMP '2025-01-01' GROUP BY ALL
), each AS (
    SELECT customer_id, max(ts) AS newest, count(*) AS n, any_value(money) AS money
    FROM heads JOIN money USING (customer_id) GROUP BY ALL
), ranked AS (
    SELECT *, rank() OVER (ORDER BY newest) - 1 AS r, rank() OVER (ORDER BY n) - 1 AS f,
        rank() OVER (ORDER BY money) - 1 AS m, count(*) OVER () AS size FROM each
)
SELECT customer_id, 1 + 5 * r // size AS r, 1 + 5 * f // size AS f, 1 + 5 * m // size AS m
FROM ranked
"""


def test_rfm_is_that_of_sql_under_the_published_names() -> None:
    lines = orders().assign(cents=(orders()["amount"] * 100).round().astype("int64"))
    scores = duckdb.sql(RFM).df().set_index("customer_id")
    assert len(lines) > len(scores)
    made = segments.segmented(predictions(), scheme("rfm"), 12, store=store())
    told = made.frame.set_index("customer_id")["segment"]
    seen = set()
    for name, segment in told.items():
        if name not in scores.index:
            assert segment == "Prospect"
            continue
        r, f, m = (int(scores.loc[name, score]) for score in "rfm")
        key = f"{r}{math.ceil((f + m) / 2)}"
        assert segment == next(s for form, s in PUBLISHED.items() if re.fullmatch(form, key))
        seen.add(segment)
    assert (told == "Prospect").sum() >= N / 20
    assert len(seen) >= 8


def test_equal_customers_have_equal_scores() -> None:
    assert rfm.score(np.array([1.0, 1, 1, 1, 1, 1, 2, 3, 4, 9])).tolist() == [1] * 6 + [4, 4, 5, 5]
    assert rfm.score(np.array([7.0])).tolist() == [1]
    assert {name for row in rfm.FIELDS for name in row} == set(rfm.STEPS) - {"Prospect"}


RULES = """
[[segment]]
name = "Tea in Austria"
when = ["new_categories >= 1", 'country == "AT"', "clv_12m > 20"]
next_step = "A new blend."
[[segment]]
name = "Agreed"
when = ["consent_email == true", "acquired_at > 2024-05-31", "days_since_order <= 300"]
[[segment]]
name = "Tea in Austria"
when = ['country in ["CH", "AT"]', "orders != 2"]
[[segment]]
name = "Nobody"
when = ["orders > 1000"]
"""


def book(tmp_path: Path, text: str = RULES) -> str:
    place = tmp_path / f"rules{len(text)}.toml"
    place.write_text(text, encoding="utf-8")
    return str(place)


def test_the_first_rule_that_holds_wins(tmp_path: Path) -> None:
    made = segments.segmented(predictions(), scheme(book(tmp_path)), 12, store=store())
    past = orders()[(orders()["order_ts"] < AS_OF) & (orders()["amount"] > 0)]
    told = made.frame.set_index("customer_id")["segment"]
    about = people().set_index("customer_id")
    for row in predictions().to_dict("records"):
        own, person = past[past["customer_id"] == row["customer_id"]], about.loc[row["customer_id"]]
        known, austrian = len(own) > 0, person["country"] == "AT"
        days = (pd.Timestamp(AS_OF) - own["order_ts"].max()) / pd.Timedelta(days=1)
        if own["category"].nunique() >= 1 and austrian and row["clv_12m"] > 20:
            expected = "Tea in Austria"
        elif person["consent_email"] == "Yes" and "06-01" in person["acquired_at"] and days <= 300:
            expected = "Agreed"
        elif austrian and known and len(own) != 2:
            expected = "Tea in Austria"
        else:
            expected = "Other"
        assert told[row["customer_id"]] == expected
    assert made.table["segment"].tolist() == ["Tea in Austria", "Agreed", "Nobody", "Other", "All"]
    assert made.table["next_step"][0] == "A new blend."
    assert made.table["customers"][2] == 0
    everybody = scheme(book(tmp_path, RULES + '[[segment]]\nname = "The rest"\n'))
    rest = segments.segmented(predictions(), everybody, 12, store=store()).frame["segment"]
    assert (rest == "The rest").tolist() == (told == "Other").tolist()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "list of segments"),
        ("[[segments]]\nname = 'x'", "Got segments"),
        ("[[segment]]\nname = ''", "segment 1: must have a name"),
        ("[[segment]]\nname = 'x'\nif = ['a > 1']", "Got 'if'"),
        ("[[segment]]\nname = 'x'\n[[segment]]\nname = 'y'", "'x' has no conditions"),
        ("[[segment]]\nname = 'x'\nwhen = 'a > 1'", "when must be a list"),
        ("[[segment]]\nname = 'x'\nwhen = ['__import__(1)']", "a condition must be"),
        ("[[segment]]\nname = 'x'\nwhen = ['a == open(1)']", "as TOML does"),
        ("[[segment]]\nname = 'x'\nwhen = ['a == ']", "a condition must be"),
        ("[[segment]]\nname = 'x'\nwhen = ['a > \"b\"']", "a number or a date"),
        ("[[segment]]\nname = 'x'\nwhen = ['a == nan', 'a == [1]']", "true, or a date"),
        ("[[segment]]\nname = 'x'\nwhen = ['a in 3']", "a list of texts"),
        ("[[segment]]\nname = 'x'\nwhen = ['a == 1\\n']\nb = ", "must be TOML"),
    ],
)
def test_a_file_of_rules_that_cannot_be_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        rulebook.read(Path(book(tmp_path, text)))


def test_what_is_not_known_fulfils_no_condition(tmp_path: Path) -> None:
    for condition in ("x == 1", "x != 1", "x < 1", "x >= 1", 'x != "a"', "x == false", "x in [1]"):
        made = rulebook.Condition.parse(condition, "here")
        assert not made.holds([None, np.nan, ""]).any()
    text = rulebook.Condition.parse("x != 5", "here").holds(["5.0", "six", 6])
    assert text.tolist() == [False, False, True]


def test_the_table_ties_and_its_intervals_are_of_sums() -> None:
    table = predictions()
    made = segments.segmented(table, scheme("value-churn", lines=Lines(60, 0.5)), 12)
    found = made.table.set_index("segment")
    parts = found.drop(index="All")
    assert parts["customers"].sum() == N == found.loc["All", "customers"]
    assert math.fsum(parts["clv_12m"]) == pytest.approx(math.fsum(table["clv_12m"]), abs=1e-9)
    assert parts["share"].sum() == pytest.approx(1)
    for name, row in parts.iterrows():
        own = table[made.frame["segment"] == name]
        mean = own["clv_12m"].sum()
        var = (own["clv_12m_sd"] ** 2).sum() + (0.1 * mean) ** 2
        sigma = np.sqrt(np.log1p(var / mean**2))
        law = stats.lognorm(sigma, scale=mean / np.exp(sigma**2 / 2))
        assert [row["clv_12m_low"], row["clv_12m_high"]] == pytest.approx(law.ppf([0.1, 0.9]))
        assert row["churn_12m"] == pytest.approx(own["churn_12m"].mean())
        # What the customers' own drivers multiply to, the segment's do.
        gross = (own["orders_per_month"] * own["order_value_12m"] * own["active_months_12m"]).sum()
        product = row["orders_per_month"] * row["order_value_12m"] * row["active_months_12m"]
        assert product * row["customers"] == pytest.approx(gross)


def test_categories_reached() -> None:
    made = segments.segmented(predictions(), scheme("rfm"), 12, store=store())
    past = orders()[(orders()["order_ts"] < AS_OF) & (orders()["amount"] > 0)]
    sets = past.dropna(subset=["category"]).groupby("customer_id")["category"].agg(set)
    sizes = made.frame["customer_id"].map(sets).map(lambda s: len(s) if isinstance(s, set) else 0)
    by = sizes.groupby(made.frame["segment"])
    one = (sizes == 1).groupby(made.frame["segment"]).sum()
    shown = made.table.set_index("segment").drop(index="All").dropna(subset=["customers"])
    assert len(shown) >= 6
    for name, row in shown.iterrows():
        if row["customers"]:
            assert row["categories"] == pytest.approx(by.mean()[name])
            assert row["one_category"] == one[name]
    assert made.reach is not None
    for row in made.reach.dropna().to_dict("records"):
        ids = made.frame["customer_id"][made.frame["segment"] == row["segment"]]
        with_it = sum(row["category"] in sets.get(name, set()) for name in ids)
        assert (row["customers"], row["share"]) == (with_it, pytest.approx(with_it / len(ids)))


def test_moves_are_counted_customer_by_customer() -> None:
    now, then = predictions(first=30), predictions(BEFORE, seed=1)
    made = segments.segmented(now, scheme("value-churn", lines=Lines(60, 0.5)), 12, before=then)
    assert made.moves is not None
    was = {r["customer_id"]: naive_grid(r, 60, 0.5) for r in then.to_dict("records")}
    is_now = {r["customer_id"]: naive_grid(r, 60, 0.5) for r in now.to_dict("records")}
    matrix = made.moves.set_index("from")
    for name in [*NAMES[:4], "(new)"]:
        group = [k for k in {*was, *is_now} if was.get(k, "(new)") == name]
        assert matrix.loc[name, "customers"] == len(group)
        for target in [*NAMES[:4], "(gone)"]:
            share = sum(is_now.get(k, "(gone)") == target for k in group) / len(group)
            assert matrix.loc[name, target] == pytest.approx(share)
        assert matrix.loc[name].iloc[1:].sum() == pytest.approx(1, abs=1e-12)
    before = made.frame.set_index("customer_id")["segment_before"]
    assert before.to_dict() == {k: was.get(k, "(new)") for k in is_now}
    assert set(before.index) == set(is_now)  # nobody who is gone comes back


def test_moves_between_models_are_marked() -> None:
    now, then = predictions(), predictions(BEFORE).assign(model_version="0")
    named = [table.assign(segment="Grow") for table in (now, then)]
    found = segments.segmented(named[0], scheme("value-churn", *named), 12, before=named[1])
    assert "--value-from and --churn-from" in found.notes[0]
    assert segments.segmented(now, scheme("rfm"), 12, store=store(), before=then).notes
    assert segments.segmented(now, scheme("value-churn"), 12, before=now).notes == ()


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=12).filter(any))
def test_printed_shares_sum_to_a_hundred(counts: list[int]) -> None:
    told = [float(t.rstrip("%")) for t in hundredths([c / sum(counts) for c in counts])]
    assert sum(told) == pytest.approx(100.0, abs=1e-9)
    exact = [100 * c / sum(counts) for c in counts]
    assert np.allclose(told, exact, rtol=0, atol=0.1 + 1e-9)


def test_few_customers_are_not_shown(tmp_path: Path) -> None:
    """R-H6: a segment of 3 is hidden, and another with it, from which it could be told."""
    table = predictions()
    table["tier"] = ["gold"] * 3 + ["silver"] * 40 + ["bronze"] * (N - 43)
    rules = "".join(
        f"[[segment]]\nname = '{name}'\nwhen = ['tier == \"{name}\"']\n"
        for name in ("gold", "silver", "bronze")
    )
    tiers = scheme(book(tmp_path, rules))
    made = segments.segmented(table, tiers, 12)
    shown = made.table.set_index("segment").drop(columns="next_step")
    assert shown.loc[["gold", "silver"]].isna().all(axis=None)
    assert shown.loc[["bronze", "All"]].notna().all(axis=None)
    two = table.assign(tier=["gold"] * 6 + ["silver"] * 6 + ["bronze"] * (N - 12))
    other = segments.segmented(two, tiers, 12).table
    assert other["customers"].isna().tolist() == [True, True, False, False]
    back = segments.segmented(table.assign(tier="x"), tiers, 12, before=table)
    assert back.moves is not None
    matrix = back.moves.set_index("from")
    assert matrix.loc["gold"].isna().all()
    assert matrix.loc["silver", "customers"] == 40


# The command


def written(tmp_path: Path, table: pd.DataFrame, name: str = "p.csv") -> Path:
    place = tmp_path / name
    table.to_csv(place, index=False)
    return place


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    orders().to_csv(folder / "orders.csv", index=False)
    people().to_csv(folder / "customers.csv", index=False)
    (folder / "clv.toml").write_text(
        '[business]\ncurrency = "EUR"\n[orders]\ncomplete_until = 2025-06-30\n'
    )
    return folder


def test_segments_by_command(tmp_path: Path, shop: Path) -> None:
    now = written(tmp_path, predictions().sample(frac=1, random_state=3))
    then = written(tmp_path, predictions(BEFORE, seed=1), "then.csv")
    out, again = tmp_path / "s.csv", tmp_path / "again.csv"
    words = ["--data", shop, "--before", then, "--value-from", 60]
    ran = clv("segments", now, *words, "--out", out, "--summary", tmp_path / "t.csv")
    assert ran.code == 0, ran.err
    for text in ("Keep close", "Let rest", "EUR", "from \\ to", "only one", "100.0%"):
        assert text in ran.out
    for line in ran.out.splitlines():
        shares = [float(x) for x in re.findall(r"(\d+\.\d)%", line)]
        if re.match(r"  (Keep close|\(new\)) +\d+ +\d+\.\d%( |$)", line) and len(shares) > 4:
            assert sum(shares) == pytest.approx(100)
    found = pd.read_csv(out, dtype=str)
    assert list(found) == ["customer_id", "segment", "segment_before"]
    assert found["customer_id"].tolist() == predictions()["customer_id"].tolist()
    assert pd.read_csv(tmp_path / "t.csv")["customers"].iloc[-1] == N
    sorted_one = written(tmp_path, predictions(), "sorted.csv")
    told = clv("segments", sorted_one, *words, "--out", again, "--json").json
    assert again.read_bytes() == out.read_bytes()
    assert [s["customers"] for s in told["segments"]][-1] == N
    assert {r["from"] for r in told["migration"]} >= {"Keep close", "(new)"}
    assert {r["category"] for r in told["categories"]} == {"tea", "toys", "books"}


def test_segments_are_told_in_the_readers_language(tmp_path: Path, shop: Path) -> None:
    now, out = written(tmp_path, predictions()), tmp_path / "s.csv"
    plain = ["segments", now, "--data", shop, "--out", out]
    for scheme, language, words in (
        ("value-churn", "de", ("Eng binden", "Ruhen lassen", "Abwanderung", "01.01.2025")),
        ("rfm", "hu", ("Bajnokok", "Jutalmazzuk őket", "lemorzsolódás", "2025. 01. 01.")),
        ("rfm", "nl", ("Kampioenen", "Belonen, om reviews", "verloop", "01-01-2025")),
    ):
        ran = clv(*plain, "--scheme", scheme, "--before", now, "--language", language)
        assert ran.code == 0, ran.err
        for word in words:
            assert word in ran.out
        assert not re.search(r"Keep close|Champions|Let rest|customers|Note", ran.out)
        # What programs read keeps its names.
        known = set(segments.STEPS) | set(rfm.STEPS)
        assert set(pd.read_csv(out, dtype=str)["segment"]) <= known
    rules = book(tmp_path, "[[segment]]\nname = 'All {x} 5 %'\nwhen = ['churn_12m < 2']\n"
                 "next_step = 'do {this}'")  # fmt: skip
    ran = clv(*plain, "--scheme", rules, "--language", "de")
    assert ("All {x} 5 %" in ran.out, "do {this}" in ran.out) == (True, True)
    ran = clv(*plain, "--language", "xx")
    assert (ran.code, "en, de, hu, nl" in ran.err) == (2, True)


def test_a_workbook_holds_all_tables(tmp_path: Path, shop: Path) -> None:
    now, out = written(tmp_path, predictions()), tmp_path / "s.xlsx"
    ran = clv("segments", now, "--data", shop, "--scheme", "rfm", "--before", now, "--out", out)
    assert ran.code == 0, ran.err
    names = re.findall(r'sheet name="(\w+)"', zipfile.ZipFile(out).read("xl/workbook.xml").decode())
    assert names == ["customers", "segments", "migration", "categories"]


def test_what_is_missing_is_said(tmp_path: Path, shop: Path) -> None:
    now, out = written(tmp_path, predictions()), tmp_path / "s.csv"
    strange = predictions().assign(customer_id=lambda t: "x" + t["customer_id"])
    for said, words in {
        "--data": [now, "--scheme", "rfm"],
        "'acquired_at', which": [now, "--scheme", book(tmp_path)],
        "column of the table customers (acquired_at": [
            now, "--data", shop, "--scheme",
            book(tmp_path, "[[segment]]\nname = 'x'\nwhen = ['shoe_size > 3']"),
        ],
        "value-churn, rfm or a file": [now, "--scheme", "abc"],
        "--value-from must be": [now, "--value-from", "0"],
        "--churn-from must be": [now, "--churn-from", "1"],
        "--horizon 24": [now, "--horizon", "24"],
        "None of them has": [written(tmp_path, strange, "x.csv"), "--data", shop, "--scheme",
                             "rfm"],
    }.items():  # fmt: skip
        ran = clv("segments", *words, "--out", out)
        assert ran.code == 2, said
        assert said in ran.err
    assert not out.exists()


def test_plan_and_measure_take_segments(tmp_path: Path, shop: Path) -> None:
    table = predictions().assign(segment=np.resize(NAMES[:4], N), revenue_12m=50.0)
    now = written(tmp_path, table)
    words = ["--discount", 0.1, "--months", 12, "--segment", "Win over", "--json"]
    made = clv("plan", shop, "--predictions", now, *words, "--out", tmp_path / "plan.csv")
    assert made.json["discount"]["customers"] == N / 4, made.err
    drawn = ["--campaign", "S1", "--contacts-out", tmp_path / "contacts.csv", "--control", 0.4]
    ran = clv("target", shop, "--predictions", now, "--top", 300, "--offer-cost", 0.01, *drawn,
              "--out", tmp_path / "list.csv")  # fmt: skip
    assert ran.code == 0, ran.err
    data = tmp_path / "shop"
    data.mkdir()
    for name in ("orders.csv", "customers.csv", "clv.toml"):
        (data / name).write_bytes((shop / name).read_bytes())
    (data / "contacts.csv").write_bytes((tmp_path / "contacts.csv").read_bytes())
    found = clv("measure", data, "--campaign", "S1", "--days", 60, "--by", "segment", "--json")
    assert found.code == 0, found.err
    assert {row["group"].split("=")[-1].strip() for row in found.json["groups"]} <= {
        *NAMES[:4], *(f"segment {name}" for name in NAMES)
    }  # fmt: skip
    assert len(found.json["groups"]) >= 3
