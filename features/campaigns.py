"""The tables of marketing: contacts (who was treated, who was the control) and spend by month.

Both are small beside the orders and are read only by those who ask for them. A contact that breaks
a rule is refused and counted. Spend is summed, so a line of it that cannot be read is an error.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow as pa

from features import foreign, formats, side
from features.errors import InputError
from features.formats import Table
from features.layouts import places
from features.rules import (
    LAST_DAY,
    Pass,
    Rule,
    RuleCount,
    clock_time,
    minor_digits,
    number,
    offset,
    timed,
)
from features.settings import Settings

__all__ = ["ARMS", "RULES", "Contacts", "Survey", "contacts", "spend", "survey"]

NEEDED: Final = ("campaign_id", "customer_id", "ts", "arm")
OPTIONAL: Final = ("offer", "cost", "channel", "segment", "predicted", "control_share")
ARMS: Final = ("treatment", "control")
SPEND: Final = ("channel", "month", "amount")
SPEND_OPTIONAL: Final = ("fees", "currency")
WHOLE_SHARE: Final = 0.01  # from this share of bad rows on, the file as a whole was misread
SHOWN: Final = 40  # characters of a value in a message
Data = str | Path | pd.DataFrame | Mapping[str, pd.DataFrame]

RULES: Final = (
    Rule("contact_unreadable_line", "the line is no text of the set encoding, or has too few or "
         "too many fields; mend it, or set [orders] encoding", "refused", table="contacts"),
    Rule("contact_missing_campaign", "no campaign", "refused", "campaign_id", "contacts"),
    Rule("contact_missing_customer", "no customer id", "refused", table="contacts"),
    Rule("contact_unreadable_time", "not a time such as 2024-05-31 or 2024-05-31T13:45:00+02:00 of "
         "1970 to 2099; set [orders] date_order if day and month cannot be told apart", "refused",
         "ts", "contacts"),
    Rule("contact_unknown_arm", "an arm other than treatment or control", "refused", "arm",
         "contacts"),
    Rule("contact_unreadable_number", "cost, predicted or control_share is no number; taken as not "
         "given", "kept", "cost", "contacts"),
)  # fmt: skip


@dataclass(frozen=True)
class Contacts:
    """Contacts of all campaigns, sorted by campaign, customer and time, and what the rules met.

    ``frame``: campaign_id, customer_id (aliases followed), ts (int64 microseconds UTC), arm, and
    where the table has them: offer, cost (money), channel, segment, predicted (what was expected of
    the customer beforehand, in money), control_share (the share that was drawn as control).
    """

    frame: pd.DataFrame
    rules: tuple[RuleCount, ...]
    rows_in: int

    def of(self, campaign: str) -> pd.DataFrame:
        """The contacts of one campaign.

        Raises
        ------
        InputError
            There is no such campaign.
        """
        found = self.frame[self.frame["campaign_id"] == campaign]
        if found.empty:
            names = list(dict.fromkeys(self.frame["campaign_id"]))
            raise InputError(
                f"--campaign must be one of the table contacts: {', '.join(names[:20])}"
                f"{' ...' if len(names) > 20 else ''}. Got {campaign!r}."
            )
        return found.reset_index(drop=True)


def contacts(data: Data, settings: Settings) -> Contacts:
    """Read and check the table contacts of `data`.

    Raises
    ------
    InputError
        No such table, a needed column is missing, or a hundredth of its lines is refused.
    """
    frame, table, given = _read(
        data, settings, "contacts", (NEEDED, OPTIONAL), "aliases", _contacts_query,
        "campaign_id, customer_id, ts, arm (treatment or control) beside the orders; clv target "
        "--campaign ID --contacts-out contacts.csv writes one.",
    )  # fmt: skip
    counts = tuple(_counted(frame, table))
    refused = frame["rule"].notna()
    _refuse_whole(counts, int(refused.sum()), len(frame))
    # By every column: of two contacts at one moment the same one is first in any order of lines.
    order = ["campaign_id", "customer_id", "ts", "arm", *given]
    kept = frame[~refused].sort_values(order, kind="stable")
    return Contacts(kept[[*NEEDED, *given]].reset_index(drop=True), counts, len(frame))


@dataclass(frozen=True)
class Survey:
    """What a check says of the two tables: in words, as plain values, and by rule."""

    lines: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    rules: tuple[RuleCount, ...] = ()

    @property
    def refused(self) -> int:
        """Contacts refused; a line of spend that cannot be read is an error."""
        return sum(rule.rows for rule in self.rules if rule.action == "refused")


def survey(data: Data, settings: Settings) -> Survey:
    """Read both tables where they are there, for `clv check`; errors as `contacts` and `spend`."""
    there = formats.tables(data, settings)
    lines: list[str] = []
    facts: dict[str, Any] = {}
    rules: tuple[RuleCount, ...] = ()
    if "contacts" in there:
        told = contacts(data, settings)
        rules, kept = told.rules, len(told.frame)
        names = told.frame["campaign_id"].nunique()
        lines.append(
            f"Contacts in {told.rows_in:,} = kept {kept:,} + refused {told.rows_in - kept:,}; "
            f"campaigns {names:,}"
        )
        facts |= {"contacts_in": told.rows_in, "contacts_kept": kept, "campaigns": int(names)}
    if "spend" in there:
        paid = spend(data, settings)
        whole, channels = round(math.fsum(paid["cost"]), 2), paid["channel"].nunique()
        months = paid["month"]
        lines.append(
            f"Spend {whole:,.2f} {settings.business.currency} with fees, {channels:,} channels, "
            f"{months.min()} to {months.max()}"
        )
        facts |= {"spend": whole, "spend_channels": int(channels)}
    return Survey(tuple(lines), facts, rules)


def _read(
    data: Data,
    settings: Settings,
    name: str,
    columns: tuple[Sequence[str], Sequence[str]],
    beside: str,
    query: Callable[[Settings, bool], str],
    cure: str,
) -> tuple[pd.DataFrame, Table, list[str]]:
    """A table by a `query` over the view ``NAME_rows``, its source, and the optional columns given.

    `columns` are the needed and the optional ones; `beside` is the table that the query may join.
    """
    found = formats.tables(data, settings)
    table = found.get(name)
    if table is None:
        raise InputError(
            f"The data must hold the table {name}. Got none. Add {name}.csv with {cure}"
        )
    con = foreign.connect("1GB", 1)
    try:
        if beside in found:
            load = {"aliases": side.load_aliases, "rates": side.load_rates}[beside]
            load(con, found[beside], settings)
        rows, given = _rows(table, *columns, settings)
        con.register(f"{name}_rows", rows)
        made = foreign.batches(con, query(settings, beside in found), []).read_all()
    finally:
        con.close()
    return made.to_pandas(), table, given


def _rows(
    table: Table, needed: Sequence[str], optional: Sequence[str], settings: Settings
) -> tuple[pa.Table, list[str]]:
    """All records as text in columns ``x_NAME``, with file, line, bad; the optional ones given."""
    names, parts = [*needed, *optional], []
    given: set[str] = set()
    for sheet in table.sheets():
        file = table.files[sheet.index]
        at = _places(sheet.columns, needed, names, settings.columns.get(table.name, {}), table.name,
                     file)  # fmt: skip
        given |= {name for name in optional if name in at}
        for batch in sheet.batches:
            blank = pa.nulls(batch.num_rows, pa.string())
            columns = [batch.column(at[n]) if n in at else blank for n in names]
            index = pa.array([sheet.index] * batch.num_rows, pa.int32())
            last = [index, batch.column("line"), batch.column("bad")]
            parts.append(pa.RecordBatch.from_arrays([*columns, *last], schema=_schema(names)))
    return pa.Table.from_batches(parts, _schema(names)), [n for n in optional if n in given]


def _schema(names: Sequence[str]) -> pa.Schema:
    texts = [(f"x_{name}", pa.string()) for name in names]
    return pa.schema([*texts, ("file", pa.int32()), ("line", pa.int64()), ("bad", pa.string())])


def _places(
    columns: Sequence[str],
    needed: Sequence[str],
    names: Sequence[str],
    mapping: dict[str, str],
    table: str,
    file: str,
) -> dict[str, int]:
    unknown = sorted(set(mapping) - {*names})
    if unknown:
        raise InputError(
            f"[columns.{table}] takes the names {', '.join(names)}. Got '{unknown[0]}'. Correct it "
            "in clv.toml."
        )
    found = places(columns, {c: mapping.get(c, c) for c in names}, mapping, file)
    missing = [column for column in needed if column not in found]
    if missing:
        raise InputError(
            f"{file} must have the columns {', '.join(needed)}. Missing: {', '.join(missing)}. "
            f'Set [columns.{table}] {missing[0]} = "..." in clv.toml.'
        )
    return found


def _contacts_query(settings: Settings, aliases: bool) -> str:
    """SQL from the view ``contacts_rows`` to contacts, refused ones named by ``rule``."""
    customer, join = "nullif(x_customer_id, '')", ""
    if aliases:
        customer = f"coalesce(aliases.customer_id, {customer})"
        join = " LEFT JOIN aliases ON aliases.old_id = x_customer_id"
    order = settings.orders.date_order
    numbers = {name: number(f"x_{name}", 18, 6) for name in ("cost", "predicted", "control_share")}
    read = ", ".join(f"({sql})::DOUBLE AS {name}" for name, sql in numbers.items())
    lost = " OR ".join(
        f"(nullif(trim(x_{name}), '') IS NOT NULL AND {name} IS NULL)" for name in numbers
    )
    typed = (
        f"SELECT contacts_rows.*, {customer} AS customer_id, {clock_time('x_ts', order)} AS naive, "
        f"{offset('x_ts')} AS east, false AS in_utc, lower(trim(x_arm)) AS arm, {read}, "
        "nullif(trim(x_campaign_id), '') AS campaign_id, nullif(trim(x_offer), '') AS offer, "
        "nullif(trim(x_channel), '') AS channel, nullif(trim(x_segment), '') AS segment "
        f"FROM contacts_rows{join}"
    )
    cases = {
        "contact_unreadable_line": "bad IS NOT NULL",
        "contact_missing_campaign": "campaign_id IS NULL",
        "contact_missing_customer": "customer_id IS NULL",
        "contact_unreadable_time": "naive IS NULL OR utc < TIMESTAMP '1970-01-01' OR "
        f"utc >= {LAST_DAY}",
        "contact_unknown_arm": "arm IS NULL OR arm NOT IN ('treatment', 'control')",
    }
    whens = " ".join(f"WHEN {sql} THEN '{name}'" for name, sql in cases.items())
    return (
        f"WITH typed AS ({typed}), timed AS ({timed(Pass(settings, aliases=aliases))}) SELECT "
        "campaign_id, customer_id, epoch_us(utc) AS ts, arm, offer, cost, channel, segment, "
        f"predicted, control_share, CASE {whens} END AS rule, ({lost}) AS lost, bad, file, line, "
        "x_campaign_id, x_customer_id, x_ts, x_arm, x_cost FROM timed"
    )


def _counted(frame: pd.DataFrame, table: Table) -> Iterable[RuleCount]:
    """What each rule met, with its first examples by file and line."""
    for rule in RULES:
        met = frame["lost"] & frame["rule"].isna() if rule.action == "kept" else (
            frame["rule"] == rule.name
        )  # fmt: skip
        rows = frame[met].sort_values(["file", "line"])
        if rows.empty:
            continue
        shown = tuple(
            (table.files[file], int(line), rule.column, _text(bad) or _text(value))
            for file, line, bad, value in rows[["file", "line", "bad", f"x_{rule.column}"]]
            .head(3)
            .itertuples(index=False)
        )
        share = len(rows) / len(frame)
        yield RuleCount(rule.name, rule.meaning, len(rows), share, rule.action, shown,
                        table="contacts")  # fmt: skip


def _text(value: object) -> str:
    return value[:SHOWN] if isinstance(value, str) else ""


def _refuse_whole(counts: Sequence[RuleCount], refused: int, rows: int) -> None:
    """A campaign read in part would be measured wrongly."""
    if refused and refused >= WHOLE_SHARE * rows:
        first = next(count for count in counts if count.action == "refused")
        file, line, column, value = first.examples[0]
        raise InputError(
            f"{file} must hold contacts that can be read. Refused: {refused} of {rows}; line "
            f"{line}, {column}: '{value}' ({first.meaning}). Mend the file."
        )


def spend(data: Data, settings: Settings) -> pd.DataFrame:
    """Spend per channel and month: channel, month (``2024-05``), cost and the fees in it; sorted.

    Money in the business currency; foreign spend at the mean rate of the days of its month.

    Raises
    ------
    InputError
        No such table, a line that cannot be read, a currency without a rate in that month.
    """
    frame, table, _ = _read(
        data, settings, "spend", (SPEND, SPEND_OPTIONAL), "rates", _spend_query,
        "channel, month, amount (and fees, currency, if there are) beside the orders.",
    )  # fmt: skip
    _require_spend(frame, table)
    parts = ["minor", "minor_fees"]
    total = frame.groupby(["channel", "month"], sort=True)[parts].sum().reset_index()
    unit = 10 ** minor_digits(settings.business.currency)
    money = {"cost": total["minor"] / unit, "fees": total["minor_fees"] / unit}
    return pd.DataFrame(total.assign(**money).drop(columns=parts))


def _spend_query(settings: Settings, rates: bool) -> str:
    own = settings.business.currency
    digits = minor_digits(own)
    unit = f"coalesce(upper(nullif(trim(x_currency), '')), '{own}')"
    start = "TRY_CAST(substr(trim(x_month), 1, 7) || '-01' AS DATE)"
    mean = "NULL"
    if rates:
        mean = (
            "(SELECT avg(rate) FROM daily WHERE daily.currency = unit AND DATE '1970-01-01' + "
            "daily.day::INTEGER >= start AND DATE '1970-01-01' + daily.day::INTEGER < start + "
            "INTERVAL 1 MONTH)"
        )
    fees = f"coalesce({number('x_fees', 18, 6)}, 0)"
    paid = f"({number('x_amount', 18, 6)}) + {fees}"
    return (
        f"WITH typed AS (SELECT *, {unit} AS unit, {start} AS start, {paid} AS paid, "
        f"{fees} AS fees "
        "FROM spend_rows), priced AS (SELECT *, "
        f"CASE WHEN unit = '{own}' THEN 1.0::DOUBLE ELSE {mean}::DOUBLE END AS rate FROM typed) "
        "SELECT nullif(trim(x_channel), '') AS channel, strftime(start, '%Y-%m') AS month, "
        f"round(paid::DOUBLE * rate * {10**digits})::BIGINT AS minor, "
        f"round(fees::DOUBLE * rate * {10**digits})::BIGINT AS minor_fees, "
        "paid::DOUBLE AS paid, rate, "
        "nullif(trim(x_fees), '') IS NOT NULL AND TRY_CAST(x_fees AS DOUBLE) IS NULL AS lost, "
        "bad, file, line, x_month, x_amount, x_fees, unit FROM priced ORDER BY file, line"
    )


def _require_spend(frame: pd.DataFrame, table: Table) -> None:
    month = (
        frame["x_month"]
        .fillna("")
        .map(lambda text: bool(re.fullmatch(r"\s*\d{4}-\d{2}(-\d{2}.*)?\s*", text)))
    )
    for fault, wants, column in (
        (frame["bad"].notna(), "a record that can be read", "bad"),
        (frame["channel"].isna(), "a channel", "channel"),
        (frame["month"].isna() | ~month.astype(bool), "a month such as 2024-05", "x_month"),
        (frame["paid"].isna() | (frame["paid"] < 0), "an amount of at least 0", "x_amount"),
        (frame["lost"], "fees that are a number", "x_fees"),
        (frame["rate"].isna(), "a currency with a rate in that month (rates.csv)", "unit"),
    ):
        if fault.any():
            first = frame[fault].iloc[0]
            raise InputError(
                f"{table.files[first['file']]} line {first['line']}: must hold {wants}. Got "
                f"'{_text(first[column])}'. Mend that line."
            )
