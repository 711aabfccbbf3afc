"""Referrals for the terminal."""

from __future__ import annotations

from pathlib import Path

from serving.decisions.referrals import RULES, Referrals

__all__ = ["terminal"]


def terminal(made: Referrals, out: Path) -> str:
    """What the command prints; no customer's name stands in it."""
    unit, table = made.currency, made.table
    brought, ordered = int(table["brought"].sum()), int(table["ordered"].sum())
    share = f" ({made.brought / made.base:.1%})" if made.base > 0 else ""
    middle, low, high = made.future
    lines = [
        f"{brought:,} people were brought by {len(table):,} referrers before {made.as_of}; "
        f"{ordered:,} of them have ordered; the longest chain is {made.longest:,}",
        *(f"  {count:,} of {made.named:,} referrals do not count: {RULES[rule]} ({rule})"
          for rule, count in made.rules.items() if count),
        f"Of {made.base:,.2f} {unit} of value in all, past margin and the next {made.months} "
        f"months together, {made.brought:,.2f}{share} came with those who were brought",
        f"  of it still to come: {middle:,.2f} ({low:,.2f} to {high:,.2f})",
    ]  # fmt: skip
    most, part = made.top
    if part == part and len(table):  # noqa: PLR0124  the test for NaN
        lines.append(f"The first {most:,} referrers brought {part:.0%} of it")
    return "\n".join([
        *lines, "A referrer's own value is not in what they brought; downstream counts chains and "
        "must not be added up.", f"Written to {out}",
    ])  # fmt: skip
