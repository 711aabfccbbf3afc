"""A8: a model reads features of events, and they are worth it; and their names are safe."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path

import fitted
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from bench.events import CUTOFF, shuffled
from conftest import clv, same_bits, use_home

from features import catalogue, simulate
from features.behaviour import build
from features.catalogue import Vocabulary
from features.engagement import slugs
from features.errors import BundleError, InputError
from features.settings import Settings, parse
from features.spine import DAY, Cutoffs, instant
from features.store import Store
from serving.export import dictionary
from serving.loader import Loaded, load
from training import bundle, leaderboard
from training.fitting import Fitted, fit, prepare
from training.packing import pack
from training.samples import gather

AS_OF = instant(CUTOFF, "UTC")


@cache
def shop() -> simulate.Shop:
    return simulate.shop(1_200, 2.5, seed=3)


@cache
def settings() -> Settings:
    few = {"origins": 3, "thin_below": 100, "max_rows": 2_000}
    return parse({**tomllib.loads(shop().settings), "model": few, "horizons": {"months": [12]}})


@cache
def data(events: str) -> dict[str, pd.DataFrame]:
    """The shop without customers' attributes, with "own" events, "others'" or "none"."""
    found = {name: shop().tables[name] for name in ("orders", "rates", "aliases")}
    own = shop().tables["events"]
    return (
        found | {"own": {"events": own}, "others'": {"events": shuffled(own)}, "none": {}}[events]
    )


@cache
def ingested(events: str) -> Store:
    return fitted.ingest(data(events), settings())


@cache
def trained(events: str, seed: int = 0) -> tuple[Store, Fitted]:
    store = ingested(events)
    return store, fit(store, AS_OF, 12, settings(), seed=seed)


@cache
def answers(events: str, seed: int) -> tuple[np.ndarray, ...]:
    """Real value and churn of the year after `CUTOFF`, and those predicted."""
    store, made = trained(events, seed)
    rows, labels = gather(store, made.catalogue, AS_OF, "UTC", 1.0, [12])
    found = made.model.predict(rows, AS_OF, [12])
    return labels[12].net, labels[12].churned, found.revenue(12), found.churn[:, 0].copy()


def gained(events: str, seed: int) -> pd.DataFrame:
    """By metric, predictions with events against those without: difference and verdict."""
    value, churned, *ours = answers(events, seed)
    pairs = [(value, "normalised_gini", 2), (churned, "auroc", 3), (churned, "brier", 3)]
    found = []
    for actual, metric, column in pairs:
        both = {"with": ours[column - 2], "without": answers("none", seed)[column]}
        found.append(leaderboard.compare(actual, both, "with", metrics=(metric,), draws=100))
    return pd.concat(found).set_index("metric")


def test_events_make_predictions_better_and_noise_does_not_harm():
    """Fits with columns of noise differ from those without by chance: three tell them apart."""
    own = gained("own", 0)
    assert set(own["verdict"]) == {"better"}
    noise = sum(gained("others'", seed)["difference"] for seed in range(3)) / 3
    harm = noise * own["difference"].map(np.sign)
    assert (harm > -0.1 * own["difference"].abs()).all()


def test_the_vocabulary_comes_from_before_the_newest_origin():
    made = trained("own")[1]
    words = made.catalogue.vocabulary
    assert set(words.events) == set(shop().tables["events"]["kind"])
    assert words.valued == tuple(k for k in words.events if k in ("loyalty_points", "survey"))
    assert {"visit_count_90d", "days_since_visit"} <= set(made.model.columns)
    assert trained("none")[1].catalogue.vocabulary.events == ()


def began_late() -> dict[str, pd.DataFrame]:
    """Visits of an app from between the first origin and the newest one on; others after all."""
    events = shop().tables["events"].copy()
    visit = events["kind"] == "visit"
    first, newest, later = (AS_OF - days * DAY for days in (300, 90, 0))
    when = events["ts"].astype("datetime64[us]").astype("int64")
    events.loc[visit & (when >= newest) & (events.index % 2 == 0), "kind"] = "app"
    events.loc[visit & (when >= later) & (events.index % 2 == 1), "kind"] = "kiosk"
    assert set(events["kind"][when < first]) == set(shop().tables["events"]["kind"])
    return {**data("own"), "events": events}


def test_what_a_shop_began_to_track_late_is_learned_from():
    """Before the newest origin, and so long after the first: a judged model knows no later kind."""
    store = fitted.ingest(began_late(), settings())
    made = prepare(store, AS_OF, 12, settings())
    origins = made.bare.origins
    assert origins[0].cutoff < AS_OF - 300 * DAY < AS_OF - 90 * DAY < origins[-1].cutoff
    assert "app" in made.catalogue.vocabulary.events
    assert {"app_count_90d", "days_since_app"} <= set(made.bare.columns)
    assert "kiosk" not in made.catalogue.vocabulary.events
    older = made.samples.origin < len(origins) - 1
    column = made.samples.features[:, made.catalogue.names.index("app_count_90d")]
    assert (column[older] == 0).all()
    assert (column[~older] > 0).any()
    # A year later it is history, and the model of then knows it.
    later = prepare(store, store.coverage_end, 3, settings())
    assert {"app", "kiosk"} <= set(later.catalogue.vocabulary.events)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    model = trained("own")[1].model
    bundle.save(pack(model), home / "bundle", bundle.make_key(home))
    return home / "bundle"


@pytest.fixture
def loaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Loaded:
    use_home(monkeypatch, folder.parent)
    return load(folder)


def test_a_loaded_model_predicts_frames_of_all_and_of_one(loaded):
    store, made = trained("own")
    assert loaded.model.vocabulary == made.catalogue.vocabulary
    told = loaded.predict(data("own"), CUTOFF)
    rows = build(store.bucket(0), Cutoffs.at([AS_OF], "UTC"), made.catalogue)
    expected = made.model.table(rows, AS_OF, (12,), loaded.version)
    pd.testing.assert_frame_equal(told, expected, check_exact=True)
    alias = set(data("own")["aliases"]["customer_id"])
    some = [c for c in told["customer_id"] if c not in alias][:: len(told) // 4]
    for customer in some:
        mine = {
            name: frame[frame["customer_id"] == customer]
            for name, frame in data("own").items() if name in ("orders", "events")
        } | {"rates": data("own")["rates"]}  # fmt: skip
        # Coverage of one customer's orders ends with them: as_of is given, later events are cut.
        late = pd.DataFrame({"customer_id": [customer], "order_ts": ["2026-06-30"], "amount": [1]})
        mine["orders"] = pd.concat([mine["orders"], late.astype({"amount": float})])
        alone = loaded.predict(mine, CUTOFF)
        here = told[told["customer_id"] == customer].reset_index(drop=True)
        pd.testing.assert_frame_equal(alone, here, check_exact=True)
    with pytest.raises(InputError, match="must hold the table events"):
        loaded.predict(data("none"), CUTOFF)


def test_features_and_dictionary_of_a_model(loaded, folder, tmp_path):
    store, made = trained("own")
    entries = {entry["name"]: entry for entry in dictionary(str(folder))}
    assert list(entries) == list(made.catalogue.names)
    assert entries["survey_mean_365d"] == {
        "name": "survey_mean_365d", "family": "behaviour beyond orders", "unit": "as given",
        "formula": "(survey.values[365] / survey.valued[365]) / 1000",
        "meaning": "mean value of events of kind survey in the last 365 days",
    }  # fmt: skip
    told = clv("features", "--dictionary", "--model", folder)
    assert told.code == 0
    assert "BEHAVIOUR BEYOND ORDERS" in told.out
    assert "visit_count_90d (events): events of kind visit in the last 90 days" in told.out
    place = tmp_path / "shop"
    simulate.write(simulate.Shop(data("own"), {}, shop().settings), place)
    out = tmp_path / "features.parquet"
    ran = clv("features", place, "--as-of", CUTOFF, "--model", folder, "--out", out, "--json")
    assert ran.code == 0, ran.err
    rows = build(store.bucket(0), Cutoffs.at([AS_OF], "UTC"), made.catalogue)
    written = pq.read_table(out).to_pandas()
    assert same_bits(written[list(made.catalogue.names)].to_numpy(), rows.values)


def test_a_model_of_other_definitions_is_refused(folder, loaded, monkeypatch):
    """B5."""
    monkeypatch.setattr(catalogue.windows, "EVENT_PARTS", ("[31]",))
    with pytest.raises(BundleError, match="events_hash"):
        load(folder)


def test_check_tells_of_events(tmp_path):
    (tmp_path / "orders.csv").write_text("customer_id,order_ts,amount\na,2024-01-05,5\n")
    (tmp_path / "events.csv").write_text(
        "customer_id,ts,kind,value\na,2024-01-02,visit,\na,x,visit,\na,2024-01-03,visit,y\n"
    )
    told = clv("check", tmp_path)
    assert told.code == 0
    assert "Events in 3 = kept 2 + refused 1" in told.out
    assert "event_unreadable_time: 1 rows (33.33%) refused" in told.out
    assert "events.csv line 3, ts: x" in told.out
    found = clv("check", tmp_path, "--json").json
    assert (found["events_in"], found["events_kept"]) == (3, 2)
    assert {r["name"]: r["table"] for r in found["rules"]} == {
        "event_unreadable_time": "events", "event_unreadable_value": "events",
    }  # fmt: skip
    strict = clv("check", tmp_path, "--strict", "--quarantine", tmp_path / "aside.csv")
    assert strict.code == 2
    assert "Refused were 1 of 4" in strict.err
    assert (tmp_path / "aside.csv").read_text().count("\n") == 2


def test_names_are_safe_and_never_stand_twice():
    kinds = ["refund", "order", "Order!", "event", "events", "visit", "VISIT ", "visit_2", "é-mail",
             "", "!!", "a" * 99, "a" * 98, "spend", "1", "customer_x"]  # fmt: skip
    about = (("x_count", None), ("x_count_30d", None))
    words = catalogue.catalogue(Vocabulary(("web",), ("c",), about, tuple(kinds), tuple(kinds)))
    assert len(set(words.names)) == len(words.names)
    names = slugs(kinds, [])
    assert len(set(names)) == len(kinds)
    assert all(name.isidentifier() and len(name) <= 43 for name in names)
    assert names[5:9] == ["visit", "visit_2", "visit_2_2", "é_mail"]
    # There is a feature of orders called days_since_refund, and one of customers.
    assert {"days_since_refund_2", "customer_x_2_count_30d"} <= set(words.names)
    for entry in words.dictionary():
        assert all(isinstance(text, str) and text.strip() for text in entry.values())
