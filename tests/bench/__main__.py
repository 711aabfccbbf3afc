"""The figures we hold ourselves to, printed: ``python -m tests.bench [NAME ...]``.

Apart from the tests: nothing here asserts a time. `CLV_DATA` names the folder of the real data
sets (cdnow, hillstrom, online_retail_ii_quarter, as .parquet); without it their benches are passed
over.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from tests.bench import (
    accuracy,
    decisions,
    desk,
    events,
    exact,
    fuzz,
    intervals,
    overload,
    reasons,
    report,
    serve,
    speed,
    trust,
)

BENCHES: dict[str, Callable[[], None]] = {
    "cdnow": accuracy.cdnow,
    "retail": accuracy.retail,
    "bench-shop": accuracy.bench_shop,
    "events": events.worth,
    "intervals": intervals.intervals,
    "reasons": reasons.cdnow,
    "hillstrom": decisions.hillstrom,
    "a-a": decisions.a_a,
    "known-effects": decisions.known_effects,
    "uplift": decisions.uplift_shop,
    "plan": decisions.plan,
    "channel-order": decisions.channel_order,
    "channel-order-shop": decisions.channel_order_shop,
    "small-shop": trust.small,
    "totals": trust.totals,
    "features": speed.features,
    "one-customer": speed.one_customer,
    "features-command": speed.features_command,
    "predict": speed.predict,
    "report": report.report,
    "serve": serve.serve,
    "overload": overload.overload,
    "swaps": overload.swaps,
    "soak": overload.soak,
    "slow": overload.slow,
    "fuzz": fuzz.fuzz,
    "bits": exact.bits,
    "lookup": exact.lookup,
    "kills": overload.kills,
    "desk": desk.desk,
}


def main() -> None:
    names = sys.argv[1:] or list(BENCHES)
    for name in names:
        if name not in BENCHES:
            sys.exit(f"Benchmarks are {', '.join(BENCHES)}. Got {name!r}.")
        print(f"\n== {name}", flush=True)
        BENCHES[name]()


if __name__ == "__main__":
    main()
