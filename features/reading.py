"""Data as a command names them: their settings, a store as long as it is needed, a moment."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import pandas as pd

from features import tables
from features.errors import InputError
from features.settings import Horizons, Settings, months
from features.settings import load as load_settings
from features.spine import DAY, instant, text
from features.store import Store
from features.tables import Ingested

__all__ = ["Data", "as_of_in", "find_settings", "read", "settings_file", "with_horizons"]

Data = str | Path | pd.DataFrame | Mapping[str, pd.DataFrame]
Progress = Callable[[str, float], None]
WEEK: Final = 7 * DAY


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
    data: Data, settings: Settings, progress: Progress | None = None, kinds: str | None = None
) -> Iterator[tuple[Store, Ingested]]:
    """Check and normalise `data` into a store that lives as long as the context.

    `kinds` of events: see `features.tables.ingest`.
    """
    with tempfile.TemporaryDirectory(prefix="clv-") as work:
        found = tables.ingest(data, settings, Path(work), progress=progress, kinds=kinds)
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


def with_horizons(settings: Settings, horizons: Sequence[int]) -> Settings:
    """The settings with other horizons; ``InputError`` outside 1 to 24 months."""
    try:
        return replace(settings, horizons=Horizons(months(tuple(horizons))))
    except ValueError as error:
        raise InputError(f"--horizons {error}. Write them like 12,18,24.") from None
