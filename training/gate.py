"""The gate: may the challenger become champion, and why.

All models are judged on the same customers of an out-of-time window that none of them has seen.
The challenger must beat the champion and the best baseline by paired bootstrap of one chosen
metric, must not be clearly worse in the others, must have totals and churn in their bands, and
must not be too good to be true. MLflow's own thresholds (``mlflow.models.MetricThreshold``,
``mlflow.validate_evaluation_results``) compare two numbers, not two models on the same resampled
customers, so a challenger that is ahead by chance would pass them: they are not used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import InputError
from training import leaderboard
from training.metrics import (
    AUROC,
    AVERAGE_PRECISION,
    BIAS,
    BRIER,
    DECILE_MAPE,
    ECE,
    GINI,
    LOG_LOSS,
    LOWER_IS_BETTER,
    MAE,
    RMSE,
    SPEARMAN,
    better,
    column,
    is_churn,
    measure,
    same_length,
)
from training.ranks import Floats
from training.scores import Difference, calibrated_ece, paired, verdict

__all__ = ["PASSED", "REFUSED", "TAG", "TAG_REASON", "GateRules", "Line", "Verdict", "judge"]

#: Tags of a run and of a version: what the gate said, and why in one line.
TAG, TAG_REASON = "clv.gate", "clv.gate.reason"
PASSED, REFUSED = "passed", "refused"
WATCHED: Final = (RMSE, MAE, DECILE_MAPE, SPEARMAN, AUROC, AVERAGE_PRECISION, BRIER, LOG_LOSS)
MOST_TEXT: Final = 1000  # characters of a tag; MLflow takes some thousand
WIDTH: Final = 120  # characters of the table's lines
FEW_BUYERS: Final = 20  # below, a high rank correlation is chance


@dataclass(frozen=True)
class GateRules:
    """What a challenger must show. Shares are of 1: .02 is 2 %, or 2 points of a percentage.

    Raises ``InputError`` for a metric without direction or a number out of range.
    """

    metric: str = GINI  # the one in which it must be better
    watched: tuple[str, ...] = WATCHED  # those in which it must not be clearly worse
    margin: float = 0.02  # relative: so much worse is allowed, and more where it may be chance
    bias: float = 0.25  # |predicted total / real total - 1| at most
    bias_inside: float = 0.10  # here nobody compares it with the champion's
    bias_worse: float = 0.02  # outside: at most so much beyond the champion's
    ece: float = 0.05  # at most, or what chance leaves with so few customers
    too_good_spearman: float = 0.97  # of predicted and real value among those who bought
    too_good_auroc: float = 0.98
    too_good_margin: float = 0.02  # another model this near to the limit: then it can be true

    def __post_init__(self) -> None:
        for metric in (self.metric, *self.watched):
            better(metric, 0.0)
        for name, value in asdict(self).items():
            if isinstance(value, int | float) and not 0 <= value < math.inf:
                raise InputError(f"The gate's {name} must be a share of at least 0. Got {value}.")


@dataclass(frozen=True)
class Line:
    """One thing that was looked at: what must hold, what came."""

    name: str
    must: str
    came: str
    passed: bool


@dataclass(frozen=True)
class Verdict:
    """What the gate says of a challenger, line by line."""

    challenger: str
    champion: str | None
    baseline: str | None  # the best one
    customers: int
    rules: GateRules
    lines: tuple[Line, ...]
    renewal: bool = False  # the champion's recipe on newer data
    first: bool = False  # there was no champion yet

    @property
    def failed(self) -> tuple[Line, ...]:
        """The lines that speak against it."""
        return tuple(line for line in self.lines if not line.passed)

    @property
    def passed(self) -> bool:
        """May it become champion? Where there is none it does, whatever the lines say."""
        return self.first or not self.failed

    @property
    def status(self) -> str:
        """`PASSED` or `REFUSED`."""
        return PASSED if self.passed else REFUSED

    @property
    def reason(self) -> str:
        """Why, in one line."""
        against = "; ".join(f"{x.name} (must be {x.must}; came {x.came})" for x in self.failed)
        if self.first:
            text = "no champion yet" + (f", would be refused by: {against}" if against else "")
        elif against:
            text = f"refused by: {against}"
        elif self.renewal:
            text = f"the recipe of {self.champion} on newer data, no worse than {self.baseline}"
        else:
            rivals = " and ".join(filter(None, (self.champion, self.baseline)))
            text = f"better than {rivals} in {self.rules.metric}, not clearly worse in the others"
        return " ".join(text.split())[:MOST_TEXT]

    def table(self) -> str:
        """Who was judged and all lines, as text for people."""
        names = f"champion {self.champion or 'none yet'}, best baseline {self.baseline or 'none'}"
        frame = pd.DataFrame([asdict(line) for line in self.lines])
        frame["passed"] = np.where(frame["passed"], "yes", "NO")
        head = f"{self.challenger} against {names}, on {self.customers:,} customers: {self.status}"
        return f"{head}\n{leaderboard.format_table(frame, WIDTH)}"

    def tags(self) -> dict[str, str]:
        """For MLflow: `TAG`, `TAG_REASON` and one tag for each line."""
        tags = {TAG: self.status, TAG_REASON: self.reason}
        for line in self.lines:
            text = f"{'yes' if line.passed else 'NO'}: must {line.must}; came {line.came}"
            tags[f"{TAG}.{line.name.replace(' ', '_')}"] = text
        return tags

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON and the model card."""
        told = asdict(self) | {"passed": self.passed, "reason": self.reason}
        told["rules"]["watched"] = list(self.rules.watched)
        return told | {"lines": [asdict(line) for line in self.lines]}


@dataclass(frozen=True)
class _Case:
    """The predictions that are judged, and what happened."""

    actual: Floats
    churned: Floats
    values: Mapping[str, Floats]
    churn: Mapping[str, Floats]
    rules: GateRules
    draws: int
    seed: int

    def of(self, metric: str) -> tuple[Floats, Mapping[str, Floats]]:
        """What happened and what was predicted, as `metric` takes them."""
        return (self.churned, self.churn) if is_churn([metric]) else (self.actual, self.values)

    def measure(self, metric: str, model: str) -> float:
        happened, predicted = self.of(metric)
        return measure(metric, happened, predicted[model])

    def against(
        self, metrics: Sequence[str], ours: str, theirs: str
    ) -> dict[str, tuple[float, float, Difference]]:
        """Metric of ours, of theirs, and the paired difference, where both have predictions."""
        found: dict[str, tuple[float, float, Difference]] = {}
        for churn in (False, True):
            names = [metric for metric in metrics if is_churn([metric]) == churn]
            happened, predicted = self.of(names[0]) if names else (self.actual, {})
            if ours in predicted and theirs in predicted:
                told = paired(
                    happened, predicted[ours], [predicted[theirs]], names, draws=self.draws,
                    seed=self.seed,
                )  # fmt: skip
                found |= dict(zip(names, told[0], strict=True))
        return found

    def same(self, ours: str, theirs: str) -> bool:
        """Do both predict the same, bit for bit?"""
        both = (self.values, self.churn)
        return all(each[ours].tobytes() == each[theirs].tobytes() for each in both)


def judge(
    actual: npt.ArrayLike,
    churned: npt.ArrayLike,
    values: Mapping[str, npt.ArrayLike],
    churn: Mapping[str, npt.ArrayLike],
    challenger: str,
    champion: str | None,
    baselines: Sequence[str],
    rules: GateRules | None = None,
    draws: int = 500,
    seed: int = 0,
    renewal: bool = False,
    first: bool | None = None,
) -> Verdict:
    """May the challenger become champion?

    Parameters
    ----------
    actual, churned
        Real value in money and 0/1 for each customer of the window, shape (n,).
    values, churn
        Name of a model -> predicted value, chance of churn, shape (n,). Challenger and champion
        are in both, baselines at least in that of the chosen metric.
    champion
        None where there is none yet: then the challenger passes, and is compared in the other
        metrics with the best baseline.
    rules
        By default `GateRules()`.
    renewal
        The challenger is the champion's own recipe on newer data: no test can tell the two apart,
        so it need not beat itself. It must not be worse than the best baseline, and all other
        lines hold.

    first
        Whether no champion was ever made; by default where `champion` is None. A champion that
        cannot be read is none to compare with, but no reason to let anything pass.

    Notes
    -----
    Better: the 95 % interval of the paired bootstrap difference lies on the better side of 0. The
    best baseline is the one best in the chosen metric. A watched metric counts against the
    challenger where it is worse by more than the margin *and* the interval excludes 0. An expected
    calibration error counts where it exceeds both the band and what chance leaves.

    Raises
    ------
    InputError
        A model without predictions, a name twice; arrays as for ``value_metrics``.
    """
    case = _case(actual, churned, values, churn, rules or GateRules(), draws, seed)
    _check(case, challenger, None if renewal else champion, baselines)
    best = _best(case, baselines)
    first = champion is None if first is None else first
    rivals = {"champion": champion, "best baseline": best}
    if renewal:
        lines = [Line("renewal", "same recipe, newer data", "yes", True)]
        lines += [_not_worse(case, challenger, best)] if best else []
    else:
        lines = [_beats(case, challenger, name, kind) for kind, name in rivals.items() if name]
    incumbent = best if renewal else champion or best
    if incumbent is not None:
        lines += _watched(case, challenger, incumbent)
    lines += _bias(case, challenger, incumbent)
    lines += [_ece(case, challenger), *_too_good(case, challenger)]
    return Verdict(
        challenger, champion, best, len(case.actual), case.rules, tuple(lines), renewal, first
    )


def _best(case: _Case, baselines: Sequence[str]) -> str | None:
    """The baseline best in the chosen metric, the first of equals; undefined ones come last."""
    metric = case.rules.metric
    sign = 1.0 if LOWER_IS_BETTER[metric] else -1.0
    found = {name: sign * case.measure(metric, name) for name in baselines}
    return min(found, key=lambda name: (math.isnan(found[name]), found[name]), default=None)


def _beats(case: _Case, ours: str, theirs: str, kind: str) -> Line:
    metric = case.rules.metric
    name = f"better than {kind}"
    must = f"{'lower' if LOWER_IS_BETTER[metric] else 'higher'} {metric}, 95 % sure"
    if kind == "champion" and case.same(ours, theirs):
        return Line(name, must, "same predictions", False)
    gap = case.against([metric], ours, theirs)[metric][2]
    came = f"{gap.mean:+.4f} ({gap.low:+.4f} to {gap.high:+.4f})"
    return Line(name, must, came, verdict(metric, gap) == "better")


def _not_worse(case: _Case, ours: str, theirs: str) -> Line:
    metric = case.rules.metric
    gap = case.against([metric], ours, theirs)[metric][2]
    came = f"{gap.mean:+.4f} ({gap.low:+.4f} to {gap.high:+.4f}) in {metric}"
    worse = verdict(metric, gap) == "worse"
    return Line("not worse than best baseline", "not 95 % sure to be", came, not worse)


def _watched(case: _Case, ours: str, theirs: str) -> list[Line]:
    rules = case.rules
    names = [metric for metric in rules.watched if metric != rules.metric]
    lines = []
    for metric, (own, other, gap) in case.against(names, ours, theirs).items():
        worse = (own - other if LOWER_IS_BETTER[metric] else other - own) > rules.margin * abs(
            other
        )
        clear = verdict(metric, gap) == "worse"
        excused = worse and metric == MAE and _mended(case, ours, theirs)
        came = f"{own:,.4g} against {other:,.4g}"
        if excused:
            came += ", bias mended"
        elif worse and not clear:
            came += ", may be chance"
        must = f"at most {rules.margin:.0%} worse"
        lines.append(Line(metric, must, came, excused or not (worse and clear)))
    return lines


def _mended(case: _Case, ours: str, theirs: str) -> bool:
    """Is the total clearly nearer, up from too low? Then a higher mae is no fault.

    Predicting too little lowers mae, since most customers spend nothing.
    """
    own, other = (case.measure(BIAS, name) for name in (ours, theirs))
    return other < 0 and own > other and abs(own) < abs(other) - case.rules.bias_worse


def _bias(case: _Case, ours: str, theirs: str | None) -> list[Line]:
    rules, own = case.rules, case.measure(BIAS, ours)
    # Undefined where the real total is not positive: what cannot be measured is not passed.
    lines = [Line("bias", f"within {rules.bias:.0%}", _percent(own), abs(own) <= rules.bias)]
    if theirs is not None and theirs in case.values:
        other = case.measure(BIAS, theirs)
        must = f"in {rules.bias_inside:.0%}, or {100 * rules.bias_worse:g} points worse at most"
        near = abs(own) <= rules.bias_inside or abs(own) <= abs(other) + rules.bias_worse
        came = f"{_percent(own)} against {_percent(other)}"
        lines.append(Line("bias against rival", must, came, near))
    return lines


def _percent(share: float) -> str:
    return "undefined" if math.isnan(share) else f"{share:+.1%}"


def _ece(case: _Case, ours: str) -> Line:
    own, band = case.measure(ECE, ours), case.rules.ece
    chance = calibrated_ece(case.churn[ours], draws=case.draws, seed=case.seed)
    must = f"at most {max(band, chance):.3f}" + (" (chance)" if chance > band else "")
    return Line(ECE, must, f"{own:.3f}", own <= max(band, chance))


def _too_good(case: _Case, ours: str) -> list[Line]:
    """A model that knows what nobody can know has seen the future."""
    bought = case.actual > 0
    ranks = {}
    if bought.sum() >= FEW_BUYERS:
        ranks = {
            name: measure(SPEARMAN, case.actual[bought], predicted[bought])
            for name, predicted in case.values.items()
        }
    areas = {name: case.measure(AUROC, name) for name in case.churn}
    return [
        _limit("leak in value", "Spearman of buyers", ranks, ours, case.rules.too_good_spearman,
               case.rules.too_good_margin),
        _limit("leak in churn", AUROC, areas, ours, case.rules.too_good_auroc,
               case.rules.too_good_margin),
    ]  # fmt: skip


def _limit(
    name: str, what: str, found: Mapping[str, float], ours: str, limit: float, margin: float
) -> Line:
    own = found.get(ours, math.nan)
    known = [v for model, v in found.items() if model != ours and not math.isnan(v)]
    other = max(known, default=-math.inf)
    suspect = own > limit and other < limit - margin
    came = "undefined" if math.isnan(own) else f"{own:.4f}"
    if known:
        came += f", others up to {other:.4f}"
    return Line(name, f"{what} to {limit:g}, or as others", came, not suspect)


def _case(
    actual: npt.ArrayLike,
    churned: npt.ArrayLike,
    values: Mapping[str, npt.ArrayLike],
    churn: Mapping[str, npt.ArrayLike],
    rules: GateRules,
    draws: int,
    seed: int,
) -> _Case:
    happened, left = column(actual, "actual values"), column(churned, "churned")
    money = {name: column(given, f"values of {name!r}") for name, given in values.items()}
    chance = {name: column(given, f"probabilities of {name!r}") for name, given in churn.items()}
    same_length([happened, left, *money.values(), *chance.values()], "outcomes and predictions")
    return _Case(happened, left, money, chance, rules, draws, seed)


def _check(case: _Case, challenger: str, champion: str | None, baselines: Sequence[str]) -> None:
    names = [name for name in (challenger, champion, *baselines) if name is not None]
    if len(set(names)) < len(names):
        raise InputError(f"Each model must have a name of its own. Got {', '.join(names)}.")
    for known, wanted, what in (
        (case.values, names[: 1 + (champion is not None)], "values"),
        (case.churn, names[: 1 + (champion is not None)], "churn"),
        (case.of(case.rules.metric)[1], names, case.rules.metric),
    ):
        for name in wanted:
            if name not in known:
                raise InputError(
                    f"For {what} every model must have predictions. Got none of {name!r}, only "
                    f"{', '.join(known) or 'nothing'}."
                )
