"""What the documents say is true: every command, block and name in them is run or looked up."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer.main
from conftest import clv, few_draws, new_home, use_home

from features import settings
from serving.__main__ import app
from serving.writing import KINDS

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "serving/demo_data/README.md")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(text: str, language: str = "") -> list[str]:
    """Contents of the fenced blocks of a language; without one, of the plain ones."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [block for name, block in found if name == language]


def commands(program: str, language: str = "") -> list[list[str]]:
    """Command lines of a program in README's blocks of a language, in order, without comments."""
    lines = "\n".join(blocks(read("README.md"), language)).splitlines()
    words = [shlex.split(line, comments=True) for line in lines if line.startswith(f"{program} ")]
    return [line[1:] for line in words]


def orders() -> pd.DataFrame:
    """Three columns, 150 customers, from 2022 to the middle of 2025."""
    rng = np.random.default_rng(7)
    n = 150
    first = rng.integers(0, 600, n)
    counts = rng.geometric(0.15, n)
    who = np.repeat(np.arange(n), counts)
    days = first[who] + rng.integers(0, 700, len(who))
    days[: n // 10] = 1_275  # somebody bought on the last day: 2025-06-30
    day = pd.Timestamp("2022-01-02") + pd.to_timedelta(np.minimum(days, 1_275), "D")
    frame = pd.DataFrame(
        {
            "customer_id": [f"{k:04d}" for k in who],
            "order_ts": day.strftime("%Y-%m-%d"),
            "amount": rng.gamma(4.0, 12.0, len(who)).round(2),
        }
    )
    return frame.sort_values("order_ts", ignore_index=True)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Iterator[Path]:
    """A folder with orders.csv, where README's reader stands."""
    folder = tmp_path_factory.mktemp("desk")
    orders().to_csv(folder / "orders.csv", index=False)
    with pytest.MonkeyPatch.context() as patch:
        use_home(patch, new_home(folder / "home", migrated))
        few_draws(patch)
        patch.chdir(folder)
        yield folder


def test_the_commands_of_readme_run_one_after_the_other(desk: Path) -> None:
    given = commands("clv")
    assert {line[0] for line in given} >= {"check", "train", "backtest", "features", "predict"}
    for line in given:
        ran = clv(*line)
        assert ran.code == 0, (line, ran.err)
    for name in ("refused.csv", "features.parquet", "predictions.csv"):
        assert (desk / name).stat().st_size > 0
    # What it says of promoting, with the version's number put in.
    assert clv("train", "orders.csv", "--horizons", "12").code == 0
    inline = re.findall(r"`clv ([^`]+)`", read("README.md"))
    assert {"promote VERSION", "rollback"} <= set(inline)
    for line in inline:
        ran = clv(*shlex.split(line.replace("VERSION", "2")))
        # The same recipe on the same data is nothing to promote, and the gate says so.
        assert ran.code == (3 if line == "promote VERSION" else 0), (line, ran.err)


def test_the_commands_of_readme_for_a_whole_shop_run_one_after_the_other(
    desk: Path, monkeypatch: pytest.MonkeyPatch, migrated: Path
) -> None:
    """All but ``clv serve``, whose lines of README `test_service` starts and asks."""
    use_home(monkeypatch, new_home(desk / "other", migrated))
    rng = np.random.default_rng(8)
    arms = np.repeat(["spring", "none"], 400)
    before = rng.gamma(2.0, 20.0, 800)
    spend = (before + rng.normal(0.0, 5.0, 800) + (arms == "spring")).round(2)
    table = {"mail": arms, "spend": spend, "last_year": before.round(2)}
    pd.DataFrame(table).to_csv(desk / "experiment.csv", index=False)
    given = [line for line in commands("clv", "console") if line[0] != "serve"]
    assert {line[0] for line in given} >= {"channels", "referrals", "report", "measure", "plan"}
    for line in given:
        ran = clv(*line)
        assert ran.code == 0, (line, ran.err)
        for name in (word for flag, word in pairwise(line) if flag == "--out"):
            assert (desk / name).stat().st_size > 0


def test_the_table_has_the_columns_that_readme_names(desk: Path) -> None:
    named = re.search(
        r"The table has one row per customer:(.*?)\. The same", read("README.md"), re.S
    )
    assert named is not None
    listed = [w for part in re.findall(r"`([^`]+)`", named[1]) for w in re.split(r",\s*", part)]
    with (desk / "predictions.csv").open(encoding="utf-8") as file:
        header = file.readline().strip().replace('"', "").split(",")
    assert [name for name in header if "24m" not in name] == listed
    assert KINDS == (".csv", ".parquet")


def test_the_python_of_readme_runs(desk: Path) -> None:
    (code,) = blocks(read("README.md"), "python")
    known = {"orders": orders()}
    exec(compile(code, "README.md", "exec"), known)  # noqa: S102 - our own document
    found = known["predictions"]
    before = known["orders"][known["orders"]["order_ts"] < "2025-01-01"]
    assert found["customer_id"].to_list() == sorted(set(before["customer_id"]))


def test_the_settings_of_readme_are_known(tmp_path: Path) -> None:
    (block,) = blocks(read("README.md"), "toml")
    (tmp_path / "clv.toml").write_text(block)
    found = settings.load(tmp_path / "clv.toml")
    raw = tomllib.loads(block)
    assert found.business.margin == raw["business"]["margin"]
    assert found.columns == raw["columns"]
    # Alternatives that stand in its comments.
    for churn in re.findall(r'"(own_gap:\d+|contract_end)"', block):
        assert settings.parse({"business": {"churn": churn}}).business.churn == churn
    assert settings.parse({"orders": {"duplicates": "drop"}}).orders.duplicates == "drop"


def test_make_targets_in_the_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", read("Makefile"), re.MULTILINE))
    asked = {word for line in commands("make") for word in line}
    for name in DOCUMENTS[:3]:
        for line in re.findall(r"`make ([a-z ]+)`", read(name)):
            asked |= set(line.split())
    assert {"demo", "test"} <= asked <= targets


def test_every_command_is_named_in_readme() -> None:
    text = read("README.md")
    names = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    missing = [name for name in names if not re.search(rf"\b(clv|make) {name}\b", text)]
    assert missing == []


def test_every_command_and_option_that_the_documents_name_exists() -> None:
    names = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    texts = " ".join(read(name) for name in DOCUMENTS[:3])
    for name in re.findall(r"`clv ([a-z-]+)", texts):
        assert name in names
    for line in commands("clv"):
        options = {opt for parameter in names[line[0]].params for opt in parameter.opts}
        assert {word for word in line if word.startswith("--")} <= options


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_names_no_path_of_a_machine(name: str) -> None:
    text = read(name)
    assert text.startswith("# ")
    assert not re.search(r"(^|[\s`(\"'])(/(home|root|work|tmp|usr|opt|var|Users)/|[A-Z]:\\)", text)


def test_files_that_the_documents_name_exist() -> None:
    for name in DOCUMENTS[:3]:
        for path in re.findall(r"`((?:features|training|serving|tests|\.ci)/[\w./]+)`", read(name)):
            assert (ROOT / path).exists(), path
