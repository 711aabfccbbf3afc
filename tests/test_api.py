"""The service's answers: shapes, protocols, lookups, counters, documents."""

import copy
import json
import os
import re
import socket
import threading
import time
from dataclasses import dataclass, replace
from functools import cache

import fitted
import numpy as np
import pandas as pd
import pytest
import uvicorn
from asking import ask, post
from conftest import same_bits, use_home

from features.errors import InputError
from features.settings import Serving
from serving import lookup, tokens
from serving.answers import refusal
from serving.api import Fixed, Options, application
from serving.batch import score
from serving.board import Board
from serving.client import Client, ServiceError
from serving.guard import Guard
from serving.loader import Loaded
from serving.lookup import Lookup, latest
from serving.metrics import Metrics
from serving.openapi import EXAMPLE
from serving.scoring import FeatureScorer
from serving.writing import write

ORDERS = [
    {"order_ts": f"2024-0{1 + k % 6}-1{k % 9}T10:00:00", "amount": 10.25 + k, "order_id": str(k)}
    for k in range(20)
]
CUSTOMER = {"customer_id": "0042", "orders": ORDERS, "profile": {"country": "DE"}}
ASKED = {"as_of": "2024-07-01", "horizons": [3, 12], "customers": [CUSTOMER]}
JSON = [("content-type", "application/json")]
CSV = [("content-type", "text/csv; charset=UTF-8")]


def loaded(version="1"):
    return Loaded(fitted.base().model, version)


@pytest.fixture(scope="module")
def app():
    return application(Fixed(loaded()))


@dataclass
class Changing:
    """A model that the test changes."""

    loaded: Loaded
    error: str | None = None
    healthy: bool = True

    def status(self):
        return {"version": self.loaded.version, "healthy": self.healthy, "error": self.error}

    def reload(self):
        self.loaded = loaded("2")
        return True


def test_a_prediction_tells_version_currency_reasons_and_what_should_be_known(app):
    found = post(app, "/v1/predict", ASKED | {"reasons": 2})
    assert found.status == 200
    assert found.headers["content-type"] == "application/json"
    answer = found.json
    assert (answer["model_version"], answer["currency"], answer["more_warnings"]) == ("1", "USD", 0)
    (row,) = answer["predictions"]
    assert (row["customer_id"], row["as_of"], row["model_version"]) == ("0042", "2024-07-01", "1")
    assert 0 < row["churn_12m"] < row["churn_3m"] < 1
    assert row["clv_12m_low"] <= row["clv_12m_median"] <= row["clv_12m_high"]
    assert sum(line["money"] for line in row["reasons"]) == pytest.approx(row["clv_3m"], abs=1e-6)


def test_keys_in_any_order_give_the_same_bytes(app):
    rng = np.random.default_rng(1)
    first = post(app, "/v1/predict", ASKED).body

    def shuffled(value):
        if isinstance(value, dict):
            keys = list(value)
            return {keys[k]: shuffled(value[keys[k]]) for k in rng.permutation(len(keys))}
        return [shuffled(each) for each in value] if isinstance(value, list) else value

    for _ in range(10):
        assert post(app, "/v1/predict", shuffled(ASKED)).body == first


def test_the_body_may_come_in_any_chunks(app):
    body = json.dumps(ASKED).encode()
    assert ask(app, "POST", "/v1/predict", body, JSON, chunk=7).body == ask(
        app, "POST", "/v1/predict", body, JSON
    ).body  # fmt: skip


def many(count, orders=1):
    return ASKED | {
        "customers": [
            CUSTOMER | {"customer_id": str(k), "orders": ORDERS[:orders]} for k in range(count)
        ]
    }


def test_limits_of_customers_orders_and_lines_are_exact():
    options = Options(max_customers=3, max_orders=20, max_lines=24)
    app = application(Fixed(loaded()), options)
    for asked, status, where in (
        (many(1), 200, None),
        (many(3), 200, None),
        (many(4), 413, "customers"),
        (many(1, 20), 200, None),
        (ASKED | {"customers": [CUSTOMER | {"orders": [*ORDERS, ORDERS[0]]}]}, 413,
         "customers[0].orders"),
        (many(2, 12), 200, None),
        (many(2, 13), 413, "customers"),
    ):  # fmt: skip
        found = post(app, "/v1/predict", asked)
        assert found.status == status
        if where:
            assert found.json["error"]["where"] == where


def test_many_customers_are_answered_as_one_by_one(app):
    whole = many(300, 4)
    found = post(app, "/v1/predict", whole).json["predictions"]
    for k in (0, 299):
        assert post(app, "/v1/predict", ASKED | {"customers": [whole["customers"][k]]}).json[
            "predictions"
        ] == [found[k]]


def test_warnings_are_counted_beyond_a_hundred(app):
    lines = [line | {"discount": -1.0} for line in ORDERS]
    asked = many(6)
    for customer in asked["customers"]:
        customer["orders"] = lines
    answer = post(app, "/v1/predict", asked).json
    noted = [each for each in answer["warnings"] if each["type"] == "negative_discount"]
    assert len(answer["warnings"]) == 100
    assert len(noted) + answer["more_warnings"] >= 120


def test_an_answer_is_of_one_version_whatever_is_swapped_meanwhile():
    live = Changing(loaded("old"))
    app = application(live)
    assert post(app, "/v1/predict", ASKED).json["model_version"] == "old"
    live.loaded = loaded("new")
    answer = post(app, "/v1/predict", ASKED).json
    assert {answer["model_version"], answer["predictions"][0]["model_version"]} == {"new"}
    assert ask(app, "GET", "/v2/models/clv/versions/old").status == 404
    assert ask(app, "GET", "/v2/models/clv/versions/new").json["versions"] == ["new"]


def test_health_tells_a_refused_model_and_readiness_follows():
    live = Changing(loaded(), error="the new version was refused")
    app = application(live)
    assert ask(app, "GET", "/health").json["error"] == "the new version was refused"
    assert "clv_model_degraded 1" in ask(app, "GET", "/metrics").body.decode()
    live.healthy = False
    for place, status in (("/health", 503), ("/v2/health/ready", 503), ("/v2/health/live", 200),
                          ("/v2/models/clv/ready", 503), ("/ping", 200)):  # fmt: skip
        assert ask(app, "GET", place).status == status


def test_admins_alone_reload(tmp_path):
    live = Changing(loaded())
    texts = {role: tokens.make(tmp_path, role, role) for role in ("read", "admin")}
    guard = Guard(application(live), Serving(), tokens.Tokens(tmp_path))

    def reload(*headers):
        return ask(guard, "POST", "/admin/reload", b"", [("host", "localhost"), *headers])

    assert reload().status == 401
    assert reload(("authorization", f"Bearer {texts['read']}")).status == 403
    assert live.loaded.version == "1"
    found = reload(("authorization", f"Bearer {texts['admin']}"))
    assert (found.status, found.json["changed"], found.json["version"]) == (200, True, "2")


def test_a_wrong_method_is_told_the_right_one(app):
    assert ask(app, "GET", "/v1/predict").headers["allow"] == "POST"
    assert set(ask(app, "POST", "/health").headers["allow"].split(", ")) == {"GET", "HEAD"}
    assert ask(app, "HEAD", "/ping").status == 200


def test_a_caller_who_leaves_is_no_fault(app):
    body = json.dumps(ASKED).encode()
    parts = [{"type": "http.request", "body": body[:10], "more_body": True}]

    async def receive():
        return parts.pop(0) if parts else {"type": "http.disconnect"}

    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/predict", "raw_path": b"/v1/predict",
             "query_string": b"", "headers": [(b"content-type", b"application/json")],
             "http_version": "1.1", "scheme": "http", "root_path": ""}  # fmt: skip
    import asyncio

    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 400


# Ready features and raw orders, by MLflow's and by Open Inference's protocol


@pytest.fixture(scope="module")
def features():
    """Feature rows of twelve customers, and what MLflow's own server would say of them."""
    model = fitted.base().model
    rows = fitted.rows(model, last=12)
    frame = pd.DataFrame(rows.values, columns=list(model.catalogue.names))
    return frame, FeatureScorer(model).predict(frame)


def cells(frame):
    return frame.astype(object).where(frame.notna(), None)


def forms(frame):
    plain = cells(frame)
    yield {"dataframe_split": plain.to_dict("split")}
    yield {"dataframe_records": plain.to_dict("records")}
    yield {"instances": plain.to_dict("records")}
    yield {"instances": plain.to_numpy().tolist()}
    yield {"inputs": plain.to_dict("list")}
    yield {"inputs": plain.to_numpy().tolist()}


def assert_said(rows, expected):
    assert list(rows[0]) == list(expected.columns)
    found = np.array([list(row.values()) for row in rows])
    assert same_bits(found, expected.to_numpy())


def test_all_of_mlflows_forms_give_what_its_own_server_says(app, features):
    frame, expected = features
    for form in forms(frame):
        found = post(app, "/invocations", form)
        assert found.status == 200, found.body
        assert_said(found.json["predictions"], expected)
    text = frame.to_csv(index=False).encode()
    found = ask(app, "POST", "/invocations", text, CSV)
    assert_said(found.json["predictions"], expected)


def test_columns_in_another_order_give_the_same_and_wrong_ones_are_named(app, features):
    frame, expected = features
    turned = cells(frame[frame.columns[::-1]]).to_dict("records")
    answer = post(app, "/invocations", {"dataframe_records": turned})
    assert_said(answer.json["predictions"], expected)
    name = frame.columns[5]
    found = post(
        app, "/invocations", {"instances": cells(frame.drop(columns=name)).to_dict("records")}
    )
    assert found.status == 422
    assert name in found.json["error"]["message"]
    more = cells(frame.assign(canary=1)).to_dict("records")
    assert post(app, "/invocations", {"instances": more}).status == 422
    for value in ("7", True, [1], 10**400):
        bad = cells(frame).to_dict("records")
        bad[3][name] = value
        assert post(app, "/invocations", {"instances": bad}).status == 422
    bad = cells(frame).to_dict("records")
    bad[2]["order_days"] = -4.0
    found = post(app, "/invocations", {"instances": bad})
    assert (found.status, found.json["error"]["where"]) == (422, "rows[2].order_days")


def test_raw_orders_by_mlflows_protocol_are_those_of_predict(app):
    expected = post(app, "/v1/predict", ASKED | {"customers": [
        {"customer_id": "0042", "orders": ORDERS}]}).json["predictions"]  # fmt: skip
    rows = [{"customer_id": "0042"} | line for line in ORDERS]
    params = {"as_of": "2024-07-01", "horizons": [3, 12]}
    found = post(app, "/invocations", {"dataframe_records": rows, "params": params})
    assert found.json["predictions"] == expected
    text = pd.DataFrame(rows).to_csv(index=False).encode()
    place = "/invocations?as_of=2024-07-01&horizons=3,12"
    assert ask(app, "POST", place, text, CSV).json["predictions"] == expected


def test_open_inference_answers_in_tensors(app, features):
    frame, expected = features
    about = ask(app, "GET", "/v2/models/clv").json
    assert [each["name"] for each in about["inputs"]] == list(frame.columns)
    columns = [
        {
            "name": name,
            "shape": [len(frame)],
            "datatype": "FP64",
            "data": cells(frame)[name].tolist(),
        }
        for name in frame
    ]
    whole = {"name": "features", "shape": list(frame.shape), "datatype": "FP64",
             "data": cells(frame).to_numpy().ravel().tolist()}  # fmt: skip
    nested = whole | {"data": cells(frame).to_numpy().tolist()}
    for tensors in (columns, [whole], [nested]):
        found = post(app, "/v2/models/clv/infer", {"id": "x", "inputs": tensors})
        assert found.status == 200, found.body
        assert (found.json["id"], found.json["model_version"]) == ("x", "1")
        for tensor in found.json["outputs"]:
            assert same_bits(np.array(tensor["data"]), expected[tensor["name"]].to_numpy())
    names = {each["name"] for each in found.json["outputs"]}
    assert {each["name"] for each in about["outputs"]} <= names
    wanted = {"inputs": [whole], "outputs": [{"name": "clv_12m"}]}
    found = post(app, "/v2/models/clv/infer", wanted).json["outputs"]
    assert [each["name"] for each in found] == ["clv_12m"]
    wanted["outputs"] = [{"name": "canary"}]
    assert post(app, "/v2/models/clv/infer", wanted).status == 422


# Known customers


@cache
def scored():
    return score(loaded(), dict(fitted.shop()), as_of="2024-07-01", reasons=2, workers=1).frame


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A home with the table of a batch."""
    use_home(monkeypatch, tmp_path)
    monkeypatch.setattr(lookup, "ROWS", 100)
    table = scored()
    write(table, latest(tmp_path) / "as_of=2024-07-01" / "model-1.parquet")
    return tmp_path, table


def test_every_customer_of_the_newest_table_is_found_and_nobody_else(kept):
    home, table = kept
    found = Lookup(latest(home))
    for row in table.iloc[::37].to_dict("records"):
        mine = found.find(row["customer_id"])
        assert mine.pop("reasons") == json.loads(row["reasons"])
        for name, value in mine.items():
            assert value == row[name] or (value is None and row[name] != row[name])
    ids = set(table["customer_id"])
    for name in ("", "\uffff", *(f"{each}0" for each in sorted(ids)[::211])):
        assert name in ids or found.find(name) is None


def test_a_newer_table_is_followed(kept, monkeypatch):
    home, table = kept
    monkeypatch.setattr(lookup, "LOOK", 0.0)
    found = Lookup(latest(home))
    first = table["customer_id"].iloc[0]
    assert found.find(first)["as_of"] == "2024-07-01"
    newer = table.assign(as_of="2024-08-01")
    write(newer, latest(home) / "as_of=2024-08-01" / "model-1.parquet")
    assert found.find(first)["as_of"] == "2024-08-01"


def test_while_a_newer_table_is_laid_out_the_one_before_it_answers(kept, monkeypatch):
    home, table = kept
    found = Lookup(latest(home))
    first = table["customer_id"].iloc[0]
    assert not found.fresh
    assert found.find(first)["as_of"] == "2024-07-01"
    assert found.fresh
    begun, done, laid_out = threading.Event(), threading.Event(), lookup._laid_out

    def slowly(*words):
        begun.set()
        assert done.wait(60)
        return laid_out(*words)

    monkeypatch.setattr(lookup, "_laid_out", slowly)
    write(table.assign(as_of="2024-08-01"), latest(home) / "as_of=2024-08-01" / "model-1.parquet")
    monkeypatch.setattr(found, "_looked", -lookup.LOOK)
    assert not found.fresh
    other = threading.Thread(target=found.find, args=(first,))
    other.start()
    assert begun.wait(60)
    assert found.fresh
    assert found.find(first)["as_of"] == "2024-07-01"
    done.set()
    other.join()
    assert found.find(first)["as_of"] == "2024-08-01"


def test_a_file_of_any_order_and_kind_is_found_in(kept, tmp_path):
    _, table = kept
    mixed = table.sample(frac=1, random_state=1)
    for name in ("mixed.parquet", "mixed.csv"):
        write(mixed, tmp_path / name)
        found = Lookup(tmp_path / name)
        for row in table.iloc[::97].to_dict("records"):
            known = {k: None if pd.isna(v) else v for k, v in row.items()}
            assert found.find(row["customer_id"]) == known | {"reasons": json.loads(row["reasons"])}


def test_the_route_tells_what_is_not_there(kept):
    home, table = kept
    app = application(Fixed(loaded()), Options(predictions=latest(home)))
    name = table["customer_id"].iloc[5]
    row = ask(app, "GET", f"/v1/customers/{name}").json["prediction"]
    assert row["clv_12m"] == table["clv_12m"].iloc[5]
    for place, kind in (
        ("/v1/customers/nobody", "unknown_customer"),
        ("/v1/customer", "no_such_route"),
    ):
        found = ask(app, "GET", place)
        assert (found.status, found.json["error"]["type"]) == (404, kind)
    bare = application(Fixed(loaded()))
    assert ask(bare, "GET", f"/v1/customers/{name}").json["error"]["type"] == "no_predictions"
    empty = application(Fixed(loaded()), Options(predictions=home / "nothing"))
    assert ask(empty, "GET", f"/v1/customers/{name}").status == 404


def test_our_own_fault_has_the_form_of_all_errors_and_names_nobody(kept, monkeypatch, caplog):
    home, _ = kept

    def broken(*_):
        raise RuntimeError("canary@example.org")

    monkeypatch.setattr(Lookup, "find", broken)
    app = Guard(application(Fixed(loaded()), Options(predictions=latest(home))), Serving())
    found = ask(app, "GET", "/v1/customers/canary", headers=[("host", "localhost:8080")])
    assert (found.status, found.json["error"]["type"]) == (500, "our_fault")
    assert b"canary" not in found.body
    assert "RuntimeError" in caplog.text
    assert "canary" not in caplog.text


# Counters and documents


def test_counters_count_by_route_and_name_nobody():
    metrics = Metrics()
    app = application(Fixed(loaded('v"1')), Options(metrics=metrics))
    for _ in range(3):
        post(app, "/v1/predict", ASKED)
    post(app, "/v1/predict", ASKED | {"as_of": "canary"})
    ask(app, "GET", "/v1/customers/canary")
    metrics.refused("too_busy")
    text = ask(app, "GET", "/metrics").body.decode()
    assert 'clv_requests_total{route="/v1/predict",status="200"} 3' in text
    assert 'clv_requests_total{route="/v1/predict",status="422"} 1' in text
    assert 'clv_refused_total{reason="too_busy"} 1' in text
    assert 'clv_refused_total{reason="unreadable_date"} 1' in text
    assert 'clv_model_info{version="v\\"1"} 1' in text
    assert "canary" not in text
    assert re.search(r'clv_request_seconds_count\{route="/v1/predict"\} 4', text)
    counts = [int(n) for n in re.findall(r'clv_churn_bucket\{le="[^"]+"\} (\d+)', text)]
    assert counts == sorted(counts)
    assert counts[-1] == 3
    form = r'[a-z_]+(\{([a-z]+="([^"\\]|\\.)*",?)+\})? [0-9.e+-]+'
    for line in text.splitlines():
        assert line.startswith("# ") or re.fullmatch(form, line), line


def test_counters_are_those_of_all_workers(tmp_path):
    """Two workers, one of which dies: the sum stays, its name goes."""
    each = [Metrics(7), Metrics(8)]
    apps = [application(Fixed(loaded(str(k))), Options(metrics=m)) for k, m in enumerate(each)]
    for metrics in each:
        metrics.share(Board(tmp_path))
    for _ in range(3):
        post(apps[0], "/v1/predict", ASKED)
    post(apps[1], "/v1/predict", ASKED)
    each[1].refused("too_busy")
    first = ask(apps[1], "GET", "/metrics").body.decode()
    assert 'route="/v1/predict",status="200"} 1' in first  # the other one has not told yet
    each[0].post({"version": "0"})
    for app in apps:
        text = ask(app, "GET", "/metrics").body.decode()
        assert 'clv_requests_total{route="/v1/predict",status="200"} 4' in text
        assert 'clv_request_seconds_count{route="/v1/predict"} 4' in text
        assert 'clv_refused_total{reason="too_busy"} 1' in text
        assert "clv_churn_count 4" in text
        assert 'clv_model_info{version="0"} 1' in text
        assert 'clv_model_info{version="1"} 1' in text
        assert 'clv_worker_info{worker="7",version="0"} 1' in text
    (tmp_path / "torn.json").write_text("{")
    for file in tmp_path.glob("*-*.json"):
        if json.loads(file.read_text())["version"] == "0":
            os.utime(file, (1, 1))
    text = ask(apps[1], "GET", "/metrics").body.decode()
    assert 'clv_requests_total{route="/v1/predict",status="200"} 4' in text
    assert 'version="0"' not in text
    assert 'clv_worker_info{worker="8",version="1"} 1' in text


def test_another_worker_hears_that_it_is_to_look(tmp_path):
    one, other = Board(tmp_path), Board(tmp_path)
    assert not other.asked()
    one.ask()
    assert (one.asked(), other.asked(), other.asked()) == (False, True, False)
    assert not Board(tmp_path).asked()  # who starts later has looked already


def test_the_description_names_every_route_and_its_example_is_answered(app):
    told = ask(app, "GET", "/openapi.json").json
    routes = {route.path.replace(":path", "") for route in app.app.routes}
    own = {place for place in routes if "{version}" not in place} - {"/openapi.json", "/docs"}
    assert set(told["paths"]) == own
    example = told["paths"]["/v1/predict"]["post"]["requestBody"]["content"]["application/json"]
    assert example["example"] == EXAMPLE
    found = post(app, "/v1/predict", EXAMPLE)
    assert found.status == 200
    answer = told["paths"]["/v1/predict"]["post"]["responses"]["200"]["content"]
    assert set(answer["application/json"]["example"]) == set(found.json)
    known = set(told["components"]["schemas"])
    refs = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(told)))
    assert refs <= known


def test_the_page_asks_nobody_else_for_anything(app):
    found = ask(app, "GET", "/docs")
    text = found.body.decode()
    assert "default-src 'none'" in found.headers["content-security-policy"]
    assert not re.search(r"(?i)https?://|<script|<link|@import|url\(", text)
    for place in ask(app, "GET", "/openapi.json").json["paths"]:
        assert place in text


def test_a_refusal_outside_has_the_same_form():
    status, headers, body = refusal(503, "too_busy", "try again later")
    assert status == 503
    assert dict(headers)[b"content-length"] == str(len(body)).encode()
    assert json.loads(body) == {"error": {"type": "too_busy", "message": "try again later"}}


# Over a socket


@pytest.fixture(scope="module")
def port():
    config = uvicorn.Config(application(Fixed(loaded())), port=0, log_level="critical")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join(10)


def test_the_client_asks_and_tells_what_was_refused(port):
    shop = Client(f"http://127.0.0.1:{port}", token="unused", timeout=20)  # noqa: S106
    found = shop.predict([CUSTOMER], "2024-07-01", horizons=[3, 12], reasons=1)
    assert found["predictions"][0]["customer_id"] == "0042"
    assert shop.health()["healthy"] is True
    bad = copy.deepcopy(CUSTOMER)
    bad["orders"][7]["amount"] = "12"
    with pytest.raises(ServiceError, match="422") as told:
        shop.predict([bad], "2024-07-01")
    assert (told.value.status, told.value.kind) == (422, "type")
    assert told.value.where == "customers[0].orders[7].amount"
    with pytest.raises(ServiceError, match="404"):
        shop.customer("a/b c")
    shop._connection.sock.shutdown(socket.SHUT_RDWR)  # as an idle connection that was ended
    assert shop.health()["version"] == "1"
    shop.close()


def test_the_client_wants_a_url():
    for url in ("127.0.0.1:8080", "ftp://x", ""):
        with pytest.raises(InputError, match="url"):
            Client(url)


def test_an_unforeseen_refusal_of_ours_tells_nothing_of_what_came():
    class Strict:
        def __init__(self):
            self.loaded = replace(loaded(), version="1")

        def status(self):
            return {"healthy": True, "version": "1"}

    def failing(*_):
        raise InputError("canary@example.org must be something else")

    live = Strict()
    app = application(live)
    broken = copy.copy(live.loaded.model)
    object.__setattr__(broken, "tabled", failing)
    live.loaded = Loaded(broken, "1")
    found = post(app, "/v1/predict", ASKED)
    assert found.status == 422
    assert b"canary" not in found.body
