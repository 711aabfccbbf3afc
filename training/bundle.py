"""The folder that travels: written whole or not at all, verified before anything in it is parsed.

    card.json       what the model is: protocol, feature names and hash, settings, cutoffs, scores
    golden.json     synthetic rows and the predictions they must give; there ``null`` means NaN
    NAME.ubj|json   boosters in xgboost's own format
    manifest.json   protocol, size and keyed digest of every file, and a seal over the manifest

A booster is as good as code: one flipped bit can crash the process or, worse, shift predictions
in silence. So every byte is held against a keyed digest (HMAC-SHA256, RFC 2104) before xgboost or
a JSON parser sees it, and nothing is ever pickled.
"""

from __future__ import annotations

__all__ = ["PROTOCOL", "Parts", "digest", "key", "make_key", "save", "verify"]

import contextlib
import hashlib
import hmac
import itertools
import json
import math
import os
import re
import secrets
import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from features.errors import BundleError, InputError

# 1: card, golden rows, boosters, manifest. A change that old code could misread raises it.
PROTOCOL = 1

BOOSTER = re.compile(r"[a-z0-9_]+\.(?:ubj|json)")
CARD, GOLDEN, MANIFEST = "card.json", "golden.json", "manifest.json"
MEGABYTE = 1 << 20
# Largest size in bytes; a booster of 2,000 trees is below 20 MB.
CAPS = {MANIFEST: MEGABYTE // 4, CARD: 16 * MEGABYTE, GOLDEN: 64 * MEGABYTE}
BOOSTER_CAP = 256 * MEGABYTE
MOST_FILES = 32
KEY_LENGTH = 16  # characters
AGAIN = "Export the model again from its registry (clv export-model)"

# How each allowed format begins, and how what people hide in model files begins.
STARTS = {".ubj": (b"{L", b"{U", b"{i", b"{l", b"{I"), ".json": (b"{",)}
DISGUISES = {
    "a pickle": tuple(b"\x80" + bytes([protocol]) for protocol in range(6)),
    "a zip archive": (b"PK",),
    "a gzip stream": (b"\x1f\x8b",),
    "a zlib stream": (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda"),
    "a bzip2 stream": (b"BZh",),
    "an xz stream": (b"\xfd7zXZ",),
    "an lzma stream": (b"\x5d\x00\x00",),
}


@dataclass(frozen=True)
class Parts:
    """What a bundle holds.

    Attributes
    ----------
    card
        Plain values with text keys and finite numbers. ``feature_hash`` is needed; ``protocol``
        and ``files`` are filled in by `save`.
    files
        Boosters by file name, as ``save_raw`` gives them.
    golden
        Plain values; NaN is allowed and written as ``null``, so ``None`` comes back as NaN.
    """

    card: dict[str, Any]
    files: dict[str, bytes]
    golden: dict[str, Any]


def save(parts: Parts, folder: Path, key: bytes) -> None:
    """Write a bundle: the same parts and key give the same bytes.

    A temporary folder beside ``folder`` is filled, verified and renamed, so that a killed process
    leaves the old state. Folder mode 0700, files 0600.

    Raises
    ------
    InputError
        ``folder`` holds something already, or cannot be written.
    BundleError
        A booster's name or content is not allowed.
    ValueError, TypeError
        Card or golden rows hold what JSON cannot give back exactly.
    """
    contents = _contents(parts)
    contents[MANIFEST] = _manifest(contents, key)
    if folder.is_symlink() or (folder.exists() and not _is_empty(folder)):
        raise InputError(
            f"The folder for the model must be new or empty. Got {folder}, which holds something. "
            "Name another one or remove it."
        )
    temporary = folder.parent / f".{folder.name}.{secrets.token_hex(6)}.tmp"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir(mode=0o700)
        for name, data in contents.items():
            _write(temporary / name, data)
        _sync(temporary)
        verify(temporary, key)
        if folder.exists():
            folder.rmdir()  # Windows renames onto nothing only
        temporary.rename(folder)
        _sync(folder.parent)
    except OSError as error:
        raise InputError(
            f"The model folder must be writable. Got '{error.strerror}' for {folder}. "
            "Free some space or name another place."
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def verify(folder: Path, key: bytes, feature_hash: str | None = None) -> Parts:
    """Check a folder, then read it: names, sizes, first bytes and keyed digests come first.

    Parameters
    ----------
    folder
        What `save` wrote, possibly on another machine.
    key
        The key it was saved with, see `key`.
    feature_hash
        Hash of the features that the running code computes; ``None`` skips the comparison.

    Returns
    -------
    Parts
        Read from the very bytes that were verified.

    Raises
    ------
    BundleError
        Anything is not as it was saved, or was saved for other code.
    """
    data = {name: _read(folder, name) for name in _names(folder)}
    for name, content in data.items():
        _check_start(folder, name, content)
    _check_manifest(folder, data, key)
    card, golden = (_parse(folder, name, data[name]) for name in (CARD, GOLDEN))
    files = {name: data[name] for name in sorted(data) if name not in CAPS}
    if card.get("files") != list(files) or card.get("protocol") != PROTOCOL:
        raise _refusal(folder, "card.json must name the files beside it", card.get("files"), AGAIN)
    if feature_hash is not None and card.get("feature_hash") != feature_hash:
        raise _refusal(
            folder,
            f"feature_hash must be {feature_hash!r}, that of the features this code computes",
            repr(card.get("feature_hash")),
            "Train again with this release, or predict with the release that trained the model",
        )
    return Parts(card=card, files=files, golden=_null_to_nan(golden))


def digest(folder: Path) -> str:
    """SHA-256 of the manifest, as hex: since it pins every file, it names the whole bundle."""
    return hashlib.sha256(_read(folder, MANIFEST)).hexdigest()


def key(home: Path) -> bytes:
    """The secret that bundles are sealed with: ``CLV_KEY``, else the file ``home/key``.

    Raises
    ------
    InputError
        Neither is there, it is shorter than 16 characters, or others may read the file.
    """
    from_environment = os.environ.get("CLV_KEY", "")
    if from_environment:
        return _checked_key(from_environment, "CLV_KEY")
    path = home / "key"
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(
            f"A model is opened with the key that sealed it. Got neither the variable CLV_KEY nor "
            f"the file {path}. Bring one of them from where the model was trained, or train here."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The key file must be readable text. Got {path}: {error}.") from None
    if os.name == "posix" and mode & 0o077:
        raise InputError(
            f"The key file must be readable by its owner alone. Got mode {stat.S_IMODE(mode):04o} "
            f"of {path}. Run: chmod 600 {path}; where modes cannot be set, use CLV_KEY."
        )
    return _checked_key(text.strip(), str(path))


def make_key(home: Path) -> bytes:
    """The key of `key`, made at random (256 bits, mode 0600) where there is none yet."""
    path = home / "key"
    if os.environ.get("CLV_KEY") or path.exists():
        return key(home)
    temporary = home / f".key.{secrets.token_hex(6)}.tmp"
    try:
        home.mkdir(parents=True, exist_ok=True)
        _write(temporary, secrets.token_hex(32).encode() + b"\n")
        # A link appears complete or not at all, and never over another trainer's key.
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
        _sync(home)
    except OSError as error:
        raise InputError(
            f"The first training makes a key. Got '{error.strerror}' for {path}. "
            "Make the folder writable, or set CLV_KEY (16 characters or more)."
        ) from None
    finally:
        temporary.unlink(missing_ok=True)
    return key(home)


def _refusal(folder: Path, must: str, came: object, cure: str) -> BundleError:
    return BundleError(f"Model folder {folder}: {must}. Got {came}. {cure}.")


def _checked_key(text: str, source: str) -> bytes:
    if len(text) < KEY_LENGTH:
        raise InputError(
            f"A key must have at least {KEY_LENGTH} characters. Got {len(text)} in {source}. "
            "Use the key that sealed the model, or a longer one and train again."
        )
    return text.encode("utf-8")


# Writing


def _contents(parts: Parts) -> dict[str, bytes]:
    for name in parts.files:
        if not BOOSTER.fullmatch(name) or name in CAPS:
            raise BundleError(
                f"A file of a model must be named like value.ubj or churn.json, and not like one "
                f"of {', '.join(CAPS)}. Got {name!r}. Rename it."
            )
    filled = {"protocol": PROTOCOL, "files": sorted(parts.files)}
    for name, value in filled.items():
        if parts.card.get(name, value) != value:
            raise ValueError(f"card[{name!r}] must be {value!r} or absent, got {parts.card[name]}")
    if not isinstance(parts.card.get("feature_hash"), str):
        raise TypeError("card['feature_hash'] must be the text that names the features")
    return {
        CARD: _json(_plain(parts.card | filled, "card", nan=False)),
        GOLDEN: _json(_plain(parts.golden, "golden", nan=True)),
        **{name: parts.files[name] for name in sorted(parts.files)},
    }


def _json(value: Any) -> bytes:
    """Canonical JSON: sorted keys, ASCII, floats by their shortest text that reads back exactly."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii") + b"\n"


def _plain(value: Any, where: str, *, nan: bool) -> Any:
    """``value`` as JSON gives it back, so that a bundle read is the bundle saved."""
    if hasattr(value, "tolist"):  # arrays and scalars of numpy, without importing it here
        value = value.tolist()
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if math.isnan(value) and nan:
            return None
        if not math.isfinite(value):
            raise ValueError(f"{where} must be finite, got {value}")
        return value
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise TypeError(f"{where} must have text keys, got {name!r}")
        return {name: _plain(each, f"{where}.{name}", nan=nan) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each, f"{where}[{at}]", nan=nan) for at, each in enumerate(value)]
    raise TypeError(f"{where} must be a plain value, got {type(value).__name__}")


def _write(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _flag("O_BINARY"), 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Make a rename within ``folder`` last; Windows cannot and need not."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _flag(name: str) -> int:
    return int(getattr(os, name, 0))


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


# Checking


def _manifest(contents: Mapping[str, bytes], key: bytes) -> bytes:
    """The manifest is a function of the files and the key, so checking it is making it again."""
    body = {
        "protocol": PROTOCOL,
        "files": {
            name: {
                "bytes": len(data),
                "digest": _keyed(key, b"file\0" + name.encode() + b"\0" + data),
            }
            for name, data in contents.items()
        },
    }
    return _json(body | {"seal": _keyed(key, b"manifest\0" + _json(body))})


def _keyed(key: bytes, data: bytes) -> str:
    return hmac.new(key, b"clv bundle\0" + data, hashlib.sha256).hexdigest()


def _names(folder: Path) -> list[str]:
    """Names of the files in ``folder``, all of them allowed, plain and not too big."""
    if folder.is_symlink() or not folder.is_dir():
        came = "a link" if folder.is_symlink() else "none" if not folder.exists() else "a file"
        raise _refusal(folder, "it must be a folder", came, "Name the folder of an exported model")
    with os.scandir(folder) as entries:
        some = sorted(itertools.islice(entries, MOST_FILES + 1), key=lambda entry: entry.name)
    for entry in some:
        kind = _kind(entry)
        if kind != "file" or not (BOOSTER.fullmatch(entry.name) or entry.name in CAPS):
            must = "it must hold only plain files named like value.ubj or card.json"
            cure = f"Remove it if you put it there, else: {AGAIN}"
            raise _refusal(folder, must, f"the {kind} {entry.name!r}", cure)
    if len(some) > MOST_FILES:
        raise _refusal(folder, f"it must hold at most {MOST_FILES} files", "more", AGAIN)
    names = [entry.name for entry in some]
    for name in sorted(CAPS):
        if name not in names:
            raise _refusal(folder, f"it must hold {name}", f"{len(names)} files without it", AGAIN)
    return names


def _kind(entry: os.DirEntry[str]) -> str:
    if entry.is_symlink():
        return "link"
    if entry.is_dir(follow_symlinks=False):
        return "folder"
    return "file" if entry.is_file(follow_symlinks=False) else "device"


def _read(folder: Path, name: str) -> bytes:
    """The bytes of one file, read once; a link or pipe put there meanwhile is not followed."""
    cap = CAPS.get(name, BOOSTER_CAP)
    flags = os.O_RDONLY | _flag("O_NOFOLLOW") | _flag("O_NONBLOCK") | _flag("O_BINARY")
    try:
        with os.fdopen(os.open(folder / name, flags), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise _refusal(folder, f"{name} must be a plain file", "something else", AGAIN)
            data = file.read(cap + 1)
    except OSError as error:
        must = f"{name} must be a readable file"
        raise _refusal(folder, must, f"'{error.strerror}'", AGAIN) from None
    if len(data) > cap:
        raise _refusal(folder, f"{name} must have at most {cap} bytes", "more", AGAIN)
    return data


def _check_start(folder: Path, name: str, data: bytes) -> None:
    starts = STARTS[Path(name).suffix]
    if not data.startswith(starts):
        came = f"the first bytes {data[:4].hex(' ')!r}" if data else "an empty file"
        for disguise, magic in DISGUISES.items():
            if data.startswith(magic):
                came = f"{disguise} (first bytes {data[:4].hex(' ')!r}), which could run code"
        raise _refusal(folder, f"{name} must be what its ending says", came, AGAIN)


def _check_manifest(folder: Path, data: Mapping[str, bytes], key: bytes) -> None:
    claimed = _parse(folder, MANIFEST, data[MANIFEST])
    # A claim of another protocol is not proven, but it can only lead to a refusal.
    protocol = claimed.get("protocol")
    if type(protocol) is not int or protocol != PROTOCOL:
        newer = type(protocol) is int and protocol > PROTOCOL
        raise _refusal(
            folder,
            f"its protocol must be {PROTOCOL}",
            f"{str(protocol)[:20]!r}, from {'a newer' if newer else 'an older or unknown'} release",
            "Update clv" if newer else "Train again, or use the release that made it",
        )
    files = {name: content for name, content in data.items() if name != MANIFEST}
    expected = _manifest(files, key)
    if hmac.compare_digest(expected, data[MANIFEST]):
        return
    raise _refusal(
        folder,
        "every file must be what was saved under this key",
        _difference(json.loads(expected), claimed),
        f"{AGAIN}, and bring the key it was saved with (CLV_KEY or CLV_HOME/key)",
    )


def _difference(expected: dict[str, Any], claimed: dict[str, Any]) -> str:
    """Where two manifests part: for the message only, the refusal stands already."""
    ours, theirs = expected["files"], claimed.get("files")
    if not isinstance(theirs, dict) or set(ours) != set(theirs):
        return "other files than its manifest names"
    changed = [name for name in sorted(ours) if ours[name] != theirs[name]]
    if len(changed) == len(ours):
        return "another key, or everything changed"
    return f"other bytes in {', '.join(changed)}" if changed else "a changed manifest"


def _parse(folder: Path, name: str, data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise _refusal(folder, f"{name} must be a JSON object", "something else", AGAIN)
    return value


def _null_to_nan(value: Any) -> Any:
    if value is None:
        return math.nan
    if isinstance(value, dict):
        return {name: _null_to_nan(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_null_to_nan(each) for each in value]
    return value
