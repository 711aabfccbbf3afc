"""Value month by month, and discount rates of a segment's own: the same money on every way."""

from __future__ import annotations

import contextlib
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal, getcontext
from functools import cache
from pathlib import Path
from typing import Any

import fitted
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from conftest import clv, same_bits, use_home

from features import people, simulate, tables
from features.behaviour import build
from features.errors import InputError
from features.money import Cashflow, monthly_rate
from features.people import People
from features.settings import RateBySegment, Settings, parse
from features.spine import Cutoffs, instant
from features.store import Store
from serving import batch, parts, writing
from serving.loader import Loaded
from serving.online import Scorer
from training.drivers import drivers
from training.fitting import fit
from training.model import Model
from training.packing import pack, unpack
from training.reasons import explain, explain_prospects

getcontext().prec = 40
DATE = "2025-07-01"
NOW = instant(DATE, "UTC")
RATES = {"DE": 0.02, "AT": 0.4, "CH": 0.0}


@cache
def made() -> simulate.Shop:
    return simulate.shop(1_500, 2.25, seed=11)


def data() -> dict[str, pd.DataFrame]:
    return {name: made().tables[name] for name in ("orders", "rates", "aliases", "customers")}


@cache
def settings() -> Settings:
    few = {"origins": 2, "thin_below": 100, "max_rows": 2_000}
    raw = tomllib.loads(made().settings)
    raw["business"] |= {"retention_cost_per_month": 0.75}
    return parse({**raw, "model": few, "horizons": {"months": [3, 12]}})


@cache
def store() -> Store:
    return fitted.ingest(data(), settings())


@cache
def model() -> Model:
    return fit(store(), NOW, 12, settings()).model


def rated(rates: dict[str, float] | None = None, **business: Any) -> Loaded:
    """The model with other money: nothing of it is learned, so none of it is fitted again."""
    if rates is not None:
        business["discount_rate_by_segment"] = RateBySegment("country", rates)
    chosen = replace(settings(), business=replace(settings().business, **business))
    return Loaded(replace(model(), settings=chosen), "1")


@cache
def about() -> tables.Ingested:
    with tempfile.TemporaryDirectory() as folder:
        return tables.ingest(data(), settings(), Path(folder))


@contextlib.contextmanager
def buckets(count: int) -> Iterator[None]:
    """Batches read the shop in so many buckets, and not anew each time."""
    some = fitted.split(store(), count) if count > 1 else store()

    @contextlib.contextmanager
    def read(*_: Any) -> Iterator[Any]:
        yield some, about()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch, "read", read)
        patch.setattr(parts, "GROUP", 97)
        yield


def scored(loaded: Loaded, **asked: Any) -> pd.DataFrame:
    with buckets(1):
        return batch.score(loaded, data(), as_of=DATE, workers=1, **asked).frame


def months_of(frame: pd.DataFrame) -> np.ndarray:
    names = [name for name in frame if str(name).startswith("month_")]
    assert names == [f"month_{m}" for m in range(1, len(names) + 1)]
    return frame[names].to_numpy(np.float64)


@pytest.mark.parametrize("rates", [None, RATES])
def test_the_months_add_up_to_the_value_at_every_horizon(
    rates: dict[str, float] | None, tmp_path: Path
) -> None:
    """For customers and prospects, file by file, however many buckets there are."""
    loaded = rated(rates)
    with buckets(4), pytest.MonkeyPatch.context() as patch:
        use_home(patch, tmp_path / "home")
        asked = {"as_of": DATE, "horizons": [3, 12, 24], "prospects": True, "workers": 2}
        plain = batch.score(loaded, data(), **asked)
        files = [tmp_path / "flows.csv", tmp_path / "flows.parquet"]
        for file in files:
            again = batch.score(loaded, data(), **asked, cashflow=file)
            pd.testing.assert_frame_equal(again.frame, plain.frame)
    ids = plain.frame["customer_id"].tolist()
    assert set(plain.frame["evidence"]) == {"extrapolated", "cold_start"}
    text = pd.read_csv(files[0], dtype={"customer_id": str})
    table = pq.read_table(files[1]).to_pandas()
    assert list(text) == list(table)
    for frame in (text, table):
        assert frame["customer_id"].tolist() == ids
        assert set(frame["as_of"]) == {DATE}
        flows = months_of(frame)
        assert flows.shape == (len(ids), 24)
        for h in (3, 12, 24):
            value = plain.frame[f"clv_{h}m"].to_numpy()
            whole = flows[:, :h].sum(axis=1)
            assert np.allclose(whole, value, rtol=1e-12, atol=1e-9)
            assert (np.abs(np.rint(whole * 100) - np.rint(value * 100)) <= 1).all()
    assert same_bits(months_of(text), months_of(table))


def test_a_month_is_what_revenue_of_two_horizons_says() -> None:
    """Against exact decimals from the predictions of each month, at the rate of a month."""
    loaded = rated(discount_rate=0.21)
    frame = scored(loaded, horizons=range(1, 25)).head(40)
    rows = build(store().bucket(0), Cutoffs.at([NOW], "UTC"), model().catalogue)
    flows = loaded.model.priced(rows, NOW, [24]).cashflow(24)[:40]
    margins = (frame["margin_24m"] / frame["revenue_24m"]).tolist()
    assert len(set(margins)) > 30  # each customer's own, learned from costs
    step = 1 + Decimal(monthly_rate(0.21))
    assert abs(step**12 - Decimal("1.21")) < Decimal("1e-14")
    for i in range(40):
        before = Decimal(0)
        for m in range(1, 25):
            whole = Decimal(float(frame[f"revenue_{m}m"].iloc[i]))
            earned = (whole - before) * Decimal(margins[i]) - Decimal("0.75")
            before = whole
            due = earned / step ** (Decimal(m) - Decimal("0.5"))
            assert abs(Decimal(float(flows[i, m - 1])) - due) < Decimal("1e-9")


def test_a_value_at_a_rate_of_zero_is_the_sum_itself() -> None:
    """1.00 a month from now on is 1.00, in a segment of that rate as for everybody."""
    free = rated(discount_rate=0.0, retention_cost=0.0)
    table = scored(free)
    for h in (3, 12):
        assert np.allclose(table[f"clv_{h}m"], table[f"margin_{h}m"], rtol=1e-13, atol=1e-11)
    assert Cashflow(1.0, 0.0, 0.0).factor(24) == 1.0
    assert (Cashflow(1.0, 0.0, 0.0).monthly(np.arange(1.0, 25.0)[None, :]) == 1.0).all()
    own = scored(rated(RATES, retention_cost=0.0))
    country = data()["customers"].set_index("customer_id")["country"]
    swiss = (country.reindex(own["customer_id"]) == "CH").to_numpy()
    assert 0 < swiss.sum() < len(own)
    assert np.allclose(own["clv_12m"][swiss], own["margin_12m"][swiss], rtol=1e-13, atol=1e-11)


def test_each_segment_has_the_values_of_a_model_of_its_rate() -> None:
    """To the bit, intervals included; who has no rate of their own takes the base one."""
    table = scored(rated(RATES), prospects=True)
    country = data()["customers"].set_index("customer_id")["country"].reindex(table["customer_id"])
    rate = country.map(RATES).fillna(settings().business.discount_rate).to_numpy()
    assert len(set(rate)) == 4
    for one in sorted(set(rate)):
        alone = scored(rated(discount_rate=one), prospects=True)
        here = rate == one
        pd.testing.assert_frame_equal(table[here], alone[here])
    base = scored(rated(), prospects=True)
    usual = settings().business.discount_rate
    low, high = rate < usual, rate > usual
    assert (table["clv_12m_sd"][low] >= base["clv_12m_sd"][low]).all()
    assert (table["clv_12m_sd"][high] <= base["clv_12m_sd"][high]).all()
    assert low.any()
    assert high.any()
    assert same_bits(table["revenue_12m"].to_numpy(), base["revenue_12m"].to_numpy())


def test_one_customer_online_has_the_rate_of_their_profile() -> None:
    loaded = rated(RATES)
    table = scored(loaded, horizons=[12]).set_index("customer_id")
    orders = data()["orders"]
    orders = orders[orders["currency"] == "EUR"]
    foreign = set(data()["orders"]["customer_id"][data()["orders"]["currency"] != "EUR"])
    country = data()["customers"].set_index("customer_id")["country"]
    scorer, seen = Scorer(loaded), set()
    for name in [n for n in table.index if n not in foreign][:200:8]:
        own = orders[orders["customer_id"] == name]
        lines = [
            {k: v.isoformat() if k == "order_ts" else v for k, v in row.items()}
            for row in own.drop(columns="customer_id").to_dict("records")
        ]
        if not lines:
            continue
        about = data()["customers"].set_index("customer_id").loc[name]
        profile = {k: str(about[k]) for k in ("country", "birth_year", "acquisition_channel")}
        asked = {"customer_id": name, "orders": lines, "profile": profile}
        (told,) = scorer.predict([asked], NOW, (12,)).predictions
        assert told["clv_12m"] == table["clv_12m"][name]
        assert told["clv_12m_low"] == table["clv_12m_low"][name]
        seen.add(country[name])
    assert len(seen & {"DE", "AT", "CH"}) > 1


def test_who_lacks_the_attribute_takes_the_base_rate_and_it_is_said() -> None:
    """As with any column that the model knows; once, though the attribute is a feature too."""
    without = data() | {"customers": data()["customers"].drop(columns="country")}
    found = batch.score(rated(RATES), without, as_of=DATE)
    assert found.missing.count("customer_country") == 1
    base = batch.score(rated(), without, as_of=DATE)
    pd.testing.assert_frame_equal(found.frame, base.frame)
    by = RateBySegment("loyalty_member", {"True": 0.3})
    loyal = rated(discount_rate_by_segment=by)
    line = {"order_ts": "2025-01-01", "amount": 5.0}
    notes = Scorer(loyal).predict([{"customer_id": "a", "orders": [line]}], NOW, (12,)).notes
    assert "no profile has loyalty_member" in {note.text for note in notes}
    told = {"customer_id": "a", "orders": [line], "profile": {"loyalty_member": True}}
    notes = Scorer(loyal).predict([told], NOW, (12,)).notes
    assert "no profile has loyalty_member" not in {note.text for note in notes}


def test_reasons_and_drivers_speak_of_the_same_money() -> None:
    loaded = rated(RATES)
    table = scored(loaded, prospects=True).set_index("customer_id")
    rows = build(store().bucket(0), Cutoffs.at([NOW], "UTC"), model().catalogue)
    total = explain(loaded.model, rows, NOW, 12).total
    assert np.allclose(total, table["clv_12m"].loc[rows.ids[rows.who]], atol=1e-9)
    own = loaded.model.require_prospects().vocabulary
    waiting = people.prospects(People.of(store(), 0), Cutoffs.at([NOW], "UTC"), own)
    total = explain_prospects(loaded.model, waiting, NOW, 12).total
    assert np.allclose(total, table["clv_12m"].loc[waiting.ids[waiting.who]], atol=1e-9)
    some = rows.take(np.arange(len(rows)) < 300)
    one, other = (drivers(each.model, some, NOW, 12).features for each in (loaded, rated()))
    joined = one.merge(other, on="feature", suffixes=("", "_base"))
    assert not np.allclose(joined["at_risk"], joined["at_risk_base"])


def test_rates_beside_the_data_must_be_those_of_the_model(tmp_path: Path) -> None:
    """What the service would not know must not change what a batch says."""
    made().tables["orders"].to_parquet(tmp_path / "orders.parquet")
    business = '[business]\ncurrency = "EUR"\n[business.discount_rate_by_segment]\n'
    (tmp_path / "clv.toml").write_text(business + 'column = "country"\nrates = { DE = 0.05 }\n')
    with pytest.raises(InputError, match=r"the model's: none\. Got country DE 0\.05\. Train"):
        rated().settings(tmp_path)
    with pytest.raises(InputError, match=r"model's: country AT 0\.4, CH 0, DE 0\.02\. Got"):
        rated(RATES).settings(tmp_path)
    assert rated({"DE": 0.05}).settings(tmp_path).business.retention_cost == 0.75


def test_the_rates_travel_with_the_model() -> None:
    loaded = rated(RATES)
    again = unpack(pack(loaded.model))
    assert again.settings.business.discount_rate_by_segment == RateBySegment("country", RATES)
    rows = build(store().bucket(0), Cutoffs.at([NOW], "UTC"), model().catalogue)
    one, two = (m.table(rows, NOW, [12], "1") for m in (loaded.model, again))
    pd.testing.assert_frame_equal(one, two)


def test_the_command_writes_both_files(at_home: Any, tmp_path: Path) -> None:
    out, flows = tmp_path / "p.csv", tmp_path / "deep" / "flows.csv"
    ran = clv("predict", at_home.data, "--out", out, "--cashflow", flows)
    assert ran.code == 0, ran.err
    assert f"Value of each month written to {flows}" in ran.out
    table, months = (pd.read_csv(f, dtype={"customer_id": str}, keep_default_na=False)
                     for f in (out, flows))  # fmt: skip
    assert (table["customer_id"] == months["customer_id"]).all()
    assert np.allclose(months_of(months).sum(axis=1), table["clv_12m"], atol=1e-9)
    before = flows.read_bytes()
    for words, why in (
        (("--cashflow", tmp_path / "a.xlsx"), "--cashflow must end in .csv or .parquet"),
        (("--cashflow", out), "--cashflow must be another file than --out"),
        (("--cashflow", flows, "--as-of", "1990-01-01"), "must come after the first order"),
    ):
        ran = clv("predict", at_home.data, "--out", out, *words)
        assert (ran.code, why in ran.err) == (2, True), ran.err
    assert flows.read_bytes() == before


def test_a_place_that_cannot_be_written_is_told_by_its_own_option(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with (
        pytest.raises(InputError, match=r"^--cashflow must be a place"),
        writing.replacing(tmp_path / "file/months.csv", "--cashflow"),
    ):
        pass
