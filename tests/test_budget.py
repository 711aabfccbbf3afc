"""Budgets: against brute force, the truth of made-up histories, and arithmetic by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest

from features.errors import InputError
from features.money import Cashflow
from serving.decisions import budget, discounts
from serving.decisions.budget import Response
from serving.decisions.planning import bounds


def gain(responses: list[Response], spend: tuple[float, ...]) -> float:
    return sum(one.margin(x) - x for one, x in zip(responses, spend, strict=True))


def test_a_split_equals_brute_force() -> None:
    """Every split in whole units of 2 to 4 channels, under minimum, maximum and total."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        k, money = int(rng.integers(2, 5)), int(rng.integers(1, 13))
        responses = [
            Response(f"c{i}", float(rng.uniform(0, 6)),
                     1.0 if rng.random() < 0.2 else float(rng.uniform(0.1, 1)))
            for i in range(k)
        ]  # fmt: skip
        low = rng.multinomial(int(rng.integers(0, money + 1)), np.ones(k + 1) / (k + 1))[:k]
        high = np.minimum(low + rng.integers(0, 9, k), money)
        made = budget.plan(
            responses, float(money), unit=1, accept_loss=True,
            minimum={r.name: float(x) for r, x in zip(responses, low, strict=True)},
            maximum={r.name: float(x) for r, x in zip(responses, high, strict=True)},
        )  # fmt: skip
        ranges = [range(a, b + 1) for a, b in zip(low, high, strict=True)]
        best = max(
            gain(responses, each) for each in itertools.product(*ranges) if sum(each) <= money
        )
        assert made.gain == pytest.approx(best, abs=1e-9)
        spend = np.array([line.spend for line in made.lines])
        assert (spend >= low).all()
        assert (spend <= high).all()
        assert spend.sum() <= money


def test_a_split_to_the_cent_has_equal_last_units() -> None:
    """The closed form of Lagrange: x_i = (a_i b_i / price)^(1 / (1 - b_i))."""
    responses = [Response("a", 50.0, 0.5), Response("b", 80.0, 0.4), Response("c", 9.0, 0.7)]
    made = budget.plan(responses, 900.0)
    price = min(line.last_unit for line in made.lines)
    for one, line in zip(responses, made.lines, strict=True):
        slope = one.scale * one.elasticity * line.spend ** (one.elasticity - 1)
        assert slope == pytest.approx(price, rel=2e-3)
    assert made.spent == pytest.approx(900.0)
    assert price > 1


def test_what_loses_money_is_kept_or_refused() -> None:
    weak = [Response("a", 4.0, 0.5, 0.2), Response("b", 0.5, 0.5, 0.2)]
    made = budget.plan(weak, 1_000.0)
    # The last unit brings 1: 4 x 0.5 / sqrt(x) = 1.
    assert made.lines[0].spend == pytest.approx(4.0, abs=0.02)
    assert made.kept == pytest.approx(1_000 - 4 - 0.0625, abs=0.02)
    with pytest.raises(InputError, match=r"must not lose money.*--accept-loss"):
        budget.plan(weak, 1_000.0, minimum={"b": 100.0})
    told = budget.plan(weak, 1_000.0, minimum={"b": 100.0}, accept_loss=True)
    assert told.low < told.gain < 0
    assert told.lines[1].spend == 100.0


def test_many_channels_are_planned_exactly() -> None:
    rng = np.random.default_rng(1)
    many = [
        Response(f"c{i}", float(rng.uniform(5, 60)), float(rng.uniform(0.2, 0.9)))
        for i in range(50)
    ]
    made = budget.plan(many, 20_000.0)
    spend = [line.spend for line in made.lines]
    assert math.fsum(spend) == pytest.approx(20_000.0, abs=1e-6)
    best = gain(many, tuple(spend))
    for _ in range(300):
        a, b = rng.integers(0, 50, 2)
        moved = list(spend)
        cents = min(0.01 * float(rng.integers(1, 500)), moved[a])
        moved[a] -= cents
        moved[b] += cents
        assert gain(many, tuple(moved)) <= best + 1e-7


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"minimum": {"x": 1.0}}, r"--minimum must name a channel: a, b. Got 'x'"),
        ({"minimum": {"a": 8.0}, "maximum": {"a": 5.0}}, r"--minimum a must be at most 5.00"),
        ({"minimum": {"a": 8.0, "b": 8.0}}, r"must fit into the budget of 10.00. Got 16.00"),
        ({"maximum": {"a": -1.0}}, "at least 0. Got -1"),
    ],
)
def test_bounds_that_cannot_be_are_refused(how: dict[str, dict[str, float]], words: str) -> None:
    with pytest.raises(InputError, match=words):
        budget.plan([Response("a", 9.0, 0.5), Response("b", 9.0, 0.5)], 10.0, **how)


def test_the_budget_must_be_money() -> None:
    for money in (0.0, -5.0, math.inf, math.nan):
        with pytest.raises(InputError, match="--budget must be money above 0"):
            budget.plan([Response("a", 9.0, 0.5)], money)
    assert bounds(["a=b=3", "c=0.5"], "--minimum") == {"a=b": 3.0, "c": 0.5}
    for text in (["a"], ["a=x"], ["=3"], ["a=1", "a=2"], ["a=-1"]):
        with pytest.raises(InputError, match="--maximum must be CHANNEL=MONEY"):
            bounds(text, "--maximum")


# Responses


def history(elasticity: float, seed: int, months: int = 48, level: float = 3.0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    cost = rng.lognormal(6, 0.6, months)
    names = [f"{2020 + m // 12}-{m % 12 + 1:02d}" for m in range(months)]
    count = rng.poisson(level * cost**elasticity)
    return pd.DataFrame({"channel": "ads", "month": names, "cost": cost, "customers": count})


def test_a_response_is_found_again() -> None:
    worth = pd.DataFrame({"channel": ["ads"], "value": [40.0], "sd": [0.0]})
    inside = 0
    for seed in range(60):
        (one,), _ = budget.fit(history(0.6, seed), worth)
        assert one.elasticity == pytest.approx(0.6, abs=0.1)
        for spend in (150.0, 400.0, 1_500.0):
            wide = 1.2816 * one.spread(spend)
            inside += abs(one.margin(spend) - 40 * 3 * spend**0.6) < wide
    assert 0.68 <= inside / 180 <= 0.9
    (one,), _ = budget.fit(history(1.3, 0, level=0.05), worth)
    assert one.elasticity == 1.0
    assert one.most == pytest.approx(2 * history(1.3, 0)["cost"].max())


def test_channels_that_tell_nothing_are_named() -> None:
    flat = history(0.6, 0).assign(cost=500.0, channel="flat")
    short = history(0.6, 0, 4).assign(channel="short")
    other = history(0.6, 0).assign(channel="other")
    poor = history(0.6, 0).assign(channel="poor")
    worth = pd.DataFrame(
        {"channel": ["flat", "short", "poor"], "value": [9.0, 9.0, -1.0], "sd": 1.0}
    )
    found, without = budget.fit(pd.concat([flat, short, other, poor]), worth)
    assert found == []
    assert [reason.split(" ")[0] for reason in without] == ["flat", "other", "poor", "short"]
    assert "hardly varied" in without[0]
    assert "4 months" in without[3]


def test_responses_of_the_user() -> None:
    frame = pd.DataFrame(
        {"channel": ["b", "a"], "segment": [None, "new"], "scale": ["3", "2.5"],
         "elasticity": ["1", "0.5"]}
    )  # fmt: skip
    found = budget.given(frame, "r.csv")
    assert [(r.name, r.scale, r.elasticity) for r in found] == [("a/new", 2.5, 0.5), ("b", 3, 1)]
    for column, value in (
        ("elasticity", "1.5"),
        ("scale", "-1"),
        ("scale", None),
        ("channel", None),
    ):
        bad = frame.copy()
        bad.loc[0, column] = value
        with pytest.raises(InputError, match=r"r.csv row 1: must hold"):
            budget.given(bad, "r.csv")
    with pytest.raises(InputError, match="Missing: elasticity"):
        budget.given(frame.drop(columns="elasticity"), "r.csv")
    with pytest.raises(InputError, match="Got a/new twice"):
        budget.given(pd.concat([frame, frame]), "r.csv")


# Discounts


def test_a_discount_by_hand() -> None:
    predictions = pd.DataFrame({"revenue_3m": [100.0, 50.0, 30.0], "clv_12m": [60.0, 20.0, 5.0]})
    member = np.array([True, True, False])
    flow = Cashflow(0.4, 0.0, 0.0)
    made = discounts.what_if(predictions, member, flow, depth=0.1, months=3, horizon=12,
                             segment="country=DE", lift=0.2)  # fmt: skip
    assert made.customers == 2
    # 150 of list sales cost 90 to make; a fifth more cost 108 and are sold for 180 x 0.9.
    assert made.revenue == pytest.approx((150, 162))
    assert made.margin == pytest.approx((60, 54))
    assert made.value == pytest.approx((80, 74))
    assert made.break_even == pytest.approx(0.4 / 0.3 - 1)
    even = discounts.what_if(predictions, member, flow, depth=0.1, months=3, horizon=12,
                             segment="x", lift=1 / 3)  # fmt: skip
    assert even.margin[0] == pytest.approx(even.margin[1])
    assert made.assumption.startswith("Assumption, not a prediction")
    deep = discounts.what_if(
        predictions, member, flow, depth=0.5, months=3, horizon=12, segment="x"
    )
    assert deep.break_even is None


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"depth": 10.0}, "A tenth off is 0.1"),
        ({"months": 4}, r"must carry revenue_4m.*--horizons 4,12"),
        ({"member": np.zeros(3, bool)}, "somebody must be in it"),
        ({"lift": -2.0}, "--lift be -1 or more"),
    ],
)
def test_a_discount_that_cannot_be_told(how: dict[str, object], words: str) -> None:
    predictions = pd.DataFrame({"revenue_3m": [100.0, 50.0, 30.0], "clv_12m": [60.0, 20.0, 5.0]})
    given = {"member": np.ones(3, bool), "flow": Cashflow(0.4, 0.0, 0.0), "depth": 0.1,
             "months": 3, "horizon": 12, "segment": "x", **how}  # fmt: skip
    with pytest.raises(InputError, match=words):
        discounts.what_if(predictions, **given)  # type: ignore[arg-type]
