"""The model card: what a model is for, what it learned from, how good it is, and where it ends.

Made from the run, never written by hand, after the headings of Mitchell et al. 2019 (Model Cards
for Model Reporting, FAT* '19). It holds counts and metrics, and no customer's data.
"""

from __future__ import annotations

import json
import platform
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Final

from features.catalogue import feature_hash
from features.report import Ingested
from features.settings import MAX_MONTHS, Business
from features.spine import text
from training import insight, pages, sections
from training.drivers import Drivers
from training.gate import Verdict
from training.grid import GROW, KEEP, PROSPECT, REST, WIN, Grid
from training.judgement import Judgement
from training.model import ANCHOR_COLUMNS, Model
from training.pages import NOTHING, Block, Bullets, Code, Document, Section, Table, Text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Facts", "document", "html", "markdown"]

LIBRARIES: Final = ("clv", "numpy", "pandas", "scipy", "xgboost-cpu", "xgboost")
UNTESTED: Final = (
    "There was none: the history is too short to hold back even one month after enough of a past. "
    "No figure here says how good the model is; calibration was not done, and intervals rest on "
    "the forecast's own assumptions."
)
#: Optional columns of the orders, and what is not known without them.
COLUMNS: Final = {
    "cost": "no cost of single orders: margin is one share of all revenue",
    "channel": "no sales channel",
    "category": "no product categories",
    "product_id": "no products",
    "discount": "no discounts",
    "quantity": "no quantities",
}


@dataclass(frozen=True)
class Facts:
    """What a card tells beyond the model and its test."""

    ingested: Ingested
    seed: int
    versions: Mapping[str, str]  # of Python and of the libraries that decide a prediction
    drivers: Drivers | None = None  # of the customers at the moment of training

    @classmethod
    def of(cls, ingested: Ingested, seed: int, drivers: Drivers | None = None) -> Facts:
        """With the versions that are installed here."""
        found = {"Python": platform.python_version()}
        for name in LIBRARIES:
            try:
                found[name] = version(name)
            except PackageNotFoundError:  # xgboost comes under one of two names
                continue
        return cls(ingested, seed, found, drivers)


def markdown(model: Model, test: Judgement | None, verdict: Verdict | None, facts: Facts) -> str:
    """The card as Markdown; pictures are named ``plots/NAME.png``."""
    return pages.markdown(document(model, test, verdict, facts))


def html(model: Model, test: Judgement | None, verdict: Verdict | None, facts: Facts) -> str:
    """The card as one HTML file."""
    return pages.html(document(model, test, verdict, facts))


def document(
    model: Model,
    test: Judgement | None,
    verdict: Verdict | None,
    facts: Facts,
    drawn: Mapping[str, Figure] | None = None,
) -> Document:
    """The card's content.

    `test` is that of the same recipe before its cutoff, None where history is too short for any;
    `verdict` is the gate's on it. `drawn` are the pictures of `sections.figures`, if there already.
    """
    until = text(model.trained_until, model.settings.business.time_zone)
    lead = (
        f"Customer value and churn for {sections.count(model.customers)} customers, learned from "
        f"everything before {until}. Money is in {model.settings.business.currency}.",
        _judged_in_short(test),
    )
    return Document(
        "Model card",
        lead,
        (
            _purpose(), _data(facts), _definitions(model), _learned(model),
            insight.seasons(model, facts.ingested), *_tested(model, test, drawn),
            *([_gate(verdict)] if verdict else []), insight.reasons(model, facts.drivers),
            insight.next_order(test), insight.prospects(model, test),
            _limits(model, facts), _usage(model, facts),
        ),
    )  # fmt: skip


def _judged_in_short(test: Judgement | None) -> str:
    if test is None:
        return "It has not been tested out of time: the history is too short for a test."
    return (
        f"Its recipe was tested out of time: fitted before {test.cutoff} and judged on the "
        f"{test.months} months after, {sections.count(len(test.actual))} customers."
    )


def _purpose() -> Section:
    return Section(
        "What it is for",
        (
            Bullets((
                "Expected revenue, margin and value of each customer over the next "
                f"1 to {MAX_MONTHS} months, and the chance that they order nothing.",
                "Ranking customers, sizing budgets and target lists, totals of segments, channels "
                "and the whole base.",
            )),
            Text("What it is not for:"),
            Bullets((
                "Decisions with legal or similarly serious effect on a person, such as credit, "
                "refusal of service or personal prices.",
                "What a campaign brings: a high churn does not say that a contact helps. "
                "Only a control group does.",
                "Being sure of one person: see the intervals.",
                "Another business, or this one after it has changed in kind (prices, assortment, "
                "countries): train again and look at the test.",
            )),
        ),
    )  # fmt: skip


def _data(facts: Facts) -> Section:
    found, zone = facts.ingested, facts.ingested.time_zone
    rows = [
        ("order lines read", sections.count(found.rows_in)),
        ("order lines refused", sections.count(found.rows_refused)),
        ("order lines kept", sections.count(found.rows_kept)),
        ("customers", sections.count(found.customers)),
        ("first order", text(found.first_ts, zone)[:10]),
        ("newest order", text(found.last_ts, zone)[:10]),
        ("covered up to (not included)", text(found.coverage_end, zone)),
        ("currency", found.currency),
        ("time zone", zone),
        ("columns beyond the needed three", ", ".join(found.columns_present) or "none"),
        ("fingerprint", found.fingerprint),
    ]
    if found.events_in:
        rows.insert(3, ("events read", sections.count(found.events_in)))
        rows.insert(4, ("events kept", sections.count(found.events_kept)))
    blocks: list[Block] = [_facts("Counts, dates and origin", rows)]
    met = [(r.name, r.action, sections.count(r.rows), r.meaning) for r in found.rules if r.rows]
    if met:
        head = ("rule", "what was done", "rows", "meaning")
        blocks.append(Table("Rules that rows have met", head, tuple(met), frozenset({1, 3})))
    return Section("Data", tuple(blocks))


def _facts(caption: str, rows: list[tuple[str, str]]) -> Table:
    return Table(caption, ("what", "value"), tuple(rows), frozenset({1}))


def _own_rates(business: Business) -> str:
    by = business.discount_rate_by_segment
    if not by.rates:
        return ""
    told = ", ".join(f"{level} {rate:.1%}" for level, rate in sorted(by.rates.items()))
    return f" (by {by.column}: {told})"


def _earned(test: Judgement) -> tuple[Text, ...]:
    unit = test.model.settings.business.currency
    return (Text(test.margin.sentence(unit)),) if test.margin else ()


def _margin(model: Model) -> str:
    share, own = model.settings.business.margin, model.margins
    if own is None:
        return f"{share:.0%} of revenue"
    rest = f", {share:.0%} of revenue without one" if own.covered < 1 else ""
    return (
        "of each customer, learned from the cost of orders: "
        f"{own.of_all(share):.1%} of revenue where nothing is known of them{rest}"
    )


def _definitions(model: Model) -> Section:
    business = model.settings.business
    months = ", ".join(map(str, model.settings.horizons.months))
    items = [
        "Order: the lines of one order number (without one: of one customer and local day) whose "
        "sum before refunds is positive.",
        "Revenue (revenue_Nm): net of refunds, not discounted, in the N calendar months from the "
        "moment of prediction on.",
        "Churn (churn_Nm): the chance of no order in these N months.",
        f"Value (clv_Nm): margin ({_margin(model)}) discounted at "
        f"{business.discount_rate:.0%} a year{_own_rates(business)}, less "
        f"{business.retention_cost:,.2f} {business.currency} a month to keep a customer. Money "
        "already spent on winning them is not in it.",
        "Interval (clv_Nm_low, _median, _high): the 10, 50 and 90 % points. A median is what is "
        "typical, never to be summed; totals have an interval of their own.",
        f"Horizons (N) of the predictions: {months} months; any of 1 to {MAX_MONTHS} can be asked "
        "for.",
    ]
    if model.grid:
        items.append(_segment(model.grid, business.currency))
    if business.churn == "contract_end":
        items.insert(3, "Also told: inactive_contract_end, whose contract is over (contract_end).")
    elif business.churn.startswith("own_gap:"):
        items.insert(3, f"Also told: inactive_own_gap, who is silent for {business.churn[8:]} "
                        f"times their own mean gap ({business.churn}).")  # fmt: skip
    return Section("Definitions", (Bullets(tuple(items)),))


def _segment(grid: Grid, currency: str) -> str:
    return (
        f"Segment: worth much is who brings {grid.value:,.2f} {currency} or more in {grid.months} "
        f"months if they order again; likely to leave is whose churn is {grid.churn:.0%} or more. "
        f"{KEEP}: worth much, likely to stay. {WIN}: worth much, likely to leave. {GROW}: worth "
        f"less, likely to stay. {REST}: worth less, likely to leave. {PROSPECT}: no order yet."
    )


def _learned(model: Model) -> Section:
    zone = model.settings.business.time_zone
    origins = tuple((text(o.cutoff, zone), str(o.months)) for o in model.origins)
    used = set(model.columns)
    known = Counter(entry["family"] for entry in model.catalogue.dictionary())
    seen = Counter(e["family"] for e in model.catalogue.dictionary() if e["name"] in used)
    rows = [(family, str(n), str(seen[family])) for family, n in known.items()]
    rows.append(("all", str(sum(known.values())), str(len(used))))
    return Section(
        "What it learned from",
        (
            Text(_recipe(model)),
            Table("Past moments it learned from", ("cutoff", "months of label"), origins),
            Table("Features", ("family", "computed", "that vary, and so are used"), tuple(rows)),
        ),
    )


def _recipe(model: Model) -> str:
    objective = model.settings.model.objective
    if model.thin:
        return (
            "A buy-till-you-die forecast (Pareto/NBD for order days, gamma-gamma for their spend)"
            + ("" if objective == "btyd" else "; data were too few for corrections from behaviour")
            + "."
        )
    if objective == "plain":
        return "Gradient boosting from the features, which starts from the same for everybody."
    return (
        "A buy-till-you-die forecast (Pareto/NBD for order days, gamma-gamma for their spend), "
        f"corrected from behaviour by gradient boosting, which also sees {len(ANCHOR_COLUMNS)} "
        "numbers of that forecast."
    )


def _tested(
    model: Model, test: Judgement | None, drawn: Mapping[str, Figure] | None
) -> list[Section]:
    if test is None:
        return [Section("Test out of time", (Text(UNTESTED, "warning"),))]
    shown = sections.pictures(test, drawn)
    return [
        Section("Two models: the judged and the shipped", _both(model, test)),
        Section("Test out of time", (*sections.models(test), *sections.differences(test),
                                     shown["decile"], shown["gain"])),
        Section("Calibration of churn", (sections.calibration(test), shown["calibration"])),
        Section("Intervals and total", (*_held(test), sections.total(test), *_earned(test),
                                        shown["coverage"], *sections.coverage(test),
                                        shown["tracking"])),
        Section("A campaign against churn", (sections.campaign(test), shown["profit"])),
        Section("Kinds of customers", (*sections.warnings(test), *sections.slices(test))),
    ]  # fmt: skip


def _both(model: Model, test: Judgement) -> tuple[Block, ...]:
    """Which figures belong to which: nothing later is known by which to judge the shipped one."""
    pairs = [_told(test.model), _told(model)]
    rows = tuple((name, pairs[0][name], pairs[1][name]) for name in pairs[0])
    return (
        Text(
            "The judged model saw nothing at or after its cutoff. The shipped one is the same "
            "recipe fitted again on everything; what will come after it is not known yet, so it "
            "has no test of its own. Its calibration and its intervals rest on what came of the "
            "test and of earlier rehearsals. Test, calibration, intervals, campaign, kinds of "
            "customers and the gate below speak of the judged model; data, features and seasons "
            "above of the shipped one."
        ),
        Table("Judged and shipped", ("what", "judged", "shipped"), rows, frozenset({1, 2})),
    )


def _told(model: Model) -> dict[str, str]:
    level, slope = model.calibration
    sure = model.intervals
    return {
        "fitted on what came before": text(
            model.trained_until, model.settings.business.time_zone
        ),
        "customers": sections.count(model.customers),
        "features used": str(len(model.columns)),
        "past moments": str(len(model.origins)),
        "longest label, months": str(model.longest),
        "calibration of churn: level, slope": f"{level:+.3f}, {slope:.3f}",
        "outcomes of buyers behind the intervals": sections.count(sure.rows) if sure else NOTHING,
        "months of these outcomes": str(sure.months) if sure else NOTHING,
        "error that a total's customers share": f"{sure.common:.1%}" if sure else NOTHING,
    }  # fmt: skip


def _held(test: Judgement) -> list[Block]:
    """Did the intervals hold, in words: in all and where the money is."""
    found = {str(row["group"]): row for row in test.coverage().to_dict("records")}
    return [
        Text(
            f"{who}: {sections.share(row['above'])} came out above their 90 % point and "
            f"{sections.share(row['below'])} below their 10 % point; 10 % belong on either side."
        )
        for who, row in (
            ("All customers", found["all"]), ("Highest tenth by value", found["decile 01"])
        )
    ]  # fmt: skip


def _gate(verdict: Verdict) -> Section:
    rows = tuple(
        (line.name, line.must, line.came, "yes" if line.passed else "NO") for line in verdict.lines
    )
    names = f"champion: {verdict.champion or 'none yet'}; best baseline: {verdict.baseline}"
    head = ("what was looked at", "must hold", "came", "passed")
    return Section(
        "The gate",
        (
            Text(f"{verdict.status}: {verdict.reason}", "" if verdict.passed else "warning"),
            Text(f"{verdict.challenger} on {sections.count(verdict.customers)} customers; {names}"),
            Table("Every line of it", head, rows, frozenset({1, 2, 3})),
        ),
    )


def _limits(model: Model, facts: Facts) -> Section:
    horizons = model.settings.horizons.months
    rows = tuple((str(h), model.evidence([h])) for h in horizons)
    items = [
        f"The longest label it has seen is {model.longest} months; longer horizons are "
        "extrapolated, with a wider interval.",
        "Except for prospects, it judges and was judged on customers with at least one order "
        "before the moment of prediction.",
        "Reasons and drivers tell what the model saw, not what would follow from changing it.",
        "Intervals hold as far as the coming months differ from the past no more than past months "
        "did from one another.",
        "It knows behaviour up to its moment of training. Train again when customers or the "
        "assortment change.",
        *(f"Data it did not have: {each}." for each in _absent(model, facts)),
    ]
    if model.thin:
        items.insert(0, "Evidence is thin: predictions lean on the forecast alone, which knows "
                        "only when and for how much a customer ordered.")  # fmt: skip
    return Section(
        "Limits",
        (Table("Evidence by horizon", ("months", "evidence"), rows, frozenset({1})),
         Bullets(tuple(items))),
    )  # fmt: skip


def _absent(model: Model, facts: Facts) -> list[str]:
    present = set(facts.ingested.columns_present)
    present |= {"cost"} if "margin_rate" in present else set()
    found = [words for name, words in COLUMNS.items() if name not in present]
    words = model.vocabulary
    found += [] if words.attributes else ["no attributes of customers"]
    return found + ([] if words.events else ["no events beside orders (visits, mails, support)"])


def _usage(model: Model, facts: Facts) -> Section:
    settings = model.settings
    until = text(model.trained_until, settings.business.time_zone)
    months = ",".join(map(str, settings.horizons.months))
    versions = ", ".join(f"{name} {found}" for name, found in facts.versions.items())
    return Section(
        "Use it and make it again",
        (
            Code("clv predict DATA --out predictions.csv\nclv promote VERSION\n"
                 f"clv train DATA --as-of {until} --horizons {months} --seed {facts.seed}"),
            Text(
                "The same data (see the fingerprint), settings, seed and versions give the same "
                f"model. Seed {facts.seed}; features {feature_hash()}; {versions}."
            ),
            Text("Settings:"),
            Code(json.dumps(settings.as_dict(), indent=1, ensure_ascii=False)),
        ),
    )  # fmt: skip
