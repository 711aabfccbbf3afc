"""Versions in a real MLflow store on sqlite: who is champion, under faults, moves and attacks."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xgboost

from features.errors import BundleError, GateError, InputError
from training import audit as audits
from training import bundle, registry, runs, tracking
from training.bundle import Parts
from training.gate import GateRules, Line, Verdict

ROOT = Path(__file__).parents[1]
FIRST = ("first champion", None, 1)


@pytest.fixture(scope="session")
def virgin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated store without runs: made once, since migrations take seconds."""
    folder = tmp_path_factory.mktemp("virgin")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLV_HOME", str(folder))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        tracking.open_store(create=True)
    return folder / "mlruns/mlflow.db"


@pytest.fixture(scope="session")
def boosters() -> list[bytes]:
    """Three small models."""
    dice = np.random.default_rng(0)
    rows = dice.normal(size=(60, 2))
    made = []
    for weight in (1.0, 2.0, 3.0):
        matrix = xgboost.DMatrix(rows, label=weight * rows[:, 0])
        made.append(bytes(xgboost.train({"nthread": 1, "max_depth": 2}, matrix, 4).save_raw("ubj")))
    return made


def log(folder: Path, booster: bytes, number: int = 0, **changes: Any) -> registry.Version:
    """Save a small bundle in ``folder`` and log it."""
    if not folder.exists():
        parts = Parts({"feature_hash": "f00d", "n": number}, {"v.ubj": booster}, {})
        bundle.save(parts, folder, bundle.key(registry.home()))
    settings: dict[str, Any] = {
        "bundle_folder": folder,
        "loader_module": "serving.scoring",
        "inputs": pd.DataFrame({"spend_90d": [1, 2], "orders_365d": [0.5, 3.0]}),
        "outputs": pd.DataFrame({"clv_12m": [10.0, 20.5]}),
        "requirements": ["xgboost-cpu>=3.0,<4"],
        "params": {"seed": 0},
        "metrics": {"gini": 0.7},
    }
    return registry.log_run(**(settings | changes))


@pytest.fixture(scope="session")
def stock(tmp_path_factory: pytest.TempPathFactory, virgin: Path, boosters: list[bytes]) -> Path:
    """A home with three versions: 1 is champion, 3 is challenger."""
    folder = tmp_path_factory.mktemp("stock")
    (folder / "home/mlruns").mkdir(parents=True)
    shutil.copyfile(virgin, folder / "home/mlruns/mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLV_HOME", str(folder / "home"))
        for name in ("CLV_KEY", "MLFLOW_TRACKING_URI"):
            patch.delenv(name, raising=False)
        bundle.make_key(folder / "home")
        for number, booster in enumerate(boosters):
            log(folder / f"bundle{number}", booster, number)
    return folder / "home"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty ``CLV_HOME``; the current folder is elsewhere."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("CLV_HOME", str(tmp_path / "home"))
    for name in ("CLV_KEY", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    yield tmp_path / "home"
    assert list((tmp_path / "elsewhere").iterdir()) == []  # nothing is left where one stands


@pytest.fixture
def home(place: Path, virgin: Path) -> Path:
    """A home with an empty store and a key."""
    (place / "mlruns").mkdir(parents=True)
    shutil.copyfile(virgin, place / "mlruns/mlflow.db")
    bundle.make_key(place)
    return place


@pytest.fixture
def shop(place: Path, stock: Path) -> Path:
    """A copy of `stock`: 1 is champion, 3 is challenger."""
    return Path(shutil.copytree(stock, place))


@pytest.fixture
def train(tmp_path: Path, boosters: list[bytes]) -> Callable[..., registry.Version]:
    """Log a small bundle; each call another one."""
    count = iter(range(100))

    def another(**changes: Any) -> registry.Version:
        number = next(count)
        return log(tmp_path / f"bundle{number}", boosters[0], number, **changes)

    return another


def said(passed: bool, champion: str | None = "version 1") -> Verdict:
    """A verdict of the gate with one line that decides."""
    lines = (Line("better than champion", "higher", "+0.1", True),
             Line("bias", "within 25%", "+3%" if passed else "+40%", passed))  # fmt: skip
    return Verdict("version 2", champion, "BG/NBD", 500, GateRules(), lines, first=champion is None)


def number_of(version: registry.Version | None) -> int:
    assert version
    return version.number


def client() -> Any:
    """MLflow itself, as an independent witness."""
    from mlflow.tracking import MlflowClient

    return MlflowClient(registry.tracking_uri(), registry_uri=registry.tracking_uri())


def audit(home: Path) -> list[tuple[str, int | None, int]]:
    lines = [json.loads(line) for line in (home / "audit.jsonl").read_text().splitlines()]
    keys = {"time", "action", "from", "to", "reason", "verdict", "force"}
    assert all(set(line) == keys for line in lines)
    return [(line["action"], line["from"], line["to"]) for line in lines]


def in_children(work: Callable[[], object], count: int = 1) -> list[int | None]:
    """Exit codes of processes that run ``work`` at once: 0, 1 after an exception, -9 if killed."""
    context = multiprocessing.get_context("fork")  # with mlflow imported by `virgin`: seconds saved
    start = context.Barrier(count)

    def run() -> None:
        start.wait()
        work()

    children = [context.Process(target=run) for _ in range(count)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    return [child.exitcode for child in children]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# Places


def test_importing_does_not_import_mlflow_or_touch_anything(tmp_path: Path) -> None:
    code = "import sys, training.registry; print([m for m in sys.modules if m == 'mlflow'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("[]\n", "")
    assert list(tmp_path.iterdir()) == []


def test_where_the_store_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CLV_HOME", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    deep = tmp_path / "project/a/b"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    assert registry.mlruns() == deep / "mlruns"
    (tmp_path / "project/mlruns").mkdir()
    assert registry.mlruns() == tmp_path / "project/mlruns"
    assert registry.home() == tmp_path / "project"
    assert registry.tracking_uri() == f"sqlite:///{tmp_path}/project/mlruns/mlflow.db"
    monkeypatch.setenv("CLV_HOME", "relative")
    assert registry.mlruns() == deep / "relative/mlruns"
    monkeypatch.setenv("CLV_HOME", "")
    assert registry.home() == tmp_path / "project"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///here.db")
    assert registry.tracking_uri() == f"sqlite:///{deep}/here.db"
    assert tracking.artifacts() == deep / "artifacts"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert registry.tracking_uri() == "http://server:5000"
    assert tracking.artifacts() is None
    assert registry.home() == tmp_path / "project"


def test_a_path_that_no_url_can_carry_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ("50%", "a?b", "a#b"):
        monkeypatch.setenv("CLV_HOME", f"/home/{name}")
        with pytest.raises(InputError, match="without % \\? #"):
            registry.tracking_uri()


def test_reading_where_nothing_was_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLV_HOME", str(tmp_path / "new"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert registry.versions() == []
    assert registry.champion() is None
    assert registry.reap() == 0
    for ask in (registry.fetch, registry.rollback, lambda: registry.promote(1)):
        with pytest.raises(InputError, match="clv train"):
            ask()
    assert list(tmp_path.iterdir()) == []


# Logging


def test_what_a_training_leaves(
    train: Callable[..., registry.Version],
    home: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "gain.png").write_bytes(b"\x89PNG")
    before = time.time()
    version = train(
        params={f"p{number}": number for number in range(150)} | {"long": "x" * 9000},
        metrics={f"m{number}": number / 7 for number in range(1200)},
        tags={"feature_hash": "f00d"},
        artifacts={"plots/gain.png": tmp_path / "gain.png"},
        datasets=[registry.Dataset("orders", "abc123", "orders.csv", {"rows": 7})],
        name="a run",
        started=before - 60,
    )
    assert capfd.readouterr() == ("", "")  # nothing on the terminal
    assert (version.number, version.aliases) == (1, ("champion",))
    run = client().get_run(version.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "a run"
    assert run.info.start_time == int((before - 60) * 1000)
    assert len(run.data.params) == 151
    assert run.data.metrics == {f"m{number}": number / 7 for number in range(1200)}
    assert run.data.tags["feature_hash"] == "f00d"
    source = run.inputs.dataset_inputs[0].dataset
    assert (source.name, source.digest, json.loads(source.profile)) == (
        "orders", "abc123", {"rows": 7},
    )  # fmt: skip
    artifacts = home / "mlruns/artifacts"
    assert run.info.artifact_uri == str(artifacts / version.run_id / "artifacts")
    assert (artifacts / version.run_id / "artifacts/plots/gain.png").read_bytes() == b"\x89PNG"
    model = client().get_logged_model(run.outputs.model_outputs[0].model_id)
    assert str(model.status) == "READY"
    assert {metric.key for metric in model.metrics} == set(run.data.metrics)


def test_signature_and_example_hold_doubles_and_nothing_is_pickled(
    train: Callable[..., registry.Version], home: Path
) -> None:
    from mlflow.models import Model

    version = train()
    stored = Path(version.source)
    model = Model.load(str(stored))
    assert model.get_input_schema().input_names() == ["spend_90d", "orders_365d"]
    assert {str(each) for each in model.get_input_schema().input_types()} == {"DataType.double"}
    assert model.get_output_schema().input_names() == ["clv_12m"]
    assert model.load_input_example(str(stored))["orders_365d"].tolist() == [0.5, 3.0]
    assert model.flavors["python_function"]["loader_module"] == "serving.scoring"
    wanted = (stored / "requirements.txt").read_text().split()
    assert [line for line in wanted if "xgboost" in line] == ["xgboost-cpu<4,>=3.0"]
    assert not [path for path in stored.rglob("*") if path.suffix in (".pkl", ".py")]
    assert bundle.verify(stored / "data/bundle", bundle.key(home)).card["n"] == 0


def test_first_is_champion_then_challengers(
    train: Callable[..., registry.Version], home: Path
) -> None:
    assert [train().aliases for _ in range(3)] == [("champion",), ("challenger",), ("challenger",)]
    assert [version.aliases for version in registry.versions()] == [
        ("champion",), (), ("challenger",),
    ]  # fmt: skip
    assert client().get_registered_model("clv").aliases == {"champion": 1, "challenger": 3}
    assert registry.versions()[1].uri == "models:/clv/2"
    assert audit(home) == [FIRST]


def test_both_ways_of_reading_agree(shop: Path) -> None:
    client().delete_model_version("clv", "2")
    client().set_registered_model_alias("clv", "audited", "1")
    client().set_model_version_tag("clv", "3", "clv.gate", "refused")
    client().set_model_version_tag("clv", "3", "clv.gate.reason", "refused by: bias")
    client().set_model_version_tag("clv", "3", "clv.gate.bias", "NO")
    read = registry._look_up(shop / "mlruns/mlflow.db")
    assert read == registry._ask(tracking.open_store())
    assert read is not None
    assert [(version.number, version.aliases) for version in read] == [
        (1, ("audited", "champion")), (3, ("challenger",)),
    ]  # fmt: skip
    assert [(version.gate, version.gate_reason) for version in read] == [
        ("none", ""), ("refused", "refused by: bias"),
    ]  # fmt: skip


def test_other_tables_are_read_through_mlflow(shop: Path) -> None:
    """The table of tags by another name, as another release might have it, and back."""
    file, known = shop / "mlruns/mlflow.db", registry.versions()

    def rename(old: str, new: str) -> None:
        with contextlib.closing(sqlite3.connect(file)) as connection:
            connection.execute(f"ALTER TABLE {old} RENAME TO {new}")

    rename("model_version_tags", "renamed")
    assert registry._look_up(file) is None
    with pytest.raises(InputError, match="must be usable"):
        registry.versions()
    rename("renamed", "model_version_tags")
    assert registry.versions() == known


def test_a_failed_training_registers_nothing(
    train: Callable[..., registry.Version], home: Path, tmp_path: Path
) -> None:
    train()
    with pytest.raises(InputError, match=r"missing\.png must be writable|No such file"):
        train(artifacts={"a.png": tmp_path / "missing.png"})
    with pytest.raises(ValueError, match="path within the run"):
        train(artifacts={"../a.png": tmp_path / "missing.png"})
    bad = tmp_path / "bundle3"
    shutil.copytree(tmp_path / "bundle0", bad)
    (bad / "card.json").write_bytes(b"{}")
    with pytest.raises(BundleError):
        train()
    assert [version.number for version in registry.versions()] == [1]
    experiment = client().get_experiment_by_name("clv").experiment_id
    statuses = sorted(run.info.status for run in client().search_runs([experiment]))
    assert statuses == ["FAILED", "FAILED", "FINISHED"]


def test_an_interrupted_training_is_killed_not_failed(
    train: Callable[..., registry.Version], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "log_files", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train()
    experiment = client().get_experiment_by_name("clv").experiment_id
    assert [run.info.status for run in client().search_runs([experiment])] == ["KILLED"]


# Champion and challenger


def test_promote_and_roll_back(shop: Path) -> None:
    assert registry.promote("3", reason="gate passed").aliases == ("champion",)
    assert registry.challenger() is None
    registry.promote(2)
    registry.promote(1)
    registry.promote(1)  # is it already: nothing to record
    assert number_of(registry.champion()) == 1
    assert [registry.rollback().number for _ in range(3)] == [2, 3, 1]
    assert client().get_registered_model("clv").aliases == {"champion": 1}
    with pytest.raises(InputError, match="earlier champion"):
        registry.rollback()
    registry.promote("2")
    assert registry.rollback("sales fell").number == 1
    assert audit(shop) == [
        FIRST,
        ("promote", 1, 3), ("promote", 3, 2), ("promote", 2, 1),
        ("rollback", 1, 2), ("rollback", 2, 3), ("rollback", 3, 1),
        ("promote", 1, 2), ("rollback", 2, 1),
    ]  # fmt: skip
    lines = [json.loads(line) for line in (shop / "audit.jsonl").read_text().splitlines()]
    assert (lines[1]["reason"], lines[-1]["reason"]) == ("gate passed", "sales fell")
    assert stat.S_IMODE((shop / "audit.jsonl").stat().st_mode) == 0o600


def test_the_verdict_stands_where_mlflow_shows_it(
    train: Callable[..., registry.Version], home: Path
) -> None:
    first = train(verdict=said(False, champion=None))
    assert (first.aliases, first.gate) == (("champion",), "passed")
    assert first.gate_reason.startswith("no champion yet, would be refused by: bias")
    second = train(verdict=said(False), tags={"churn": "no_order"})
    reason = "refused by: bias (must be within 25%; came +40%)"
    assert (second.aliases, second.gate, second.gate_reason) == (
        ("challenger",), "refused", reason,
    )  # fmt: skip
    stored = client().get_model_version("clv", "2")
    run = client().get_run(second.run_id).data.tags
    assert run["churn"] == "no_order"
    for tags in (stored.tags, run):
        assert tags["clv.gate"] == "refused"
        assert tags["clv.gate.reason"] == reason
        assert tags["clv.gate.bias"] == "NO: must within 25%; came +40%"
    for text in (stored.description, run["mlflow.note.content"]):
        assert text.startswith(reason)
        assert said(False).table() in text
    third = train(verdict=said(True))
    assert (third.gate, third.aliases) == ("passed", ("challenger",))  # it promotes nothing
    fourth = train()
    assert (fourth.gate, fourth.gate_reason) == ("none", "")
    assert client().get_model_version("clv", "4").tags["clv.gate"] == "none"


def test_a_refused_version_is_promoted_by_force_only(
    train: Callable[..., registry.Version], home: Path
) -> None:
    for verdict in (None, said(False), said(True)):
        train(verdict=verdict)
    for _ in range(2):
        with pytest.raises(GateError, match=r"Version 2 was refused by: bias .*--force") as caught:
            registry.promote(2, "it is newer")
    assert caught.value.exit_code == 3
    for empty in ("", " "):
        with pytest.raises(InputError, match="needs a reason"):
            registry.promote(2, force=empty)
    assert number_of(registry.champion()) == 1
    assert audit(home) == [FIRST]
    forced = registry.promote(2, "season ends", force="old one has no\nnew channel")
    assert (forced.aliases, forced.gate) == (("champion",), "forced")
    assert forced.gate_reason.startswith("forced: old one has no new channel; refused by: bias")
    assert registry.promote(2).number == 2  # is it already: nothing to ask
    assert registry.rollback().number == 1
    assert registry.promote(3, "gate passed").gate == "passed"
    assert registry.promote(2).number == 2  # once forced, so it stays
    lines = [json.loads(line) for line in (home / "audit.jsonl").read_text().splitlines()]
    assert [(x["action"], x["to"], x["verdict"], x["reason"], x["force"]) for x in lines] == [
        ("first champion", 1, "none", "", ""),
        ("promote", 2, "refused", "season ends", "old one has no\nnew channel"),
        ("rollback", 1, "none", "", ""),
        ("promote", 3, "passed", "gate passed", ""),
        ("promote", 2, "forced", "", ""),
    ]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_killed_while_forcing_leaves_the_old_champion(
    train: Callable[..., registry.Version], home: Path
) -> None:
    train()
    train(verdict=said(False))

    def child() -> None:
        calls = iter(range(9))
        original = tracking.Store.__getattr__

        def deadly(self: tracking.Store, name: str) -> Callable[..., Any]:
            if name == "set_model_version_tag" and next(calls) == 1:
                die()
            return original(self, name)

        tracking.Store.__getattr__ = deadly  # type: ignore[method-assign]
        registry.promote(2, force="why not")

    assert in_children(child) == [-signal.SIGKILL]
    assert number_of(registry.champion()) == 1
    assert registry.find(2).gate == "refused"
    with pytest.raises(GateError):
        registry.promote(2)
    assert registry.promote(2, force="again").gate == "forced"


def test_rolling_back_gives_the_same_bytes(shop: Path) -> None:
    before = bundle.digest(registry.fetch())
    registry.promote("challenger")
    assert bundle.digest(registry.fetch()) != before
    registry.rollback()
    assert bundle.digest(registry.fetch()) == before


def test_unknown_versions_are_refused_with_the_known_ones(shop: Path) -> None:
    for wanted in (7, "7", "challengers", "../1", "1.0", ""):
        with pytest.raises(InputError, match=r"1 champion, 2, 3 challenger\. Got"):
            registry.promote(wanted)
    assert audit(shop) == [FIRST]
    client().delete_registered_model_alias("clv", "champion")
    assert registry.champion() is None
    for ask in (registry.fetch, registry.rollback):
        with pytest.raises(InputError, match="clv promote VERSION"):
            ask()
    assert registry.promote(2).aliases == ("champion",)


def test_an_alias_moved_by_others_is_respected(shop: Path) -> None:
    client().set_registered_model_alias("clv", "champion", "2")
    assert registry.fetch() == registry.fetch(2)
    registry.promote(3)
    assert registry.rollback().number == 2
    client().delete_model_version("clv", "1")
    with pytest.raises(InputError, match="earlier champion"):
        registry.rollback()


def test_a_tampered_version_is_never_promoted(shop: Path) -> None:
    booster = registry.fetch("challenger") / "v.ubj"
    data = bytearray(booster.read_bytes())
    data[len(data) // 2] ^= 1
    booster.write_bytes(data)
    with pytest.raises(BundleError, match=r"v\.ubj"):
        registry.promote("challenger")
    assert number_of(registry.champion()) == 1
    assert audit(shop) == [FIRST]


def test_an_older_bundle_put_back_is_refused(shop: Path) -> None:
    """Its seal is genuine, so only the registry can tell that it is not this version."""
    registry.promote(2)
    old, new = registry.fetch(1), registry.fetch(2)
    shutil.rmtree(new)
    shutil.copytree(old, new)
    bundle.verify(new, bundle.key(shop))
    with pytest.raises(BundleError, match="registered as version 2"):
        registry.fetch()
    assert registry.rollback().number == 1


def test_a_loader_module_in_the_store_is_never_run(shop: Path, tmp_path: Path) -> None:
    stored, marker = registry.fetch().parents[1], tmp_path / "marker"
    (stored / "code").mkdir()
    (stored / "code/evil.py").write_text(f"open({str(marker)!r}, 'w')\n_load_pyfunc = print\n")
    text = (stored / "MLmodel").read_text()
    evil = text.replace("serving.scoring", "evil").replace("code: null", "code: code")
    assert evil.count("evil") == 1
    assert evil.count("code: code") == 1
    (stored / "MLmodel").write_text(evil)
    assert bundle.verify(registry.fetch(), bundle.key(shop)).card["n"] == 0
    registry.promote(2)
    registry.promote(1)
    assert not marker.exists()


@pytest.mark.parametrize("digest", ["", "../../outside", "/etc", "f" * 63, "F" * 64])
def test_a_digest_that_is_none_becomes_no_path(digest: str, place: Path) -> None:
    far = registry.Version(1, "", "models:/clv/1", "mlflow-artifacts:/1/models/m-1", digest)
    with pytest.raises(InputError, match="must carry the digest"):
        registry.locate(far)
    assert not place.exists()


# Moves


def test_a_moved_tree_is_found_and_trained_on(
    train: Callable[..., registry.Version], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train()
    moved = home.with_name("moved here ü")
    home.rename(moved)
    monkeypatch.setenv("CLV_HOME", str(moved))
    folder = registry.fetch()
    assert moved in folder.parents
    assert bundle.verify(folder, bundle.key(moved)).card["n"] == 0
    second = train()
    assert second.aliases == ("challenger",)
    assert moved in Path(second.source).parents
    train()
    assert not home.exists()
    experiments = {each.name: each.artifact_location for each in client().search_experiments()}
    assert experiments["clv 2"] == str(moved / "mlruns/artifacts")
    assert "clv 3" not in experiments


def test_a_copy_reads_its_own_files(
    shop: Path, stock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shop in registry.fetch().parents
    shutil.rmtree(shop / "mlruns/artifacts")
    assert stock in registry.fetch().parents  # as recorded
    with contextlib.closing(sqlite3.connect(shop / "mlruns/mlflow.db")) as connection:
        places = "storage_location = replace(storage_location, 'stock', 'gone')"
        connection.execute(f"UPDATE model_versions SET {places}")
        connection.commit()
    with pytest.raises(InputError, match=r"files of version 1 .*Restore it"):
        registry.fetch()


def test_the_same_store_from_another_folder(
    train: Callable[..., registry.Version], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = train()
    monkeypatch.delenv("CLV_HOME")
    (home / "notebooks/deep").mkdir(parents=True)
    monkeypatch.chdir(home / "notebooks/deep")
    assert registry.versions() == [version]
    assert registry.fetch() == Path(version.source) / "data/bundle"
    artifacts = home / "mlruns/artifacts"
    assert artifacts in Path(version.source).parents
    assert client().get_experiment_by_name("clv").artifact_location == str(artifacts)


def test_a_deleted_experiment_comes_back(
    train: Callable[..., registry.Version], home: Path
) -> None:
    train()
    client().delete_experiment(client().get_experiment_by_name("clv").experiment_id)
    assert train().number == 2
    assert client().get_experiment_by_name("clv 2") is None


# Faults


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_three_processes_on_a_virgin_store(
    place: Path, virgin: Path, boosters: list[bytes], tmp_path: Path
) -> None:
    bundle.make_key(place)
    parts = Parts({"feature_hash": ""}, {"v.ubj": boosters[0]}, {})
    bundle.save(parts, tmp_path / "bundle", bundle.key(place))

    def cut_short() -> None:
        from mlflow.store.db import utils

        utils._upgrade_db = lambda engine: die()  # amid migrations that cannot be resumed
        tracking.open_store(create=True)

    assert in_children(cut_short) == [-signal.SIGKILL]
    assert registry.versions() == []
    assert in_children(lambda: log(tmp_path / "bundle", b""), 3) == [0, 0, 0]
    aliases = [version.aliases for version in registry.versions()]
    assert aliases == [("champion",), (), ("challenger",)]
    artifacts = place / "mlruns/artifacts"
    assert Path(client().get_experiment("0").artifact_location).parent == artifacts
    left = {path.name for path in (place / "mlruns").iterdir()}
    assert left == {".clv.lock", "artifacts", "mlflow.db"}


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_killed_between_register_and_alias(
    train: Callable[..., registry.Version], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every step around the alias: the old champion or the new one, never none."""
    steps = ("_record", "tag_history", "_point")

    def killed(step: str, after: bool, work: Callable[[], object]) -> None:
        def child() -> None:
            module = audits if step == "tag_history" else registry
            original = getattr(module, step)

            def deadly(*args: Any) -> None:
                if after:
                    original(*args)
                die()

            setattr(module, step, deadly)
            work()

        assert in_children(child) == [-signal.SIGKILL]

    killed("_point", False, train)  # the very first: registered, but no champion yet
    assert [version.aliases for version in registry.versions()] == [()]
    assert train().aliases == ("champion",)  # so the next one becomes it
    killed("_point", False, train)
    assert [version.aliases for version in registry.versions()] == [(), ("champion",), ()]
    for step in steps:
        for after in (False, True):
            killed(step, after, lambda: registry.promote(3))
            moved = step == "_point" and after
            found = registry.champion()
            assert found
            assert found.number == (3 if moved else 2), (step, after)
    assert registry.rollback().number == 2
    registry.promote(1)
    for step in ("_record", "_point", "tag_history"):
        killed(step, False, registry.rollback)
        found = registry.champion()
        assert found
        assert found.number == (2 if step == "tag_history" else 1)
    with pytest.raises(InputError, match="earlier champion"):
        registry.rollback()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_two_promote_at_once(shop: Path) -> None:
    for _ in range(5):
        wanted = multiprocessing.get_context("fork").Queue()
        wanted.put(2)
        wanted.put(3)
        assert in_children(lambda queue=wanted: registry.promote(queue.get()), 2) == [0, 0]
        assert number_of(registry.champion()) == audit(shop)[-1][2]
        bundle.verify(registry.fetch(), bundle.key(shop))
        wanted.close()
    moves = audit(shop)
    assert [move[1] for move in moves[1:]] == [move[2] for move in moves[:-1]]  # an unbroken chain


def test_the_store_is_not_opened_by_those_who_hold_the_lock(
    shop: Path, monkeypatch: pytest.MonkeyPatch, train: Callable[..., registry.Version]
) -> None:
    """They would wait for themselves, where MLflow has to be asked: with a server, for example."""
    monkeypatch.setattr(registry, "_look_up", lambda file: None)
    monkeypatch.setattr(tracking, "PATIENCE", 2.0)
    assert registry.promote(2).number == 2
    assert registry.rollback().number == 1
    assert train().aliases == ("challenger",)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_runs_of_killed_trainers_are_reaped(
    train: Callable[..., registry.Version], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "log_files", lambda *_: die())
    assert in_children(train) == [-signal.SIGKILL]
    monkeypatch.undo()
    monkeypatch.setenv("CLV_HOME", str(home))
    monkeypatch.chdir(home.parent / "elsewhere")
    store = client()
    experiment = store.get_experiment_by_name("clv").experiment_id
    ours = store.create_run(experiment, tags=tracking.this_process()).info.run_id
    far = store.create_run(experiment, tags={"clv.host": "far", "clv.pid": "1"}).info.run_id
    foreign = store.create_run(experiment).info.run_id
    odd = {"clv.host": socket.gethostname(), "clv.pid": "no number"}
    odd_run = store.create_run(experiment, tags=odd).info.run_id
    train()  # reaps before it starts
    status = {run.info.run_id: run.info.status for run in store.search_runs([experiment])}
    assert {status.pop(each) for each in (ours, far, foreign, odd_run)} == {"RUNNING"}
    assert sorted(status.values()) == ["FINISHED", "KILLED"]
    assert registry.reap() == 0
    assert registry.champion() is not None


def test_a_locked_database_is_waited_for(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = shop / "mlruns/mlflow.db"
    holder = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
    with contextlib.closing(holder):
        holder.execute("BEGIN EXCLUSIVE")
        free = threading.Timer(1.5, holder.rollback)
        free.start()
        assert registry.promote(2).number == 2
        free.join()
        holder.execute("BEGIN EXCLUSIVE")
        monkeypatch.setattr(tracking, "PATIENCE", 0.1)
        for work in (registry.versions, registry.reap):
            with pytest.raises(InputError, match=r"database is locked\. End the process"):
                work()
        holder.rollback()
    assert number_of(registry.champion()) == 2


def test_a_writer_killed_in_a_transaction_is_undone(shop: Path) -> None:
    known = registry.versions()
    code = (
        "import os, sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute('PRAGMA cache_size = 1')\n"
        "c.execute('BEGIN')\n"
        "c.execute('DELETE FROM registered_model_aliases')\n"
        "c.execute('DELETE FROM model_versions')\n"
        "c.execute('CREATE TABLE bulk (a)')\n"
        "c.executemany('INSERT INTO bulk VALUES (?)', [('x' * 3000,)] * 500)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    file = shop / "mlruns/mlflow.db"
    done = subprocess.run([sys.executable, "-c", code, str(file)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert file.with_name("mlflow.db-journal").exists()
    assert registry.versions() == known


@pytest.mark.parametrize("damage", ["header", "everything", "empty table list"])
def test_a_damaged_database_is_said_so_at_once(damage: str, shop: Path) -> None:
    exported = registry.fetch()
    file = shop / "mlruns/mlflow.db"
    data = bytearray(file.read_bytes())
    if damage == "header":
        data[:16] = bytes(16)
    elif damage == "everything":
        data[:] = os.urandom(len(data))
    else:
        data[100:4096] = os.urandom(3996)
    file.write_bytes(data)
    for work in (registry.versions, registry.rollback, registry.reap):
        with pytest.raises(InputError, match=r"mlflow\.db must be usable.*Restore it"):
            work()
    assert bundle.verify(exported, bundle.key(shop)).card["n"] == 0  # folders still load


def test_a_server_that_does_not_answer(
    train: Callable[..., registry.Version], shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it takes connections, never answers
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:secret@{address}")
        for work in (registry.versions, train):
            with pytest.raises(InputError, match=r"tracking server .* must answer") as caught:
                work()
            assert address in str(caught.value)
            assert "secret" not in str(caught.value)
            assert "\n" not in str(caught.value)


def test_the_users_own_settings_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY", raising=False)
    tracking.library("entities")
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_a_full_disk_keeps_the_champion(
    train: Callable[..., registry.Version], shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "disk")

    work: dict[str, Callable[[], object]] = {
        "copytree": train,
        "copyfile": lambda: train(artifacts={"a": shop / "audit.jsonl"}),
        "fsync": lambda: registry.promote(2),
    }
    bundle.save(Parts({"feature_hash": ""}, {}, {}), shop.parent / "bundle0", bundle.key(shop))
    for name, act in work.items():
        with monkeypatch.context() as patch:
            patch.setattr(os if name == "fsync" else shutil, name, full)
            with pytest.raises(InputError, match="No space left on device"):
                act()
    assert [version.number for version in registry.versions()] == [1, 2, 3]
    assert number_of(registry.champion()) == 1


def test_the_lock_is_waited_for_and_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = []

    def second() -> None:
        with tracking.lock():
            order.append("second")

    with tracking.lock():
        waiting = threading.Thread(target=second)
        waiting.start()
        time.sleep(0.2)
        order.append("first")
        monkeypatch.setattr(tracking, "PATIENCE", 0.1)
        with pytest.raises(InputError, match="held by another process"), tracking.lock():
            pass
    waiting.join()
    assert order == ["first", "second"]
