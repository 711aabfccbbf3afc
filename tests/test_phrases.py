"""Every feature has an English sentence for every value it may take."""

from __future__ import annotations

import math
import re

import pytest

from features.catalogue import Feature, Vocabulary, catalogue
from training import phrases
from training.phrases import phrase

WORDS = Vocabulary(
    ("web", "mail"), ("books",), (("birth_year", None), ("country", ("DE",))), ("visit", "nps"),
    ("nps",),
)  # fmt: skip
FEATURES = {f.name: f for f in (*catalogue(WORDS).features, *phrases.ANCHOR)}


def told(name: str, value: float, currency: str = "EUR") -> str:
    return phrase(FEATURES[name], value, currency)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("orders_90d", 3, "ordered 3 times in the last 90 days"),
        ("orders", 1, "ordered 1 time in all"),
        ("order_days_365d", 1, "ordered on 1 day in the last 365 days"),
        ("overdue_ratio", 2.4, "silence of 2.4 times the own mean gap"),
        ("refund_share", 0.5, "gave back 50 % of what was bought in all"),
        ("spend_90d", 1234.5, "spent 1,234.50 EUR in the last 90 days"),
        ("refunds_365d", 20, "20.00 EUR given back in the last 365 days"),
        ("days_since_order", 1, "1 day since the newest order"),
        ("tenure_days", 1275, "1,275 days since the first order"),
        ("last_order_ratio", 0.5, "newest order: 0.5 times the own mean order"),
        ("overdue_spreads", -1.25, "silence beyond the mean gap: -1.25 times the gaps' spread"),
        ("spend_share_365d", 0.031, "3.1 % of all spend fell into the last 365 days"),
        ("weekday_5_share", 1, "100 % of orders on a Friday"),
        ("daypart_1_share", 0.25, "25 % of orders at night"),
        ("quarter_4_share", 0.25, "25 % of orders from October to December"),
        ("channel_share[web]", 0.2, "20 % of orders with channel web"),
        ("first_order_discounted", 1, "the first order had a discount"),
        ("first_order_discounted", 0, "the first order had no discount"),
        ("first_channel[mail]", 0, "the first order's channel was not mail"),
        ("customer_country[DE]", 0, "the customer's country is not DE"),
        ("customer_birth_year", 1980, "birth_year of the customer: 1980"),
        ("cutoff_month", 12, "asked in December"),
        ("gap_mean_days", 24.51, "mean days between order days: 24.5 days"),
        ("gap_mean_days", math.nan, "mean days between order days: not known"),
        ("days_since_visit", 3, "3 days since the newest event of kind visit"),
        ("orders_per_month", 0.004, "orders per month since the first: 0.004"),
        ("spend_trend_90d", -0.001, "spend in the last 90 days less that in the 90 days before: "
         "0.00 EUR"),
        ("anchor_churn", 0.98, "chance of no order in a year as the rhythm alone foretells it: "
         "98 %"),
    ],
)  # fmt: skip
def test_sentences(name, value, sentence):
    assert told(name, value) == sentence


def test_every_feature_has_a_sentence_for_every_value():
    units = {feature.unit for feature in FEATURES.values()}
    assert {"days", "share", "currency", "ratio", "0/1", "month 1-12", "number"} < units
    for name, feature in FEATURES.items():
        values = (1.0, 7.0) if feature.unit == "month 1-12" else (0.0, 0.04, 1.0, 2.5, 1e6, -3.0)
        for value in values:
            sentence = told(name, value)
            assert not re.search(r"[{}]|\bnan\b|-0\b(?!\.)", sentence), sentence
            assert len(sentence) > 8
            if feature.unit not in ("0/1", "month 1-12"):
                numbers = (re.findall(r"\d+", words) for words in (sentence, feature.meaning))
                assert len(next(numbers)) > len(next(numbers)), sentence
        if feature.unit == "0/1":
            assert told(name, 0.0) != told(name, 1.0)
        unknown = told(name, math.nan)
        assert "not known" in unknown
        assert "nan" not in unknown.replace("nan ", "")


def test_two_values_that_differ_enough_are_told_apart():
    for name, feature in FEATURES.items():
        if feature.unit not in ("0/1", "month 1-12"):
            assert told(name, 0.5) != told(name, 2.5), name


def test_money_has_the_decimals_of_its_currency():
    assert told("spend", 1234.5678, "JPY") == "spent 1,235 JPY in all"
    assert told("spend", 1234.5678, "KWD") == "spent 1,234.568 KWD in all"
    assert phrases.money(-0.0, "EUR") == "0.00 EUR"


def test_words_of_customers_are_told_as_they_are():
    """Levels come from data: braces in them are no template."""
    for level in ("{v}", "{0!r}", "a that fell", "x in units of y", "line\nfeed"):
        feature = Feature("f", "", "share", "", f"share of orders with channel {level}")
        assert phrase(feature, 0.5, "EUR").startswith("50 % of ")
        assert phrase(feature, 0.5, "EUR").endswith(level)


def test_lines_of_their_own_have_words():
    assert phrase(phrases.begins(False), math.nan, "EUR") == (
        "as customers with this rhythm usually do"
    )
    assert "all customers" in phrase(phrases.level(), math.nan, "EUR")
    share = phrase(phrases.own_returns(0.088), 0.5, "EUR")
    assert share == "50 % of purchases expected back, 8.8 % of all customers'"
    for name in (phrases.PENDING, phrases.COST, phrases.REST):
        assert phrase(phrases.fixed(name), math.nan, "EUR") == phrases.fixed(name).meaning
