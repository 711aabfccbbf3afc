"""Every feature has a sentence for every value it may take, in every language."""

from __future__ import annotations

import math
import re

import pytest

from features import people
from features.catalogue import Feature, Vocabulary, catalogue
from serving.views.language import LANGUAGES, words
from serving.views.sentences import family, key_of, noun, sentence
from training import phrases
from training.phrases import Term

VOCABULARY = Vocabulary(
    ("web", "mail"), ("books",), (("birth_year", None), ("country", ("DE",))), ("visit", "nps"),
    ("nps",),
)  # fmt: skip
OWN = {
    "starts": phrases.begins(False), "plain": phrases.begins(True), "waits": phrases.waits(),
    "level": phrases.level(), "returns": phrases.own_returns(0.088),
    "rhythm": phrases.rhythm(False), "same": phrases.rhythm(True),
    **{n: phrases.fixed(n) for n in (phrases.PENDING, phrases.COST, phrases.REST)},
}  # fmt: skip
FEATURES = {
    f.name: f
    for f in (
        *catalogue(VOCABULARY).features, *people.words(VOCABULARY).features, *phrases.ANCHOR,
    )
}  # fmt: skip
NBSP = "\u00a0"


def told(name: str, value: float, language: str = "en", currency: str = "EUR") -> str:
    return sentence(words(language), FEATURES[name], value, currency)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("orders_90d", 3, "ordered 3 times in the last 90 days"),
        ("orders", 1, "ordered 1 time in all"),
        ("order_days_365d", 1, "ordered on 1 day in the last 365 days"),
        ("overdue_ratio", 2.4, "silence of 2.4 times the own mean gap"),
        ("refund_share", 0.5, "gave back 50% of what was bought in all"),
        ("spend_90d", 1234.5, "spent 1,234.50 EUR in the last 90 days"),
        ("refunds_365d", 20, "20.00 EUR given back in the last 365 days"),
        ("days_since_order", 1, "1 day since the newest order"),
        ("tenure_days", 1275, "1,275 days since the first order"),
        ("last_order_ratio", 0.5, "newest order: 0.5 times the own mean order"),
        ("overdue_spreads", -1.25, "silence beyond the mean gap: -1.25 times the gaps' spread"),
        ("spend_share_365d", 0.031, "3.1% of all spend fell into the last 365 days"),
        ("weekday_5_share", 1, "100% of orders on a Friday"),
        ("daypart_1_share", 0.25, "25% of orders at night"),
        ("quarter_4_share", 0.25, "25% of orders from October to December"),
        ("channel_share[web]", 0.2, "20% of orders with channel web"),
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
         "98%"),
    ],
)  # fmt: skip
def test_sentences(name: str, value: float, text: str) -> None:
    assert told(name, value) == text


@pytest.mark.parametrize(
    ("language", "name", "value", "text"),
    [
        ("de", "orders_90d", 3, "3-mal bestellt in den letzten 90 Tagen"),
        ("de", "spend", 1234.5, "1.234,50 EUR Umsatz insgesamt"),
        ("de", "days_since_order", 1, "1 Tag seit der letzten Bestellung"),
        ("de", "overdue_ratio", 2.4, "Bestellpause: das 2,4-Fache des eigenen mittleren Abstands"),
        ("de", "weekday_5_share", 0.5, f"50{NBSP}% der Bestellungen an einem Freitag"),
        ("de", "first_order_discounted", 0, "erste Bestellung ohne Rabatt"),
        ("de", "gap_mean_days", math.nan,
         "mittlerer Abstand zwischen Bestelltagen: nicht bekannt"),
        ("hu", "orders_90d", 3, "3 rendelés az elmúlt 90 napban"),
        ("hu", "spend", 1234.5, f"1{NBSP}234,50 EUR költés összesen"),
        ("hu", "days_since_order", 1, "1 nap telt el a legutóbbi rendelés óta"),
        ("hu", "weekday_5_share", 0.5, "pénteki rendelések aránya: 50%"),
        ("hu", "spend_share_365d", 0.031, "az elmúlt 365 nap aránya a teljes költésben: 3,1%"),
        ("hu", "first_channel[mail]", 0, "az első rendelés csatornája nem ez: mail"),
        ("nl", "orders_90d", 3, "3 keer besteld in de laatste 90 dagen"),
        ("nl", "spend", 1234.5, "EUR 1.234,50 besteed in totaal"),
        ("nl", "order_days_365d", 1, "op 1 dag besteld in de laatste 365 dagen"),
        ("nl", "daypart_1_share", 0.25, "25% van de bestellingen 's nachts"),
        ("nl", "overdue_ratio", 2.4, "stilte van 2,4 keer de eigen gemiddelde bestelpauze"),
        ("nl", "channel_share[other]", 0.2, "20% van de bestellingen via het kanaal overige"),
    ],
)  # fmt: skip
def test_sentences_of_other_languages(language: str, name: str, value: float, text: str) -> None:
    assert told(name, value, language) == text


def test_english_means_what_the_dictionary_says() -> None:
    say = words("en")
    for feature in (*FEATURES.values(), *OWN.values()):
        assert noun(say, feature) == feature.meaning.removeprefix("1 if ")
        assert family(say, feature) in (feature.family, feature.meaning)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_feature_has_a_sentence_for_every_value(language: str) -> None:
    units = {feature.unit for feature in FEATURES.values()}
    assert {"days", "share", "currency", "ratio", "0/1", "month 1-12", "number"} < units
    for name, feature in FEATURES.items():
        values = (1.0, 7.0) if feature.unit == "month 1-12" else (0.0, 0.04, 1.0, 2.5, 1e6, -3.0)
        means = noun(words(language), feature)
        for value in values:
            text = told(name, value, language)
            assert not re.search(r"[{}]|\bnan\b|-0\b(?![.,])", text), text
            assert len(text) > 8
            if feature.unit not in ("0/1", "month 1-12"):
                assert len(re.findall(r"\d+", text)) > len(re.findall(r"\d+", means)), text
        unknown = told(name, math.nan, language)
        assert means in unknown
        assert unknown != told(name, 1.0, language)
        if feature.unit == "0/1":
            assert told(name, 0.0, language) != told(name, 1.0, language)
        elif feature.unit != "month 1-12":
            assert told(name, 0.5, language) != told(name, 2.5, language), name


def test_features_that_differ_are_told_apart() -> None:
    for language in LANGUAGES:
        nouns = [noun(words(language), feature) for feature in FEATURES.values()]
        assert len(set(nouns)) == len(nouns), sorted({n for n in nouns if nouns.count(n) > 1})


@pytest.mark.parametrize("language", LANGUAGES)
def test_words_of_customers_are_told_as_they_are(language: str) -> None:
    """Levels, kinds and names of columns come from data: nothing in them is a template."""
    say = words(language)
    for word in ("{v}", "{0!r}", "{level}", "100 %s %d", "a that fell", "of kind x ever", "a\nb"):
        known = Vocabulary((word,), (word,), (("{x}", (word,)), ("n", None)), (word,), (word,))
        seen = 0
        for feature in catalogue(known).features:
            if word in feature.meaning:
                for value in (0.0, 1.0, 0.5, math.nan):
                    assert word in sentence(say, feature, value, "EUR"), feature.name
                seen += 1
        assert seen >= 10


def test_money_has_the_decimals_of_its_currency() -> None:
    assert told("spend", 1234.5678, currency="JPY") == "spent 1,235 JPY in all"
    assert told("spend", 1234.5678, currency="KWD") == "spent 1,234.568 KWD in all"
    assert told("spend", -0.0) == "spent 0.00 EUR in all"


def test_lines_of_their_own_have_words() -> None:
    say = words("en")
    assert sentence(say, OWN["starts"], math.nan, "EUR") == (
        "as customers with this rhythm usually do"
    )
    assert "new customers" in sentence(say, OWN["plain"], math.nan, "EUR")
    share = sentence(say, OWN["returns"], 0.5, "EUR")
    assert share == "50% of purchases expected back, 8.8% of all customers'"
    german = sentence(words("de"), OWN["returns"], 0.5, "EUR")
    assert german.replace(NBSP, " ") == (
        "50 % der Käufe voraussichtlich retourniert, 8,8 % bei allen Kunden"
    )
    for name in (phrases.PENDING, phrases.COST, phrases.REST):
        assert sentence(say, OWN[name], math.nan, "EUR") == OWN[name].meaning


def test_keys_leave_out_what_fills_holes() -> None:
    assert key_of(FEATURES["orders_90d"]).name == key_of(FEATURES["orders"]).name == "orders"
    assert key_of(FEATURES["visit_count_30d"]).kind == "visit"
    strange = Feature("customer_a[b]", "customer profile", "0/1", "", "")
    assert (key_of(strange).attribute, key_of(strange).level) == ("a", "b")
    assert isinstance(OWN["level"], Term)
    assert key_of(OWN["waits"]).name == "start_waiting"
