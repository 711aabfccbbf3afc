"""The compiled kernels: integer columns of lines to window sums, sums to features.

The only file with numba. Three steps, each exact:

1. `features.lines` turns each line into a row of integers that add up (1 for a new order, money in
   minor units, days since the order before, "this product for the first time" ...).
2. For each customer the cutoffs are walked upward, with one pointer at the newest line before the
   cutoff and one per window at its oldest: what enters is added, what leaves is taken away. Integer
   sums have no rounding and no order; int64 may wrap around on the way, a window's true sum fits.
3. Formulas run as a register program (`features.formulas`) on tiles of rows small enough for the
   cache.

A window of w days before a cutoff is ``[as_of - w x 24 h, as_of)``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

import numba as nb
import numpy as np
import numpy.typing as npt

from features import formulas
from features.spine import DAY

__all__ = [
    "COLUMNS", "EVENT_PARTS", "EVENT_WINDOWS", "FACTS", "GROUPS", "NO_VALUE", "WINDOWS",
    "compiled", "event_features", "features_of", "slots_of", "window_of",
]  # fmt: skip

Ints = npt.NDArray[np.int64]

#: Columns that are summed over windows; the narrow windows take only the first two.
WINDOWED: Final = (
    "spend", "orders", "order_days", "lines", "refunds", "refund_lines", "discounted_lines",
    "discount", "quantity", "new_products", "new_categories", "active_months", "cost",
)  # fmt: skip
#: Columns that are summed over all time only.
LIFETIME: Final = ("gap_days", "gap_days_squared", "spend_squared", "spend_whole", "costed")
COLUMNS: Final = (*WINDOWED, *LIFETIME)
#: Window length in days -> how many of the columns are summed over it.
WINDOWS: Final = {30: 13, 90: 13, 180: 13, 365: 13, 730: 13, 275: 2, 455: 2}
SPANS: Final = np.array(list(WINDOWS), np.int64) * DAY
WIDTHS: Final = np.array(list(WINDOWS.values()), np.int64)
#: Integer facts of a customer at a cutoff. Times are microseconds, days are local days.
FACTS: Final = (
    "unit", "since_order", "tenure", "since_refund", "span_days", "tenure_days", "last_gap",
    "first_gap", "largest_gap", "first_amount", "last_amount", "largest_line", "first_lines",
    "first_discounted", "month",
)  # fmt: skip
#: Counts of orders by slot: (name, number of slots; 0 = as many as the vocabulary has).
GROUPS: Final = (("weekday", 7), ("daypart", 4), ("quarter", 4), ("channel", 0), ("category", 0))
FIRSTS: Final = ("first_channel", "first_category")  # slots of the first order, 0 or 1
EVENT_WINDOWS: Final = (30, 90, 365)  # days, rising; values are summed over the longest
#: Integers of each kind of event, in order: counts of windows and of all time, then these.
EVENT_PARTS: Final = (
    *(f"[{days}]" for days in EVENT_WINDOWS), "", ".since", ".valued", ".newest",
    f".values[{EVENT_WINDOWS[-1]}]", f".valued[{EVENT_WINDOWS[-1]}]",
)  # fmt: skip
NO_VALUE: Final = np.iinfo(np.int64).min  # of an event, or the cost of a line

TILE: Final = 64
LOAD, CONST, ADD, SUB, MUL, DIV = (
    formulas.LOAD, formulas.CONST, formulas.ADD, formulas.SUB, formulas.MUL, formulas.DIV,
)  # fmt: skip
SQRT, MIN = formulas.SQRT, formulas.MIN


def compiled(signature: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The one way of compiling here: kept on disk, and threads may run side by side."""
    return nb.njit(signature, cache=True, nogil=True)


def inputs(channels: int, categories: int) -> list[str]:
    """Names of the kernel's integer outputs, in order; formulas refer to them.

    ``spend[90]`` is a window sum, ``spend`` the sum of all time, ``channel:2`` a slot's count.
    """
    names = [f"{name}[{days}]" for days, width in WINDOWS.items() for name in COLUMNS[:width]]
    names += [*COLUMNS, *FACTS]
    for name, size in zip([g[0] for g in GROUPS], group_sizes(channels, categories), strict=True):
        names += [f"{name}:{k}" for k in range(size)]
    names += [f"first_channel:{k}" for k in range(channels)]
    names += [f"first_category:{k}" for k in range(categories)]
    return names


def group_sizes(channels: int, categories: int) -> list[int]:
    """Number of slots of each group."""
    return [size or (channels if name == "channel" else categories) for name, size in GROUPS]


@compiled(
    "void(int64[:,::1],float64[:,::1],int32[:,::1],float64[::1],int32[::1],float64[:,::1],"
    "int64,int64)"
)
def _evaluate(sums, reg, code, constants, outputs, out, first, rows):  # type: ignore[no-untyped-def]  # noqa: PLR0912
    for k in range(code.shape[0]):
        op, a, b = code[k, 0], code[k, 1], code[k, 2]
        z = reg[k]
        if op == LOAD:
            for i in range(rows):
                z[i] = np.float64(sums[a, i])
        elif op == CONST:
            for i in range(rows):
                z[i] = constants[a]
        elif op == ADD:
            for i in range(rows):
                z[i] = reg[a, i] + reg[b, i]
        elif op == SUB:
            for i in range(rows):
                z[i] = reg[a, i] - reg[b, i]
        elif op == MUL:
            for i in range(rows):
                z[i] = reg[a, i] * reg[b, i]
        elif op == DIV:
            for i in range(rows):
                z[i] = reg[a, i] / reg[b, i] if reg[b, i] != 0.0 else np.nan
        elif op == SQRT:
            for i in range(rows):
                z[i] = np.sqrt(reg[a, i]) if not reg[a, i] < 0.0 else 0.0
        else:
            for i in range(rows):
                x, y = reg[a, i], reg[b, i]
                if np.isnan(x) or np.isnan(y):
                    z[i] = np.nan
                elif op == MIN:
                    z[i] = min(x, y)
                else:
                    z[i] = max(x, y)
    for i in range(rows):
        for j in range(outputs.shape[0]):
            out[first + i, j] = reg[outputs[j], i]


@compiled(
    "int64(int64[::1],int64[::1],int64[::1],int64[::1],int64[:,::1],int32[:,::1],int64[::1],"
    "int64[::1],int64[::1],int64[::1],int64[::1],int64[::1],int64[::1],int64[::1],int64,"
    "int32[:,::1],float64[::1],int32[::1],int64,float64[:,::1],int64[::1],int64[::1])"
)
def _features(  # type: ignore[no-untyped-def]  # noqa: PLR0912, PLR0915
    starts, ts, day, order, cols, slots, spine_starts, cut_ts, cut_day, cut_month,
    windows, widths, group_sizes, firsts, unit,
    code, constants, outputs, n_inputs, out, who, which,
):  # fmt: skip
    n_cols = cols.shape[1]
    n_win = len(windows)
    n_groups = len(group_sizes)
    n_slots = group_sizes.sum()
    offsets = np.zeros(n_groups + 1, np.int64)
    for g in range(n_groups):
        offsets[g + 1] = offsets[g] + group_sizes[g]
    width_max = widths.max()
    acc = np.zeros((n_win, width_max), np.int64)
    ever = np.zeros(n_cols, np.int64)
    count = np.zeros(n_slots, np.int64)
    lo = np.zeros(n_win, np.int64)
    sums = np.zeros((n_inputs, TILE), np.int64)
    reg = np.zeros((code.shape[0], TILE), np.float64)
    done = 0
    fill = 0
    for c in range(len(starts) - 1):
        a, b = starts[c], starts[c + 1]
        hi = np.int64(a)
        acc[:] = 0
        ever[:] = 0
        count[:] = 0
        lo[:] = a
        first = np.int64(-1)
        last = np.int64(-1)
        refund = np.int64(-1)
        day_last = np.int64(0)
        last_gap = np.int64(0)
        first_gap = np.int64(0)
        largest_gap = np.int64(0)
        first_amount = np.int64(0)
        last_amount = np.int64(0)
        largest_line = np.int64(0)
        first_lines = np.int64(0)
        first_discounted = np.int64(0)
        for s in range(spine_starts[c], spine_starts[c + 1]):
            cutoff = cut_ts[s]
            while hi < b and ts[hi] < cutoff:
                row = cols[hi]
                for j in range(n_cols):
                    ever[j] += row[j]
                for w in range(n_win):
                    for j in range(widths[w]):
                        acc[w, j] += row[j]
                if row[5]:
                    refund = hi
                if row[1]:
                    for g in range(n_groups):
                        if slots[hi, g] >= 0:
                            count[offsets[g] + slots[hi, g]] += 1
                    if first < 0:
                        first = hi
                    last = hi
                    last_amount = np.int64(0)
                    if row[2]:
                        day_last = day[hi]
                    if row[13]:
                        last_gap = row[13]
                        if first_gap == 0:
                            first_gap = row[13]
                        largest_gap = np.int64(max(largest_gap, row[13]))
                if row[3]:
                    largest_line = np.int64(max(largest_line, row[0]))
                    if order[hi] == order[last]:
                        last_amount += row[0]
                    if order[hi] == order[first]:
                        first_amount += row[0]
                        first_lines += np.int64(1)
                        first_discounted |= row[6]
                hi += 1
            if first < 0:
                continue
            for w in range(n_win):
                begin = cutoff - windows[w]
                while lo[w] < hi and ts[lo[w]] < begin:
                    for j in range(widths[w]):
                        acc[w, j] -= cols[lo[w], j]
                    lo[w] += 1
            k = 0
            for w in range(n_win):
                for j in range(widths[w]):
                    sums[k, fill] = acc[w, j]
                    k += 1
            for j in range(n_cols):
                sums[k, fill] = ever[j]
                k += 1
            sums[k, fill] = unit
            sums[k + 1, fill] = cutoff - ts[last]
            sums[k + 2, fill] = cutoff - ts[first]
            sums[k + 3, fill] = cutoff - ts[refund] if refund >= 0 else 0
            sums[k + 4, fill] = day_last - day[first]
            sums[k + 5, fill] = max(cut_day[s] - day[first], day_last - day[first])
            sums[k + 6, fill] = last_gap
            sums[k + 7, fill] = first_gap
            sums[k + 8, fill] = largest_gap
            sums[k + 9, fill] = first_amount
            sums[k + 10, fill] = last_amount
            sums[k + 11, fill] = largest_line
            sums[k + 12, fill] = first_lines
            sums[k + 13, fill] = first_discounted
            sums[k + 14, fill] = cut_month[s]
            k += 15
            for j in range(n_slots):
                sums[k, fill] = count[j]
                k += 1
            for f in range(2):
                g = n_groups - 2 + f
                for j in range(firsts[f]):
                    sums[k, fill] = 1 if slots[first, g] == j else 0
                    k += 1
            who[done + fill] = c
            which[done + fill] = s - spine_starts[c]
            fill += 1
            if fill == TILE:
                _evaluate(sums, reg, code, constants, outputs, out, done, fill)
                done += fill
                fill = 0
    _evaluate(sums, reg, code, constants, outputs, out, done, fill)
    return done + fill


@lru_cache(maxsize=64)
def _shapes(channels: int, categories: int) -> tuple[Ints, Ints, int]:
    """Slots of each group, those of a first order, and the number of integers in all."""
    groups = np.array(group_sizes(channels, categories), np.int64)
    firsts = np.array([channels, categories], np.int64)
    return groups, firsts, len(inputs(channels, categories))


@compiled("int32[:,::1](int64[::1],int64[::1],int64[::1],int64[::1],int64[::1],int64[::1])")
def _slots(day, hour, channel, category, channels, categories):  # type: ignore[no-untyped-def]
    out = np.empty((len(day), 5), np.int32)
    for i in range(len(day)):
        # Day 0, 1970-01-01, was a Thursday; Monday is slot 0.
        out[i, 0] = (day[i] + 3) % 7
        out[i, 1] = hour[i] // 6
        # The quarter: in years that begin with March, months are 153 days in five.
        since = (day[i] + 719_468) % 146_097
        year = (since - since // 1_460 + since // 36_524 - since // 146_096) // 365
        month = (5 * (since - (365 * year + year // 4 - year // 100)) + 2) // 153
        out[i, 2] = (month + 2) % 12 // 3
        out[i, 3] = channels[channel[i]]
        out[i, 4] = categories[category[i]]
    return out


def slots_of(
    day: Ints, hour: Ints, channel: Ints, category: Ints, channels: Ints, categories: Ints
) -> npt.NDArray[np.int32]:
    """Slot of each line in each of `GROUPS`, (lines, groups), -1 for none.

    `day` and `hour` are local; `channels` and `categories` are slots by code, (codes + 1,), of
    which the last is that of code -1.
    """
    return _slots(day, hour, channel, category, channels, categories)  # type: ignore[no-any-return]


def features_of(
    starts: Ints, ts: Ints, day: Ints, order: Ints, columns: Ints, slots: npt.NDArray[np.int32],
    sizes: tuple[int, int], spine: tuple[Ints, Ints, Ints, Ints], unit: int,
    program: formulas.Program,
) -> tuple[npt.NDArray[np.float64], Ints, Ints]:  # fmt: skip
    """Features of each (customer, cutoff) with an order before the cutoff.

    Parameters
    ----------
    starts : (customers + 1,) first line of each customer; lines sorted by time within a customer.
    columns : from `features.lines.event_columns`.
    slots : (lines, groups) slot of each line in each of `GROUPS`, -1 for none.
    sizes : number of channel and category slots.
    spine : ``starts`` (customers + 1,) and, flat, rising within a customer: the cutoffs' instants,
        local days and local months.

    Returns
    -------
    Values (rows, formulas), the customer's index and the position of the cutoff in the customer's
    own part of the spine, each (rows,), in the order customer, cutoff.
    """
    rows = len(spine[1])
    out = np.empty((rows, len(program.outputs)), np.float64)
    who, which = np.empty(rows, np.int64), np.empty(rows, np.int64)
    done = _features(
        starts, ts, day, order, columns, slots, *spine,
        SPANS, WIDTHS, *_shapes(*sizes)[:2], unit,
        program.code, program.constants, program.outputs, _shapes(*sizes)[2],
        out, who, which,
    )  # fmt: skip
    return out[:done], who[:done], which[:done]


@compiled(
    "void(int64[::1],int64[::1],int64[::1],int64[::1],int64[::1],int64[::1],int64[::1],int64,"
    "int32[:,::1],float64[::1],int32[::1],float64[:,::1])"
)
def _event_features(  # type: ignore[no-untyped-def]  # noqa: PLR0912
    starts, ts, slot, value, who, cut_ts, windows, kinds, code, constants, outputs, out
):
    w_all = len(windows)
    acc = np.zeros((kinds + 1, w_all + 6), np.int64)
    lo = np.zeros(w_all, np.int64)
    sums = np.zeros(((kinds + 1) * acc.shape[1], TILE), np.int64)
    reg = np.zeros((code.shape[0], TILE), np.float64)
    hi = np.int64(0)
    for r in range(len(who)):
        if r == 0 or who[r] != who[r - 1]:
            acc[:], lo[:] = 0, starts[who[r]]
            hi = starts[who[r]]
        while hi < starts[who[r] + 1] and ts[hi] < cut_ts[r]:
            for k in (slot[hi], kinds):
                if slot[hi] >= 0:
                    acc[k, : w_all + 1] += 1
                    acc[k, w_all + 1] = ts[hi]
                    if value[hi] != NO_VALUE:
                        acc[k, w_all + 2] = 1
                        acc[k, w_all + 3] = value[hi]
                        acc[k, w_all + 4] += value[hi]
                        acc[k, w_all + 5] += 1
            hi += 1
        for w in range(w_all):
            while lo[w] < hi and ts[lo[w]] < cut_ts[r] - windows[w]:
                for k in (slot[lo[w]], kinds):
                    if slot[lo[w]] >= 0:
                        acc[k, w] -= 1
                        if w == w_all - 1 and value[lo[w]] != NO_VALUE:
                            acc[k, w_all + 4] -= value[lo[w]]
                            acc[k, w_all + 5] -= 1
                lo[w] += 1
        sums[:, r % TILE] = acc.ravel()
        for k in range(kinds + 1):
            sums[k * acc.shape[1] + w_all + 1, r % TILE] = cut_ts[r] - acc[k, w_all + 1]
        if r % TILE == TILE - 1 or r == len(who) - 1:
            _evaluate(sums, reg, code, constants, outputs, out, r - r % TILE, r % TILE + 1)


def event_features(
    starts: Ints, ts: Ints, slot: Ints, value: Ints, who: Ints, cut_ts: Ints, kinds: int,
    program: formulas.Program,
) -> npt.NDArray[np.float64]:  # fmt: skip
    """Formulas over `EVENT_PARTS` for rows (customer ``who[r]``, cutoff ``cut_ts[r]``).

    Events are sorted by time within a customer, rows by customer and cutoff. `slot` (events,)
    counts from 0 to `kinds` - 1, -1 is passed over; `value` is `NO_VALUE` where not given. The
    integers are those of each kind and, last, of all kinds together; values are in thousandths.
    """
    out = np.empty((len(who), len(program.outputs)), np.float64)
    _event_features(
        starts, ts, slot, value, who, cut_ts, np.array(EVENT_WINDOWS, np.int64) * DAY, kinds,
        program.code, program.constants, program.outputs, out,
    )  # fmt: skip
    return out


@compiled("int64[:,::1](int64[::1],int64[::1],int64[:,::1],int64[::1],int64[::1],int64[::1])")
def _between(starts, ts, values, who, begin, end):  # type: ignore[no-untyped-def]
    out = np.zeros((len(who), values.shape[1]), np.int64)
    for r in range(len(who)):
        lo, hi = starts[who[r]], starts[who[r] + 1]
        lo += np.searchsorted(ts[lo:hi], begin[r])
        while lo < hi and ts[lo] < end[r]:
            for j in range(values.shape[1]):
                out[r, j] += values[lo, j]
            lo += 1
    return out


def window_of(
    starts: Ints, ts: Ints, values: Ints, who: Ints, begin: Ints, end: Ints
) -> npt.NDArray[np.int64]:
    """Sums of `values` over the lines of customer ``who[r]`` with ``begin[r] <= ts < end[r]``.

    Shapes: values (lines, k), who, begin, end (rows,); returns (rows, k).
    """
    return _between(starts, ts, values, who, begin, end)  # type: ignore[no-any-return]
