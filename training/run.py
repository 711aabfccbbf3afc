"""Retrain: tables to features, model, out-of-time test, MLflow run and registered version."""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from features.catalogue import feature_hash
from features.errors import ClvError, InputError
from features.reading import Data, as_of_in, find_settings, read, with_horizons
from features.settings import MAX_MONTHS, Settings
from features.spine import text
from features.store import Store
from features.tables import Ingested
from training import backtest as backtesting
from training import bundle, card, gate, pages, plots, registry, sections
from training.compared import Compared
from training.drivers import Drivers, drivers
from training.fitting import Fitted, Progress, fit
from training.gate import Verdict
from training.golden import golden_rows
from training.grid import Grid
from training.judgement import Judgement
from training.model import Model
from training.packing import pack, unpack
from training.population import Population
from training.registry import Dataset, Version
from training.samples import gather
from training.tuning import Tuned, tune

__all__ = ["Trained", "train"]

REQUIREMENTS: Final = ("clv",)
SCORING: Final = "serving.scoring"
LOOKED_AT: Final = 5_000  # customers whose mean stands for the population
MEASURED: Final = 1_000  # of these, customers on whom drivers are measured


@dataclass(frozen=True)
class Trained:
    """The outcome of a training run."""

    version: Version
    model: Model
    test: Judgement | None  # None where history is too short for any
    verdict: Verdict | None  # of the gate, on that test
    ingested: Ingested
    seconds: float
    tuned: Tuned | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "version": self.version.number,
            "aliases": list(self.version.aliases),
            "run_id": self.version.run_id,
            "trained_until": text(self.model.trained_until, self.model.settings.business.time_zone),
            "customers": self.model.customers,
            "horizons": list(self.model.settings.horizons.months),
            "evidence": self.model.evidence(self.model.settings.horizons.months),
            "churn": self.model.settings.business.churn,
            "fingerprint": self.ingested.fingerprint,
            "test": self.test.as_dict() if self.test else None,
            "no_prospects": self.model.no_prospects,
            "margins": self.model.margins.as_dict() if self.model.margins else None,
            "tuned": self.tuned.as_dict() if self.tuned else None,
            "gate": self.verdict.as_dict() if self.verdict else None,
            "seconds": round(self.seconds, 1),
        }


def train(
    data: Data,
    *,
    as_of: str | None = None,
    horizons: Sequence[int] | None = None,
    settings: Settings | None = None,
    seed: int = 0,
    trials: int = 0,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Train on everything before `as_of`, test out of time, log and register in MLflow.

    Parameters
    ----------
    data : a folder, a file of orders, a database URL, or pandas frames (orders, or by table name).
    as_of : ISO date or time; by default the end of the data.
    horizons : months that the predictions carry, 1 to 24.
    trials : settings of the trees to search, before the out-of-time test; see `training.tuning`.
    workers : threads; by default one per processor.

    Raises
    ------
    InputError
        Data, settings or options are not as they must be; nothing is logged then.
    """
    started = time.time()
    settings = settings or find_settings(data)
    if horizons is not None:
        settings = with_horizons(settings, horizons)
    workers = workers or os.cpu_count() or 1
    with read(data, settings, progress) as (store, ingested):
        if ingested.alarms:
            first = ingested.alarms[0]
            raise InputError(
                f"Training needs data without alarms. Rule {first.name}: {first.rows} rows; "
                f"{first.meaning}. Mend the data, then train again."
            )
        moment = as_of_in(store, as_of, settings)
        known_until = min(moment, store.coverage_end)
        longest = max(settings.horizons.months)
        how: dict[str, Any] = {"seed": seed, "workers": workers, "progress": progress}
        tuned = tune(store, known_until, longest, settings, trials, **how) if trials else None
        settings = tuned.settings if tuned else settings
        test, verdict = _tested(store.until(known_until), known_until, longest, settings, how)
        past = (test.said, *test.rehearsals) if test else ()
        fitted = fit(store, known_until, longest, settings, rehearsals=past, **how)
        model, told = _looked_at(store, fitted, known_until, workers)
        facts = card.Facts.of(ingested, seed, told)
        version = _register(model, test, verdict, facts, started, progress, tuned)
    seconds = time.time() - started
    return Trained(version, model, test, verdict, ingested, seconds, tuned)


def _tested(
    store: Store, known_until: int, longest: int, settings: Settings, how: Mapping[str, Any]
) -> tuple[Judgement | None, Verdict | None]:
    """The out-of-time test and the gate's verdict on it; none where history is too short."""
    zone = settings.business.time_zone
    place = backtesting.latest_test(store.first_ts, known_until, longest, zone)
    if place is None:
        return None, None
    version = registry.champion()
    champion = _stored(version)
    name = f"champion {version.number}" if version and champion else None
    rivals: dict[str, Model] = {}
    renewal = False
    if champion and name:
        same = _recipe(champion.settings) == _recipe(settings)
        renewal = same and champion.trained_until < known_until
        if champion.trained_until <= place[0]:
            rivals[name], renewal = champion, False
        elif not same:
            # It has seen the window: what its recipe would have made before it stands in.
            old = replace(settings, model=champion.settings.model)
            rivals[name] = fit(store, *place, old, with_prospects=False, **how).model
    test = backtesting.backtest(store, *place, settings, rivals=rivals, **how)
    values, churn = dict(test.values), dict(test.churn)
    if name and not renewal:
        values.setdefault(name, test.values[test.ours])
        churn.setdefault(name, test.churn[test.ours])
    judged = settings.judgement
    verdict = gate.judge(
        test.actual, test.churned, values, churn, test.ours, name, test.baselines,
        gate.GateRules(metric=judged.metric, margin=judged.margin, bias=judged.bias_band,
                       ece=judged.ece_band),
        draws=backtesting.DRAWS, renewal=renewal, first=version is None,
    )  # fmt: skip
    return test, verdict


def _looked_at(
    store: Store, fitted: Fitted, known_until: int, workers: int
) -> tuple[Model, Drivers]:
    """The model with its segments, its population where it knows no prospects, and its drivers.

    They are of the customers as they are at the moment of training, or of a share of them.
    """
    model = fitted.model
    zone = model.settings.business.time_zone
    share = min(1.0, LOOKED_AT / max(model.customers, 1))
    rows, _ = gather(store, fitted.catalogue, known_until, zone, share, (), workers)
    everybody = model.predict(rows, known_until, range(1, MAX_MONTHS + 1))
    chosen, first = model.settings.segments, min(model.settings.horizons.months)
    model = replace(model, grid=Grid.fit(everybody, first, chosen))
    if model.prospects is None:
        model = replace(model, population=Population.of(everybody, known_until))
    # By their ids, evenly: the same few in whatever order and buckets they stand.
    place = np.argsort(np.argsort(rows.ids[rows.who], kind="stable"), kind="stable")
    few = rows.take(place % math.ceil(len(rows) / MEASURED) == 0)
    return model, drivers(model, few, known_until, first)


def _stored(version: Version | None) -> Model | None:
    """The champion's model; none where there is none, or it cannot be read by this code."""
    if version is None:
        return None
    try:
        folder = registry.fetch(version.number)
        return unpack(bundle.verify(folder, bundle.key(registry.home()), feature_hash()))
    except ClvError:
        return None


def _recipe(settings: Settings) -> Any:
    """What of the settings changes how a model is fitted."""
    return settings.model, settings.customers, settings.business, max(settings.horizons.months)


def _register(
    model: Model,
    test: Judgement | None,
    verdict: Verdict | None,
    facts: card.Facts,
    started: float,
    progress: Progress | None,
    tuned: Tuned | None = None,
) -> Version:
    if progress:
        progress("logging to MLflow", 0.0)
    ingested = facts.ingested
    summary = test.as_dict() if test else {}
    with tempfile.TemporaryDirectory(prefix="clv-") as place:
        folder = Path(place) / "bundle"
        bundle.save(pack(model, summary), folder, bundle.make_key(registry.home()))
        inputs, outputs = _example(model)
        version = registry.log_run(
            bundle_folder=folder,
            loader_module=SCORING,
            inputs=inputs,
            outputs=outputs,
            requirements=REQUIREMENTS,
            params=_params(model, ingested, facts.seed),
            metrics=_metrics(test),
            tags={"churn": model.settings.business.churn, "evidence": model.evidence(
                model.settings.horizons.months)},
            artifacts=_documents(model, test, verdict, facts, Path(place)),
            datasets=[Dataset("orders", ingested.fingerprint[:36], ", ".join(ingested.files[:3]), {
                "rows": ingested.rows_kept, "customers": ingested.customers})],
            verdict=verdict,
            trials=tuned.trials if tuned else (),
            started=started,
        )  # fmt: skip
    if progress:
        progress("logging to MLflow", 1.0)
    return version


def _example(model: Model) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A few synthetic rows and their predictions: signature and input example."""
    golden = pack(model).golden
    inputs = pd.DataFrame(golden_rows(model.catalogue)[:3], columns=list(model.catalogue.names))
    outputs = pd.DataFrame(golden["predictions"]).head(3)
    return inputs.astype("float64"), outputs.astype("float64")


def _params(model: Model, ingested: Ingested, seed: int) -> dict[str, Any]:
    zone = model.settings.business.time_zone
    return {
        "trained_until": text(model.trained_until, zone),
        "origins": [f"{text(o.cutoff, zone)} +{o.months}m" for o in model.origins],
        "horizons": list(model.settings.horizons.months),
        "churn": model.settings.business.churn,
        "seed": seed,
        "customers": model.customers,
        "features": len(model.columns),
        "feature_hash": pack(model).card["feature_hash"],
        "data_fingerprint": ingested.fingerprint,
        "anchor": model.anchor.as_dict(),
        "currency": model.settings.business.currency,
        "objective": model.settings.model.objective,
        "trees": asdict(model.settings.model.trees),
    }


def _metrics(test: Judgement | None) -> dict[str, float]:
    """Each metric of each model as ``model/metric``, ours without; ``prospects/`` before theirs."""
    if test is None:
        return {}
    found: dict[str, float] = {"test_months": float(test.months), **_named(test)}
    if test.prospects:
        found |= {f"prospects/{name}": value for name, value in _named(test.prospects).items()}
    return found


def _named(test: Compared) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, row in test.models().items():
        prefix = "" if name == test.ours else f"{_slug(name)}/"
        found |= {f"{prefix}{metric}": v for metric, v in row.items() if v is not None}
    return found


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name.lower()).strip("_")


def _documents(
    model: Model,
    test: Judgement | None,
    verdict: Verdict | None,
    facts: card.Facts,
    place: Path,
) -> dict[str, Path]:
    """The pictures of the test and the model card, written to `place`, by their path in the run."""
    drawn = sections.figures(test) if test else {}
    found = {f"plots/{n}.png": plots.save(fig, place / f"{n}.png") for n, fig in drawn.items()}
    told = card.document(model, test, verdict, facts, drawn)
    for name, written in (("card.md", pages.markdown(told)), ("card.html", pages.html(told))):
        found[name] = place / name
        found[name].write_text(written, encoding="utf-8", newline="\n")
    return found
