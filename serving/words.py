"""What the commands print for a person."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from features.rules import minor_digits
from serving.batch import Scored
from serving.loader import Loaded
from serving.reasons import Told, cents
from serving.views.language import Words, words
from training import leaderboard, tracking
from training.crosscheck import cross_check
from training.drivers import Drivers
from training.intervals import total
from training.judgement import Judgement
from training.model import COLD_START, Model
from training.newcomers import Early
from training.profit import Best
from training.run import Trained
from training.slices import WITH_INTERVAL

__all__ = [
    "backtested", "drivers", "drivers_summary", "early", "explained", "judged", "scored", "summary",
    "trained",
]  # fmt: skip

VALUE = ("mae", "rmse", "bias", "normalised_gini", "spearman", "decile_mape")
CAPTURE = ("capture_1", "capture_5", "capture_10", "capture_20")
PAIRED = ("normalised_gini", "rmse", "abs_bias")
APART = ("mae", "bias", "normalised_gini", "auroc", "brier", "ece")  # of people who are few
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
        "", _verdicts(test.ours, test.differences),
        "", leaderboard.format_table(_gaps(test.ours, test.differences), 120),
        "", *_sure(test),
        "", *_waiting(test),
    ]  # fmt: skip
    return "\n".join(lines)


def _waiting(test: Judgement) -> list[str]:
    """People without an order, judged on their own, or why not."""
    found = test.prospects
    if found is None:
        return [f"No prospects judged: {test.no_prospects}"]
    told, currency = found.as_dict(), test.model.settings.business.currency
    return [
        f"Prospects: {told['people']:,} people without an order at {found.cutoff}, "
        f"{told['conversions']:,} of them ordered in the {found.months} months after, "
        f"{told['predicted'][found.ours]:,.0f} {currency} predicted, {told['revenue']:,.0f} came",
        leaderboard.format_table(found.leaderboard()[list(APART)]),
    ]


def early(read: Early) -> str:
    """Our model beside buy-till-you-die models, some days after customers' first orders."""
    return "\n".join([
        f"{read.days} days after the first order: {len(read.actual):,} customers who ordered first "
        f"from {read.start} to {read.end}, judged on the {read.months} months after",
        leaderboard.format_table(read.leaderboard()[list(APART)]),
    ])  # fmt: skip


def _sure(test: Judgement) -> list[str]:
    """How far the numbers of our model can be trusted: totals, intervals, calibration."""
    currency = test.model.settings.business.currency
    total, real = test.total, float(test.said.actual.sum())
    outside = {str(row["group"]): row for row in test.coverage().to_dict("records")}
    calibration = test.calibration()
    lines = [
        f"Total margin, discounted: {total.value:,.0f} ({total.low:,.0f} to {total.high:,.0f}) "
        f"{currency} predicted, {real:,.0f} came",
        *(
            f"Intervals, {label}: {_percent(outside[group]['above'])} above the 90 % point, "
            f"{_percent(outside[group]['below'])} below the 10 % point"
            for group, label in (("all", "all customers"), ("decile 01", "top tenth"))
        ),
        f"Churn calibration error: {calibration['before']['ece']:.3f} before, "
        f"{calibration['after']['ece']:.3f} after",
        _campaign(test.campaign, currency),
        *([test.margin.sentence(currency)] if test.margin else []),
    ]
    return [*lines, *(f"Out of band: {warning}" for warning in test.warnings())]


def _campaign(best: Best, currency: str) -> str:
    """What the campaign that was chosen beforehand would have brought."""
    if best.share <= 0:
        return "No campaign: no contact was expected to bring more than it costs"
    whom = f"the {best.share:.0%} with most to lose"
    # Where a contact costs nothing, or next to it, everybody is worth one.
    if f"{best.share:.0%}" == "100%":
        whom = "all customers" if best.share >= 1 else "nearly all customers"
    came = best.realised
    return (
        f"A campaign to {whom} would have brought {came.value:,.0f} ({came.low:,.0f} to "
        f"{came.high:,.0f}) {currency}"
    )


def _percent(share: float) -> str:
    return "-" if pd.isna(share) else f"{share:.1%}"


def backtested(tests: Sequence[Judgement], one: str | None = None) -> str:
    """Several cutoffs: a row of metrics with intervals for each, then the newest in full.

    All slices are told of the newest cutoff, or `one` in full of each.
    """
    rows = []
    for test in tests:
        found = {name: _ranged(*each) for name, each in test.intervals().items()}
        rows.append({"cutoff": test.cutoff, "n": len(test.actual), **found})
    newest = tests[-1]
    sliced = [_sliced(test, one) for test in tests] if one else [_by_slice(newest)]
    lines = [
        f"Our model per cutoff, {newest.months} months each, with 95 % intervals",
        leaderboard.format_table(pd.DataFrame(rows), 120),
        "", judged(newest),
        "", "\n\n".join(sliced),
    ]  # fmt: skip
    return "\n".join(lines)


def _by_slice(test: Judgement) -> str:
    columns = ["slice", "level", "n", "normalised_gini", "bias", "auroc", "ece"]
    head = f"By slice, cutoff {test.cutoff} (small slices are not judged)"
    return f"{head}\n{leaderboard.format_table(test.slices[columns])}"


def _sliced(test: Judgement, name: str) -> str:
    """One slice in full; a dash stands for what too few customers leave undefined."""
    rows = []
    for row in test.slices[test.slices["slice"] == name].to_dict("records"):
        ranges = {m: [row[f"{m}{end}"] for end in ("", "_low", "_high")] for m in WITH_INTERVAL}
        told = {m: _ranged(*found) for m, found in ranges.items()}
        rows.append({"level": row["level"], "n": row["n"], **told})
    head = f"By {name}, cutoff {test.cutoff}, with 95 % intervals"
    return f"{head}\n{leaderboard.format_table(pd.DataFrame(rows), 120)}"


def _ranged(value: float, low: float, high: float) -> str:
    if pd.isna(value):
        return "-"
    digits = 1 if abs(value) >= 10 else 3
    return f"{value:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


def _verdicts(ours: str, compared: pd.DataFrame) -> str:
    lines = [f"{ours} against each other model, by paired bootstrap (95 %)"]
    for model, rows in compared.groupby("model", sort=False):
        by = {kind: list(rows["metric"][rows["verdict"] == kind]) for kind in ("better", "worse")}
        lines.append(
            f"  {model}: better in {', '.join(by['better']) or 'nothing'}; "
            f"worse in {', '.join(by['worse']) or 'nothing'}"
        )
    return "\n".join(lines)


def _gaps(ours: str, compared: pd.DataFrame) -> pd.DataFrame:
    """The paired differences that matter most, each with its 95 % interval, a row per model."""
    rows = []
    for model, found in compared.groupby("model", sort=False):
        by = {row["metric"]: row for row in found.to_dict("records")}
        gaps = {m: [by[m][end] for end in ("difference", "low", "high")] for m in PAIRED}
        told = {m: "{:+,.3f} ({:+,.3f} to {:+,.3f})".format(*each) for m, each in gaps.items()}
        rows.append({f"{ours} less": str(model), **told})
    return pd.DataFrame(rows)


def trained(done: Trained) -> str:
    """What a training run has made."""
    model, settings = done.model, done.model.settings
    lines = []
    if done.test:
        lines += [judged(done.test), ""]
        if done.verdict:
            lines += [done.verdict.table(), f"The gate: {done.verdict.reason}", ""]
    else:
        lines += ["No out-of-time test: the history is too short for one.", ""]
    if done.tuned:
        found = done.tuned.as_dict()
        lines.append(
            f"Tuned: trial {found['chosen']} of {found['trials']} chosen, its losses "
            f"{found['score']:.4f} times those of the settings as they were (trial 0)"
        )
    lines.append(_earning(model))
    if model.no_prospects:
        lines.append(f"No model of prospects: {model.no_prospects}")
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


def _earning(model: Model) -> str:
    """Where the margin of a prediction comes from."""
    own, share = model.margins, model.settings.business.margin
    if own is None:
        return f"Margin: {share:.0%} of revenue, [business] margin; no cost of an order is known"
    told = f"Margin: learned from the cost of orders, {own.of_all(share):.1%} of revenue on average"
    if own.between > 0:
        unit = model.settings.business.currency
        told += f", a customer's own share counts half at {own.strength:,.0f} {unit} of revenue"
    if own.covered < 1:
        told += (
            f"; {1 - own.covered:.0%} of revenue has none and takes [business] margin, {share:.0%}"
        )
    return told


def summary(found: Scored, loaded: Loaded) -> dict[str, Any]:
    """Totals of a predictions table."""
    names = found.names  # column by column: the whole table may be large
    totals = {
        column: round(float(found.some([column])[column].sum()), 2)
        for column in names
        if re.fullmatch(r"(revenue|orders|clv)_\d+m", column)
    }
    evidence = found.some(["evidence"])["evidence"]
    cold = evidence == COLD_START
    known = evidence[~cold]
    churn = {
        column: round(float(found.some([column])[column].mean()), 4)
        for column in names
        if column.startswith("churn_")
    }
    first = int(next(iter(churn)).removeprefix("churn_").removesuffix("m"))
    figures = found.some([name for name in names if name.endswith(f"_{first}m")])
    return {
        "customers": len(known),
        "prospects": int(cold.sum()),
        "as_of": found.as_of,
        "model_version": loaded.version,
        "churn_definition": loaded.model.settings.business.churn,
        "currency": loaded.model.settings.business.currency,
        "evidence": known.iloc[0] if len(known) else COLD_START,
        "rows_in": found.ingested.rows_in,
        "rows_kept": found.ingested.rows_kept,
        "rows_refused": found.ingested.rows_refused,
        "missing": list(found.missing),
        "totals": totals,
        "intervals": _total_intervals(found),
        "mean_churn": churn,
        "cross_check": cross_check(figures, first, loaded.model.settings.business).as_dict(),
    }


def _total_intervals(made: Scored) -> dict[str, list[float]]:
    """The 10 and 90 % points of each horizon's total value, and not sums of customers' points."""
    found, names = {}, made.names
    for column in names:
        if re.fullmatch(r"clv_\d+m", column) and f"{column}_sd" in names:
            table = made.some([column, f"{column}_sd", f"{column}_common"])
            value, spread = (table[name].to_numpy(float) for name in (column, f"{column}_sd"))
            whole = total(value, spread, float(table[f"{column}_common"].iloc[0]))
            found[column] = [round(whole.low, 2), round(whole.high, 2)]
    return found


def scored(made: dict[str, Any], out: Path) -> str:
    """What a batch run has made."""
    lines = [
        f"Rows in {made['rows_in']:,} = kept {made['rows_kept']:,} + refused "
        f"{made['rows_refused']:,}",
        f"{made['customers']:,} customers as of {made['as_of']}, model {made['model_version']}, "
        f"evidence {made['evidence']}, churn = {made['churn_definition']}",
    ]
    if made["prospects"]:
        lines.append(f"{made['prospects']:,} prospects without an order yet, evidence {COLD_START}")
    if made["missing"]:
        lines.append(
            f"The model knows the columns {', '.join(made['missing'])}, which these data lack; "
            "predictions are made without them"
        )
    for name, value in made["totals"].items():
        if name.startswith(("revenue_", "clv_")):
            ends = made["intervals"].get(name)
            sure = f" ({ends[0]:,.0f} to {ends[1]:,.0f})" if ends else ""
            lines.append(f"  {name}: {value:,.0f}{sure} {made['currency']} in all")
    for name, value in made["mean_churn"].items():
        lines.append(f"  {name}: {value:.1%} on average")
    check = made["cross_check"]
    beside = "" if check["ratio"] is None else f", ratio {check['ratio']:.2f}"
    lines.append(
        f"  Closed formula m x r / (1 + d - r) over {check['months']} months: "
        f"{check['formula']:,.0f}, model: {check['model']:,.0f}{beside}"
    )
    lines.append(f"Written to {out}")
    return "\n".join(lines)


def explained(told: Told) -> str:
    """One customer's prediction and its reasons; what is shown adds up to the last decimal."""
    h, found, currency, say = told.months, told.predicted, told.currency, words(told.language)
    value = say.money(found[f"clv_{h}m"], currency) + _range(found, h, currency, say)
    churn = say(
        "explain.churn", months=h, churn=say.percent(found[f"churn_{h}m"]),
        orders=say.number(found[f"orders_{h}m"], 2),
        revenue=say.money(found[f"revenue_{h}m"], currency),
    )  # fmt: skip
    lines = [
        say("explain.head", customer=found["customer_id"], as_of=say.date(found["as_of"]), months=h,
            model=found["model_version"], evidence=found["evidence"]),
        "  " + say("explain.value", months=h, value=value), "  " + churn,
        "", say("explain.why", currency=currency), *_sum(told.reasons, currency, "text", say),
        "", say("explain.families"), *_sum(told.families, currency, "family", say),
    ]  # fmt: skip
    return "\n".join(lines)


def _range(found: dict[str, Any], h: int, currency: str, say: Words) -> str:
    if f"clv_{h}m_low" not in found:
        return ""
    digits = minor_digits(currency)
    low, middle, high = (
        say.number(found[f"clv_{h}m_{name}"], digits) for name in ("low", "median", "high")
    )
    return say("explain.range", low=low, middle=middle, high=high)


def _sum(lines: list[dict[str, Any]], currency: str, told: str, say: Words) -> list[str]:
    """Lines of money that add up as shown; what rounds to nothing is not shown."""
    digits = minor_digits(currency)
    money = cents([line["money"] for line in lines], currency)
    # The first is a level, the others are steps from it.
    steps = (say.number(each, digits, sign=True) for each in money[1:])
    shown = [say.number(money[0], digits), *steps]
    total = say.number(sum(money), digits)
    width = max(map(len, [*shown, total]))
    rows = [
        f"  {text:>{width}}  {lines[i][told]}" for i, text in enumerate(shown) if i == 0 or money[i]
    ]
    return [*rows, f"  {total:>{width}}  {say('explain.sum')}"]


def drivers_summary(found: Drivers, date: str, months: int, loaded: Loaded) -> dict[str, Any]:
    """Drivers as plain values; what is not known is None."""

    def plain(table: pd.DataFrame) -> list[dict[str, Any]]:
        known = table.astype(object).where(table.notna(), None)
        return [{str(k): v for k, v in row.items()} for row in known.to_dict("records")]

    return {
        "as_of": date, "horizon": months, "currency": loaded.model.settings.business.currency,
        "model_version": loaded.version, "customers": found.customers,
        "mean_churn": found.mean_churn, "families": plain(found.families),
        "features": plain(found.features),
    }  # fmt: skip


def drivers(made: dict[str, Any], most: int = 12) -> str:
    """What comes before leaving, for a person."""
    h, currency = made["horizon"], made["currency"]
    lines = [
        f"What comes before leaving: {made['customers']:,} customers as of {made['as_of']}, "
        f"churn_{h}m {made['mean_churn']:.1%} on average, model {made['model_version']}",
        f"At risk and kept: {currency} of {h} months' value, lost or saved by those who behave so",
        "", f"  {'weight':>6}  {'at risk':>14}  {'kept':>14}  family",
        *(f"{_heavy(line)}  {line['family']}" for line in made["families"]),
        "", f"  {'weight':>6}  {'at risk':>14}  {'kept':>14}  behaviour (churn of those "
        "with most and with least of it)",
        *(f"{_heavy(line)}  {line['meaning'].removeprefix('1 if ')}{_direction(line)}"
          for line in made["features"][:most]),
    ]  # fmt: skip
    if len(made["families"]) < 2:
        lines += ["", "The data were too few to learn from behaviour beyond the rhythm of orders."]
    return "\n".join(lines)


def _heavy(line: dict[str, Any]) -> str:
    return f"  {line['weight']:>6.3f}  {line['at_risk']:>14,.0f}  {line['kept']:>14,.0f}"


def _direction(line: dict[str, Any]) -> str:
    high, low = line["churn_high"], line["churn_low"]
    return "" if high is None else f" ({high:.0%}, {low:.0%})"


def configuration(chosen: dict[str, Any]) -> str:
    """Every setting of the service and where it comes from, one a line."""
    told = {
        key: ", ".join(each["value"]) if isinstance(each["value"], list) else str(each["value"])
        for key, each in chosen.items()
    }
    wide, long = max(map(len, told)), max(map(len, told.values()))
    return "\n".join(f"{key:<{wide}}  {told[key]:<{long}}  {chosen[key]['from']}" for key in told)


def token(made: dict[str, str]) -> str:
    """A new token, for the only time."""
    return (
        f"{made['token']}\n\nThe token of {made['name']}, role {made['role']}, shown this once. "
        "Send it as:\n  Authorization: Bearer TOKEN"
    )


def tokens(known: list[dict[str, Any]]) -> str:
    """The tokens there are."""
    if not known:
        return "No tokens. Make one by clv token NAME."
    lines = [
        f"{each['name']:<20}  {each['role']:<5}  made {each['made']}"
        + (f", good until {each['until']}" if each["until"] else "")
        + (" (expired)" if each["expired"] else "")
        for each in known
    ]
    return "\n".join(lines)
