"""The grid of value and churn: where its lines run, and that a row alone decides its segment."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import Trained, use_home
from hypothesis import given
from hypothesis import strategies as st

from features.behaviour import Rows
from features.errors import InputError
from features.reading import read
from features.settings import Segments, load, parse
from features.spine import instant
from serving.batch import score
from serving.loader import load as load_model
from serving.online import scorer_of
from training.grid import GROW, KEEP, NAMES, PROSPECT, REST, WIN, Grid, top, worth
from training.model import Model
from training.packing import pack, unpack
from training.population import Population
from training.predictions import Predictions
from training.samples import gather

KNOWN = instant("2025-07-01", "UTC")
MONTHS = range(1, 25)
Shop = tuple[Model, Rows]


@pytest.fixture(scope="module")
def shop(trained: Trained) -> Shop:
    """A model of a release that knew no segments, and all customers."""
    with pytest.MonkeyPatch.context() as patch:
        use_home(patch, trained.home)
        model = load_model("champion").model
    with read(trained.data, model.settings) as (store, _):
        rows, _ = gather(store, model.catalogue, KNOWN, "UTC", 1.0)
    return replace(model, grid=None), rows


def predicted(shop: Shop) -> Predictions:
    model, rows = shop
    return model.predict(rows, KNOWN, MONTHS)


def lines(shop: Shop, **chosen: float) -> Grid:
    return Grid.fit(predicted(shop), 12, Segments(**chosen))


def sealed(shop: Shop) -> Model:
    return replace(shop[0], grid=lines(shop))


def expected(row: dict[str, float], grid: Grid) -> str:
    """By the definition in words, one customer at a time."""
    value = max(row["clv_12m"] + row["retention_cost_12m"], 0)
    if_they_order = value / max(1 - row["churn_12m"], 1e-6)
    much, leaves = if_they_order >= grid.value, row["churn_12m"] >= grid.churn
    return {(True, False): "Keep close", (True, True): "Win over", (False, False): "Grow",
            (False, True): "Let rest"}[much, leaves]  # fmt: skip


def test_every_customer_has_the_segment_that_their_row_says(shop: Shop) -> None:
    table = sealed(shop).table(shop[1], KNOWN, (1, 12, 24), "1")
    told = [expected(row, lines(shop)) for row in table.to_dict("records")]
    assert table["segment"].tolist() == told
    assert set(told) == {KEEP, WIN, GROW, REST}


def test_a_quarter_is_worth_much_unless_the_settings_say_otherwise(shop: Shop) -> None:
    table = shop[0].table(shop[1], KNOWN, (12,), "1")
    value = worth(*(table[f"{n}_12m"].to_numpy() for n in ("clv", "retention_cost", "churn")))
    for share in (0.25, 0.1):
        grid = lines(shop, valuable=share)
        assert (value >= grid.value).sum() == np.ceil(share * len(table))
        assert grid.value in value
    assert lines(shop, value=33.5, churn=0.7) == Grid(12, 33.5, 0.7)


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=30), st.floats(0.01, 0.99))
def test_the_line_leaves_at_least_the_share_above_and_no_more_than_ties_force(
    values: list[float], share: float
) -> None:
    line = top(np.array(values), share)
    above, wanted = sum(v >= line for v in values), np.ceil(share * len(values))
    assert sum(v > line for v in values) < wanted <= above


def test_a_segment_hangs_neither_on_the_horizons_nor_on_the_others(shop: Shop) -> None:
    model, rows = sealed(shop), shop[1]
    whole = model.table(rows, KNOWN, (12,), "1")["segment"]
    assert model.table(rows, KNOWN, (3, 24), "1")["segment"].equals(whole)
    for i in (0, 17, 333):
        alone = rows.take(np.arange(len(rows)) == i)
        assert model.table(alone, KNOWN, (1,), "1")["segment"].tolist() == [whole[i]]


def test_what_was_not_asked_for_has_the_bits_of_the_column(shop: Shop) -> None:
    model, rows = shop
    asked, other = (model.predict(rows, KNOWN, h) for h in ((1, 12, 24), (6,)))
    for h in (1, 12, 24):
        assert np.array_equal(other.clv(h), asked.columns()[f"clv_{h}m"])
        assert np.array_equal(other.churn_by(h), asked.columns()[f"churn_{h}m"])


def test_the_lines_travel_with_the_model_and_older_models_have_none(shop: Shop) -> None:
    assert unpack(pack(sealed(shop))).grid == lines(shop)
    old = pack(sealed(shop))
    del old.card["grid"]
    unnamed = unpack(old)
    told = unnamed.table(shop[1], KNOWN, (12,), "1")["segment"]
    assert unnamed.grid is None
    assert told.isna().all()
    assert str(told.dtype) in ("str", "string")


def test_batch_and_one_customer_name_the_same_segment(at_home: Trained) -> None:
    loaded = load_model("champion")
    batch = score(loaded, at_home.data, as_of=at_home.as_of).frame
    assert loaded.model.grid is not None
    assert loaded.model.grid.months == 3  # the first horizon of the settings
    assert batch["segment"].isin(NAMES).all()
    told = batch.set_index("customer_id")["segment"]
    ids = batch["customer_id"].tolist()[::40]
    people = at_home.customers.set_index("customer_id")
    asked = []
    for name in ids:
        own = at_home.orders[at_home.orders["customer_id"] == name].drop(columns="customer_id")
        orders = own.assign(order_ts=own["order_ts"].astype(str)).to_dict("records")
        profile = {"acquisition_channel": people.loc[name, "acquisition_channel"],
                   "acquired_at": str(people.loc[name, "acquired_at"])}  # fmt: skip
        asked.append({"customer_id": name, "orders": orders, "profile": profile})
    answer = scorer_of(loaded).predict(asked, KNOWN, (12,))
    assert [row["segment"] for row in answer.predictions] == told[ids].tolist()


def test_somebody_without_an_order_is_a_prospect(shop: Shop) -> None:
    model = replace(sealed(shop), population=Population.of(predicted(shop), KNOWN), prospects=None)
    assert model.unknown_table("who", KNOWN, (12,), "1")["segment"].tolist() == [PROSPECT]


def test_settings_hold_the_lines_within_reason() -> None:
    assert parse({"segments": {"churn": 0.8, "value": 120}}).segments.value == 120
    assert load(None).segments == Segments()
    for wrong in ({"churn": 1.0}, {"valuable": 0}, {"value": 0}, {"value": "much"}):
        with pytest.raises(InputError, match=r"segments\."):
            parse({"segments": wrong})
