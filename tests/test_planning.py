"""Plans from a shop's own tables: sign-ups, spend and values by naive sums, and the command."""

from __future__ import annotations

import tempfile
import tomllib
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import clv

from features import simulate, tables
from features.campaigns import spend
from features.errors import InputError
from features.settings import Settings, parse
from features.spine import instant
from features.store import Store
from serving.decisions import acquisition, planning

NOW = "2026-07-01"


@cache
def shop() -> tuple[dict[str, pd.DataFrame], Settings, Store]:
    made = simulate.shop(1_500, 3.0, 0)
    found = {name: made.tables[name] for name in ("orders", "customers", "spend")}
    found["orders"] = found["orders"][found["orders"]["currency"] == "EUR"]
    settings = parse(tomllib.loads(made.settings))
    return found, settings, Store.of(tables.ingest(found, settings, Path(tempfile.mkdtemp())))


def predictions() -> pd.DataFrame:
    ids = sorted(set(shop()[0]["orders"]["customer_id"]))
    value = np.arange(len(ids)) % 50 + 1.0
    return pd.DataFrame(
        {
            "customer_id": ids, "as_of": NOW, "model_version": "1", "revenue_3m": value,
            "clv_12m": value, "churn_12m": 0.5, "clv_12m_common": 0.1,
        }
    )  # fmt: skip


def test_signups_spend_and_values_are_the_naive_ones() -> None:
    found, settings, store = shop()
    until = instant(NOW, "UTC")
    people = acquisition.signups(store, until)
    table = found["customers"].assign(month=found["customers"]["acquired_at"].dt.strftime("%Y-%m"))
    naive = table.groupby(["acquisition_channel", "month"]).size()
    history = acquisition.spending(spend(found, settings), people, store, until)
    assert len(history) == len(found["spend"])
    for row in history.to_dict("records"):
        assert row["customers"] == naive[row["channel"], row["month"]]
    paid = found["spend"].set_index(["channel", "month"])
    total = paid["amount"] + paid["fees"]
    assert np.allclose(history.set_index(["channel", "month"])["cost"], total, atol=0.005)

    worth = acquisition.values(store, people, predictions(), 12, until, 0.4)
    recent = table[table["acquired_at"] >= "2025-07-01"]
    left = found["orders"]["amount"] - found["orders"]["cost"]
    alias = left.groupby(found["orders"]["customer_id"]).sum()
    ahead = predictions().set_index("customer_id")["clv_12m"]
    own = recent["customer_id"].map(alias).fillna(0)
    own += recent["customer_id"].map(ahead).fillna(0)
    by = own.groupby(recent["acquisition_channel"])
    told = worth.set_index("channel")
    assert np.allclose(told["value"], by.mean()[told.index])
    assert (told["customers"] == by.size()[told.index]).all()
    assert (told["sd"] >= by.std()[told.index] / np.sqrt(told["customers"]) - 1e-9).all()


def test_the_responses_bring_the_customers_that_came() -> None:
    """At the mean spend of a channel the response is the margin of the customers it brought."""
    found, settings, store = shop()
    responses, without = planning.responses_of(found, store, predictions(), settings, 12)
    assert [one.name for one in responses] == ["affiliate", "paid_search", "paid_social",
                                               "referral"]  # fmt: skip
    assert without == []
    assert all(0.3 < one.elasticity <= 1 for one in responses)
    worth = acquisition.values(
        store, acquisition.signups(store, instant(NOW, "UTC")), predictions(), 12,
        instant(NOW, "UTC"), settings.business.margin,
    ).set_index("channel")["value"]  # fmt: skip
    paid = spend(found, settings).groupby("channel")["cost"]
    people = found["customers"].groupby("acquisition_channel").size()
    for one in responses:
        mean = paid.get_group(one.name).mean()
        months = paid.get_group(one.name).size
        assert one.margin(mean) == pytest.approx(people[one.name] / months * worth[one.name],
                                                 rel=0.15)  # fmt: skip


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("desk")
    found, _, _ = shop()
    (folder / "data").mkdir()
    for name, frame in found.items():
        frame.to_csv(folder / "data" / f"{name}.csv", index=False)
    text = simulate._settings(simulate.END, "margin = 0.4")
    (folder / "data" / "clv.toml").write_text(text)
    predictions().to_csv(folder / "p.csv", index=False)
    return folder


def test_plan_splits_what_there_is(desk: Path, tmp_path: Path) -> None:
    words = ("plan", desk / "data", "--predictions", desk / "p.csv", "--out", tmp_path / "plan.csv")
    said = clv(*words, "--budget", 300, "--minimum", "referral=20", "--maximum", "affiliate=40",
               "--discount", 0.1, "--segment", "country=DE", "--json").json  # fmt: skip
    lines = {line["name"]: line for line in said["plan"]["lines"]}
    assert sum(line["spend"] for line in lines.values()) <= 300.0 + 1e-9
    assert lines["referral"]["spend"] >= 20
    assert lines["affiliate"]["spend"] <= 40
    german = shop()[0]["customers"].query("country == 'DE'")["customer_id"]
    assert said["discount"]["customers"] == predictions()["customer_id"].isin(german).sum()
    assert said["discount"]["assumption"].startswith("Assumption, not a prediction")
    written = pd.read_csv(tmp_path / "plan.csv")
    assert written["spend"].tolist() == [line["spend"] for line in lines.values()]
    shown = clv(*words, "--budget", 300).out
    assert "Move money in steps and measure" in shown
    assert "expected gain" in shown


def test_plan_takes_responses_of_the_user(desk: Path, tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text(
        "channel,segment,scale,elasticity\na,new,20,0.5\na,old,10,0.5\n"
    )
    words = ("plan", desk / "data", "--predictions", desk / "p.csv", "--out", tmp_path / "p.xlsx",
             "--responses", tmp_path / "r.csv")  # fmt: skip
    lines = clv(*words, "--budget", 50, "--json").json["plan"]["lines"]
    # Equal last units: spend goes with the square of the scale.
    assert [line["spend"] for line in lines] == [
        pytest.approx(40, abs=0.02),
        pytest.approx(10, abs=0.02),
    ]
    refused = clv(*words, "--budget", 50, "--minimum", "x=1")
    assert (refused.code, "must name a channel: a/new, a/old" in refused.err) == (2, True)
    weak = clv(*words, "--budget", 5_000, "--minimum", "a/old=4000")
    assert (weak.code, "--accept-loss" in weak.err) == (2, True)
    assert clv(*words, "--budget", 5_000, "--minimum", "a/old=4000", "--accept-loss").code == 0
    plain = clv(*words[:-2], "--discount", 0.1, "--segment", "Grow")
    assert (plain.code, "needs the column segment" in plain.err) == (2, True)


def test_tables_that_a_plan_needs_are_asked_for() -> None:
    found, settings, store = shop()
    with pytest.raises(InputError, match="table spend"):
        planning.responses_of({"orders": found["orders"]}, store, predictions(), settings, 12)
    bare = Store.of(tables.ingest(found["orders"], settings, Path(tempfile.mkdtemp())))
    with pytest.raises(InputError, match="must have the column 'acquired_at'"):
        acquisition.signups(bare, instant(NOW, "UTC"))
    few = {**found, "spend": found["spend"].head(3)}
    with pytest.raises(InputError, match=r"At least one channel.*3 months of spend.*--responses"):
        planning.responses_of(few, store, predictions(), settings, 12)
