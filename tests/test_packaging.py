"""What operators are given: every step, path and command in it exists."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
import typer.main

from features.settings import Serving
from serving.__main__ import app

ROOT = Path(__file__).parents[1]
OPERATE = (ROOT / "docs/operate.md").read_text()


def steps() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile, lines joined."""
    text = (ROOT / "packaging/Dockerfile").read_text()
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(line.split()[0], line.partition(" ")[2]) for line in joined.splitlines()]


def commands() -> set[str]:
    return set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def test_the_image_is_built_from_what_there_is() -> None:
    known = {"FROM", "WORKDIR", "RUN", "COPY", "ENV", "USER", "VOLUME", "EXPOSE", "HEALTHCHECK",
             "STOPSIGNAL", "CMD"}  # fmt: skip
    assert {name for name, _ in steps()} <= known
    copied = [words.split() for name, words in steps() if name == "COPY"]
    for *sources, _ in (words for words in copied if not words[0].startswith("--")):
        for source in sources:
            assert (ROOT / source).exists(), source
    stages = [words.split() for name, words in steps() if name == "FROM"]
    named = {words[2] for words in stages if len(words) == 3}
    assert {words[0].partition("=")[2] for words in copied if words[0].startswith("--")} == named
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    for package in packages["targets"]["wheel"]["packages"]:
        assert any(package in words for words in copied)
    versions = {words[0] for words in stages}
    assert versions == {"python:3.11-slim"}


def test_the_image_runs_as_nobody_in_particular() -> None:
    names = [name for name, _ in steps()]
    told = dict(steps())
    assert told["USER"] == "clv"
    assert names.index("USER") < names.index("CMD")
    assert all(
        "useradd" in words or "root" not in words for name, words in steps() if name == "RUN"
    )
    environment = dict(each.split("=", 1) for each in shlex.split(told["ENV"]))
    assert environment["CLV_HOME"] == told["VOLUME"] == told["WORKDIR"]
    settings = {f"CLV_SERVING_{each.name.upper()}" for each in fields(Serving)}
    assert {name for name in environment if name.startswith("CLV_SERVING_")} <= settings
    assert str(Serving().port) == told["EXPOSE"]


def test_what_the_image_runs_exists() -> None:
    told = dict(steps())
    command, *words = json.loads(told["CMD"])
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert command in scripts
    assert words[0] in commands()
    health = json.loads(told["HEALTHCHECK"].partition("CMD ")[2])
    compile(health[2], "healthcheck", "exec")
    assert f":{Serving().port}/health" in health[2]


def test_the_unit_starts_the_service() -> None:
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment]
    unit.read(ROOT / "packaging/clv.service")
    service = unit["Service"]
    program, command, *words = shlex.split(service["ExecStart"])
    assert Path(program).name == "clv"
    assert command in commands()
    parameters = typer.main.get_command(app).commands[command].params  # type: ignore[attr-defined]
    options = {each for parameter in parameters for each in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= options
    assert service["User"] != "root"
    assert service["KillMode"] == "mixed"
    assert int(service["TimeoutStopSec"]) > Serving().drain_seconds + 5


@pytest.mark.parametrize("key", [each.name for each in fields(Serving)])
def test_every_setting_is_told(key: str) -> None:
    rows = [line.split("|") for line in OPERATE.splitlines() if line.startswith("| ")]
    told = {}
    for row in rows[1:]:
        names, defaults = ([each.strip() for each in cell.split(",")] for cell in row[1:3])
        told |= dict(zip(names, defaults, strict=True))
    default = getattr(Serving(), key)
    shown = "" if default in ((), "") else f"{default:g}" if isinstance(default, float) else default
    assert told[key] == str(shown)


def test_commands_and_files_that_the_text_names_exist() -> None:
    for command in re.findall(r"\bclv ([a-z-]+)", OPERATE):
        assert command in commands(), command
    for path in re.findall(r"`(packaging/[\w.]+)`", OPERATE):
        assert (ROOT / path).is_file()
