"""Runs and versions of the model: log, register, promote, roll back, fetch.

    mlruns/mlflow.db      runs, metrics, versions, aliases
    mlruns/artifacts      pictures, and every version's bundle under models/ID/artifacts/data/bundle
    CLV_HOME/audit.jsonl  who was champion when, and why: one line for each change

What predicting needs (which version is champion, and where it lies) is read without mlflow.
"""

from __future__ import annotations

__all__ = [
    "CHALLENGER",
    "CHAMPION",
    "Dataset",
    "Version",
    "challenger",
    "champion",
    "fetch",
    "find",
    "home",
    "log_run",
    "mlruns",
    "promote",
    "reap",
    "rollback",
    "tracking_uri",
    "versions",
]

import contextlib
import json
import os
import re
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from features.errors import BundleError, ClvError, InputError
from training import bundle, tracking
from training.tracking import home, mlruns, tracking_uri

if TYPE_CHECKING:
    import pandas as pd

MODEL = "clv"  # the registered model, and the experiment
CHAMPION, CHALLENGER = "champion", "challenger"
HISTORY = "clv.champions"  # tag of the model: version numbers, the newest last
DIGEST = "clv.bundle_digest"  # tag of a version: see `bundle.digest`
INSIDE = "data/bundle"  # where the bundle lies within the artifacts of a version


@dataclass(frozen=True)
class Version:
    """One registered version of the model."""

    number: int
    run_id: str
    uri: str  # as MLflow names it: models:/clv/NUMBER
    source: str  # recorded place of its artifacts; may be outdated after a move, see `fetch`
    digest: str  # of its bundle, as it was when registered; empty if unknown
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """What a run learned from, as MLflow shows it: names and numbers, no rows."""

    name: str
    digest: str  # fingerprint of the sorted rows, at most 36 characters
    source: str  # file name or database, without credentials
    profile: Mapping[str, Any]  # counts and dates


# Reading


def versions() -> list[Version]:
    """All registered versions, oldest first; none where nothing was trained yet."""
    file = tracking.database()
    if file and not file.exists():
        return []
    found = _look_up(file) if file else None
    return _ask(tracking.open_store()) if found is None else found


def champion() -> Version | None:
    """The version that predicts, if there is one."""
    return _holder(versions(), CHAMPION)


def challenger() -> Version | None:
    """The newest version that waits for its promotion, if there is one."""
    return _holder(versions(), CHALLENGER)


def find(wanted: int | str = CHAMPION) -> Version:
    """The version of a number or alias; ``InputError`` with the known ones if there is none."""
    return _pick(versions(), wanted)


def fetch(version: int | str = CHAMPION) -> Path:
    """The folder of a version's bundle on this machine; unverified, so hand it to `bundle.verify`.

    A tree that was moved or copied is read where it is now. From a tracking server the bundle is
    downloaded once, to ``CLV_HOME/models``.

    Raises
    ------
    InputError
        No such version, or its files are gone.
    BundleError
        Another bundle lies where the registered one was, for example an older one put back.
    """
    return _folder(_pick(versions(), version))


def _known(store: tracking.Store) -> list[Version]:
    """`versions` for those who hold the lock, and so must not open the store again."""
    file = tracking.database()
    found = _look_up(file) if file else None
    return _ask(store) if found is None else found


def _look_up(file: Path) -> list[Version] | None:
    """`versions` by plain SQL: milliseconds, where importing mlflow takes seconds.

    ``None`` where the tables are not as expected (another release, or just being made): then
    MLflow itself is asked.
    """
    # One statement, so that a promotion meanwhile is seen whole or not at all.
    query = """
        SELECT v.version, v.run_id, coalesce(v.storage_location, v.source), t.value,
               group_concat(a.alias)
        FROM model_versions v
        LEFT JOIN model_version_tags t ON t.name = v.name AND t.version = v.version AND t.key = ?
        LEFT JOIN registered_model_aliases a ON a.name = v.name AND a.version = v.version
        WHERE v.name = ? AND v.current_stage <> 'Deleted_Internal'
        GROUP BY v.version ORDER BY v.version"""
    try:
        with contextlib.closing(tracking.connect(file)) as connection:
            rows = connection.execute(query, (DIGEST, MODEL)).fetchall()
    except sqlite3.OperationalError:
        return None
    except sqlite3.DatabaseError:
        return _ask(tracking.open_store())  # says what is wrong with the file
    return [
        _version(number, run, source, digest, aliases.split(",") if aliases else ())
        for number, run, source, digest, aliases in rows
    ]


def _ask(store: tracking.Store) -> list[Version]:
    """`versions` as MLflow tells them."""
    if not store.search_registered_models(f"name = '{MODEL}'"):
        return []
    # Aliases first: whatever they name is then among the versions.
    aliases = store.get_registered_model(MODEL).aliases
    known = [
        _version(
            int(each.version),
            each.run_id,
            store.get_model_version_download_uri(MODEL, each.version),
            each.tags.get(DIGEST),
            [alias for alias, at in aliases.items() if int(at) == int(each.version)],
        )
        for each in store.search_model_versions(f"name = '{MODEL}'")
    ]
    return sorted(known, key=lambda each: each.number)


def _version(
    number: int, run: str | None, source: str, digest: str | None, aliases: Sequence[str]
) -> Version:
    uri = f"models:/{MODEL}/{number}"
    return Version(number, run or "", uri, source, digest or "", tuple(sorted(aliases)))


def _holder(known: Sequence[Version], alias: str) -> Version | None:
    return next((each for each in known if alias in each.aliases), None)


def _pick(known: Sequence[Version], wanted: int | str) -> Version:
    if not known:
        raise InputError(
            f"A trained model must be registered. Got none in {tracking.place()}. "
            "Run clv train DATA first, or set CLV_HOME to where it was trained."
        )
    for each in known:
        if str(wanted) == str(each.number) or wanted in each.aliases:
            return each
    names = ", ".join(f"{each.number} {' '.join(each.aliases)}".strip() for each in known[-20:])
    cure = "Promote one by clv promote VERSION" if wanted == CHAMPION else "Name one of them"
    raise InputError(f"The model must be one of: {names}. Got {wanted!r}. {cure}.")


def _folder(version: Version) -> Path:
    folder = _local(version) or _download(version)
    if version.digest and bundle.digest(folder) != version.digest:
        raise BundleError(
            f"Model folder {folder}: it must hold the bundle that was registered as version "
            f"{version.number}. Got another one. Restore the folder, or go back by clv rollback."
        )
    return folder


def _local(version: Version) -> Path | None:
    """Where the bundle lies in this tree, else where it was recorded; ``None`` if far away."""
    recorded = tracking.local_path(version.source)
    if recorded is None:
        return None
    # MLflow records absolute paths. The tail holds after a move, and in a copy it is the copy's.
    here = tracking.artifacts()
    tail = re.search(r"models/m-[0-9a-f]+/artifacts$", recorded.as_posix())
    places = [here / tail.group()] if here and tail else []
    for place in (*places, recorded):
        if (place / INSIDE).is_dir():
            return place / INSIDE
    raise InputError(
        f"The files of version {version.number} must be in {(places or [recorded])[0]}. "
        "Got no such folder. Restore it, or set CLV_HOME to the tree that holds it."
    )


def _download(version: Version) -> Path:
    if not re.fullmatch("[0-9a-f]{64}", version.digest):  # it becomes part of a path
        raise InputError(
            f"Version {version.number} must carry the digest of its bundle ({DIGEST}). "
            f"Got {version.digest[:70]!r}. Name a version that clv train registered."
        )
    target = home() / "models" / version.digest
    if not target.exists():
        download = tracking.library("artifacts").download_artifacts
        uri, source = tracking_uri(), f"{version.source.rstrip('/')}/{INSIDE}"
        with tracking.plainly(), tracking.quiet(), _beside(target) as scratch:
            came = download(artifact_uri=source, dst_path=scratch, tracking_uri=uri)
            # Two processes may fetch at once; whoever comes second finds the same bytes there.
            with contextlib.suppress(OSError):
                Path(came).rename(target)
    return target


def _beside(target: Path) -> tempfile.TemporaryDirectory[str]:
    target.parent.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(dir=target.parent, prefix=".download-")


# Champion and challenger


def promote(version: int | str, reason: str = "") -> Version:
    """Make a version champion, after its bundle was verified; one write decides.

    Raises
    ------
    InputError
        No such version. BundleError: its bundle is not as it was saved.
    """
    target = _verified(_pick(versions(), version))
    store = tracking.open_store()
    with tracking.lock():
        known = _known(store)
        before = _holder(known, CHAMPION)
        if before is None or before.number != target.number:
            _record("promote", before, target, reason)
            _tag_history(store, [*_history(store, before), target.number])
            _point(store, CHAMPION, target)
        if CHALLENGER in _pick(known, target.number).aliases:
            store.delete_registered_model_alias(MODEL, CHALLENGER)
    return _pick(versions(), target.number)


def rollback(reason: str = "") -> Version:
    """Make the champion before the present one champion again; repeated, it goes further back.

    Raises
    ------
    InputError
        There was none before. BundleError: its bundle is not as it was saved.
    """
    _pick(versions(), CHAMPION)
    store = tracking.open_store()
    with tracking.lock():
        known = _known(store)
        before = _holder(known, CHAMPION)
        alive = {each.number for each in known}
        earlier = [number for number in _history(store, before)[:-1] if number in alive]
        if not earlier:
            raise InputError(
                f"Going back needs an earlier champion. Got version "
                f"{before.number if before else 'none'} as the only one. "
                "Name a version by clv promote VERSION."
            )
        target = _verified(_pick(known, earlier[-1]))
        _record("rollback", before, target, reason)
        _point(store, CHAMPION, target)
        _tag_history(store, earlier)
    return _pick(versions(), target.number)


def _history(store: tracking.Store, now: Version | None) -> list[int]:
    """Champions up to the present one, which the alias alone decides.

    A process killed between alias and tag leaves a tag that is one longer: that end is dropped.
    """
    tag = store.get_registered_model(MODEL).tags.get(HISTORY, "")
    history = [int(number) for number in tag.split() if number.isdigit()]
    if now is None:
        return history
    if now.number not in history:
        return [*history, now.number]
    while history[-1] != now.number:
        history.pop()
    return history


def _tag_history(store: tracking.Store, history: Sequence[int]) -> None:
    store.set_registered_model_tag(MODEL, HISTORY, " ".join(map(str, history[-500:])))


def _point(store: tracking.Store, alias: str, version: Version) -> None:
    """The one write that decides: a killed process leaves the old version or the new one."""
    store.set_registered_model_alias(MODEL, alias, str(version.number))


def _verified(version: Version) -> Version:
    bundle.verify(_folder(version), bundle.key(home()))
    return version


def _record(action: str, before: Version | None, after: Version, reason: str) -> None:
    """A line in the audit file, on disk before the alias moves: no change goes unrecorded."""
    line = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "action": action,
        "from": before.number if before else None,
        "to": after.number,
        "reason": reason,
    }
    path = home() / "audit.jsonl"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "ab") as file:
            file.write(json.dumps(line).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise InputError(
            f"The audit file must be writable. Got '{error.strerror}' for {path}. "
            "Free some space or mend its mode; no version was moved."
        ) from None


# Logging


def log_run(
    *,
    bundle_folder: Path,
    loader_module: str,
    inputs: pd.DataFrame,
    outputs: pd.DataFrame,
    requirements: Sequence[str],
    params: Mapping[str, Any],
    metrics: Mapping[str, float],
    tags: Mapping[str, str] | None = None,
    artifacts: Mapping[str, Path] | None = None,
    datasets: Sequence[Dataset] = (),
    name: str | None = None,
    started: float | None = None,
) -> Version:
    """Log one finished training and register its bundle; the first one becomes champion.

    Parameters
    ----------
    bundle_folder
        What `bundle.save` wrote with the key of `home`.
    loader_module
        Module with ``_load_pyfunc(folder)``, for people who load the model through MLflow.
    inputs, outputs
        A few synthetic rows and their predictions: signature and input example. Inputs become
        float64, since a ``double`` column of a signature refuses integers.
    requirements
        Packages to load the model with, as pip reads them.
    artifacts
        Path within the run (``plots/gain.png``) -> file.
    started
        Seconds since the epoch, when training began.

    Raises
    ------
    InputError
        MLflow's store cannot be reached or written. The run is then marked FAILED.
    """
    sealed = _sealed(bundle_folder)
    store = tracking.open_store(create=True)
    tracking.reap(store)
    run = store.create_run(
        tracking.experiment(store),
        start_time=None if started is None else int(started * 1000),
        tags={**(tags or {}), **tracking.this_process()},
        run_name=name,
    )
    status = "FAILED"
    try:
        with tracking.plainly():
            _log_files(store, run.info.run_id, artifacts or {})
            model = _log_model(
                store, run, bundle_folder, loader_module, inputs, outputs, requirements
            )
            _log_values(store, model, params, metrics, datasets)
        version = _register(store, model, sealed)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        with contextlib.nullcontext() if status == "FINISHED" else contextlib.suppress(ClvError):
            store.set_terminated(run.info.run_id, status)
    return version


def reap() -> int:
    """Mark runs as KILLED whose process on this machine is gone; returns how many.

    A trainer that was killed cannot do it itself, and its run would stay RUNNING for ever.
    """
    file = tracking.database()
    return 0 if file and not file.exists() else tracking.reap(tracking.open_store())


def _sealed(folder: Path) -> str:
    bundle.verify(folder, bundle.key(home()))
    return bundle.digest(folder)


def _log_values(
    store: tracking.Store,
    model: Any,
    params: Mapping[str, Any],
    metrics: Mapping[str, float],
    datasets: Sequence[Dataset],
) -> None:
    entities = tracking.library("entities")
    run_id, now = model.source_run_id, int(time.time() * 1000)
    # With the model's id they stand on the run and on the model.
    values = [
        entities.Metric(key, float(value), now, 0, model_id=model.model_id)
        for key, value in metrics.items()
    ]
    texts = [entities.Param(key, str(value)) for key, value in params.items()]
    # MLflow takes at most 1,000 metrics and 100 parameters at a time.
    for at in range(0, len(values), 500):
        store.log_batch(run_id, metrics=values[at : at + 500])
    for at in range(0, len(texts), 100):
        store.log_batch(run_id, params=texts[at : at + 100])
    sources = [
        entities.Dataset(
            each.name, each.digest, "local", each.source, profile=json.dumps(dict(each.profile))
        )
        for each in datasets
    ]
    context = [entities.InputTag("mlflow.data.context", "training")]
    if sources:
        store.log_inputs(run_id, [entities.DatasetInput(each, tags=context) for each in sources])


def _log_files(store: tracking.Store, run_id: str, artifacts: Mapping[str, Path]) -> None:
    if not artifacts:
        return
    with tempfile.TemporaryDirectory() as scratch:
        for name, path in artifacts.items():
            inside = PurePosixPath(name)
            if inside.is_absolute() or ".." in inside.parts:
                raise ValueError(f"an artifact must have a path within the run, got {name!r}")
            target = Path(scratch, inside)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        store.log_artifacts(run_id, scratch)


def _log_model(
    store: tracking.Store,
    run: Any,
    folder: Path,
    loader_module: str,
    inputs: pd.DataFrame,
    outputs: pd.DataFrame,
    requirements: Sequence[str],
) -> Any:
    """The bundle as a logged model. Nothing is loaded or run in order to store it."""
    entities, models = tracking.library("entities"), tracking.library("models")
    save_model = tracking.library("pyfunc").save_model
    example = inputs.astype("float64")
    model = store.create_logged_model(
        run.info.experiment_id, name="model", source_run_id=run.info.run_id
    )
    with tempfile.TemporaryDirectory() as scratch, tracking.quiet():
        # MLflow keeps the folder's name, and `fetch` relies on it.
        shutil.copytree(folder, Path(scratch, "bundle"))
        save_model(
            path=str(Path(scratch, "model")),
            loader_module=loader_module,
            data_path=str(Path(scratch, "bundle")),
            signature=models.infer_signature(example, outputs),
            input_example=example,
            pip_requirements=list(requirements),
            mlflow_model=models.Model(
                artifact_path=model.artifact_location,
                run_id=run.info.run_id,
                model_uuid=model.model_id,
                model_id=model.model_id,
            ),
        )
        store.log_model_artifacts(model.model_id, str(Path(scratch, "model")))
    store.log_outputs(run.info.run_id, [entities.LoggedModelOutput(model.model_id, step=0)])
    return store.finalize_logged_model(model.model_id, "READY")


def _register(store: tracking.Store, model: Any, sealed: str) -> Version:
    """A new version: champion if there is none, else challenger.

    Without its alias a version is harmless, so it comes first: a process killed in between leaves
    the old champion, or none where there was none, and then the next version becomes it.
    """
    # MLflow resolves models:/ID through its global setting, which is not ours to change.
    source = model.artifact_location if tracking.database() else f"models:/{model.model_id}"
    with tracking.lock():
        if not store.search_registered_models(f"name = '{MODEL}'"):
            store.create_registered_model(MODEL)
        created = store.create_model_version(
            MODEL,
            source,
            run_id=model.source_run_id,
            tags={DIGEST: sealed},
            model_id=model.model_id,
        )
        entry = [{"name": MODEL, "version": int(created.version)}]
        store.set_logged_model_tags(model.model_id, {"mlflow.modelVersions": json.dumps(entry)})
        known = _known(store)
        version = _verified(_pick(known, int(created.version)))
        if _holder(known, CHAMPION):
            _point(store, CHALLENGER, version)
        else:
            _record("first champion", None, version, "")
            _point(store, CHAMPION, version)
            _tag_history(store, _history(store, version))
    return _pick(versions(), version.number)
