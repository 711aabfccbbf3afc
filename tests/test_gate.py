"""The gate on a shop whose expected values are known: each bad challenger is refused by name."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import pytest

from features.errors import InputError
from features.simulate import BENCH_AS_OF, bench
from training import scores
from training.gate import TAG, TAG_REASON, GateRules, Verdict, judge

Made = tuple[np.ndarray, np.ndarray]  # values and churn of one model


@cache
def world(customers: int = 3_000, seed: int = 0) -> tuple[Made, Made]:
    """What happened in the 104 weeks after the cutoff, and the best possible forecast of it."""
    made = bench(customers, seed)
    truth, orders = made.truth["truth"].set_index("customer_id"), made.tables["orders"]
    after = orders[orders["order_ts"] >= BENCH_AS_OF].groupby("customer_id")["amount"].sum()
    actual = after.reindex(truth.index).fillna(0.0).to_numpy()
    expected = truth["expected_revenue"].to_numpy(), truth["p_no_order"].to_numpy()
    return (actual, (actual == 0).astype(float)), expected


def noisy(made: Made, size: float, seed: int) -> Made:
    """The same, each customer off by a random factor of mean 1, the odds of churn by less."""
    random = np.random.default_rng(seed)
    values, churn = made
    odds = churn / (1 - churn) * np.exp(size / 2 * random.normal(size=len(churn)))
    factor = np.exp(size * random.normal(size=len(values)) - size**2 / 2)
    return values * factor, odds / (1 + odds)


def flat(made: Made) -> Made:
    return tuple(np.full(len(each), each.mean()) for each in made)  # type: ignore[return-value]


def judged(models: Mapping[str, Made], champion: str | None = "old", **more: Any) -> Verdict:
    """`new` against `old`, with all else as baselines."""
    (actual, churned), _ = world()
    values, churn = ({name: made[i] for name, made in models.items()} for i in (0, 1))
    baselines = [name for name in models if name not in ("new", "old")]
    options = {"draws": 100} | more
    return judge(actual, churned, values, churn, "new", champion, baselines, **options)


def models(new: Made, noise: float = 0.8) -> dict[str, Made]:
    """A challenger beside a champion of some quality, two baselines behind them."""
    _, best = world()
    return {
        "new": new, "old": noisy(best, noise, 1), "weak": noisy(best, 1.5, 2), "mean": flat(best),
    }  # fmt: skip


def names(verdict: Verdict) -> set[str]:
    return {line.name for line in verdict.failed}


def test_a_truly_better_challenger_passes() -> None:
    _, best = world()
    verdict = judged(models(noisy(best, 0.1, 3)))
    assert verdict.passed, verdict.reason
    assert (verdict.challenger, verdict.champion, verdict.baseline) == ("new", "old", "weak")
    assert verdict.reason.startswith("better than old and weak in normalised_gini")
    assert {line.name for line in verdict.lines} >= {"rmse", "mae", "auroc", "brier", "ece", "bias"}
    assert "normalised_gini" not in {line.name for line in verdict.lines}


def test_equal_predictions_are_called_the_same() -> None:
    _, best = world()
    old = noisy(best, 0.8, 1)
    verdict = judged(models((old[0].copy(), old[1].copy())))
    assert names(verdict) == {"better than champion"}
    assert verdict.failed[0].came == "same predictions"
    assert verdict.reason.startswith("refused by: better than champion")


def test_shuffled_predictions_are_refused() -> None:
    _, best = world()
    order = np.random.default_rng(0).permutation(len(best[0]))
    verdict = judged(models((best[0][order], best[1][order])))
    assert names(verdict) >= {
        "better than champion", "better than best baseline", "rmse", "auroc", "brier",
    }  # fmt: skip
    assert "bias" not in names(verdict)


def test_what_is_too_good_to_be_true_is_refused_as_a_leak() -> None:
    (actual, churned), best = world()
    random = np.random.default_rng(0)
    seen = actual + random.normal(0, 0.01, len(actual))
    verdict = judged(models((seen, 0.01 + 0.98 * churned)))
    assert names(verdict) == {"leak in value", "leak in churn"}
    assert "leak in value" in verdict.reason
    only_churn = judged(models((best[0], 0.01 + 0.98 * churned)))
    assert names(only_churn) == {"leak in churn"}
    # Where a baseline comes as near, it can be true: a subscription, say.
    known = models((seen, 0.01 + 0.98 * churned)) | {"plain": (seen * 0.9, 0.02 + 0.9 * churned)}
    assert not names(judged(known)) & {"leak in value", "leak in churn"}


def test_predictions_that_are_too_large_are_refused_by_the_bias() -> None:
    _, best = world()
    verdict = judged(models((1.5 * best[0], best[1])))
    assert {"bias", "bias against rival"} <= names(verdict)
    assert "better than champion" not in names(verdict)  # the order of customers is as good
    scaled = judged(models((1.3 * best[0], best[1])), rules=GateRules(watched=()))
    assert names(scaled) == {"bias", "bias against rival"}
    inside = judged(models((1.09 * best[0], best[1])), rules=GateRules(watched=()))
    assert names(inside) == set()


def test_chances_that_do_not_hold_are_refused_by_ece_and_brier() -> None:
    _, best = world()
    verdict = judged(models((best[0], best[1] ** 4)))
    assert {"ece", "brier", "log_loss"} <= names(verdict)
    assert not names(verdict) & {"auroc", "average_precision", "leak in churn"}


def test_with_few_customers_chance_is_no_fault_of_calibration() -> None:
    """True chances: their ece is above the band, but not above what chance leaves."""
    random = np.random.default_rng(8)
    refused, above = 0, 0
    for _ in range(40):
        chance = random.random(120)
        actual, churned = random.gamma(1, 10, 120), (random.random(120) < chance).astype(float)
        rules = GateRules(watched=())
        verdict = judge(actual, churned, {"new": actual}, {"new": chance}, "new", None, (), rules)
        line = next(line for line in verdict.lines if line.name == "ece")
        refused += not line.passed
        above += float(line.came) > rules.ece
    assert above > 30
    assert refused <= 5


def test_worse_by_chance_is_allowed_and_worse_for_sure_is_not() -> None:
    _, best = world()
    rules = GateRules(watched=("rmse",))
    old = models(best, noise=0.05)
    slightly = dict(old) | {"new": noisy(best, 0.1, 5)}
    clearly = dict(old) | {"new": (best[0] ** 1.8 / (best[0] ** 1.8).mean() * best[0].mean(),
                                   best[1])}  # fmt: skip
    assert "rmse" not in names(judged(slightly, rules=rules))
    assert "rmse" in names(judged(clearly, rules=rules))
    assert "rmse" not in names(judged(clearly, rules=GateRules(watched=("rmse",), margin=9.0)))


def test_a_higher_mae_is_no_fault_where_it_mends_a_total_that_was_too_low() -> None:
    """Seven of ten spend nothing: predicting 10 gives mae 34, the true mean of 30 gives 42."""
    actual = np.tile([0, 0, 0, 0, 0, 0, 0, 100, 100, 100.0], 40)
    churned = (actual == 0).astype(float)
    known = {"new": np.full(400, 30.0), "old": np.full(400, 10.0)}
    churn = {name: np.full(400, 0.7) for name in known}
    rules = GateRules(watched=("mae",))
    verdict = judge(actual, churned, known, churn, "new", "old", (), rules, 50)
    line = next(line for line in verdict.lines if line.name == "mae")
    assert (line.came, line.passed) == ("42 against 34, bias mended", True)
    # From too high to right is no excuse, nor is a total that is as wrong.
    known["new"], known["old"] = np.full(400, 55.0), np.full(400, 10.0)
    verdict = judge(actual, churned, known, churn, "new", "old", (), rules, 50)
    line = next(line for line in verdict.lines if line.name == "mae")
    assert (line.came, line.passed) == ("52 against 34", False)


def test_the_first_model_passes_and_shows_its_lines() -> None:
    _, best = world()
    good = judged(models(best), champion=None)
    assert good.passed
    assert good.reason == "no champion yet"
    assert good.baseline == "weak"
    poor = judged({"new": flat(best), "weak": noisy(best, 1.0, 2)}, champion=None)
    assert poor.passed
    assert "better than best baseline" in names(poor)
    assert poor.reason.startswith("no champion yet, would be refused by: better than best baseline")
    alone = judged({"new": best}, champion=None)
    assert alone.baseline is None
    assert {line.name for line in alone.lines} == {"bias", "ece", "leak in value", "leak in churn"}


def test_the_chosen_metric_may_be_one_of_churn() -> None:
    _, best = world()
    poor = noisy(best, 3.0, 4)[1]
    verdict = judged(models((best[0], poor)), rules=GateRules(metric="auroc", watched=()))
    assert names(verdict) >= {"better than champion"}
    assert judged(models(best), rules=GateRules(metric="brier", watched=())).passed
    (actual, churned), _ = world()
    only_churn = {"new": best[1], "base": poor}
    verdict = judge(actual, churned, {"new": best[0]}, only_churn, "new", None, ["base"],
                    GateRules(metric="auroc"), 20)  # fmt: skip
    assert not verdict.failed
    assert {line.name for line in verdict.lines} >= {"brier", "bias"}
    assert not {line.name for line in verdict.lines} & {"mae", "bias against rival"}


def test_the_numbers_are_those_of_the_paired_bootstrap() -> None:
    (actual, _), best = world()
    all_models = models(best)
    verdict = judged(all_models, seed=4)
    gap = scores.paired_bootstrap(
        actual, best[0], all_models["old"][0], "normalised_gini", draws=100, seed=4
    )
    line = verdict.lines[0]
    assert line.came == f"{gap.mean:+.4f} ({gap.low:+.4f} to {gap.high:+.4f})"


def test_nothing_depends_on_the_order_of_rows() -> None:
    (actual, churned), best = world()
    first = None
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(actual))
        given = {name: (v[order], p[order]) for name, (v, p) in models(best).items()}
        values, churn = ({name: made[i] for name, made in given.items()} for i in (0, 1))
        got = judge(actual[order], churned[order], values, churn, "new", "old", ["weak", "mean"],
                    draws=30)  # fmt: skip
        first = first or got
        assert got == first


def test_a_challenger_equal_by_chance_passes_in_few_worlds() -> None:
    """Champion and challenger carry independent noise of one size: 2.5 % should look better."""
    (actual, churned), best = world()
    rules = GateRules(watched=(), ece=1.0, bias=9.0, bias_inside=9.0)
    passed, size = 0, 400
    for seed in range(100):
        some = np.random.default_rng(seed).choice(len(actual), size, replace=False)
        known = {"new": noisy(best, 0.5, 1000 + seed), "old": noisy(best, 0.5, 2000 + seed),
                 "mean": flat(best)}  # fmt: skip
        values, churn = ({name: made[i][some] for name, made in known.items()} for i in (0, 1))
        verdict = judge(actual[some], churned[some], values, churn, "new", "old", ["mean"], rules,
                        draws=100, seed=seed)  # fmt: skip
        passed += verdict.passed
    assert passed <= 5


def test_what_a_person_and_a_program_read() -> None:
    _, best = world()
    refused = judged(models((1.5 * best[0], best[1])), draws=30)
    told = refused.as_dict()
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert told["passed"] is False
    assert [set(line) for line in told["lines"]] == [{"name", "must", "came", "passed"}] * len(
        refused.lines
    )
    tags = refused.tags()
    assert tags[TAG] == "refused"
    assert tags[TAG_REASON] == refused.reason
    assert tags["clv.gate.bias"].startswith("NO: must within 25%; came +")
    assert tags["clv.gate.better_than_champion"].startswith("yes: ")
    assert all("\n" not in text and len(text) <= 1000 for text in tags.values())
    text = refused.table().split("\n")
    assert text[0] == (
        f"new against champion old, best baseline weak, on {refused.customers:,} customers: refused"
    )
    assert text[1].split() == ["name", "must", "came", "passed"]
    assert len(text) == 2 + len(refused.lines)
    assert max(map(len, text)) <= 120
    for line in refused.lines:
        assert f"{line.must}  " in refused.table()  # whole: cells of more than 40 would be cut
        assert f"{line.came}  " in refused.table()
    assert sum(line.endswith(" NO") for line in text) == len(refused.failed)


def test_what_cannot_be_measured_is_not_passed() -> None:
    zero = np.zeros(300)
    some = np.random.default_rng(0).random(300)
    verdict = judge(zero, zero + 1, {"new": some, "old": some / 2}, {"new": some, "old": some / 2},
                    "new", "old", (), GateRules(), 20)  # fmt: skip
    assert names(verdict) >= {"better than champion", "bias"}
    assert not names(verdict) & {"leak in value", "leak in churn", "auroc"}
    assert "bias (must be within 25%; came undefined)" in verdict.reason


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: GateRules(metric="bias"), "must have a direction.*Got 'bias'"),
        (lambda: GateRules(watched=("r2",)), "must have a direction.*Got 'r2'"),
        (lambda: GateRules(margin=-0.1), r"gate's margin must be .* Got -0\.1"),
        (lambda: GateRules(bias=-1), "gate's bias must be .* Got -1"),
        (lambda: GateRules(ece=math.nan), "gate's ece must be .* Got nan"),
        (lambda: judge([1, 2], [0, 1], {"a": [1, 2]}, {}, "a", None, ()), "For churn .* 'a'"),
        (lambda: judge([1], [0], {"a": [1]}, {"a": [1]}, "a", "b", ()), "For values .* 'b', only"),
        (lambda: judge([1], [0], {"a": [1]}, {"a": [1]}, "a", None, ["c"]), "For normalised_gini"),
        (
            lambda: judge([1], [0], {"a": [1]}, {"a": [1]}, "a", "a", ()),
            "name of its own. Got a, a",
        ),
        (lambda: judge([1], [0], {"a": [1, 2]}, {"a": [1]}, "a", None, ()), "Got 1, 1, 2, 1 rows"),
        (lambda: judge([1], [0], {"a": [math.inf]}, {"a": [1]}, "a", None, ()), "values of 'a'"),
    ],
)
def test_refusals_say_what_came(call: Callable[[], object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        call()
