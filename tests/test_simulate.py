from __future__ import annotations

import hashlib
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest
from scipy.stats import beta, gamma

from features import settings, simulate
from features.errors import InputError
from features.shop import Calendar, draw_people

CONTRACT = {
    "orders": "customer_id order_ts amount order_id product_id category channel quantity discount "
    "cost currency",
    "customers": "customer_id acquired_at acquisition_channel acquisition_cost country birth_year "
    "contract_end referrer_id email phone first_name last_name zip city consent_email "
    "consent_sms consent_ads loyalty_member",
    "events": "customer_id ts kind value channel",
    "spend": "channel month amount fees currency",
    "contacts": "campaign_id customer_id ts arm offer cost channel",
    "rates": "currency day rate",
    "aliases": "old_id customer_id",
}


@pytest.fixture(scope="module")
def benched() -> simulate.Shop:
    return simulate.bench(25_000, seed=5)


@pytest.fixture(scope="module")
def shop() -> simulate.Shop:
    return simulate.shop(4_000, years=3.0, seed=5)


def digests(shop: simulate.Shop, folder: Path) -> dict[str, str]:
    simulate.write(shop, folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


@pytest.mark.parametrize("make", [simulate.bench, simulate.shop])
def test_the_seed_decides_every_byte(make, tmp_path):
    one, same, other = (
        digests(make(200, seed=seed), tmp_path / name)
        for seed, name in [(3, "one"), (3, "same"), (4, "other")]
    )
    assert one == same
    assert {f for f in one if f.endswith("parquet") and one[f] == other[f]} == set()


def todays_ids(shop: simulate.Shop) -> pd.Series:
    ids = shop.tables["orders"]["customer_id"]
    return ids.map(shop.tables["aliases"].set_index("old_id")["customer_id"]).fillna(ids)


def test_bench_is_the_shop_that_the_design_fixes(benched):
    orders, people = benched.tables["orders"], benched.tables["customers"]
    start = simulate.BENCH_AS_OF - pd.Timedelta(weeks=130)
    assert list(orders) == ["customer_id", "order_ts", "amount", "order_id", "channel"]
    assert list(people) == ["customer_id", "acquired_at", "acquisition_channel"]
    shares = people["acquisition_channel"].value_counts(normalize=True)
    expected = {"search": 0.4, "social": 0.3, "affiliate": 0.2, "referral": 0.1}
    assert all(abs(shares[name] - share) < 0.01 for name, share in expected.items())
    # Uniform: the gap to the straight line stays below the 0.1 % limit of Kolmogorov.
    week = ((people["acquired_at"] - start) / pd.Timedelta(weeks=1)).sort_values().to_numpy()
    assert week.min() >= 0
    assert np.abs(week / 130 - np.arange(len(week)) / len(week)).max() < 1.95 / np.sqrt(len(week))
    first = orders.groupby("customer_id")["order_ts"].min()
    assert (first.to_numpy() == people.set_index("customer_id")["acquired_at"][first.index]).all()
    assert orders["order_ts"].is_monotonic_increasing
    assert orders["order_ts"].max() < simulate.BENCH_AS_OF + pd.Timedelta(weeks=104)
    assert orders["order_ts"].max() > simulate.BENCH_AS_OF + pd.Timedelta(weeks=103.9)
    assert orders["order_id"].is_unique
    assert orders["amount"].min() > 0
    assert (orders["amount"] == orders["amount"].round(2)).all()
    told = orders["customer_id"].map(people.set_index("customer_id")["acquisition_channel"])
    assert (orders["channel"] == told).all()


def test_bench_marketing_pays_for_sign_ups_by_channel(benched):
    people, spend = benched.tables["customers"], benched.tables["spend"]
    paid = spend.assign(cost=spend["amount"] + spend["fees"]).groupby("channel")["cost"].sum()
    cost = paid / people["acquisition_channel"].value_counts()
    wanted = {"search": 5, "social": 15, "affiliate": 15, "referral": 45}
    assert cost.to_dict() == pytest.approx(wanted, rel=0.05)
    assert spend["fees"].sum() == pytest.approx(paid.sum() / 11, rel=1e-3)
    months = people["acquired_at"].dt.strftime("%Y-%m")
    assert set(spend["month"]) == set(months)


def test_bench_spend_has_the_mean_of_gamma_gamma(benched):
    # Per customer, since frequent buyers' amounts are not independent: p gamma / (q - 1).
    orders = benched.tables["orders"]
    mean = orders.groupby(["channel", "customer_id"])["amount"].mean().groupby("channel")
    expected = {
        "search": 72 / 2.6,
        "social": 90 / 2.6,
        "affiliate": 120 / 2.4,
        "referral": 125 / 2.2,
    }
    error = (mean.mean() - pd.Series(expected)) / (mean.std() / np.sqrt(mean.size()))
    assert error.abs().max() < 4


def test_a_published_forecast(monkeypatch):
    # Fader, Hardie and Lee (2005), CDNOW: customer 0001 (x 2, tx 30.43, T 38.86), 39 weeks: 1.226.
    law = pd.DataFrame([[0.243, 4.414, 0.793, 2.426]], columns=["r", "alpha", "a", "b"])
    monkeypatch.setattr(simulate, "_LAWS", law)
    x, tx, age = np.array([2.0]), np.array([30.43]), np.array([38.86])
    expected, _ = simulate._bgnbd(np.array([0]), x, tx, age, 39)
    assert expected[0] == pytest.approx(1.226, abs=0.0006)


@pytest.mark.parametrize(
    ("x", "tx", "age"), [(0, 0.0, 20.0), (0, 0.0, 129.0), (1, 3.0, 60.0), (6, 50.0, 58.0)]
)
@pytest.mark.parametrize("number", range(4))
def test_closed_forms_against_integration(number, x, tx, age):
    # The definition itself, by quadrature over the rate and the chance to leave.
    law = simulate._LAWS.iloc[number]
    points, weights = np.polynomial.legendre.leggauss(120)
    points, weights = (points + 1) / 2, weights / 2
    # Both substitutions flatten the poles of the densities at zero and one.
    rate, chance = gamma.ppf(points, law.r, scale=1 / law.alpha), beta.ppf(points, law.a, law.b)
    lam, p = rate[:, None], chance[None, :]
    weight = weights[:, None] * weights[None, :]
    here = lam**x * (1 - p) ** x * np.exp(-lam * age)
    gone = lam**x * p * (1 - p) ** (x - 1) * np.exp(-lam * tx) if x else np.zeros_like(here)
    total = (weight * (here + gone)).sum()
    ahead = (weight * here * -np.expm1(-lam * p * 104) / p).sum() / total
    silent = (weight * (here * np.exp(-lam * 104) + gone)).sum() / total
    one = [np.array([float(v)]) for v in (x, tx, age)]
    got = simulate._bgnbd(np.array([number]), *one, 104)
    assert got[0][0] == pytest.approx(ahead, rel=2e-3)
    assert got[1][0] == pytest.approx(silent, rel=2e-3)


def test_expected_value_against_integration(benched):
    # One customer's orders, the mean amount p / nu averaged over the posterior of nu.
    orders = benched.tables["orders"]
    past = orders[orders["order_ts"] < simulate.BENCH_AS_OF]
    truth = benched.truth["truth"].set_index("customer_id")
    for customer in past["customer_id"].iloc[[0, 10_000, 20_000]]:
        amounts = past.loc[past["customer_id"] == customer, "amount"].to_numpy()
        law = simulate._LAWS.loc[past.loc[past["customer_id"] == customer, "channel"].iloc[0]]
        nu = np.linspace(1e-4, 6, 100_000)
        log = gamma.logpdf(nu, law.q, scale=1 / law.gamma)
        for z in amounts:
            log += law.p * np.log(nu) - nu * z
        weight = np.exp(log - log.max())
        expected = (weight * law.p / nu).sum() / weight.sum()
        row = truth.loc[customer]
        assert row.expected_revenue / row.expected_orders == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("h", [24, 12, 3])
def test_truth_is_what_happens_on_average(benched, h):
    orders, people = benched.tables["orders"], benched.tables["customers"]
    as_of = simulate.BENCH_AS_OF
    truth = simulate.expect(orders, people, as_of, h).set_index("customer_id")
    past = orders[orders["order_ts"] < as_of].groupby("customer_id")["order_ts"]
    ahead = orders[
        (orders["order_ts"] >= as_of)
        & (orders["order_ts"] < as_of + pd.Timedelta(weeks=52 * h / 12))
    ].groupby("customer_id")["amount"]
    real = pd.DataFrame({"orders": ahead.size(), "revenue": ahead.sum()})
    real = real.reindex(truth.index, fill_value=0)
    gap = pd.DataFrame(
        {
            "orders": real["orders"] - truth["expected_orders"],
            "revenue": real["revenue"] - truth["expected_revenue"],
            "silent": (real["orders"] == 0) - truth["p_no_order"],
        }
    )
    channel = people.set_index("customer_id")["acquisition_channel"].reindex(truth.index)
    bought = pd.cut(past.size(), [0, 1, 2, 4, 9, 1_000]).astype(str)
    quiet = pd.cut((as_of - past.max()).dt.days, [-1, 60, 300, 1_000]).astype(str)
    for keys in ([channel], [bought], [quiet], [bought, quiet], [channel, bought]):
        by = [key.to_numpy() for key in keys]
        group = gap.groupby(by)
        # With few buyers to come, the spread of what came says nothing about the error.
        buyers = (1 - truth["p_no_order"]).groupby(by).sum()
        z = (group.mean() / group.sem())[buyers >= 100]
        assert len(z) >= 3
        assert z.abs().max().max() < 4.2
    total = gap.mean() / gap.sem()
    assert total.abs().max() < 3


def test_truth_sees_only_the_past_in_any_row_order(benched):
    orders, people = benched.tables["orders"], benched.tables["customers"]
    past = orders[orders["order_ts"] < simulate.BENCH_AS_OF]
    mixed = simulate.expect(past.sample(frac=1, random_state=1), people, simulate.BENCH_AS_OF)
    pd.testing.assert_frame_equal(mixed, benched.truth["truth"], check_exact=True)
    assert list(mixed) == [
        "customer_id",
        "as_of",
        "h",
        "expected_revenue",
        "expected_orders",
        "p_no_order",
    ]
    assert mixed["customer_id"].is_monotonic_increasing
    assert np.isfinite(mixed.iloc[:, 3:]).all(axis=None)
    assert mixed["p_no_order"].between(0, 1).all()
    assert (mixed["expected_orders"] >= 1 - mixed["p_no_order"] - 1e-9).all()


def test_tables_have_the_columns_of_the_contract(shop):
    assert {name: " ".join(table) for name, table in shop.tables.items()} == CONTRACT
    assert all(len(table) for table in shop.tables.values())
    optional = {"customers": {"contract_end", "referrer_id"}, "events": {"value"}}
    for name, table in shop.tables.items():
        empty = set(table.columns[table.isna().any()])
        assert empty <= optional.get(name, set()), name


def test_settings_are_read_and_end_with_the_history(shop, benched, tmp_path):
    for made, name in [(shop, "shop"), (benched, "bench")]:
        path = tmp_path / f"{name}.toml"
        path.write_text(made.settings)
        read = settings.load(path)
        end = pd.Timestamp(read.orders.complete_until) + pd.Timedelta(days=1)
        last = made.tables["orders"]["order_ts"].max()
        assert last < end < last + pd.Timedelta(days=2)
        assert (read.business.currency, read.business.time_zone) == ("EUR", "UTC")
    assert shop.truth["orders_future"]["order_ts"].min() >= pd.Timestamp("2026-07-01")


def test_every_id_is_known_and_nothing_is_out_of_time(shop):
    tables = shop.tables
    people = tables["customers"].set_index("customer_id")
    alias = tables["aliases"].set_index("old_id")["customer_id"]
    orders = tables["orders"].assign(id=todays_ids(shop))
    assert (orders["id"] != orders["customer_id"]).sum() > 20
    for ids in (orders["id"], tables["events"]["customer_id"], tables["contacts"]["customer_id"]):
        assert ids.isin(people.index).all()
    assert not alias.index.isin(people.index).any()
    for ids, ts in [
        (orders["id"], orders["order_ts"]),
        (tables["events"]["customer_id"], tables["events"]["ts"]),
        (tables["contacts"]["customer_id"], tables["contacts"]["ts"]),
    ]:
        assert (ts.to_numpy() >= people["acquired_at"].reindex(ids).to_numpy()).all()
        assert ts.max() < pd.Timestamp("2026-07-01")
    brought = people[people["referrer_id"].notna()]
    earlier = people["acquired_at"].reindex(brought["referrer_id"]).to_numpy()
    assert (earlier < brought["acquired_at"].to_numpy()).all()
    assert (brought["acquisition_channel"] == "referral").all()
    leads = ~people.index.isin(orders["id"])
    assert 0.05 < leads.mean() < 0.2
    assert people["email"].str.endswith("@example.com").all()
    assert people["email"].is_unique
    assert people.loc[tables["contacts"]["customer_id"].unique(), "consent_email"].all()


def test_refunds_never_exceed_what_was_bought(shop):
    lines = pd.concat([shop.tables["orders"], shop.truth["orders_future"]])
    back, sold = lines[lines["amount"] < 0], lines[lines["amount"] > 0]
    assert len(back) + len(sold) == len(lines)
    key = ["order_id", "product_id"]
    assert not sold.duplicated(key).any()
    both = back.merge(sold, on=key, suffixes=("_back", ""), validate="one_to_one")
    assert len(both) == len(back) > 500
    assert (both["order_ts_back"] > both["order_ts"]).all()
    for column in ("amount", "quantity", "cost"):
        assert (both[f"{column}_back"] < 0).all()
        assert (both[column] + both[f"{column}_back"] >= 0).all()
    assert (both["currency"] == both["currency_back"]).all()
    share = len(back) / len(sold)
    assert 0.05 < share < 0.2
    rates = back.groupby("category").size() / sold.groupby("category").size()
    assert rates["shoes"] > 5 * rates["books"]


def test_realised_future_against_sql(shop):
    tables = {**shop.truth, "people": shop.tables["customers"]}
    with duckdb.connect() as db:
        for name, table in tables.items():
            db.register(name, table)
        for h, end in [(12, "2027-07-01"), (24, "2028-07-01")]:
            got = db.execute(
                f"""
                select customer_id,
                    coalesce(sum(case when amount > 0 then eur end), 0) as gross,
                    coalesce(sum(eur), 0) as net,
                    count(distinct case when amount > 0 then order_id end) as orders
                from people left join (
                    select f.customer_id, order_id, amount,
                        amount * case when f.currency = 'EUR' then 1 else rate end as eur
                    from orders_future f left join rates_future r
                        on r.currency = f.currency and r.day = date_trunc('day', order_ts)
                    where order_ts < timestamp '{end}'
                ) using (customer_id) group by customer_id order by customer_id"""
            ).df()
            told = shop.truth["customers"]
            assert (got["customer_id"] == told["customer_id"]).all()
            np.testing.assert_allclose(got["gross"], told[f"gross_{h}m"], atol=0.0051)
            np.testing.assert_allclose(got["net"], told[f"net_{h}m"], atol=0.0051)
            np.testing.assert_array_equal(got["orders"], told[f"orders_{h}m"])
    assert (told.loc[~told["alive"], "orders_24m"] == 0).all()
    assert told["net_24m"].min() < 0  # refunds of past orders belong to the window


def test_currency_follows_the_country_and_has_a_rate(shop):
    orders, rates = shop.tables["orders"], shop.tables["rates"]
    country = shop.tables["customers"].set_index("customer_id")["country"]
    swiss = country.reindex(todays_ids(shop)).to_numpy() == "CH"
    assert (np.where(swiss, "CHF", "EUR") == orders["currency"]).all()
    assert orders.loc[swiss, "order_ts"].dt.normalize().isin(rates["day"]).all()
    assert rates["day"].max() < pd.Timestamp("2026-07-01")
    assert rates["rate"].between(0.5, 2).all()


def test_spend_is_the_cost_of_the_sign_ups(shop):
    people, spend = shop.tables["customers"], shop.tables["spend"]
    month = people["acquired_at"].dt.strftime("%Y-%m")
    cost = people.groupby(["acquisition_channel", month])["acquisition_cost"].sum()
    paid = spend.set_index(["channel", "month"])[["amount", "fees"]].sum(axis=1)
    cost = cost[cost > 0]
    assert len(cost) == len(paid)
    np.testing.assert_allclose(paid.reindex(cost.index), cost, atol=0.001)


def test_season_and_growth_are_visible(shop):
    orders = shop.tables["orders"].drop_duplicates("order_id")
    month = orders["order_ts"].dt.to_period("M").value_counts()
    for year in (2024, 2025):
        assert month[f"{year}-12"] > 1.5 * month[f"{year}-10"]
        assert month[f"{year}-07"] < 0.95 * month[f"{year}-10"]
    joined = shop.tables["customers"]["acquired_at"].dt.year.value_counts()
    assert joined[2025] > 1.1 * joined[2024]


def test_campaigns_bring_what_the_truth_says():
    made = simulate.shop(15_000, years=2.0, seed=9)
    orders = made.tables["orders"].assign(customer_id=todays_ids(made))
    orders = orders[orders["amount"] > 0].drop_duplicates("order_id")
    contacts = made.tables["contacts"].copy()
    contacts["row"] = np.arange(len(contacts))
    assert contacts["arm"].eq("treatment").mean() == pytest.approx(0.6, abs=0.01)
    pairs = contacts[["row", "customer_id", "ts"]].merge(orders, on="customer_id")
    since = (pairs["order_ts"] - pairs["ts"].dt.normalize()).dt.days
    after = pairs[since.between(1, 28)].groupby("row").size()
    contacts["orders"] = after.reindex(contacts["row"], fill_value=0).to_numpy()
    people = made.tables["customers"].set_index("customer_id")
    contacts["segment"] = people["acquisition_channel"].reindex(contacts["customer_id"]).to_numpy()
    truth = made.truth["campaigns"]
    assert truth["contacted"].sum() == len(contacts)
    by = contacts.groupby(["segment", "arm"])["orders"]
    mean, error = by.mean().unstack(), by.sem().unstack()
    lift = mean["treatment"] - mean["control"]
    told = truth.assign(all=truth["extra_orders"] * truth["contacted"]).groupby("segment")
    told = told["all"].sum() / told["contacted"].sum()
    noise = np.sqrt(error["treatment"] ** 2 + error["control"] ** 2)
    assert ((lift - told) / noise).abs().max() < 3.5
    assert told["affiliate"] == 0
    for segment, sign in [("paid_search", 1), ("paid_social", 1), ("referral", -1)]:
        assert sign * lift[segment] > 3 * noise[segment]


def test_order_mean_is_the_mean_of_the_orders():
    made = simulate.shop(4_000, years=2.0, seed=2)
    future = made.truth["orders_future"].query("amount > 0")
    rates = made.truth["rates_future"].set_index("day")["rate"]
    day = future["order_ts"].dt.normalize().map(rates)
    euros = future["amount"] * np.where(future["currency"] == "CHF", day, 1)
    gross = euros.groupby([future["customer_id"], future["order_id"]]).sum().reset_index(name="g")
    told = made.truth["customers"].set_index("customer_id")["order_mean"]
    gross["told"] = told.reindex(gross["customer_id"]).to_numpy()
    assert gross["g"].sum() / gross["told"].sum() == pytest.approx(1, abs=0.05)
    decile = pd.qcut(gross["told"], 5, labels=False)
    means = gross.groupby(decile)[["g", "told"]].mean()
    assert (means["g"] / means["told"]).between(0.88, 1.12).all()


def test_visits_fall_before_a_customer_leaves(shop):
    calendar = Calendar.of(3.0, 5)
    people = draw_people(4_000, calendar, 5)
    events = shop.tables["events"]
    late = events[(events["kind"] == "visit") & (events["ts"] >= pd.Timestamp("2026-06-01"))]
    ids = shop.tables["customers"]["customer_id"]
    visits = late.groupby("customer_id").size().reindex(ids, fill_value=0).to_numpy()
    known = people["first"] < calendar.days - 60
    soon = known & people["left"].between(calendar.days, calendar.days + 40)
    later = known & (people["left"] > calendar.days + 200)
    rates = [visits[who].sum() / people.loc[who, "rate"].sum() for who in (soon, later)]
    assert soon.sum() > 50
    assert rates[0] < 0.7 * rates[1]


def test_event_values(shop):
    events = shop.tables["events"].groupby("kind")["value"]
    assert set(events.groups) == {"visit", "mail_opened", "support", "survey", "loyalty_points"}
    assert events.get_group("survey").isin(range(11)).all()
    assert events.get_group("loyalty_points").ge(0).all()
    assert events.get_group("visit").isna().all()
    assert shop.tables["events"]["ts"].is_monotonic_increasing


@pytest.mark.parametrize("count", [1, 2, 7])
def test_small_shops_keep_every_column(count, tmp_path):
    for seed in range(2):
        tiny = simulate.shop(count, years=0.5, seed=seed)
        assert {name: " ".join(table) for name, table in tiny.tables.items()} == CONTRACT
        assert len(tiny.tables["customers"]) == len(tiny.truth["customers"]) == count
        simulate.write(tiny, tmp_path / str(seed))
    assert len(simulate.bench(count).truth["truth"]) == count


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: simulate.bench(0), "customers must be 1 or more. Got 0"),
        (lambda: simulate.shop(-3), "customers must be 1 or more. Got -3"),
        (lambda: simulate.bench(5, seed=-1), "seed must be 0 or more. Got -1"),
        (lambda: simulate.shop(5, years=0.1), "0.5 to 30. Got 0.1"),
        (lambda: simulate.shop(5, years=float("nan")), "0.5 to 30. Got nan"),
    ],
)
def test_bad_arguments_are_told(call, words):
    with pytest.raises(InputError, match=words):
        call()


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    made = simulate.bench(5)
    with pytest.raises(InputError, match="must be new or empty"):
        simulate.write(made, tmp_path)
    with pytest.raises(InputError, match="must be new or empty"):
        simulate.write(made, tmp_path / "mine.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    simulate.write(made, tmp_path / "empty")


def test_files_give_the_tables_back(shop, benched, tmp_path):
    simulate.write(benched, tmp_path / "bench")
    assert {path.name for path in (tmp_path / "bench").iterdir()} == {
        "orders.parquet",
        "customers.parquet",
        "spend.parquet",
        "truth.parquet",
        "clv.toml",
    }
    simulate.write(shop, tmp_path / "shop")
    files = {path.name for path in (tmp_path / "shop").iterdir()}
    assert files == {f"{name}.parquet" for name in CONTRACT} | {"clv.toml", "truth"}
    for folder, tables in [("shop", shop.tables), ("shop/truth", shop.truth)]:
        for name, table in tables.items():
            read = pd.read_parquet(tmp_path / folder / f"{name}.parquet")
            pd.testing.assert_frame_equal(read, table.reset_index(drop=True), check_exact=True)


def test_orders_survive_csv(shop, tmp_path):
    orders = shop.tables["orders"].reset_index(drop=True)
    orders.to_csv(tmp_path / "orders.csv", index=False)
    read = pd.read_csv(tmp_path / "orders.csv", dtype={"order_id": str}, parse_dates=["order_ts"])
    assert (read["order_ts"].to_numpy() == orders["order_ts"].to_numpy()).all()
    assert (read["amount"] == orders["amount"]).all()
    assert (read["customer_id"] == orders["customer_id"]).all()
