"""What a model card tells beyond its figures: seasons, reasons, next orders, prospects."""

from __future__ import annotations

from typing import Final

from features.report import Ingested
from features.spine import months_between
from training import sections
from training.drivers import Drivers
from training.judgement import Judgement
from training.model import Model
from training.pages import Block, Section, Table, Text
from training.season import LEAST_MONTHS

__all__ = ["next_order", "prospects", "reasons", "seasons"]

HEAVIEST: Final = 12  # behaviours told one by one
MONTHS: Final = ("January", "February", "March", "April", "May", "June", "July", "August",
                 "September", "October", "November", "December")  # fmt: skip


def seasons(model: Model, found: Ingested) -> Section:
    """By how much more is ordered in each month, or why that is not known."""
    season = model.anchor.season
    rows = tuple((name, f"{factor:.2f}") for name, factor in zip(MONTHS, season.index, strict=True))
    block: Block = Table("Seasons: orders of a month against an average one", ("month", "times"),
                         rows)  # fmt: skip
    if months_between(found.first_ts, model.trained_until, found.time_zone) < LEAST_MONTHS:
        block = Text(f"None: telling them takes {LEAST_MONTHS} months of history.")
    elif season.flat:
        block = Text("None were found beyond what chance scatters.")
    return Section("Seasons", (block,))


def reasons(model: Model, found: Drivers | None) -> Section:
    """Which behaviours matter: the heaviest drivers of churn, of the shipped model's customers."""
    unit = model.settings.business.currency
    if found is None or not len(found.features):
        return Section("Reasons", (Text("They were not measured."),))
    months = min(model.settings.horizons.months)
    rows = tuple(
        (
            row["meaning"].removeprefix("1 if "), row["family"], f"{row['weight']:.2f}",
            sections.share(row["churn_high"]), sections.share(row["churn_low"]),
        )
        for row in found.features.head(HEAVIEST).to_dict("records")
    )  # fmt: skip
    families = tuple(
        (row["family"], f"{row['weight']:.2f}", sections.money(row["at_risk"]),
         sections.money(row["kept"]))
        for row in found.families.to_dict("records")
    )  # fmt: skip
    told = (
        f"What moves the chance of no order in {months} months, measured on "
        f"{sections.count(found.customers)} customers at the moment of training and in their "
        "money. Weight is the mean move, in the logit. It tells what comes before leaving, not "
        "what a change would bring. clv explain says it of one customer, in money that adds up to "
        "the prediction."
    )
    return Section(
        "Reasons",
        (
            Text(told),
            Table("Families of behaviour", ("family", "weight", f"at risk, {unit}",
                                            f"kept, {unit}"), families),
            Table("The heaviest behaviours", ("behaviour", "family", "weight",
                  "churn of those with most", "churn of those with least"), rows, frozenset({1})),
        ),
    )  # fmt: skip


def next_order(test: Judgement | None) -> Section:
    """What the date means, and whether as many ordered again by each month's end."""
    told = Text(
        "next_order_on is the day by which half of those who order again within 24 months have "
        "done so; it is empty where an order is no likelier than none."
    )
    return Section("Next order", (told, sections.returned(test)) if test else (told,))


def prospects(model: Model, test: Judgement | None) -> Section:
    """What is known of people without an order, and how good that was in the test."""
    own, everybody = model.prospects, model.population
    unit = model.settings.business.currency
    blocks: list[Block] = []
    if own:
        blocks.append(Text(
            f"The shipped model learned from {sections.count(own.people)} people who had signed up "
            f"and not ordered at a past moment; {sections.count(own.conversions)} of them ordered "
            "later. Their predictions carry evidence cold_start and a wide interval."
        ))  # fmt: skip
    else:
        why = model.no_prospects or "nobody asked for one"
        blocks.append(Text(f"There is no model of people without an order: {why}."))
    if everybody and not own:
        h = min(model.settings.horizons.months)
        row = everybody.predict([h], model.cashflow).columns()
        middle, low, high = (
            sections.money(float(row[f"clv_{h}m{end}"][0])) for end in ("", "_low", "_high")
        )
        blocks.append(Text(
            "Somebody whom no table knows gets the average of the customers as they were predicted "
            f"at the moment of training: clv_{h}m {middle} {unit}, for 8 in 10 of them {low} to "
            f"{high}, evidence cold_start. For somebody who never ordered that is too much rather "
            "than too little."
        ))  # fmt: skip
    return Section("Prospects", (*blocks, *(sections.prospects(test) if test else ())))
