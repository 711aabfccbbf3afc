"""Batch, single, chunked and online: the same bits, whatever the way a customer comes in."""

import json
from dataclasses import replace

import fitted
import numpy as np
import pandas as pd
import pytest
from conftest import same_bits

from features import simulate
from features.errors import InputError
from features.records import RecordError
from features.settings import parse
from features.spine import instant
from serving.batch import score
from serving.loader import Loaded
from serving.online import Scorer, scorer_of, warm
from training.fitting import fit
from training.integrals import FEW

AS_OF = fitted.KNOWN
DATE = "2024-07-01"


def plain(value):
    """A cell of a frame as a request holds it."""
    if value is None or value is pd.NaT or (isinstance(value, float) and np.isnan(value)):
        return None
    if isinstance(value, pd.Timestamp):
        return value.isoformat()
    return value.item() if isinstance(value, np.generic) else value


def by_customer(frame):
    rows = [{k: plain(v) for k, v in row.items()} for row in frame.to_dict("records")]
    found = {}
    for row in rows:
        found.setdefault(row.pop("customer_id"), []).append(row)
    return found


def customers(tables, ids, rng):
    """Customers as a request holds them, their orders in any order."""
    known = {name: by_customer(frame) for name, frame in tables.items()}
    found = []
    for name in ids:
        orders = known["orders"][name]
        one = {"customer_id": name, "orders": [orders[k] for k in rng.permutation(len(orders))]}
        one["profile"] = known["customers"].get(name, [{}])[0]
        if "events" in known:
            one["events"] = known["events"].get(name, [])
        found.append(one)
    return found


def assert_same(found, table):
    """The rows of an answer are those of the batch's table, to the bit."""
    assert len(found) == len(table)
    for name in table.columns:
        mine, theirs = [row[name] for row in found], table[name]
        if theirs.dtype.kind == "f":
            assert same_bits(np.array(mine, np.float64), theirs.to_numpy()), name
        elif name == "reasons":
            assert mine == [json.loads(text) for text in theirs], name
        else:
            assert mine == [plain(value) for value in theirs], name


def with_rule(rule):
    """The fitted model under another definition of churn, whose column is made row by row."""
    model, settings = fitted.base().model, fitted.settings(business={"churn": rule})
    return Loaded(replace(model, settings=settings), "7")


def test_batch_single_chunked_and_online_differ_in_no_bit():
    loaded, tables = with_rule("no_order"), fitted.shop()
    table = score(loaded, dict(tables), as_of=DATE, workers=1).frame
    asked = customers(tables, table["customer_id"], np.random.default_rng(1))
    scorer, months = Scorer(loaded), loaded.months(None)
    assert_same(scorer.predict(asked, AS_OF, months).predictions, table)
    for size in (1, 7, FEW + 1):
        some = asked[: 30 * size]
        parts = [some[i : i + size] for i in range(0, len(some), size)]
        found = [row for part in parts for row in scorer.predict(part, AS_OF, months).predictions]
        assert_same(found, table.iloc[: len(some)].reset_index(drop=True))


@pytest.mark.parametrize("rule", ["own_gap:3", "contract_end"])
def test_reasons_and_other_definitions_of_churn_differ_in_no_bit(rule):
    people = fitted.shop()["customers"].iloc[:150]
    orders = fitted.shop()["orders"]
    tables = {
        "orders": orders[orders["customer_id"].isin(people["customer_id"])], "customers": people
    }  # fmt: skip
    loaded = with_rule(rule)
    table = score(loaded, dict(tables), as_of=DATE, reasons=3, workers=1).frame
    asked = customers(tables, table["customer_id"], np.random.default_rng(1))
    scorer, months = Scorer(loaded), loaded.months(None)
    assert_same(scorer.predict(asked, AS_OF, months, 3).predictions, table)
    one = [scorer.predict([each], AS_OF, months, 3).predictions[0] for each in asked[:20]]
    assert_same(one, table.iloc[:20])


@pytest.fixture(scope="module")
def whole():
    """A whole shop (seasons, events, categories, attributes) and a model of it."""
    tables = dict(simulate.shop(500, 3.0, 4).tables)
    orders = tables["orders"]
    orders = orders[orders["currency"].fillna("EUR") == "EUR"]
    settings = parse(
        {"business": {"currency": "EUR", "time_zone": "Europe/Berlin", "margin": 0.4},
         "model": {"thin_below": 0, "origins": 2}, "horizons": {"months": [3, 12]}}
    )  # fmt: skip
    tables = {"orders": orders, "customers": tables["customers"], "events": tables["events"]}
    store = fitted.ingest(tables, settings)
    day = str(orders["order_ts"].max().date() - pd.Timedelta(days=200))
    as_of = instant(day, "Europe/Berlin")
    return tables, Loaded(fit(store, as_of, 6, settings).model, "1"), day, as_of


def test_a_whole_shop_with_events_and_attributes_differs_in_no_bit(whole):
    tables, loaded, day, as_of = whole
    table = score(loaded, tables, as_of=day, reasons=2, workers=1, allow_gap=True).frame
    assert loaded.model.vocabulary.events
    assert loaded.model.vocabulary.attributes
    asked = customers(tables, table["customer_id"], np.random.default_rng(2))
    scorer, months = Scorer(loaded), loaded.months(None)
    found = scorer.predict(asked, as_of, months, 2).predictions
    assert_same(found, table)
    singly = [scorer.predict([one], as_of, months, 2).predictions[0] for one in asked[:60]]
    assert singly == found[:60]


def test_what_is_not_known_is_noted_and_not_named(whole):
    _, loaded, _, as_of = whole
    order = {"order_ts": "2024-01-01", "amount": 5.0, "category": "canary", "channel": "web"}
    customer = {"customer_id": "a", "orders": [order], "events": [], "profile": {"country": "ZZ"}}
    notes = Scorer(loaded).predict([customer], as_of, (12,)).notes
    told = {(note.rule, note.where) for note in notes}
    assert ("unknown_level", ("customers", 0, "orders", 0, "category")) in told
    assert ("unknown_level", ("customers", 0, "profile", "country")) in told
    assert ("missing_column", ("customers",)) in told
    assert "canary" not in repr(notes)
    known = loaded.model.vocabulary.category[0]
    other = customer | {"orders": [order | {"category": "another"}]}
    same = customer | {"orders": [order | {"category": known}]}
    rows = [Scorer(loaded).predict([each], as_of, (12,)).predictions for each in (customer, other)]
    assert rows[0] == rows[1]
    assert not [
        note for note in Scorer(loaded).predict([same], as_of, (12,)).notes
        if note.where[-1] == "category"
    ]  # fmt: skip


def test_a_model_that_reads_events_asks_for_them(whole):
    _, loaded, _, as_of = whole
    customer = {"customer_id": "a", "orders": [{"order_ts": "2024-01-01", "amount": 5.0}]}
    for given in ({}, {"events": None}):
        with pytest.raises(RecordError) as told:
            Scorer(loaded).predict([customer | given], as_of, (12,))
        assert told.value.where == ("customers", 0, "events")


def test_a_contract_is_asked_for_where_churn_is_its_end():
    model = fitted.base().model
    settings = fitted.settings(business={"churn": "contract_end"})
    scorer = Scorer(Loaded(replace(model, settings=settings), "1"))
    customer = {"customer_id": "a", "orders": [{"order_ts": "2024-01-01", "amount": 5.0}]}
    with pytest.raises(InputError, match="contract_end"):
        scorer.predict([customer], AS_OF, (12,))


def test_one_scorer_serves_a_model_until_others_come():
    first = Loaded(fitted.base().model, "1")
    assert scorer_of(first) is scorer_of(first)
    warm(first)
    others = [Loaded(fitted.base().model, str(k)) for k in range(3)]
    assert [scorer_of(each).loaded.version for each in others] == ["0", "1", "2"]
    assert scorer_of(others[2]) is scorer_of(others[2])
