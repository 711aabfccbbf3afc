"""The search for how trees learn: D4."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import fitted
import numpy as np
import pandas as pd
import pytest
from conftest import clv, new_home, use_home
from fitted import KNOWN, ZONE
from sklearn.metrics import log_loss, mean_tweedie_deviance

from features.errors import InputError
from features.settings import Trees, parse
from features.spine import instant, months_between
from training import rehearsal, tuning
from training.members import Booster, Problem
from training.runs import Trial
from training.tuning import tune

SETTINGS = fitted.settings(model={"thin_below": 0, "origins": 2, "max_rows": 1_000})


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_home(monkeypatch, tmp_path / "home")
    return tmp_path / "home"


@pytest.fixture(scope="module")
def folds() -> list[Any]:
    test = rehearsal.latest_test(fitted.store().first_ts, KNOWN, 12, ZONE)
    assert test is not None
    return tuning._folds(fitted.store(), test[0], 12, SETTINGS, 1, None)


@pytest.fixture
def ready(monkeypatch: pytest.MonkeyPatch, folds: list[Any]) -> list[Trees]:
    """Folds made once for all tests, and losses that are counted."""
    tried: list[Trees] = []
    real = tuning._losses

    def losses(given: Any, trees: Trees, seed: int) -> Any:
        tried.append(trees)
        return real(given, trees, seed)

    monkeypatch.setattr(tuning, "_folds", lambda *_: folds[:1])
    monkeypatch.setattr(tuning, "_losses", losses)
    return tried


def searched(trials: int, seed: int = 0, settings: Any = SETTINGS) -> tuning.Tuned:
    return tune(fitted.store(), KNOWN, 12, settings, trials, seed=seed)


def test_the_trees_are_what_they_were_without_a_search():
    """Models without tuning stay as they were, bit for bit: the very parameters."""
    from training.members import _params

    assert _params("value", Trees()) == {
        "tree_method": "hist", "eta": 0.1, "max_depth": 3, "min_child_weight": 5, "subsample": 0.5,
        "colsample_bytree": 0.4, "reg_lambda": 20.0, "verbosity": 0,
        "objective": "reg:tweedie", "tweedie_variance_power": 1.5, "base_score": 1.0,
    }  # fmt: skip
    assert _params("churn", Trees())["objective"] == "binary:logistic"
    assert parse({"model": {"trees": {"eta": 0.2}}}).model.trees == Trees(eta=0.2)
    with pytest.raises(InputError, match=r"model.trees.power"):
        parse({"model": {"trees": {"power": 2.5}}})


def test_nothing_from_the_tests_cutoff_on_is_seen(home: Path):
    """Rows after it are poisoned: other amounts, other customers, others gone."""
    t = rehearsal.latest_test(fitted.store().first_ts, KNOWN, 12, ZONE)
    assert t == (instant("2023-07-01", ZONE), 12)
    tables = dict(fitted.shop(250))
    whole = fitted.ingest(tables, SETTINGS)
    orders = tables["orders"]
    after = orders["order_ts"] >= "2023-07-01"
    poisoned = orders[after].iloc[::2].assign(amount=lambda o: o["amount"].abs() * 1_000 + 7)
    poisoned["customer_id"] = poisoned["customer_id"].to_numpy()[::-1]
    strangers = poisoned.iloc[:50].assign(customer_id=[f"new{k}" for k in range(50)])
    tables["orders"] = pd.concat([orders[~after], poisoned, strangers], ignore_index=True)
    other = fitted.ingest(tables, SETTINGS)
    assert other.fingerprint != whole.fingerprint
    found = [tune(store, KNOWN, 12, SETTINGS, 2) for store in (whole, other)]
    assert found[0] == found[1]
    # While a row before it does count.
    tables["orders"] = orders.assign(
        amount=orders["amount"].where(after, orders["amount"] * 1.5 + 3)
    )
    assert tune(fitted.ingest(tables, SETTINGS), KNOWN, 12, SETTINGS, 2) != found[0]


def test_folds_are_rehearsals_before_the_test(folds: list[Any], monkeypatch: pytest.MonkeyPatch):
    """Fitted before each origin, judged on the months after it, and built once for all trials."""
    t = instant("2023-07-01", ZONE)
    built: list[tuple[int, int]] = []
    real = tuning.prepare

    def prepare(store: Any, cutoff: int, months: int, *rest: Any, **more: Any) -> Any:
        built.append((cutoff, months))
        return real(store, cutoff, months, *rest, **more)

    monkeypatch.setattr(tuning, "prepare", prepare)
    found = tuning._folds(fitted.store().until(t), t, 12, SETTINGS, 1, None)
    assert built == list(rehearsal.plan(fitted.store().first_ts, t, 12, ZONE))
    assert len(found) == len(built) == 3
    for (cutoff, months), fold in zip(built, found, strict=True):
        assert months_between(cutoff, t, ZONE) >= months
        assert [p.kind for p in fold.learned] == [p.kind for p in fold.judged] == ["value", "churn"]
        # One row for each customer with an order before the origin, with the label of what came.
        orders = fitted.shop()["orders"]
        start = pd.Timestamp(cutoff, unit="us")
        end = start + pd.DateOffset(months=months)
        sales = orders[orders["amount"] > 0]
        known = set(sales.loc[sales["order_ts"] < start, "customer_id"])
        came = sales[(sales["order_ts"] >= start) & (sales["order_ts"] < end)]
        churned = 1 - len(known & set(came["customer_id"])) / len(known)
        assert len(fold.judged[1].target) == len(known)
        assert fold.judged[1].target.mean() == pytest.approx(churned)


def test_the_same_seed_gives_the_same_trials(home: Path, ready: list[Trees], tmp_path, monkeypatch):
    first = searched(4)
    assert [trial.number for trial in first.trials] == [0, 1, 2, 3]
    assert len({str(trial.params) for trial in first.trials}) == 4
    use_home(monkeypatch, tmp_path / "elsewhere")
    assert searched(4) == first
    assert searched(4, seed=1).trials[1].params != first.trials[1].params


def test_a_killed_search_goes_on(home: Path, ready: list[Trees], tmp_path, monkeypatch):
    whole = searched(5)
    use_home(monkeypatch, tmp_path / "elsewhere")
    ready.clear()
    counted = tuning._losses

    def killed(folds: Any, trees: Trees, seed: int) -> Any:
        if len(ready) == 3:
            raise KeyboardInterrupt
        return counted(folds, trees, seed)

    monkeypatch.setattr(tuning, "_losses", killed)
    with pytest.raises(KeyboardInterrupt):
        searched(5)
    monkeypatch.setattr(tuning, "_losses", counted)
    ready.clear()
    assert searched(5) == whole
    assert len(ready) == 2
    # A search that is done is only read; a longer one goes on, a shorter one is its beginning.
    ready.clear()
    assert searched(5) == whole
    assert searched(3).trials == whole.trials[:3]
    assert ready == []
    assert searched(6).trials[:5] == whole.trials
    assert len(ready) == 1


def test_the_first_trial_is_what_there_was(home: Path, ready: list[Trees]):
    own = Trees(reg_lambda=500.0, max_depth=1)  # beyond what is searched
    settings = replace(SETTINGS, model=replace(SETTINGS.model, trees=own))
    found = searched(2, settings=settings)
    assert ready[0] == own
    assert found.trials[0].params == asdict(own)
    assert set(found.trials[0].scores.values()) == {1.0}
    best = found.trials[found.chosen]
    assert found.settings.model.trees == Trees(**best.params)
    assert replace(found.settings, model=SETTINGS.model) == SETTINGS


def test_scores_are_losses_over_those_of_the_first(
    home: Path, ready: list[Trees], folds: list[Any], monkeypatch: pytest.MonkeyPatch
):
    """Recomputed fold by fold with scikit-learn."""
    monkeypatch.setattr(tuning, "_folds", lambda *_: folds[:2])
    found = searched(2)

    def losses(trees: Trees) -> np.ndarray[Any, Any]:
        rows = []
        for fold in folds[:2]:
            (value, churn), came = fold.learned, fold.judged
            money = came[0].margin + Booster.fit(value, 0, trees).correction(came[0].X)
            odds = came[1].margin + Booster.fit(churn, 0, trees).correction(came[1].X)
            rows.append([
                mean_tweedie_deviance(came[0].target, np.exp(money), power=1.5),
                log_loss(came[1].target, 1 / (1 + np.exp(-odds))),
            ])  # fmt: skip
        return np.array(rows)

    over = losses(Trees(**found.trials[1].params)) / losses(Trees())
    scores = found.trials[1].scores
    assert scores["score"] == pytest.approx(over.mean(), rel=1e-9)
    assert scores["value_deviance"] == pytest.approx(over[:, 0].mean(), rel=1e-9)
    assert scores["churn_log_loss"] == pytest.approx(over[:, 1].mean(), rel=1e-9)
    assert scores["score_fold_2"] == pytest.approx(over[1].mean(), rel=1e-9)


def test_settings_are_chosen_that_are_better_on_every_fold():
    def trial(number: int, *folds: float) -> Trial:
        scores = {f"score_fold_{k + 1}": v for k, v in enumerate(folds)}
        return Trial(number, {}, {"score": float(np.mean(folds)), **scores})

    first = trial(0, 1.0, 1.0)
    assert (
        tuning._choice([first, trial(1, 0.8, 1.01), trial(2, 0.99, 0.98), trial(3, 0.97, 0.98)])
        == 3
    )
    assert tuning._choice([first, trial(1, 0.5, 1.0)]) == 0
    assert tuning._choice([first]) == 0


def test_a_known_better_setting_is_found(home: Path, monkeypatch: pytest.MonkeyPatch):
    """Rows whose truth is a deep interaction: trees of depth 1 cannot tell it."""
    rng = np.random.default_rng(1)

    def problems(n: int) -> tuple[Problem, ...]:
        X = rng.random((n, 3))
        effect = np.where((X[:, 0] > 0.5) == (X[:, 1] > 0.5), 1.5, -1.5)
        one, fold = np.ones(n), np.arange(n) % 5
        value = rng.poisson(np.exp(effect)).astype(np.float64)
        churned = (rng.random(n) < 1 / (1 + np.exp(-effect))).astype(np.float64)
        return (Problem("value", X, value, 0 * one, one, fold),
                Problem("churn", X, churned, 0 * one, one, fold))  # fmt: skip

    made = [tuning._Fold(problems(1_500), problems(1_500)) for _ in range(2)]
    monkeypatch.setattr(tuning, "_folds", lambda *_: made)
    poor = replace(SETTINGS, model=replace(SETTINGS.model, trees=Trees(max_depth=1)))
    found = searched(6, settings=poor)
    assert found.settings.model.trees.max_depth > 1
    assert found.trials[found.chosen].scores["score"] < 0.9


# What is refused


def test_without_optuna_the_cure_is_told(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match="pip install 'optuna"):
        searched(2)
    assert not home.exists()


@pytest.mark.parametrize("model", [{"objective": "btyd"}, {"thin_below": 1_000_000}])
def test_without_trees_there_is_nothing_to_tune(home: Path, model: dict[str, Any]):
    few = fitted.settings(model={"origins": 1, "max_rows": 1_000, **model})
    with pytest.raises(InputError, match="without --tune"):
        searched(2, settings=few)


def test_a_short_history_is_refused(home: Path):
    early = instant("2022-04-01", ZONE)
    with pytest.raises(InputError, match="Give a longer history"):
        tune(fitted.store().until(early), early, 12, SETTINGS, 2)


def test_a_damaged_file_of_searches_is_told(home: Path, ready: list[Trees]):
    home.mkdir()
    (home / tuning.FILE).write_bytes(b"no database" * 1_000)
    with pytest.raises(InputError, match=r"tuning\.db must be usable"):
        searched(2)


# From the command to MLflow


def test_train_logs_each_trial_below_its_run(tmp_path: Path, migrated: Path, monkeypatch):
    from conftest import SETTINGS as TOML
    from conftest import few_draws, small_shop
    from mlflow.tracking import MlflowClient

    from serving import load
    from training import registry

    home, data = new_home(tmp_path / "home", migrated), tmp_path / "data"
    data.mkdir()
    orders, customers = small_shop()
    orders.to_parquet(data / "orders.parquet")
    customers.to_parquet(data / "customers.parquet")
    (data / "clv.toml").write_text(TOML)
    use_home(monkeypatch, home)
    few_draws(monkeypatch)
    # The choice is known without a lucky setting.
    monkeypatch.setattr(tuning, "_choice", lambda trials: len(trials) - 1)
    ran = clv("train", data, "--tune", 2, "--workers", 1)
    assert ran.code == 0, ran.err
    assert "Tuned: trial 1 of 2 chosen" in ran.out
    assert "tuning: done" in ran.err
    client = MlflowClient(registry.tracking_uri())
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    version = registry.find()
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {version.run_id}
    assert sorted(run.info.run_name for run in children) == ["trial 0", "trial 1"]
    assert {run.info.status for run in children} == {"FINISHED"}
    last = next(run for run in children if run.info.run_name == "trial 1")
    assert last.data.metrics["score"] > 0
    # The model was made with its settings, and they travel with it.
    trees = {name: float(value) for name, value in last.data.params.items()}
    assert asdict(load().model.settings.model.trees) == trees != asdict(Trees())
