"""Retrain: tables to features, model, out-of-time test, MLflow run and registered version."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pandas as pd

from features import tables
from features.errors import InputError
from features.settings import Settings
from features.settings import load as load_settings
from features.spine import DAY, instant, text
from features.store import Store
from features.tables import Ingested
from training import bundle, plots, registry
from training.backtest import Judgement, backtest, latest_test
from training.fitting import Progress, fit
from training.model import Model, golden_rows
from training.registry import Dataset, Version

__all__ = ["Data", "Trained", "as_of_in", "find_settings", "read", "settings_file", "train"]

Data = str | Path | pd.DataFrame | Mapping[str, pd.DataFrame]
WEEK: Final = 7 * DAY
REQUIREMENTS: Final = ("clv",)
SCORING: Final = "serving.scoring"


@dataclass(frozen=True)
class Trained:
    """The outcome of a training run."""

    version: Version
    model: Model
    test: Judgement | None  # None where history is too short for any
    ingested: Ingested
    seconds: float

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
            "seconds": round(self.seconds, 1),
        }


def settings_file(data: Data, config: Path | None = None) -> Path | None:
    """`config`, else ``clv.toml`` in the data folder or beside the file of orders, if there is."""
    if config is not None or not isinstance(data, str | Path) or "://" in str(data):
        return config
    place = Path(data)
    beside = (place if place.is_dir() else place.parent) / "clv.toml"
    return beside if beside.is_file() else None


def find_settings(data: Data, config: Path | None = None) -> Settings:
    """Settings from `settings_file`, else the defaults."""
    return load_settings(settings_file(data, config))


@contextmanager
def read(
    data: Data, settings: Settings, progress: Progress | None = None
) -> Iterator[tuple[Store, Ingested]]:
    """Check and normalise `data` into a store that lives as long as the context."""
    with tempfile.TemporaryDirectory(prefix="clv-") as work:
        found = tables.ingest(data, settings, Path(work), progress=progress)
        yield Store.of(found), found


def as_of_in(
    store: Store, as_of: str | None, settings: Settings, allow_gap: bool | None = None
) -> int:
    """The moment of prediction, by default the end of the data's coverage.

    `allow_gap` is None where there is no such option.

    Raises
    ------
    InputError
        More than a week after the coverage ends: missing weeks would read as silence.
    """
    zone = settings.business.time_zone
    if as_of is None:
        return store.coverage_end
    moment = instant(as_of, zone)
    if moment > store.coverage_end + WEEK and not allow_gap:
        raise InputError(
            f"The data end at {text(store.coverage_end, zone)}; --as-of may be a week later at "
            f"most, since missing weeks would read as silence. Got {as_of}. "
            f"Bring newer orders{'' if allow_gap is None else ', or say --allow-gap'}."
        )
    if moment <= store.first_ts:
        raise InputError(
            f"--as-of must come after the first order of {text(store.first_ts, zone)}. "
            f"Got {as_of}. Take a later date."
        )
    return moment


def train(
    data: Data,
    *,
    as_of: str | None = None,
    horizons: Sequence[int] | None = None,
    settings: Settings | None = None,
    seed: int = 0,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Train on everything before `as_of`, test out of time, log and register in MLflow.

    Parameters
    ----------
    data : a folder, a file of orders, a database URL, or pandas frames (orders, or by table name).
    as_of : ISO date or time; by default the end of the data.
    horizons : months that the predictions carry, 1 to 24.
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
        test = _test(store, known_until, longest, settings, seed, workers, progress)
        fitted = fit(
            store, known_until, longest, settings, seed=seed, workers=workers, progress=progress
        )
        version = _register(fitted.model, test, ingested, seed, started, progress)
    return Trained(version, fitted.model, test, ingested, time.time() - started)


def with_horizons(settings: Settings, horizons: Sequence[int]) -> Settings:
    """The settings with other horizons; ``InputError`` outside 1 to 24 months."""
    from features.settings import Horizons, months

    try:
        return replace(settings, horizons=Horizons(months(tuple(horizons))))
    except ValueError as error:
        raise InputError(f"--horizons {error}. Write them like 12,18,24.") from None


def _test(
    store: Store,
    known_until: int,
    longest: int,
    settings: Settings,
    seed: int,
    workers: int,
    progress: Progress | None,
) -> Judgement | None:
    zone = settings.business.time_zone
    place = latest_test(store.first_ts, known_until, longest, zone)
    if place is None:
        return None
    return backtest(
        store.until(known_until), *place, settings, seed=seed, workers=workers, progress=progress
    )


def _register(
    model: Model,
    test: Judgement | None,
    ingested: Ingested,
    seed: int,
    started: float,
    progress: Progress | None,
) -> Version:
    if progress:
        progress("logging to MLflow", 0.0)
    summary = test.as_dict() if test else {}
    with tempfile.TemporaryDirectory(prefix="clv-") as place:
        folder = Path(place) / "bundle"
        bundle.save(model.parts(summary), folder, bundle.make_key(registry.home()))
        inputs, outputs = _example(model)
        version = registry.log_run(
            bundle_folder=folder,
            loader_module=SCORING,
            inputs=inputs,
            outputs=outputs,
            requirements=REQUIREMENTS,
            params=_params(model, ingested, seed),
            metrics=_metrics(test),
            tags={"churn": model.settings.business.churn, "evidence": model.evidence(
                model.settings.horizons.months)},
            artifacts=_pictures(test, model, Path(place)),
            datasets=[Dataset("orders", ingested.fingerprint[:36], ", ".join(ingested.files[:3]), {
                "rows": ingested.rows_kept, "customers": ingested.customers})],
            started=started,
        )  # fmt: skip
    if progress:
        progress("logging to MLflow", 1.0)
    return version


def _example(model: Model) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A few synthetic rows and their predictions: signature and input example."""
    golden = model.parts().golden
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
        "feature_hash": model.parts().card["feature_hash"],
        "data_fingerprint": ingested.fingerprint,
        "anchor": model.anchor.as_dict(),
        "currency": model.settings.business.currency,
        "objective": model.settings.model.objective,
    }


def _metrics(test: Judgement | None) -> dict[str, float]:
    """Each metric of each model as ``model/metric``, ours without a prefix."""
    if test is None:
        return {}
    found: dict[str, float] = {"test_months": float(test.months)}
    for name, row in test.as_dict(compare=False)["models"].items():
        prefix = "" if name == next(iter(test.values)) else f"{_slug(name)}/"
        found |= {f"{prefix}{metric}": v for metric, v in row.items() if v is not None}
    return found


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name.lower()).strip("_")


def _pictures(test: Judgement | None, model: Model, place: Path) -> dict[str, Path]:
    if test is None:
        return {}
    ours = next(iter(test.values))
    months = list(range(1, test.months + 1))
    currency = model.settings.business.currency
    figures = {
        "decile.png": plots.decile_chart(test.actual, test.values[ours], currency=currency),
        "gain.png": plots.gain_curve(test.actual, test.values),
        "calibration.png": plots.calibration_plot(test.churned, {ours: test.churn[ours]}),
        "tracking.png": plots.tracking_plot(
            months,
            _steps(test.by_month["predicted"]),
            _steps(test.by_month["actual"]),
            currency=currency,
        ),
    }
    return {f"plots/{name}": plots.save(fig, place / name) for name, fig in figures.items()}


def _steps(cumulative: Sequence[float]) -> list[float]:
    return [b - a for a, b in zip([0.0, *cumulative[:-1]], cumulative, strict=True)]
