"""Margins learned from costs against published numbers, plain SQL, loops and known truth."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from functools import cache
from itertools import pairwise
from types import SimpleNamespace

import duckdb
import numpy as np
import pandas as pd
import pytest

from features import simulate
from features.catalogue import Vocabulary, catalogue
from features.costs import COSTED, COSTS
from features.errors import BundleError
from features.settings import Settings, parse
from features.spine import instant, text
from features.store import Store
from serving import words
from serving.batch import score
from serving.decisions import campaigns
from serving.loader import Loaded
from serving.online import Scorer
from tests import fitted
from training.fitting import fit, prepare
from training.margins import LEAST, Earned, Margin, Margins, base, variances
from training.model import Model
from training.packing import pack, unpack
from training.population import Population
from training.reasons import explain
from training.samples import gather

ZONE = "UTC"
REST = 0.3  # of lines without a cost
KNOWN = instant("2024-01-01", ZONE)
DATE = text(KNOWN, ZONE)


def settings(**business: object) -> Settings:
    told = {"currency": "EUR", "margin": REST, "retention_cost": 0.5, **business}
    return parse({
        "business": told, "model": {"thin_below": 0, "origins": 1},
        "horizons": {"months": [3, 12]}, "orders": {"complete_until": "2025-06-29"},
    })  # fmt: skip


@cache
def orders(part: bool = False) -> pd.DataFrame:
    """The benchmark shop with a tenth sent back; customers earn shares of their own.

    In `part` of it the cost of a third of the lines is not known.
    """
    rng = np.random.default_rng(11)
    made = simulate.bench(500, 2).tables["orders"]
    made = made[made["order_ts"] < "2025-06-29"].reset_index(drop=True)
    back = made[rng.random(len(made)) < 0.1]
    back = back.assign(
        order_ts=back["order_ts"] + pd.Timedelta(days=6), amount=-(back["amount"] / 2).round(2)
    )
    made = pd.concat([made, back[back["order_ts"] < "2025-06-29"]], ignore_index=True)
    own = made["customer_id"].map(shares())
    share = np.clip(own + rng.normal(0, 0.1, len(made)), -0.5, 1)
    made["cost"] = (made["amount"] * (1 - share)).round(2)
    if part:
        made["cost"] = made["cost"].mask(rng.random(len(made)) < 1 / 3)
    return made


@cache
def shares() -> dict[str, float]:
    """What each customer's orders truly earn, on average 40 %."""
    ids = sorted(simulate.bench(500, 2).tables["customers"]["customer_id"])
    return dict(zip(ids, np.random.default_rng(4).beta(8, 12, len(ids)), strict=True))


@cache
def store(part: bool = False) -> Store:
    return fitted.ingest({"orders": orders(part)}, settings())


@cache
def model(part: bool = False) -> Model:
    """With a population, as `clv train` makes it."""
    made = fit(store(part), KNOWN, 12, settings(), with_prospects=False).model
    everybody = made.predict(rows(made, part), KNOWN, range(1, 25))
    return replace(made, population=Population.of(everybody, KNOWN))


def rows(made: Model, part: bool = False):
    return gather(store(part), made.catalogue, KNOWN, ZONE, 1.0)[0]


def sums(frame: pd.DataFrame, where: str) -> pd.DataFrame:
    """Revenue, revenue whose cost is known and that cost by customer, in plain SQL."""
    known = "sum(amount) FILTER (WHERE cost IS NOT NULL)"
    return duckdb.sql(
        f"SELECT customer_id, sum(amount) AS net, coalesce({known}, 0) AS costed, "
        f"coalesce(sum(cost), 0) AS cost FROM frame WHERE {where} GROUP BY 1 ORDER BY 1"
    ).df().set_index("customer_id")  # fmt: skip


def earned(orders_: np.ndarray, weight: np.ndarray, share: np.ndarray, spread: np.ndarray):
    none = np.zeros(len(weight), np.int64)
    return Earned(none, none, none, orders_, weight, share, spread)


def test_variances_are_those_of_the_formulas_as_printed() -> None:
    """Buehlmann and Straub's unbiased estimators, in fractions: three customers, seven orders."""
    money = [[50, 60], [100, 110, 105], [20, 70]]
    share = [
        [Fraction(1, 5), Fraction(2, 5)],
        [Fraction(1, 2), Fraction(3, 5), Fraction(11, 20)],
        [Fraction(1, 10), Fraction(3, 10)],
    ]
    own = [Fraction(sum(m)) for m in money]
    each = list(zip(money, share, strict=True))
    mean = [sum(a * x for a, x in zip(m, s, strict=True)) / sum(m) for m, s in each]
    spread = [sum(a * (x - c) ** 2 for a, x in zip(m, s, strict=True))
              for (m, s), c in zip(each, mean, strict=True)]  # fmt: skip
    within = sum(spread) / (7 - 3)
    whole = sum(own)
    middle = sum(w * c for w, c in zip(own, mean, strict=True)) / whole
    seen = sum(w * (c - middle) ** 2 for w, c in zip(own, mean, strict=True))
    between = (seen - 2 * within) / (whole - sum(w * w for w in own) / whole)
    plain = ([float(x) for x in each] for each in (own, mean, spread))
    found = earned(np.array([2.0, 3.0, 2.0]), *(np.array(x) for x in plain))
    told = variances(found, np.ones(3))
    assert told == pytest.approx((float(within), float(between)), rel=1e-12)
    assert told[1] > 0


@pytest.mark.parametrize("tame", [False, True])
def test_variances_are_unbiased(tame: bool) -> None:
    """Over many drawn populations their means are what was drawn from, giants tamed or not."""
    rng, found = np.random.default_rng(1), []
    n = rng.integers(1, 9, 60)
    for _ in range(400):
        who = np.repeat(np.arange(60), n)
        money = rng.gamma(1.0, 100.0, len(who)) + 5.0
        money[who == 0] *= 30
        truth = rng.normal(0.4, 0.1, 60)[who]
        share = rng.normal(truth, np.sqrt(4.0 / money))
        weight = np.bincount(who, money)
        mean = np.bincount(who, money * share) / weight
        spread = np.bincount(who, money * (share - mean[who]) ** 2)
        factor = np.minimum(1.0, 900.0 / weight) if tame else np.ones(60)
        found.append(variances(earned(n.astype(float), weight, mean, spread), factor))
    within, between = np.mean(found, axis=0)
    assert within == pytest.approx(4.0, rel=0.03)
    assert between == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize("part", [False, True])
def test_what_is_learned_is_what_plain_sums_say(part: bool) -> None:
    """Level, mean, coverage and each customer's share, by SQL and a loop over orders."""
    frame, own = orders(part), model(part).margins
    assert own is not None
    ever = sums(frame, f"order_ts < '{DATE}'")
    last = sums(frame, f"order_ts < '{DATE}' AND order_ts >= '2023-01-01'").sum()
    assert own.mean == pytest.approx(1 - ever["cost"].sum() / ever["costed"].sum(), rel=1e-12)
    assert own.level == pytest.approx(1 - last["cost"] / last["costed"], rel=1e-12)
    assert own.covered == pytest.approx(last["costed"] / last["net"], rel=1e-12)
    assert (own.covered == 1.0) is not part
    bought = frame[(frame["order_ts"] < DATE) & (frame["amount"] > 0) & frame["cost"].notna()]
    within, freedom = 0.0, 0
    for _, mine in bought.groupby("customer_id"):
        each = mine.groupby("order_id")[["amount", "cost"]].sum()
        share = 1 - each["cost"] / each["amount"]
        centre = np.average(share, weights=each["amount"])
        within += float((each["amount"] * (share - centre) ** 2).sum())
        freedom += len(each) - 1
    assert own.within == pytest.approx(within / freedom, rel=1e-9)
    found = rows(model(part), part)
    names = found.ids[found.who]
    told = ever.loc[names]
    assert (np.rint(found.column(COSTED) * 100) == np.rint(told["costed"] * 100)).all()
    assert (np.rint(found.column(COSTS) * 100) == np.rint(told["cost"] * 100)).all()
    k = own.within / own.between
    for i, (_, row) in enumerate(told.head(100).iterrows()):
        trust = max(row["costed"], 0) / (max(row["costed"], 0) + k)
        raw = 1 - row["cost"] / row["costed"] if row["costed"] > 0 else own.mean
        want = own.covered * (own.level + trust * (raw - own.mean)) + (1 - own.covered) * REST
        share = own.of_rows(found, REST)[i]
        assert share == pytest.approx(want, rel=1e-9) or row["costed"] <= 0


def test_own_shares_are_nearer_to_the_truth_than_one_share() -> None:
    found, own = rows(model()), model().margins
    assert own is not None
    truth = np.array([shares()[name] for name in found.ids[found.who]])
    learned = own.of_rows(found, REST)
    raw = 1 - found.column(COSTS) / np.maximum(found.column(COSTED), 0.01)
    errors = [np.sqrt(np.mean((each - truth) ** 2)) for each in (learned, raw, own.mean)]
    assert errors[0] < 0.95 * errors[1]
    assert errors[0] < 0.7 * errors[2]
    assert own.between == pytest.approx(np.var(list(shares().values())), rel=0.35)


def test_nothing_after_the_moment_of_training_is_seen() -> None:
    """Costs of the future are ten times as high, and are not known at all: the same bits."""
    later = orders()["order_ts"] >= DATE
    for other in (orders()["cost"].where(~later, orders()["cost"] * 10),
                  orders()["cost"].mask(later)):  # fmt: skip
        changed = fitted.ingest({"orders": orders().assign(cost=other)}, settings())
        again = [Earned.of(b, KNOWN, ZONE) for b in changed]
        assert Margins.fit(again, changed.unit) == model().margins
    assert Margins.fit([Earned.of(b, KNOWN, ZONE) for b in fitted.split(store(), 4, ("orders",))],
                       store().unit) == model().margins  # fmt: skip


def test_the_newest_year_sets_the_level() -> None:
    frame = orders().assign(cost=lambda t: (t["amount"] * 0.6).round(2))
    frame.loc[frame["order_ts"] >= "2023-01-01", "cost"] *= 1.25
    moved = fitted.ingest({"orders": frame}, settings())
    own = Margins.fit([Earned.of(b, KNOWN, ZONE) for b in moved], moved.unit)
    assert own is not None
    assert own.level == pytest.approx(0.25, abs=0.001)
    assert own.mean > 0.27


def test_parts_add_up_for_every_customer() -> None:
    """Margin, value, months of cash flow and reasons, against exact decimals."""
    made = model()
    here = rows(made).take(np.arange(len(rows(made))) < 60)
    found = made.predict(here, KNOWN, (1, 2, 3, 12))
    told, own = found.columns(), made.margins.of_rows(here, REST)  # type: ignore[union-attr]
    assert len(np.unique(own)) > 50
    step, whole = Decimal("1.1"), found.cashflow(12)
    for i in range(len(here)):
        share, due, before = Decimal(float(own[i])), Decimal(0), Decimal(0)
        for m in (1, 2, 3):
            assert told[f"margin_{m}m"][i] == own[i] * told[f"revenue_{m}m"][i]
            revenue = Decimal(float(told[f"revenue_{m}m"][i]))
            now = step ** (-(Decimal(m) - Decimal("0.5")) / 12)
            due += ((revenue - before) * share - Decimal("0.5")) * now
            before = revenue
            assert float(due) == pytest.approx(told[f"clv_{m}m"][i], abs=1e-9)
            assert whole[i, :m].sum() == pytest.approx(told[f"clv_{m}m"][i], abs=1e-9)
        assert whole[i].sum() == pytest.approx(told["clv_12m"][i], abs=1e-9)
    parts = explain(made, here, KNOWN, 12)
    np.testing.assert_allclose(parts.total, told["clv_12m"], atol=1e-9)
    assert (told["clv_12m_low"] <= told["clv_12m_high"]).all()


def test_the_population_earns_what_its_customers_do() -> None:
    made = model()
    each = made.predict(rows(made), KNOWN, (12, 24)).columns()
    one = made.unknown_table("nobody", KNOWN, (12, 24), "1")
    assert one["margin_24m"][0] == pytest.approx(each["margin_24m"].mean(), rel=1e-9)
    assert made.newcomer.cashflow.margin == made.margins.of_all(REST)  # type: ignore[union-attr]


def test_chunks_requests_and_batch_give_the_same_bits() -> None:
    """Costs, rates of margin, and lines with neither; one at a time and together."""
    for part in (False, True):
        loaded = Loaded(model(part), "1")
        frame = orders(part)
        table = score(loaded, {"orders": frame}, as_of=DATE, workers=1, allow_gap=True).frame
        few = table.head(80)
        scorer, months = Scorer(loaded), loaded.months(None)
        asked = [request(name, frame) for name in few["customer_id"]]
        names = [c for c in few if c.startswith(("margin_", "clv_", "revenue_"))]
        together = scorer.predict(asked, KNOWN, months).predictions
        for k, one in enumerate(asked):
            alone = scorer.predict([one], KNOWN, months).predictions[0]
            assert alone == together[k]
            assert [alone[c] for c in names] == few.iloc[k][names].tolist()


def request(name: str, frame: pd.DataFrame) -> dict[str, object]:
    mine = frame[(frame["customer_id"] == name) & (frame["order_ts"] < DATE)]
    lines = []
    for line in mine.itertuples(index=False):
        told = {"order_ts": str(line.order_ts), "amount": line.amount, "order_id": line.order_id,
                "channel": line.channel}  # fmt: skip
        lines.append(told | ({} if pd.isna(line.cost) else {"cost": line.cost}))
    return {"customer_id": name, "orders": lines}


def test_a_rate_of_margin_is_a_cost() -> None:
    loaded, frame = Loaded(model(), "1"), orders().assign(margin_rate=0.25)
    one = request(frame["customer_id"].iloc[0], frame)
    by_rate = {**one, "orders": [
        {k: v for k, v in line.items() if k != "cost"} | {"margin_rate": 0.25}
        for line in one["orders"]]}  # type: ignore[attr-defined]  # fmt: skip
    name = one["customer_id"]
    rated = frame[frame["customer_id"] == name].drop(columns="cost")
    table = score(loaded, {"orders": rated}, as_of=DATE, workers=1, allow_gap=True).frame
    found = Scorer(loaded).predict([by_rate], KNOWN, (12,)).predictions[0]
    assert found["margin_12m"] == table["margin_12m"][0]
    assert found["margin_12m"] < Scorer(loaded).predict([one], KNOWN, (12,)).predictions[0][
        "margin_12m"] or shares()[str(name)] < 0.25  # fmt: skip


def test_who_tells_no_cost_earns_what_everybody_does() -> None:
    own = model(True).margins
    assert own is not None
    frame = orders(True)
    one = request(frame["customer_id"].iloc[0], frame)
    bare = {**one, "orders": [{k: v for k, v in line.items() if k != "cost"}
                              for line in one["orders"]]}  # type: ignore[attr-defined]  # fmt: skip
    found = Scorer(Loaded(model(True), "1")).predict([bare], KNOWN, (12,)).predictions[0]
    assert found["margin_12m"] == own.of_all(REST) * found["revenue_12m"]
    nothing = np.array([np.nan, 0.0]), np.array([1.0, np.nan])
    assert own.of(*nothing, REST).tolist() == [own.of_all(REST)] * 2


def test_without_costs_the_share_of_the_settings_holds() -> None:
    bare = fitted.ingest({"orders": orders().drop(columns="cost")}, settings())
    made = prepare(bare, KNOWN, 12, settings()).bare
    assert (made.margins, made.vocabulary.costs) == (None, False)
    assert COSTED not in made.catalogue.names
    here, _ = gather(bare, made.catalogue, KNOWN, ZONE, 1.0)
    told = made.predict(here, KNOWN, (12,)).columns()
    assert (told["margin_12m"] == REST * told["revenue_12m"]).all()
    assert base(made.settings.business, None).margin == REST
    assert "30% of revenue, [business] margin" in words._earning(made)


@pytest.mark.parametrize("share", [-1.0, 0.0, 1.0])
def test_shares_stay_within_bounds(share: float) -> None:
    """Orders that cost more than they brought: value may not fall with the horizon."""
    frame = orders().assign(cost=lambda t: (t["amount"] * (1 - share)).round(2))
    made = fitted.ingest({"orders": frame}, settings())
    own = Margins.fit([Earned.of(b, KNOWN, ZONE) for b in made], made.unit)
    assert own is not None
    assert own.level == max(share, LEAST)
    found = own.of(np.array([-5.0, 0.0, 10.0, 1e6]), np.array([3.0, 0.0, 30.0, 9e6]), REST)
    assert ((found >= LEAST) & (found <= 1)).all()


def test_members_do_not_see_costs_and_the_bundle_keeps_margins() -> None:
    made = model()
    assert {COSTED, COSTS} <= {*made.catalogue.names}
    assert not {COSTED, COSTS} & {*made.columns}
    again = unpack(pack(made))
    assert again.margins == made.margins
    assert again.vocabulary == made.vocabulary
    here = rows(made)
    for name, column in made.predict(here, KNOWN, (12,)).columns().items():
        assert (again.predict(here, KNOWN, (12,)).columns()[name] == column).all()
    card = made.vocabulary.as_dict()
    with pytest.raises(BundleError, match="features of costs must be"):
        Vocabulary.from_dict(card | {"costs": "f00d"})
    older = {k: v for k, v in card.items() if k != "costs"}
    assert not Vocabulary.from_dict(older).costs
    assert len(catalogue(Vocabulary(costs=True)).names) == len(catalogue().names) + 2


def test_out_of_time_own_shares_err_less() -> None:
    """Half a year after the moment of training, what came by plain SQL, month by month."""
    made, ends = model(), [f"2024-{m:02d}-01" for m in range(1, 8)]
    here, labels = gather(store(), made.catalogue, KNOWN, ZONE, 1.0, range(1, 7))
    told = made.predict(here, KNOWN, [6])
    found = Margin.of(told.flow.margin, labels[6].net, labels[6].earned(REST), REST)
    ids = here.ids[here.who]
    came = [
        sums(orders(), f"order_ts >= '{a}' AND order_ts < '{b}'").reindex(ids).fillna(0.0)
        for a, b in pairwise(ends)
    ]
    whole = sum(came)
    assert found.revenue == pytest.approx(whole["net"].sum(), rel=1e-12)
    assert found.earned == pytest.approx((whole["net"] - whole["cost"]).sum(), rel=1e-12)
    assert found.flat == pytest.approx(REST * found.revenue, rel=1e-12)
    assert abs(found.told / found.earned - 1) < 0.06 < 1 - found.flat / found.earned
    assert found.error < 0.7 * found.flat_error
    # Intervals are held against what was earned.
    said = told.rehearsed(labels, KNOWN, 6, REST)
    due = sum((part["net"] - part["cost"]) * 1.1 ** (-(m + 0.5) / 12)
              for m, part in enumerate(came))  # fmt: skip
    np.testing.assert_allclose(said.actual, due + told.pending_value, atol=1e-8)


def test_words_say_where_the_margin_comes_from() -> None:
    said = words._earning(model(True))
    assert "learned from the cost of orders" in said
    assert "has none and takes [business] margin, 30%" in said
    assert "[business] margin" not in words._earning(model())
    told = Margin.of(0.5, np.array([10.0, 20.0]), np.array([4.0, 12.0]), 0.4)
    assert told.as_dict() == {
        "revenue": 30.0, "earned": 16.0, "told": 15.0, "flat": 12.0, "error": 1.5,
        "flat_error": 2.0, "bias": 15 / 16 - 1, "flat_bias": -0.25,
    }  # fmt: skip
    assert "53.3% of the revenue that came was earned" in told.sentence("EUR")


def test_a_campaign_is_measured_in_what_was_earned() -> None:
    """The outcome of contacts is amount less cost, by plain SQL; without a cost the share."""
    ids = sorted(orders()["customer_id"].unique())[:200]
    contacts = pd.DataFrame({
        "customer_id": ids, "arm": ["treatment", "control"] * 100, "ts": KNOWN
    })  # fmt: skip
    made = campaigns.experiment(store(True), contacts, 90, "margin", REST).frame
    until = text(KNOWN + 90 * 86_400_000_000, ZONE)
    came = sums(orders(True), f"order_ts >= '{DATE}' AND order_ts < '{until}'").reindex(ids)
    want = (came["costed"] - came["cost"] + REST * (came["net"] - came["costed"])).fillna(0)
    own = made.set_index("customer_id")["margin"].loc[ids]
    assert abs(own - want).max() < 0.0051
    plain = SimpleNamespace(**{n: came[n].fillna(0) for n in ("net",)})
    assert abs(own - REST * plain.net).max() > 1
