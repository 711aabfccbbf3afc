"""Effects of campaigns: against other formulas, simulation, and the known truth of a shop."""

from __future__ import annotations

import json
import tempfile
import tomllib
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import clv
from scipy import stats

from features import campaigns as tables_of_campaigns
from features import simulate, tables
from features.errors import InputError
from features.settings import Settings, parse
from features.spine import DAY, instant
from features.store import Store
from serving.decisions import campaigns, effects, power


def experiment(n: int = 400, effect: float = 0.0, seed: int = 0, k: float = 0.5) -> pd.DataFrame:
    """Skewed spend that a skewed past explains in part; a fair coin divides the arms."""
    rng = np.random.default_rng(seed)
    past = rng.gamma(1.0, 20.0, n)
    treated = rng.random(n) < k
    spend = 0.5 * past + rng.gamma(0.5, 20.0, n) + effect * treated
    arm = np.where(treated, "mail", "none")
    return pd.DataFrame({"arm": arm, "spend": spend, "past": past, "id": np.arange(n).astype(str)})


HOW = {"arm": "arm", "control": "none", "outcome": "spend"}


def test_the_plain_effect_is_welchs() -> None:
    frame = experiment(seed=3, k=0.2)
    found = effects.measure(frame, **HOW, level=0.9).plain[0]
    a, b = (frame["spend"][frame["arm"] == arm] for arm in ("mail", "none"))
    theirs = stats.ttest_ind(a, b, equal_var=False)
    low, high = theirs.confidence_interval(0.9)
    assert np.allclose([found.effect, found.p, found.low, found.high],
                       [a.mean() - b.mean(), theirs.pvalue, low, high], rtol=1e-12)  # fmt: skip
    assert (found.treated, found.control) == (len(a), len(b))


def test_a_a_campaigns_are_rejected_in_one_of_twenty() -> None:
    """Both the plain difference and the one with the past taken off."""
    rng, rejected = np.random.default_rng(0), np.zeros(2)
    for _ in range(1_000):
        past, arms = rng.gamma(1.0, 20.0, 400), (rng.random(400) < 0.3).astype(np.int64)
        spend = 0.5 * past + rng.gamma(0.5, 20.0, 400)
        for k, values in enumerate((spend, effects.adjusted(spend, past[:, None], arms))):
            rejected[k] += effects.compare(values[arms == 1], values[arms == 0], known=k).p < 0.05
    assert (rejected >= 30).all(), rejected
    assert (rejected <= 70).all(), rejected


def test_what_was_known_before_narrows_the_interval_and_moves_nothing() -> None:
    inside, width, error = 0, np.zeros(2), np.zeros(2)
    for seed in range(100):
        found = effects.measure(
            experiment(effect=3.0, seed=seed), **HOW, before=["past"], level=0.8
        )
        plain, narrow = found.plain[0], found.adjusted[0]
        inside += narrow.low <= 3.0 <= narrow.high
        width += [plain.high - plain.low, narrow.high - narrow.low]
        error += [plain.effect - 3.0, narrow.effect - 3.0]
    assert 70 <= inside <= 90
    # By construction the past holds 1/3 of the variance: 0.25 of 0.25 + 0.5, in squares of 20.
    assert (width[1] / width[0]) ** 2 == pytest.approx(2 / 3, abs=0.05)
    assert np.abs(error / 100).max() < 0.4


def test_the_adjusted_effect_is_that_of_a_regression_within_arms() -> None:
    frame = experiment(seed=5)
    found = effects.measure(frame, **HOW, before=["past"])
    treated = (frame["arm"] == "mail").to_numpy(float)
    columns = np.column_stack([np.ones(len(frame)), treated, frame["past"]])
    slopes = np.linalg.lstsq(columns, frame["spend"].to_numpy(), rcond=None)[0]
    assert found.adjusted[0].effect == pytest.approx(slopes[1], rel=1e-9)


def test_the_rows_order_changes_no_bit() -> None:
    frame = experiment(seed=1)
    how = {**HOW, "before": ["past"], "by": ["half"], "share": 0.5}
    frame["half"] = np.where(frame["past"] > 14, "high", "low")
    one = effects.measure(frame, **how)
    other = effects.measure(frame.sample(frac=1, random_state=4), **how)
    assert json.dumps(one.as_dict()) == json.dumps(other.as_dict())
    assert [each.group for each in one.groups] == ["half high", "half low"]
    part = frame[frame["half"] == "high"]
    alone = effects.measure(part, **{**how, "by": []})
    assert one.groups[0].effect == alone.adjusted[0].effect


def test_a_broken_division_is_told() -> None:
    frame = experiment(4_000, seed=2)
    assert effects.measure(frame, **HOW, before=["past"], share=0.5).warnings == ()
    lost = frame[(frame["arm"] == "mail") | (frame["past"] > 5)]
    found = effects.measure(lost, **HOW, before=["past"], share=0.5)
    assert len(found.warnings) == 2
    assert "meant to be 50.00%" in found.warnings[0]
    assert "past differed between the arms" in found.warnings[1]
    assert found.as_dict()["sound"] is False
    n = len(lost)
    held = int((lost["arm"] == "none").sum())
    chi = stats.chisquare([held, n - held], [n / 2, n / 2]).pvalue
    assert found.ratio_p == pytest.approx(chi, rel=0.2)


def test_who_stands_in_both_arms_is_refused() -> None:
    frame = experiment()
    frame.loc[frame.index[frame["arm"] == "mail"][0], "id"] = "x"
    frame.loc[frame.index[frame["arm"] == "none"][0], "id"] = "x"
    with pytest.raises(InputError, match=r"in one arm. Got 1 in two"):
        effects.measure(frame, **HOW, customer="id")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"control": "nobody"}, "must be a control group.*Got mail, none"),
        ({"outcome": "money"}, "column 'money'. Got arm, spend"),
        ({"outcome": "id"}, "number in every row. Got 'x'"),
        ({"level": 95}, "--level must be a chance"),
        ({"share": 1.0}, "between 0 and 1"),
    ],
)
def test_what_must_be_there_is_asked_for(change: dict[str, object], words: str) -> None:
    frame = experiment(50)
    frame.loc[7, "id"] = "x"
    with pytest.raises(InputError, match=words):
        effects.measure(frame, **{**HOW, **change})


def test_small_arms_are_refused_and_small_levels_left_out() -> None:
    frame = experiment(60)
    frame["level"] = np.where(np.arange(60) < 3, "few", "many")
    assert effects.measure(frame, **HOW, by=["level"]).left_out == ("level few",)
    with pytest.raises(InputError, match=r"10 customers or more"):
        effects.measure(frame.head(12), **HOW)


# How many it takes


def test_sample_sizes_as_published() -> None:
    """R's power.prop.test(p1 = .50, p2 = .75, power = .90) and power.t.test, from their manuals."""
    found = power.sample_size_rate(0.5, 0.5, 0.9)
    assert (found.treated, found.control) == (77, 77)  # 76.7
    assert power.sample_size_mean(1.0, 1.0, 0.9).control == 23  # 22.02110
    assert power.sample_size_rate(0.10, 0.2, 0.8).treated == 3_841  # 3840.847


def test_a_sample_of_that_size_has_that_power() -> None:
    plan = power.sample_size_rate(0.10, 0.4, 0.8, share=0.25)
    rng = np.random.default_rng(0)
    a = rng.binomial(plan.treated, 0.14, 20_000) / plan.treated
    b = rng.binomial(plan.control, 0.10, 20_000) / plan.control
    pooled = (a * plan.treated + b * plan.control) / plan.total
    z = (a - b) / np.sqrt(pooled * (1 - pooled) * (1 / plan.treated + 1 / plan.control))
    assert (np.abs(z) > stats.norm.ppf(0.975)).mean() == pytest.approx(0.8, abs=0.01)
    other = power.sample_size_mean(10.0, 2.0, 0.7, share=0.1)
    draws = [rng.normal(d, 10, (4_000, n)) for d, n in ((2, other.treated), (0, other.control))]
    p = stats.ttest_ind(draws[0], draws[1], axis=1).pvalue
    assert (p < 0.05).mean() == pytest.approx(0.7, abs=0.025)


def test_the_command_says_how_many() -> None:
    said = clv("sample-size", "--rate", 0.1, "--lift", 0.2, "--power", 0.8, "--json").json
    assert (said["treatment"], said["control"], said["total"]) == (3_841, 3_841, 7_682)
    shown = clv("sample-size", "--sd", 10, "--difference", 1, "--power", 0.8, "--control", 0.1)
    assert "7,851 treated and 873 control, 8,724 in all" in shown.out
    for words in ((), ("--rate", 0.1), ("--rate", 0.1, "--lift", 0.2, "--sd", 1)):
        ran = clv("sample-size", "--power", 0.8, *words)
        assert (ran.code, "--rate and --lift, or" in ran.err) == (2, True)
    assert "--power must lie" in clv("sample-size", "--rate", 0.1, "--lift", 1, "--power", 80).err
    assert "0.10 becomes 0.12" in clv("sample-size", "--rate", 9, "--lift", 1, "--power", 0.8).err


# From contacts


@cache
def shop(seed: int = 0) -> tuple[dict[str, pd.DataFrame], dict[str, pd.DataFrame], Settings]:
    made = simulate.shop(6_000, 4.5, seed)
    wanted = ("orders", "customers", "rates", "aliases", "contacts", "spend")
    return {n: made.tables[n] for n in wanted}, made.truth, parse(tomllib.loads(made.settings))


@cache
def store(seed: int = 0) -> Store:
    found, _, settings = shop(seed)
    return Store.of(tables.ingest(found, settings, Path(tempfile.mkdtemp())))


@cache
def known_contacts(seed: int = 0) -> tables_of_campaigns.Contacts:
    found, _, settings = shop(seed)
    return tables_of_campaigns.contacts(found, settings)


def test_the_known_effect_lies_in_the_intervals_that_often() -> None:
    """Extra orders in the 28 days after the day of the contact, by campaign and channel."""
    inside = n = 0
    for seed in (0,):
        _, truth, _ = shop(seed)
        told = known_contacts(seed)
        for name, part in truth["campaigns"].groupby("campaign_id"):
            if part["contacted"].sum() < 100:
                continue
            made = campaigns.measured(store(seed), told, str(name), days=29, outcome="orders",
                                      by=["acquisition_channel"], level=0.8)  # fmt: skip
            known = part.set_index("segment")
            whole = np.average(known["extra_orders"], weights=known["contacted"])
            pairs = [(whole, made.adjusted[0])]
            pairs += [
                (float(known.loc[one.group.split()[1], "extra_orders"]), one)
                for one in made.groups
                if one.control >= 30
            ]
            inside += sum(one.low <= true <= one.high for true, one in pairs)
            n += len(pairs)
    assert n >= 75
    assert 0.75 <= inside / n <= 0.85, (inside, n)


def test_an_outcome_is_the_naive_sum_over_the_customers_orders() -> None:
    found, _, _ = shop()
    told = known_contacts()
    made = campaigns.experiment(store(), told.of("K09"), 90, "revenue", 1.0, ["country", "channel"])
    frame = made.frame.set_index("customer_id")
    alias = found["aliases"].set_index("old_id")["customer_id"].to_dict()
    lines = found["orders"].copy()
    lines["customer_id"] = lines["customer_id"].map(lambda name: alias.get(name, name))
    lines = lines[(lines["currency"] == "EUR") & lines["customer_id"].isin(frame.index)]
    contact = found["contacts"].query("campaign_id == 'K09'").set_index("customer_id")["ts"]
    since = lines["order_ts"] - lines["customer_id"].map(contact)
    days = pd.Timedelta(days=90)
    after = lines[(since >= pd.Timedelta(0)) & (since < days)]
    past = lines[(since < pd.Timedelta(0)) & (since >= pd.Timedelta(days=-365))]
    german = frame.index[frame["country"] == "DE"]
    for column, part in (("revenue", after), ("revenue in the year before", past)):
        naive = part.groupby("customer_id")["amount"].sum().reindex(german).fillna(0.0)
        assert np.allclose(frame.loc[german, column], naive, atol=1e-9)
    assert frame["revenue"].abs().sum() > 1_000
    assert (frame["channel"] == "email").all()


def test_a_window_that_the_data_do_not_cover_is_refused() -> None:
    told = known_contacts()
    last = told.frame["campaign_id"].max()
    with pytest.raises(InputError, match=r"cover 90 days.*--days 76 or less"):
        campaigns.measured(store(), told, last, days=90)
    assert campaigns.measured(store(), told, last, days=76).plain[0].treated > 100
    with pytest.raises(InputError, match=r"must be one of the table contacts: K01"):
        campaigns.measured(store(), told, "K99")
    with pytest.raises(InputError, match=r"--by segment needs the column segment"):
        campaigns.measured(store(), told, "K09", by=["segment"])
    with pytest.raises(InputError, match=r"must have the column 'shoe_size'. Got acquired_at"):
        campaigns.measured(store(), told, "K09", by=["shoe_size"])


# The tables


BASE = pd.DataFrame(
    {
        "campaign_id": ["A"] * 200,
        "customer_id": [f"{k:03d}" for k in range(200)],
        "ts": ["2024-05-01"] * 200,
        "arm": ["treatment", "control"] * 100,
    }
)
ORDERS = pd.DataFrame({"customer_id": ["000"], "order_ts": ["2024-05-02"], "amount": [5.0]})


def read(contacts: pd.DataFrame, **more: pd.DataFrame) -> tables_of_campaigns.Contacts:
    return tables_of_campaigns.contacts(
        {"orders": ORDERS, "contacts": contacts, **more}, Settings()
    )


def test_contacts_are_read_with_their_rules() -> None:
    frame = BASE.assign(cost=["1.5"] + ["oops"] + [""] * 198)
    frame.loc[5, "arm"] = "both"
    found = read(frame, aliases=pd.DataFrame({"old_id": ["003"], "customer_id": ["x3"]}))
    assert (found.rows_in, len(found.frame)) == (200, 199)
    assert {rule.name: rule.rows for rule in found.rules} == {
        "contact_unknown_arm": 1, "contact_unreadable_number": 1,
    }  # fmt: skip
    assert "x3" in set(found.frame["customer_id"])
    assert "003" not in set(found.frame["customer_id"])
    assert set(found.frame["ts"]) == {instant("2024-05-01", "UTC")}
    assert found.frame["cost"].sum() == 1.5
    shuffled = read(frame.sample(frac=1, random_state=1),
                    aliases=pd.DataFrame({"old_id": ["003"], "customer_id": ["x3"]}))  # fmt: skip
    pd.testing.assert_frame_equal(found.frame, shuffled.frame)


def test_contacts_that_were_misread_as_a_whole_are_refused() -> None:
    with pytest.raises(InputError, match=r"Refused: 200 of 200; line 1, arm: 'x'"):
        read(BASE.assign(arm="x"))
    with pytest.raises(InputError, match=r"contact_|line 1, ts: '01/05/2024'"):
        read(BASE.assign(ts="01/05/2024"))
    with pytest.raises(InputError, match=r"Missing: arm"):
        read(BASE.drop(columns="arm"))
    with pytest.raises(InputError, match=r"table contacts. Got none. Add contacts.csv"):
        tables_of_campaigns.contacts({"orders": ORDERS}, Settings())


def test_several_contacts_of_a_customer_count_once_with_the_cost_of_all() -> None:
    twice = pd.concat([BASE.assign(cost=1.0), BASE.assign(cost=2.0, ts="2024-05-03")])
    once = campaigns._once(read(twice).of("A"))
    assert len(once) == 200
    assert set(once["cost"]) == {3.0}
    assert set(once["ts"]) == {instant("2024-05-01", "UTC")}
    assert DAY == 86_400_000_000


def test_spend_is_summed_with_fees_by_channel_and_month() -> None:
    rates = pd.DataFrame({"currency": "CHF", "day": ["2024-05-01"], "rate": [2.0]})
    lines = pd.DataFrame(
        {
            "channel": ["a", "a", "b"],
            "month": ["2024-05", "2024-05-31", "2024-05"],
            "amount": [10.0, 5.25, 3.0],
            "fees": [1.0, None, 0.5],
            "currency": [None, "USD", "CHF"],
        }
    )
    found = tables_of_campaigns.spend(
        {"orders": ORDERS, "spend": lines, "rates": rates}, Settings()
    )
    assert found.to_dict("records") == [
        {"channel": "a", "month": "2024-05", "cost": 16.25, "fees": 1.0},
        {"channel": "b", "month": "2024-05", "cost": 7.0, "fees": 1.0},
    ]
    for column, value, words in (
        ("month", "2024-13", "a month such as 2024-05"),
        ("month", "May 2024", "Got 'May 2024'"),
        ("amount", "-1", "at least 0"),
        ("amount", "", "at least 0"),
        ("fees", "x", "fees that are a number"),
        ("channel", "", "a channel"),
        ("currency", "GBP", "with a rate in that month"),
    ):
        bad = lines.astype(object)
        bad.loc[1, column] = value
        with pytest.raises(InputError, match=words):
            tables_of_campaigns.spend({"orders": ORDERS, "spend": bad, "rates": rates}, Settings())
    with pytest.raises(InputError, match=r"table spend. Got none. Add spend.csv"):
        tables_of_campaigns.spend({"orders": ORDERS}, Settings())


# The command


def test_measure_prints_a_campaign(tmp_path: Path) -> None:
    found, _, _ = shop()
    folder = tmp_path / "shop"
    folder.mkdir()
    contacts = found["contacts"].query("campaign_id == 'K09'")
    for name in ("orders", "customers", "contacts"):
        some = found[name][found[name]["customer_id"].isin(contacts["customer_id"])]
        some = some[some["currency"] == "EUR"] if name == "orders" else some
        some.to_csv(folder / f"{name}.csv", index=False)
    (folder / "clv.toml").write_text(simulate._settings(simulate.END, "margin = 0.4"))
    words = ("measure", folder, "--campaign", "K09", "--by", "country", "--share", 0.4)
    said = clv(*words, "--json").json
    assert said["outcome"] == "margin in 90 days"
    assert said["sound"] is True
    assert said["adjusted"][0]["cost"] == pytest.approx(0.6 * said["adjusted"][0]["treated"])
    roi = (said["adjusted"][0]["total"][0] - said["adjusted"][0]["cost"]) / (
        said["adjusted"][0]["cost"]
    )
    assert said["adjusted"][0]["roi"][0] == pytest.approx(roi)
    assert {one["group"] for one in said["groups"]} >= {"country DE", "country FR"}
    shown = clv(*words)
    assert shown.code == 0
    assert "Campaign K09: margin in 90 days per customer in EUR, effect with 95% interval" in (
        shown.out
    )
    assert "sample ratio" in shown.out
    ran = clv("measure", folder, "--campaign", "K09", "--outcome", "fun")
    assert (ran.code, "must be margin, revenue, orders" in ran.err) == (2, True)
    (folder / "contacts.csv").unlink()
    assert "Add contacts.csv" in clv(*words).err


def test_measure_reads_a_plain_table(tmp_path: Path) -> None:
    frame = experiment(600, effect=40.0)
    frame.to_csv(tmp_path / "e.csv", index=False)
    words = ("measure", tmp_path / "e.csv", "--arm", "arm", "--control", "none")
    said = clv(*words, "--outcome", "spend", "--before", "past", "--json").json
    own = effects.measure(frame, **HOW, before=["past"])
    assert said["adjusted"][0]["effect"] == own.adjusted[0].effect
    assert said["effects"][0]["low"] > 30
    assert "takes --arm COLUMN --control VALUE --outcome COLUMN" in clv(*words).err
    both = clv(*words, "--campaign", "K1")
    assert (both.code, "Got both" in both.err) == (2, True)
    assert "Got neither" in clv("measure", tmp_path / "e.csv").err


def test_check_tells_of_contacts_and_spend(tmp_path: Path) -> None:
    ORDERS.to_csv(tmp_path / "orders.csv", index=False)
    BASE.assign(arm=["x", *BASE["arm"].tolist()[1:]]).to_csv(tmp_path / "contacts.csv", index=False)
    (tmp_path / "spend.csv").write_text("channel,month,amount\na,2024-05,10.5\nb,2024-06,1\n")
    shown = clv("check", tmp_path).out
    assert "Contacts in 200 = kept 199 + refused 1; campaigns 1" in shown
    assert "contact_unknown_arm: 1 rows (0.50%) refused" in shown
    assert "Spend 11.50 USD with fees, 2 channels, 2024-05 to 2024-06" in shown
    said = clv("check", tmp_path, "--json").json
    assert (said["contacts_in"], said["contacts_kept"], said["spend"]) == (200, 199, 11.5)
    strict = clv("check", tmp_path, "--strict")
    assert (strict.code, "Refused were 1 of 201" in strict.err) == (2, True)
