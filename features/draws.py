"""Random streams and the small steps that the simulated shops share."""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.spine import DAY

__all__ = ["Floats", "Ints", "draw", "ids", "micros", "names", "pick", "stamps", "stream"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def stream(seed: int, purpose: str) -> np.random.Generator:
    """A stream of its own for every seed and purpose."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode())])


def ids(prefix: str, n: int, width: int) -> npt.NDArray[np.object_]:
    """Names of `n` things, ``prefix`` and a number from 1, `width` digits."""
    return np.array([f"{prefix}{k:0{width}d}" for k in range(1, n + 1)], dtype=object)


def pick(rows: pd.DataFrame, name: str, which: Ints) -> Floats:
    """Column `name` of a table of laws, for each of the rows `which`."""
    return rows[name].to_numpy(np.float64)[which]


def draw(rng: np.random.Generator, rows: pd.DataFrame, n: int) -> Ints:
    """`n` row numbers of a table of laws, drawn by its column ``share``."""
    return rng.choice(len(rows), n, p=rows["share"].to_numpy())


def names(rows: pd.DataFrame, which: Ints) -> npt.NDArray[np.object_]:
    """Index of a table of laws, for each of the rows `which`."""
    return rows.index.to_numpy(dtype=object)[which]


def stamps(start: pd.Timestamp, days: Floats) -> npt.NDArray[np.datetime64]:
    """Instants, naive UTC, `days` after `start`."""
    micros = np.floor(np.asarray(days) * DAY).astype("timedelta64[us]")
    return np.asarray(start.to_datetime64().astype("datetime64[us]") + micros)


def micros(stamps: npt.NDArray[np.datetime64] | np.datetime64) -> Ints:
    """Microseconds since 1970 of naive UTC instants."""
    return np.asarray(stamps, "datetime64[us]").astype(np.int64)
