"""A bundle comes back exactly, and nothing but what was saved under the key is ever parsed."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import hmac
import json
import lzma
import math
import os
import pickle
import random
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import xgboost

from features.errors import BundleError, InputError
from training import bundle
from training.bundle import Parts

KEY = b"0123456789abcdef-key"


def booster(seed: int, form: str = "ubj") -> bytes:
    random_numbers = np.random.default_rng(seed)
    rows = random_numbers.normal(size=(80, 4))
    matrix = xgboost.DMatrix(rows, label=rows[:, 0] + rows[:, 1] ** 2)
    settings = {"nthread": 1, "max_depth": 3, "seed": seed}
    return bytes(xgboost.train(settings, matrix, 8).save_raw(form))


VALUE, CHURN = booster(1), booster(2, "json")


def parts(**card: Any) -> Parts:
    return Parts(
        card={
            "feature_hash": "f00d",
            "features": ["spend_90d", "orders_365d"],
            "scale": 0.1 + 0.2,
            "tiny": 5e-324,
            "customers": 2**60 + 1,
            "nothing": None,
            "words": "Kundenwert ü 客",
            **card,
        },
        files={"value.ubj": VALUE, "churn.json": CHURN},
        golden={"rows": [[1 / 3, math.nan], [-0.0, 1e300]], "revenue_12m": [1.5, 2.25]},
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    bundle.save(parts(), tmp_path / "model", KEY)
    return tmp_path / "model"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def refused(folder: Path, key: bytes = KEY) -> str:
    """The one-line refusal, given before a booster or card of the folder was parsed."""
    with pytest.raises(BundleError) as caught:
        bundle.verify(folder, key)
    text = str(caught.value)
    assert "\n" not in text
    assert "must" in text
    assert "Got" in text
    return text


def resealed(folder: Path, key: bytes) -> None:
    """Write a manifest by hand, as someone with ``key`` would, from the description alone."""

    def keyed(data: bytes) -> str:
        return hmac.new(key, b"clv bundle\0" + data, hashlib.sha256).hexdigest()

    def canonical(value: Any) -> bytes:
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode() + b"\n"

    files = {name: data for name, data in contents(folder).items() if name != "manifest.json"}
    digests = {
        name: {"bytes": len(data), "digest": keyed(b"file\0" + name.encode() + b"\0" + data)}
        for name, data in files.items()
    }
    body = {"files": digests, "protocol": bundle.PROTOCOL}
    sealed = body | {"seal": keyed(b"manifest\0" + canonical(body))}
    (folder / "manifest.json").write_bytes(canonical(sealed))


# What is saved comes back


def test_everything_comes_back_bit_for_bit(folder: Path) -> None:
    saved, loaded = parts(), bundle.verify(folder, KEY, feature_hash="f00d")
    extra = {"protocol": bundle.PROTOCOL, "files": ["churn.json", "value.ubj"]}
    assert loaded.card == saved.card | extra
    assert loaded.files == saved.files
    rows = np.array(loaded.golden["rows"])
    assert rows.tobytes() == np.array(saved.golden["rows"]).tobytes()  # NaN and -0.0 too
    assert loaded.golden["revenue_12m"] == [1.5, 2.25]


def test_floats_of_any_bits_come_back(tmp_path: Path) -> None:
    bits = np.random.default_rng(0).integers(0, 2**64, 5_000, dtype=np.uint64)
    floats = bits.view(np.float64)
    floats = floats[np.isfinite(floats)]
    with np.errstate(over="ignore"):
        narrow = floats.astype(np.float32)
    narrow = narrow[np.isfinite(narrow)]
    saved = Parts({"feature_hash": "", "all": floats}, {}, {"rows": narrow})
    bundle.save(saved, tmp_path / "model", KEY)
    loaded = bundle.verify(tmp_path / "model", KEY)
    assert np.array(loaded.card["all"]).tobytes() == floats.tobytes()
    assert np.array(loaded.golden["rows"], np.float32).tobytes() == narrow.tobytes()


def test_the_booster_predicts_the_same(folder: Path) -> None:
    loaded = bundle.verify(folder, KEY)
    rows = np.random.default_rng(3).normal(size=(20, 4))
    for name, raw in (("value.ubj", VALUE), ("churn.json", CHURN)):
        one, other = xgboost.Booster(), xgboost.Booster()
        one.load_model(bytearray(raw))
        other.load_model(bytearray(loaded.files[name]))
        assert np.array_equal(one.inplace_predict(rows), other.inplace_predict(rows))


def test_same_parts_and_key_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    saved = parts()
    turned = Parts(
        card=dict(reversed(saved.card.items())),
        files=dict(reversed(saved.files.items())),
        golden=dict(reversed(saved.golden.items())),
    )
    bundle.save(turned, tmp_path / "again", KEY)
    assert contents(tmp_path / "again") == contents(folder)
    assert bundle.digest(tmp_path / "again") == bundle.digest(folder)
    bundle.save(saved, tmp_path / "other", KEY + b"x")
    assert bundle.digest(tmp_path / "other") != bundle.digest(folder)
    assert contents(tmp_path / "other")["card.json"] == contents(folder)["card.json"]


def test_the_manifest_is_as_described(folder: Path) -> None:
    before = contents(folder)
    resealed(folder, KEY)
    assert contents(folder) == before


def test_only_the_owner_may_read(folder: Path) -> None:
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_nothing_is_pickled(folder: Path) -> None:
    for name, data in contents(folder).items():
        assert data[:1] == b"{", name


# Saving refuses


def test_a_folder_that_holds_something_stays_as_it_is(folder: Path, tmp_path: Path) -> None:
    before = contents(folder)
    with pytest.raises(InputError, match="new or empty"):
        bundle.save(parts(scale=2.0), folder, KEY)
    assert contents(folder) == before
    (tmp_path / "empty").mkdir()
    bundle.save(parts(), tmp_path / "empty", KEY)
    assert contents(tmp_path / "empty") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "model"]


@pytest.mark.parametrize(
    "name",
    ["../value.ubj", "/value.ubj", "Value.ubj", "value.pkl", "value.ubj.gz", "card.json",
     "manifest.json", "golden.json", ".ubj", "value.ubj\n", "a/b.ubj", "value.joblib"],
)  # fmt: skip
def test_saving_refuses_a_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="must be named"):
        bundle.save(Parts({"feature_hash": ""}, {name: VALUE}, {}), tmp_path / "model", KEY)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("card", "golden", "message"),
    [
        ({"feature_hash": "", "a": [1.0, math.nan]}, {}, r"card\.a\[1\] must be finite"),
        ({"feature_hash": "", "a": math.inf}, {}, r"card\.a must be finite"),
        ({"feature_hash": ""}, {"rows": [[-math.inf]]}, r"golden\.rows\[0\]\[0\] must be finite"),
        ({"feature_hash": "", "a": {12: 1}}, {}, r"card\.a must have text keys, got 12"),
        ({"feature_hash": "", "a": {1, 2}}, {}, r"card\.a must be a plain value, got set"),
        ({}, {}, "feature_hash"),
        ({"feature_hash": "", "protocol": 99}, {}, "protocol"),
        ({"feature_hash": "", "files": ["other.ubj"]}, {}, "files"),
    ],
)
def test_saving_refuses_what_would_not_come_back(
    card: dict[str, Any], golden: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        bundle.save(Parts(card, {"value.ubj": VALUE}, golden), tmp_path / "model", KEY)
    assert list(tmp_path.iterdir()) == []


def test_saving_refuses_a_booster_that_is_none(tmp_path: Path) -> None:
    wrong = Parts({"feature_hash": ""}, {"value.ubj": pickle.dumps(1)}, {})
    with pytest.raises(BundleError, match="a pickle"):
        bundle.save(wrong, tmp_path / "model", KEY)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left on device"):
        bundle.save(parts(), tmp_path / "model", KEY)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("calls", range(8))
def test_a_killed_writer_leaves_no_model(calls: int, tmp_path: Path) -> None:
    """SIGKILL at each write to the disk: the folder is absent or verifies."""
    child = os.fork()
    if child == 0:
        left, sync = [calls], os.fsync

        def deadly(descriptor: int) -> None:
            if left[0] == 0:
                os.kill(os.getpid(), 9)
            left[0] -= 1
            sync(descriptor)

        os.fsync = deadly
        try:
            bundle.save(parts(), tmp_path / "model", KEY)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    if (tmp_path / "model").exists():
        assert bundle.verify(tmp_path / "model", KEY).files == parts().files
    else:
        bundle.save(parts(), tmp_path / "model", KEY)
        assert bundle.verify(tmp_path / "model", KEY).files == parts().files


# Attacks


def test_300_flipped_bits_are_refused(folder: Path) -> None:
    good, dice = contents(folder), random.Random(0)
    names = sorted(good)
    for _ in range(300):
        name = dice.choice(names)
        data = bytearray(good[name])
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        (folder / name).write_bytes(data)
        refused(folder)
        (folder / name).write_bytes(good[name])
    assert bundle.verify(folder, KEY).files == parts().files


def test_nothing_is_parsed_before_the_digests_hold(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[bytes] = []
    loads = json.loads

    def watched(data: Any) -> Any:
        read.append(data)
        return loads(data)

    good = contents(folder)
    (folder / "card.json").write_bytes(good["card.json"].replace(b"f00d", b"f00e"))
    monkeypatch.setattr(json, "loads", watched)
    assert "card.json" in refused(folder)
    changed = contents(folder)
    assert changed["card.json"] not in read
    assert changed["golden.json"] not in read


def test_cut_empty_and_swapped_files_are_refused(folder: Path) -> None:
    good, dice = contents(folder), random.Random(1)
    for _ in range(50):
        name = dice.choice(sorted(good))
        (folder / name).write_bytes(good[name][: dice.randrange(len(good[name]))])
        refused(folder)
        (folder / name).write_bytes(good[name] + b" ")
        refused(folder)
        (folder / name).write_bytes(good[name])
    for name, data in good.items():
        (folder / name).unlink()
        refused(folder)
        (folder / name).write_bytes(data)
    (folder / "value.ubj").write_bytes(booster(9))
    assert "other bytes in value.ubj" in refused(folder)


def test_swapped_boosters_are_refused(tmp_path: Path) -> None:
    two = Parts({"feature_hash": ""}, {"a.ubj": VALUE, "b.ubj": booster(4)}, {})
    bundle.save(two, tmp_path / "model", KEY)
    (tmp_path / "model/a.ubj").rename(tmp_path / "c")
    (tmp_path / "model/b.ubj").rename(tmp_path / "model/a.ubj")
    (tmp_path / "c").rename(tmp_path / "model/b.ubj")
    assert "a.ubj, b.ubj" in refused(tmp_path / "model")


def test_a_manifest_rewritten_without_the_key_is_refused(folder: Path) -> None:
    (folder / "value.ubj").write_bytes(booster(9))
    resealed(folder, b"the key of the attacker")
    assert "another key" in refused(folder)
    resealed(folder, KEY)
    assert bundle.verify(folder, KEY).files["value.ubj"] == booster(9)


def test_the_wrong_key_is_refused(folder: Path) -> None:
    text = refused(folder, b"another key, long enough")
    assert "another key" in text
    assert "CLV_KEY" in text


def test_a_file_from_an_older_bundle_is_refused(folder: Path, tmp_path: Path) -> None:
    bundle.save(parts(scale=1.0), tmp_path / "old", KEY)
    for name in ("card.json", "manifest.json"):
        good = (folder / name).read_bytes()
        shutil.copyfile(tmp_path / "old" / name, folder / name)
        refused(folder)
        (folder / name).write_bytes(good)


class Bomb:
    """Touches a file when unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, int, int]]:
        return (os.open, (str(self.marker), os.O_CREAT | os.O_WRONLY, 0o600))


def payloads(marker: Path, scratch: Path) -> dict[str, bytes]:
    bomb = Bomb(marker)
    joblib.dump(bomb, scratch / "compressed", compress=3)
    joblib.dump(bomb, scratch / "lzma", compress=("lzma", 3))
    with zipfile.ZipFile(scratch / "zip", "w") as archive:
        archive.writestr("data.pkl", pickle.dumps(bomb))
    raw = pickle.dumps(bomb, protocol=4)
    return {
        "pickle": raw,
        "pickle of protocol 0": pickle.dumps(bomb, protocol=0),
        "joblib with zlib": (scratch / "compressed").read_bytes(),
        "joblib with lzma": (scratch / "lzma").read_bytes(),
        "zip": (scratch / "zip").read_bytes(),
        "gzip": gzip.compress(raw),
        "bz2": bz2.compress(raw),
        "xz": lzma.compress(raw),
        "zlib": zlib.compress(raw),
    }


KINDS = [
    "pickle",
    "pickle of protocol 0",
    "joblib with zlib",
    "joblib with lzma",
    "zip",
    "gzip",
    "bz2",
    "xz",
    "zlib",
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["value.ubj", "churn.json", "card.json", "extra.pkl", "x.joblib"])
def test_code_is_refused_by_name_and_first_bytes(
    kind: str, name: str, folder: Path, tmp_path: Path
) -> None:
    marker = tmp_path / "marker"
    data = payloads(marker, tmp_path)[kind]
    (folder / name).write_bytes(data)
    if kind.startswith(("pickle", "joblib")):
        loaded = joblib.load(folder / name)  # the bomb is live
        assert marker.exists()
        os.close(loaded)
        marker.unlink()
    assert name in refused(folder)
    resealed(folder, KEY)  # even with the key
    assert name in refused(folder)
    assert not marker.exists()


def test_a_foreign_mlflow_model_is_never_run(folder: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    (folder / "code").mkdir()
    (folder / "code/evil.py").write_text(f"open({str(marker)!r}, 'w')\n_load_pyfunc = print\n")
    (folder / "MLmodel").write_text(
        "flavors:\n  python_function:\n    loader_module: evil\n    code: code\n"
    )
    assert "MLmodel" in refused(folder)
    assert not marker.exists()


@pytest.mark.parametrize("kind", ["link", "folder", "pipe", "hidden", "linked folder", "many"])
def test_only_plain_files_are_read(kind: str, folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.ubj"
    outside.write_bytes(VALUE)
    if kind == "link":
        (folder / "value.ubj").unlink()
        (folder / "value.ubj").symlink_to(outside)
    elif kind == "folder":
        (folder / "sub.ubj").mkdir()
    elif kind == "pipe":
        (folder / "value.ubj").unlink()
        os.mkfifo(folder / "value.ubj")
    elif kind == "hidden":
        (folder / ".DS_Store").write_bytes(b"")
    elif kind == "many":
        for number in range(40):
            (folder / f"b{number}.ubj").write_bytes(VALUE)
    else:
        (tmp_path / "elsewhere").symlink_to(folder, target_is_directory=True)
        folder = tmp_path / "elsewhere"
    refused(folder)
    if kind in ("link", "many"):
        resealed(folder, KEY)
        refused(folder)


@pytest.mark.parametrize("named", ["../outside.ubj", "/etc/passwd", "sub/x.ubj", "value.ubj/.."])
def test_a_manifest_that_names_other_places_is_refused(named: str, folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["files"][named] = manifest["files"]["value.ubj"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert "other files" in refused(folder)


def test_a_link_put_there_between_look_and_read_is_not_followed(
    folder: Path, tmp_path: Path
) -> None:
    (folder / "value.ubj").rename(tmp_path / "value.ubj")
    (folder / "value.ubj").symlink_to(tmp_path / "value.ubj")
    with pytest.raises(BundleError, match="readable file"):
        bundle._read(folder, "value.ubj")


def test_too_big_a_file_is_not_read_whole(folder: Path) -> None:
    with (folder / "manifest.json").open("r+b") as file:
        file.truncate(1 << 34)  # a hole of 16 GB, no space on the disk
    assert "at most" in refused(folder)


def test_a_deeply_nested_manifest_is_refused(folder: Path) -> None:
    (folder / "manifest.json").write_bytes(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}")
    assert "JSON object" in refused(folder)


@pytest.mark.parametrize("where", ["missing", "a file"])
def test_there_must_be_a_folder(where: str, tmp_path: Path) -> None:
    if where == "a file":
        (tmp_path / "model").write_bytes(b"")
    assert "must be a folder" in refused(tmp_path / "model")


# Models for other code


@pytest.mark.parametrize(
    ("protocol", "word", "cure"),
    [(2, "newer", "Update clv"), (0, "older", "Train again"), ("1", "unknown", "Train again"),
     (None, "unknown", "Train again"), (True, "unknown", "Train again")],
)  # fmt: skip
def test_another_protocol_is_refused_with_its_reason(
    protocol: Any, word: str, cure: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(folder)
    monkeypatch.setattr(bundle, "PROTOCOL", protocol)
    saved = parts()
    contents_ = bundle._contents(saved)
    folder.mkdir()
    for name, data in (contents_ | {"manifest.json": bundle._manifest(contents_, KEY)}).items():
        (folder / name).write_bytes(data)
    monkeypatch.undo()
    text = refused(folder)
    assert "protocol must be 1" in text
    assert word in text
    assert cure in text


@pytest.mark.parametrize("other", ["", "f00d ", "F00D", "beef", "f00"])
def test_other_features_are_refused_by_name(other: str, folder: Path) -> None:
    with pytest.raises(BundleError, match=r"feature_hash must be .*'f00d'"):
        bundle.verify(folder, KEY, feature_hash=other)


# The key


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CLV_KEY", raising=False)


def test_a_key_is_made_once_for_the_owner_alone(tmp_path: Path) -> None:
    made = bundle.make_key(tmp_path / "home")
    path = tmp_path / "home/key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert bundle.make_key(tmp_path / "home") == bundle.key(tmp_path / "home") == made
    assert len(made) == 64
    assert bundle.make_key(tmp_path / "other") != made
    assert [each.name for each in path.parent.iterdir()] == ["key"]


def test_the_text_of_the_file_is_the_key_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = bundle.make_key(tmp_path)
    monkeypatch.setenv("CLV_KEY", (tmp_path / "key").read_text().strip())
    assert bundle.key(tmp_path / "nowhere") == made
    assert bundle.make_key(tmp_path / "nowhere") == made
    assert not (tmp_path / "nowhere").exists()


def test_trainers_that_start_together_agree_on_one_key(tmp_path: Path) -> None:
    children = []
    for number in range(8):
        child = os.fork()
        if child == 0:
            (tmp_path / f"seen{number}").write_bytes(bundle.make_key(tmp_path / "home"))
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    seen = {(tmp_path / f"seen{number}").read_bytes() for number in range(8)}
    assert seen == {bundle.key(tmp_path / "home")}


def test_without_a_key_both_places_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        bundle.key(tmp_path)
    assert "CLV_KEY" in str(caught.value)
    assert str(tmp_path / "key") in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660])
def test_a_key_that_others_can_read_is_refused(mode: int, tmp_path: Path) -> None:
    bundle.make_key(tmp_path)
    (tmp_path / "key").chmod(mode)
    with pytest.raises(InputError, match=rf"{mode:04o}.*chmod 600"):
        bundle.key(tmp_path)


def test_a_short_key_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text("fifteen letters\n")
    (tmp_path / "key").chmod(0o600)
    with pytest.raises(InputError, match=r"at least 16 characters.* Got 15"):
        bundle.key(tmp_path)
    monkeypatch.setenv("CLV_KEY", "short")
    with pytest.raises(InputError, match="Got 5 in CLV_KEY"):
        bundle.key(tmp_path)
    monkeypatch.setenv("CLV_KEY", "x" * 16)
    assert bundle.key(tmp_path) == b"x" * 16
