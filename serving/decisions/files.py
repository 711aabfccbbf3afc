"""Tables of decisions in and out: predictions and experiments read, lists and plans written."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from features import formats
from features.errors import InputError
from features.settings import Settings
from serving import writing

__all__ = [
    "KINDS",
    "horizon_of",
    "horizons",
    "neutral",
    "predictions",
    "read",
    "require_size",
    "write",
]

KINDS: Final = (*writing.KINDS, ".xlsx")
ROWS: Final = 1_048_575  # of a worksheet, below its header
SPARE: Final = 100  # rows of a worksheet that stand above or below its table
MANY: Final = 20_000  # rows of a workbook from which it is not held in memory
BLOCK: Final = 10_000  # rows that are laid out at a time
NUMBER: Final = re.compile(
    r"(revenue|orders|churn|margin|retention_cost|clv|order_value|active_months)_\d+m(_\w+)?"
    r"|orders_per_month|inactive_\w+"
)
# What a spreadsheet takes for the start of a formula; full-width forms are read like plain ones.
FORMULA: Final = tuple("=+-@\t\r\n\x00|\uff1d\uff0b\uff0d\uff20")


def read(path: str | Path) -> pd.DataFrame:
    """A CSV or Parquet file as text, None where nothing stands; columns keep their names.

    Raises
    ------
    InputError
        The file is missing, of another kind, or has a record that cannot be read.
    """
    frame = _text(Path(path)).to_pandas().astype(object)
    return pd.DataFrame(frame.where(frame.notna() & (frame != ""), None))


def _text(place: Path) -> pa.Table:
    """All records, every column as text."""
    if place.is_dir():
        raise InputError(f"A table must be one file, .csv or .parquet. Got the folder {place}.")
    parts: list[pa.RecordBatch] = []
    for sheet in formats.tables(place, Settings())["orders"].sheets():
        _require_names(sheet.columns, place.name)
        schema = pa.schema([(name, pa.string()) for name in sheet.columns])
        for block in sheet.batches:
            if block.column("bad").null_count < block.num_rows:
                at = block.filter(block.column("bad").is_valid())
                raise InputError(
                    f"{place.name} line {at.column('line')[0]}: every record must be readable. Got "
                    f"one that {at.column('bad')[0]}. Mend that line."
                )
            columns = [block.column(i) for i in range(len(sheet.columns))]
            parts.append(pa.RecordBatch.from_arrays(columns, schema=schema))
    return pa.Table.from_batches(parts, schema)


def _require_names(columns: Sequence[str], name: str) -> None:
    twice = sorted({column for column in columns if list(columns).count(column) > 1})
    if twice:
        raise InputError(f"{name} must have every column once. Got '{twice[0]}' twice. Rename one.")


def predictions(path: str | Path) -> pd.DataFrame:
    """What ``clv predict`` wrote, sorted by customer_id: ids as text, predictions as numbers.

    Raises
    ------
    InputError
        Columns are missing, several moments are mixed, a customer stands twice, a value is no
        number.
    """
    name = Path(path).name
    table = _text(Path(path))
    frame = _numbers(table, name)
    needed = ("customer_id", "as_of", "model_version")
    missing = [column for column in needed if column not in frame]
    if missing or not any(re.fullmatch(r"clv_\d+m", str(c)) for c in frame):
        lack = missing[0] if missing else "clv_12m"
        raise InputError(
            f"{name} must be what clv predict writes. Missing: {lack}. Make it by clv predict DATA "
            "--out FILE."
        )
    if frame.empty:
        raise InputError(f"{name} must hold at least one customer. Got a header only.")
    moments = sorted(set(frame["as_of"].astype(str)))
    if len(moments) > 1:
        raise InputError(
            f"{name} must hold the predictions of one moment. Got {', '.join(moments[:4])}. Take "
            "one as_of."
        )
    double = frame["customer_id"].duplicated() | frame["customer_id"].isna()
    if double.any():
        raise InputError(
            f"{name} must hold every customer once, with an id. Got "
            f"{int(double.sum())} rows more. Write it again by clv predict."
        )
    ids = frame["customer_id"].to_numpy(object)
    order = sorted(range(len(ids)), key=lambda i: ids[i])
    return frame.iloc[order].reset_index(drop=True)


def _numbers(table: pa.Table, name: str) -> pd.DataFrame:
    """The predicted columns as numbers, the rest as text; a million rows are no burden so."""
    for i, title in enumerate(table.column_names):
        if not NUMBER.fullmatch(title):
            continue
        column = pc.if_else(pc.equal(table.column(i), ""), None, table.column(i))
        try:
            found = column.cast(pa.float64())
        except pa.ArrowInvalid:
            found = None
        if found is None or (found.null_count and re.fullmatch(r"(clv|churn)_\d+m", title)):
            read = pd.to_numeric(column.to_pandas(), errors="coerce")
            shown = str(column.filter(pa.array(read.isna().to_numpy()))[0].as_py() or "")
            raise InputError(
                f"{name}, {title}: must be numbers. Got {shown[:40]!r}. Write it again by clv "
                "predict."
            )
        table = table.set_column(i, title, found)
    frame = pd.DataFrame(table.to_pandas())
    for title in table.column_names:
        if not NUMBER.fullmatch(title):
            text = frame[title].astype(object)
            frame[title] = text.where(text.notna() & (text != ""), None)
    return frame


def horizons(frame: pd.DataFrame) -> tuple[int, ...]:
    """The horizons that a table of predictions carries, in months, rising."""
    names = (re.fullmatch(r"clv_(\d+)m", str(column)) for column in frame)
    return tuple(sorted(int(match[1]) for match in names if match))


def horizon_of(frame: pd.DataFrame, asked: int | None, name: str = "predictions") -> int:
    """The horizon to decide by, in months: as asked, else the shortest that the table carries.

    Raises
    ------
    InputError
        The table does not carry the horizon.
    """
    months = horizons(frame)
    if asked is None:
        return months[0]
    if asked not in months:
        raise InputError(
            f"The table of {name} must carry --horizon {asked}. Got "
            f"{', '.join(map(str, months))}. Take one of them, or clv predict --horizons {asked}."
        )
    return asked


def neutral(text: object) -> object:
    """Text that a spreadsheet shows and never runs (OWASP, CSV injection); the rest as it is."""
    return f"'{text}" if isinstance(text, str) and text.startswith(FORMULA) else text


def write(
    frame: pd.DataFrame,
    out: Path,
    sheet: str = "table",
    *,
    shown: bool = True,
    more: Mapping[str, pd.DataFrame] | None = None,
) -> None:
    """Write CSV, Parquet or a worksheet by the ending; the old file stays until the new is whole.

    With `shown` the CSV is for people: text that a spreadsheet would run gets an apostrophe before
    it. A worksheet holds text as text, whatever it begins with, and Parquet as it is. A workbook
    takes the tables of `more` too, as sheets of these names; the other kinds leave them out.

    Raises
    ------
    InputError
        Another ending, too many rows for a worksheet, a place that cannot be written.
    """
    writing.require_writable(out, KINDS)
    if out.suffix == ".xlsx":
        _workbook({sheet: frame, **(more or {})}, out)
        return
    if out.suffix == ".csv" and shown:
        frame = frame.copy()
        for column in frame:
            if frame[column].map(lambda value: isinstance(value, str)).any():
                frame[column] = frame[column].astype(object).map(neutral)
    writing.write(frame, out)


def _workbook(tables: Mapping[str, pd.DataFrame], out: Path) -> None:
    import xlsxwriter
    from xlsxwriter.exceptions import FileCreateError

    longest = max(len(table) for table in tables.values())
    if longest > ROWS:
        raise InputError(
            f"A worksheet takes {ROWS:,} rows. Got {longest:,}. Write --out as .csv or .parquet."
        )
    plain = {"strings_to_formulas": False, "strings_to_urls": False, "strings_to_numbers": False}
    # Row by row on disk, at the price of every text anew where some programs look for it once.
    plain["constant_memory"] = sum(len(table) for table in tables.values()) > MANY
    with writing.replacing(out) as temporary:
        try:
            with xlsxwriter.Workbook(str(temporary), plain) as book:
                # The moment of writing would make equal tables differ.
                book.set_properties({"created": datetime(2000, 1, 1)})
                bold = book.add_format({"bold": True})
                for sheet, frame in tables.items():
                    _sheet(book.add_worksheet(sheet), frame, bold)
        except FileCreateError as error:  # its own word for a full disk
            raise error.args[0] from None


def _sheet(page: Any, frame: pd.DataFrame, bold: Any) -> None:
    """A table as a worksheet, written from the top: what was written may be on disk already."""
    page.freeze_panes(1, 0)
    for j, name in enumerate(frame):
        page.write_string(0, j, str(name), bold)
        page.set_column(j, j, max(12, min(len(str(name)) + 2, 40)))
    for start in range(0, len(frame), BLOCK):
        block = frame.iloc[start : start + BLOCK]
        columns = [block[name].tolist() for name in block]
        for i, row in enumerate(zip(*columns, strict=True), start + 1):
            for j, value in enumerate(row):
                _cell(page, i, j, value)


def _cell(page: Any, row: int, column: int, value: Any) -> None:
    if value is None or value is pd.NA or value != value:  # noqa: PLR0124  the test for NaN
        return
    if isinstance(value, bool):
        page.write_boolean(row, column, value)
    elif isinstance(value, int | float):
        page.write_number(row, column, value)
    else:
        page.write_string(row, column, str(value))


def require_size(rows: int) -> None:
    """Refuse what a worksheet cannot hold, before any work is done.

    Raises
    ------
    InputError
        More customers than rows.
    """
    most = ROWS - SPARE
    if rows > most:
        raise InputError(
            f"A workbook takes {most:,} customers. Got {rows:,}. Report on a part of the "
            "predictions, or write tables by clv value and clv segments as .csv or .parquet."
        )
