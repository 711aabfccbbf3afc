"""Order lines to the integers that window sums are made of: one compiled pass over the lines."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from features.windows import COLUMNS, NO_VALUE, compiled

__all__ = ["event_columns"]

Ints = npt.NDArray[np.int64]
WIDTH: Final = len(COLUMNS)


@compiled(
    "int64[:,::1](int64[::1],int64[::1],int64[::1],int64[::1],int64[::1],int64[::1],int64[::1],"
    "int64[::1],int64[::1],int64[::1],int64[::1],int64)"
)
def _columns(  # type: ignore[no-untyped-def]
    starts, day, month, amount, order, product, category, quantity, discount, cost, sizes, unit
):
    out = np.zeros((len(day), WIDTH), np.int64)
    seen_order = np.full(sizes[0], -1, np.int64)
    seen_product = np.full(sizes[1], -1, np.int64)
    seen_category = np.full(sizes[2], -1, np.int64)
    for c in range(len(starts) - 1):
        last_day = np.int64(-(1 << 40))
        last_month = last_day
        for i in range(starts[c], starts[c + 1]):
            money = amount[i]
            row = out[i]
            if cost[i] != NO_VALUE:
                row[12] = cost[i]
                row[17] = money
            if money < 0:
                row[4] = -money
                row[5] = 1
                continue
            if money == 0:
                continue
            row[0] = money
            row[3] = 1
            row[6] = discount[i] > 0
            row[7] = discount[i]
            row[8] = quantity[i]
            major = (money + unit // 2) // unit
            row[15] = major * major
            row[16] = major
            if seen_order[order[i]] != c:
                seen_order[order[i]] = c
                row[1] = 1
                if day[i] != last_day:
                    row[2] = 1
                    if last_day > -(1 << 39):
                        gap = day[i] - last_day
                        row[13] = gap
                        row[14] = gap * gap
                    last_day = day[i]
                if month[i] != last_month:
                    row[11] = 1
                    last_month = month[i]
            if product[i] >= 0 and seen_product[product[i]] != c:
                seen_product[product[i]] = c
                row[9] = 1
            if category[i] >= 0 and seen_category[category[i]] != c:
                seen_category[category[i]] = c
                row[10] = 1
    return out


def event_columns(
    starts: Ints, day: Ints, month: Ints, amount: Ints, order: Ints, product: Ints, category: Ints,
    quantity: Ints, discount: Ints, cost: Ints, sizes: Ints, unit: int,
) -> Ints:  # fmt: skip
    """Integer columns of each line, shape (lines, len(COLUMNS)), rows as in the bucket.

    `order`, `product` and `category` are codes from 0 (-1: not given), `sizes` how many codes of
    each exist; `unit` is the number of minor units in a major one. `cost` is `NO_VALUE` where it is
    not known; the column ``costed`` is the amount of lines where it is, refunds with their sign.
    """
    return _columns(  # type: ignore[no-any-return]
        starts, day, month, amount, order, product, category, quantity, discount, cost, sizes, unit
    )
