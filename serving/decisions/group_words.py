"""What the commands about groups of customers print for a person: segments, channels."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, Final

import pandas as pd

from serving.decisions.channels import ALL, Channels
from serving.decisions.rulebook import OTHER
from serving.decisions.segments import GONE, LEAST, NEW, Segmented
from serving.decisions.words import table
from serving.views.language import Words, words

__all__ = ["channels", "hundredths", "segmented"]

OURS: Final = ("value-churn", "rfm")  # schemes whose segments we name
COMMON: Final = (ALL, OTHER, NEW, GONE)  # rows that every scheme may have


def segmented(
    made: Segmented, currency: str, out: Path, summary: Path | None, say: Words | None = None
) -> str:
    """Segments: what each is, what to do, and who moved; in English if not said otherwise."""
    say = say or words()
    h = made.months
    lines = [
        say("parted.head", customers=say.number(len(made.frame)), as_of=say.date(made.as_of),
            scheme=made.scheme, months=h)
    ]  # fmt: skip
    if made.lines is not None:
        value = say.money(made.lines[0], currency) if currency else say.number(made.lines[0], 2)
        lines.append(say("parted.lines", value=value, churn=say.percent(made.lines[1])))
    lines += table(_segments(made, say))
    if made.table["customers"].isna().any():
        lines.append("  " + say("parted.few", least=LEAST))
    rows = made.table.to_dict("records")
    steps = [[_name(made, r["segment"], say), _step(made, r, say)] for r in rows if r["next_step"]]
    lines += ["", *table(steps, left=2), *_moved(made, say)]
    lines += [say("parted.note", note=note) for note in made.notes]
    both = {"out": out} if summary is None else {"out": out, "summary": summary}
    lines.append(say("parted.written" if summary is None else "parted.written_both", **both))
    return "\n".join(lines)


def _ours(made: Segmented) -> bool:
    """Whether the segments are ours to name, and not those of a file of rules."""
    return made.scheme in OURS


def _name(made: Segmented, name: str, say: Words) -> str:
    """A segment in the reader's language; those of the user's own rules stay as they are."""
    return say.segment(name) if _ours(made) or name in COMMON else name


def _step(made: Segmented, row: dict[Hashable, Any], say: Words) -> str:
    return say.step(row["segment"]) if _ours(made) else str(row["next_step"])


def _segments(made: Segmented, say: Words) -> list[list[str]]:
    """The table's rows as text."""
    found, h = made.table, made.months
    heads: dict[str, tuple[str, Callable[[float], str]]] = {
        "customers": ("customers", say.number), "share": ("share", say.percent),
        f"clv_{h}m": ("value", say.number), f"clv_{h}m_low": ("from", say.number),
        f"clv_{h}m_high": ("to", say.number),
        f"clv_{h}m_per_customer": ("each", lambda x: say.number(x, 2)),
        f"churn_{h}m": ("churn", say.percent),
        "orders_per_month": ("orders_per_month", lambda x: say.number(x, 2)),
        f"order_value_{h}m": ("order_value", lambda x: say.number(x, 2)),
        f"active_months_{h}m": ("active_months", lambda x: say.number(x, 1)),
        "categories": ("categories", lambda x: say.number(x, 1)),
        "one_category": ("one_category", say.number),
    }  # fmt: skip
    shown = {name: how for name, how in heads.items() if found.get(name) is not None}
    rows = [["", *(say(f"heads.{title}") for title, _ in shown.values())]]
    for row in found.to_dict("records"):
        cells = ["" if pd.isna(row[n]) else how(row[n]) for n, (_, how) in shown.items()]
        if pd.isna(row["customers"]):
            cells[0] = f"<{LEAST}"
        rows.append([_name(made, row["segment"], say), *cells])
    return rows


def _moved(made: Segmented, say: Words) -> list[str]:
    """The matrix of moves; printed shares of a row sum to 100.0 %."""
    if made.moves is None:
        return []
    targets = list(made.moves.columns[2:])
    rows = [[say("parted.corner"), say("heads.customers"),
             *(_name(made, name, say) for name in targets)]]  # fmt: skip
    for row in made.moves.to_dict("records"):
        name = _name(made, row["from"], say)
        if pd.isna(row["customers"]):
            rows.append([name, f"<{LEAST}", *[""] * len(targets)])
        else:
            shares = hundredths([row[each] for each in targets], say)
            rows.append([name, say.number(row["customers"]), *shares])
    moved = say("parted.moved", before=say.date(str(made.before)), as_of=say.date(made.as_of))
    return ["", moved, *table(rows)]


def hundredths(shares: list[float], say: Words | None = None) -> list[str]:
    """Shares as per cent with one decimal that sum to 100.0: by the largest remainders."""
    if any(pd.isna(share) for share in shares):
        return [""] * len(shares)
    exact = [share * 1000 for share in shares]
    whole = [int(each) for each in exact]
    most = sorted(range(len(exact)), key=lambda i: (whole[i] - exact[i], i))
    for i in most[: round(sum(exact)) - sum(whole)]:
        whole[i] += 1
    return [(say or words()).percent(each / 1000) for each in whole]


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
