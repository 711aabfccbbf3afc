"""Channels against naive loops: costs, values month by month, payback, and who is too few."""

from __future__ import annotations

import math
import tempfile
from datetime import date
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import clv

from features import tables
from features.campaigns import spend
from features.errors import InputError
from features.money import Cashflow
from features.settings import Business, Settings
from features.spine import add_months, instant
from features.store import Store
from serving.decisions import channels as economics
from serving.decisions.channels import ALL, Channels, channels
from serving.decisions.returns import Returns, returns

ZONE, AS_OF = "Europe/Berlin", "2025-01-15"
NOW = instant(AS_OF, ZONE)
FLOW = Cashflow(margin=0.4, discount_rate=0.12, retention=0.3)
SIZES = {"search": 260, "social": 200, "mail": 30, "club": 6, "fair": 0}
FIRST, LAST = "2022-03", "2024-12"


@cache
def people() -> pd.DataFrame:
    rng = np.random.default_rng(2)
    channel = np.repeat(list(SIZES), list(SIZES.values()))
    n = len(channel)
    days = rng.integers(0, 1_100, n)
    return pd.DataFrame(
        {
            "customer_id": [f"{k:04d}" for k in rng.permutation(n)],
            "acquired_at": (pd.Timestamp("2022-01-10") + pd.to_timedelta(days, unit="D")).strftime(
                "%Y-%m-%d"
            ),
            "acquisition_channel": np.where(np.arange(n) % 40 == 7, "", channel),
        }
    )


@cache
def orders() -> pd.DataFrame:
    """Up to eight orders each from the day of sign-up on; the club buys a hundred times more."""
    rng = np.random.default_rng(3)
    rows = []
    for person in people().to_dict("records"):
        start = pd.Timestamp(person["acquired_at"])
        rich = 100 if person["acquisition_channel"] == "club" else 1
        for k in range(int(rng.integers(0, 9))):
            wait = 0 if k == 0 else int(rng.integers(1, 900))
            amount = round(float(rng.gamma(2, 9)) * rich + 0.01, 2)
            rows.append((person["customer_id"], start + pd.Timedelta(days=wait, hours=9), amount))
            if rng.random() < 0.1:
                back = start + pd.Timedelta(days=wait + 11)
                rows.append((person["customer_id"], back, -amount))
    made = pd.DataFrame(rows, columns=["customer_id", "order_ts", "amount"])
    return made[made["order_ts"] < "2025-01-31"].reset_index(drop=True)


def paid() -> pd.DataFrame:
    months = pd.period_range(FIRST, "2025-01", freq="M").astype(str)
    rows = [
        {"channel": channel, "month": month, "amount": 10.0 * (k + 1), "fees": 1.25}
        for k, channel in enumerate(("search", "social", "mail", "club", "fair"))
        for month in months
        if (channel, month) != ("social", "2023-05")
    ]
    return pd.DataFrame(rows)


SETTINGS = Settings(
    business=Business(
        currency="EUR", time_zone=ZONE, margin=0.4, discount_rate=0.12, retention_cost=0.3
    ),
    orders={"complete_until": date(2025, 1, 30)},  # type: ignore[arg-type]
)


@cache
def store() -> Store:
    found = {"orders": orders(), "customers": people()}
    return Store.of(tables.ingest(found, SETTINGS, Path(tempfile.mkdtemp())))


def buyers() -> pd.DataFrame:
    first = orders()[orders()["amount"] > 0].groupby("customer_id")["order_ts"].min()
    told = people().assign(first=people()["customer_id"].map(first))
    return told[told["first"].notna() & (told["first"] < AS_OF)]


def predictions() -> pd.DataFrame:
    ids = sorted(buyers()["customer_id"])
    rng = np.random.default_rng(5)
    half = rng.gamma(1, 10, len(ids))
    return pd.DataFrame(
        {
            "customer_id": ids, "as_of": AS_OF, "model_version": "1", "churn_12m": 0.4,
            "clv_12m": half, "clv_12m_sd": half * 1.5, "clv_12m_common": 0.1,
            "clv_24m": half * 1.6, "clv_24m_sd": half * 1.9, "clv_24m_common": 0.15,
        }
    )  # fmt: skip


def naive_curve(name: str) -> list[float]:
    """Value of the first 1 to 24 months of one customer, line by line."""
    person = people().set_index("customer_id").loc[name]
    own = orders()[orders()["customer_id"] == name]
    cents = np.rint(own["amount"].to_numpy() * 100)
    start = instant(person["acquired_at"], ZONE)
    stamps = own["order_ts"].dt.tz_localize(ZONE).dt.tz_convert("UTC")
    when = np.array([t.value // 1_000 for t in stamps], np.int64)
    row = predictions().set_index("customer_id").loc[name]
    found, earned = [], 0.0
    marks = [add_months(start, m, ZONE) for m in range(25)]
    over = sum(mark <= NOW for mark in marks[1:])
    for m in range(24):
        inside = (when >= marks[m]) & (when < marks[m + 1]) & (when < NOW)
        lived = min(max((NOW - marks[m]) / (marks[m + 1] - marks[m]), 0), 1)
        # Half to even, once per customer and month.
        margin = round(float(cents[inside].sum()) * 0.4) / 100
        earned += (margin - 0.3 * lived) * 1.12 ** (-(m + 0.5) / 12)
        found.append(earned)
    if over == 24:
        return found
    age = over + (NOW - marks[over]) / (marks[over + 1] - marks[over])
    points = [0, row["clv_12m"], row["clv_24m"]]
    return [
        value + np.interp(max(m - age, 0), [0, 12, 24], points) * 1.12 ** (-age / 12)
        for m, value in enumerate(found, 1)
    ]


@cache
def brought() -> tuple[list[str], Returns]:
    ids = predictions()["customer_id"].tolist()
    begin = people().set_index("customer_id").loc[ids, "acquired_at"]
    starts = np.array([instant(day, ZONE) for day in begin], np.int64)
    return ids, returns(store(), ids, starts, NOW, predictions(), FLOW)


def test_values_month_by_month_are_the_naive_ones() -> None:
    ids, found = brought()
    naive = np.array([naive_curve(name) for name in ids[::5]])
    assert found.value[::5] == pytest.approx(naive, abs=1e-9)
    assert found.matured(24).any()
    assert not found.matured(1).all()
    ripe = found.matured(12)
    assert (found.ahead[ripe, 11] == 0).all()
    assert (found.sd[ripe, 11] == 0).all()
    assert (found.ahead[~ripe, 11] > 0).all()
    assert found.common[[0, 11, 12, 23]].tolist() == [0.1, 0.1, 0.15, 0.15]


def test_beyond_the_predictions_nothing_is_known() -> None:
    ids, whole = brought()
    begin = people().set_index("customer_id").loc[ids, "acquired_at"]
    starts = np.array([instant(day, ZONE) for day in begin], np.int64)
    short = predictions()[["customer_id", "clv_12m"]]
    found = returns(store(), ids, starts, NOW, short, FLOW)
    beyond = np.arange(1, 25) - found.age[:, None] > 12
    assert np.isnan(found.value[beyond]).all()
    assert np.allclose(found.value[~beyond], whole.value[~beyond])


def told(**how: str) -> Channels:
    return channels(store(), spend({"orders": orders(), "spend": paid()}, SETTINGS), predictions(),
                    FLOW, **how)  # fmt: skip


def group(channel: str | None) -> pd.DataFrame:
    own = buyers()
    own = own[own["acquired_at"].str[:7].between(FIRST, LAST) & (own["acquisition_channel"] != "")]
    return own if channel is None else own[own["acquisition_channel"] == channel]


def test_costs_and_counts_are_those_of_the_tables() -> None:
    found = told().whole.set_index("channel")
    table, money = people(), paid()[paid()["month"] <= LAST]
    assert set(found.index) == {*SIZES, ALL}
    for name, row in found.iterrows():
        own = money if name == ALL else money[money["channel"] == name]
        assert row["spend"] == pytest.approx(own["amount"].sum())
        assert row["fees"] == pytest.approx(own["fees"].sum())
        signed = table[table["acquired_at"].str[:7].between(FIRST, LAST)]
        signed = signed[signed["acquisition_channel"] == name] if name != ALL else (
            signed[signed["acquisition_channel"] != ""]
        )  # fmt: skip
        n = len(group(None if name == ALL else str(name)))
        if n >= 10:
            assert (row["signups"], row["customers"]) == (len(signed), n)
            cost = (own["amount"] + own["fees"]).sum()
            assert row["cac"] == pytest.approx(cost / n)
            assert row["cpa"] == pytest.approx(cost / len(signed))
            assert row["cpa"] < row["cac"]


def test_values_are_means_of_customers_and_realised_of_those_whose_months_are_over() -> None:
    found = told().whole.set_index("channel")
    ids, made = brought()
    place = {name: i for i, name in enumerate(ids)}
    for name in ("search", "social", "mail"):
        at = np.array([place[i] for i in group(name)["customer_id"]])
        row = found.loc[name]
        for m in (12, 24):
            ripe = at[made.age[at] >= m]
            assert row[f"ltv_{m}m"] == pytest.approx(made.value[at, m - 1].mean())
            assert row[f"realised_{m}m_customers"] == len(ripe)
            if len(ripe) >= 10:
                assert row[f"realised_{m}m"] == pytest.approx(made.value[ripe, m - 1].mean())
        assert row["ltv_to_cac"] == pytest.approx(row["ltv_24m"] / row["cac"])
        assert row["ltv_to_cac_low"] == pytest.approx(row["ltv_24m_low"] / row["cac"])
        assert row["roi"] == pytest.approx(row["ltv_24m"] / row["cac"] - 1)
        mean = made.value[at].mean(axis=0)
        after = [m for m in range(1, 25) if (mean[m - 1 :] >= row["cac"]).all()]
        assert (math.nan if pd.isna(row["payback_month"]) else row["payback_month"]) == (
            pytest.approx(after[0] if after else math.nan, nan_ok=True)
        )


def test_an_interval_is_that_of_customers_drawn_anew() -> None:
    """Beside a bootstrap of matured customers, of whom nothing is predicted."""
    ids, made = brought()
    place = {name: i for i, name in enumerate(ids)}
    at = np.array([place[i] for i in group("search")["customer_id"]])
    ripe = made.value[at[made.age[at] >= 12], 11]
    rng = np.random.default_rng(0)
    means = ripe[rng.integers(0, len(ripe), (4_000, len(ripe)))].mean(axis=1)
    row = told().whole.set_index("channel").loc["search"]
    low, high = np.quantile(means, [0.1, 0.9])
    width = high - low
    assert row["realised_12m_low"] == pytest.approx(low, abs=0.08 * width)
    assert row["realised_12m_high"] == pytest.approx(high, abs=0.08 * width)
    # What is partly predicted is less sure than the customers' own spread alone.
    value = made.value[at, 23]
    half = 1.2816 * value.std(ddof=1) / np.sqrt(len(at))
    assert row["ltv_24m_high"] - row["ltv_24m_low"] > 2 * half


def test_the_value_ahead_of_all_is_a_total_with_its_own_interval() -> None:
    row = told().whole.set_index("channel").loc["search"]
    own = predictions().set_index("customer_id").loc[group("search")["customer_id"]]
    assert row["ahead_12m"] == pytest.approx(own["clv_12m"].sum())
    mean = own["clv_12m"].sum()
    sigma = math.sqrt(math.log1p((own["clv_12m_sd"] ** 2).sum() / mean**2 + 0.1**2))
    ends = [mean * math.exp(-(sigma**2) / 2 + z * sigma) for z in (-1.2815516, 1.2815516)]
    assert [row["ahead_12m_low"], row["ahead_12m_high"]] == pytest.approx(ends, rel=1e-6)


def test_a_channel_of_few_does_not_shine() -> None:
    """Six customers who bring a hundred times more are not told; thirty are marked, and last."""
    found = told()
    whole = found.whole.set_index("channel")
    assert len(group("club")) < 10
    assert whole.loc["club"].drop(["cohort", "spend", "fees", "cost", "note"]).isna().all()
    assert whole.loc["club", "note"] == "fewer than 10 customers: not told"
    assert 10 <= len(group("mail")) < 50
    assert whole.loc["mail", "note"].startswith("few customers (n=")
    assert whole.loc["search", "note"] == ""
    assert whole.loc["fair", "note"] == "nobody has ordered"
    ratio = whole.loc[["search", "social"], "ltv_to_cac"].sort_values(ascending=False)
    assert found.whole["channel"].tolist()[:2] == ratio.index.tolist()
    assert set(found.whole["channel"].tolist()[2:5]) == {"mail", "club", "fair"}
    assert found.whole["channel"].tolist()[5] == ALL
    assert found.notes == (
        f"{_unnamed()} who were won in these months have no acquisition_channel",
    )


def _unnamed() -> int:
    table = people()[people()["acquisition_channel"] == ""]
    return int(table["acquired_at"].str[:7].between(FIRST, LAST).sum())


@pytest.mark.parametrize("cohort", ["month", "quarter"])
def test_cohorts_add_up_to_channels(cohort: str) -> None:
    found = told(cohort=cohort)
    parts = found.table[found.table["cohort"] != ALL]
    for name, row in found.whole.set_index("channel").iterrows():
        own = parts[parts["channel"] == name]
        assert own["cost"].sum() == pytest.approx(row["cost"])
        assert (own["customers"].dropna().isin([0]) | (own["customers"].dropna() >= 10)).all()
        if name == "search" and cohort == "quarter":
            small = group("search")["acquired_at"].str[:7].map(_quarter).value_counts()
            told_apart = own["customers"].sum() + small[small < 10].sum()
            assert told_apart == row["customers"]
    label = "2023-Q2" if cohort == "quarter" else "2023-05"
    months = [f"2023-{m:02d}" for m in (4, 5, 6)] if cohort == "quarter" else ["2023-05"]
    row = parts[(parts["channel"] == "search") & (parts["cohort"] == label)].iloc[0]
    own = group("search")
    n = own["acquired_at"].str[:7].isin(months).sum()
    assert pd.isna(row["customers"]) == (n < 10)
    assert row["cost"] == pytest.approx(11.25 * len(months))
    assert found.whole.reset_index(drop=True).equals(told().whole.reset_index(drop=True))


def _quarter(month: str) -> str:
    return f"{month[:4]}-Q{(int(month[5:]) + 2) // 3}"


def test_who_comes_again() -> None:
    found = told()
    assert found.again == 12
    own = orders()[(orders()["amount"] > 0) & (orders()["order_ts"] < AS_OF)]
    days = own.assign(day=own["order_ts"].dt.normalize()).drop_duplicates(["customer_id", "day"])
    again, asked = 0, 0
    for name in group("social")["customer_id"]:
        each = days["day"][days["customer_id"] == name].sort_values().tolist()
        end = each[0] + pd.DateOffset(months=12)
        if end <= pd.Timestamp(AS_OF):
            asked += 1
            again += len(each) > 1 and each[1] < end
    row = found.whole.set_index("channel").loc["social"]
    assert row["repeat_rate"] == pytest.approx(again / asked)
    assert row["repeat_low"] < row["repeat_rate"] < row["repeat_high"]
    assert 0 < row["retention"] < 1


def test_since_leaves_earlier_months_out() -> None:
    found = told(since="2024-01")
    assert (found.first, found.last) == ("2024-01", LAST)
    row = found.whole.set_index("channel").loc["search"]
    assert row["customers"] == (group("search")["acquired_at"] >= "2024-01").sum()
    assert row["cost"] == pytest.approx(12 * 11.25)


def test_what_costs_nothing_has_no_ratio() -> None:
    free = spend({"orders": orders(), "spend": paid()}, SETTINGS)
    free = free[free["channel"] != "social"]
    made = channels(store(), free, predictions(), FLOW)
    assert made.notes[0].startswith("All is blended")
    row = made.whole.set_index("channel").loc["social"]
    assert row["cac"] == 0
    assert row["note"] == "no spend"
    assert row[["ltv_to_cac", "roi", "payback_month"]].isna().all()
    assert row["ltv_24m"] > 0


def test_a_refund_takes_the_payback_away_again() -> None:
    made = brought()[1]
    value = np.array([[5.0, 12, 8, 11, *[13.0] * 20]] * 60)
    zero = np.zeros_like(value)
    flat = Returns(value, zero, zero, made.common, np.full(60, 24.0))
    about = pd.DataFrame({"customer_id": [f"x{k}" for k in range(60)]})
    rows = economics._Made(about, about, about, flat, predictions(), (12, 24))
    assert rows._worth(np.ones(60, bool), 10.0)["payback_month"] == 4
    assert rows._worth(np.ones(60, bool), 5.0)["payback_month"] == 1
    assert math.isnan(rows._worth(np.ones(60, bool), 13.5)["payback_month"])


# The command


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    (folder / "clv.toml").write_text(
        f'[business]\ncurrency = "EUR"\ntime_zone = "{ZONE}"\nmargin = 0.4\ndiscount_rate = 0.12\n'
        "retention_cost = 0.3\n[orders]\ncomplete_until = 2025-01-30\n"
    )
    orders().sample(frac=1, random_state=1).to_csv(folder / "orders.csv", index=False)
    people().sample(frac=1, random_state=1).to_csv(folder / "customers.csv", index=False)
    paid().sample(frac=1, random_state=1).to_csv(folder / "spend.csv", index=False)
    predictions().to_csv(folder.parent / "p.csv", index=False)
    return folder


def test_channels_by_command(tmp_path: Path, shop: Path) -> None:
    p = shop.parent / "p.csv"
    ran = clv("channels", shop, "--predictions", p, "--cohort", "quarter", "--out",
              tmp_path / "c.parquet")  # fmt: skip
    assert ran.code == 0, ran.err
    for text in ("LTV:CAC", "payback", "2024-Q4", "fewer than 10", "no acquisition_channel", "EUR"):
        assert text in ran.out
    written = pd.read_parquet(tmp_path / "c.parquet")
    expected = told(cohort="quarter").table
    assert list(written) == list(expected)
    # Neither the order of the files' lines nor the way in changes a number.
    pd.testing.assert_frame_equal(written, expected, check_dtype=False, check_exact=True)
    made = clv("channels", shop, "--predictions", p, "--out", tmp_path / "c.csv", "--json").json
    assert [row["channel"] for row in made["channels"]] == told().table["channel"].tolist()
    assert made["channels"][3]["ltv_24m"] is None or made["months"] == 24


def test_what_is_missing_is_said(tmp_path: Path, shop: Path) -> None:
    p, out = shop.parent / "p.csv", tmp_path / "c.csv"
    short = tmp_path / "short.csv"
    predictions()[["customer_id", "as_of", "model_version", "churn_12m"]].assign(
        clv_6m=1.0, churn_6m=0.5
    ).to_csv(short, index=False)
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("orders.csv", "clv.toml"):
        (bare / name).write_bytes((shop / name).read_bytes())
    for said, words in {
        "table spend": [bare, "--predictions", p],
        "--horizons 12,24": [shop, "--predictions", short],
        "month or quarter": [shop, "--predictions", p, "--cohort", "week"],
        "--since must be": [shop, "--predictions", p, "--since", "spring"],
        "a whole month before 2025-01": [shop, "--predictions", p, "--since", "2025-01"],
    }.items():
        ran = clv("channels", *words, "--out", out)
        assert ran.code == 2, said
        assert said in ran.err
    (bare / "spend.csv").write_bytes((shop / "spend.csv").read_bytes())
    assert "acquisition_channel" in clv("channels", bare, "--predictions", p, "--out", out).err
    people().assign(acquisition_channel="").to_csv(bare / "customers.csv", index=False)
    assert "Nobody has" in clv("channels", bare, "--predictions", p, "--out", out).err
    assert not out.exists()
    with pytest.raises(InputError, match="month such as"):
        told(since="2024")
