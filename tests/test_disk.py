"""A disk that is full while orders are read: one line, and nothing left behind."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import clv

from features import disk, foreign, tables
from features.errors import InputError
from features.settings import Settings
from features.tables import ingest

ROOT = Path(__file__).parents[1]


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file of this process may grow beyond `size` bytes: the system's own refusal to write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    assert signal.getsignal(signal.SIGXFSZ) == signal.SIG_IGN
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's temporary folder, for one test."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def orders(rows: int = 5_000) -> pd.DataFrame:
    """Lines that no packing makes small, a tenth of them to be refused."""
    rng = np.random.default_rng(3)
    words = [rng.bytes(12).hex() for _ in range(rows)]
    amount = np.where(np.arange(rows) % 10, rng.integers(1, 10**6, rows).astype(str), words)
    return pd.DataFrame(
        {"customer_id": words[::-1], "order_ts": "2024-01-01", "amount": amount, "order_id": words}
    )


def writes(folder: Path) -> dict[str, Callable[[], object]]:
    """Every way in which we and DuckDB write more than a few hundred kilobytes."""
    noise = "SELECT i, md5(i::VARCHAR) AS h FROM range(400000) t(i)"
    whole = foreign.connect("400MB", 1, folder)
    narrow = foreign.connect("10MB", 1, folder)
    capped = foreign.connect("10MB", 1, folder)
    capped.execute("SET max_temp_directory_size = '1MB'")
    table = pa.table({"a": np.random.default_rng(0).random(100_000)})

    def arrow() -> None:
        with pa.ipc.new_file(str(folder / "a.arrow"), table.schema) as writer:
            writer.write_table(table)

    return {
        "copy": lambda: whole.execute(f"COPY ({noise}) TO '{folder}/a.parquet' (FORMAT parquet)"),
        "spill": lambda: narrow.execute(f"CREATE TABLE q AS {noise} ORDER BY h"),
        "own limit": lambda: capped.execute(f"CREATE TABLE q AS {noise} ORDER BY h"),
        "arrow": arrow,
        "parquet": lambda: pq.write_table(table, folder / "b.parquet"),
    }


@pytest.mark.parametrize("way", ["copy", "spill", "own limit", "arrow", "parquet"])
def test_every_way_of_writing_is_understood(way: str, temporary: Path) -> None:
    write = writes(temporary)[way]
    size = resource.RLIM_INFINITY if way == "own limit" else 200_000
    with (
        largest_file(size),
        pytest.raises(InputError, match="must have room") as told,
        disk.room(temporary),
    ):
        write()
    assert f"in {temporary}. Free some space there, or set TMPDIR" in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("size", [600, 20_000, 120_000, 250_000])
def test_reading_stops_with_one_line_and_leaves_nothing(
    size: int, temporary: Path, tmp_path: Path
) -> None:
    """The lines refused, those kept, and the sorted ones, whichever meets the end first."""
    source = tmp_path / "orders.csv"
    orders().to_csv(source, index=False)
    with largest_file(size):
        ran = clv("check", source, "--json")
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == (
        "clv: The temporary folder must have room for a copy of the orders. Got "
        f"'{os.strerror(errno.EFBIG)}' in {temporary}. Free some space there, or set TMPDIR to a "
        "folder on a larger disk.\n"
    )
    assert list(temporary.iterdir()) == []
    assert clv("check", source, "--json").json["rows_kept"] == 4_500


LIMITED = """
import resource, sys
from serving.__main__ import main
resource.setrlimit(resource.RLIMIT_FSIZE, (120_000, 120_000))
main()
"""


def test_a_program_of_its_own_says_nothing_more(temporary: Path, tmp_path: Path) -> None:
    """Its libraries find nothing left open when the interpreter ends."""
    source = tmp_path / "orders.csv"
    orders().to_csv(source, index=False)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, "check", str(source), "--json"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)},
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("clv: The temporary folder must have room")
    assert done.stderr.count("\n") == 1
    assert list(temporary.iterdir()) == []


def test_a_folder_of_the_callers_own_is_named(tmp_path: Path, temporary: Path) -> None:
    work = tmp_path / "work"
    with largest_file(20_000), pytest.raises(InputError, match=f"in {work}"):
        ingest(orders(), Settings(), work)
    assert list(work.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "Error writing bytes. Detail: [errno 28] No space left on device"),
         "Got 'No space left on device' in"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "x"), "Got 'Disk quota exceeded' in"),
        (duckdb.IOException('Could not write file "t.tmp": No space left on device'),
         "Got 'No space left on device' in"),
        (OSError(errno.EACCES, "Permission denied", "x"), None),
        (duckdb.IOException('Could not read file "t.tmp": No such file or directory'), None),
        (duckdb.OutOfMemoryException("could not allocate block of size 256.0 KiB"), None),
        (ValueError("No space left on device"), None),
    ],
)  # fmt: skip
def test_what_is_said_of_which_error(error: Exception, said: str | None, temporary: Path) -> None:
    refusal = disk.full(error)
    assert (refusal is None) == (said is None)
    if said is None:
        with pytest.raises(type(error)), disk.room(temporary):
            raise error
    else:
        assert said in str(refusal)


def test_the_command_understands_it_wherever_it_comes_from(
    temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise duckdb.IOException('Could not write file "t.tmp": No space left on device')

    source = tmp_path / "orders.csv"
    orders(20).to_csv(source, index=False)
    monkeypatch.setattr(tables, "second_pass", broken)
    ran = clv("check", source, "--json")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "No space left on device" in ran.err
    assert "TMPDIR" in ran.err
    assert list(temporary.iterdir()) == []
