"""Retraining meets the gate: what is better passes, what is broken is refused by name."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import clv, few_draws, new_home, use_home

import training.fitting
from features.settings import Settings, parse
from features.simulate import bench
from training import registry, train
from training.model import Model
from training.run import Trained

AS_OF, LATER = "2025-07-01", "2025-08-01"


def settings(objective: str) -> Settings:
    return parse(
        {
            "horizons": {"months": [12]},
            "orders": {"complete_until": "2026-06-28"},
            "model": {"origins": 2, "max_rows": 1_000, "thin_below": 0, "objective": objective},
        }
    )


@pytest.fixture(scope="module")
def orders() -> pd.DataFrame:
    return bench(800, 4).tables["orders"]


@pytest.fixture(scope="module")
def first(
    tmp_path_factory: pytest.TempPathFactory, migrated: Path, orders: pd.DataFrame
) -> Iterator[Path]:
    """A home whose champion is the bare forecast."""
    home = new_home(tmp_path_factory.mktemp("retrain") / "home", migrated)
    with pytest.MonkeyPatch.context() as patch:
        use_home(patch, home)
        few_draws(patch)
        patch.chdir(home)
        done = train({"orders": orders}, as_of=AS_OF, settings=settings("btyd"), workers=1)
        assert done.verdict is not None
        assert done.verdict.champion is None
        assert done.verdict.passed
        assert done.version.aliases == ("champion",)
        yield home


def again(orders: pd.DataFrame, objective: str = "anchored", as_of: str = AS_OF) -> Trained:
    return train({"orders": orders}, as_of=as_of, settings=settings(objective), workers=1)


def failed(done: Trained) -> set[str]:
    assert done.verdict is not None
    assert not done.verdict.passed
    assert done.version.gate == "refused"
    assert done.version.aliases == ("challenger",)
    return {line.name for line in done.verdict.failed}


def test_shuffled_labels_are_refused(first, orders, monkeypatch):
    collect = training.fitting.collect

    def shuffled(*args: Any, **options: Any) -> Any:
        samples = collect(*args, **options)
        order = np.random.default_rng(0).permutation(len(samples))
        mixed = {name: getattr(samples, name)[order] for name in ("gross", "refunds", "churned")}
        return replace(samples, **mixed)

    monkeypatch.setattr("training.fitting.collect", shuffled)
    done = again(orders)
    assert "better than champion" in failed(done)
    ran = clv("promote", str(done.version.number))
    assert ran.code == 3
    assert "better than champion" in ran.err
    assert registry.champion().number == 1
    forced = clv("promote", str(done.version.number), "--force", "a trial")
    assert forced.code == 0
    assert '"force": "a trial"' in (first / "audit.jsonl").read_text()
    registry.rollback("back to what works")
    assert registry.champion().number == 1


def test_everything_scaled_by_1_3_is_refused(first, orders, monkeypatch):
    corrected = Model.corrected

    def scaled(*args: Any, **options: Any) -> Model:
        model = corrected(*args, **options)
        level = model.levels[0] + math.log(1.3) * bool(model.members)
        return replace(model, levels=(level, model.levels[1]))

    monkeypatch.setattr(Model, "corrected", scaled)
    assert {"bias", "bias against rival"} & failed(again(orders))


def test_a_champion_that_cannot_be_read_lets_nothing_pass(first, orders, monkeypatch):
    monkeypatch.setattr("training.run._stored", lambda version: None)
    # The bare forecast is no better than the best baseline, which is nearly the same.
    assert "better than best baseline" in failed(again(orders, "btyd"))


def test_one_that_knows_the_future_is_refused(first, orders, monkeypatch):
    """Its judged predictions are what really happened, and a little noise."""
    from training import backtest

    judged = backtest._judged

    def leaking(*args: Any, **options: Any) -> Any:
        test = judged(*args, **options)
        noise = np.random.default_rng(1).normal(1.0, 0.01, len(test.actual))
        values = {**test.values, test.ours: test.actual * noise}
        churn = {**test.churn, test.ours: np.clip(test.churned, 0.01, 0.99)}
        return replace(test, values=values, churn=churn)

    monkeypatch.setattr("training.backtest._judged", leaking)
    assert {"leak in value", "leak in churn"} <= failed(again(orders))


def test_the_same_recipe_on_the_same_data_is_nothing_new(first, orders):
    done = again(orders, "btyd")
    assert "better than champion" in failed(done)
    assert "same predictions" in done.verdict.reason


def test_the_same_recipe_on_newer_data_renews_the_champion(first, orders):
    done = again(orders, "btyd", LATER)
    assert done.verdict is not None
    assert done.verdict.renewal
    names = {line.name for line in done.verdict.lines}
    assert {"renewal", "not worse than best baseline"} <= names
    assert "better than champion" not in names
    told = registry.find(done.version.number)
    assert told.gate == done.verdict.status


def test_a_champion_that_saw_nothing_of_the_window_is_judged_itself(
    tmp_path, migrated, orders, monkeypatch
):
    use_home(monkeypatch, new_home(tmp_path / "home", migrated))
    few_draws(monkeypatch)
    monkeypatch.chdir(tmp_path)
    old = again(orders, "btyd", "2023-09-01")
    new = again(orders, "btyd", "2025-09-01")
    assert new.verdict is not None
    assert not new.verdict.renewal
    assert new.verdict.champion == f"champion {old.version.number}"
    assert new.test is not None
    assert new.test.cutoff == "2024-09-01"
    said = new.test.values["champion 1"]
    assert not np.array_equal(said, new.test.values[new.test.ours])
