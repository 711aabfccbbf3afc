"""Customers in their first days (I1, I3), judged apart."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import fitted
import numpy as np
import pandas as pd
import pytest
from conftest import clv, few_draws, same_bits, use_home

from features import simulate
from features.behaviour import build
from features.errors import InputError
from features.settings import Settings, parse
from features.spine import DAY, Cutoffs, add_months, instant
from features.store import Store
from serving import words as words_of
from training import bundle
from training.baselines import BASELINES
from training.fitting import fit
from training.labels import build as labelled
from training.model import Model
from training.newcomers import Early, early, judge_prospects
from training.packing import pack
from training.season import Season

CUTOFF = "2025-01-01"
T = instant(CUTOFF, "UTC")
OURS = "anchored boosting"


@cache
def shop() -> simulate.Shop:
    return simulate.shop(1_500, 2.5, seed=21)


@cache
def settings() -> Settings:
    few = {"origins": 3, "thin_below": 100, "max_rows": 3_000}
    return parse({**tomllib.loads(shop().settings), "model": few, "horizons": {"months": [12]}})


@cache
def data() -> dict[str, pd.DataFrame]:
    names = ("orders", "rates", "aliases", "events", "customers")
    return {name: shop().tables[name] for name in names}


@cache
def store() -> Store:
    return fitted.ingest(data(), settings())


@cache
def model() -> Model:
    return fit(store(), T, 12, settings()).model


@cache
def reads() -> list[Early]:
    return early(store(), T, 12, settings(), (30, 0), model=model())


def firsts() -> pd.Series:
    """Moment of the first order, by today's id."""
    alias = data()["aliases"].set_index("old_id")["customer_id"]
    orders = data()["orders"]
    own = orders["customer_id"].map(alias).fillna(orders["customer_id"])
    bought = orders["amount"] > 0
    return orders["order_ts"][bought].groupby(own[bought]).min()


def test_an_early_read_against_one_customer_after_the_other():
    """I3."""
    bucket, first = store().bucket(0), firsts()
    end = instant("2025-07-01", "UTC") - 32 * DAY
    last = pd.Timestamp(end, unit="us")
    chosen = first[(first >= CUTOFF) & (first < last)].sort_index()
    place = {name: i for i, name in enumerate(bucket.ids)}
    for read, days in zip(reads(), (0, 30), strict=True):
        assert (read.days, read.months, read.start) == (days, 12, CUTOFF)
        assert len(read.actual) == len(chosen) > 100
        for k in range(0, len(chosen), 9):
            name, moment = chosen.index[k], chosen.iloc[k]
            as_of = instant((moment.normalize() + pd.Timedelta(days=days + 1)).isoformat(), "UTC")
            one = bucket.take(place[name], place[name] + 1)
            cutoffs = Cutoffs.at([as_of], "UTC")
            row = build(one, cutoffs, model().catalogue)
            found = model().predict(row, as_of, [12])
            label = labelled(one, row, cutoffs, [12], store().coverage_end, "UTC")[12]
            assert read.values[OURS][k] == found.revenue(12)[0]
            assert read.churn[OURS][k] == found.churn[0, 0]
            assert (read.actual[k], read.churned[k]) == (label.net[0], label.churned[0])
        assert list(read.values) == [OURS, *list(BASELINES)[-2:]]
        assert np.isfinite(np.array(list(read.values.values()))).all()
        told = read.as_dict()
        assert told["customers"] == len(chosen)
        assert set(told["models"]) == set(read.values)
        mae = np.abs(read.actual - read.values[OURS]).mean()
        assert told["models"][OURS]["mae"] == pytest.approx(mae)


def test_many_moments_at_once_give_the_bits_of_each_alone():
    """One prediction per moment, as a calendar date is asked, against all in one."""
    bucket = store().bucket(0)
    cutoffs = Cutoffs.at([add_months(T, m, "UTC") for m in (-3, 0, 1, 7)], "UTC")
    rows = build(bucket.take(0, 300), cutoffs, model().catalogue)
    seasonal = replace(model().anchor, season=Season(tuple([0.8] * 6 + [1.2] * 6)))
    for chosen in (model(), replace(model(), anchor=seasonal)):
        found = chosen.predict(rows, cutoffs.times[rows.cut], [3, 12])
        for k, moment in enumerate(cutoffs.times.tolist()):
            here = rows.cut == k
            alone = chosen.predict(rows.take(here), moment, [3, 12])
            for name in ("gross", "orders", "churn", "pending", "pace", "silence"):
                assert same_bits(getattr(found, name)[here], getattr(alone, name))


def test_more_days_tell_more_and_ours_ranks_better():
    now, later = (read.leaderboard().loc[OURS] for read in reads())
    assert later["normalised_gini"] > now["normalised_gini"]
    assert later["auroc"] > now["auroc"]
    board = reads()[1].leaderboard()
    for metric in ("normalised_gini", "auroc"):
        assert (board.loc[OURS, metric] > board[metric].iloc[1:]).all()
    for metric in ("mae", "brier"):
        assert (board.loc[OURS, metric] < board[metric].iloc[1:]).all()


def test_one_order_loses_value_with_silence_in_a_whole_shop():
    """I1, boosted and out of time: those who bought once, while nothing more happens."""
    orders = data()["orders"]
    alias = data()["aliases"].set_index("old_id")["customer_id"]
    own = orders["customer_id"].map(alias).fillna(orders["customer_id"])
    lines = orders.assign(own=own, day=orders["order_ts"].dt.normalize())
    days = lines[lines["amount"] > 0].groupby("own")["day"].agg(["nunique", "max"])
    recent = (days["max"] < CUTOFF) & (days["max"] > "2024-09-01")
    back = lines[lines["amount"] < 0].groupby("own")["day"].max()
    silent = days.index[(days["nunique"] == 1) & recent & ~days.index.isin(back.index)]
    assert len(silent) > 50
    assert model().members
    by = []
    for months in (0, 3, 6, 12):
        as_of = add_months(T, months, "UTC")
        rows = build(store().bucket(0), Cutoffs.at([as_of], "UTC"), model().catalogue)
        table = model().table(rows, as_of, [12], "1").set_index("customer_id")
        by.append(table.loc[silent])
    for sooner, after in pairwise(by):
        # Season and visits move single ones; silence moves nearly all.
        assert (after["churn_12m"] > sooner["churn_12m"]).mean() > 0.9
        assert after["revenue_12m"].sum() < 0.8 * sooner["revenue_12m"].sum()
    assert (by[-1]["revenue_12m"] < by[0]["revenue_12m"]).mean() > 0.98


@pytest.mark.parametrize(
    ("days", "cutoff", "words"),
    [
        ((-1, 3), CUTOFF, r"must be 0 to 730. Got \[-1, 3\]"),
        ((), CUTOFF, "must be 0 to 730"),
        ((0, 731), CUTOFF, "must be 0 to 730"),
        ((0, 200), CUTOFF, "200 days and 12 months of data after that"),
    ],
)
def test_days_that_cannot_be_read_are_told(days, cutoff, words):
    with pytest.raises(InputError, match=words):
        early(store(), instant(cutoff, "UTC"), 12, settings(), days, model=model())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("newcomers")
    simulate.write(simulate.Shop(data(), {}, shop().settings), folder / "shop")
    (folder / "shop/clv.toml").write_text(
        shop().settings + "[model]\norigins = 3\nthin_below = 100\nmax_rows = 3000\n"
    )
    bundle.save(pack(model()), folder / "model", bundle.make_key(folder))
    return folder


def test_the_command_reads_early(place: Path, monkeypatch: pytest.MonkeyPatch):
    use_home(monkeypatch, place)
    few_draws(monkeypatch)
    words = ("backtest", place / "shop", "--as-of", CUTOFF, "--horizon", 12, "--early", "0,30")
    ran = clv(*words, "--json")
    assert ran.code == 0, ran.err
    # Prospects are judged beside, by the model of prospects alone: rehearsals do not change it.
    judged = judge_prospects(store(), T, 12, settings(), model=model())
    assert judged is not None
    (test,) = ran.json["backtests"]
    assert (test["prospects"], test["no_prospects"]) == (judged.as_dict(), "")
    (found,) = ran.json["early"]
    assert [read["days"] for read in found] == [0, 30]
    # A backtest calibrates by rehearsals, which the model of `reads` has not; the others are equal.
    both = zip(found, (read.as_dict() for read in reads()), strict=True)
    for one, other in both:
        assert one.pop("models").keys() == other["models"].keys()
        del other["models"]
        assert one == other
    wrong = clv(*words[:-1], "0,x")
    assert wrong.code == 2
    assert "Days after the first order must be whole numbers" in wrong.err


def test_the_command_predicts_prospects(place: Path, monkeypatch: pytest.MonkeyPatch):
    """I2."""
    use_home(monkeypatch, place)
    words = ("predict", place / "shop", "--as-of", CUTOFF, "--model", place / "model", "--out")
    plain = clv(*words, place / "plain.parquet", "--json")
    ran = clv(*words, place / "all.parquet", "--prospects", "--json")
    assert (plain.code, ran.code) == (0, 0), ran.err
    first = firsts()
    signed = data()["customers"].set_index("customer_id")["acquired_at"]
    known = signed.index[signed < CUTOFF]
    ordered = set(first.index[first < CUTOFF])
    waiting = sorted(set(known) - ordered)
    frame = pd.read_parquet(place / "all.parquet")
    cold = frame[frame["evidence"] == "cold_start"]
    assert cold["customer_id"].tolist() == waiting
    assert frame["customer_id"].tolist() == sorted([*waiting, *ordered])
    assert not frame.drop(columns=["next_order_on", "segment"]).isna().any(axis=None)
    before = pd.read_parquet(place / "plain.parquet")
    rest = frame[frame["evidence"] != "cold_start"].reset_index(drop=True)
    pd.testing.assert_frame_equal(rest, before, check_exact=True)
    assert (ran.json["prospects"], ran.json["customers"]) == (len(waiting), len(ordered))
    assert (plain.json["prospects"], plain.json["evidence"]) == (0, ran.json["evidence"])
    told = words_of.scored(ran.json, place / "all.parquet")
    assert f"{len(waiting)} prospects without an order yet, evidence cold_start" in told


def test_prospects_are_explained_and_nobody_unknown(place: Path, monkeypatch: pytest.MonkeyPatch):
    use_home(monkeypatch, place)
    about = (place / "shop", "--as-of", CUTOFF, "--model", place / "model")
    out = place / "reasons.parquet"
    assert clv("predict", *about, "--out", out, "--prospects", "--reasons", 2).code == 0
    frame = pd.read_parquet(out)
    for text, value in zip(frame["reasons"], frame["clv_12m"], strict=True):
        assert sum(line["money"] for line in json.loads(text)) == pytest.approx(value, abs=1e-6)
    cold = frame[frame["evidence"] == "cold_start"].set_index("customer_id")
    name = str(cold["clv_12m"].idxmax())
    told = clv("explain", *about, "--customer", name, "--json")
    assert told.code == 0, told.err
    assert (told.json["evidence"], told.json["clv_12m"]) == ("cold_start", cold["clv_12m"][name])
    for lines in (told.json["reasons"], told.json["families"]):
        assert sum(each["money"] for each in lines) == pytest.approx(told.json["clv_12m"], abs=1e-6)
    shown = clv("explain", *about, "--customer", name).out
    assert "as people without an order who signed up as long ago usually do" in shown
    signed = data()["customers"].set_index("customer_id")["acquired_at"]
    later = str(signed.index[signed > CUTOFF][0])
    for unknown in ("nobody", later):
        ran = clv("explain", *about, "--customer", unknown)
        assert ran.code == 2
        assert f"Got {unknown!r}. Mend the id (007 is not 7)" in ran.err
    # The same person, and a model that was trained where nobody signs up.
    bare = replace(model(), prospects=None, no_prospects="the table customers holds buyers only")
    bundle.save(pack(bare), place / "bare", bundle.make_key(place))
    ran = clv("explain", *about[:-1], place / "bare", "--customer", name)
    assert ran.code == 2
    assert "must know prospects. It does not: the table customers holds buyers only" in ran.err
