"""Runs and versions of the model: log, register, promote, roll back, fetch.

    mlruns/mlflow.db      runs, metrics, versions, aliases
    mlruns/artifacts      pictures, and every version's bundle under models/ID/artifacts/data/bundle
    CLV_HOME/audit.jsonl  who was champion when, and why: one line for each change, see `audit`

What predicting needs (which version is champion, and where it lies) is read without mlflow.
"""

from __future__ import annotations

__all__ = [
    "CHALLENGER",
    "CHAMPION",
    "Dataset",
    "Trial",
    "Version",
    "challenger",
    "champion",
    "fetch",
    "find",
    "glance",
    "home",
    "locate",
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
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.errors import ClvError, GateError, InputError
from training import audit, bundle, folders, runs, tracking
from training.folders import DIGEST
from training.gate import MOST_TEXT, REFUSED, TAG, TAG_REASON
from training.runs import Dataset, Trial
from training.tracking import MODEL, home, mlruns, tracking_uri

if TYPE_CHECKING:
    import pandas as pd

    from training.gate import Verdict

CHAMPION, CHALLENGER = "champion", "challenger"
FORCED, NONE = "forced", "none"  # beside `gate.PASSED` and `gate.REFUSED`


@dataclass(frozen=True)
class Version:
    """One registered version of the model."""

    number: int
    run_id: str
    uri: str  # as MLflow names it: models:/clv/NUMBER
    source: str  # recorded place of its artifacts; may be outdated after a move, see `fetch`
    digest: str  # of its bundle, as it was when registered; empty if unknown
    aliases: tuple[str, ...] = ()
    gate: str = NONE  # what the gate said: passed, refused, forced (promoted all the same), none
    gate_reason: str = ""


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


def glance(wanted: int | str = CHAMPION) -> Version:
    """`find` for those who look every few seconds: a local store is read by SQL or not at all.

    Raises
    ------
    InputError
        No such version, or the store is missing, locked, damaged or does not answer.
    """
    file = tracking.database()
    if file is None:
        return find(wanted)
    try:
        return _pick(_selected(file) if file.exists() else [], wanted)
    except sqlite3.Error as error:
        raise InputError(
            f"MLflow's store {file} must be readable. Got: {error}. Restore it from a copy, or end "
            "the process that holds it."
        ) from None


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
    return locate(_pick(versions(), version))


def locate(version: Version) -> Path:
    """`fetch` for a version that was just looked up."""
    return folders.find(version.number, version.source, version.digest)


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
    try:
        return _selected(file)
    except sqlite3.OperationalError:
        return None
    except sqlite3.DatabaseError:
        return _ask(tracking.open_store())  # says what is wrong with the file


def _selected(file: Path) -> list[Version]:
    # One statement, so that a promotion meanwhile is seen whole or not at all.
    query = """
        SELECT v.version, v.run_id, coalesce(v.storage_location, v.source), d.value,
               g.value, r.value, group_concat(a.alias)
        FROM model_versions v
        LEFT JOIN model_version_tags d ON d.name = v.name AND d.version = v.version AND d.key = ?
        LEFT JOIN model_version_tags g ON g.name = v.name AND g.version = v.version AND g.key = ?
        LEFT JOIN model_version_tags r ON r.name = v.name AND r.version = v.version AND r.key = ?
        LEFT JOIN registered_model_aliases a ON a.name = v.name AND a.version = v.version
        WHERE v.name = ? AND v.current_stage <> 'Deleted_Internal'
        GROUP BY v.version ORDER BY v.version"""
    with contextlib.closing(tracking.connect(file)) as connection:
        rows = connection.execute(query, (DIGEST, TAG, TAG_REASON, MODEL)).fetchall()
    return [
        _version(number, run, source, tags, aliases.split(",") if aliases else ())
        for number, run, source, *tags, aliases in rows
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
            [each.tags.get(key) for key in (DIGEST, TAG, TAG_REASON)],
            [alias for alias, at in aliases.items() if int(at) == int(each.version)],
        )
        for each in store.search_model_versions(f"name = '{MODEL}'")
    ]
    return sorted(known, key=lambda each: each.number)


def _version(
    number: int,
    run: str | None,
    source: str,
    tags: Sequence[str | None],
    aliases: Sequence[str],
) -> Version:
    uri, (digest, gate, reason) = f"models:/{MODEL}/{number}", tags
    return Version(
        number, run or "", uri, source, digest or "", tuple(sorted(aliases)), gate or NONE,
        reason or "",
    )  # fmt: skip


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


# Champion and challenger


def promote(version: int | str, reason: str = "", force: str | None = None) -> Version:
    """Make a version champion, after its bundle was verified; one write decides.

    ``force`` says why a version becomes champion that the gate refused: the audit line and the
    version's tags keep it.

    Raises
    ------
    GateError
        The gate refused the version, and no ``force`` was given.
    InputError
        No such version, or an empty ``force``. BundleError: its bundle is not as it was saved.
    """
    if force is not None and not force.strip():
        raise InputError(
            f"Forcing a version needs a reason for the audit line. Got {force!r}. "
            f'Write clv promote {version} --force "WHY".'
        )
    number = _verified(_pick(versions(), version)).number
    store = tracking.open_store()
    with tracking.lock():
        known = _known(store)
        before, target = _holder(known, CHAMPION), _pick(known, number)
        if before is None or before.number != target.number:
            _admit(target, force)
            _record("promote", before, target, reason, force or "")
            if target.gate == REFUSED:
                _tag_forced(store, target, force or "")
            now = before.number if before else None
            audit.tag_history(store, [*audit.history(store, now), target.number])
            _point(store, CHAMPION, target)
        if CHALLENGER in target.aliases:
            store.delete_registered_model_alias(MODEL, CHALLENGER)
    return _pick(versions(), number)


def _admit(version: Version, force: str | None) -> None:
    if version.gate == REFUSED and force is None:
        raise GateError(
            f"A champion must pass the gate. Version {version.number} was "
            f"{version.gate_reason or REFUSED}. Train a better one, or write "
            f'clv promote {version.number} --force "WHY".'
        )


def _tag_forced(store: tracking.Store, version: Version, force: str) -> None:
    # The reason first: killed in between, the version is still refused.
    text = " ".join(f"forced: {force}; {version.gate_reason}".split())
    store.set_model_version_tag(MODEL, str(version.number), TAG_REASON, text[:MOST_TEXT])
    store.set_model_version_tag(MODEL, str(version.number), TAG, FORCED)


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
        now = before.number if before else None
        earlier = [number for number in audit.history(store, now)[:-1] if number in alive]
        if not earlier:
            raise InputError(
                f"Going back needs an earlier champion. Got version {now or 'none'} as the only "
                "one. Name a version by clv promote VERSION."
            )
        target = _verified(_pick(known, earlier[-1]))
        _record("rollback", before, target, reason)
        _point(store, CHAMPION, target)
        audit.tag_history(store, earlier)
    return _pick(versions(), target.number)


def _record(
    action: str, before: Version | None, after: Version, reason: str, force: str = ""
) -> None:
    now = before.number if before else None
    audit.record(action, now, after.number, reason=reason, verdict=after.gate, force=force)


def _point(store: tracking.Store, alias: str, version: Version) -> None:
    """The one write that decides: a killed process leaves the old version or the new one."""
    store.set_registered_model_alias(MODEL, alias, str(version.number))


def _verified(version: Version) -> Version:
    bundle.verify(locate(version), bundle.key(home()))
    return version


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
    verdict: Verdict | None = None,
    trials: Sequence[Trial] = (),
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
    verdict
        What the gate said: tags of the run and of the version, and a table as their description.
        It promotes nothing.
    trials
        What a search tried: a child run each.
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
        tags={**(tags or {}), **runs.described(verdict), **tracking.this_process()},
        run_name=name,
    )
    status = "FAILED"
    try:
        with tracking.plainly():
            runs.log_files(store, run.info.run_id, artifacts or {})
            model = runs.log_model(
                store, run, bundle_folder, loader_module, inputs, outputs, requirements
            )
            runs.log_values(store, model, params, metrics, datasets)
            runs.log_trials(store, run, trials)
        version = _register(store, model, sealed, verdict)
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


def _register(store: tracking.Store, model: Any, sealed: str, verdict: Verdict | None) -> Version:
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
            tags={DIGEST: sealed, TAG: NONE, **(verdict.tags() if verdict else {})},
            description=runs.described(verdict).get(runs.NOTE),
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
            audit.tag_history(store, audit.history(store, version.number))
    return _pick(versions(), version.number)
