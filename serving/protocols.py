"""Two protocols that clients already speak: MLflow's scoring server and Open Inference v2.

Rows are either ready features (one column per entry of the dictionary, as `clv features` writes
them) or raw order lines (customer_id, order_ts, amount ...), told apart by their columns. Features
are answered as MLflow's own server answers them: for 1, 12 and 24 months, as of the end of
training.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from features.behaviour import Rows
from features.records import NUMBERS, ORDER, RecordError, only
from features.settings import MAX_MONTHS
from serving.answers import Problem
from serving.online import Scorer
from serving.schema import Limits, asked, parse, require_object
from training.predictions import Predictions

__all__ = ["described", "infer", "invocations"]

Floats = npt.NDArray[np.float64]
Table = Mapping[str, Sequence[Any]]
MONTHS: Final = (1, 12, MAX_MONTHS)
FORMS: Final = ("dataframe_split", "dataframe_records", "instances", "inputs")
RAW: Final = ("customer_id", "order_ts", "amount")
PLATFORM: Final = "clv_bundle"
NUMERIC: Final = frozenset(("amount", *NUMBERS))
NUMBER: Final = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?\s*", re.ASCII)
DATATYPES: Final = frozenset(("FP64", "FP32", "INT64", "INT32", "INT16", "INT8"))
MOST_CELLS: Final = 2_000_000


def invocations(
    body: bytes, kind: str, query: Mapping[str, str], scorer: Scorer, limits: Limits
) -> dict[str, Any]:
    """MLflow's answer, ``{"predictions": [row, ...]}``; `kind` is the media type.

    Raises
    ------
    Problem, RecordError
        The body is not as it must be.
    """
    params: Mapping[str, Any] = query
    if kind == "text/csv":
        table = _csv(body)
    else:
        value = require_object(parse(body))
        params = require_object(value.get("params") or {}, ("params",))
        table = _table(value, scorer)
    if set(RAW) <= table.keys():
        return _raw(table, params, scorer, limits)
    values = _features(table, scorer, limits)
    return {"predictions": _predicted(values, scorer)}


def _table(value: Mapping[str, Any], scorer: Scorer) -> Table:
    """Columns by name out of one of MLflow's forms."""
    given = [form for form in FORMS if form in value]
    if len(given) != 1 or not value.keys() <= {*FORMS, "params", "signature_name"}:
        raise RecordError((), "unknown_form", f"must hold exactly one of {', '.join(FORMS)}, and "
                          "perhaps params")  # fmt: skip
    form, names = given[0], list(scorer.catalogue.names)
    data = value[form]
    if form == "dataframe_split":
        split = require_object(data, (form,))
        columns = split.get("columns")
        if type(columns) is not list or any(type(name) is not str for name in columns):
            raise RecordError((form, "columns"), "type", "must be a list of names")
        if len(set(columns)) != len(columns):
            raise RecordError((form, "columns"), "duplicate_column", "each name must stand once")
        return _by_column(split.get("data"), columns, (form, "data"))
    if form == "inputs" and isinstance(data, dict):
        return _equally_long(data)
    if type(data) is not list or not data:
        raise RecordError((form,), "type", "must be a list of at least one row")
    if isinstance(data[0], list) and form != "dataframe_records":
        return _by_column(data, names, (form,))
    return _by_record(data, form)


def _by_column(rows: Any, columns: list[str], where: tuple[str, ...]) -> Table:
    if type(rows) is not list or not rows:
        raise RecordError(where, "type", "must be a list of at least one row")
    for i, row in enumerate(rows):
        if type(row) is not list or len(row) != len(columns):
            raise RecordError((*where, i), "row_length", f"must be a list of {len(columns)} "
                              "values, one per column")  # fmt: skip
    return dict(zip(columns, zip(*rows, strict=True), strict=True))


def _by_record(rows: list[Any], form: str) -> Table:
    first = require_object(rows[0], (form, 0))
    for i, row in enumerate(rows):
        if require_object(row, (form, i)).keys() != first.keys():
            raise RecordError((form, i), "columns", "must hold the same columns as the first row")
    return {name: [row[name] for row in rows] for name in first}


def _equally_long(data: dict[str, Any]) -> Table:
    for name, values in data.items():
        data[name] = values if isinstance(values, list) else [values]
    if len({len(values) for values in data.values()}) != 1 or not next(iter(data.values())):
        raise RecordError(
            ("inputs",), "row_length", "all columns must have the same length, above 0"
        )
    return data


def _csv(body: bytes) -> Table:
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Problem(400, "not_utf8", "the body must be CSV in UTF-8") from None
    if "\0" in text:
        raise Problem(422, "not_text", "text must be Unicode without NUL")
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
    except csv.Error:
        raise Problem(400, "not_csv", "the body must be CSV with a header") from None
    if len(rows) < 2 or len(set(rows[0])) != len(rows[0]):
        raise Problem(422, "not_csv", "the body must be a header of different names and a row")
    header = rows[0]
    raw = set(RAW) <= set(header)
    for i, row in enumerate(rows[1:]):
        if len(row) != len(header):
            raise RecordError(("rows", i), "row_length", f"must hold {len(header)} values")
    columns = dict(zip(header, zip(*rows[1:], strict=True), strict=True))
    return {
        name: [_read(text, ("rows", i, name)) for i, text in enumerate(texts)]
        if not raw or name in NUMERIC
        else texts
        for name, texts in columns.items()
    }


def _read(text: str, where: tuple[str | int, ...]) -> float | None:
    """A number of a CSV, None where there is none."""
    if not text.strip():
        return None
    if NUMBER.fullmatch(text) is None:
        # The header's names are the client's own words: the column is told by place alone.
        raise RecordError(where[:2], "type", "must hold numbers")
    return float(text)


def _raw(table: Table, params: Mapping[str, Any], scorer: Scorer, limits: Limits) -> dict[str, Any]:
    """Predictions from raw order lines, in the order in which customers first stand there."""
    unknown = set(table) - ORDER - {"customer_id"}
    if unknown:
        raise RecordError((), "unknown_field", only({*ORDER, "customer_id"}))
    orders: dict[str, list[dict[str, Any]]] = {}
    names = [name for name in table if name != "customer_id"]
    for i, (customer, *row) in enumerate(
        zip(table["customer_id"], *(table[name] for name in names), strict=True)
    ):
        if type(customer) is not str or not customer:
            raise RecordError(("rows", i, "customer_id"), "missing_customer", "must be text")
        line = {name: value for name, value in zip(names, row, strict=True) if value is not None}
        orders.setdefault(customer, []).append(line)
    told = {name: params[name] for name in ("as_of", "horizons", "reasons") if name in params}
    told = {name: _of_query(name, value) for name, value in told.items()}
    customers = [{"customer_id": name, "orders": lines} for name, lines in orders.items()]
    model = scorer.loaded.model
    wanted = asked({"customers": customers, **told}, model.settings.business.time_zone, limits)
    months = wanted.months or model.settings.horizons.months
    found = scorer.predict(wanted.customers, wanted.as_of, months, wanted.reasons)
    return {"predictions": found.predictions}


def _of_query(name: str, value: Any) -> Any:
    """Parameters of a query are text: 12,24 and 3 are numbers there."""
    if name == "as_of" or type(value) is not str:
        return value
    if re.fullmatch(r"\d{1,2}(,\d{1,2})*", value, re.ASCII) is None:
        return value
    parts = [int(part) for part in value.split(",")]
    return parts if name == "horizons" else parts[0]


def _features(table: Table, scorer: Scorer, limits: Limits) -> Floats:
    """Feature rows in the dictionary's order, (rows, features); null is not known.

    Raises
    ------
    RecordError
        A column is missing, unknown, or holds what is no number.
    """
    names = scorer.catalogue.names
    missing = [name for name in names if name not in table]
    if missing:
        raise RecordError((), "missing_column", f"must hold the column {missing[0]} (and "
                          f"{len(missing) - 1} more that are missing), or customer_id, order_ts "
                          "and amount")  # fmt: skip
    if len(table) > len(names):
        raise RecordError((), "unknown_field", "must hold no other columns than the features of "
                          "GET /v2/models/clv")  # fmt: skip
    rows = len(table[names[0]])
    if rows > limits.customers:
        raise Problem(413, "too_many", f"at most {limits.customers} rows may stand in a request")
    return np.column_stack([_column(table[name], name) for name in names])


def _column(values: Sequence[Any], name: str) -> Floats:
    for i, value in enumerate(values):
        if value is not None and type(value) is not float and type(value) is not int:
            raise RecordError(("rows", i, name), "type", "must be a number or null")
    try:
        return np.array(values, np.float64)
    except OverflowError:  # a whole number beyond the largest double
        raise RecordError((name,), "type", "must hold numbers below 1e308") from None


def _predicted(values: Floats, scorer: Scorer) -> list[dict[str, Any]]:
    found = _found(values, scorer)
    return [dict(zip(found.names, row, strict=True)) for row in found.rows()]


def _columns(values: Floats, scorer: Scorer) -> dict[str, list[Any]]:
    found = _found(values, scorer)
    columns = zip(*found.rows(), strict=True)
    return {name: list(column) for name, column in zip(found.names, columns, strict=True)}


def _found(values: Floats, scorer: Scorer) -> Predictions:
    model, n = scorer.loaded.model, len(values)
    rows = Rows(
        np.full(n, "", object), np.arange(n), np.zeros(n, np.int64),
        np.ascontiguousarray(values), scorer.catalogue,
    )  # fmt: skip
    _require_sense(rows)
    return model.predict(rows, model.trained_until, MONTHS)


def _require_sense(rows: Rows) -> None:
    """What no history gives has no forecast: counts and times below zero, or unknown."""
    for name in ("order_days", "tenure_days", "order_span_days", "spend_per_order_day", "spend",
                 "refunds", "spend_30d"):  # fmt: skip
        column, least = rows.column(name), 1.0 if name == "order_days" else 0.0
        bad = ~((column >= least) & (column <= 1e15))
        if bad.any():
            raise RecordError(("rows", int(np.argmax(bad)), name), "impossible", "must be a number "
                              f"of at least {least:g}")  # fmt: skip


# Open Inference Protocol v2


def described(scorer: Scorer, name: str) -> dict[str, Any]:
    """Metadata of the model."""
    names = scorer.catalogue.names
    return {
        "name": name, "versions": [scorer.loaded.version], "platform": PLATFORM,
        "inputs": [{"name": each, "datatype": "FP64", "shape": [-1]} for each in names],
        "outputs": [
            {"name": f"{kind}_{h}m", "datatype": "FP64", "shape": [-1]}
            for h in MONTHS
            for kind in ("revenue", "orders", "churn", "margin", "retention_cost", "clv")
        ],
    }  # fmt: skip


def infer(body: bytes, scorer: Scorer, name: str, limits: Limits) -> dict[str, Any]:
    """Predictions of feature tensors: one of each feature, or all in one, (rows, features).

    Raises
    ------
    Problem, RecordError
        The body is not as it must be.
    """
    value = require_object(parse(body))
    if not value.keys() <= {"id", "parameters", "inputs", "outputs"}:
        raise RecordError((), "unknown_field", "must hold no other fields than id, parameters, "
                          "inputs and outputs")  # fmt: skip
    request = value.get("id")
    if request is not None and (type(request) is not str or len(request) > 200):
        raise RecordError(("id",), "type", "must be text of at most 200 characters")
    tensors = value.get("inputs")
    if type(tensors) is not list or not tensors:
        raise RecordError(("inputs",), "type", "must be a list of at least one tensor")
    columns = _columns(_features(_tensors(tensors, scorer), scorer, limits), scorer)
    found: dict[str, Any] = {"model_name": name, "model_version": scorer.loaded.version}
    if request is not None:
        found["id"] = request
    found["outputs"] = [
        {"name": each, "datatype": "FP64", "shape": [len(data)], "data": data}
        for each, data in columns.items()
        if each in _wanted(value.get("outputs"), columns)
    ]
    return found


def _wanted(outputs: Any, columns: Mapping[str, Any]) -> set[str]:
    if outputs is None:
        return set(columns)
    if type(outputs) is not list:
        raise RecordError(("outputs",), "type", "must be a list of objects with a name")
    names = set()
    for i, each in enumerate(outputs):
        name = require_object(each, ("outputs", i)).get("name")
        if type(name) is not str or name not in columns:
            raise RecordError(("outputs", i, "name"), "unknown_output", "must be an output of the "
                              "model's metadata")  # fmt: skip
        names.add(name)
    return names


def _tensors(tensors: list[Any], scorer: Scorer) -> Table:
    found: dict[str, Sequence[Any]] = {}
    for i, tensor in enumerate(tensors):
        at = ("inputs", i)
        each = require_object(tensor, at)
        name, shape, data = each.get("name"), each.get("shape"), each.get("data")
        if type(name) is not str or name in found:
            raise RecordError((*at, "name"), "type", "must be text and stand once")
        if each.get("datatype") not in DATATYPES:
            raise RecordError((*at, "datatype"), "type", "must be one of "
                              + ", ".join(sorted(DATATYPES)))  # fmt: skip
        if type(shape) is not list or any(type(k) is not int or k < 1 for k in shape):
            raise RecordError((*at, "shape"), "type", "must be a list of whole numbers above 0")
        flat = _flat(data, shape, at)
        names = scorer.catalogue.names
        if len(shape) == 2 and shape[1] == len(names) and len(tensors) == 1 and len(names) > 1:
            return {each: flat[k :: len(names)] for k, each in enumerate(names)}
        if len(shape) > 2 or (len(shape) == 2 and shape[1] != 1):
            raise RecordError((*at, "shape"), "shape", f"must be [rows], [rows, 1], or for one "
                              f"tensor of all features [rows, {len(names)}]")  # fmt: skip
        found[name] = flat
    if len({len(values) for values in found.values()}) != 1:
        raise RecordError(("inputs",), "shape", "all tensors must have the same number of rows")
    return found


def _flat(data: Any, shape: list[int], at: tuple[str | int, ...]) -> list[Any]:
    """The values of a tensor, row by row; nested lists are taken as well."""
    size = prod(shape) if len(shape) <= 2 else -1
    if type(data) is not list or not 0 < size <= MOST_CELLS:
        raise RecordError((*at, "data"), "type", "must be a list of as many values as shape says")
    if data and type(data[0]) is list:
        if any(type(row) is not list for row in data):
            raise RecordError((*at, "data"), "type", "must be all rows or all values")
        data = [value for row in data for value in row]
    if len(data) != size:
        raise RecordError((*at, "data"), "shape", "must be a list of as many values as shape says")
    return list(data)
