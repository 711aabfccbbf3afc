"""Lists of prospects: their worth against a simulation, limits per channel against a loop."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import Ran, clv

from serving.decisions import prospects
from training.intervals import total

N = 300  # of whom every third has ordered
KEEP = 2.4


def predictions(n: int = N) -> pd.DataFrame:
    rng = np.random.default_rng(4)
    waits = np.arange(n) % 3 > 0
    churn = np.where(waits, rng.beta(6, 2, n), rng.beta(2, 2, n))
    margin = (1 - churn) * rng.gamma(2, 50, n)
    return pd.DataFrame(
        {
            "customer_id": [f"{k:03d}" for k in range(n)],
            "as_of": "2025-01-01",
            "evidence": np.where(waits, "cold_start", "full"),
            "churn_12m": churn,
            "retention_cost_12m": KEEP,
            "clv_12m": margin - KEEP,
            "clv_12m_low": 0.0,
            "clv_12m_high": margin * 2,
            "clv_12m_sd": margin * 1.2,
            "clv_12m_common": np.where(waits, 0.2, 0.1),
            "model_version": "1",
        }
    )


CHANNEL = np.array(["ads", "mail", "ads", "friends", None], object)[np.arange(N) % 5]
CHANNEL[:24] = "tiny"
CHANNEL[12:24] = "ads"


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("desk")
    data = folder / "data"
    data.mkdir()
    names = predictions()["customer_id"]
    bought = names[::3]
    pd.DataFrame({"customer_id": bought, "order_ts": "2024-06-01", "amount": 10.0}).to_csv(
        data / "orders.csv", index=False
    )
    pd.DataFrame(
        {"customer_id": names, "acquired_at": "2024-05-01", "acquisition_channel": CHANNEL,
         "consent_email": np.where(np.arange(N) % 2, "yes", "no")}
    ).to_csv(data / "customers.csv", index=False)  # fmt: skip
    (data / "clv.toml").write_text("[orders]\ncomplete_until = 2024-12-31\n")
    predictions().to_csv(folder / "p.csv", index=False)
    return folder


def target(desk: Path, out: Path, *words: object, table: str = "p.csv") -> Ran:
    return clv("target", desk / "data", "--predictions", desk / table, "--out", out, *words)


def test_the_worth_of_a_prospect_is_the_mean_of_a_simulation() -> None:
    """Somebody orders with their chance, is then worth what is predicted, and only then kept."""
    made = prospects.valued(predictions(), 12)
    rng = np.random.default_rng(0)
    for row in made.iloc[1:8].to_dict("records"):
        given = (row["clv_12m"] + KEEP) / (1 - row["churn_12m"])
        orders = rng.random(200_000) < row["p_order"]
        worth = np.where(orders, rng.gamma(2, given / 2, 200_000) - KEEP, 0.0)
        error = 4 * worth.std() / math.sqrt(len(worth))
        assert worth.mean() == pytest.approx(row["justified_cost"], abs=error)
        assert worth[orders].mean() == pytest.approx(row["value_if_won"], rel=0.02)
        assert row["justified_cost_if_won"] == row["value_if_won"]
    worthless = predictions().assign(clv_12m=-KEEP)
    lost = prospects.valued(worthless, 12)
    assert (lost[["justified_cost", "justified_cost_if_won"]] == 0).all(axis=None)
    np.testing.assert_allclose(lost["value_if_won"], -KEEP)
    sure = prospects.valued(predictions().assign(churn_12m=1.0, clv_12m=0.0 - KEEP), 12)
    assert np.isfinite(sure[["value_if_won", "justified_cost"]]).all(axis=None)


def test_prospects_are_listed_by_expected_value(desk: Path, tmp_path: Path) -> None:
    ran = target(desk, tmp_path / "l.csv", "--prospects", "--top", 40, "--offer-cost", 3,
                 "--campaign", "P1", "--contacts-out", tmp_path / "c.csv")  # fmt: skip
    assert ran.code == 0, ran.err
    got = pd.read_csv(tmp_path / "l.csv", dtype={"customer_id": str})
    rows = predictions()
    rows = rows[rows["evidence"] == "cold_start"].set_index("customer_id")
    chance = 1 - rows["churn_12m"]
    worth = rows["clv_12m"] + KEEP - chance * KEEP
    best = worth.sort_values(ascending=False).head(40)
    assert got["customer_id"].tolist() == best.index.tolist()
    np.testing.assert_allclose(got["justified_cost"], best, atol=0.006)
    np.testing.assert_allclose(got["gain"], best - 3, atol=0.006)
    np.testing.assert_allclose(got["p_order"], chance[best.index], atol=6e-5)
    want = (best / chance[best.index]).to_numpy()
    np.testing.assert_allclose(got["justified_cost_if_won"], want, atol=0.006)
    known = pd.Series(CHANNEL, predictions()["customer_id"]).fillna("not known")
    assert got["acquisition_channel"].tolist() == known[best.index].tolist()
    assert (got["arm"] == "control").sum() == 4
    assert "100 left out: has ordered already" in ran.out
    assert "only the control group will tell" in ran.out
    contacts = pd.read_csv(tmp_path / "c.csv", dtype={"customer_id": str})
    assert sorted(contacts["customer_id"]) == sorted(best.index)


def test_what_a_channel_may_cost_is_that_of_a_loop(desk: Path, tmp_path: Path) -> None:
    said = target(desk, tmp_path / "l.csv", "--prospects", "--top", 5, "--json").json
    rows = predictions().assign(channel=pd.Series(CHANNEL).fillna("not known"))
    rows = rows[rows["evidence"] == "cold_start"]
    chance = 1 - rows["churn_12m"]
    rows = rows.assign(p=chance, worth=rows["clv_12m"] + KEEP - chance * KEEP)
    want = {}
    for name, some in rows.groupby("channel"):
        if name != "tiny":
            whole = total(some["worth"].to_numpy(), some["clv_12m_sd"].to_numpy(), 0.2)
            want[name] = [len(some), some["p"].mean(), *(end / len(some) for end in whole),
                          some["worth"].sum() / some["p"].sum()]  # fmt: skip
    found = {row["acquisition_channel"]: list(row.values())[1:] for row in said["channels"]}
    assert found.keys() == want.keys() == {"ads", "mail", "friends", "not known"}
    for name, numbers in want.items():
        assert found[name] == pytest.approx(numbers, abs=1e-4)
    costs = [row["justified_cost"] for row in said["channels"]]
    assert costs == sorted(costs, reverse=True)
    assert said["channels_hidden"] == 1
    ran = target(desk, tmp_path / "l.csv", "--prospects", "--top", 5)
    assert "1 channels of fewer than 10 prospects are not told" in ran.out


def test_consent_and_rules_hold_for_prospects_too(desk: Path, tmp_path: Path) -> None:
    words = ("--channel", "email", "--exclude", "acquisition_channel=ads", "--offer-cost", 0)
    ran = target(desk, tmp_path / "l.csv", "--prospects", "--top", 300, *words, "--json")
    got = pd.read_csv(tmp_path / "l.csv", dtype={"customer_id": str})
    k = got["customer_id"].astype(int)
    assert (k % 2 == 1).all()
    assert (k % 3 > 0).all()
    assert "ads" not in set(got["acquisition_channel"])
    assert list(ran.json["left_out"]) == [
        "no consent for email", "acquisition_channel=ads", "has ordered already",
    ]  # fmt: skip


@pytest.mark.parametrize("command", ["target", "winback"])
def test_other_lists_leave_prospects_out(desk: Path, tmp_path: Path, command: str) -> None:
    words = ["--no-test"] if command == "winback" else []
    ran = clv(command, desk / "data", "--predictions", desk / "p.csv", "--top", 300,
              "--offer-cost", 0, "--out", tmp_path / "l.csv", *words)  # fmt: skip
    assert ran.code == 0, ran.err
    got = pd.read_csv(tmp_path / "l.csv", dtype={"customer_id": str})
    assert (got["customer_id"].astype(int) % 3 == 0).all()
    assert "200 left out: no order yet (--prospects lists them)" in ran.out


def test_what_is_missing_is_said(desk: Path, tmp_path: Path) -> None:
    def refused(ran: Ran, words: str) -> None:
        assert ran.code == 2, ran.out
        assert re.search(words, ran.err.splitlines()[-1]), ran.err

    some = predictions()
    some[some["evidence"] == "full"].to_csv(desk / "known.csv", index=False)
    some.drop(columns="evidence").to_csv(desk / "old.csv", index=False)
    for table in ("known.csv", "old.csv"):
        ran = target(desk, tmp_path / "l.csv", "--prospects", "--top", 5, table=table)
        refused(ran, r"Got none. Make them by clv predict DATA --prospects --out FILE.*acquired_at")
    ran = target(desk, tmp_path / "l.csv", "--prospects", "--top", 5, "--uplift", tmp_path)
    refused(ran, r"an uplift model has learned from customers. Got --uplift too")
    assert not (tmp_path / "l.csv").exists()


def test_without_a_channel_column_no_channel_is_told(desk: Path, tmp_path: Path) -> None:
    bare = tmp_path / "data"
    bare.mkdir()
    (bare / "orders.csv").write_bytes((desk / "data" / "orders.csv").read_bytes())
    ran = clv("target", bare, "--predictions", desk / "p.csv", "--prospects", "--top", 5, "--out",
              tmp_path / "l.csv")  # fmt: skip
    assert ran.code == 0, ran.err
    assert "No channels: the table customers has no acquisition_channel" in ran.out
    assert "acquisition_channel" not in pd.read_csv(tmp_path / "l.csv")
