"""What the desk shows, worked out beforehand: equal to plain loops, followed, never in the way."""

from __future__ import annotations

import json
import math
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from asking import ask
from conftest import clv, use_home
from waiting_desk import (
    AS_OF,
    N,
    featured,
    ids,
    inputs,
    lifted,
    predictions,
    prepared,
    write,
)

from features.errors import InputError
from features.spine import instant
from serving.api import Options, application
from serving.decisions import files, uplift
from serving.decisions.changes import changes
from serving.desk import columns, preparing
from serving.desk import prepared as desk
from serving.desk.columns import Columns
from serving.desk.prepared import Inputs, Prepared, Source
from training.tracking import try_lock


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("prepared")
    write(made)
    return made


@pytest.fixture(scope="module")
def shown(folder: Path) -> Iterator[Prepared]:
    with pytest.MonkeyPatch.context() as patch:
        use_home(patch, folder / "home")
        yield prepared(folder)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    use_home(monkeypatch, tmp_path / "home")
    monkeypatch.setattr(desk, "LOOK", 0.0)
    return tmp_path / "home"


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work out in this process, which has its libraries loaded."""
    monkeypatch.setattr(desk, "_child", preparing.attempt)
    monkeypatch.setattr(preparing, "LANGUAGES", ())  # pictures are a matter of test_desk


def until(source: Source, holds: Callable[[], object]) -> None:
    """Look again until something holds."""
    end = time.monotonic() + 60
    while True:
        source.current()
        if holds():
            return
        assert time.monotonic() < end, source.status()
        time.sleep(0.05)


# Columns


def test_a_table_comes_back_as_it_was(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({
        "text": [f"t{k}" for k in range(6_000)],
        "few": np.array(["a", None, "ü\n"])[np.arange(6_000) % 3],
        "number": np.where(np.arange(6_000) % 5 == 0, np.nan, rng.random(6_000)),
        "whole": np.arange(6_000) - 2**60, "none": [None] * 6_000,
    })  # fmt: skip
    columns.write(frame, tmp_path / "x.arrow")
    table = Columns(tmp_path / "x.arrow")
    assert (len(table), table.names) == (6_000, list(frame))
    for name in ("text", "few", "none"):
        got = table.series(name).astype(object)
        wanted = frame[name].astype(object)
        assert got.where(got.notna(), "-").tolist() == wanted.where(wanted.notna(), "-").tolist()
    assert np.array_equal(table.numbers("number"), frame["number"], equal_nan=True)
    assert np.array_equal(table.numbers("whole"), frame["whole"])
    # Neither copied nor to be changed.
    assert not table.numbers("number").flags.owndata
    assert not table.numbers("number").flags.writeable
    assert table.row(5) == {"text": "t5", "few": "ü\n", "number": None, "whole": 5 - 2**60,
                            "none": None}  # fmt: skip
    some = table.rows([7, -1, 1], ["text", "few"])
    assert some.to_numpy().tolist() == [["t7", None], [None, None], ["t1", None]]


# What the pages read


def test_customers_are_their_rows_and_are_found_by_how_their_ids_begin(shown: Prepared) -> None:
    table = predictions()
    assert (shown.as_of, shown.months, shown.customers) == (AS_OF, 3, N)
    assert (shown.currency, shown.version, shown.whole) == ("EUR", "7", True)
    for row in table.to_dict("records"):
        got = shown.customer(row["customer_id"])
        assert got is not None
        reasons = got.pop("reasons")
        assert reasons == json.loads(row.pop("reasons"))
        assert {name: got[name] for name in row} == {
            name: None if pd.isna(value) else value for name, value in row.items()
        }
    for name in ("", "nobody", "c00", "\U0010ffff"):
        assert shown.customer(name) is None
        assert shown.orders(name) is None
    for start in ("", "c00", "c0012", "line\n", "=", "zzz", "\u00e9"):
        assert shown.search(start, 30) == [name for name in ids() if name.startswith(start)][:30]


def test_orders_are_those_of_a_plain_loop(folder: Path, shown: Prepared) -> None:
    orders = pd.read_parquet(folder / "data" / "orders.parquet")
    for name in ids()[::7]:
        mine = orders[orders["customer_id"] == name].sort_values("order_ts")
        wanted = [
            {"date": str(day.date()), "amount": float(amount)}
            for day, amount in zip(mine["order_ts"], mine["amount"], strict=True)
        ]
        assert shown.orders(name) == wanted
        found = shown.customer(name)
        assert found is not None
        if wanted:
            days = (pd.Timestamp(AS_OF) - mine["order_ts"].max()) / pd.Timedelta(days=1)
            assert found["days_since_order"] == days
        else:
            assert found["days_since_order"] is None


def test_lines_of_one_order_are_one_and_refunds_are_their_own(tmp_path: Path) -> None:
    from features.reading import read
    from serving.decisions.histories import histories

    rows = [("a", "2024-01-01", 10.0, "1"), ("a", "2024-01-01", 5.5, "1"),
            ("a", "2024-01-01", 4.0, "2"), ("a", "2024-02-01", -5.5, "1"),
            ("b", "2024-03-01", 7.0, "3"), ("b", "2024-03-01", -7.0, "3"),
            ("a", "2024-12-01", 9.0, "4"), ("c", "2024-01-05", 1.0, "5")]  # fmt: skip
    names = ["customer_id", "order_ts", "amount", "order_id"]
    from features.settings import Settings

    with read(pd.DataFrame(rows, columns=names), Settings()) as (store, _):
        found = histories(store, pd.Series(["a", "b", "x"]), instant("2024-12-01", "UTC"))
    assert found.starts.tolist() == [0, 3, 3, 3]
    assert found.amount.tolist() == [1550, 400, -550]
    assert found.day.astype("datetime64[D]").astype(str).tolist() == [
        "2024-01-01", "2024-01-01", "2024-02-01",
    ]  # fmt: skip


def test_tables_are_those_of_the_commands(
    folder: Path, shown: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_home(monkeypatch, folder / "home")
    summary = tmp_path / "s.csv"
    ran = clv("segments", folder / "p.csv", "--data", folder / "data", "--out", tmp_path / "o.csv",
              "--summary", summary)  # fmt: skip
    assert ran.code == 0, ran.err
    wanted = pd.read_csv(summary)
    found = pd.DataFrame(shown.table("segments"))
    assert list(found) == list(wanted)
    for name in wanted.select_dtypes("number"):
        assert found[name].to_numpy(float) == pytest.approx(
            wanted[name].to_numpy(float), nan_ok=True
        )
    names = pd.read_csv(tmp_path / "o.csv", dtype=str, keep_default_na=False)
    assert shown.more.series("segment").tolist() == names["segment"].tolist()
    assert shown.table("levels")["country"] == ["AT", "DE"]
    assert shown.about["consents"] == ["ads", "email"]
    for row in shown.table("campaigns"):
        if row["days"]:
            ran = clv("measure", folder / "data", "--campaign", row["campaign"], "--days",
                      row["days"], "--json")  # fmt: skip
            effect = (ran.json["adjusted"] or ran.json["plain"])[0]
            for key in ("effect", "low", "high", "p"):
                assert row[key] == pytest.approx(effect[key]), key
    told = [(row["campaign"], row["treated"], row["control"], row["days"], row["reason"])
            for row in shown.table("campaigns")]  # fmt: skip
    assert told == [("winter", 25, 25, None, "early"), ("summer", 25, 25, 90, None)]


def test_uplift_is_what_the_trees_say_of_the_features(folder: Path, home: Path) -> None:
    model = lifted(folder)
    shown = prepared(folder, model)
    rows, trees = featured(folder), uplift.load(model)
    away = shown.more.numbers("uplift_away")
    for k in range(N):
        if np.isnan(rows[k]).all():
            assert np.isnan(away[k])
        else:
            assert away[k] == pytest.approx(trees.raw_uplift(rows[k : k + 1])[0] - 0.25, abs=1e-5)
    assert len(set(away.tolist())) > 20
    told = shown.table("uplift")
    assert (told["campaign"], told["days"], told["line"]) == ("Autumn <b>", 30, [1.5, 0.75])
    assert "uplift_away" not in (shown.customer(ids()[0]) or {})


def test_another_uplift_model_is_another_folder(folder: Path, home: Path, tmp_path: Path) -> None:
    first, other = lifted(folder), lifted(folder, days=60)
    again = Path(shutil.copytree(first, tmp_path / "again"))
    bare, one = inputs(folder), inputs(folder, first)
    assert len({bare.key(), one.key(), inputs(folder, other).key()}) == 3
    assert bare.family != one.family
    before = one.key()
    shutil.rmtree(first)
    with pytest.raises(InputError, match=r"manifest\.json must be a readable file"):
        one.key()
    shutil.copytree(again, first)  # the same bytes at another time
    assert one.key() == before
    shutil.rmtree(first)
    shutil.copytree(other, first)
    assert one.key() != before


def test_an_uplift_model_that_cannot_be_used_says_why(folder: Path, home: Path) -> None:
    shown = prepared(folder, lifted(folder, outcome="orders"))
    assert shown.whole
    assert shown.table("uplift") is None
    assert "must be a model of margin" in shown.missing["uplift"].text
    assert shown.orders(ids()[0]) is not None
    alone = Inputs(folder / "p.csv", uplift=lifted(folder))
    preparing.prepare(alone, desk.place() / alone.key())
    assert Prepared(desk.place() / alone.key()).missing["uplift"].code == "no_data"


def test_what_is_missing_says_why(shown: Prepared, folder: Path, home: Path) -> None:
    assert shown.missing["changes"].code == "no_before"
    assert {"channels", "model"} <= set(shown.missing)
    alone = Inputs(folder / "p.csv")
    preparing.prepare(alone, desk.place() / alone.key())
    bare = Prepared(desk.place() / alone.key())
    assert bare.whole
    for part in ("history", "customers", "channels", "retention", "model", "campaigns", "contacts"):
        assert bare.missing[part].code == "no_data", part
    assert bare.orders("c0000") is None
    assert bare.profile("c0000") is None
    figures = {row["figure"]: row["value"] for row in bare.table("figures")}
    assert figures["clv_3m"] == pytest.approx(math.fsum(predictions()["clv_3m"]))
    with pytest.raises(InputError, match="clv serve --data DATA"):
        bare.features(["days_since_order"])
    with pytest.raises(InputError, match="Add contacts"):
        bare.contacted()
    with pytest.raises(InputError, match="must have the column 'country'"):
        bare.attributes(["country"])
    assert stat.S_IMODE((desk.place() / alone.key()).stat().st_mode) == 0o700


def test_what_was_shown_stays_while_only_pictures_are_made_again(
    folder: Path, shown: Prepared, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = inputs(folder)
    place = desk.place() / found.key()
    shutil.copytree(shown.folder, place)
    about = json.loads((place / desk.ABOUT).read_text()) | {"pictures": ["nl"]}
    (place / desk.ABOUT).write_text(json.dumps(about))  # as where the process was ended early
    made, seen = Prepared(place), []
    assert (made.whole, made.complete, made.pictures("de")) == (True, False, {})
    monkeypatch.setattr(preparing.gallery, "draw", lambda *_: seen.append(Prepared(place).whole))
    plain = preparing._Work._put

    def put(self: Any, whole: bool) -> None:
        plain(self, whole)
        seen.append(Prepared(place).whole)

    monkeypatch.setattr(preparing._Work, "_put", put)
    preparing.prepare(found, place, ["nl"])
    assert seen == [True, True, True]


def test_changes_are_those_of_a_plain_loop() -> None:
    rng = np.random.default_rng(3)
    now = predictions()[["customer_id", "as_of", "clv_3m"]]
    before = now.assign(as_of="2024-10-01", clv_3m=rng.gamma(2, 10, N)).iloc[20:]
    extra = pd.DataFrame({"customer_id": ["gone"], "as_of": "2024-10-01", "clv_3m": [5.0]})
    before = pd.concat([before, extra]).sample(frac=1, random_state=0)
    found = changes(now, before, 3, shown=5)
    old = dict(zip(before["customer_id"], before["clv_3m"], strict=True))
    new = dict(zip(now["customer_id"], now["clv_3m"], strict=True))
    moved = {name: new[name] - old[name] for name in new if name in old}
    assert (found.whole["joined"], found.whole["left"]) == (20, 1)
    assert found.whole["left_value"] == -5.0
    assert found.whole["stayed_value"] == pytest.approx(sum(moved.values()))
    parts = sum(found.whole[f"{name}_value"] for name in ("joined", "left", "stayed"))
    assert found.whole["value"] - found.whole["value_before"] == pytest.approx(parts)
    order = sorted(moved, key=lambda name: -moved[name])
    assert found.rises["customer_id"].tolist() == order[:5]
    assert found.falls["customer_id"].tolist() == order[:-6:-1]


def test_an_earlier_scoring_is_set_beside(folder: Path, home: Path) -> None:
    place = home / "predictions"
    for as_of, factor in (("2024-07-01", 3.0), ("2024-10-01", 0.5), (AS_OF, 1.0)):
        table = predictions().assign(as_of=as_of)
        table["clv_3m"] *= factor
        files.write(table, place / f"as_of={as_of}" / "model-7.parquet")
    found = Inputs(place / f"as_of={AS_OF}" / "model-7.parquet")
    preparing.prepare(found, desk.place() / found.key())
    made = Prepared(desk.place() / found.key())
    told = made.table("changes")
    assert told["before"] == "2024-10-01"
    assert told["value_before"] == pytest.approx(told["value"] / 2)
    shares = {row["from"]: row for row in made.table("migration")}
    assert shares["Grow"]["Grow"] == 1.0
    row = made.customer("c0000")
    assert row is not None
    assert row["segment_before"] == row["segment"]
    assert len(made.table("rises")) == 20
    assert made.table("falls") == []


# Followed


def test_a_newer_table_is_worked_out_beside_while_the_old_one_is_shown(
    home: Path, tmp_path: Path
) -> None:
    table = tmp_path / "p.csv"
    files.write(predictions(), table, shown=False)
    source = Source(table)
    assert source.status().state == "nothing"
    until(source, lambda: source.status().state == "ready")
    first = source.current()
    assert first is not None
    files.write(predictions().assign(model_version="8"), table, shown=False)
    seen = []

    def newer() -> bool:
        now = source.current()
        assert now is not None  # at no time is there nothing
        seen.append((now.version, source.status().state))
        return now.version == "8"

    until(source, newer)
    assert seen[0] == ("7", "preparing")
    assert {version for version, _ in seen} == {"7", "8"}
    assert source.status().state == "ready"
    # Another worker that starts now shows the same at once, and works out nothing.
    other = Source(table)
    assert other.current() is not None
    assert (other.status().state, other._thread) == ("ready", None)
    assert first.customer("c0000") is not None  # whoever still reads the old one can


@pytest.mark.usefixtures("here")
def test_what_cannot_be_worked_out_is_told_in_one_line_and_in_health(
    home: Path, tmp_path: Path
) -> None:
    table = tmp_path / "p.csv"
    files.write(predictions(), table, shown=False)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "orders.csv").write_text("customer_id,amount\nx,1\n")
    source = Source(table, str(tmp_path / "data"))
    until(source, lambda: source.status().state == "failed")
    message = source.status().message or ""
    assert "order_ts" in message
    assert "\n" not in message
    shown = source.current()
    assert shown is not None  # the predictions are good
    assert not shown.whole
    assert {shown.missing[part].code for part in preparing.OF_DATA} == {"other"}
    warning = source.warning()
    assert warning is not None
    assert message not in warning
    live = SimpleNamespace(status=lambda: {"healthy": True}, loaded=None)
    health = ask(application(live, Options(warning=source.warning)), "GET", "/health")  # type: ignore[arg-type]
    assert (health.status, health.json) == (200, {"healthy": True, "warning": warning})
    # It is not tried over and over; what is mended is.
    assert source._thread is not None
    source._thread.join()
    thread = source._thread
    source.current()
    assert source._thread is thread
    orders = pd.DataFrame({"customer_id": ids(), "order_ts": "2024-06-01", "amount": 1.0})
    orders.to_csv(tmp_path / "data" / "orders.csv", index=False)
    (tmp_path / "data" / "clv.toml").write_text("[orders]\ncomplete_until = 2024-12-31\n")
    until(source, lambda: source.status().state == "ready")
    assert source.warning() is None


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("spoiled", ["predictions", "home"])
def test_nothing_that_fails_is_a_crash(home: Path, tmp_path: Path, spoiled: str) -> None:
    table = tmp_path / "p.csv"
    table.write_text("customer_id\nx\n")
    if spoiled == "home":
        home.mkdir()
        (home / "desk").write_text("a file")
    source = Source(table)
    if spoiled == "predictions":
        until(source, lambda: source.status().state == "failed")
        assert "must be what clv predict writes" in (source.status().message or "")
    else:
        for _ in range(3):
            assert source.current() is None
    assert source.current() is None
    table.unlink()
    assert source.current() is None


@pytest.mark.usefixtures("here")
def test_one_preparation_at_a_time_over_all_workers(home: Path, tmp_path: Path) -> None:
    table = tmp_path / "p.csv"
    files.write(predictions(), table, shown=False)
    desk.place().mkdir(parents=True)
    descriptor = os.open(desk.place() / desk.LOCK, os.O_RDWR | os.O_CREAT)
    assert try_lock(descriptor)  # as another worker would
    source = Source(table)
    for _ in range(3):
        assert source.current() is None
        assert source._thread is not None
        source._thread.join()
    assert [one.name for one in desk.place().iterdir()] == [desk.LOCK]
    os.close(descriptor)
    until(source, lambda: source.status().state == "ready")


def test_who_is_erased_is_forgotten_by_making_all_anew(home: Path, folder: Path) -> None:
    alone = Inputs(folder / "p.csv")
    preparing.prepare(alone, desk.place() / alone.key())
    desk.forget()
    assert list(desk.place().glob("*/")) == []


@pytest.mark.usefixtures("here")
def test_a_worker_drops_what_it_shows_when_somebody_was_erased(home: Path, tmp_path: Path) -> None:
    table = tmp_path / "p.csv"
    files.write(predictions(), table, shown=False)
    source = Source(table)
    until(source, lambda: source.status().state == "ready")
    table.unlink()
    assert source.current() is not None
    desk.forget()
    assert source.current() is None
    less = predictions().iloc[1:]
    files.write(less, table, shown=False)
    until(source, lambda: source.status().state == "ready")
    now = source.current()
    assert now is not None
    assert now.customer(str(predictions()["customer_id"][0])) is None


def test_old_folders_are_swept(home: Path, tmp_path: Path) -> None:
    keys: list[Any] = []
    others = [desk.place() / name for name in ("running", "left")]  # of other inputs
    for other, at in zip(others, (time.time(), 0.0), strict=True):
        other.mkdir(parents=True)
        (other / desk.ABOUT).write_text('{"family": "another"}')
        os.utime(other, (at, at))
    for k in range(4):
        table = tmp_path / "p.csv"
        files.write(predictions().assign(model_version=str(k)), table, shown=False)
        found = Inputs(table)
        keys.append(found.key())
        preparing.prepare(found, desk.place() / keys[-1])
        os.utime(desk.place() / keys[-1], (k, k))
    assert {one.name for one in desk.place().glob("*/")} == {"running", *keys[-desk.KEPT :]}
