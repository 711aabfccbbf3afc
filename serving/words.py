"""What the commands print for a person."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from serving.batch import Scored
from serving.loader import Loaded
from training import leaderboard, tracking
from training.backtest import OURS, Judgement
from training.run import Trained

__all__ = ["judged", "scored", "summary", "trained"]

VALUE = ("mae", "rmse", "bias", "normalised_gini", "spearman", "decile_mape")
CAPTURE = ("capture_1", "capture_5", "capture_10", "capture_20")
CHURN = ("auroc", "average_precision", "brier", "log_loss", "ece")


def judged(test: Judgement) -> str:
    """An out-of-time test: every model beside the others, then the paired differences."""
    board = test.leaderboard()
    lines = [
        f"Out of time: fitted before {test.cutoff}, judged on the {test.months} months after, "
        f"{len(test.actual):,} customers",
        "", "Value (net revenue)", leaderboard.format_table(board[list(VALUE)]),
        "", "Share of the value held by the top 1, 5, 10, 20 % by prediction",
        leaderboard.format_table(board[list(CAPTURE)]),
        "", "Churn (no order)", leaderboard.format_table(board[list(CHURN)]),
        "", _verdicts(test.differences),
    ]  # fmt: skip
    return "\n".join(lines)


def _verdicts(compared: pd.DataFrame) -> str:
    lines = [f"{OURS} against each baseline, by paired bootstrap (95 %)"]
    for model, rows in compared.groupby("model", sort=False):
        by = {kind: list(rows["metric"][rows["verdict"] == kind]) for kind in ("better", "worse")}
        lines.append(
            f"  {model}: better in {', '.join(by['better']) or 'nothing'}; "
            f"worse in {', '.join(by['worse']) or 'nothing'}"
        )
    return "\n".join(lines)


def trained(done: Trained) -> str:
    """What a training run has made."""
    model, settings = done.model, done.model.settings
    lines = []
    if done.test:
        lines += [judged(done.test), ""]
    else:
        lines += ["No out-of-time test: the history is too short for one.", ""]
    names = " and ".join(done.version.aliases) or "registered"
    months = settings.horizons.months
    lines.append(
        f"Version {done.version.number} is {names}: {model.customers:,} customers, "
        f"{len(model.columns)} features, labels up to {model.longest} months, churn = "
        f"{settings.business.churn}, evidence for {', '.join(map(str, months))} months: "
        f"{model.evidence(months)}"
    )
    file = tracking.database()
    where = f"mlflow ui --backend-store-uri sqlite:///{file}" if file else tracking.place()
    lines.append(f"Done in {done.seconds:.0f} s. See runs and plots: {where}")
    return "\n".join(lines)


def summary(found: Scored, loaded: Loaded) -> dict[str, Any]:
    """Totals of a predictions table."""
    frame = found.frame
    totals = {
        column: round(float(frame[column].sum()), 2)
        for column in frame.columns
        if column.startswith(("revenue_", "orders_", "clv_"))
    }
    churn = {c: round(float(frame[c].mean()), 4) for c in frame.columns if c.startswith("churn_")}
    return {
        "customers": len(frame),
        "as_of": found.as_of,
        "model_version": loaded.version,
        "churn_definition": loaded.model.settings.business.churn,
        "currency": loaded.model.settings.business.currency,
        "evidence": frame["evidence"].iloc[0],
        "rows_in": found.ingested.rows_in,
        "rows_kept": found.ingested.rows_kept,
        "rows_refused": found.ingested.rows_refused,
        "missing": list(found.missing),
        "totals": totals,
        "mean_churn": churn,
    }


def scored(made: dict[str, Any], out: Path) -> str:
    """What a batch run has made."""
    lines = [
        f"Rows in {made['rows_in']:,} = kept {made['rows_kept']:,} + refused "
        f"{made['rows_refused']:,}",
        f"{made['customers']:,} customers as of {made['as_of']}, model {made['model_version']}, "
        f"evidence {made['evidence']}, churn = {made['churn_definition']}",
    ]
    if made["missing"]:
        lines.append(
            f"The model knows the columns {', '.join(made['missing'])}, which these data lack; "
            "predictions are made without them"
        )
    for name, value in made["totals"].items():
        if name.startswith(("revenue_", "clv_")):
            lines.append(f"  {name}: {value:,.0f} {made['currency']} in all")
    for name, value in made["mean_churn"].items():
        lines.append(f"  {name}: {value:.1%} on average")
    lines.append(f"Written to {out}")
    return "\n".join(lines)
