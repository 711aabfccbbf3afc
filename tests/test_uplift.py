"""Uplift: against naive loops, a known truth, and files that were tampered with."""

from __future__ import annotations

import itertools
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import clv, use_home

from features import tables
from features.catalogue import feature_hash
from features.errors import BundleError, InputError
from features.settings import Settings, parse
from features.spine import instant
from features.store import Store
from serving.decisions import uplift
from serving.decisions.uplift import Uplift
from training import bundle

DAY = pd.Timestamp("2024-09-01")
N = 2_400


@cache
def made() -> tuple[Store, pd.DataFrame, pd.Series, pd.Series]:
    """Frequent buyers answer a contact, the others do not: contacts, outcome and true uplift."""
    rng = np.random.default_rng(0)
    ids = [f"{k:05d}" for k in range(N)]
    often = rng.random(N) < 0.4
    count = np.where(often, 8, 2)
    who = np.repeat(np.arange(N), count)
    days = pd.to_timedelta(rng.integers(1, 300, len(who)), "D")
    lines = pd.DataFrame(
        {
            "customer_id": np.array(ids)[who],
            "order_ts": (DAY - days).strftime("%Y-%m-%d"),
            "amount": rng.gamma(4, 5, len(who)).round(2),
        }
    )
    arm = np.where(rng.random(N) < 0.5, "treatment", "control")
    true = np.where(often, 12.0, 0.0)
    outcome = rng.gamma(2, 4, N) + true * (arm == "treatment")
    contacts = pd.DataFrame({"customer_id": ids, "ts": instant("2024-09-01", "UTC"), "arm": arm})
    settings = parse({"orders": {"complete_until": "2024-12-31"}})
    store = Store.of(tables.ingest(lines, settings, Path(tempfile.mkdtemp())))
    return store, contacts, pd.Series(outcome), pd.Series(true)


@cache
def learned() -> Uplift:
    store, contacts, outcome, _ = made()
    return uplift.learn(store, contacts, outcome, campaign="A", kind="margin", days=30,
                        static=(), currency="USD")  # fmt: skip


def table() -> pd.DataFrame:
    return pd.DataFrame({"customer_id": made()[1]["customer_id"], "as_of": "2024-09-01"})


def test_the_curve_is_the_naive_loop() -> None:
    rng = np.random.default_rng(1)
    score, treated = rng.integers(0, 6, 60).astype(float), rng.random(60) < 0.5
    outcome = rng.normal(1, 2, 60) + score * treated
    found = uplift.curve(score, outcome, treated)
    points = [(0.0, 0.0)]
    for level in sorted(set(score), reverse=True):
        top = score >= level
        difference = outcome[top & treated].mean() - outcome[top & ~treated].mean()
        points.append((top.mean(), difference * top.mean()))
    assert np.allclose(list(zip(found.share, found.gained, strict=True)), points)
    area = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(points))
    assert found.auuc == pytest.approx(area)
    assert found.qini == pytest.approx(area - points[-1][1] / 2)


def test_a_perfect_ranking_beats_its_reverse_and_chance_is_zero() -> None:
    rng = np.random.default_rng(2)
    true, treated = rng.uniform(-1, 3, 20_000), rng.random(20_000) < 0.3
    outcome = true * treated + rng.normal(0, 1, 20_000)
    perfect, reverse = (uplift.curve(s * true, outcome, treated).qini for s in (1, -1))
    # Uniform of width w, contacted from the top: the gain lies w q (1 - q) / 2 above chance.
    assert perfect == pytest.approx(4 / 12, abs=0.03)
    assert reverse == pytest.approx(-4 / 12, abs=0.03)
    assert uplift.curve(rng.random(20_000), outcome, treated).qini == pytest.approx(0, abs=0.03)


def test_who_answers_is_found_and_the_level_is_right() -> None:
    store, _, _, true = made()
    model = learned()
    assert model.telling
    assert model.slope[0] == pytest.approx(1.0, abs=0.25)
    assert model.qini > 1.0  # the best possible: 12 x 0.4 x 0.6 / 2 = 1.44
    frame, gain = uplift.uplifted(model, table(), store)
    assert np.corrcoef(frame["uplift"], true)[0, 1] > 0.9
    assert gain.value.mean() == pytest.approx(true.mean(), abs=0.6)
    top = np.argsort(-gain.value)[:500]
    assert gain.whole is not None
    reach = gain.whole(top)
    assert abs(gain.value[top].sum() - true.iloc[top].sum()) < 3 * reach
    assert 0 < reach < 0.1 * gain.value[top].sum()


def test_noise_tells_that_it_is_noise() -> None:
    """Where a contact changes nobody more than others, the 80 % interval of the slope holds 0."""
    store, contacts, _, _ = made()
    telling = 0
    for seed in range(2):
        rng = np.random.default_rng(100 + seed)
        flat = pd.Series(rng.gamma(2, 4, N) + 2.0 * (contacts["arm"] == "treatment"))
        model = uplift.learn(store, contacts, flat, campaign="A", kind="margin", days=30,
                             static=(), currency="USD")  # fmt: skip
        telling += model.telling
        assert model.line[0] == pytest.approx(2.0, abs=0.7)
    assert telling <= 1


def test_rows_in_any_order_give_the_same_model() -> None:
    store, contacts, outcome, _ = made()
    order = np.random.default_rng(3).permutation(N)
    again = uplift.learn(
        store, contacts.iloc[order].reset_index(drop=True),
        outcome.iloc[order].reset_index(drop=True), campaign="A", kind="margin", days=30,
        static=(), currency="USD",
    )  # fmt: skip
    assert again == learned()


def test_it_travels_sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_home(monkeypatch, tmp_path / "home")
    folder = tmp_path / "up"
    uplift.save(learned(), folder)
    assert uplift.load(folder) == learned()
    assert sorted(p.name for p in folder.iterdir()) == [
        "card.json", "golden.json", "manifest.json", "uplift.ubj",
    ]  # fmt: skip
    raw = bytearray((folder / "uplift.ubj").read_bytes())
    raw[len(raw) // 2] ^= 1
    (folder / "uplift.ubj").write_bytes(raw)
    with pytest.raises(BundleError, match=r"other bytes in uplift\.ubj"):
        uplift.load(folder)
    with pytest.raises(InputError, match="new or empty"):
        uplift.save(learned(), folder)


def test_another_model_is_no_uplift_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_home(monkeypatch, tmp_path / "home")
    parts = bundle.Parts({"feature_hash": feature_hash()}, {"value.ubj": learned().raw}, {})
    bundle.save(parts, tmp_path / "model", bundle.make_key(tmp_path / "home"))
    with pytest.raises(BundleError, match="must hold an uplift model"):
        uplift.load(tmp_path / "model")


def test_what_cannot_teach_is_refused() -> None:
    store, contacts, outcome, _ = made()
    how = {"campaign": "A", "kind": "margin", "days": 30, "static": (), "currency": "USD"}
    with pytest.raises(InputError, match="needs 200 customers with an order before"):
        uplift.learn(store, contacts.head(300), outcome.head(300), **how)
    spread = contacts.assign(ts=contacts["ts"] - np.arange(N) % 60 * 86_400_000_000)
    with pytest.raises(InputError, match=r"on 31 days or fewer. Got 60"):
        uplift.learn(store, spread, outcome, **how)
    with pytest.raises(InputError, match="must be a model of margin"):
        uplift.uplifted(replace(learned(), outcome="orders"), table(), store)
    assert Settings().customers.static


def test_the_commands_fit_a_model_and_rank_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frequent buyers answer a contact with an order; the list then holds them and nobody else."""
    use_home(monkeypatch, tmp_path / "home")
    rng = np.random.default_rng(0)
    n = 1_200
    ids, often = np.array([f"{k:05d}" for k in range(n)]), rng.random(n) < 0.4
    who = np.repeat(np.arange(n), np.where(often, 8, 2))
    days = pd.to_timedelta(rng.integers(1, 300, len(who)), "D")
    past = pd.DataFrame({"customer_id": ids[who], "order_ts": (DAY - days).strftime("%Y-%m-%d"),
                         "amount": 20.0})  # fmt: skip
    arm = np.where(rng.random(n) < 0.5, "treatment", "control")
    answer = often & (arm == "treatment") & (rng.random(n) < 0.8)
    after = pd.DataFrame({"customer_id": ids[answer], "order_ts": "2024-09-10", "amount": 30.0})
    data = tmp_path / "data"
    data.mkdir()
    pd.concat([past, after]).to_csv(data / "orders.csv", index=False)
    contacts = pd.DataFrame({"campaign_id": "A", "customer_id": ids, "ts": "2024-09-01",
                             "arm": arm})  # fmt: skip
    contacts.to_csv(data / "contacts.csv", index=False)
    (data / "clv.toml").write_text("[orders]\ncomplete_until = 2024-12-31\n")
    predicted = pd.DataFrame({"customer_id": ids, "as_of": "2024-09-01", "model_version": "1",
                              "clv_12m": 10.0, "churn_12m": 0.5})  # fmt: skip
    predicted.to_csv(tmp_path / "p.csv", index=False)

    measure = ("measure", data, "--campaign", "A", "--days", 30)
    said = clv(*measure, "--fit-uplift", tmp_path / "up", "--json").json
    assert said["uplift"]["telling"] is True
    assert said["effects"][0]["effect"] == pytest.approx(0.4 * 0.8 * 30, rel=0.2)
    words = ("target", data, "--predictions", tmp_path / "p.csv", "--offer-cost", 3, "--top", 300,
             "--uplift", tmp_path / "up", "--out", tmp_path / "l.csv")  # fmt: skip
    ran = clv(*words)
    assert "by the uplift measured in campaign A" in ran.out
    assert "within 30 days" in ran.out
    listed = pd.read_csv(tmp_path / "l.csv", dtype={"customer_id": str})
    assert often[listed["customer_id"].astype(int)].mean() > 0.97
    # What 270 treated bring: 0.8 x 30 less the cost of 3 for each.
    made = clv(*words, "--json").json
    assert made["expected_gain"] == pytest.approx(270 * 21, rel=0.15)
    assert made["expected_gain_low"] < made["expected_gain"] < made["expected_gain_high"]
    plain = clv("measure", tmp_path / "p.csv", "--arm", "as_of", "--control", "x", "--outcome",
                "clv_12m", "--fit-uplift", tmp_path / "no")  # fmt: skip
    assert (plain.code, "--fit-uplift needs orders and the table" in plain.err) == (2, True)
