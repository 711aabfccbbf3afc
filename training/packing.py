"""A model as the parts of a bundle, and back: card, boosters, golden rows. No customer's data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from features import people
from features.behaviour import Rows
from features.catalogue import Vocabulary, feature_hash
from features.errors import BundleError
from features.settings import MAX_MONTHS, parse
from training.anchor import Anchor
from training.bundle import Parts
from training.calibration import Calibration
from training.golden import golden_rows, golden_values, require_same
from training.grid import Grid
from training.intervals import Intervals
from training.margins import Margins
from training.members import LARGEST_LEAF, Booster
from training.model import Model
from training.population import Population
from training.prospects import ProspectModel
from training.prospects import golden_rows as golden_prospects
from training.returns import Returns
from training.samples import Origin

__all__ = ["pack", "unpack"]

Floats = npt.NDArray[np.float64]


def pack(model: Model, scores: Mapping[str, Any] | None = None) -> Parts:
    """What a bundle holds: card, boosters and golden rows."""
    card = {
        "feature_hash": feature_hash(),
        "features": list(model.catalogue.names),
        "settings": model.settings.as_dict(),
        "currency": model.settings.business.currency,
        "churn": model.settings.business.churn,
        "vocabulary": model.vocabulary.as_dict(),
        "anchor": model.anchor.as_dict(),
        "returns": [model.returns.share, model.returns.strength, model.returns.pending],
        "margins": model.margins.as_dict() if model.margins else None,
        "orders_per_day": model.orders_per_day,
        "scale": model.scale,
        "levels": list(model.levels),
        "calibration": list(model.calibration),
        "intervals": model.intervals.as_dict() if model.intervals else None,
        "columns": list(model.columns),
        "members": list(model.members),
        "trained_until": model.trained_until,
        "origins": [[origin.cutoff, origin.months] for origin in model.origins],
        "customers": model.customers,
        "population": model.population.as_dict() if model.population else None,
        "grid": model.grid.as_dict() if model.grid else None,
        "scores": dict(scores or {}),
    }
    files = {f"{kind}.ubj": booster.raw for kind, booster in model.members.items()}
    rows = golden_rows(model.catalogue)
    golden: dict[str, Any] = {"rows": rows.tolist(), "predictions": _of_customers(model, rows)}
    card["prospects"] = {"none": model.no_prospects}
    if model.prospects:
        card["prospects"], more = model.prospects.parts()
        files |= more
        rows = golden_prospects(model.prospects)
        told = _of_prospects(model, rows)
        golden["prospects"] = {"rows": rows.tolist(), "predictions": told}
    return Parts(card, files, golden)


def unpack(parts: Parts) -> Model:
    """The model of verified parts; its golden rows must give what they gave when saved.

    Raises
    ------
    BundleError
        A golden row differs by one bit, a prediction is not finite, or a leaf is absurd.
    """
    card = parts.card
    about, everybody = card.get("prospects", {"none": ""}), card.get("population")
    lines, earned = card.get("grid"), card.get("margins")
    model = Model(
        settings=parse(card["settings"], "card.json"),
        vocabulary=Vocabulary.from_dict(card["vocabulary"]),
        anchor=Anchor.from_dict(card["anchor"]),
        returns=Returns(*card["returns"]),
        orders_per_day=card["orders_per_day"],
        scale=card["scale"],
        levels=tuple(card["levels"]),
        calibration=Calibration(*card["calibration"]),
        intervals=Intervals.from_dict(card["intervals"]) if card["intervals"] else None,
        columns=tuple(card["columns"]),
        members={kind: Booster(parts.files[f"{kind}.ubj"]) for kind in card["members"]},
        trained_until=card["trained_until"],
        origins=tuple(Origin(*pair) for pair in card["origins"]),
        customers=card["customers"],
        prospects=None if "none" in about else ProspectModel.from_parts(about, parts.files),
        no_prospects=about.get("none", ""),
        population=Population.from_dict(everybody) if everybody else None,
        grid=Grid.from_dict(lines) if lines else None,
        margins=Margins.from_dict(earned) if earned else None,
    )
    for name, raw in parts.files.items():
        if not Booster(raw).sane:
            raise BundleError(
                f"The leaves of the trees must be {LARGEST_LEAF:g} at most. Got a larger one "
                f"in {name}. Train again."
            )
    require_same(_of_customers(model, golden_values(parts.golden)), parts.golden["predictions"])
    if model.prospects:
        golden = parts.golden["prospects"]
        found = _of_prospects(model, golden_values(golden))
        require_same(found, golden["predictions"])
    return model


def _of_customers(model: Model, values: Floats) -> dict[str, list[float]]:
    n = len(values)
    ids = np.array([f"golden{i}" for i in range(n)], object)
    rows = Rows(ids, np.arange(n), np.zeros(n, np.int64), values, model.catalogue)
    found = model.predict(rows, model.trained_until, (1, 12, MAX_MONTHS)).columns()
    return {name: column.tolist() for name, column in found.items()}


def _of_prospects(model: Model, values: Floats) -> dict[str, list[float]]:
    n, own = len(values), model.require_prospects()
    ids = np.array([f"golden{i}" for i in range(n)], object)
    rows = Rows(ids, np.arange(n), np.zeros(n, np.int64), values, people.words(own.vocabulary))
    months = (1, 12, MAX_MONTHS)
    found = own.predict(rows, model.trained_until, months, model.newcomer).columns()
    return {name: column.tolist() for name, column in found.items()}
