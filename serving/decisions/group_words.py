"""What the commands about groups of customers print for a person: segments, channels."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from serving.decisions.channels import ALL, Channels
from serving.decisions.segments import LEAST, Segmented
from serving.decisions.words import table

__all__ = ["channels", "hundredths", "segmented"]


def segmented(made: Segmented, currency: str, out: Path, summary: Path | None) -> str:
    """Segments: what each is, what to do, and who moved."""
    h, unit = made.months, f" {currency}" if currency else ""
    lines = [
        f"{len(made.frame):,} customers as of {made.as_of} by {made.scheme}; value and churn of "
        f"{h} months"
    ]
    if made.lines is not None:
        lines.append(
            f"Worth much: {made.lines[0]:,.2f}{unit} or more if they order again; likely to leave: "
            f"churn of {made.lines[1]:.1%} or more"
        )
    lines += table(_segments(made.table, h))
    if made.table["customers"].isna().any():
        lines.append(
            f"  <{LEAST}: so few customers that figures would be figures of persons, or a segment "
            "that would tell them"
        )
    lines += ["", *table([[str(r["segment"]), str(r["next_step"])] for r in
                          made.table.to_dict("records") if r["next_step"]], left=2)]  # fmt: skip
    lines += _moved(made)
    lines += [f"Note: {note}" for note in made.notes]
    lines.append(f"Written to {out}" + (f" and {summary}" if summary else ""))
    return "\n".join(lines)


def _segments(found: pd.DataFrame, h: int) -> list[list[str]]:
    """The table's rows as text."""
    heads = {
        "customers": ("customers", "{:,.0f}"), "share": ("share", "{:.1%}"),
        f"clv_{h}m": ("value", "{:,.0f}"), f"clv_{h}m_low": ("from", "{:,.0f}"),
        f"clv_{h}m_high": ("to", "{:,.0f}"), f"clv_{h}m_per_customer": ("each", "{:,.2f}"),
        f"churn_{h}m": ("churn", "{:.1%}"), "orders_per_month": ("orders/month", "{:.2f}"),
        f"order_value_{h}m": ("an order", "{:,.2f}"),
        f"active_months_{h}m": ("months active", "{:.1f}"),
        "categories": ("categories", "{:.1f}"), "one_category": ("only one", "{:,.0f}"),
    }  # fmt: skip
    shown = {name: how for name, how in heads.items() if found.get(name) is not None}
    rows = [["", *(title for title, _ in shown.values())]]
    for row in found.to_dict("records"):
        cells = ["" if pd.isna(row[n]) else how.format(row[n]) for n, (_, how) in shown.items()]
        if pd.isna(row["customers"]):
            cells[0] = f"<{LEAST}"
        rows.append([str(row["segment"]), *cells])
    return rows


def _moved(made: Segmented) -> list[str]:
    """The matrix of moves; printed shares of a row sum to 100.0 %."""
    if made.moves is None:
        return []
    targets = list(made.moves.columns[2:])
    rows = [["from \\ to", "customers", *targets]]
    for row in made.moves.to_dict("records"):
        if pd.isna(row["customers"]):
            rows.append([str(row["from"]), f"<{LEAST}", *[""] * len(targets)])
        else:
            shares = hundredths([row[name] for name in targets])
            rows.append([str(row["from"]), f"{row['customers']:,}", *shares])
    return ["", f"Where the customers of {made.before} are at {made.as_of}", *table(rows)]


def hundredths(shares: list[float]) -> list[str]:
    """Shares as per cent with one decimal that sum to 100.0: by the largest remainders."""
    if any(pd.isna(share) for share in shares):
        return [""] * len(shares)
    exact = [share * 1000 for share in shares]
    whole = [int(each) for each in exact]
    most = sorted(range(len(exact)), key=lambda i: (whole[i] - exact[i], i))
    for i in most[: round(sum(exact)) - sum(whole)]:
        whole[i] += 1
    return [f"{each / 10:.1f}%" for each in whole]


def channels(made: Channels, currency: str, out: Path) -> str:
    """What each channel costs and brings, and, for the best known, by cohort."""
    m = made.months
    lines = [
        f"Customers won from {made.first} to {made.last}, as of {made.as_of}, in {currency}; "
        f"intervals are 10 to 90 %",
        *table(_rows(made.whole, (
            ("spend", "spend", "{:,.0f}"), ("fees", "fees", "{:,.0f}"),
            ("sign-ups", "signups", "{:,.0f}"), ("customers", "customers", "{:,.0f}"),
            ("CPA", "cpa", "{:,.2f}"), ("CAC", "cac", "{:,.2f}"),
            (f"LTV {m}m", f"ltv_{m}m", "{:,.2f}"), ("LTV:CAC", "ltv_to_cac", "{:.2f}"),
            ("from", "ltv_to_cac_low", "{:.2f}"), ("to", "ltv_to_cac_high", "{:.2f}"),
            ("ROI", "roi", "{:+.0%}"), ("payback", "payback_month", "{:.0f}"),
            ("from", "payback_month_low", "{:.0f}"), ("to", "payback_month_high", "{:.0f}"),
            ("", "note", "{}"),
        ))),
        "",
        *table(_rows(made.whole, tuple(_values(made.whole)))),
    ]  # fmt: skip
    cohorts = made.table[made.table["cohort"] != ALL]
    if len(cohorts):
        lines += ["", *table(_rows(cohorts, (
            ("cohort", "cohort", "{}"), ("cost", "cost", "{:,.0f}"),
            ("customers", "customers", "{:,.0f}"), ("CAC", "cac", "{:,.2f}"),
            (f"LTV {m}m", f"ltv_{m}m", "{:,.2f}"), ("LTV:CAC", "ltv_to_cac", "{:.2f}"),
            ("from", "ltv_to_cac_low", "{:.2f}"), ("to", "ltv_to_cac_high", "{:.2f}"),
            ("payback", "payback_month", "{:.0f}"), ("repeat", "repeat_rate", "{:.1%}"),
            ("", "note", "{}"),
        )))]  # fmt: skip
    lines += [
        f"LTV: value of a customer's first {m} months, earned so far and predicted for the rest, "
        "less the cost to keep; realised: of those whose months are over",
        f"Payback: the month from which on a customer has brought what they cost; empty: not "
        f"within {m}",
    ]
    if made.again is not None:
        lines.append(f"Repeat: second order within {made.again} months; retained: of those who "
                     f"ordered in the {made.again} months before the last {made.again}, who did "
                     "again")  # fmt: skip
    lines += [f"Note: {note}" for note in made.notes]
    return "\n".join([*lines, f"Written to {out}"])


def _values(found: pd.DataFrame) -> list[tuple[str, str, str]]:
    """Columns of the second table: value realised and ahead, and who comes again."""
    shown: list[tuple[str, str, str]] = []
    for m in (12, 24):
        for title, name in (
            (f"realised {m}m", f"realised_{m}m"),
            (f"next {m}m, all", f"ahead_{m}m"),
        ):
            if name in found:
                digits = "{:,.2f}" if name.startswith("realised") else "{:,.0f}"
                shown += [(title, name, digits), ("from", f"{name}_low", digits),
                          ("to", f"{name}_high", digits)]  # fmt: skip
    for title, name in (("repeat", "repeat"), ("retained", "retention")):
        rate = "repeat_rate" if name == "repeat" else name
        if rate in found:
            shown += [(title, rate, "{:.1%}"), ("from", f"{name}_low", "{:.1%}"),
                      ("to", f"{name}_high", "{:.1%}")]  # fmt: skip
    return shown


def _rows(found: pd.DataFrame, shown: tuple[tuple[str, str, str], ...]) -> list[list[str]]:
    """A table's columns under titles; what is not told is empty."""
    there = [each for each in shown if each[1] in found]
    rows = [["", *(title for title, _, _ in there)]]
    for row in found.to_dict("records"):
        cells = ["" if pd.isna(row[name]) else how.format(row[name]) for _, name, how in there]
        rows.append([str(row["channel"]), *cells])
    return rows
