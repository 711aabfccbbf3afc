"""The workbook and the page of a large shop: seconds, size, and what their commands took."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from tests.bench.speed import _measured

CUSTOMERS, TAUGHT = 100_000, 5_000


def report() -> None:
    """clv report of a simulated shop of 100,000 customers, with spend, events and returns.

    The shop stays in a temporary folder for the next time; its predictions are those of a model of
    5,000 customers of another shop of the same kind.
    """
    place = Path(tempfile.gettempdir()) / f"clv-bench-report-{CUSTOMERS}"
    home, data, table = place / "home", place / "shop", place / "predictions.csv"
    if not table.exists():
        place.mkdir(exist_ok=True)
        for folder, customers in ((place / "taught", TAUGHT), (data, CUSTOMERS)):
            if not folder.exists():
                _measured("simulate", str(folder), "--customers", str(customers), home=home)
        _measured("train", str(place / "taught"), "--horizons", "12,24", home=home)
        _measured("predict", str(data), "--out", str(table), home=home)
    for name, wanted in (("clv.xlsx", "60 s"), ("report.html", "20 s and 2 MB")):
        out = place / name
        words = ("report", str(data), "--predictions", str(table), "--out", str(out))
        wall, cpu, peak = _measured(*words, home=home)
        size, busy = out.stat().st_size / 1e6, os.getloadavg()[0]
        print(f"{name}: wall {wall:.1f} s, CPU {cpu:.1f} s, peak {peak:.0f} MB, {size:.2f} MB "
              f"(wanted {wanted}); load of the machine {busy:.1f}", flush=True)  # fmt: skip
