"""The whole service over loopback: started as a user starts it, asked, and stopped."""

import doctest
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path

import fitted
import pytest

from serving import client
from serving.batch import score
from serving.client import Client, ServiceError
from serving.loader import Loaded
from training import bundle
from training.packing import pack

DATE = "2024-07-01"


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """`clv serve` on a free port with a bundle in a folder: its process and address."""
    folder = tmp_path_factory.mktemp("service")
    bundle.save(pack(fitted.base().model), folder / "model", fitted.KEY)
    known = asked(1)[1].assign(customer_id="0042")
    known.to_csv(folder / "known.csv", index=False)
    env = {**os.environ, "CLV_HOME": str(folder / "home"), "CLV_KEY": fitted.KEY.decode()}
    words = ["serve", "--port", "0", "--workers", "1", "--model", str(folder / "model"),
             "--predictions", str(folder / "known.csv")]  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-m", "serving", *words], env=env, cwd=folder, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stderr is not None
        said = process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)", said)
        try:
            assert found, said
            yield process, int(found[1])
        finally:
            process.send_signal(signal.SIGTERM)
            rest = process.communicate(timeout=60)[1]
    assert process.returncode == 0, rest
    assert "Traceback" not in rest


def asked(count):
    """Customers of the shop as requests hold them, and the batch's rows of them."""
    people = fitted.shop()["customers"].iloc[:400]
    orders = fitted.shop()["orders"]
    tables = {"orders": orders[orders["customer_id"].isin(people["customer_id"])],
              "customers": people}  # fmt: skip
    table = score(Loaded(fitted.base().model, "x"), tables, as_of=DATE, workers=1).frame
    found = []
    for name in table["customer_id"].iloc[:count]:
        mine = orders[orders["customer_id"] == name]
        lines = [
            {"order_ts": row.order_ts.isoformat(), "amount": row.amount, "order_id": row.order_id,
             "channel": row.channel}
            for row in mine.itertuples()
        ]  # fmt: skip
        profile = people[people["customer_id"] == name].iloc[0].astype(str).to_dict()
        found.append({"customer_id": name, "orders": lines, "profile": profile})
    return found, table.iloc[:count]


def test_answers_are_those_of_the_batch(started):
    _, port = started
    people, table = asked(30)
    shop = Client(f"http://127.0.0.1:{port}", timeout=30)
    version = shop.health()["version"]
    answer = shop.predict(people, DATE)
    assert answer["model_version"] == version
    for name in (c for c in table.columns if c.startswith(("clv_", "churn_", "revenue_"))):
        assert [row[name] for row in answer["predictions"]] == table[name].tolist()
    one = [shop.predict([each], DATE)["predictions"][0] for each in people[:5]]
    assert one == answer["predictions"][:5]
    shop.close()


def test_the_clients_example_runs(started):
    _, port = started
    text = (client.__doc__ or "").replace("8080", str(port)).replace("# doctest: +SKIP", "")
    example = doctest.DocTestParser().get_doctest(text, {}, "client", None, 0)
    assert len(example.examples) == 3
    assert doctest.DocTestRunner().run(example).failed == 0


def test_the_curl_examples_of_readme_are_answered(started):
    """Each is sent as its words say; curl itself need not be there."""
    _, port = started
    text = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    answers = {}
    for line in re.split(r"^curl -s ", block, flags=re.MULTILINE)[1:]:
        address, *options = shlex.split(line)
        given = dict(zip(options[::2], options[1::2], strict=True))
        host, place = re.fullmatch(r"http://(127\.0\.0\.1:8080)(/.*)", address).groups()
        assert set(given) <= {"-H", "-d"}
        headers = dict([given["-H"].split(": ")]) if "-H" in given else {}
        body = given.get("-d", "").encode() or None
        connection = HTTPConnection(host.replace("8080", str(port)), timeout=30)
        connection.request("POST" if body else "GET", place, body, headers)
        answer = connection.getresponse()
        text, status = answer.read(), answer.status
        connection.close()
        assert status == 200, (line, text)
        answers[place] = json.loads(text)
    (row,) = answers["/v1/predict"]["predictions"]
    lines = row["reasons"]
    assert sum(each["money"] for each in lines) == pytest.approx(row["clv_12m"], abs=1e-6)
    assert set(answers) == {"/v1/predict", "/v1/customers/0042", "/health"}


def test_refusals_have_one_form_whoever_refuses(started):
    _, port = started
    shop = Client(f"http://127.0.0.1:{port}", timeout=30)
    line = {"order_ts": "2024-01-31", "amount": "12"}
    with pytest.raises(ServiceError) as told:
        shop.predict([{"customer_id": "canary", "orders": [line]}], DATE)
    assert (told.value.status, told.value.where) == (422, "customers[0].orders[0].amount")
    much = [{"customer_id": "canary", "orders": [line | {"order_id": "x" * 200}] * 9_000}] * 3
    with pytest.raises(ServiceError, match="413"):
        shop.predict(much, DATE)
    shop.close()
    for head, status in (
        (b"GET /health HTTP/1.1\r\nHost: elsewhere.example\r\n\r\n", 4),
        (b"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
         b"Content-Length: 2\r\n\r\n{}", 4),
        (b"NONSENSE\r\n\r\n", 4),
        (b"GET /docs HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 2),
    ):  # fmt: skip
        with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
            sock.sendall(head)
            first = sock.recv(100)
        assert first.startswith(b"HTTP/1.1 %d" % status), (head, first)


def test_many_callers_are_answered_at_once(started):
    _, port = started
    people, _ = asked(8)

    def ask(person):
        shop = Client(f"http://127.0.0.1:{port}", timeout=30)
        found = [shop.predict([person], DATE)["predictions"][0] for _ in range(5)]
        shop.close()
        return found

    with ThreadPoolExecutor(4) as pool:
        for person, rows in zip(people, pool.map(ask, people), strict=True):
            assert rows[0]["customer_id"] == person["customer_id"]
            assert all(json.dumps(row) == json.dumps(rows[0]) for row in rows)
