"""From an alias, a version or a folder to a verified model that predicts frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from features.catalogue import feature_hash
from features.errors import InputError
from features.reading import Data, settings_file, with_horizons
from features.settings import RateBySegment, Settings, written
from features.settings import load as load_settings
from features.spine import instant
from training import bundle, registry
from training.model import Model
from training.packing import unpack

__all__ = ["Loaded", "is_folder", "load", "open_folder", "scores_of", "scores_of_version"]


@dataclass(frozen=True)
class Loaded:
    """A verified model and its name."""

    model: Model
    version: str  # the registry's number, or "bundle-" and the start of a folder's digest

    def predict(
        self,
        orders: pd.DataFrame | Mapping[str, pd.DataFrame],
        as_of: str,
        horizons: Sequence[int] | None = None,
        *,
        reasons: int = 0,
        prospects: bool = False,
    ) -> pd.DataFrame:
        """The predictions table for every customer with an order before `as_of`.

        With `prospects` also for those of the table customers who have none yet.

        `orders` has customer_id, order_ts and amount (and what else is known), or is a mapping of
        table names to frames. Sorted by customer_id. Columns that the model learned from and
        `orders` lack are done without; `serving.batch.score` tells which. `reasons` adds the
        column of that name for the first horizon: so many terms by their money, as JSON.

        Raises
        ------
        InputError
            Frames, `as_of` or horizons are not as they must be.
        """
        from serving.batch import score

        return score(
            self, orders, as_of=as_of, horizons=horizons, reasons=reasons, prospects=prospects
        ).frame

    def predict_unknown(
        self, customer_id: str, as_of: str, horizons: Sequence[int] | None = None
    ) -> pd.DataFrame:
        """One row for somebody whom no table knows: the population's answer, ``cold_start``.

        It is that of a prospect of a typical age of whom nothing else is known. A model without
        prospects cannot know what people without an order come to: it answers with the average of
        all customers as it predicted them when it was trained, and an interval as wide as they
        differ; for a lead that is too much rather than too little.

        Raises
        ------
        InputError
            `as_of` or horizons are not as they must be, or the model is older than such answers.
        """
        moment = instant(as_of, self.model.settings.business.time_zone)
        months = self.months(horizons)
        return self.model.unknown_table(customer_id, moment, months, self.version)

    def months(self, horizons: Sequence[int] | None) -> tuple[int, ...]:
        """The horizons asked for, by default those the model was trained to carry."""
        if horizons is None:
            return self.model.settings.horizons.months
        return with_horizons(self.model.settings, horizons).horizons.months

    def settings(self, data: Data, config: Path | None = None) -> Settings:
        """How to read `data`: columns as beside the data, money and time as in the model.

        Raises
        ------
        InputError
            The data's settings speak of another currency or time zone than the model, or of other
            discount rates by segment.
        """
        file, own = settings_file(data, config), self.model.settings
        beside = load_settings(file)
        fixed = {"currency", "time_zone", "discount_rate_by_segment"}
        for key in sorted(written(file, "business") & fixed):
            theirs, ours = getattr(beside.business, key), getattr(own.business, key)
            if theirs != ours and key == "discount_rate_by_segment":
                # The service, which has no such file, would answer with other values.
                raise InputError(
                    f"[business] {key} must be the model's: {_rates(ours)}. Got {_rates(theirs)}. "
                    "Train with the rates that shall hold, or mend clv.toml."
                )
            if theirs != ours:
                raise InputError(
                    f"[business] {key} must be the model's, {ours}. Got {theirs}. "
                    "Take the model trained for these data, or mend clv.toml."
                )
        return replace(beside, business=own.business, customers=own.customers)


def _rates(by: RateBySegment) -> str:
    told = ", ".join(f"{level} {rate:g}" for level, rate in sorted(by.rates.items())[:8])
    return f"{by.column} {told}{' ...' if len(by.rates) > 8 else ''}" if told else "none"


def load(model: str | int | Path = "champion") -> Loaded:
    """Load ``"champion"``, ``"challenger"``, a version number or a bundle's folder.

    File names, sizes and keyed digests are checked before anything is parsed, then the protocol,
    the feature hash and the golden rows.

    Raises
    ------
    BundleError
        The folder is not what training wrote, or was written for other code.
    InputError
        No such version, or the key is missing.
    """
    if isinstance(model, Path) or is_folder(str(model)):
        return open_folder(Path(str(model)))
    chosen = registry.find(model)
    return open_folder(registry.locate(chosen), str(chosen.number))


def open_folder(folder: Path, version: str = "") -> Loaded:
    """The model in a bundle's folder; without `version` it is named after its digest.

    Errors as `load`.
    """
    parts = bundle.verify(folder, bundle.key(registry.home()), feature_hash())
    version = version or f"bundle-{bundle.digest(folder)[:12]}"
    return Loaded(unpack(parts), version)


def scores_of(folder: Path) -> Mapping[str, Any]:
    """The scores of its test that a bundle carries, verified; empty where it has none.

    Raises
    ------
    BundleError, InputError
        The folder is no bundle that this home has sealed.
    """
    parts = bundle.verify(folder, bundle.key(registry.home()), feature_hash())
    return dict(parts.card.get("scores") or {})


def scores_of_version(version: str) -> Mapping[str, Any]:
    """As `scores_of`, of a registered version."""
    return scores_of(registry.fetch(version))


def is_folder(text: str) -> bool:
    """A word or number names a version; what exists as a folder or has a slash is one."""
    return "/" in text or "\\" in text or (Path(text).is_dir() and not text.isdigit())
