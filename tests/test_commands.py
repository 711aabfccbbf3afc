"""What a user meets: commands, their files, messages and exit codes, and the notebook's form."""

from __future__ import annotations

import contextlib
import csv
import gzip
import hashlib
import io
import json
import math
import os
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import typer.main
from conftest import CANARY, ODD_IDS, Ran, Trained, clv, new_home, use_home

from features.behaviour import build
from features.errors import BundleError, InputError
from features.reading import read
from features.settings import Settings
from features.settings import load as load_settings
from features.spine import Cutoffs, instant
from serving import batch, demo, load, writing
from serving import reasons as serving_reasons
from serving.__main__ import app
from serving.export import dictionary
from serving.progress import shown
from training import registry

ROOT = Path(__file__).parents[1]
PER_HORIZON = ("revenue_{}m", "orders_{}m", "churn_{}m", "margin_{}m", "retention_cost_{}m",
               "clv_{}m", "clv_{}m_low", "clv_{}m_median", "clv_{}m_high", "clv_{}m_sd",
               "clv_{}m_common")  # fmt: skip
#: The command line that others script against: option -> default as shown, None if there is none.
COMMANDS = {
    "check": ["--as-of", "--strict", "--quarantine", "--json"],
    "features": ["--as-of", "--out", "--labels", "--model", "--dictionary", "--json"],
    "train": ["--as-of", "--horizons", "--config", "--seed", "--tune", "--json"],
    "backtest": ["--as-of", "--horizon", "--slice", "--early", "--out", "--json"],
    "predict": ["--as-of", "--out", "--model", "--horizons", "--reasons", "--prospects",
                "--cashflow", "--language"],
    "explain": ["--as-of", "--customer", "--horizon", "--model", "--language", "--json"],
    "drivers": ["--as-of", "--horizon", "--model", "--json"],
    "value": ["--predictions", "--by", "--summary", "--horizon", "--out", "--json"],
    "sample-size": ["--rate", "--lift", "--sd", "--difference", "--power", "--json"],
    "measure": ["--campaign", "--days", "--outcome", "--by", "--fit-uplift", "--arm", "--control",
                "--before", "--json"],
    "plan": ["--predictions", "--budget", "--minimum", "--maximum", "--discount", "--months",
             "--segment", "--out", "--json"],
    "target": ["--predictions", "--top", "--budget", "--offer-cost", "--uplift", "--prospects",
               "--control", "--exclude", "--where", "--channel", "--format", "--campaign",
               "--contacts-out", "--seed", "--out", "--json"],
    "winback": ["--predictions", "--top", "--budget", "--offer-cost", "--control", "--exclude",
                "--where", "--campaign", "--contacts-out", "--no-test", "--out", "--json"],
    "segments": ["--data", "--scheme", "--before", "--summary", "--value-from", "--churn-from",
                 "--language", "--out", "--json"],
    "channels": ["--predictions", "--cohort", "--since", "--out", "--json"],
    "retention": ["--as-of", "--months", "--period", "--silence", "--by", "--out", "--json"],
    "referrals": ["--predictions", "--horizon", "--out", "--json"],
    "report": ["--predictions", "--top", "--horizon", "--model", "--language", "--out", "--json"],
    "promote": ["--reason", "--force"],
    "rollback": [],
    "export-model": [],
    "simulate": ["--profile", "--customers", "--years", "--seed"],
    "demo": [],
    "serve": ["--host", "--port", "--workers", "--model", "--predictions", "--data",
              "--uplift", "--print-config"],
    "token": ["--role", "--days", "--revoke", "--json"],
}  # fmt: skip


def columns(*months: int) -> list[str]:
    """The predictions table's columns in the contract's order."""
    each = [name.format(h) for h in months for name in PER_HORIZON]
    parts = [f"{name}_{h}m" for h in months for name in ("order_value", "active_months")]
    last = ["next_order_on", "orders_per_month", *parts, "segment", "model_version"]
    return ["customer_id", "as_of", "evidence", *each, *last]


def refused(ran: Ran, *words: str, code: int = 2) -> None:
    """One line on standard error says what is wrong; no traceback, nothing else."""
    assert ran.code == code, (ran.out, ran.err)
    lines = [line for line in ran.err.splitlines() if not re.search(r"done in \d", line)]
    assert len(lines) == 1, ran.err
    assert lines[0].startswith("clv: ")
    for word in words:
        assert word in lines[0]


def tree(folder: Path) -> dict[str, str]:
    """Every file below a folder and the digest of its content."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".clv.lock"
    }


@pytest.fixture
def copied(at_home: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the trained home that a test may change."""
    home = Path(shutil.copytree(at_home.home, tmp_path / "home"))
    use_home(monkeypatch, home)
    return home


@pytest.fixture(scope="module")
def tables(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Predictions of the trained home as files: csv, again, parquet, again, both versions."""
    folder = tmp_path_factory.mktemp("tables")
    wanted = {
        "one.csv": ["--as-of", trained.as_of],
        "two.csv": ["--as-of", trained.as_of, "--workers", "1", "--json"],
        "one.parquet": ["--as-of", trained.as_of, "--model", "1"],
        "two.parquet": [],  # the end of the data is the same moment
        "challenger.parquet": ["--model", "challenger", "--horizons", "12,3,3"],
    }
    with pytest.MonkeyPatch.context() as patch:
        use_home(patch, trained.home)
        patch.chdir(folder)
        for name, more in wanted.items():
            ran = clv("predict", trained.data, "--out", folder / name, *more)
            assert ran.code == 0, ran.err
            (folder / f"{name}.said").write_text(ran.out)
    return {name: folder / name for name in wanted}


def rows_of(path: Path) -> list[dict[str, str]]:
    """A CSV by Python's own reader."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# Names and help


def options_of(name: str) -> dict[str, Any]:
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    return {opt: parameter for parameter in command.params for opt in parameter.opts}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_its_options_and_an_example(name: str) -> None:
    assert set(COMMANDS[name]) <= set(options_of(name))
    shown = clv(name, "--help")
    assert (shown.code, shown.err) == (0, "")
    assert re.search(rf"Example: clv {name}\b", shown.out)
    assert all(option in shown.out for option in COMMANDS[name])


def test_the_commands_are_these_and_no_others() -> None:
    assert set(typer.main.get_command(app).commands) == set(COMMANDS)  # type: ignore[attr-defined]


def test_defaults_that_others_rely_on() -> None:
    assert options_of("predict")["--model"].default == "champion"
    assert options_of("backtest")["--horizon"].default == 12
    assert options_of("train")["--seed"].default == 0
    assert options_of("simulate")["--profile"].default == "shop"
    assert options_of("simulate")["--years"].default == 4.5
    assert Settings().horizons.months == (12, 18, 24)
    assert (Settings().business.margin, Settings().business.discount_rate) == (1.0, 0.10)


def test_as_a_program_of_its_own(at_home: Trained, tmp_path: Path) -> None:
    """Exit codes and standard output as a shell sees them, libraries in C included."""

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "serving", *words], capture_output=True, text=True, check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=120,
        )  # fmt: skip

    shown = run("--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert all(name in shown.stdout for name in COMMANDS)
    made = run("predict", str(at_home.data), "--out", str(tmp_path / "p.csv"), "--json")
    assert (made.returncode, made.stderr) == (0, "")
    assert json.loads(made.stdout)["customers"] == at_home.orders["customer_id"].nunique()
    assert made.stdout.count("\n") == 1
    bad = run("check", str(tmp_path / "none.csv"))
    refused(Ran(bad.returncode, bad.stdout, bad.stderr), "none.csv")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, serving.__main__; "
        "print({'numpy', 'pandas', 'mlflow', 'numba', 'xgboost', 'duckdb'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout == "set()\n"


# Predictions


def test_the_predictions_table_has_the_columns_of_the_contract(tables: dict[str, Path]) -> None:
    with tables["one.csv"].open(encoding="utf-8", newline="") as file:
        assert next(csv.reader(file)) == columns(3, 12)
    frame = pd.read_parquet(tables["one.parquet"])
    assert list(frame) == columns(3, 12)
    assert set(frame["evidence"]) <= {"full", "extrapolated", "thin", "cold_start"}
    assert set(frame["as_of"]) == {"2025-07-01"}
    assert set(frame["model_version"]) == {"1"}
    numbers = frame[[c for c in frame if c.endswith("m")]].to_numpy(np.float64)
    assert np.isfinite(numbers).all()


def test_every_customer_with_an_order_before_is_there_once_and_sorted(
    at_home: Trained, tables: dict[str, Path], tmp_path: Path
) -> None:
    def buyers(before: str) -> list[str]:
        known = at_home.orders[
            (at_home.orders["order_ts"] < before) & (at_home.orders["amount"] > 0)
        ]
        return sorted(set(known["customer_id"]), key=lambda name: name.encode())

    assert [row["customer_id"] for row in rows_of(tables["one.csv"])] == buyers("2025-07-01")
    early = tmp_path / "early.parquet"
    assert clv("predict", at_home.data, "--as-of", "2023-01-01", "--out", early).code == 0
    assert pd.read_parquet(early)["customer_id"].to_list() == buyers("2023-01-01")
    assert len(buyers("2023-01-01")) < len(buyers("2025-07-01"))


def test_odd_ids_come_back_from_csv_as_they_were(tables: dict[str, Path]) -> None:
    ids = [row["customer_id"] for row in rows_of(tables["one.csv"])]
    assert set(ODD_IDS) <= set(ids)
    assert ids == pd.read_parquet(tables["one.parquet"])["customer_id"].to_list()


def test_a_column_in_which_nobody_has_anything_is_text(tmp_path: Path) -> None:
    frame = pd.DataFrame({"customer_id": ["a", "b"], "next_order_on": [None, None]})
    writing.write(frame, tmp_path / "p.parquet")
    kind = str(pq.read_schema(tmp_path / "p.parquet").field("next_order_on").type)
    assert kind in ("string", "large_string")
    writing.write(frame, tmp_path / "p.csv")
    assert (tmp_path / "p.csv").read_text().splitlines()[1:] == ['"a",', '"b",']


def test_csv_and_parquet_hold_the_same_numbers(tables: dict[str, Path]) -> None:
    frame = pd.read_parquet(tables["one.parquet"])
    text = rows_of(tables["one.csv"])
    days = frame["next_order_on"].fillna("").to_list()
    assert [row["next_order_on"] for row in text] == days
    assert [row["segment"] for row in text] == frame["segment"].to_list()
    for name in set(columns(3, 12)[3:-1]) - {"next_order_on", "segment"}:
        assert [float(row[name]) for row in text] == frame[name].to_list()


def test_the_same_input_gives_the_same_bytes(tables: dict[str, Path]) -> None:
    for kind in ("csv", "parquet"):
        assert tables[f"one.{kind}"].read_bytes() == tables[f"two.{kind}"].read_bytes()


def test_a_copy_is_kept_at_home(at_home: Trained, tables: dict[str, Path]) -> None:
    kept = at_home.home / "predictions/as_of=2025-07-01"
    assert (kept / "model-1.parquet").read_bytes() == tables["one.parquet"].read_bytes()
    assert (kept / "model-2.parquet").read_bytes() == tables["challenger.parquet"].read_bytes()


def test_the_summary_adds_up(at_home: Trained, tables: dict[str, Path]) -> None:
    said = json.loads(tables["two.csv"].with_name("two.csv.said").read_text())
    frame = pd.read_parquet(tables["one.parquet"])
    assert said["totals"]["revenue_12m"] == round(frame["revenue_12m"].sum(), 2)
    assert said["mean_churn"]["churn_3m"] == round(frame["churn_3m"].mean(), 4)
    assert said["rows_in"] == said["rows_kept"] + said["rows_refused"] == len(at_home.orders)
    assert (said["currency"], said["model_version"]) == ("EUR", "1")
    for_person = tables["one.csv"].with_name("one.csv.said").read_text()
    assert f"{frame['revenue_12m'].sum():,.0f} EUR" in for_person
    # Q9: the closed formula stands beside the model, of the first horizon.
    check = said["cross_check"]
    total = (frame["clv_3m"] + frame["retention_cost_3m"]).sum()
    assert (check["months"], check["model"]) == (3, round(total, 2))
    beside = f"{check['formula']:,.0f}, model: {total:,.0f}, ratio {check['ratio']:.2f}"
    assert beside in for_person
    assert "orders_per_month" not in said["totals"]


def test_money_means_what_the_settings_say(tables: dict[str, Path]) -> None:
    """Margin and discounting recomputed month by month from a table of all 24 horizons."""
    frame = pd.read_parquet(tables["one.parquet"])
    assert np.allclose(frame["margin_12m"], 0.4 * frame["revenue_12m"], rtol=1e-12)
    cost = sum(0.5 / 1.1 ** ((m - 0.5) / 12) for m in range(1, 13))
    assert np.allclose(frame["retention_cost_12m"], cost, rtol=1e-12)


def test_clv_is_the_discounted_margin_of_each_month_less_the_cost(
    at_home: Trained, tables: dict[str, Path]
) -> None:
    each = load().predict(at_home.frames, at_home.as_of, horizons=range(1, 13))
    revenue = each[[f"revenue_{m}m" for m in range(1, 13)]].to_numpy()
    flow = np.diff(revenue, axis=1, prepend=0.0) * 0.4
    rate = np.array([1.1 ** -((m - 0.5) / 12) for m in range(1, 13)])
    frame = pd.read_parquet(tables["one.parquet"])
    assert np.allclose(
        frame["clv_12m"], flow @ rate - frame["retention_cost_12m"], rtol=1e-9, atol=1e-9
    )


def test_champion_version_folder_and_notebook_agree(
    at_home: Trained, tables: dict[str, Path], tmp_path: Path
) -> None:
    named = pd.read_parquet(tables["one.parquet"])
    assert clv("export-model", tmp_path / "out/model").code == 0
    words = ("predict", at_home.data, "--out", tmp_path / "folder.parquet")
    assert clv(*words, "--model", tmp_path / "out/model").code == 0
    folder = pd.read_parquet(tmp_path / "folder.parquet")
    assert folder["model_version"].str.fullmatch("bundle-[0-9a-f]{12}").all()
    pd.testing.assert_frame_equal(
        folder.drop(columns="model_version"), named.drop(columns="model_version"), check_exact=True
    )
    # In a notebook: frames in, in any row order, frames out.
    shuffled = {
        name: table.sample(frac=1, random_state=3) for name, table in at_home.frames.items()
    }
    frame = load("champion").predict(shuffled, as_of=at_home.as_of)
    pd.testing.assert_frame_equal(frame, named, check_exact=True, check_dtype=False)


def test_orders_alone_are_a_frame_or_a_file(at_home: Trained, tmp_path: Path) -> None:
    source, out = at_home.data / "orders.parquet", tmp_path / "p.parquet"
    assert clv("predict", source, "--as-of", at_home.as_of, "--out", out).code == 0
    frame = load("champion").predict(at_home.orders, as_of=at_home.as_of)
    pd.testing.assert_frame_equal(frame, pd.read_parquet(out), check_exact=True, check_dtype=False)


def test_columns_that_the_model_knows_and_the_data_lack_are_told(
    at_home: Trained, tmp_path: Path
) -> None:
    """The model learned from channels and attributes of the customers; categories are put in."""
    loaded = load()
    known = loaded.model.vocabulary
    people = [f"customer_{name}" for name, _ in known.attributes]
    assert people
    assert known.channel
    words = ("--as-of", at_home.as_of, "--out", tmp_path / "p.csv")
    whole = clv("predict", at_home.data, *words)
    assert "which these data lack" not in whole.out
    assert clv("predict", at_home.data, *words, "--json").json["missing"] == []
    alone = at_home.data / "orders.parquet"
    assert clv("predict", alone, *words, "--json").json["missing"] == people
    assert (
        f"The model knows the columns {', '.join(people)}, which these data lack; "
        "predictions are made without them\n"
    ) in clv("predict", alone, *words).out
    # An attribute that no customer has is not there either.
    empty = {**at_home.frames, "customers": at_home.customers.assign(**{people[0][9:]: None})}
    assert batch.score(loaded, empty, as_of=at_home.as_of).missing == (people[0],)
    bare = at_home.orders[["customer_id", "order_ts", "amount"]]
    assert batch.score(loaded, bare, as_of=at_home.as_of).missing == ("channel", *people)
    more = replace(loaded.model, vocabulary=replace(known, category=("toys",)))
    found = batch.score(replace(loaded, model=more), at_home.orders, as_of=at_home.as_of)
    assert found.missing == ("category", *people)


def test_training_again_on_the_same_data_gives_the_same_model(
    at_home: Trained, tables: dict[str, Path]
) -> None:
    """Version 1 came from shuffled frames with one worker, version 2 from files with two."""
    one, two = (pd.read_parquet(tables[f"{n}.parquet"]) for n in ("one", "challenger"))
    pd.testing.assert_frame_equal(
        one.drop(columns="model_version"), two.drop(columns="model_version"), check_exact=True
    )
    assert set(two["model_version"]) == {"2"}
    first, second = (registry.fetch(number) for number in (1, 2))
    assert tree(first) == tree(second)


def test_a_failing_write_leaves_the_old_file_whole(
    at_home: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    out = tmp_path / "out"
    out.mkdir()
    for name in ("p.csv", "p.parquet"):
        (out / name).write_bytes(b"old")
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            ran = clv("predict", at_home.data, "--out", out / name)
        refused(ran, "No space left on device", name)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        (out / "f.parquet").write_bytes(b"old")
        words = ("features", at_home.data, "--as-of", "2025-01-01", "--out", out / "f.parquet")
        refused(clv(*words), "No space left on device")
    assert {path.name for path in out.iterdir()} == {"p.csv", "p.parquet", "f.parquet"}
    assert {path.read_bytes() for path in out.iterdir()} == {b"old"}


# Bad input


def bad_inputs(home: Trained, tmp_path: Path) -> dict[str, tuple[Sequence[object], Sequence[str]]]:
    """Name -> command line and what its one line must hold."""
    (tmp_path / "file").write_text("")
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("[business]\nmargn = 0.4\n")
    to, data, out = "--out", home.data, tmp_path / "new/p.csv"
    ok = ("predict", data, to, out)
    features = ("features", data, "--as-of")
    parquet = tmp_path / "new/f.parquet"
    return {
        "missing file": (("predict", tmp_path / "none.csv", to, out), ("none.csv",)),
        "missing data": (("check",), ("data", "clv check --help")),
        "unknown option": ((*ok, "--fast"), ("--fast", "clv predict --help")),
        "unknown command": (("score",), ("score", "clv --help")),
        "option's value": ((*ok, "--workers", "many"), ("--workers", "integer", "'many'")),
        "workers": ((*ok, "--workers", "0"), ("--workers", "1", "0", "clv predict --help")),
        "seed": (("train", data, "--seed", "1.5"), ("--seed", "integer", "'1.5'")),
        "years": (("simulate", tmp_path / "new", "--customers", "5", "--years", "few"),
                  ("--years", "number", "'few'")),
        "one horizon": (("backtest", data, "--as-of", "2024-01-01", "--horizon", "99"),
                        ("--horizon must be 1 to 24", "99", "--horizon 12")),
        "horizon as word": (("backtest", data, "--as-of", "2024-01-01", "--horizon", "abc"),
                            ("--horizon'", "integer", "'abc'", "clv backtest --help")),
        "ending": (("predict", data, to, tmp_path / "new/p.xlsx"), (".csv or .parquet", "p.xlsx")),
        "file as folder": (("predict", data, to, tmp_path / "file/p.csv"), ("file/p.csv",)),
        "folder as file": (("predict", data, to, tmp_path.parent / "x.csv"), ("x.csv",)),
        "no such date": ((*ok, "--as-of", "2025-02-30"), ("YYYY-MM-DD", "2025-02-30")),
        "date as word": ((*ok, "--as-of", "today"), ("YYYY-MM-DD", "today")),
        "long after": ((*ok, "--as-of", "2025-08-01"), ("2025-08-01", "--allow-gap")),
        "before all": ((*ok, "--as-of", "2019-01-01"), ("2019-01-01",)),
        "horizon 0": ((*ok, "--horizons", "0"), ("--horizons", "1 to 24", "0")),
        "horizon 25": ((*ok, "--horizons", "12,25"), ("--horizons", "25")),
        "horizon text": ((*ok, "--horizons", "12;18"), ("12;18",)),
        "version": ((*ok, "--model", "7"), ("'7'", "2 challenger")),
        "alias": ((*ok, "--model", "best"), ("'best'",)),
        "no model": ((*ok, "--model", tmp_path / "nomodel"), ("nomodel",)),
        "settings": ((*ok, "--config", wrong), ("margn", "margin")),
        "no settings": ((*ok, "--config", tmp_path / "none.toml"), ("none.toml", "--config")),
        "features": (("features", data), ("--as-of", "--out")),
        "features ending": ((*features, "2025-01-01", to, out), (".parquet",)),
        "features place": ((*features, "2025-01-01", to, tmp_path / "file/f.parquet"), ("file/f",)),
        "features gap": ((*features, "2025-01-01,2026-01-01", to, parquet), ("2026-01-01",)),
        "labels": ((*features, "2025-01-01", to, parquet, "--labels", "36"), ("--labels", "36")),
        "quarantine": (("check", data, "--quarantine", tmp_path / "file/q.csv"), ("file",)),
        "train gap": (("train", data, "--as-of", "2026-01-01"), ("2026-01-01",)),
        "train early": (("train", data, "--as-of", "2022-01-20"), ("2022-01-20",)),
        "backtest": (("backtest", data, "--as-of", "2025-01-01"), ("12 months", "2025-07-01")),
        "profile": (("simulate", tmp_path / "new", "--customers", 5, "--profile", "big"), ("big",)),
        "customers": (("simulate", tmp_path / "new", "--customers", 0), ("0",)),
        "not empty": (("simulate", data, "--customers", 5, "--profile", "bench"), ("data",)),
        "promote": (("promote", "12"), ("'12'",)),
        "rollback": (("rollback",), ("earlier champion",)),
        "export": (("export-model", data), ("new or empty",)),
    }  # fmt: skip


def test_bad_input_gets_one_line_and_leaves_nothing(at_home: Trained, tmp_path: Path) -> None:
    (tmp_path.parent / "x.csv").mkdir(exist_ok=True)
    cases = bad_inputs(at_home, tmp_path)
    home, data = tree(at_home.home), tree(at_home.data)
    before = sorted(path.name for path in tmp_path.iterdir())
    for name, (words, parts) in cases.items():
        try:
            refused(clv(*words), *parts)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None
        assert sorted(path.name for path in tmp_path.iterdir()) == before, name
    assert (tree(at_home.home), tree(at_home.data)) == (home, data)
    (tmp_path.parent / "x.csv").rmdir()


def test_nothing_trained_yet(
    at_home: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_home(monkeypatch, tmp_path / "fresh")
    for words in (("predict", at_home.data, "--out", tmp_path / "p.csv"), ("promote", "1"),
                  ("rollback",), ("export-model", tmp_path / "m")):  # fmt: skip
        refused(clv(*words), "clv train DATA")
    assert not (tmp_path / "fresh").exists()
    assert not (tmp_path / "p.csv").exists()


def test_an_unknown_key_in_the_datas_own_settings(at_home: Trained, tmp_path: Path) -> None:
    data = Path(shutil.copytree(at_home.data, tmp_path / "data"))
    with (data / "clv.toml").open("a") as file:
        file.write("[horizon]\nmonths = [12]\n")
    for name, more in {"check": [], "train": [], "predict": ["--out", tmp_path / "p.csv"]}.items():
        refused(clv(name, data, *more), "unknown key 'horizon'", "horizons")


def test_a_gap_is_accepted_when_asked_for(at_home: Trained, tmp_path: Path) -> None:
    out = tmp_path / "p.parquet"
    words = ("predict", at_home.data, "--out", out, "--as-of", "2025-09-01")
    assert clv(*words, "--allow-gap").code == 0
    assert set(pd.read_parquet(out)["as_of"]) == {"2025-09-01"}
    assert clv("predict", at_home.data, "--out", out, "--as-of", "2025-07-08").code == 0


def test_our_own_fault_is_exit_1_without_a_traceback(
    at_home: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError(f"of {CANARY}-001")

    monkeypatch.setattr(batch, "score", broken)
    ran = clv("predict", at_home.data, "--out", tmp_path / "p.csv")
    refused(ran, "our fault", "ZeroDivisionError", code=1)
    assert CANARY not in ran.err  # what the exception says may name a customer
    assert not (tmp_path / "p.csv").exists()


# Versions


def test_the_second_training_waits_as_challenger(at_home: Trained) -> None:
    assert at_home.second.code == 0, at_home.second.err
    assert at_home.second.err == ""
    said = at_home.second.json
    assert (said["version"], said["aliases"]) == (2, ["challenger"])
    assert (said["horizons"], said["churn"]) == ([3, 12], "no_order")
    assert said["trained_until"] == "2025-07-01"
    assert said["test"]["cutoff"] == "2024-07-01"
    # Nobody without an order is in these tables, and that is said.
    assert said["no_prospects"] == said["test"]["no_prospects"]
    assert said["no_prospects"] == "the table customers holds buyers only"
    assert said["test"]["prospects"] is None
    found = registry.champion()
    assert found is not None
    assert found.number == 1


def test_promote_and_rollback_leave_audit_lines(copied: Path) -> None:
    # The same data once more: nothing is better, and the gate says so.
    refused(clv("promote", "2"), "must pass the gate", "same predictions", code=3)
    _gate_says("passed", "better")
    promoted = clv("promote", "2", "--reason", "better totals")
    assert (promoted.code, promoted.out) == (0, "Version 2 is champion\n")
    assert load().version == "2"
    back = clv("rollback", "--reason", "complaints")
    assert (back.code, back.out) == (0, "Version 1 is champion again\n")
    assert load("champion").version == "1"
    lines = [json.loads(line) for line in (copied / "audit.jsonl").read_text().splitlines()]
    assert [(line["action"], line["from"], line["to"], line["reason"]) for line in lines] == [
        ("first champion", None, 1, ""),
        ("promote", 1, 2, "better totals"),
        ("rollback", 2, 1, "complaints"),
    ]


def _gate_says(word: str, reason: str) -> None:
    from mlflow.tracking import MlflowClient

    uri = registry.tracking_uri()
    client = MlflowClient(uri, registry_uri=uri)
    client.set_model_version_tag("clv", "2", "clv.gate", word)
    client.set_model_version_tag("clv", "2", "clv.gate.reason", reason)


def test_what_the_gate_refused_is_promoted_by_force_only(copied: Path) -> None:
    _gate_says("refused", "refused by: bias")
    ran = clv("promote", "2", "--reason", "newer")
    refused(ran, "must pass the gate", "Version 2 was refused by: bias", "--force", code=3)
    refused(clv("promote", "2", "--force", ""), "needs a reason")
    assert load().version == "1"
    ran = clv("promote", "2", "--force", "the old one misses a channel")
    assert (ran.code, ran.out) == (0, "Version 2 is champion\n")
    assert load().version == "2"


@pytest.mark.parametrize("fault", ["flipped", "pickle", "foreign", "card"])
def test_a_tampered_or_foreign_bundle_is_refused_before_it_is_parsed(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    assert clv("export-model", tmp_path / "model").code == 0
    places = [registry.fetch(1), tmp_path / "model"]
    for place in places:
        if fault == "flipped":
            content = bytearray((place / "value.ubj").read_bytes())
            content[len(content) // 2] ^= 1
            (place / "value.ubj").write_bytes(content)
        elif fault == "pickle":
            (place / "model.pkl").write_bytes(b"\x80\x04N.")
        elif fault == "card":
            card = (place / "card.json").read_text()
            (place / "card.json").write_text(card.replace('"EUR"', '"USD"'))
    if fault == "foreign":
        (copied / "key").write_text("another key of enough characters")

    def parsed(*_: Any, **__: Any) -> None:
        raise AssertionError("parsed before it was verified")

    monkeypatch.setattr("xgboost.Booster.load_model", parsed)
    monkeypatch.setattr("serving.loader.unpack", parsed)
    data = tmp_path / "never read"
    for model in ("champion", tmp_path / "model"):
        ran = clv("predict", data, "--out", tmp_path / "p.csv", "--model", model)
        refused(ran, "Model folder")
    refused(clv("export-model", tmp_path / "again"), "Model folder")
    assert not (tmp_path / "again").exists()
    assert not (tmp_path / "p.csv").exists()


def test_a_model_does_not_read_data_of_another_currency(at_home: Trained, tmp_path: Path) -> None:
    (tmp_path / "yen.toml").write_text('[business]\ncurrency = "JPY"\n')
    ran = clv(
        "predict", at_home.data, "--out", tmp_path / "p.csv", "--config", tmp_path / "yen.toml"
    )
    refused(ran, "currency", "EUR", "JPY")


# MLflow


def test_the_run_holds_what_is_needed_to_judge_it(at_home: Trained) -> None:
    from mlflow.tracking import MlflowClient

    uri = registry.tracking_uri()
    client = MlflowClient(uri, registry_uri=uri)
    version = client.get_model_version("clv", "2")
    run = client.get_run(at_home.second.json["run_id"])
    assert version.run_id == run.info.run_id
    assert run.info.status == "FINISHED"
    params = run.data.params
    assert params["data_fingerprint"] == at_home.second.json["fingerprint"]
    assert re.fullmatch("[0-9a-f]{8,}", params["feature_hash"])
    assert "2024-07-01 +12m" in params["origins"]
    assert (params["churn"], params["seed"]) == ("no_order", "0")
    assert params["trained_until"] == "2025-07-01"
    assert run.data.tags["churn"] == "no_order"
    metrics = run.data.metrics
    tested = at_home.second.json["test"]["models"]
    assert metrics["mae"] == tested["anchored boosting"]["mae"]
    assert metrics["last_year_scaled/auroc"] == tested["last year scaled"]["auroc"]
    wanted = {"mae", "rmse", "bias", "normalised_gini", "spearman", "decile_mape", "capture_1",
              "capture_5", "capture_10", "capture_20", "auroc", "average_precision", "brier",
              "log_loss", "ece"}  # fmt: skip
    assert wanted <= set(metrics)
    pictures = {Path(item.path).name for item in client.list_artifacts(run.info.run_id, "plots")}
    assert pictures == {"decile.png", "gain.png", "calibration.png", "tracking.png",
                        "coverage.png", "profit.png"}  # fmt: skip
    assert {"card.md", "card.html"} <= {
        item.path for item in client.list_artifacts(run.info.run_id)
    }
    (given,) = run.inputs.dataset_inputs
    assert given.dataset.digest == params["data_fingerprint"][:36]
    assert json.loads(given.dataset.profile)["customers"] == at_home.second.json["customers"]


def test_mlflow_itself_loads_the_registered_model(at_home: Trained) -> None:
    """People who load through MLflow get the same numbers as `Model.predict`."""
    import mlflow.pyfunc
    from mlflow.models import Model as Card

    from features.behaviour import Rows

    model = load("champion").model
    place = registry.fetch(1).parents[1]
    card = Card.load(str(place))
    assert [c.name for c in card.signature.inputs] == list(model.catalogue.names)
    example = card.load_input_example(str(place))
    scorer = mlflow.pyfunc.load_model(str(place))
    given = scorer.predict(example)
    values = np.ascontiguousarray(example.to_numpy(np.float64))
    n = len(values)
    rows = Rows(np.arange(n).astype(str).astype(object), np.arange(n), np.zeros(n, np.int64),
                values, model.catalogue)  # fmt: skip
    expected = model.predict(rows, model.trained_until, (1, 12, 24)).columns()
    assert list(given) == list(expected) == [c.name for c in card.signature.outputs]
    for name, column in expected.items():
        assert given[name].to_numpy().tobytes() == column.tobytes()


def test_no_customer_leaves_a_trace_in_mlflow_bundle_or_log(at_home: Trained) -> None:
    ids = [*at_home.orders["order_id"].head(50), *at_home.customers["customer_id"].tail(50)]
    assert sum(CANARY in name for name in ids) > 50  # the canaries do sing
    stored = list((at_home.home / "mlruns").rglob("*"))
    assert len([path for path in stored if path.suffix in (".png", ".ubj", ".db", ".json")]) > 10
    for path in [*stored, at_home.home / "audit.jsonl"]:
        if path.is_file():
            content = path.read_bytes()
            assert CANARY.encode() not in content, path
            assert b"example.org" not in content, path
    assert CANARY not in at_home.chatter
    assert at_home.chatter == at_home.second.out  # a notebook is not written into


# Reasons


def amounts(text: str) -> list[list[float]]:
    """Blocks of amounts in what a person reads, without what follows them."""
    number = re.compile(r"^ +([+-]?[\d,]+\.\d\d)  \S", re.MULTILINE)
    return [
        [float(found.replace(",", "")) for found in number.findall(block)]
        for block in text.split("\n\n")[1:]
    ]


def test_one_customer_is_explained_as_predicted(
    at_home: Trained, tables: dict[str, Path], tmp_path: Path
) -> None:
    frame = pd.read_parquet(tables["one.parquet"]).set_index("customer_id", drop=False)
    for name in ("007", "line\nfeed", frame["clv_12m"].idxmax()):
        words = ("explain", at_home.data, "--customer", name, "--model", "1")
        told = clv(*words, "--json").json
        row = frame.loc[name]
        for column in ("customer_id", "as_of", "evidence", "model_version", "clv_12m", "churn_12m"):
            assert told[column] == row[column]
        assert (told["horizon"], told["currency"]) == (12, "EUR")
        for lines in (told["reasons"], told["families"]):
            assert sum(line["money"] for line in lines) == pytest.approx(row["clv_12m"], abs=1e-6)
            assert all(line["text"] for line in lines)
        ran = clv(*words, "--reasons", 3)
        assert (ran.code, ran.err.count("Traceback")) == (0, 0)
        for money in amounts(ran.out):
            assert sum(money[:-1]) == pytest.approx(money[-1], abs=1e-9)
            assert money[-1] == pytest.approx(row["clv_12m"], abs=0.00501)
            assert money[0] == pytest.approx(told["reasons"][0]["money"], abs=0.00501)
        assert f"{row['clv_12m']:,.2f} EUR" in ran.out
        assert f"{row['churn_12m']:.1%}" in ran.out
    short = clv("explain", at_home.data, "--customer", "007", "--horizon", 3, "--json").json
    assert sum(line["money"] for line in short["reasons"]) == pytest.approx(short["clv_3m"])
    assert short["clv_3m"] == frame.loc["007", "clv_3m"]


def test_reasons_are_told_in_four_languages(
    at_home: Trained, tables: dict[str, Path], tmp_path: Path
) -> None:
    row = pd.read_parquet(tables["one.parquet"]).set_index("customer_id").loc["007"]
    asked = ("explain", at_home.data, "--customer", "007", "--model", "1")
    english = clv(*asked, "--json").json
    amount = f"{row['clv_12m']:,.2f}".translate({ord(","): ".", ord("."): ","})
    for language, value, whole in (
        ("de", f"Wert (clv_12m): {amount} EUR", "insgesamt"),
        ("nl", f"Waarde (clv_12m): EUR {amount}", "in totaal"),
        ("hu", "Érték (clv_12m): ", "összesen"),
    ):
        told = clv(*asked, "--language", language, "--json").json
        assert [line["money"] for line in told["reasons"]] == [
            line["money"] for line in english["reasons"]
        ]
        texts = [(a["text"], b["text"]) for a, b in zip(
            told["reasons"], english["reasons"], strict=True)]  # fmt: skip
        assert all(a != b for a, b in texts), texts
        ran = clv(*asked, "--language", language)
        assert value in ran.out
        assert ran.out.rstrip().endswith(whole)
        out = tmp_path / f"{language}.parquet"
        how = ("--out", out, "--model", "1", "--reasons", 2, "--language", language)
        assert clv("predict", at_home.data, *how).code == 0
        found = pd.read_parquet(out).set_index("customer_id").loc["007", "reasons"]
        assert json.loads(found)[0]["text"] == told["reasons"][0]["text"]
    refused(clv(*asked, "--language", "fr"), "--language", "en, de, hu, nl", "'fr'")


def test_who_is_not_there_is_not_explained_and_nobody_else_is_named(at_home: Trained) -> None:
    last = at_home.orders.groupby("customer_id")["order_ts"].min().idxmax()
    for name, day in (("7", at_home.as_of), ("", at_home.as_of), (last, "2022-06-01")):
        ran = clv("explain", at_home.data, "--customer", name, "--as-of", day)
        refused(ran, repr(name), "byte for byte", day)
        assert CANARY not in ran.err.replace(repr(name), "") + ran.out
    assert clv("explain", at_home.data).code == 2
    refused(clv("explain", at_home.data, "--customer", "007", "--horizon", 25), "1 to 24")


def test_reasons_are_a_column_where_they_are_asked_for(
    at_home: Trained, tables: dict[str, Path], tmp_path: Path
) -> None:
    bare = pd.read_parquet(tables["one.parquet"])
    words = ("predict", at_home.data, "--as-of", at_home.as_of, "--reasons", 3, "--out")
    for name in ("r.csv", "r.parquet"):
        assert clv(*words, tmp_path / name).code == 0
    frame = pd.read_parquet(tmp_path / "r.parquet")
    assert list(frame) == [*list(bare)[:-1], "reasons", "model_version"]
    pd.testing.assert_frame_equal(frame.drop(columns="reasons"), bare, check_exact=True)
    assert [row["reasons"] for row in rows_of(tmp_path / "r.csv")] == frame["reasons"].to_list()
    for text, value in zip(frame["reasons"], frame["clv_3m"], strict=True):
        lines = json.loads(text)
        assert [line["feature"] for line in lines][:: len(lines) - 1] == [
            "start",
            "everything_else",
        ]
        assert sum(line["money"] for line in lines) == pytest.approx(value, abs=1e-6)
        assert 3 <= len(lines) <= 5
    loaded = load("champion")
    again = loaded.predict(at_home.frames, at_home.as_of, reasons=3)
    assert again["reasons"].to_list() == frame["reasons"].to_list()
    with pytest.raises(InputError, match="reasons must be 0 or more"):
        loaded.predict(at_home.frames, at_home.as_of, reasons=-1)


def test_drivers_are_told_to_programs_and_to_people(at_home: Trained) -> None:
    found = clv("drivers", at_home.data, "--horizon", 3, "--json").json
    customers = at_home.orders["customer_id"].nunique()
    assert (found["customers"], found["as_of"], found["horizon"]) == (customers, "2025-07-01", 3)
    assert {"feature", "family", "meaning", "weight", "at_risk", "kept", "churn_high",
            "churn_low"} == set(found["features"][0])  # fmt: skip
    assert found["features"][0]["feature"] == "rhythm"
    assert found["features"][0]["churn_high"] > found["features"][0]["churn_low"]
    assert all(line["at_risk"] >= 0 and line["kept"] >= 0 for line in found["families"])
    shown = clv("drivers", at_home.data, "--horizon", 3, "--workers", 1).out
    assert f"{customers:,} customers as of 2025-07-01" in shown
    assert all(line["family"] in shown for line in found["families"])
    assert "too few" not in shown


def test_drivers_of_a_share_stand_for_all(
    at_home: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, frames = load(), at_home.frames
    whole, _ = serving_reasons.drivers(loaded, frames)
    monkeypatch.setattr(serving_reasons, "DRIVERS_ROWS", 200)
    part, _ = serving_reasons.drivers(loaded, frames)
    assert 140 < part.customers < 260 < whole.customers
    first = whole.features["at_risk"][0] + whole.features["kept"][0]
    assert part.features["at_risk"][0] + part.features["kept"][0] == pytest.approx(first, rel=0.5)
    early, _ = serving_reasons.drivers(loaded, frames, as_of="2023-01-01")
    assert early.customers < part.customers


# Features


def test_features_are_those_of_the_library(at_home: Trained, tmp_path: Path) -> None:
    out = tmp_path / "f.parquet"
    days = ["2024-01-01", "2025-01-01"]
    words = ("features", at_home.data, "--as-of", ",".join(days), "--out", out)
    ran = clv(*words, "--labels", "3,12", "--model", "champion", "--json")
    model = load("champion").model
    names = list(model.catalogue.names)
    labels = [f"{kind}_{h}m" for h in (3, 12) for kind in ("revenue", "orders", "churned")]
    frame = pd.read_parquet(out)
    assert list(frame) == ["customer_id", "as_of", *names, *labels]
    assert ran.json["rows"] == len(frame)
    assert ran.json["features"] == len(names) >= 80
    settings = load_settings(at_home.data / "clv.toml")
    frame = frame.set_index(["customer_id", "as_of"])
    seen = 0
    with read(at_home.data, settings) as (store, _):
        for number in range(store.buckets):
            cutoffs = Cutoffs.at([instant(day, "UTC") for day in days], "UTC")
            rows = build(store.bucket(number), cutoffs, model.catalogue)
            keys = list(zip(rows.ids[rows.who], np.array(days)[rows.cut], strict=True))
            written = frame.loc[keys, names].to_numpy()
            assert written.tobytes() == np.ascontiguousarray(rows.values).tobytes()
            seen += len(keys)
    assert seen == len(frame)


def test_labels_are_what_the_orders_say(at_home: Trained, tmp_path: Path) -> None:
    out = tmp_path / "f.parquet"
    words = ("features", at_home.data, "--as-of", "2024-10-01", "--out", out, "--labels", "3,12")
    ran = clv(*words)
    assert ran.code == 0
    frame = pd.read_parquet(out).set_index("customer_id")
    window = at_home.orders[at_home.orders["order_ts"].between("2024-10-01", "2025-01-01", "left")]
    net = window.groupby("customer_id")["amount"].sum().reindex(frame.index, fill_value=0.0)
    bought = window[window["amount"] > 0].groupby("customer_id")["order_id"].nunique()
    bought = bought.reindex(frame.index, fill_value=0)
    assert np.allclose(frame["revenue_3m"], net, atol=1e-6)
    assert (frame["orders_3m"] == bought).all()
    assert (frame["churned_3m"] == (bought == 0)).all()
    assert (bought > 0).any()
    assert frame[["revenue_12m", "orders_12m", "churned_12m"]].isna().all(axis=None)
    assert f"{len(frame):,} rows have no label of 12 months" in ran.out


def test_a_far_label_does_not_change_features(at_home: Trained, tmp_path: Path) -> None:
    """What happens after a cutoff changes no feature there."""
    data = Path(shutil.copytree(at_home.data, tmp_path / "data"))
    past = at_home.orders[at_home.orders["order_ts"] < "2024-10-01"]
    past.to_parquet(data / "orders.parquet")
    (data / "clv.toml").write_text(
        (data / "clv.toml").read_text().replace("2025-06-30", "2024-09-30")
    )
    frames = []
    for number, source in enumerate((at_home.data, data)):
        out = tmp_path / f"{number}.parquet"
        assert clv("features", source, "--as-of", "2024-10-01", "--out", out).code == 0
        frames.append(pd.read_parquet(out).sort_values("customer_id", ignore_index=True))
    pd.testing.assert_frame_equal(*frames, check_exact=True)


def test_the_dictionary_names_every_feature(at_home: Trained) -> None:
    entries = clv("features", "--dictionary", "--json").json
    assert entries == dictionary()
    assert len(entries) >= 80
    assert len({entry["family"] for entry in entries}) >= 6
    text = clv("features", "--dictionary")
    assert text.code == 0
    for entry in entries:
        assert all(entry[key] for key in ("name", "family", "unit", "meaning", "formula"))
        assert f"  {entry['name']} (" in text.out
        assert entry["meaning"] in text.out
    own = clv("features", "--dictionary", "--json", "--model", "champion").json
    assert [entry["name"] for entry in own] == list(load().model.catalogue.names)


# Check, simulate, backtest


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    """Eight lines, three of them beyond use."""
    lines = ["customer_id,order_ts,amount"]
    lines += [f"00{k},2025-0{k}-01,{k}0.50" for k in range(1, 6)]
    lines += [",2025-01-01,5", "=x,2025-13-01,5", "009,2025-01-02,abc"]
    path = tmp_path / "faulty.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_check_counts_and_keeps_what_it_refuses(
    at_home: Trained, faulty: Path, tmp_path: Path
) -> None:
    ran = clv("check", faulty, "--quarantine", tmp_path / "refused.csv")
    assert ran.code == 0
    assert "Rows in 8 = kept 5 + refused 3" in ran.out
    assert "faulty.csv line 9" in ran.out
    found = clv("check", faulty, "--json")
    assert (found.code, found.err) == (0, "")
    assert [found.json[k] for k in ("rows_in", "rows_kept", "rows_refused")] == [8, 5, 3]
    rows = rows_of(tmp_path / "refused.csv")
    assert [row["line"] for row in rows] == ["7", "8", "9"]
    assert all(row["reason"] for row in rows)
    refused(clv("check", faulty, "--strict"), "--strict", "3", "8")
    clean = clv("check", at_home.data, "--strict")
    assert clean.code == 0


def test_simulate_writes_both_profiles(at_home: Trained, tmp_path: Path) -> None:
    for profile, table in {"shop": "events", "bench": "orders"}.items():
        folders = [tmp_path / f"{profile}{n}" for n in (1, 2)]
        for folder in folders:
            words = ("simulate", folder, "--customers", 60, "--years", 1.5, "--seed", 5)
            ran = clv(*words, "--profile", profile)
            assert ran.code == 0, ran.err
            assert f"{table}: " in ran.out
        assert tree(folders[0]) == tree(folders[1])
        checked = clv("check", folders[0], "--json").json
        assert checked["rows_in"] == len(pd.read_parquet(folders[0] / "orders.parquet"))
        assert load_settings(folders[0] / "clv.toml").business.currency == "EUR"
    truth = pd.read_parquet(tmp_path / "bench1/truth.parquet")
    assert list(truth) == ["customer_id", "as_of", "h", "expected_revenue", "expected_orders",
                           "p_no_order"]  # fmt: skip


def test_backtest_judges_every_model_on_the_same_customers(at_home: Trained) -> None:
    words = ("backtest", at_home.data, "--as-of", "2024-07-01", "--horizon", 12, "--workers", 2)
    ran = clv(*words, "--json")
    assert (ran.code, ran.err) == (0, "")
    (found,) = ran.json["backtests"]
    before = at_home.orders[at_home.orders["order_ts"] < "2024-07-01"]
    customers = before[before["amount"] > 0]["customer_id"].nunique()
    assert (found["cutoff"], found["months"], found["customers"]) == ("2024-07-01", 12, customers)
    assert list(found["models"]) == [
        "anchored boosting", "plain boosting", "average", "last year scaled", "retention formula",
        "BG/NBD + gamma-gamma", "Pareto/NBD + gamma-gamma",
    ]  # fmt: skip
    assert {row["n"] for row in found["models"].values()} == {customers}
    assert {row["model"] for row in found["differences"]} == set(found["models"]) - {
        "anchored boosting"
    }
    # Training made the same test by itself, on data that end a year later.
    same = at_home.second.json["test"]["models"]
    assert {name: found["models"][name] for name in same} == same


# The demo


def test_the_shipped_orders_are_cdnow() -> None:
    with gzip.open(demo.ORDERS, "rt", encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 69_659
    assert len({line["customer_id"] for line in lines}) == 23_570
    assert (lines[0]["order_ts"], max(line["order_ts"] for line in lines)) == (
        "1997-01-01", "1998-06-30",
    )  # fmt: skip
    # 2,500,315.63 USD in all, as the published file of master records gives it.
    assert math.fsum(float(line["amount"]) for line in lines) == pytest.approx(2_500_315.63)
    about = demo.ORDERS.with_name("README.md").read_text(encoding="utf-8")
    assert all(
        word in about for word in ("23,570", "69,659", "Fader", "Hardie", "lifetimes", "USD")
    )


def test_the_demo_does_the_whole_job(
    at_home: Trained, migrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with gzip.open(demo.ORDERS, "rt", encoding="utf-8", newline="") as file:
        head, *lines = file.read().splitlines()
    few = [line for line in lines if line[:5] < "00150"]
    (tmp_path / "few.csv").write_text("\n".join([head, *few]) + "\n")
    monkeypatch.setattr(demo, "ORDERS", tmp_path / "few.csv")
    use_home(monkeypatch, new_home(tmp_path / "home", migrated))
    ran = clv("demo", "--out", tmp_path / "out")
    assert ran.code == 0, ran.err
    customers = len({line[:5] for line in few})
    end = date.fromisoformat(max(line[6:16] for line in few)) + timedelta(days=1)
    for word in (f"Rows in {len(few):,} = kept {len(few):,}", "Out of time", "BG/NBD",
                 "Version 1 is champion", f"{customers:,} customers as of {end}",
                 "most valuable", "sqlite:///" + str(tmp_path / "home")):  # fmt: skip
        assert word in ran.out
    rows = rows_of(tmp_path / "out/predictions.csv")
    assert list(rows[0]) == columns(12, 18, 24)
    best = max(rows, key=lambda row: float(row["clv_12m"]))["customer_id"]
    assert best in ran.out.split("most valuable")[1]
    assert re.search(r"^scoring: done in \d+\.\d s, [\d,]+ customers/s$", ran.err, re.MULTILINE)


# Progress


def test_progress_in_a_log_is_a_line_per_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    # Seconds at the start and at each event; a stage may tell its end only, tell it twice, or
    # come again.
    told = [
        ("read", 0.5, 1.5), ("read", 1.0, 4.0), ("read", 1.0, 4.2), ("sort", 1.0, 5.2),
        ("fit", 0.0, 7.0), ("fit", 1.0, 8.0), ("fit", 0.2, 8.5), ("fit", 1.0, 10.0),
    ]  # fmt: skip
    clock = iter([0.0, *(second for _, _, second in told)])
    err = io.StringIO()
    with monkeypatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: next(clock))
        patch.setattr(sys, "stderr", err)
        with shown() as tell:
            assert tell is not None
            for stage, part, _ in told:
                tell(stage, part)
    assert err.getvalue().splitlines() == [
        "read: done in 4.0 s", "sort: done in 1.0 s", "fit: done in 2.8 s", "fit: done in 2.0 s",
    ]  # fmt: skip


def test_progress_on_a_terminal_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    leader, follower = os.openpty()
    monkeypatch.setenv("TERM", "xterm")
    with os.fdopen(leader, "rb", buffering=0) as screen, os.fdopen(follower, "w") as err:
        with monkeypatch.context() as patch, contextlib.ExitStack() as stack:
            patch.setattr(sys, "stderr", err)
            tell = stack.enter_context(shown())
            assert tell is not None
            tell("scoring", 0.25)
            tell("scoring", 1.0)
        err.flush()
        seen = b""  # a read gives what has arrived so far, which may be the first frame only
        while b"100 %" not in seen and select.select([screen], [], [], 5)[0]:
            seen += screen.read(65_536)
    drawn = seen.decode(errors="replace")
    assert "\x1b[" in drawn
    assert "scoring" in drawn
    assert "100 %" in drawn


def test_progress_is_silent_where_a_program_reads(capsys: pytest.CaptureFixture[str]) -> None:
    with shown(quiet=True) as tell:
        assert tell is None
    assert capsys.readouterr() == ("", "")


# In Python


def test_python_refuses_as_the_command_does(at_home: Trained) -> None:
    with pytest.raises(InputError, match="one of"):
        load(99)
    with pytest.raises(BundleError, match="Model folder"):
        load(at_home.data)
    with pytest.raises(InputError, match="1 to 24"):
        load().predict(at_home.orders, at_home.as_of, horizons=[30])


def test_own_gap_churn_adds_its_column(at_home: Trained) -> None:
    loaded = load()
    settings = loaded.model.settings
    settings = replace(settings, business=replace(settings.business, churn="own_gap:3"))
    found = replace(loaded, model=replace(loaded.model, settings=settings))
    frame = found.predict(at_home.frames, at_home.as_of, [2])
    names = columns(2)
    names.insert(names.index("next_order_on"), "inactive_own_gap")
    assert list(frame) == names
    assert set(frame["inactive_own_gap"]) == {0, 1}
