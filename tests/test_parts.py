"""A batch that was killed goes on, and ends in the bytes of one that was not."""

from __future__ import annotations

import multiprocessing
import re
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from conftest import Trained, clv

from features.store import Store
from serving import batch, load, parts, writing
from serving.parts import MANIFEST, Parts

BUCKETS = 6


def few_buckets(patch: pytest.MonkeyPatch, count: int) -> None:
    """So many buckets, however small the data."""
    for name, value in (("passes.SMALL", 1), ("passes.BUCKETS", count), ("tables.BUCKETS", count)):
        patch.setattr(f"features.{name}", value)


def predict_slowly(data: Path, out: Path) -> None:
    """In a process of its own: the command in buckets, each of which takes a moment."""
    patch = pytest.MonkeyPatch()
    few_buckets(patch, BUCKETS)
    build = batch.build

    def slowly(*words: Any) -> Any:
        time.sleep(0.1)
        return build(*words)

    patch.setattr(batch, "build", slowly)
    sys.exit(clv("predict", data, "--out", out, "--workers", 1).code)


@pytest.fixture
def in_buckets(at_home: Trained, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trained]:
    """The trained home, in buckets however small the data; nothing is left of them in the end."""
    few_buckets(monkeypatch, BUCKETS)
    yield at_home
    assert not (at_home.home / "batch").exists()


def parts_of(home: Path) -> list[Path]:
    return sorted((home / "batch").glob("*/bucket-*.arrow"))


def test_buckets_give_what_one_gives(in_buckets: Trained) -> None:
    frames = [load().predict(in_buckets.frames, in_buckets.as_of, reasons=2)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("features.passes.SMALL", 10**9)
        frames.append(load().predict(in_buckets.frames, in_buckets.as_of, reasons=2))
    pd.testing.assert_frame_equal(*frames)
    assert list(frames[0]["customer_id"]) == sorted(frames[0]["customer_id"])


def test_finished_buckets_are_not_scored_again(
    in_buckets: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load().predict(in_buckets.frames, in_buckets.as_of)
    scored: list[int] = []
    build = batch.build

    def breaks(*words: Any) -> Any:
        scored.append(1)
        if len(scored) == 4:
            raise KeyboardInterrupt
        return build(*words)

    monkeypatch.setattr(batch, "build", breaks)
    with pytest.raises(KeyboardInterrupt):
        batch.score(load(), in_buckets.frames, as_of=in_buckets.as_of, workers=1)
    assert len(parts_of(in_buckets.home)) == 3
    again = batch.score(load(), in_buckets.frames, as_of=in_buckets.as_of, workers=1).frame
    assert len(scored) == 4 + BUCKETS - 3
    pd.testing.assert_frame_equal(again, whole)


def test_another_batch_has_another_name(at_home: Trained) -> None:
    """Data, buckets, model (also one of the same number) and options each change it."""
    store = Store(Path(), 64, 100, 0, 0, "f00d", (), 1, 1)
    model = load().model
    options, other = (1, (3, 12), 0), ((2, (3, 12), 0), (1, (3,), 0), (1, (3, 12), 1))
    names = [
        parts.key(store, model, *options),
        parts.key(replace(store, fingerprint="beef"), model, *options),
        parts.key(replace(store, buckets=6), model, *options),
        parts.key(store, replace(model, scale=model.scale * 2), *options),
        *(parts.key(store, model, *each) for each in other),
    ]
    assert len(set(names)) == len(names)
    assert parts.key(store, load().model, *options) == names[0]
    assert all(re.fullmatch("[0-9a-f]{32}", name) for name in names)


def table(seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    ids = [f"c{seed}{i}" for i in rng.permutation(9)]
    some = rng.normal(size=9)
    some[3] = np.nan
    return pd.DataFrame({"customer_id": ids, "x": some, "next": [None, *ids[1:]]})


def test_a_part_that_is_not_as_it_was_written_is_made_again(tmp_path: Path) -> None:
    made = Parts(tmp_path)
    for bucket in range(4):
        made.put(bucket, table(bucket), ["b", "a"])
    data = bytearray((tmp_path / "bucket-001.arrow").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "bucket-001.arrow").write_bytes(data)
    (tmp_path / "bucket-002.arrow").write_bytes(data[:100])
    with (tmp_path / MANIFEST).open("a") as file:
        file.write('{"bucket": 5, "fi')
    again = Parts(tmp_path)
    assert [again.done(bucket) for bucket in range(6)] == [True, False, False, True, False, False]
    assert again.names() == {"a", "b"}
    assert again.rows == 18


def test_parts_on_disk_and_in_memory_are_equal(tmp_path: Path) -> None:
    frames = []
    for folder in (tmp_path, None):
        made = Parts(folder)
        for bucket in (2, 0, 1):
            made.put(bucket, table(bucket), [])
        frames.append(made.frame())
    pd.testing.assert_frame_equal(*frames)
    assert frames[0]["customer_id"].tolist() == [f"c{b}{i}" for b in range(3) for i in range(9)]


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_parts_of_any_size_are_merged_a_few_rows_at_a_time(
    rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As pandas sorts the whole; also where one part's ids all come before another's."""
    monkeypatch.setattr(parts, "ROWS", rows)
    monkeypatch.setattr(parts, "GROUP", 7)
    rng = np.random.default_rng(rows)
    names = [*(f"{i:03d}" for i in range(60)), "Z", "a", "\u00e97", "\uffff", "\U0001f600"]
    whole = pd.DataFrame({"customer_id": names, "x": rng.normal(size=65), "late": [None] * 65})
    whole.loc[50, "late"] = "y"  # in one part it is text, in the others nothing
    place = np.where(np.arange(65) < 20, 0, rng.integers(1, 5, 65))
    for folder in (tmp_path, None):
        made = Parts(folder)
        for bucket in range(6):  # the last is empty
            made.put(bucket, whole[place == bucket].sample(frac=1, random_state=rows), [])
        pieces = list(made.pieces())
        assert [len(piece) for piece in pieces] == [7] * 9 + [2]
        found = made.frame()
        assert found["customer_id"].tolist() == names
        assert found["x"].tolist() == whole["x"].tolist()
        assert found["late"].dropna().to_dict() == {50: "y"}
        assert {piece.schema for piece in pieces} == {pieces[0].schema}


@pytest.mark.parametrize("kind", writing.KINDS)
def test_a_table_in_pieces_is_written_as_the_whole(
    in_buckets: Trained, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (parts, writing):
        monkeypatch.setattr(module, "GROUP", 100)
    made, home = tmp_path / f"pieces{kind}", in_buckets.home
    kept = home / "predictions/as_of=2025-07-01/model-1.parquet"
    scored = batch.score(load(), in_buckets.frames, as_of=in_buckets.as_of, out=made)
    assert scored.table == kept
    whole = load().predict(in_buckets.frames, in_buckets.as_of)
    pd.testing.assert_frame_equal(scored.frame, whole)
    writing.write(whole, tmp_path / f"whole{kind}")
    writing.write(whole, tmp_path / "whole.parquet")
    assert made.read_bytes() == (tmp_path / f"whole{kind}").read_bytes()
    assert kept.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert pq.ParquetFile(kept).num_row_groups == -(-len(whole) // 100)


def test_a_disk_without_room_for_parts_is_no_failure(
    in_buckets: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load().predict(in_buckets.orders, in_buckets.as_of, [3])

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Parts, "_keep", full)
    found = load().predict(in_buckets.orders, in_buckets.as_of, [3])
    pd.testing.assert_frame_equal(found, whole)


def test_a_second_process_at_the_same_batch_keeps_its_own(
    in_buckets: Trained, tmp_path: Path
) -> None:
    with parts.alone(tmp_path / "x") as mine, parts.alone(tmp_path / "x") as theirs:
        assert (mine, theirs) == (True, False)
    whole = load().predict(in_buckets.orders, in_buckets.as_of, [3])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts.tracking, "try_lock", lambda _: False)
        found = load().predict(in_buckets.orders, in_buckets.as_of, [3])
    pd.testing.assert_frame_equal(found, whole)
    load().predict(in_buckets.orders, in_buckets.as_of, [3])  # whoever has it tidies up


def test_what_nobody_goes_on_with_is_swept_away(
    in_buckets: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = in_buckets.home / "batch/0123"
    old.mkdir(parents=True)
    (old / "bucket-000.arrow").write_bytes(b"x")
    load().predict(in_buckets.orders, in_buckets.as_of, [3])
    assert old.exists()
    monkeypatch.setattr(parts, "STALE", -1)
    load().predict(in_buckets.orders, in_buckets.as_of, [3])


def test_a_killed_batch_ends_in_the_same_bytes(at_home: Trained, tmp_path: Path) -> None:
    """Killed twice amid its work; what is there at any time is whole."""
    assert clv("predict", at_home.data, "--out", tmp_path / "other.csv").code == 0
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["serving.batch", "test_parts"])
    out, dice = tmp_path / "out.csv", np.random.default_rng(0)
    for wanted in (1, 4, 99):
        process = context.Process(target=predict_slowly, args=(at_home.data, out))
        process.start()
        while len(parts_of(at_home.home)) < wanted and process.is_alive():
            time.sleep(0.002)
        time.sleep(dice.uniform(0, 0.1))
        if wanted < 6:
            process.kill()
        process.join(120)
        assert process.exitcode == (-signal.SIGKILL if wanted < 6 else 0)
        assert out.exists() == (wanted > 6)
    assert out.read_bytes() == (tmp_path / "other.csv").read_bytes()
    assert parts_of(at_home.home) == []
    assert list(tmp_path.glob(".*")) == []
