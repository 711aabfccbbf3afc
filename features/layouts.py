"""Which column means what: the contract's names, the settings' mapping, or a known shop export.

A `Reading` says for each column of the contract which SQL expression over ``c0, c1, ...`` gives its
text. Names from files never enter SQL; only places do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from features.errors import InputError

__all__ = ["OPTIONAL", "ORDERS", "Reading", "places", "read_orders"]

NEEDED = ("customer_id", "order_ts", "amount")
OPTIONAL = (
    "order_id", "product_id", "category", "channel", "quantity", "discount", "cost",
    "margin_rate", "currency",
)  # fmt: skip
ORDERS = NEEDED + OPTIONAL
Columns = Mapping[str, str]


@dataclass(frozen=True)
class Reading:
    """How the records of one header become order lines.

    ``text`` has SQL text for columns of the contract, and where the export needs them ``price``
    (amount = quantity x price), ``refund`` and ``refund_ts`` (a signed line of its own) and
    ``extract`` (the sheet within a file). ``refuse`` and ``notes`` map names of rules to SQL
    conditions. ``utc`` means naive times are UTC, not local.
    """

    text: Columns
    recognised: str | None = None
    refuse: Columns = field(default_factory=dict)
    notes: Columns = field(default_factory=dict)
    utc: bool = False


@dataclass(frozen=True)
class Layout:
    """A shop export: headers it must have (any of the spellings), may have, and its reading."""

    name: str
    needs: Mapping[str, Sequence[str]]
    may: Mapping[str, Sequence[str]]
    build: Callable[[Columns], Reading]


def _given(column: str) -> str:
    return f"nullif({column}, '')"


def _shopify(c: Columns) -> Reading:
    # Order-level values stand on the first line of an order only. The total goes to that line; the
    # further lines carry product and quantity at amount 0, so that the sum is exact.
    def whole(column: str) -> str:
        return f"max({_given(column)}) OVER (PARTITION BY file, {c['name']})"

    total = f"CASE WHEN {_given(c['total'])} IS NULL AND {whole(c['total'])} IS NOT NULL"
    return Reading(
        {
            "customer_id": whole(c["email"]),
            "order_ts": f"coalesce({_given(c['created'])}, {whole(c['created'])})",
            "amount": f"{total} THEN '0' ELSE {c['total']} END",
            "order_id": c["name"],
            "product_id": f"coalesce({_given(c['sku'])}, {c['item']})",
            "quantity": c["quantity"],
            "discount": c["discount"],
            "currency": whole(c["currency"]),
            "channel": whole(c["source"]),
            "refund": c["refunded"],
        },
        "Shopify orders export",
        refuse={"not_paid": f"lower({c['status']}) IN ('voided', 'pending', 'expired')"},
    )


def _stripe(c: Columns) -> Reading:
    paid = "('paid', 'succeeded', 'refunded', 'partially refunded', 'partial_refund', '')"
    return Reading(
        {
            "customer_id": f"coalesce({_given(c['customer'])}, {c['email']})",
            "order_ts": c["created"],
            "amount": c["amount"],
            "order_id": c["id"],
            "currency": c["currency"],
            "refund": c["refunded"],
            "refund_ts": c["refunded_at"],
        },
        "Stripe payments export",
        refuse={"not_paid": f"lower({c['status']}) NOT IN {paid}"},
        utc=True,
    )


def _woocommerce(c: Columns) -> Reading:
    # The order's total is repeated on every line of a multi-line order: it counts once.
    first = f"row_number() OVER (PARTITION BY file, {c['order']} ORDER BY line) = 1"
    unpaid = "('pending', 'failed', 'cancelled', 'canceled', 'on-hold', 'on hold', 'trash',"
    unpaid += " 'checkout-draft', 'pending payment', 'draft')"
    status = f"lower(replace({c['status']}, 'wc-', ''))"
    return Reading(
        {
            "customer_id": f"coalesce(nullif({_given(c['customer'])}, '0'), {c['email']})",
            "order_ts": c["date"],
            "amount": f"CASE WHEN {first} THEN {c['total']} ELSE '0' END",
            "order_id": c["order"],
            "product_id": f"coalesce({_given(c['sku'])}, {c['item']})",
            "quantity": c["quantity"],
            "discount": f"CASE WHEN {first} THEN {c['discount']} END",
            "currency": c["currency"],
            "refund": f"CASE WHEN {first} THEN {c['refunded']} END",
        },
        "WooCommerce orders export",
        refuse={"not_paid": f"{status} IN {unpaid}"},
    )


def _uci(c: Columns) -> Reading:
    # Postage, carriage, manual and discount lines are money the customer paid or got, but no
    # product. 'A' invoices adjust bad debt and TEST lines were never sold.
    code = f"upper(trim({c['stock']}))"
    other = (
        "('POST', 'DOT', 'C2', 'C3', 'M', 'D', 'S', 'B', 'BANK CHARGES', 'AMAZONFEE', 'CRUK', "
        "'ADJUST', 'ADJUST2')"
    )
    cancelled = f"upper({c['invoice']}) LIKE 'C%'"
    return Reading(
        {
            "customer_id": c["customer"],
            "order_ts": c["date"],
            "quantity": c["quantity"],
            "price": c["price"],
            "order_id": c["invoice"],
            "product_id": f"CASE WHEN {code} IN {other} THEN NULL ELSE {c['stock']} END",
            "extract": c["sheet"],
        },
        "UCI Online Retail layout",
        refuse={"adjustment": f"upper({c['invoice']}) LIKE 'A%' OR {code} LIKE 'TEST%'"},
        notes={"cancellation": cancelled, "non_product_code": f"{code} IN {other}"},
    )


LAYOUTS = (
    Layout(
        "Shopify orders export",
        {"name": ("name",), "email": ("email",), "created": ("created at",), "total": ("total",)},
        {
            "refunded": ("refunded amount",), "currency": ("currency",), "sku": ("lineitem sku",),
            "item": ("lineitem name",), "quantity": ("lineitem quantity",), "source": ("source",),
            "discount": ("discount amount",), "status": ("financial status",),
        },
        _shopify,
    ),
    Layout(
        "Stripe payments export",
        {
            "id": ("id",), "amount": ("amount",), "status": ("status",),
            "created": ("created (utc)", "created date (utc)"),
        },
        {
            "refunded": ("amount refunded",), "refunded_at": ("refunded date (utc)",),
            "currency": ("currency",), "customer": ("customer id",), "email": ("customer email",),
        },
        _stripe,
    ),
    Layout(
        "WooCommerce orders export",
        {
            "order": ("order_number", "order number", "order_id", "order id"),
            "date": ("order_date", "order date", "date"),
            "status": ("order_status", "order status", "status"),
            "total": ("order_total", "order total amount", "order total"),
        },
        {
            "customer": ("customer_id", "customer_user", "customer user id", "customer id"),
            "email": ("billing_email", "email (billing)", "customer_email"),
            "refunded": ("refunded_total", "order refund amount", "order_refund_total"),
            "currency": ("order_currency", "order currency", "currency"),
            "discount": ("discount_total", "cart discount amount"),
            "sku": ("sku", "item_sku"), "item": ("item name", "item_name"),
            "quantity": ("quantity", "item_quantity", "quantity (- refund)"),
        },
        _woocommerce,
    ),
    Layout(
        "UCI Online Retail layout",
        {
            "invoice": ("invoiceno", "invoice"), "stock": ("stockcode",),
            "quantity": ("quantity",), "date": ("invoicedate",),
            "price": ("unitprice", "price"), "customer": ("customerid", "customer id"),
        },
        {"sheet": ("sheet",)},
        _uci,
    ),
)  # fmt: skip


def read_orders(
    columns: Sequence[str], mapping: Mapping[str, str], name: str, floats: Sequence[int] = ()
) -> Reading:
    """How the orders under this header are to be read.

    Raises
    ------
    InputError
        A needed column is missing, stands twice, or the mapping names what is not there.
    """
    unknown = sorted(set(mapping) - {*ORDERS})
    if unknown:
        raise InputError(
            f"[columns.orders] takes the names {', '.join(ORDERS)}. Got '{unknown[0]}'. Correct "
            "it in clv.toml."
        )
    found = places(columns, {c: mapping.get(c, c) for c in ORDERS}, mapping, name)
    if all(column in found for column in NEEDED):
        return _checked(Reading({c: f"c{i}" for c, i in found.items()}), floats)
    headers = [column.strip().lower() for column in columns]
    for layout in LAYOUTS:
        match = _match(layout, headers, name)
        if match is not None:
            reading = layout.build(match)
            mapped = {c: f"c{i}" for c, i in found.items() if c in mapping}
            text = {**{k: v for k, v in reading.text.items() if v != "NULL"}, **mapped}
            whole = Reading(text, reading.recognised, reading.refuse, reading.notes, reading.utc)
            return _checked(whole, floats)
    missing = [column for column in NEEDED if column not in found]
    raise InputError(
        f"{name} must have the columns {', '.join(NEEDED)}. Got {_listed(columns)}; missing: "
        f'{", ".join(missing)}. Set [columns.orders] {missing[0]} = "..." in clv.toml.'
    )


def _checked(reading: Reading, floats: Sequence[int]) -> Reading:
    """A not-a-number that stands in a float column is a missing value, but not as an amount."""
    text = dict(reading.text)
    for column in {*text} - {"amount", "price"}:
        if text[column] in {f"c{i}" for i in floats}:
            text[column] = f"nullif({text[column]}, 'nan')"
    return Reading(text, reading.recognised, reading.refuse, reading.notes, reading.utc)


def places(
    columns: Sequence[str], wanted: Mapping[str, str], mapping: Mapping[str, str], name: str
) -> dict[str, int]:
    """Place of each wanted column in the header; spelling may differ in case and outer spaces.

    Raises
    ------
    InputError
        Two columns answer to one name, or a name from the mapping is not there.
    """
    found = {}
    for column, header in wanted.items():
        exact = [i for i, have in enumerate(columns) if have == header]
        loose = [i for i, have in enumerate(columns) if have.strip().lower() == header.lower()]
        hits = exact if column in mapping and len(exact) == 1 else loose
        if len(hits) > 1:
            raise InputError(
                f"{name} must have column '{header}' once. Got it {len(hits)} times in "
                f"{_listed(columns)}. Rename or remove one."
            )
        if hits:
            found[column] = hits[0]
        elif column in mapping:
            raise InputError(
                f"{name} must have the column '{header}' that clv.toml names for {column}. Got "
                f"{_listed(columns)}. Correct the mapping."
            )
    return found


def _match(layout: Layout, headers: list[str], name: str) -> dict[str, str] | None:
    out: dict[str, str] = {}
    for key, spellings in {**layout.needs, **layout.may}.items():
        hits = [i for spelling in spellings for i, h in enumerate(headers) if h == spelling]
        if not hits and key in layout.needs:
            return None
        if hits and headers.count(headers[hits[0]]) > 1:
            raise InputError(
                f"{name} must have column '{headers[hits[0]]}' once. Got it twice. Rename or "
                "remove one."
            )
        out[key] = f"c{hits[0]}" if hits else "NULL"
    return out


def _listed(columns: Sequence[str]) -> str:
    shown = ", ".join(f"'{column[:40]}'" for column in columns[:20])
    return shown + (f" and {len(columns) - 20} more" if len(columns) > 20 else "")
