"""The description of the service (OpenAPI 3.1) and a page of it that needs nobody else."""

from __future__ import annotations

import json
from html import escape
from typing import Any, Final

from features.plain import TEXTS
from features.records import NUMBERS
from features.settings import MAX_MONTHS
from serving.guard import OPEN
from serving.schema import LONGEST_ID, MOST_REASONS, Limits
from training.grid import NAMES

__all__ = ["EXAMPLE", "document", "page"]

Schema = dict[str, Any]
#: A request that every model without events takes.
EXAMPLE: Final[Schema] = {
    "as_of": "2025-07-01",
    "horizons": [12],
    "customers": [
        {
            "customer_id": "0042",
            "orders": [
                {"order_ts": "2025-01-31T10:15:00", "amount": 59.9, "order_id": "A17"},
                {"order_ts": "2025-05-02T18:40:00", "amount": 24.5, "order_id": "A98"},
            ],
        }
    ],
}
ANSWER: Final[Schema] = {
    "model_version": "3", "currency": "EUR", "warnings": [], "more_warnings": 0,
    "predictions": [
        {"customer_id": "0042", "as_of": "2025-07-01", "evidence": "full", "revenue_12m": 61.7,
         "orders_12m": 1.4, "churn_12m": 0.41, "margin_12m": 24.7, "retention_cost_12m": 0.0,
         "clv_12m": 23.6, "clv_12m_low": 0.0, "clv_12m_median": 14.2, "clv_12m_high": 58.3,
         "next_order_on": "2025-10-19", "segment": "Grow", "model_version": "3"}
    ],
}  # fmt: skip
PROBLEM: Final[Schema] = {
    "error": {"type": "missing_amount", "where": "customers[0].orders[3].amount",
              "message": "must be a number"}
}  # fmt: skip
TEXT: Final[Schema] = {"type": "string"}
WHY: Final = {
    400: "No JSON, or Host names another service.", 401: "No token.",
    403: "A page of another site asks, or the token has not the role.",
    404: "There is no such thing.", 413: "Too much at once.", 415: "Another media type.",
    422: "A field breaks a rule.", 429: "Too often.", 503: "Too busy, or no model serves.",
}  # fmt: skip
HEADERS: Final = {401: "WWW-Authenticate", 429: "Retry-After", 503: "Retry-After"}
#: What may come of any request before it is looked at.
GUARDED: Final = (400, 403, 429, 503)


def _object(fields: Schema, required: tuple[str, ...], text: str, extra: bool = False) -> Schema:
    return {
        "type": "object", "description": text, "properties": fields, "required": list(required),
        "additionalProperties": extra,
    }  # fmt: skip


def _maybe(kind: str, text: str) -> Schema:
    return {"type": [kind, "null"], "description": text}


def _list(of: Schema, least: int, most: int) -> Schema:
    return {"type": "array", "items": of, "minItems": least, "maxItems": most}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _schemas(limits: Limits) -> Schema:
    time = {"type": "string", "format": "date-time", "description": "a date or a time in ISO form; "
            "without a zone it is local time of the business, and then all must be"}  # fmt: skip
    meaning = {
        "quantity": "pieces", "discount": "money taken off, of either sign",
        "cost": "money that the line cost", "margin_rate": "share of the amount, where no cost is",
    }  # fmt: skip
    order = {
        "order_ts": time,
        "amount": {"type": "number", "description": "money of the line; refunds are negative"},
        "currency": _maybe("string", "the business currency, if given"),
        **{name: _maybe("string", f"{name} of the line") for name in TEXTS},
        **{name: _maybe("number", meaning[name]) for name in sorted(NUMBERS)},
    }
    event = {
        "ts": time, "kind": {**TEXT, "minLength": 1, "description": "visit, survey ..."},
        "value": _maybe("number", "what the event carries"), "channel": _maybe("string", "channel"),
    }  # fmt: skip
    attribute = {"type": ["string", "number", "boolean", "null"]}
    profile = {"type": "object", "additionalProperties": attribute,
               "description": "attributes of the customer: country, birth_year ...; acquired_at "
               "is the moment of sign-up"}  # fmt: skip
    identity = {**TEXT, "minLength": 1, "maxLength": LONGEST_ID}
    customer = {
        "customer_id": identity,
        "orders": {
            **_list(_ref("Order"), 0, limits.orders),
            "description": "may be none where the "
            "profile tells acquired_at: somebody who has not ordered yet",
        },
        "profile": profile,
        "events": _list(_ref("Event"), 0, limits.orders),
    }
    months = {"type": "integer", "minimum": 1, "maximum": MAX_MONTHS}
    request = {
        "as_of": {
            **time,
            "description": "moment of prediction: orders at or after it are not seen",
        },
        "horizons": _list(months, 1, MAX_MONTHS),
        "reasons": {"type": "integer", "minimum": 0, "maximum": MOST_REASONS, "default": 0},
        "customers": _list(_ref("Customer"), 1, limits.customers),
    }
    return {
        "Order": _object(order, ("order_ts", "amount"), "One line of an order."),
        "Event": _object(event, ("ts", "kind"), "Something that happened besides orders."),
        "Customer": {
            **_object(customer, ("customer_id",), "A customer and all they did."),
            "anyOf": [
                {"required": ["orders"], "properties": {"orders": {"minItems": 1}}},
                {"required": ["profile"], "properties": {"profile": {
                    "required": ["acquired_at"],
                    "properties": {"acquired_at": {"type": "string", "minLength": 1}}}}},
            ],
        },
        "Request": _object(request, ("as_of", "customers"), "Customers to predict."),
        "Prediction": _object(
            {
                "customer_id": TEXT, "as_of": TEXT, "model_version": TEXT,
                "evidence": {"enum": ["full", "extrapolated", "thin", "cold_start"]},
                "next_order_on": _maybe("string", "the likely day, unless more likely gone"),
                "segment": _maybe("string", "by value and churn: " + ", ".join(NAMES)),
            },
            ("customer_id", "as_of", "evidence", "model_version"),
            "A row of the predictions table: for each horizon h revenue_{h}m, orders_{h}m, "
            "churn_{h}m, margin_{h}m, retention_cost_{h}m, clv_{h}m with _low, _median and _high.",
            extra=True,
        ),
        "Answer": _object(
            {
                "model_version": TEXT, "currency": TEXT, "more_warnings": {"type": "integer"},
                "predictions": {"type": "array", "items": _ref("Prediction")},
                "warnings": {"type": "array", "items": _ref("Warning")},
            },
            ("model_version", "currency", "predictions", "warnings", "more_warnings"),
            "Predictions in the order of the request, all by one version of the model.",
        ),
        "Warning": _object(
            {"where": TEXT, "type": TEXT, "message": TEXT}, ("where", "type", "message"),
            "What was accepted and should be known: an unknown level, a column that is missing.",
        ),
        "Problem": _object(
            {
                "error": _object(
                    {"type": TEXT, "message": TEXT, "where": TEXT}, ("type", "message"),
                    "Which rule, what must hold, and the field; never what came.",
                )
            },
            ("error",), "Why a request was refused.",
        ),
    }  # fmt: skip


def _content(schema: Schema, example: Any = None) -> Schema:
    found: Schema = {"schema": schema}
    if example is not None:
        found["example"] = example
    return {"application/json": found}


def _answers(text: str, content: Schema, *statuses: int) -> Schema:
    found: Schema = {"200": {"description": text, "content": content}}
    for status in statuses:
        about = _content(_ref("Problem"), PROBLEM if status == 422 else None)
        found[str(status)] = {"description": WHY[status], "content": about}
        if status in HEADERS:
            found[str(status)]["headers"] = {HEADERS[status]: {"schema": TEXT}}
    return found


def _ask(summary: str, answers: Schema, body: Schema | None = None, **more: Any) -> Schema:
    found: Schema = {"summary": summary, "responses": answers, **more}
    if body is not None:
        found["requestBody"] = {"required": True, "content": body}
    return found


ANY: Final[Schema] = {"type": "object"}
REFUSED: Final = (400, 413, 415, 422)


def document(name: str, release: str, limits: Limits, tokens: bool = False) -> Schema:
    """The whole description; `name` is the model's in the Open Inference protocol.

    With `tokens` every route but those of health needs one.
    """
    own = f"/v2/models/{name}"
    plain = {"text/plain": {"schema": TEXT}}
    customer = [{"name": "customer", "in": "path", "required": True, "schema": TEXT}]
    rows = {
        "dataframe_split": _object({"columns": _list(TEXT, 1, 100_000), "data": {"type": "array"}},
                                   ("columns", "data"), "Columns and rows.", extra=True),
        "dataframe_records": {"type": "array", "items": ANY}, "instances": {"type": "array"},
        "inputs": {"type": ["array", "object"]},
        "params": {"type": "object", "description": "as_of, horizons and reasons of raw orders"},
    }  # fmt: skip
    forms = [name for name in rows if name != "params"]
    one = {**_object(rows, (), "One of the four forms."),
           "oneOf": [{"required": [name]} for name in forms]}  # fmt: skip
    scored = {**_content(one), "text/csv": {"schema": TEXT}}
    predictions = {"type": "array", "items": ANY}
    answer = _content(_object({"predictions": predictions}, ("predictions",), "One each."))
    tensor = _object({"id": TEXT, "inputs": {"type": "array", "items": ANY, "minItems": 1},
                      "outputs": {"type": "array", "items": ANY}, "parameters": ANY},
                     ("inputs",), "Tensors of features.")  # fmt: skip
    paths: Schema = {
        "/v1/predict": {"post": _ask(
            "Predict customers from their raw orders",
            _answers("Predictions.", _content(_ref("Answer"), ANSWER), *REFUSED),
            _content(_ref("Request"), EXAMPLE))},
        "/v1/customers/{customer}": {"get": _ask(
            "The last batch's prediction of a known customer",
            _answers("The row.", _content(_object({"prediction": _ref("Prediction")},
                     ("prediction",), "A row.")), 404), parameters=customer)},
        "/invocations": {"post": _ask(
            "MLflow's scoring protocol, over ready features or raw order lines",
            _answers("Predictions.", answer, *REFUSED), scored)},
        "/ping": {"get": _ask("A model is loaded", _answers("Yes.", _content({})))},
        "/health": {"get": _ask("Which model serves, and whether a newer one was refused",
                                _answers("It serves.", _content(ANY), 503))},
        "/version": {"get": _ask("Version of the service", _answers("Its number.", plain))},
        "/metrics": {"get": _ask("Counters for Prometheus", _answers("Text.", plain))},
        "/admin/reload": {"post": _ask(
            "Look at the champion's alias now (role admin)",
            _answers("What serves now, and whether that changed.", _content(ANY)))},
        "/v2": {"get": _ask("Open Inference: the server", _answers("About it.", _content(ANY)))},
        "/v2/health/live": {"get": _ask("The process answers", _answers("Yes.", _content(ANY)))},
        "/v2/health/ready": {"get": _ask("The model may be asked",
                                         _answers("Yes.", _content(ANY), 503))},
        own: {"get": _ask("Open Inference: the model", _answers("About it.", _content(ANY)))},
        own + "/ready": {"get": _ask("This model may be asked",
                                     _answers("Yes.", _content(ANY), 503))},
        own + "/infer": {"post": _ask("Open Inference: predictions of feature tensors",
                                      _answers("Tensors.", _content(ANY), *REFUSED),
                                      _content(tensor))},
    }  # fmt: skip
    for place, methods in paths.items():
        more = GUARDED if place in OPEN or not tokens else (*GUARDED, 401)
        for about in methods.values():
            about["responses"] = _answers("", {}, *more) | about["responses"]
            if tokens and place in OPEN:
                about["security"] = []
    secured: Schema = {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}}
    return {
        **({"security": [{"token": []}]} if tokens else {}),
        "openapi": "3.1.0",
        "info": {"title": "Customer value and churn", "version": release,
                 "description": "Predictions of customers from their raw order history."},
        "paths": paths,
        "components": {"schemas": _schemas(limits), **(secured if tokens else {})},
    }  # fmt: skip


STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;"
    "color:#1b1f24;background:#fff}pre{background:#f4f5f7;padding:1rem;overflow:auto;font-size:14px}"
    "h2{margin-top:2rem;font-size:1.1rem}code{font-weight:600}"
    "@media(prefers-color-scheme:dark){body{color:#e6e6e6;background:#16181b}"
    "pre{background:#22262b}}"
)


def page(told: Schema) -> str:
    """The description to be read, in one file without scripts."""
    parts = [
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>'
        f'{escape(told["info"]["title"])}</title><meta name="viewport" '
        f'content="width=device-width,initial-scale=1"><style>{STYLE}</style></head><body>'
        f"<h1>{escape(told['info']['title'])}</h1><p>{escape(told['info']['description'])} "
        f'The same for programs: <a href="/openapi.json">/openapi.json</a>.</p>'
    ]
    for place, methods in told["paths"].items():
        for method, about in methods.items():
            parts.append(f"<h2><code>{method.upper()} {escape(place)}</code></h2>"
                         f"<p>{escape(about['summary'])}. Answers: "
                         f"{', '.join(about['responses'])}.</p>")  # fmt: skip
            body = about.get("requestBody", {}).get("content", {}).get("application/json", {})
            if "example" in body:
                parts.append("<p>For example:</p>" + _pre(body["example"]))
    for name, schema in told["components"]["schemas"].items():
        parts.append(f'<h2 id="{escape(name)}">{escape(name)}</h2>' + _pre(schema))
    return "".join([*parts, "</body></html>"])


def _pre(value: Any) -> str:
    return f"<pre>{escape(json.dumps(value, indent=2))}</pre>"
