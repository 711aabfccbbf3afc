"""The model that answers: it follows the champion and outlives whatever happens to the next one."""

from __future__ import annotations

import gc
import io
import lzma
import os
import pickle
import shutil
import sqlite3
import threading
import time
import weakref
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from conftest import Trained, use_home

from features.errors import BundleError, InputError
from serving import live as live_module
from serving import loader
from serving.live import REFUSED, UNREACHABLE, Live
from training import registry


@pytest.fixture
def home(at_home: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the trained home that a test may break."""
    copy = Path(shutil.copytree(at_home.home, tmp_path / "home"))
    use_home(monkeypatch, copy)
    return copy


def point(home: Path, version: int | None) -> None:
    """Move the champion's alias as a promotion's last write does; None takes it away."""
    with sqlite3.connect(home / "mlruns/mlflow.db") as store:
        store.execute("DELETE FROM registered_model_aliases WHERE alias = 'champion'")
        if version is not None:
            store.execute(
                "INSERT INTO registered_model_aliases (name, alias, version) VALUES (?, ?, ?)",
                ("clv", "champion", version),
            )
    store.close()


def folder_of(version: int) -> Path:
    return registry.locate(registry.find(version))


def scored(live: Live, trained: Trained) -> pd.DataFrame:
    newest = trained.orders.sort_values("order_ts")["customer_id"].tail(3)
    some = trained.orders[trained.orders["customer_id"].isin(newest)]
    return live.loaded.predict(some, trained.as_of, [3])


def test_it_follows_the_alias_and_goes_back(home: Path, trained: Trained) -> None:
    live = Live()
    assert (live.loaded.version, live.look()) == ("1", False)
    for version in (2, 1, 2):
        point(home, version)
        before = live.loaded
        assert live.look()
        assert live.loaded is not before
        assert live.loaded.version == str(version) == live.status()["version"]
        assert set(scored(live, trained)["model_version"]) == {str(version)}
        assert not live.look()
    assert live.status() | {"since": ""} == {
        "version": "2", "since": "", "source": "registry", "following": "champion",
        "healthy": True, "degraded": False, "error": None,
    }  # fmt: skip


def test_a_version_number_and_a_folder_stay(home: Path) -> None:
    fixed, folder = Live("1"), Live(str(folder_of(1)))
    point(home, 2)
    assert not fixed.look()
    assert not folder.look()
    assert fixed.loaded.version == "1"
    assert folder.loaded.version.startswith("bundle-")
    assert [each.status()["following"] for each in (fixed, folder)] == [None, None]
    assert folder.status()["source"] == "folder"


def broken_bytes(folder: Path) -> None:
    file = folder / "churn.ubj"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def without_a_file(folder: Path) -> None:
    (folder / "golden.json").unlink()


def emptied(folder: Path) -> None:
    for file in folder.iterdir():
        file.write_bytes(b"")


@pytest.mark.parametrize("damage", [broken_bytes, without_a_file, emptied])
def test_a_broken_version_leaves_the_last_good_one(
    damage: Callable[[Path], None], home: Path, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = Live()
    good = folder_of(2)
    shutil.copytree(good, home / "aside")
    damage(good)
    point(home, 2)
    before = live.loaded
    assert not live.look()
    assert live.loaded is before
    status = live.status()
    assert (status["version"], status["healthy"], status["degraded"]) == ("1", True, True)
    assert status["error"] == f"{REFUSED}: 2"
    assert str(home) not in str(status)
    assert set(scored(live, trained)["model_version"]) == {"1"}
    # It is not tried again at every look, but after a while: somebody may have restored it.
    shutil.rmtree(good, ignore_errors=True)
    shutil.copytree(home / "aside", good)
    assert not live.look()
    monkeypatch.setattr(time, "monotonic", lambda now=time.monotonic: now() + live_module.AGAIN)
    assert live.look()
    assert (live.status()["version"], live.status()["error"]) == ("2", None)


def test_a_model_that_cannot_be_warmed_up_does_not_serve(home: Path) -> None:
    warmed: list[str] = []

    def warm(loaded: loader.Loaded) -> None:
        warmed.append(loaded.version)
        if loaded.version == "2":
            raise KeyError("anything")

    asked: list[str] = []
    live = Live(warm=warm, spread=lambda: asked.append("others"))
    point(home, 2)
    assert not live.look()
    assert (warmed, live.loaded.version) == (["1", "2"], "1")
    assert not live.look()
    assert warmed == ["1", "2"]
    assert not live.reload()  # whoever asks for it wants it tried again now
    assert (warmed, asked) == (["1", "2", "2"], ["others"])
    with pytest.raises(KeyError):
        Live("2", warm=warm)


def gone(home: Path) -> None:
    (home / "mlruns/mlflow.db").unlink()


def damaged(home: Path) -> None:
    with (home / "mlruns/mlflow.db").open("r+b") as file:
        file.seek(0)
        file.write(os.urandom(64 * 1024))


def without_tables(home: Path) -> None:
    with sqlite3.connect(home / "mlruns/mlflow.db") as store:
        store.execute("DROP TABLE registered_model_aliases")
    store.close()


def without_champion(home: Path) -> None:
    point(home, None)


TROUBLES = [gone, damaged, without_tables, without_champion]


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_broken_registry_leaves_the_model_serving(
    trouble: Callable[[Path], None], home: Path, trained: Trained
) -> None:
    live = Live()
    expected = scored(live, trained)
    shutil.copyfile(home / "mlruns/mlflow.db", home / "aside")
    trouble(home)
    assert not live.look()
    assert live.status()["error"] == UNREACHABLE
    pd.testing.assert_frame_equal(scored(live, trained), expected)
    shutil.copyfile(home / "aside", home / "mlruns/mlflow.db")
    live.look()
    assert live.status()["error"] is None


@pytest.mark.parametrize("trouble", [*TROUBLES, lambda home: shutil.rmtree(home / "mlruns")])
def test_it_starts_from_its_copy(
    trouble: Callable[[Path], None], home: Path, trained: Trained
) -> None:
    expected = scored(Live(), trained)
    trouble(home)
    (home / "mlruns").mkdir(exist_ok=True)
    live = Live()
    assert (live.status()["source"], live.status()["error"]) == ("copy", UNREACHABLE)
    pd.testing.assert_frame_equal(scored(live, trained), expected)


def test_a_locked_registry_is_not_waited_for(home: Path) -> None:
    live = Live()
    store = sqlite3.connect(home / "mlruns/mlflow.db")
    store.execute("BEGIN EXCLUSIVE")
    assert not live.look()
    assert live.status()["error"] == UNREACHABLE
    store.close()
    live.look()
    assert live.status()["error"] is None


def test_a_server_that_does_not_answer_does_not_keep_it_from_starting(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Live()
    asked = threading.Event()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setattr(registry, "glance", lambda wanted: asked.wait(60))
    live = Live(every=0.01)
    live.start()
    assert (live.loaded.version, live.status()["source"]) == ("1", "copy")
    asked.set()
    live.stop()


def test_a_copy_is_verified_like_any_bundle(home: Path) -> None:
    Live()
    gone(home)
    copy = next(path for path in (home / "models").iterdir() if path.is_dir())
    broken_bytes(copy)
    with pytest.raises(InputError, match=r"mlflow\.db"):
        Live()


@pytest.mark.parametrize("note", ["", "{}", "[]", '{"version": "1", "digest": "../../etc"}'])
def test_a_note_of_another_make_is_no_copy(note: str, home: Path) -> None:
    Live()
    gone(home)
    (home / "models/champion.json").write_text(note)
    with pytest.raises(InputError, match=r"mlflow\.db"):
        Live()


def test_without_a_model_or_a_copy_the_registry_speaks(home: Path) -> None:
    with pytest.raises(InputError, match="one of"):
        Live("17")
    with pytest.raises(InputError, match="one of"):
        Live("nobody")
    assert not (home / "models").exists()


def test_a_full_home_still_serves(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copytree", full)
    assert Live().status()["degraded"] is False


def test_the_thread_swaps_under_readers_who_see_whole_models(home: Path) -> None:
    live = Live(every=0.02)
    live.start()
    seen: set[tuple[str, int]] = set()
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            loaded = live.loaded
            seen.add((loaded.version, id(loaded.model)))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for version in (2, 1, 2):
        point(home, version)
        until = time.monotonic() + 30
        while live.loaded.version != str(version) and time.monotonic() < until:
            time.sleep(0.01)
        assert live.loaded.version == str(version)
    stop.set()
    for reader in readers:
        reader.join()
    live.stop()
    assert {version for version, _ in seen} == {"1", "2"}


def test_a_model_that_was_swapped_out_is_freed(home: Path) -> None:
    live = Live()
    old = weakref.ref(live.loaded.model)
    point(home, 2)
    assert live.look()
    gc.collect()
    assert old() is None


# Nothing in a bundle can run code


class Payload:
    """What attackers hide in model files: unpickling it makes the marker file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.marker, "ran"))


def carriers(folder: Path, marker: Path) -> dict[str, Callable[[], None]]:
    """Six ways to carry code into a model's folder."""
    plain = pickle.dumps(Payload(marker))
    packed, booster = io.BytesIO(), folder / "churn.ubj"
    joblib.dump(Payload(marker), packed, compress=3)
    array = io.BytesIO()
    np.save(array, np.array([Payload(marker)], object), allow_pickle=True)

    def module() -> None:
        (folder / "MLmodel").write_text("flavors:\n  python_function:\n    loader_module: evil\n")
        (folder / "code").mkdir()
        (folder / "code/evil.py").write_text(f"open({str(marker)!r}, 'w').write('ran')\n")

    return {
        "pickle": lambda: void(booster.write_bytes(plain)),
        "joblib": lambda: void(booster.write_bytes(packed.getvalue())),
        "lzma": lambda: void(booster.write_bytes(lzma.compress(plain))),
        "zlib": lambda: void((folder / "model.pkl.z").write_bytes(zlib.compress(plain))),
        "numpy": lambda: void((folder / "scaler.npy").write_bytes(array.getvalue())),
        "loader_module": module,
    }


def void(_: object) -> None:
    """For writers that return a count."""


@pytest.mark.parametrize("kind", ["pickle", "joblib", "lzma", "zlib", "numpy", "loader_module"])
def test_code_in_a_bundle_is_refused_and_never_runs(kind: str, home: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    live = Live()
    folder = folder_of(2)
    carriers(folder, marker)[kind]()
    point(home, 2)
    assert not live.look()
    assert live.status()["error"] == f"{REFUSED}: 2"
    assert not marker.exists()
    with pytest.raises(BundleError):
        loader.open_folder(folder)
    assert not marker.exists()


def test_300_flipped_bits_are_refused_before_parsing(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every refusal is the digest's: neither xgboost nor the card's reader is reached."""
    folder, rng = folder_of(2), np.random.default_rng(0)

    def reached(*_: object) -> None:
        raise AssertionError("a changed bundle was parsed")

    monkeypatch.setattr(loader, "unpack", reached)
    files = sorted(folder.iterdir())
    sizes = np.array([file.stat().st_size for file in files], float)
    refused = 0
    for _ in range(300):
        file = files[rng.choice(len(files), p=sizes / sizes.sum())]
        data = file.read_bytes()
        place = int(rng.integers(len(data)))
        changed = bytearray(data)
        changed[place] ^= 1 << int(rng.integers(8))
        file.write_bytes(changed)
        try:
            loader.open_folder(folder)
        except BundleError:
            refused += 1
        file.write_bytes(data)
    assert refused == 300
    with pytest.raises(AssertionError, match="parsed"):
        loader.open_folder(folder)  # unchanged again, it is


def test_a_look_asks_no_mlflow(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its import takes seconds and memory, and it waits long for a store that is damaged."""

    def asked(*_: object) -> None:
        raise AssertionError("mlflow was asked")

    monkeypatch.setattr("training.tracking.library", asked)
    monkeypatch.setattr("training.tracking.open_store", asked)
    live = Live()
    damaged(home)
    assert not live.look()
    assert live.status()["error"] == UNREACHABLE
