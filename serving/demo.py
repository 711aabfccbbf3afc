"""The main job on real orders: check, train, load again, predict."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from features.reading import read
from features.settings import Settings
from serving import batch, words
from serving.loader import load
from training.fitting import Progress
from training.run import train

__all__ = ["ORDERS", "run"]

#: CDNOW; its provenance stands beside it.
ORDERS: Final = Path(__file__).parent / "demo_data" / "cdnow.csv.gz"


def run(out: Path, seed: int = 0, progress: Progress | None = None) -> str:
    """Check, train, register, load and predict; the report for the terminal."""
    with read(ORDERS, Settings(), progress) as (_, checked):
        report = [checked.format()]
    done = train(ORDERS, settings=Settings(), seed=seed, progress=progress)
    report += ["", words.trained(done)]
    loaded = load(done.version.number)
    file = out / "predictions.csv"
    scored = batch.score(loaded, ORDERS, out=file, progress=progress)
    report += ["", words.scored(words.summary(scored, loaded), file)]
    best = scored.frame.nlargest(5, "clv_12m")[
        ["customer_id", "revenue_12m", "orders_12m", "churn_12m", "clv_12m", "clv_24m"]
    ]
    report += ["", "The five most valuable customers", best.round(2).to_string(index=False)]
    return "\n".join(report)
