"""What the commands of decisions print for a person."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pandas import isna

from serving.decisions.budget import Plan
from serving.decisions.discounts import WhatIf
from serving.decisions.effects import Effect, Measured
from serving.decisions.listing import List
from serving.decisions.power import SampleSize
from serving.decisions.uplift import Uplift
from serving.decisions.winback import Evaluation
from serving.decisions.worth import Worth

__all__ = [
    "HONEST", "listed", "measured", "planned", "sample_size", "table", "uplift", "valued",
]  # fmt: skip

HONEST = (
    "The riskiest customer is not the most persuadable one: some leave whatever they are offered, "
    "others stay without it. Only a control group tells what a contact changes."
)


def table(rows: list[list[str]], left: int = 1) -> list[str]:
    """Rows of text under one another, the first `left` columns to the left, the others right."""
    widths = [max(len(row[j]) for row in rows) for j in range(len(rows[0]))]
    return [
        "  "
        + "  ".join(
            f"{cell:<{width}}" if j < left else f"{cell:>{width}}"
            for j, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def measured(found: Measured, name: str, currency: str = "") -> str:
    """An experiment: the effects with their intervals, by level, and what its division says."""
    level = f"{found.best[0].level:.0%}"
    unit = f" in {currency}" if currency else ""
    lines = [f"{name}: {found.outcome} per customer{unit}, effect with {level} interval", ""]
    lines += table([_HEAD, *(_effect(one) for one in found.best)])
    if found.adjusted:
        kept = found.adjusted[0].variance
        lines.append(
            f"  What was known before explains {max(1 - kept, 0):.1%} of the variance "
            f"({', '.join(found.before)}); without it:"
        )
        lines += table([_effect(one) for one in found.plain])
    lines += _returns(found, currency)
    if found.groups:
        lines += ["", *table([_HEAD, *(_effect(one) for one in found.groups)])]
        lines.append(
            f"  Of {len(found.groups)} such intervals about "
            f"{len(found.groups) * (1 - found.best[0].level):.1f} miss by chance alone."
        )
    if found.left_out:
        lines.append(f"  Too small to tell: {', '.join(found.left_out)}")
    return "\n".join([*lines, "", *_division(found)])


_HEAD = ["", "treated", "control", "mean treated", "mean control", "effect", "from", "to", "p"]


def _effect(one: Effect) -> list[str]:
    label = one.arm if one.group == "all" else f"{one.group}, {one.arm}"
    numbers = (one.mean_treated, one.mean_control)
    return [
        label, f"{one.treated:,}", f"{one.control:,}", *(f"{x:,.4f}" for x in numbers),
        *(f"{x:+,.4f}" for x in (one.effect, one.low, one.high)), f"{one.p:.4f}",
    ]  # fmt: skip


def _returns(found: Measured, currency: str) -> list[str]:
    lines = []
    for one in found.best:
        value, low, high = one.total
        lines.append(
            f"  All {one.treated:,} treated ({one.arm}): {value:+,.2f} ({low:+,.2f} to {high:+,.2f}"
            f"){f' {currency}' if currency else ''}"
        )
        if one.roi is not None and one.cost is not None:
            roi, worst, most = one.roi
            lines.append(
                f"  Cost {one.cost:,.2f}: return on it {roi:+.0%} ({worst:+.0%} to {most:+.0%})"
            )
    return lines


def _division(found: Measured) -> list[str]:
    """Whether chance divided the arms, as far as can be seen."""
    if found.warnings:
        lines = ["The arms do not look divided by chance; do not trust the effect:"]
        return lines + [f"  {warning}" for warning in found.warnings]
    checked = []
    if found.ratio_p is not None:
        checked.append(f"sample ratio (p {found.ratio_p:.2f})")
    if found.balance:
        largest = max(abs(one.difference) for one in found.balance)
        checked.append(f"balance before the campaign (largest difference {largest:.3f} sd)")
    lines = [f"Division by chance: {' and '.join(checked)} look right." if checked else
             "Division by chance: nothing known beforehand to check it by."]  # fmt: skip
    if found.ratio_p is None:
        lines.append(
            f"The control is {found.control_share:.1%}; say by --share what was intended, to have "
            "the sample ratio checked."
        )
    return lines


def sample_size(found: SampleSize) -> str:
    """How many customers an experiment takes."""
    plan: dict[str, Any] = dict(found.plan)
    if "rate" in plan:
        what = f"a rate of {plan['rate']:.2%} from one of {plan['rate'] * (1 + plan['lift']):.2%}"
    else:
        what = f"a difference of {plan['difference']:g} where customers spread by {plan['sd']:g}"
    return "\n".join([
        f"To tell {what} with a power of {found.power:.0%} at a level of {found.level:.0%}:",
        f"  {found.treated:,} treated and {found.control:,} control, {found.total:,} in all",
    ])  # fmt: skip


def listed(made: List, out: Path, contacts_out: Path | None, past: Evaluation | None) -> str:
    """A list: who is on it, who is not and why, what it should bring, what that rests on."""
    chosen, currency = made.chosen, made.settings.business.currency
    held = len(chosen.frame) - len(chosen.treated)
    value, low, high = chosen.gain
    lines = [
        f"{len(chosen.frame):,} of {chosen.considered:,} customers as of {made.as_of}: "
        f"{len(chosen.treated):,} to contact, {held:,} held out by chance as control",
        *(f"  {count:,} left out: {rule}" for rule, count in chosen.left_out.items()),
        f"  {chosen.unprofitable:,} left out: expected to bring less than a contact costs",
        f"Contacts cost {chosen.cost:,.2f} {currency} ({made.cost:,.2f} each); {chosen.what} after "
        f"that {value:,.2f} ({low:,.2f} to {high:,.2f}) {currency} within {chosen.span}",
        f"  by {chosen.basis}",
        *(f"Note: {note}" for note in chosen.notes),
    ]
    if past is not None:
        lines += _judged(past)
    lines.append(HONEST)
    if not chosen.control_share:
        lines.append("Without a control group nobody will know what the campaign brought.")
    if made.audience is not None:
        lines.append(f"{len(made.audience):,} can be matched by mail address or telephone number")
    lines.append(f"Written to {out}")
    if contacts_out is not None:
        lines.append(
            f"Contacts written to {contacts_out}: add them to the table contacts, then clv measure"
        )
    return "\n".join(lines)


def _judged(past: Evaluation) -> list[str]:
    rows = [["", "customers", "predicted", "came back"]]
    rows += [
        [f"fifth {k} by chance", f"{n:,}", f"{said:.1%}", f"{came:.1%}"]
        for k, (said, came, n) in enumerate(past.groups, 1)
    ]
    return [
        f"Out of time, at {past.cutoff}: of {past.customers:,} who had left {past.returned:.1%} "
        f"came back within {past.months} months ({past.predicted:.1%} predicted)",
        *table(rows),
        f"  The top {past.top:,} by rank: {past.top_returned:.1%} came back, with "
        f"{past.money_share:.0%} of the money (a random tenth 10%, the best possible "
        f"{past.best_share:.0%})",
    ]


def planned(made: Plan | None, what: WhatIf | None, currency: str, out: Path) -> str:
    """A budget by channel, and what a discount would cost."""
    lines: list[str] = []
    if made is not None:
        rows = [["", "spend", "margin", "gain", "from", "to", "next unit brings", "maximum"]]
        rows += [
            [one.name, f"{one.spend:,.2f}", f"{one.margin:,.2f}", f"{one.gain:,.2f}",
             f"{one.low:,.2f}", f"{one.high:,.2f}", f"{one.last_unit:,.2f}",
             "" if one.maximum is None else f"{one.maximum:,.2f}"]
            for one in made.lines
        ]  # fmt: skip
        lines = [
            f"A month's {made.budget:,.2f} {currency} where it brings most", *table(rows),
            f"Spent {made.spent:,.2f}; expected gain {made.gain:,.2f} ({made.low:,.2f} to "
            f"{made.high:,.2f}) {currency}",
        ]  # fmt: skip
        if made.kept > 0.005:
            lines.append(
                f"{made.kept:,.2f} {currency} are better kept: the next unit would bring less than "
                "it costs, or every maximum is reached (twice the largest month of the history, "
                "unless --maximum says otherwise)"
            )
        lines += [f"Not planned: {reason}" for reason in made.left_out]
        if any("fitted" in one.note for one in made.lines):
            lines.append(
                "From history, not from a test: a month in which more was spent may have been a "
                "better month anyway. Move money in steps and measure."
            )
    if what is not None:
        lines += _discount(what, currency)
    return "\n".join([*lines, f"Written to {out}"])


def _discount(what: WhatIf, currency: str) -> list[str]:
    rows = [["", "before", "after", "change"]]
    for name, (before, after) in (
        (f"revenue of {what.months} months", what.revenue),
        (f"margin of {what.months} months", what.margin),
        (f"value of {what.horizon} months", what.value),
    ):
        rows.append([name, f"{before:,.2f}", f"{after:,.2f}", f"{after - before:+,.2f}"])
    even = (
        "no growth of sales pays for it: the discount is as large as the margin"
        if what.break_even is None
        else f"it pays for itself if sales grow by {what.break_even:.1%}"
    )
    return [
        f"What if {what.depth:.0%} off for {what.months} months, {what.segment} "
        f"({what.customers:,} customers, {currency})",
        *table(rows), f"  {even}", what.assumption,
    ]  # fmt: skip


def uplift(model: Uplift, folder: Path | None) -> str:
    """An uplift model: whether its ranking is real, and what follows from that."""
    slope, low, high = model.slope
    told = (
        "the ranking is real" if model.telling else
        "the data do not show that customers differ in what a contact changes; clv target --uplift "
        "would rank by little more than chance"
    )  # fmt: skip
    return "\n".join([
        "",
        f"Uplift model of {model.customers:,} customers, judged on those it had not seen: Qini "
        f"{model.qini:+.4f}, AUUC {model.auuc:+.4f} {model.outcome} per customer",
        f"  Slope {slope:.2f} ({low:.2f} to {high:.2f}; 1 is perfect, 0 is chance): {told}",
        HONEST, f"Written to {folder}",
    ])  # fmt: skip


_LINES = (  # of a value: the part, its sign, what it is
    ("past_margin", 1, "earned so far (margin)"),
    ("margin_{h}m", 1, "expected margin of {h} months"),
    ("discount_{h}m", -1, "less what waiting for it costs"),
    ("retention_cost_{h}m", -1, "less the cost to keep"),
    ("clv_{h}m", 1, "future value"),
    ("acquisition_cost", -1, "less what winning them cost"),
    ("total_{h}m", 1, "total value: past + future - acquisition"),
)
_GROUPS = 12  # levels of a column that are shown


def valued(made: Worth, out: Path, summary: Path | None) -> str:
    """Past, future and total value of the base and of its groups, part by part."""
    h, currency = made.horizon, made.settings.business.currency
    groups = made.summary()
    whole = groups.iloc[0]
    people = f"{whole['customers']:,} customers"
    if whole["prospects"]:
        people += f" and {whole['prospects']:,} prospects"
    rows = [["", "in all", "each"]]
    for column, sign, what in _LINES:
        amount = sign * float(whole[column.format(h=h)]) + 0.0  # nothing is not -0.00
        rows.append([what.format(h=h), f"{amount:,.2f}", f"{amount / len(made.frame):,.2f}"])
    lines = [
        f"Value of {people} as of {made.frame['as_of'].iloc[0]}, {currency}",
        *table(rows), *_acquired(made), *_checked(groups, h),
    ]  # fmt: skip
    for name in made.by:
        lines += ["", *_by_level(groups[groups["by"] == name], name, h, summary is not None)]
    lines += [
        "",
        f"Keep at most, each: what leaving them alone loses on average within {h} months; a "
        "measure that keeps a tenth of those about to leave may cost a tenth of it.",
        "Win at most: what a new customer of the year before has earned and will, on average.",
    ]  # fmt: skip
    if made.outside[0]:
        earned = made.outside[1] / made.unit
        lines.append(f"Beside them {made.outside[0]:,} people without a prediction brought "
                     f"{earned:,.2f} {currency} of margin")  # fmt: skip
    lines += [f"Note: {note}" for note in made.notes]
    written = f"Written to {out}" + (f", by group to {summary}" if summary else "")
    return "\n".join([*lines, written])


def _acquired(made: Worth) -> list[str]:
    """Where acquisition costs come from, and for whom they are not known."""
    told = made.as_dict()["acquisition"]
    words = {"given": "given by the customers table", "shared": "shared out from the spend table",
             "none": "nothing paid"}  # fmt: skip
    parts = [f"{text} for {told[name]:,}" for name, text in words.items() if told[name]]
    lines = [f"  Acquisition cost: {', '.join(parts)}"] if parts else []
    if told["unknown"]:
        lines.append(
            f"  Acquisition cost not known for {told['unknown']:,}: nothing is taken off for them "
            "(bring acquisition_cost, or acquisition_channel and acquired_at with a table spend)"
        )
    return lines


def _checked(groups: Any, h: int) -> list[str]:
    formula, model = (float(groups[f"{name}_{h}m"].iloc[0]) for name in ("formula", "model"))
    if not model > 0:
        return []
    return [
        f"  Closed formula m x r / (1 + d - r) over {h} months, before the cost to keep: "
        f"{formula:,.0f}, model: {model:,.0f}, ratio {formula / model:.2f}"
    ]


def _by_level(groups: Any, name: str, h: int, written: bool) -> list[str]:
    ranked = groups.sort_values([f"total_{h}m", "level"], ascending=[False, True])
    if name == "cohort":  # the newest, in the order of time
        ranked = groups.sort_values("level", ascending=False)
    rows = [[f"by {name}", "customers", "past", "future", "acquisition", "total", "keep at most",
             "win at most"]]  # fmt: skip
    for row in ranked.head(_GROUPS).to_dict("records"):
        amounts = [row[n] for n in ("past_margin", f"clv_{h}m", "acquisition_cost", f"total_{h}m")]
        keep, win = row[f"keep_at_most_each_{h}m"], row[f"win_at_most_{h}m"]
        rows.append([
            row["level"], f"{row['customers']:,}", *(f"{amount:,.2f}" for amount in amounts),
            "-" if isna(keep) else f"{keep:,.2f}", "few new" if isna(win) else f"{win:,.2f}",
        ])  # fmt: skip
    more = len(ranked) - _GROUPS
    if more <= 0:
        return table(rows)
    return [*table(rows), f"  and {more:,} more{'' if written else ' (--summary FILE has them)'}"]
