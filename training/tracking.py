"""MLflow at arm's length: where its records lie, how to open them and how to share them.

The only module that imports mlflow, when a store is opened and not before: that import takes
seconds, and asking for a path or for the champion must not.

    MLFLOW_TRACKING_URI, else sqlite in CLV_HOME/mlruns, else in the nearest mlruns/ upward
"""

from __future__ import annotations

__all__ = [
    "Store",
    "artifacts",
    "connect",
    "database",
    "experiment",
    "home",
    "library",
    "local_path",
    "lock",
    "mlruns",
    "open_store",
    "patiently",
    "place",
    "plainly",
    "quiet",
    "reap",
    "this_process",
    "tracking_uri",
    "try_lock",
]

import contextlib
import importlib
import logging
import os
import re
import socket
import sqlite3
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit
from urllib.request import url2pathname

from features.errors import InputError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

EXPERIMENT = "clv"
MODEL = "clv"  # the registered model
PATIENCE = 45.0  # seconds that a locked database or another process is waited for
HOST, PID = "clv.host", "clv.pid"  # tags of a run: the process that writes it
LOCKED = "database is locked"
LIBRARIES = ("mlflow", "sqlalchemy", "sqlite3", "requests", "urllib3")  # whose errors we translate

# Set unless the user has set them. MLflow reads them at import or at each call.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # nothing is sent to anybody
    "MLFLOW_UV_AUTO_DETECT": "false",  # else it looks for a lock file in the current folder
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # where --json prints
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",  # seconds; 120 by default
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # 7 by default, with growing pauses
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}

T = TypeVar("T")


# Places


def mlruns() -> Path:
    """``CLV_HOME/mlruns``, else the nearest ``mlruns`` folder upward, else one right here."""
    chosen = os.environ.get("CLV_HOME")
    if chosen:
        return Path(chosen).expanduser().absolute() / "mlruns"
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "mlruns").is_dir():
            return folder / "mlruns"
    return here / "mlruns"


def home() -> Path:
    """Folder of the key, the audit file and the predictions: the one that holds ``mlruns``."""
    return mlruns().parent


def tracking_uri() -> str:
    """Where MLflow keeps its records; local files by absolute path.

    Raises
    ------
    InputError
        The path has a character that a database URL cannot carry.
    """
    chosen = os.environ.get("MLFLOW_TRACKING_URI")
    if chosen and not chosen.startswith("sqlite:///"):
        return chosen
    path = Path(chosen.removeprefix("sqlite:///")).absolute() if chosen else mlruns() / "mlflow.db"
    if set("%?#") & set(str(path)):
        raise InputError(
            f"The path of MLflow's database must be without % ? #. Got {path}. "
            "Set CLV_HOME to another folder."
        )
    return f"sqlite:///{path.as_posix()}"


def database() -> Path | None:
    """The local database file; ``None`` where records are kept elsewhere."""
    uri = tracking_uri()
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def artifacts() -> Path | None:
    """The local folder of artifacts; ``None`` where the server decides."""
    file = database()
    return file.parent / "artifacts" if file else None


def place() -> str:
    """The store's name for messages, without credentials."""
    parts = urlsplit(tracking_uri())
    host = parts.netloc.rpartition("@")[2]
    return str(database() or f"{parts.scheme}://{host}{parts.path}")


def local_path(location: str) -> Path | None:
    """An artifact location as a path of this machine; ``None`` if it is far away."""
    parts = urlsplit(location)
    if parts.scheme == "file":
        return Path(url2pathname(parts.path))
    return None if "://" in location or parts.scheme == "mlflow-artifacts" else Path(location)


# Opening


def library(module: str) -> Any:
    """A module of mlflow, such as ``entities``. ``Any``, since mlflow's own types are partial."""
    for variable, value in ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    with warnings.catch_warnings():
        # Its modules warn while they are made, about their own code and their dependencies.
        warnings.simplefilter("ignore")
        return importlib.import_module(f"mlflow.{module}")


class Store:
    """An ``MlflowClient`` whose calls wait for a locked database and fail in our words."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call = getattr(self._client, name)
        return lambda *args, **kwargs: patiently(lambda: call(*args, **kwargs))


def open_store(create: bool = False) -> Store:
    """MLflow on our store; a new database is made under a lock, since MLflow's own start races.

    Raises
    ------
    InputError
        The store is missing (and ``create`` is not set), damaged, locked for long, or a server
        that does not answer.
    """
    uri, file = tracking_uri(), database()
    if file and create:
        patiently(lambda: file.parent.mkdir(parents=True, exist_ok=True))
    elif file and not file.exists():
        raise InputError(f"MLflow's store must exist. Got no {file}. Run clv train DATA first.")
    if file and file.exists():
        # MLflow would try a damaged file for two minutes.
        patiently(lambda: connect(file).close())
    client = library("tracking").MlflowClient
    with lock():
        if file and not file.exists():
            patiently(lambda: _make(file))
        store = Store(patiently(lambda: client(uri, registry_uri=uri)))
        store.search_experiments(max_results=1)
        store.search_registered_models(max_results=1)
    return store


def _make(file: Path) -> None:
    """A new database, complete or absent: migrations that are cut short cannot be resumed."""
    unfinished = file.with_name(f".{file.name}.new")
    unfinished.unlink(missing_ok=True)
    make = library("store.tracking.sqlalchemy_store").SqlAlchemyStore
    # With our root, else its default experiment would point into the current folder.
    make(f"sqlite:///{unfinished.as_posix()}", str(artifacts())).engine.dispose()
    unfinished.replace(file)


def experiment(store: Store) -> str:
    """Id of the experiment whose artifacts lie in this tree, made where it is missing.

    Its place cannot be changed once made, so a tree that was moved gets ``clv 2``, and so on.
    """
    folder = artifacts()
    location = None
    if folder:
        location = folder.as_uri() if os.name == "nt" else str(folder)
    with lock():
        for number in range(1, 1000):
            name = EXPERIMENT if number == 1 else f"{EXPERIMENT} {number}"
            found = store.get_experiment_by_name(name)
            if found is None:
                return str(store.create_experiment(name, artifact_location=location))
            if folder is None or local_path(found.artifact_location) == folder:
                if found.lifecycle_stage == "deleted":
                    store.restore_experiment(found.experiment_id)
                return str(found.experiment_id)
    raise InputError(f"An experiment's name must be free. Got all up to {name!r} taken.")


def connect(file: Path) -> sqlite3.Connection:
    """A connection to look things up; ``sqlite3.DatabaseError`` at once if it is no database."""
    # Not mode=ro: what a killed writer left half-done is undone by the next one who may write.
    connection = sqlite3.connect(f"file:{quote(str(file))}?mode=rw", uri=True, timeout=1)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error:
        connection.close()
        raise
    return connection


# Runs of killed processes


def this_process() -> dict[str, str]:
    """Tags by which `reap` knows whose run it is."""
    return {HOST: socket.gethostname(), PID: str(os.getpid())}


def reap(store: Store) -> int:
    """Mark RUNNING runs as KILLED whose process on this machine is gone; returns how many."""
    found = store.search_experiments(filter_string=f"name LIKE '{EXPERIMENT}%'")
    ids = [each.experiment_id for each in found if re.fullmatch(rf"{EXPERIMENT}( \d+)?", each.name)]
    runs = store.search_runs(ids, "attributes.status = 'RUNNING'") if ids else []
    dead = [run.info.run_id for run in runs if _is_dead(run.data.tags)]
    for run_id in dead:
        store.set_terminated(run_id, "KILLED")
    return len(dead)


def _is_dead(tags: Mapping[str, str]) -> bool:
    pid = tags.get(PID, "")
    # On Windows signal 0 is no question but an interrupt.
    if tags.get(HOST) != socket.gethostname() or not pid.isdigit() or os.name != "posix":
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


# Sharing


@contextlib.contextmanager
def lock() -> Iterator[None]:
    """One process or thread at a time changes the store; a dead one's lock is free at once.

    Not to be taken twice by one thread: it would wait for itself.
    """
    file = database()
    path = (file.parent if file else home()) / ".clv.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:
        yield  # a read-only place: nobody can change it
        return
    try:
        deadline = time.monotonic() + PATIENCE
        while not try_lock(descriptor):
            if time.monotonic() > deadline:
                raise InputError(
                    f"The store must be free within {PATIENCE:.0f} s. Got {path} held by another "
                    "process. Wait for it to end, then run this again."
                )
            time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)  # frees the lock


def try_lock(descriptor: int) -> bool:
    """Lock an open file until it is closed or the process ends; False if another one has it."""
    try:
        if sys.platform == "win32":
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def patiently(work: Callable[[], T]) -> T:
    """``work()``, again while the database is locked; its errors as `InputError` in our words."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            with plainly(), quiet():
                return work()
        except InputError as error:
            if LOCKED not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(0.1)


@contextlib.contextmanager
def plainly() -> Iterator[None]:
    """Turn what the store, its libraries and the disk raise into an `InputError`."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) or type(error).__module__.startswith(LIBRARIES):
            raise _in_our_words(error) from None
        raise


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep MLflow's own chatter from the terminal; what matters is raised."""
    logger = logging.getLogger("mlflow")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            # 3.17 uses loader options and pandas calls that SQLAlchemy 2.1 and pandas 3 deprecate.
            warnings.filterwarnings("ignore", category=DeprecationWarning, module="mlflow")
            yield
    finally:
        logger.setLevel(level)


def _in_our_words(error: Exception) -> InputError:
    text = (str(error) or type(error).__name__).splitlines()[0]
    text = re.sub(r"//[^/@\s]+@", "//", text)[:200]  # no credentials of a URL
    if isinstance(error, OSError) and error.strerror:
        where = error.filename or place()
        cure = "Free some space or mend its mode, or set CLV_HOME to another folder"
        return InputError(f"{where} must be writable. Got: {error.strerror}. {cure}.")
    if database() is None:
        cure = "Start the server, or unset MLFLOW_TRACKING_URI to keep records in mlruns"
        return InputError(f"The tracking server {place()} must answer. Got: {text}. {cure}.")
    if LOCKED in text:
        cure = "End the process that holds it, then run this again"
    elif "out-of-date database schema" in text:
        cure = f"Copy the file, then run: mlflow db upgrade {tracking_uri()}"
    else:
        cure = "Restore it from a copy, or set CLV_HOME to a new folder; exported models still load"
    return InputError(f"MLflow's store {place()} must be usable. Got: {text}. {cure}.")
