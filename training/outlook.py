"""What stands behind a value: when the next order comes, how often, for how much, for how long.

    gross revenue (h) = orders per month while active x order value (h) x active months (h)

A month here is a twelfth of a year on the season's clock, so that a December counts for more than
a July; twelve of them make a year all the same.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from features.settings import MAX_MONTHS
from features.spine import DAY, add_months, instant, local_day, text
from training import kernels

__all__ = ["MONTH", "days"]

Floats = npt.NDArray[np.float64]
MONTH: Final = 365.2425 / 12 / 7  # weeks


def days(months: Floats, as_of: int, zone: str) -> npt.NDArray[np.object_]:
    """The local day so many calendar months after `as_of`, as ISO text, (rows,), or None."""
    ends, names = _ahead(as_of, zone)
    told: npt.NDArray[np.object_] = names[kernels.days_after(months, ends)]
    return told


@lru_cache(maxsize=64)
def _ahead(as_of: int, zone: str) -> tuple[Floats, npt.NDArray[np.object_]]:
    """Day numbers, with the time of day, at which months 0 to 24 end; names of days, then None."""
    start = text(as_of, zone)[:10]
    clock = (as_of - instant(start, zone)) / DAY  # all months end at the same time of day
    ends = [local_day(add_months(as_of, m, zone), zone) for m in range(MAX_MONTHS + 1)]
    days = np.arange(ends[0], ends[-1] + 2).astype("datetime64[D]")
    names = [*np.datetime_as_string(days, unit="D").tolist(), None]  # the last is that of no day
    return np.array(ends) + clock, np.array(names, object)
