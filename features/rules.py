"""The named rules that every order line meets, and the SQL that applies them row by row.

Money is exact: text becomes a decimal, never a float, and is rounded half away from zero to the
minor unit of the business currency. An order line meets the first rule that it breaks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from features.layouts import ORDERS, Reading
from features.settings import Settings

__all__ = [
    "CODES", "LAST_DAY", "RULES", "TURNED", "Pass", "Rule", "RuleCount", "bucket_of",
    "clock_time", "minor_digits", "normalised", "number", "offset", "timed",
]  # fmt: skip

Action = Literal["refused", "dropped", "kept", "alarm"]
LAST_DAY = "TIMESTAMP '2100-01-01'"
NEAR = (17, 6)  # digits of money, and those behind the point, that still fit when scaled
FAR = (22, 6)  # those of all money there is


@dataclass(frozen=True)
class Rule:
    """One rule: what it means and what to do about it, and what happens to the line."""

    name: str
    meaning: str
    action: Action
    column: str = "customer_id"
    table: str = "orders"


RULES = (
    Rule("unreadable_line", "the line is no text of the set encoding, or has too few or too many "
         "fields; mend it, or set [orders] encoding", "refused"),
    Rule("missing_customer", "no customer id; nobody to predict for", "refused"),
    Rule("imprecise_customer", "the id is a float beyond 2^53, where neighbours merge; store ids "
         "as text", "refused"),
    Rule("missing_date", "no order time", "refused", "order_ts"),
    Rule("ambiguous_dates", "day and month cannot be told apart; set [orders] date_order",
         "refused", "order_ts"),
    Rule("unreadable_date", "not a time such as 2024-05-31 or 2024-05-31T13:45:00+02:00",
         "refused", "order_ts"),
    Rule("impossible_date", "before 1970 or after 2099", "refused", "order_ts"),
    Rule("after_coverage", "later than [orders] complete_until", "refused", "order_ts"),
    Rule("lonely_future", "a few lines more than 400 days after all the rest; if they are right, "
         "set [orders] complete_until", "refused", "order_ts"),
    Rule("missing_amount", "no amount", "refused", "amount"),
    Rule("nonfinite_amount", "not a number or infinite", "refused", "amount"),
    Rule("unreadable_amount", "not a number such as -1234.56", "refused", "amount"),
    Rule("missing_rate", "no rate for the currency on or up to 7 days before the order's day; add "
         "it to the table rates", "refused", "currency"),
    Rule("not_paid", "payment failed, is open or was voided", "refused", "order_id"),
    Rule("adjustment", "bookkeeping or test line, not a sale", "refused", "order_id"),
    Rule("amount_too_large", "an amount, or a customer's sum of amounts or of their squares, could "
         "pass 2^62; all lines of that customer", "refused", "amount"),
    Rule("overlapping_extract", "the same order with the same lines stands in an earlier file or "
         "sheet", "dropped", "order_id"),
    Rule("duplicate_line", "an exact copy of another line of its file; kept unless [orders] "
         'duplicates = "drop"', "kept", "order_id"),
    Rule("conflicting_extract", "the same order stands in several files or sheets with other "
         "lines; all are kept", "kept", "order_id"),
    Rule("reversed_order", "a line of at least 0.1 % of all sales and ten average lines, reversed "
         "to the cent within a day; both are kept", "kept", "order_id"),
    Rule("refund_line", "a refund column became a negative line of its own; counted among the "
         "lines", "kept", "amount"),
    Rule("negative_amount", "a refund or cancellation, counted at its own time", "kept", "amount"),
    Rule("zero_amount", "a line without money", "kept", "amount"),
    Rule("cancellation", "the invoice is a cancellation", "kept", "order_id"),
    Rule("non_product_code", "postage, discount, manual or fee: money, but no product", "kept",
         "product_id"),
    Rule("unreadable_optional", "quantity, discount, cost or margin_rate is no number; taken as "
         "not given", "kept", "quantity"),
    Rule("negative_discount", "a discount with a minus sign; the sign is taken off", "kept",
         "discount"),
    Rule("sentinel_amount", "at least 1 % of the lines have this very amount, which often stands "
         "for 'unknown'; leave unknown amounts empty in the export", "alarm", "amount"),
    Rule("duplicate_customer", "several different lines for one customer in the table customers; "
         "the first in the order of the alphabet counts", "dropped", table="customers"),
    Rule("unusable_customer", "a line of the table customers without an id, or that cannot be read",
         "dropped", table="customers"),
    Rule("event_unreadable_line", "the line is no text of the set encoding, or has too few or too "
         "many fields; mend it, or set [orders] encoding", "refused", table="events"),
    Rule("event_missing_customer", "no customer id", "refused", table="events"),
    Rule("event_imprecise_customer", "the id is a float beyond 2^53, where neighbours merge; store "
         "ids as text", "refused", table="events"),
    Rule("event_missing_time", "no time", "refused", "ts", "events"),
    Rule("event_ambiguous_time", "day and month cannot be told apart; set [orders] date_order",
         "refused", "ts", "events"),
    Rule("event_unreadable_time", "not a time such as 2024-05-31 or 2024-05-31T13:45:00+02:00",
         "refused", "ts", "events"),
    Rule("event_impossible_time", "before 1970 or after 2099", "refused", "ts", "events"),
    Rule("event_missing_kind", "no kind, such as visit or survey", "refused", "kind", "events"),
    Rule("event_after_coverage", "later than the orders cover; set [orders] complete_until if they "
         "cover more", "refused", "ts", "events"),
    Rule("event_unreadable_value", "not a number such as -12.5 below 10^9; the event counts, its "
         "value is taken as not given", "kept", "value", "events"),
)  # fmt: skip
CODES = {rule.name: code for code, rule in enumerate(RULES, start=1)}
NOTES = (
    "refund_line", "negative_amount", "zero_amount", "cancellation", "non_product_code",
    "unreadable_optional", "negative_discount", "amount_too_large",
)  # fmt: skip
BITS = {name: 1 << place for place, name in enumerate(NOTES)}
NO_DIGITS = frozenset(
    "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF".split()  # noqa: SIM905
)
THREE_DIGITS = frozenset({"BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"})
REFUSED = 255  # the bucket of refused lines


@dataclass(frozen=True)
class RuleCount:
    """What one rule met: rows, their share of all rows, of positive money, and first examples."""

    name: str
    meaning: str
    rows: int
    share: float
    action: Action
    examples: tuple[tuple[str, int, str, str], ...]  # file, line, column, value
    money_share: float = 0.0
    table: str = "orders"  # whose rows are meant


def minor_digits(currency: str) -> int:
    """Decimal places of a currency's minor unit (ISO 4217)."""
    return 0 if currency in NO_DIGITS else 3 if currency in THREE_DIGITS else 2


@dataclass(frozen=True)
class Pass:
    """What the row rules need to know besides the row."""

    settings: Settings
    floats: tuple[str, ...] = ()  # SQL of columns that were floats
    aliases: bool = False  # is there a table aliases(old_id, customer_id)
    rates: bool = False  # is there a table daily(currency, day, rate)
    coverage: int | None = None  # microseconds UTC
    buckets: int = 64


def normalised(reading: Reading, columns: int, about: Pass) -> str:
    """SQL from the view ``stream`` to normalised order lines, refused ones marked by ``rule``."""
    staged = f"WITH written AS ({_text(reading, columns)}), typed AS ({_typed(reading, about)})"
    return f"{staged}, timed AS ({timed(about)}), priced AS ({_priced(about)}) {_final(about)}"


def _text(reading: Reading, columns: int) -> str:
    """The contract's columns as text; a refund becomes a second line (part 1)."""
    given = reading.text
    everything = ", ".join(f"c{i}" for i in range(columns))
    x = [f"{given.get(c, 'NULL')}::VARCHAR AS x_{c}" for c in ORDERS]
    refuse = " ".join(f"WHEN {sql} THEN {CODES[name]}" for name, sql in reading.refuse.items())
    notes = [f"CASE WHEN {sql} THEN {BITS[name]} ELSE 0 END" for name, sql in reading.notes.items()]
    refund = given.get("refund")
    numeric = f"try_cast({refund} AS DOUBLE)"
    parts = f"CASE WHEN coalesce({numeric}, 0) <> 0 THEN [0, 1] ELSE [0] END" if refund else "[0]"
    return (
        f"SELECT *, unnest(parts) AS part FROM (SELECT file, line, bad, {', '.join(x)}, "
        f"{given.get('price', 'NULL')}::VARCHAR AS x_price, "
        f"{refund or 'NULL'}::VARCHAR AS x_refund, "
        f"{given.get('refund_ts', 'NULL')}::VARCHAR AS x_refund_ts, "
        f"coalesce({given.get('extract', 'NULL')}::VARCHAR, '') AS extract, "
        f"hash({everything}) AS record, "
        f"{f'CASE {refuse} ELSE 0 END' if refuse else '0'} AS special, "
        f"{' + '.join(notes) or '0'} AS marks, {parts} AS parts FROM stream)"
    )


def _typed(reading: Reading, about: Pass) -> str:
    """Times split into clock time and offset, numbers as decimals."""
    digits = minor_digits(about.settings.business.currency)
    # At a rate money is rounded once, after it.
    form = NEAR if about.rates else (18, digits)
    amount, far, lines = number("x_amount", *form), number("x_amount", *FAR), "written"
    if "price" in reading.text:
        product = f"{number('x_quantity', 19, 6)} * {number('x_price', 19, 6)}"
        amount, far = (f"TRY_CAST({product} AS DECIMAL{form})" for form in (form, FAR))
        both = "nullif(trim(x_quantity), '') || ' x ' || nullif(trim(x_price), '')"
        lines = f"(SELECT * REPLACE ({both} AS x_amount) FROM written)"
    if "refund" in reading.text:
        lines = f"({_refunds(lines, 'refund_ts' in reading.text)})"
    customer, join = "nullif(x_customer_id, '')", ""
    if about.aliases:
        customer = f"coalesce(aliases.customer_id, {customer})"
        join = " LEFT JOIN aliases ON aliases.old_id = x_customer_id"
    numbers = ", ".join(
        f"{number(f'x_{column}', precision, scale)} AS {name}"
        for column, precision, scale, name in (
            ("quantity", 18, 3, "pieces"), ("discount", *NEAR, "off"), ("cost", *NEAR, "spent"),
            ("margin_rate", 10, 6, "margin"),
        )
    )  # fmt: skip
    wide = ", ".join(
        f"CASE WHEN {near} IS NULL THEN {all_of_it} END AS {name}_wide"
        for near, all_of_it, name in (
            (amount, far, "money"),
            *((number(f"x_{column}", *NEAR), number(f"x_{column}", *FAR), name)
              for column, name in (("discount", "off"), ("cost", "spent"))),
        )
    )  # fmt: skip
    naive = clock_time("x_order_ts", about.settings.orders.date_order)
    return (
        f"SELECT lines.*, {customer} AS customer, {naive} AS naive, {offset('x_order_ts')} AS "
        f"east, {str(reading.utc).lower()} AS in_utc, {amount} AS money, {numbers}, {wide} "
        f"FROM {lines} AS lines{join}"
    )


def _refunds(lines: str, dated: bool) -> str:
    stamp = "coalesce(nullif(x_refund_ts, ''), x_order_ts)" if dated else "x_order_ts"
    return (
        "SELECT * REPLACE (CASE WHEN part = 1 THEN '-' || ltrim(trim(x_refund), '-') "
        f"ELSE x_amount END AS x_amount, CASE WHEN part = 1 THEN {stamp} ELSE x_order_ts END AS "
        "x_order_ts, CASE WHEN part = 1 THEN NULL ELSE x_quantity END AS x_quantity, CASE WHEN "
        "part = 1 THEN NULL ELSE x_discount END AS x_discount) "
        f"FROM {lines}"
    )


def number(column: str, precision: int, scale: int) -> str:
    """The decimal in the text, NULL where it is none."""
    # DuckDB also takes 1_000 for a number; nobody writes money so.
    return (
        f"CASE WHEN contains({column}, '_') THEN NULL "
        f"ELSE TRY_CAST({column} AS DECIMAL({precision}, {scale})) END"
    )


def _plain(column: str) -> str:
    """Is the text of the common shape, a local time without an offset?"""
    clock = f"substr({column}, 14, 1) = ':' AND substr({column}, 11, 1) IN (' ', 'T')"
    seconds = f"substr({column}, 17, 1) = ':'"
    # Microseconds, and not fewer digits with an offset behind them.
    parts = f"regexp_matches({column}, '\\.\\d{{6}}$')"
    return (
        f"(substr({column}, 5, 1) IN ('-', '/') AND substr({column}, 8, 1) IN ('-', '/') AND "
        f"(strlen({column}) = 10 OR (strlen({column}) = 19 AND {seconds} AND {clock}) OR "
        f"(strlen({column}) = 26 AND {seconds} AND {clock} AND {parts}) OR "
        f"(strlen({column}) = 16 AND {clock})))"
    )


SHAPE = (
    r"^\s*(\d{4}[-/]\d{1,2}[-/]\d{1,2}(?:[T ]\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?)?)"
    r" ?(Z|z|UTC|GMT|[+-]\d{2}(?::?\d{2})?)?\s*$"
)
TURNED = r"^\s*\d{1,2}[/.-]\d{1,2}[/.-]\d{2,4}(?:$|[ T,])"


def clock_time(x: str, order: str | None) -> str:
    """The clock time in the text, without its offset."""
    slow = f"TRY_CAST(regexp_extract({x}, '{SHAPE}', 1) AS TIMESTAMP)"
    compact = f"try_strptime(trim({x}), '%Y%m%d')"
    turned = ""
    if order:
        first, second = ("%d", "%m") if order == "dmy" else ("%m", "%d")
        clean = rf"regexp_replace(trim({x}), '^(\d+)[/.-](\d+)[/.-](\d+)[ T,]*', '\1/\2/\3 ')"
        for pattern, year in ((r"\d{4}", "%Y"), (r"\d{2}", "%y")):
            clocks = ("", "%H:%M", "%H:%M:%S", "%I:%M %p", "%I:%M:%S %p")
            formats = ", ".join(
                "'" + f"{first}/{second}/{year} {clock}".strip() + "'" for clock in clocks
            )
            match = rf"regexp_matches({x}, '^\s*\d+[/.-]\d+[/.-]{pattern}(?:$|[ T,])')"
            turned += f"WHEN {match} THEN try_strptime(trim({clean}), [{formats}]) "
    return (
        f"CASE WHEN {_plain(x)} THEN TRY_CAST({x} AS TIMESTAMP) "
        f"WHEN regexp_matches({x}, '^\\s*\\d{{8}}\\s*$') THEN {compact} {turned}ELSE {slow} END"
    )


def offset(x: str) -> str:
    """Microseconds east of UTC that the text states; NULL when it states none."""
    zone = f"regexp_extract({x}, '{SHAPE}', 2)"
    sign = f"CASE WHEN {zone}[1] = '-' THEN -1 ELSE 1 END"
    hours = f"coalesce(TRY_CAST({zone}[2:3] AS BIGINT), 0)"
    minutes = f"coalesce(TRY_CAST(replace({zone}[4:], ':', '') AS BIGINT), 0)"
    stated = f"CASE WHEN {zone} = '' THEN NULL ELSE"
    value = f"{stated} {sign} * ({hours} * 60 + {minutes}) * 60000000 END"
    return f"CASE WHEN {_plain(x)} THEN NULL ELSE {value} END"


def timed(about: Pass) -> str:
    """The instant in UTC and the local clock time; a naive time in a DST gap moves forward."""
    zone = about.settings.business.time_zone.replace("'", "''")
    shift = "to_microseconds(coalesce(east, 0))"
    if zone == "UTC":
        return f"SELECT *, naive - {shift} AS utc, naive - {shift} AS here FROM typed"
    there = f"(naive AT TIME ZONE '{zone}') AT TIME ZONE 'UTC'"
    utc = f"CASE WHEN east IS NULL AND NOT in_utc THEN {there} ELSE naive - {shift} END"
    return (
        f"SELECT *, (utc AT TIME ZONE 'UTC') AT TIME ZONE '{zone}' AS here "
        f"FROM (SELECT *, {utc} AS utc FROM typed)"
    )


def _priced(about: Pass) -> str:
    """Money in minor units of the business currency."""
    own = about.settings.business.currency
    digits = minor_digits(own)
    dated = (
        f"SELECT *, (here::DATE - DATE '1970-01-01')::INTEGER AS day, "
        f"coalesce(upper(nullif(trim(x_currency), '')), '{own}') AS unit FROM timed"
    )
    if not about.rates:
        return (
            f"SELECT *, CASE WHEN unit = '{own}' THEN 1 END AS rate, {_minor('money', digits)} AS "
            f"amount, {_converted('off', digits)} AS discounted, {_converted('spent', digits)} AS "
            f"paid FROM ({dated})"
        )
    factor = f"CASE WHEN unit = '{own}' THEN 1 ELSE daily.rate END"
    columns = ", ".join(
        f"{_converted(source, digits, own)} AS {name}"
        for source, name in (("money", "amount"), ("off", "discounted"), ("spent", "paid"))
    )
    return (
        f"SELECT *, {columns} FROM (SELECT dated.*, CAST({factor} AS DECIMAL(16, 10)) AS rate "
        f"FROM ({dated}) AS dated LEFT JOIN daily ON daily.currency = unit AND daily.day = "
        "dated.day)"
    )


def _converted(column: str, digits: int, own: str | None = None) -> str:
    """A column of `_typed` in minor units, at the line's rate unless that is of the currency `own`.

    Almost all are `NEAR`, integers of the machine; others take ten times as long.
    """
    rate = " * rate" if own else ""
    near = f"unit = '{own}' AND {column} IS NOT NULL" if own else f"{column} IS NOT NULL"
    # DuckDB multiplies what has 18 digits in 18 digits, whatever the type of the product.
    whole = f"coalesce({column}::DECIMAL{FAR}, {column}_wide)"
    return (
        f"CASE WHEN {near} THEN ({column}::DECIMAL(18, {digits}) * {10**digits})::BIGINT "
        f"ELSE {_minor(f'{whole}{rate}', digits)} END"
    )


def _minor(value: str, digits: int) -> str:
    # Scaled by 10^digits it must still fit 18 digits.
    most = f"{'9' * (18 - 2 * digits)}.{'9' * digits}".rstrip(".")
    narrow = f"TRY_CAST({value} AS DECIMAL(18, {digits}))"
    limit = f"'{most}'::DECIMAL(18, {digits})"
    return (
        f"CASE WHEN {narrow} BETWEEN -{limit} AND {limit} "
        f"THEN ({narrow} * {10**digits})::BIGINT END"
    )


def _final(about: Pass) -> str:
    rule = _rule(about)
    raw = ", ".join(f"x_{column}" for column in ORDERS)
    numbers = ("quantity", "discount", "cost", "margin_rate")
    unread = (
        "pieces IS NULL", "off IS NULL AND off_wide IS NULL",
        "spent IS NULL AND spent_wide IS NULL", "margin IS NULL",
    )  # fmt: skip
    lost = " OR ".join(
        f"(nullif(trim(x_{name}), '') IS NOT NULL AND {none})"
        for name, none in zip(numbers, unread, strict=True)
    )
    notes = {
        "refund_line": "part = 1", "negative_amount": "amount < 0", "zero_amount": "amount = 0",
        "unreadable_optional": lost, "negative_discount": "discounted < 0",
        "amount_too_large": "huge",
    }  # fmt: skip
    marks = " + ".join(f"CASE WHEN {sql} THEN {BITS[n]} ELSE 0 END" for n, sql in notes.items())
    spread = bucket_of("customer", about.buckets)
    margin = "TRY_CAST(round(amount::DECIMAL(19, 0) * (1 - margin), 0) AS BIGINT)"
    kept = "rule = 0"
    return (
        f"SELECT CASE WHEN {kept} THEN {spread} ELSE {REFUSED} END::UTINYINT AS bucket, "
        "rule::UTINYINT AS rule, customer AS customer_id, epoch_us(utc) AS ts, day, "
        "hour(here)::TINYINT AS hour, CASE WHEN huge THEN 4611686018427387904 ELSE amount END AS "
        "amount, nullif(x_order_id, '') AS order_id, nullif(x_product_id, '') AS product_id, "
        "nullif(x_category, '') AS category, nullif(x_channel, '') AS channel, "
        f"{_minor('pieces', 3)} AS quantity, abs(discounted) AS discount, coalesce(paid, {margin}) "
        f"AS cost, east IS NOT NULL OR in_utc AS aware, file::INTEGER AS file, line, extract, "
        f"record, (marks + {marks})::UTINYINT AS notes, CASE WHEN {kept} THEN NULL ELSE [{raw}] "
        f"END AS raw, bad FROM (SELECT *, ({rule}) AS rule FROM (SELECT *, ({_huge()}) AS huge "
        "FROM priced))"
    )


def bucket_of(column: str, buckets: int) -> str:
    """SQL for the bucket of a customer; `buckets` is a power of two."""
    # Not modulo: division of 128-bit integers costs 30 times the digest itself.
    return f"(md5_number({column}) & {buckets - 1}::UHUGEINT)::UTINYINT"


def _huge() -> str:
    """A finite amount too large for the store; its customer is refused as a whole."""
    size = "abs(TRY_CAST(x_amount AS DOUBLE))"
    return (
        f"CASE WHEN amount IS NULL AND rate IS NOT NULL THEN coalesce({size} >= 1e9 AND "
        f"isfinite({size}) AND NOT contains(x_amount, '_'), false) ELSE false END"
    )


def _rule(about: Pass) -> str:
    """The code of the first rule a line breaks, 0 for none."""
    imprecise = "false"
    if "x_customer_id" in about.floats:
        imprecise = "coalesce(abs(TRY_CAST(customer AS DOUBLE)) >= 9007199254740992, false)"
    late = f"epoch_us(utc) >= {about.coverage}" if about.coverage is not None else "false"
    turned = f"regexp_matches(x_order_ts, '{TURNED}')"
    ambiguous = "false" if about.settings.orders.date_order else turned
    cases = {
        "unreadable_line": "bad IS NOT NULL",
        "not_paid": f"special = {CODES['not_paid']}",
        "missing_customer": "customer IS NULL",
        "adjustment": f"special = {CODES['adjustment']}",
        "imprecise_customer": imprecise,
        "missing_date": "naive IS NULL AND nullif(trim(x_order_ts), '') IS NULL",
        "ambiguous_dates": f"naive IS NULL AND {ambiguous}",
        "unreadable_date": "naive IS NULL",
        "impossible_date": f"utc < TIMESTAMP '1970-01-01' OR utc >= {LAST_DAY}",
        "after_coverage": late,
        "missing_amount": "amount IS NULL AND nullif(trim(x_amount), '') IS NULL",
        "missing_rate": "rate IS NULL",
        "nonfinite_amount": "amount IS NULL AND NOT isfinite(TRY_CAST(x_amount AS DOUBLE))",
        "unreadable_amount": "amount IS NULL AND NOT huge",
    }
    # Nearly every line is good: one cheap test before the long list.
    good = (
        "bad IS NULL AND special = 0 AND customer IS NOT NULL AND amount IS NOT NULL AND rate IS "
        f"NOT NULL AND utc >= TIMESTAMP '1970-01-01' AND utc < {LAST_DAY} AND NOT ({late}) AND NOT "
        f"({imprecise})"
    )
    whens = f"WHEN {good} THEN 0 " + " ".join(
        f"WHEN {sql} THEN {CODES[name]}" for name, sql in cases.items()
    )
    return f"CASE {whens} ELSE 0 END"
