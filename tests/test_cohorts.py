"""Cohorts, surveys and loyalty against SQL and naive loops; the folder that a user gets."""

from __future__ import annotations

import math
import re
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from conftest import Ran, clv
from test_retention import ZONE, found, lines, orders, settings, sql

from features import tables
from features.errors import InputError
from features.settings import parse
from features.simulate import shop as simulated
from features.store import Store
from serving.decisions import cohorts as grouped
from serving.decisions import loyalty, retained
from serving.decisions.cohorts import ALL, Cohorts, cohorts
from serving.decisions.journeys import journeys
from serving.views import retention as view

MARGIN = 0.4


@cache
def made(period: str = "quarter") -> Cohorts:
    return cohorts(found(), grouped.period_for(found(), period), MARGIN)


def by_sql(period: str) -> pd.DataFrame:
    """Active customers and money of each cohort in each whole period, by SQL."""
    query = f"""
        WITH heads AS (SELECT customer_id, min(order_ts)::DATE AS day FROM rows WHERE amount > 0
                       GROUP BY customer_id, order_id),
        begins AS (SELECT customer_id, date_trunc('{period}', min(day)) AS began FROM heads
                   GROUP BY 1),
        spans AS (SELECT began, (SELECT count(*) FROM begins AS b WHERE b.began = a.began) AS n,
                         unnest(range(0, 60)) AS since FROM (SELECT DISTINCT began FROM begins) a),
        seen AS (SELECT began, date_diff('{period}', began, date_trunc('{period}', day)) AS since,
                        count(DISTINCT customer_id) AS active FROM heads JOIN begins
                 USING (customer_id) GROUP BY 1, 2),
        paid AS (SELECT began, greatest(date_diff('{period}', began,
                        date_trunc('{period}', order_ts)), 0) AS since,
                        sum(amount::DECIMAL(18, 2)) AS money,
                        sum(coalesce(amount - cost, amount * {MARGIN})) AS earned
                 FROM rows JOIN begins USING (customer_id) GROUP BY 1, 2)
        SELECT began, n, since, coalesce(active, 0) AS active, coalesce(money, 0) AS money,
               coalesce(earned, 0) AS earned
        FROM spans LEFT JOIN seen USING (began, since) LEFT JOIN paid USING (began, since)
        WHERE began + to_{period}s((since + 1)::INTEGER) <= DATE '2024-07-18' ORDER BY 1, 3
    """
    return sql(query, lines())


@pytest.mark.parametrize("period", ["month", "quarter"])
def test_cohorts_are_those_of_sql(period: str) -> None:
    want = by_sql(period)
    names = want["began"].dt.to_period("M" if period == "month" else "Q").astype(str)
    want = want.assign(cohort=names.str.replace("Q", "-Q"))
    table = made(period).table
    own = table[table["cohort"] != ALL].reset_index(drop=True)
    shown = want[want["n"] >= 10].reset_index(drop=True)
    assert len(own) > 50
    assert own[["cohort", "customers", "since"]].equals(
        shown[["cohort", "n", "since"]].set_axis(["cohort", "customers", "since"], axis=1)
    )
    money, earned = (shown[name].astype(float) / shown["n"] for name in ("money", "earned"))
    np.testing.assert_allclose(own["active"], shown["active"] / shown["n"])
    np.testing.assert_allclose(own["revenue"], money, atol=1e-9)
    np.testing.assert_allclose(own["margin"], earned, atol=1e-9)
    assert (abs(own["margin"] - own["revenue"] * MARGIN) > 0.01).mean() > 0.5
    for name, each in (("revenue_so_far", money), ("margin_so_far", earned)):
        so_far = each.groupby(shown["cohort"]).cumsum()
        np.testing.assert_allclose(own[name], so_far, atol=1e-7)
    assert (own[own["since"] == 0]["active"] == 1).all()
    hidden = want[want["n"] < 10]["cohort"].nunique()
    assert made(period).hidden == hidden
    together = want.groupby("since")[["n", "active"]].sum()
    together = together[together["n"] >= 10]
    whole = table[(table["cohort"] == ALL) & table["active"].notna()]
    assert whole["customers"].tolist() == together["n"].tolist()
    np.testing.assert_allclose(whole["active"], together["active"] / together["n"])


def test_small_cohorts_are_hidden() -> None:
    rare = lines()[lines()["order_ts"] < "2021-06-01"].drop_duplicates("customer_id").head(9)
    alone = rare.assign(customer_id=[f"new{k}" for k in range(9)], order_id="x",
                        order_ts=pd.Timestamp("2024-05-02"))  # fmt: skip
    with TemporaryDirectory() as folder:
        frame = pd.concat([lines(), alone], ignore_index=True)
        journey = journeys(Store.of(tables.ingest(frame, settings(), Path(folder))))
    months = cohorts(journey, "month")
    assert "2024-05" not in set(months.table["cohort"])
    assert months.hidden == cohorts(found(), "month").hidden + 1
    assert len(journey) == len(found()) + 9


def test_the_grid_has_a_cell_per_cohort_and_period() -> None:
    grid = made().grid()
    assert (grid[0] == 1).all()
    steps = grid.notna().sum(axis=1).to_numpy()
    assert (np.diff(steps) < 0).all()


def test_periods_follow_the_history() -> None:
    assert grouped.period_for(found()) == "quarter"
    with TemporaryDirectory() as folder:
        some = lines()[lines()["order_ts"] >= "2023-01-01"]
        short = journeys(Store.of(tables.ingest(some, settings(), Path(folder))))
    assert grouped.period_for(short) == "month"
    with pytest.raises(InputError, match=r"--period must be month or quarter. Got 'week'."):
        grouped.period_for(short, "week")
    with TemporaryDirectory() as folder:
        some = lines()[lines()["order_ts"] >= "2024-07-02"]
        tiny = journeys(Store.of(tables.ingest(some, settings(), Path(folder))))
    with pytest.raises(InputError, match=r"must cover a whole quarter.*2024-Q3"):
        cohorts(tiny, "quarter")


# Surveys and loyalty


def events() -> pd.DataFrame:
    """Surveys with scores 0 to 10, points, and visits that have nothing to do with either."""
    rng = np.random.default_rng(8)
    n = 900
    ids = np.array([f"{k:03d}" for k in range(300)], object)
    made = pd.DataFrame(
        {
            "customer_id": ids[rng.integers(0, 300, n)],
            "ts": pd.Timestamp("2021-01-01") + pd.to_timedelta(rng.integers(0, 1_250, n), "D"),
            "kind": rng.choice(["nps survey", "loyalty_points", "visit"], n),
            "value": rng.integers(0, 11, n).astype(float),
        }
    )
    return made.assign(value=made["value"].where(made["kind"] != "visit"))


def customers() -> pd.DataFrame:
    names = [f"{k:03d}" for k in range(300)]
    return pd.DataFrame(
        {
            "customer_id": names,
            "acquisition_channel": [["ads", "mail", None][k % 3] if k > 3 else "tiny" for k in
                                    range(300)],
            "club_member": ["yes" if k % 2 else "no" for k in range(300)],
            "city": names,
            "contract_end": ["2023-06-30" if k % 4 == 0 else "" for k in range(300)],
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    lines().to_csv(folder / "orders.csv", index=False)
    customers().to_csv(folder / "customers.csv", index=False)
    events().to_csv(folder / "events.csv", index=False)
    (folder / "clv.toml").write_text(
        f'[business]\ntime_zone = "{ZONE}"\nmargin = 0.4\n[orders]\ncomplete_until = 2024-07-17\n'
    )
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    frames = {"orders": lines(), "customers": customers(), "events": events()}
    return Store.of(tables.ingest(frames, settings(), tmp_path_factory.mktemp("store")))


def test_survey_and_loyalty_are_what_was_known_at_the_landmark(store: Store) -> None:
    got = loyalty.beside(journeys(store), store, 12).table
    assert sorted(set(got["source"])) == [
        "customers.club_member", "event loyalty_points", "event nps survey",
    ]  # fmt: skip
    said = events()
    said = said[(said["kind"] == "nps survey") & (said["ts"] < "2023-07-18")]
    newest = said.sort_values(["customer_id", "ts", "value"]).groupby("customer_id")["value"].last()
    points = events()[(events()["kind"] == "loyalty_points") & (events()["ts"] < "2023-07-18")]
    counts: dict[tuple[str, str], list[int]] = {}
    for name, mine in orders().groupby("customer_id"):
        base = mine["day"].between("2022-07-18", "2023-07-17").any()
        if not base:
            continue
        after = bool(mine["day"].between("2023-07-18", "2024-07-17").any())
        score = newest.get(name)
        band = "none" if score is None else "0-6" if score <= 6 else "7-8" if score <= 8 else "9-10"
        club = "yes" if int(str(name)) % 2 else "no"
        held = "with" if name in set(points["customer_id"]) else "none"
        for key in (("event nps survey", band), ("customers.club_member", club),
                    ("event loyalty_points", held)):  # fmt: skip
            of = counts.setdefault(key, [0, 0])
            of[0] += 1
            of[1] += after
    want = {key: of for key, of in counts.items() if of[0] >= 10}
    assert len(want) == len(got) == 8
    for row in got.to_dict("records"):
        of = want[row["source"], row["level"]]
        assert (row["customers"], row["retention"]) == (of[0], pytest.approx(of[1] / of[0]))


def test_scores_fall_into_bands() -> None:
    nan = math.nan
    nps = loyalty.banded(np.array([0, 6, 7, 8, 9, 10, 3, nan]))
    assert nps.tolist() == ["0-6", "0-6", "7-8", "7-8", "9-10", "9-10", "0-6", "none"]
    few = loyalty.banded(np.array([1.0, 2.5, 5.0, nan]), "not known")
    assert few.tolist() == ["1", "2.5", "5", "not known"]
    many = loyalty.banded(np.arange(30.0) * 1.5)
    assert [int((many == each).sum()) for each in ("up to 13.5", "up to 28.5", "above 28.5")] == [
        10, 10, 10,
    ]  # fmt: skip


def test_a_column_asked_for_must_have_few_levels(store: Store) -> None:
    journey = journeys(store)
    with pytest.raises(InputError, match=r"customers, city: must have at most 20 levels"):
        loyalty.beside(journey, store, 12, ["city"])
    with pytest.raises(InputError, match=r"must have the column 'mood'"):
        loyalty.beside(journey, store, 12, ["mood"])
    none = loyalty.beside(journey, store, 12, [])
    assert set(none.table["source"]) == {"event loyalty_points", "event nps survey"}
    assert none.notes == ()


# Everything together


def test_lives_follow_the_definition_of_the_business(store: Store) -> None:
    journey = journeys(store)

    def rule(churn: str, silence: int | None = None) -> str:
        own = parse({"business": {"churn": churn, "time_zone": ZONE}, "horizons": {"months": [6]}})
        return retained.lives(journey, store, own, silence).rule

    assert rule("no_order") == "no order for 183 days"
    assert rule("own_gap:2") == "no order for 2 own mean gaps (183 days before a second order day)"
    assert rule("contract_end") == "contract_end"
    assert rule("contract_end", 50) == "no order for 50 days"


def test_all_of_one_moment(store: Store) -> None:
    got = retained.retained(store, settings(), silence=200)
    assert got.channels is not None
    assert got.channels["channel"].tolist() == ["ads", "mail", "not known"]
    assert any("1 channels of fewer than 10" in note for note in got.notes)
    assert got.channels["customers"].sum() == len(found()) - sum(
        int(name) <= 3 for name in found().ids
    )
    here = np.array([int(name) > 3 and int(name) % 3 == 0 for name in found().ids])
    whole = retained.survival.silences(found(), 200)
    ads = retained.curve(whole.days[here], whole.seen[here])
    row = got.channels.set_index("channel").loc["ads"]
    assert row["stayed_12m"] == ads.at(12 * 365.25 / 12).value
    assert row["mean_life"] == pytest.approx(ads.mean(got.within * 365.25 / 12).value * 12 / 365.25)
    assert 0.5 * got.life.reach < got.within * 365.25 / 12 <= got.life.reach
    said = got.as_dict()
    assert said["life"]["stayed"]["12m"][0] == pytest.approx(got.life.at(365.25).value, abs=1e-6)
    assert (said["customers"], said["orders"]) == (len(found()), len(orders()))
    assert said["mean_orders"] == pytest.approx(got.whole["orders"], abs=1e-6)
    early = retained.retained(store, settings(), until=int(found().ts[500]), months=3)
    assert early.orders < got.orders


def test_channels_stand_as_the_simulated_shop_made_them() -> None:
    """Mean days as a customer: referral 1200, organic 900, affiliate 450, paid social 380."""
    with TemporaryDirectory() as folder:
        everything = simulated(2_000, 4.5, 3).tables
        frames = {name: everything[name] for name in ("orders", "customers")}
        frames["orders"] = frames["orders"].query("currency == 'EUR'")
        own = parse({"business": {"currency": "EUR"}})
        table = retained.retained(Store.of(tables.ingest(frames, own, Path(folder))), own).channels
    assert table is not None
    told = table.set_index("channel")
    for name in ("repeat_rate", "retention", "stayed_24m", "mean_life"):
        short = told.loc[["affiliate", "paid_social"], name].max()
        assert told.loc["referral", name] > told.loc["organic", name] > short


@pytest.mark.parametrize(
    ("silence", "reach", "told"),
    [(365, 1600, (24, 36)), (91, 1600, (12, 24)), (None, 1600, (12, 24)), (30, 300, (6,)),
     (30, 100, (3,)), (365, 540, (17,)), (91, 400, (12,)), (30, 20, (0,))],
)  # fmt: skip
def test_who_stays_is_told_where_the_curve_shows_it(
    silence: int | None, reach: int, told: tuple[int, ...]
) -> None:
    none = np.zeros(0, np.int64)
    ended = retained.Lives(none, none.astype(bool), "", silence)
    empty = none.astype(float)
    life = retained.Curve(none, none, none, empty, empty, empty, reach, 0)
    assert retained._stayed(ended, life) == told


def run(shop: Path, out: Path, *words: object) -> Ran:
    return clv("retention", shop, "--out", out, *words)


def test_the_folder_holds_what_is_promised(shop: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "r"
    ran = run(shop, out)
    assert ran.code == 0, ran.err
    assert sorted(path.name for path in out.iterdir()) == sorted(view.FILES)
    assert "Repeat rate: " in ran.out
    assert "not yet a cause" in ran.out
    cohort = pd.read_csv(out / "cohorts.csv")
    pd.testing.assert_frame_equal(cohort, made().table.round(6), check_dtype=False)
    curves = pd.read_csv(out / "survival.csv")
    assert set(curves["event"]) == {"lapsed", "second_order"}
    assert set(curves["channel"]) == {"all", "ads", "mail", "not known"}
    assert (curves.groupby(["event", "channel"])["survival"].diff().dropna() <= 0).all()
    for name in (path for path in view.FILES if path.endswith(".svg")):
        assert ElementTree.parse(out / name).getroot().tag.endswith("svg")  # noqa: S314  our own
    page = (out / "index.html").read_text(encoding="utf-8")
    assert page.count("<img ") == 6
    assert not re.search(r'(src|href)="(?!data:|#)', page)


def test_a_run_with_less_to_tell_leaves_nothing_old_behind(shop: Path, tmp_path: Path) -> None:
    out = tmp_path / "r"
    out.mkdir()
    for name in view.FILES:
        (out / name).write_text("of an earlier run")
    bare = tmp_path / "bare"
    bare.mkdir()
    lines().to_csv(bare / "orders.csv", index=False)
    ran = run(bare, out, "--period", "month", "--silence", 4_000)
    assert ran.code == 0, ran.err
    names = {path.name for path in out.iterdir()}
    assert names == {"cohorts.csv", "survival.csv", "cohorts.svg", "life.svg", "second_order.svg",
                     "index.html"}  # fmt: skip
    assert not any("earlier" in path.read_text(encoding="utf-8") for path in out.iterdir())
    assert "no channels: the table customers has no acquisition_channel" in ran.out
    assert "nobody has lapsed by the rule 'no order for 4,000 days'" in ran.out
    assert "Mean life" not in ran.out
    first = {path.name: path.read_bytes() for path in out.iterdir()}
    again = run(bare, out, "--period", "month", "--silence", 4_000, "--json")
    assert again.json["customers"] == len(found())
    assert {path.name: path.read_bytes() for path in out.iterdir()} == first


def test_what_is_refused(shop: Path, tmp_path: Path) -> None:
    def refused(words: str, *more: object, out: Path = tmp_path / "r") -> None:
        ran = run(shop, out, *more)
        assert ran.code == 2, ran.out
        assert re.search(words, ran.err.splitlines()[-1]), ran.err

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    (tmp_path / "file").write_text("keep")
    refused(r"--out must be a new or empty folder.*'notes.txt'", out=tmp_path / "mine")
    refused(r"--out must be a folder. Got the file", out=tmp_path / "file")
    refused(r"--period must be month or quarter. Got 'year'", "--period", "year")
    refused(r"--silence must be 1 day or more. Got 0", "--silence", 0)
    refused(r"must have the column 'mood'", "--by", "club_member, mood")
    refused(r"must hold 60 months", "--months", 30)
    assert not (tmp_path / "r").exists()


def test_hardly_any_customers_are_told_without_numbers(tmp_path: Path) -> None:
    (tmp_path / "orders.csv").write_text(
        "customer_id,order_ts,amount\na,2024-01-03,5\nb,2024-02-03,5\na,2024-03-09,7\n"
        "c,2024-05-01,3\n"
    )
    ran = run(tmp_path / "orders.csv", tmp_path / "r")
    assert ran.code == 0, ran.err
    assert "Repeat rate: not told, fewer than 10 customers can be asked" in ran.out
    assert "Retention: not told" in ran.out
    assert "nan" not in ran.out
    names = sorted(path.name for path in (tmp_path / "r").iterdir())
    assert names == ["cohorts.csv", "index.html", "survival.csv"]
