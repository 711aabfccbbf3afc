"""What an out-of-time test found, as tables, words and pictures of a document.

Money is in the currency of the model's settings. A number that is undefined, or not judged since
too few customers stand behind it, is a dash.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from training import plots
from training.compared import Compared
from training.curves import CalibrationLabels, deciles_drawn, gain_drawn, reliability_drawn
from training.judgement import CHURN_INTERVALS, VALUE_INTERVALS, Judgement
from training.metrics import (
    ABS_BIAS,
    AUROC,
    AVERAGE_PRECISION,
    BASE_RATE,
    BIAS,
    BRIER,
    CAPTURE_1,
    CAPTURE_5,
    CAPTURE_10,
    CAPTURE_20,
    DECILE_MAPE,
    ECE,
    GINI,
    LIFT_5,
    LIFT_10,
    LIFT_20,
    LOG_LOSS,
    LOWER_IS_BETTER,
    MAE,
    RMSE,
    SPEARMAN,
    N,
    decile_table,
    value_metrics,
)
from training.pages import NOTHING, Block, Bullets, Cell, Picture, Table, Text
from training.profit import profit_curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "calibration", "campaign", "count", "coverage", "cutoffs", "differences", "figures", "models",
    "money", "months", "pictures", "prospects", "returned", "share", "slices", "total", "warnings",
]  # fmt: skip

Range = tuple[float, float, float]
VALUE: Final = (MAE, RMSE, BIAS, GINI, SPEARMAN, DECILE_MAPE)
CAPTURE: Final = (CAPTURE_1, CAPTURE_5, CAPTURE_10, CAPTURE_20)
APART: Final = (BIAS, GINI, MAE, AUROC, BRIER, ECE)  # of people who are few
CHURN: Final = (AUROC, AVERAGE_PRECISION, BRIER, LOG_LOSS, ECE)
PAIRED: Final = (GINI, RMSE, ABS_BIAS)
LIFT: Final = (LIFT_5, LIFT_10, LIFT_20)
DIRECTIONS: Final = (
    "↑: more is better, ↓: less is better; the total is best where it is nearest to 0. "
    "Best of each column in bold."
)
#: Names for people, in tables and in running text.
NAMES: Final = {
    MAE: "mean absolute error", RMSE: "root mean square error", BIAS: "total against real one",
    ABS_BIAS: "error of the total", GINI: "normalised Gini", SPEARMAN: "rank correlation",
    DECILE_MAPE: "error of decile means", CAPTURE_1: "top 1 %", CAPTURE_5: "top 5 %",
    CAPTURE_10: "top 10 %", CAPTURE_20: "top 20 %", AUROC: "ROC AUC", AVERAGE_PRECISION: "PR AUC",
    BRIER: "Brier score", LOG_LOSS: "log loss", ECE: "calibration error",
    LIFT_5: "lift in top 5 %", LIFT_10: "lift in top 10 %", LIFT_20: "lift in top 20 %",
    BASE_RATE: "share that left", N: "customers",
}  # fmt: skip


# Numbers as text


def money(amount: float) -> str:
    """Whole units from a thousand on."""
    return _known(amount, ",.0f" if abs(amount) >= 1_000 else ",.2f")


def share(part: float) -> str:
    """A share of 1 in percent."""
    return NOTHING if math.isnan(part) else f"{100 * part:.1f} %"


def count(n: float) -> str:
    """A whole number."""
    return _known(n, ",.0f")


def _signed(part: float) -> str:
    return NOTHING if math.isnan(part) else f"{100 * part:+z.1f} %"


def _ratio(number: float) -> str:
    return _known(number, ".3f")


def _known(number: float, form: str) -> str:
    # z: what rounds to nothing has no sign.
    return format(number, f"z{form}") if math.isfinite(number) else NOTHING


FORMS: Final[Mapping[str, Callable[[float], str]]] = {
    MAE: money, RMSE: money, BIAS: _signed, DECILE_MAPE: share, BASE_RATE: share, N: count,
    **dict.fromkeys(CAPTURE, share),
}  # fmt: skip


def _number(metric: str, value: float) -> str:
    return FORMS.get(metric, _ratio)(float(value))


def _ranged(metric: str, found: Range) -> Cell:
    value, low, high = (_number(metric, each) for each in found)
    return value if NOTHING in (value, low, high) else (value, f"({low} to {high})")


def _head(metric: str, currency: str) -> str:
    unit = f", {currency}" if metric in (MAE, RMSE) else ""
    arrow = {True: " ↓", False: " ↑", None: ""}[LOWER_IS_BETTER.get(metric)]
    return f"{NAMES[metric]}{unit}{arrow}"


def _currency(test: Judgement) -> str:
    return test.model.settings.business.currency


# Tables and words


def cutoffs(tests: Sequence[Judgement]) -> Table:
    """A row of our metrics with their 95 % intervals for each cutoff."""
    shown = (*VALUE_INTERVALS, *CHURN_INTERVALS)
    rows = []
    for test in tests:
        found = test.intervals()
        cells = (_ranged(metric, found[metric]) for metric in shown)
        named = test.cutoff, f"{test.months} months"
        rows.append((named, count(len(test.actual)), *cells))
    head = ("cutoff", "customers", *(_head(m, _currency(tests[-1])) for m in shown))
    return Table("Our model at each cutoff, with 95 % intervals", head, tuple(rows))


def models(test: Judgement) -> list[Block]:
    """All models beside each other, ours with 95 % intervals: value, its concentration, churn."""
    board, found, unit = test.leaderboard(), test.intervals(), _currency(test)
    return [
        _board("Value: net revenue of each customer", board, VALUE, found, test, unit),
        _board("Share of the value that the customers predicted highest hold", board, CAPTURE,
               {}, test, unit),
        _board("Churn: no order in these months", board, CHURN, found, test, unit),
        _board("Churn found among those predicted highest, times the average", board, LIFT, {},
               test, unit),
        Text(DIRECTIONS, "quiet"),
    ]  # fmt: skip


def _board(
    caption: str,
    board: pd.DataFrame,
    metrics: Sequence[str],
    found: Mapping[str, Range],
    test: Compared,
    currency: str,
) -> Table:
    rows, strong = [], set()
    for i, name in enumerate(board.index):
        own = found if name == test.ours else {}
        known = {m: _number(m, board.loc[name, m]) for m in metrics}
        rows.append((str(name), *(_ranged(m, own[m]) if m in own else known[m] for m in metrics)))
        strong |= {(i, j + 1) for j, m in enumerate(metrics) if known[m] == _best(m, board[m])}
    head = ("model", *(_head(metric, currency) for metric in metrics))
    return Table(caption, head, tuple(rows), strong=frozenset(strong))


def _best(metric: str, column: pd.Series) -> str:
    """The best number of a column as it is shown: equals are all best."""
    values = column.abs() if metric == BIAS else column
    values = values if LOWER_IS_BETTER.get(metric, True) else -values
    return _number(metric, column.iloc[np.nanargmin(values)]) if values.notna().any() else ""


def differences(test: Judgement) -> list[Block]:
    """What the paired bootstrap says of ours against each other model, in words."""
    items = []
    for model, rows in test.differences.groupby("model", sort=False):
        said = {
            kind: ", ".join(NAMES.get(m, m) for m in rows["metric"][rows["verdict"] == kind])
            for kind in ("better", "level", "worse")
        }
        items.append(
            f"{model}: ours is better in {said['better'] or 'nothing'}; cannot be told apart in "
            f"{said['level'] or 'nothing'}; is worse in {said['worse'] or 'nothing'}."
        )
    lead = (
        f"Ours ({test.ours}) against each other model on the same resampled customers (paired "
        "bootstrap). Better and worse are said where the 95 % interval of the difference "
        "leaves out 0."
    )
    return [Text(lead), Bullets(tuple(items)), _gaps(test)]


def _gaps(test: Judgement) -> Table:
    """The paired differences that matter most, with their intervals."""
    rows = []
    for model, found in test.differences.groupby("model", sort=False):
        by = {row["metric"]: row for row in found.to_dict("records")}
        cells = (_moved(m, *(by[m][end] for end in ("difference", "low", "high"))) for m in PAIRED)
        rows.append((str(model), *cells))
    head = ("ours less", *(_head(metric, _currency(test)) for metric in PAIRED))
    return Table("Paired differences, with 95 % intervals", head, tuple(rows))


def _moved(metric: str, *found: float) -> Cell:
    value, low, high = (
        f"{100 * each:+z.1f} %" if metric == ABS_BIAS else f"{each:+z.3f}" for each in found
    )
    return value, f"({low} to {high})"


def total(test: Judgement) -> Text:
    """The total with its interval against what came."""
    told, real = test.total, float(test.said.actual.sum())
    inside = told.low <= real <= told.high
    return Text(
        f"Total of discounted margin over {test.months} months: {money(told.value)} "
        f"{_currency(test)} predicted (80 % interval {money(told.low)} to {money(told.high)}); "
        f"{money(real)} came, which is {'inside' if inside else 'outside'} the interval.",
        "" if inside else "warning",
    )


def months(test: Judgement) -> Table:
    """Revenue of each month and so far, predicted and real."""
    sums = [test.by_month[name] for name in ("predicted", "actual")]
    rows = tuple(
        (str(k + 1), *(money(each) for each in row))
        for k, row in enumerate(zip(*map(_steps, sums), *sums, strict=True))
    )
    unit = _currency(test)
    head = ("month", f"predicted, {unit}", f"came, {unit}", f"predicted so far, {unit}",
            f"came so far, {unit}")  # fmt: skip
    return Table("Net revenue of all customers, month by month", head, rows)


def returned(test: Judgement) -> Table:
    """How many ordered again by the end of each month, predicted and real."""
    sums = [test.returned[name] for name in ("predicted", "actual")]
    n = len(test.actual)
    rows = tuple(
        (str(k + 1), count(due), share(due / n), count(came), share(came / n))
        for k, (due, came) in enumerate(zip(*sums, strict=True))
    )
    head = ("by the end of month", "predicted", "of all", "came", "of all")
    return Table(f"Customers with another order, of {count(n)}", head, rows)


def prospects(test: Judgement) -> list[Block]:
    """People who had not ordered yet, judged on their own; or why they were not."""
    found = test.prospects
    if found is None:
        return [Text(f"People without an order were not judged: {test.no_prospects}.")]
    told, unit = found.as_dict(), _currency(test)
    return [
        Text(
            f"{count(told['people'])} people had signed up before {found.cutoff} and had not "
            f"ordered. {count(told['conversions'])} of them ordered in the {found.months} months "
            f"after, for {money(told['revenue'])} {unit}; {money(told['predicted'][found.ours])} "
            f"{unit} were predicted. They are in no other figure of the test."
        ),
        _board("Prospects: net revenue and the chance of no order", found.leaderboard(), APART, {},
               found, unit),
    ]  # fmt: skip


def _steps(cumulative: Sequence[float]) -> list[float]:
    return [b - a for a, b in zip([0.0, *cumulative[:-1]], cumulative, strict=True)]


def calibration(test: Judgement) -> Table:
    """Calibration error and Brier score before and after calibration."""
    found = test.calibration()
    rows = tuple(
        (f"{name} calibration", *(_number(m, one[m]) for m in (ECE, BRIER)))
        for name, one in found.items()
    )
    head = ("chance of churn", _head(ECE, ""), _head(BRIER, ""))
    return Table("Is a churn of 30 % really three in ten", head, rows)


def coverage(test: Judgement) -> list[Block]:
    """Shares outside the intervals: in all, per tenth of predicted value, and of buyers."""
    frame = test.coverage()
    rows = tuple(
        (
            _tenth(str(row["group"])), count(row["n"]), share(row["above"]), count(row["n_above"]),
            share(row["below"]), count(row["n_below"]), share(row["inside"]),
        )
        for row in frame.to_dict("records")
    )  # fmt: skip
    head = ("customers by predicted value", "customers", "above the 90 % point", "of so many",
            "below the 10 % point", "of so many", "inside")  # fmt: skip
    return [
        Table("Customers outside their 10 to 90 % interval", head, rows),
        Text(
            "10 % belong on either side. Above counts customers who were not almost surely gone; "
            "below counts those whose 10 % point lies above 0, since nobody can come out below 0.",
            "quiet",
        ),
    ]


def _tenth(group: str) -> str:
    number = group.removeprefix("decile ").lstrip("0")
    if number == group:
        return group
    return f"tenth {number}" + {"1": " (highest)", "10": " (lowest)"}.get(number, "")


def campaign(test: Judgement) -> Text:
    """What contacting those with most to lose would have brought."""
    rules, best = test.model.settings.judgement, test.campaign
    unit = _currency(test)
    return Text(
        f"A contact costs {money(rules.contact_cost)} {unit} and keeps {share(rules.save_rate)} of "
        f"those about to leave: assumed by the settings, not measured. Chosen beforehand were "
        f"{share(best.share)} of {count(best.n)} customers, those with most to lose, for an "
        f"expected profit of {money(best.expected)} {unit}. It would have brought "
        f"{money(best.realised.value)} {unit} (95 % interval {money(best.realised.low)} to "
        f"{money(best.realised.high)}). In hindsight the same ranking could have brought "
        f"{money(best.hindsight)} {unit} at most, by contacting {share(best.hindsight_share)}."
    )


def slices(test: Judgement) -> list[Block]:
    """Metrics of each kind of customer; slices with too few customers are said to be small."""
    rows = []
    for row in test.slices.to_dict("records"):
        n = f"{count(row[N])}{' (small)' if row['small'] else ''}"
        cells = (_ranged(m, (row[m], row[f"{m}_low"], row[f"{m}_high"])) for m in APART)
        rows.append((f"{row['slice']}: {row['level']}", n, *cells))
    head = ("slice", "customers", *(_head(metric, _currency(test)) for metric in APART))
    return [
        Table("Every kind of customer, with 95 % intervals", head, tuple(rows)),
        Text("Small slices have too few customers to be judged.", "quiet"),
    ]


def warnings(test: Judgement) -> list[Block]:
    """Totals out of their band."""
    band = f"{test.model.settings.judgement.bias_band:.0%}"
    found = tuple(test.warnings())
    if not found:
        return [Text(f"No slice's total is surely more than {band} off the real one.")]
    return [
        Text(f"Totals that are surely more than {band} off the real one:", "warning"),
        Bullets(found),
    ]


# Pictures


def figures(test: Judgement) -> dict[str, Figure]:
    """All pictures of a test by name."""
    currency = _currency(test)
    curves, said = test.curves(), CalibrationLabels()
    both = {said.before: curves.calibration["before"], said.after: curves.calibration["after"]}
    steps = (_steps(test.by_month[name]) for name in ("predicted", "actual"))
    each = list(range(1, test.months + 1))
    return {
        "decile": deciles_drawn(curves.deciles, currency=currency),
        "gain": gain_drawn(curves.perfect, curves.gains, len(test.actual)),
        "tracking": plots.tracking_plot(each, *steps, currency=currency),
        "calibration": reliability_drawn(both),
        "coverage": plots.coverage_chart(test.coverage()),
        "profit": plots.profit_chart(_curve(test), test.campaign.share, currency=currency),
    }


def pictures(test: Judgement, drawn: Mapping[str, Figure] | None = None) -> dict[str, Picture]:
    """The same, ready for a document; `drawn` are those of `figures`."""
    said = _alternatives(test)
    return {
        name: Picture(said[name][0], plots.svg(figure), said[name][1], f"plots/{name}.png")
        for name, figure in (drawn or figures(test)).items()
    }


def _curve(test: Judgement) -> pd.DataFrame:
    rules, said = test.model.settings.judgement, test.said
    return profit_curve(
        said.churned, said.churn, said.worth, contact_cost=rules.contact_cost,
        save_rate=rules.save_rate, by="gain",
    )  # fmt: skip


def _alternatives(test: Judgement) -> dict[str, tuple[str, str]]:
    """Title of each picture, and in words what it shows."""
    ours, unit = test.ours, _currency(test)
    tenths = decile_table(test.actual, test.values[ours]).to_dict("records")
    first, last = tenths[0], tenths[-1]
    gini = {name: value_metrics(test.actual, p)[GINI] for name, p in test.values.items()}
    best = test.campaign
    by_month = {name: money(values[-1]) for name, values in test.by_month.items()}
    before, after = (f"{one[ECE]:.3f}" for one in test.calibration().values())
    whole = test.coverage().iloc[0]
    return {
        "decile": ("Value by tenth", "Mean value per tenth of the customers by prediction: in the "
                   f"highest {money(first['predicted'])} {unit} predicted and "
                   f"{money(first['actual'])} came, in the lowest {money(last['predicted'])} and "
                   f"{money(last['actual'])}."),
        "gain": ("Share of value reached", "Share of the value held by the customers predicted "
                 "highest, a curve per model; normalised Gini: "
                 + ", ".join(f"{name} {value:.3f}" for name, value in gini.items()) + "."),
        "tracking": ("Tracking", f"Net revenue per month and so far: {by_month['predicted']} "
                     f"{unit} predicted and {by_month['actual']} came in {test.months} months."),
        "calibration": ("Calibration", "Customers who churned against the predicted chance, in ten "
                        f"bins; calibration error {before} before and {after} after calibration."),
        "coverage": ("Coverage", f"Customers outside their interval, per tenth: in all "
                     f"{share(whole['above'])} above the 90 % point and {share(whole['below'])} "
                     "below the 10 % point."),
        "profit": ("Profit", f"Profit by share of the customers contacted; {share(best.share)} "
                   f"were chosen beforehand, for {money(best.expected)} {unit} expected and "
                   f"{money(best.realised.value)} {unit} as it would have come."),
    }  # fmt: skip
