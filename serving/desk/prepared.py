"""What the pages show, worked out beforehand: a folder per scoring, read by all workers.

    CLV_HOME/desk/KEY/about.json     the moment, the model, what is missing and why
    CLV_HOME/desk/KEY/tables.json    small tables by name, as the commands write them
    CLV_HOME/desk/KEY/base.arrow     the predictions, a row per customer, sorted by customer_id
    CLV_HOME/desk/KEY/more.arrow     what the pages know beside: segment, days since the last order
    CLV_HOME/desk/KEY/people.arrow   the table customers in the order of these rows
    CLV_HOME/desk/KEY/*.npy          orders: where a customer's begin, day, amount
    CLV_HOME/desk/KEY/pictures/      see `serving.desk.gallery`

``KEY`` names the inputs as they are now, so newer ones are noticed; until they are worked out, in a
process of its own, the folder before them is shown. `serving.desk.preparing` writes it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.errors import InputError
from serving.configured import settings_of
from serving.desk import gallery
from serving.desk.columns import Columns
from serving.desk.inputs import FORMAT, Inputs, place
from serving.lookup import newest
from serving.views.language import Note
from serving.writing import replacing
from training import tracking

__all__ = ["FORMAT", "Inputs", "Prepared", "Reason", "Source", "Status", "forget", "place"]

LOOK: Final = 2.0  # seconds between two looks at whether there is something newer
RETRY: Final = 600.0  # seconds after which what failed is tried again
KEPT: Final = 2  # folders that are worked out and kept
ABOUT, FAILED, LOCK = "about.json", "failed.json", ".lock"


class Reason(NamedTuple):
    """Why a part is missing: a short code, and what to add, a note or in English.

    Codes: ``no_data``, ``no_spend``, ``no_contacts``, ``no_customers``, ``no_before``, ``pending``
    (still being worked out) and ``other``.
    """

    code: str
    text: str


class Status(NamedTuple):
    """How it stands: nothing to show yet, shown while a newer one is made, ready, or failed."""

    state: Literal["nothing", "preparing", "ready", "failed"]
    message: str | None = None  # in one line, a note or in English


class Prepared:
    """A folder that is worked out, or its first part: no method takes long, or reads all of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.about: Mapping[str, Any] = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        if self.about.get("format") != FORMAT:
            raise ValueError("another format")
        self._pictures: dict[str, gallery.Pictures] = {}

    # Of the whole

    @property
    def key(self) -> str:
        """The name of the inputs."""
        return self.folder.name

    @property
    def as_of(self) -> str:
        """The moment of the predictions."""
        return str(self.about["as_of"])

    @property
    def months(self) -> int:
        """The horizon that tables tell of: the shortest predicted."""
        return int(self.about["months"])

    @property
    def currency(self) -> str:
        """Of all money; empty where no settings tell."""
        return str(self.about["currency"])

    @property
    def version(self) -> str:
        """Of the model."""
        return str(self.about["version"])

    @property
    def customers(self) -> int:
        """How many there are, those who have not ordered included."""
        return int(self.about["customers"])

    @property
    def whole(self) -> bool:
        """Whether the data are worked out too; until then only the predictions are."""
        return bool(self.about["whole"])

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do: all tables are there, and their pictures."""
        lacking = [each for each in self.about["pictures"] if self.pictures(each) is None]
        return self.whole and not lacking

    def pictures(self, language: str) -> gallery.Pictures | None:
        """The pictures of a language by name, see `Picture`; None while they are being drawn."""
        if language not in self.about["pictures"]:
            return {}
        found = self._pictures.get(language)
        if found is None and (found := gallery.shown(self.folder, language)) is not None:
            self._pictures[language] = found
        return found

    @cached_property
    def missing(self) -> dict[str, Reason]:
        """What there is not, and why.

        Parts: history, customers, channels, retention, model, campaigns, changes, contacts,
        categories; uplift where a model of it was named.
        """
        missing = self.about["missing"]
        return {part: Reason(code, Note.back(told)) for part, (code, told) in missing.items()}

    @cached_property
    def tables(self) -> dict[str, Any]:
        """Small tables by name, mostly lists of rows with None for what is not known.

        figures, segments, migration, categories, changes (one row), rises, falls, channels,
        channels_about and retention (mappings), summary, quality, tracking, slices, campaigns,
        test (of the model: when, on whom), levels (the values that a list may be asked by, by
        column), uplift (`serving.decisions.ranking.Said`); those that are missing are not there.
        """
        found: dict[str, Any] = json.loads(
            (self.folder / "tables.json").read_text(encoding="utf-8")
        )
        return found

    def table(self, name: str) -> Any:
        """A table of `tables`, None where it is missing."""
        return self.tables.get(name)

    @cached_property
    def base(self) -> Columns:
        """The predictions."""
        return Columns(self.folder / "base.arrow")

    @cached_property
    def more(self) -> Columns:
        """What is known of the same rows beside: segment, and of the data what there is."""
        return Columns(self.folder / "more.arrow")

    @cached_property
    def people(self) -> Columns | None:
        """The table customers of the same rows."""
        path = self.folder / "people.arrow"
        return Columns(path) if path.exists() else None

    # Of one customer

    def search(self, start: str, most: int = 10) -> list[str]:
        """The first ids that begin with `start`, in bytewise order."""
        first = self.base.first("customer_id", start)
        found = []
        for row in range(first, min(first + most, len(self.base))):
            name = str(self.base.cell("customer_id", row))
            if not name.startswith(start):
                break
            found.append(name)
        return found

    def customer(self, name: str) -> dict[str, Any] | None:
        """A customer's row of the predictions, None if there is none.

        With ``segment`` as the tables of segments have it, ``segment_before`` and
        ``days_since_order``, None where they are not known, and ``reasons`` as a list.
        """
        place = self.base.find("customer_id", name)
        if place is None:
            return None
        row: dict[str, Any] = dict.fromkeys(("reasons", "segment_before", "days_since_order"))
        row |= self.base.row(place) | self.more.row(place)
        for own in ("last_contact", "uplift_away"):
            row.pop(own, None)
        with contextlib.suppress(ValueError, TypeError):  # others' tables may hold anything
            row["reasons"] = json.loads(row.get("reasons") or "null")
        return row

    def profile(self, name: str) -> dict[str, Any] | None:
        """A customer's row of the table customers, None where there is no such table."""
        place = self.base.find("customer_id", name)
        return None if self.people is None or place is None else self.people.row(place)

    def orders(self, name: str) -> list[dict[str, Any]] | None:
        """A customer's orders and refunds, the oldest first: ``date`` and ``amount`` (money).

        None where the data are missing.
        """
        place = self.base.find("customer_id", name)
        if place is None or not (self.folder / "starts.npy").exists():
            return None
        starts, day, amount = self._orders
        here = slice(int(starts[place]), int(starts[place + 1]))
        dates = day[here].astype("datetime64[D]").astype(str).tolist()
        unit = int(self.about["unit"])
        money = (amount[here].astype(np.int64) / unit).tolist()
        return [{"date": d, "amount": m} for d, m in zip(dates, money, strict=True)]

    @cached_property
    def _orders(self) -> tuple[npt.NDArray[Any], ...]:
        names = ("starts", "day", "amount")
        return tuple(np.load(self.folder / f"{name}.npy", mmap_mode="r") for name in names)

    # As `serving.decisions.known.Known`

    @property
    def zone(self) -> str:
        """The time zone of the business."""
        return str(self.about["zone"])

    @property
    def names(self) -> Sequence[str]:
        """The columns of the table customers but the id."""
        return [] if self.people is None else self.people.names

    def attributes(self, columns: Sequence[str], ids: Sequence[str] | None = None) -> pd.DataFrame:
        """See `serving.decisions.known.Known`."""
        from serving.decisions.campaigns import require_columns

        require_columns(self.names, columns)
        if self.people is None:  # then nothing was asked for
            return pd.DataFrame(index=range(self.customers if ids is None else len(ids)))
        if ids is None:
            return self.people.frame(columns)
        places = [self.base.find("customer_id", each) for each in ids]
        return self.people.rows([-1 if p is None else p for p in places], columns)

    def features(self, names: Sequence[str]) -> dict[str, npt.NDArray[np.float64]]:
        """See `serving.decisions.known.Known`; those alone that the desk asks by."""
        lacking = [name for name in names if name not in self.more.names]
        if lacking:
            raise InputError(
                f"'{lacking[0]}' is known of customers whose orders are. Got the predictions only. "
                "Name the orders by clv serve --data DATA."
            )
        return {name: self.more.numbers(name) for name in names}

    def contacted(self) -> npt.NDArray[np.int64]:
        """See `serving.decisions.known.Known`."""
        if "last_contact" not in self.more.names:
            raise InputError(
                "Whether somebody was contacted is told by the table contacts. Got none. Add "
                "contacts.csv with campaign_id, customer_id, ts, arm beside the orders."
            )
        return self.more.numbers("last_contact")


class Source:
    """The newest folder, followed: `current` answers at once, whatever is being worked out.

    Parameters
    ----------
    table : a file of predictions, or the folder in which batches are kept.
    data : the orders and what lies beside them, None where they are not named.
    config : the settings, by default those beside the data.
    uplift : the folder of an uplift model, None where none is named.
    """

    def __init__(
        self, table: Path, data: str | None = None, config: Path | None = None,
        uplift: Path | None = None,
    ) -> None:  # fmt: skip
        self._table, self._given = table, (data, config, uplift)
        self._lock = threading.Lock()
        self._looked = -LOOK
        self._seen: tuple[str, int] | None = None  # folder and time of what is shown
        self._shown: Prepared | None = None
        self._wanted: str | None = None
        self._failure: str | None = None
        self._thread: threading.Thread | None = None

    def current(self) -> Prepared | None:
        """What to show now; None where nothing has been worked out yet."""
        if time.monotonic() - self._looked >= LOOK and self._lock.acquire(blocking=False):
            try:
                self._looked = time.monotonic()
                self._look()
            finally:
                self._lock.release()
        return self._shown

    @property
    def settings(self) -> Path | None:
        """The settings file, as it is found now."""
        return settings_of(*self._given[:2])

    def warning(self) -> str | None:
        """A line for those who watch over the service, None where all is well."""
        if self.status().state != "failed":
            return None
        return "the tables of the desk could not be worked out; its first page says why"

    def status(self) -> Status:
        """How it stands, as of the last look."""
        shown = self._shown
        if self._failure is not None:
            return Status("failed", self._failure)
        if shown is not None and shown.whole and shown.key == self._wanted:
            return Status("ready")
        return Status("preparing" if self._wanted else "nothing")

    def _look(self) -> None:
        if self._shown is not None and not (self._shown.folder / ABOUT).exists():
            self._shown = self._seen = None  # somebody was erased: the rest of it goes too
        try:
            file = newest(self._table)
            if file is None:
                self._wanted = None
                return
            inputs = Inputs(file, *self._given)
            self._wanted = inputs.key()
        except (OSError, InputError) as error:
            self._failure = str(error).splitlines()[0]
            return
        folder = place() / self._wanted
        self._show(folder, inputs.family)
        self._failure = None
        shown = self._shown if self._shown and self._shown.key == self._wanted else None
        if shown and shown.complete:
            return
        why, recent = _failure(folder)
        # Where all figures are there, pictures alone are lacking: nothing to warn of.
        self._failure = None if shown and shown.whole else why
        busy = self._thread is not None and self._thread.is_alive()
        if not recent and not busy:
            self._thread = threading.Thread(target=_work, args=(inputs, folder), daemon=True)
            self._thread.start()

    def _show(self, folder: Path, family: str) -> None:
        """Open what is wanted, else, where nothing is shown yet, the newest of its kind."""
        if not (folder / ABOUT).exists():
            if self._shown is not None:
                return
            others = [one for one in _made() if family_of(one) == family]
            if not others:
                return
            folder = others[0]
        with contextlib.suppress(OSError, ValueError, KeyError):
            seen = (folder.name, (folder / ABOUT).stat().st_mtime_ns)
            if seen != self._seen:
                self._shown, self._seen = Prepared(folder), seen


def _failure(folder: Path) -> tuple[str | None, bool]:
    """What was said when the inputs could not be worked out, and whether that is not long ago."""
    path = folder / FAILED
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return Note.back(told["message"]), time.time() - path.stat().st_mtime < RETRY
    except (OSError, ValueError, KeyError, TypeError):
        return None, False


def _made() -> list[Path]:
    """The folders that there are, the newest first."""
    with contextlib.suppress(OSError):
        found = [(one.stat().st_mtime_ns, one.parent) for one in place().glob(f"*/{ABOUT}")]
        return [folder for _, folder in sorted(found, reverse=True)]
    return []


def family_of(folder: Path) -> str | None:
    """The inputs that a folder was worked out from; None where it does not tell."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        told = json.loads((folder / ABOUT).read_text(encoding="utf-8")).get("family")
        return told if isinstance(told, str) else None
    return None


def _work(inputs: Inputs, folder: Path) -> None:
    """Have the inputs worked out, unless another worker does so already."""
    try:
        place().mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(place() / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:
        return  # a home that cannot be written; the next look says so
    try:
        if not tracking.try_lock(descriptor):
            return
        try:
            if not Prepared(folder).complete:
                _child(inputs, folder)
        except (OSError, ValueError, KeyError):
            _child(inputs, folder)
    finally:
        os.close(descriptor)


def _child(inputs: Inputs, folder: Path) -> None:
    """Work in a process of its own, whose memory is given back; it ends when we do."""
    root = str(Path(__file__).parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "CLV_HOME": str(tracking.home()),
    }
    told = json.dumps({**inputs.as_dict(), "folder": str(folder)}).encode() + b"\n"
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "serving.desk.preparing"], env=environment,
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        if process.stdin is None:
            raise AssertionError("a pipe was asked for")
        with contextlib.suppress(OSError):
            process.stdin.write(told)
            process.stdin.flush()
        code = process.wait()
    if code and not (folder / FAILED).exists():
        fail(folder, Note.of("desk.waiting.ended", code=code))


def fail(folder: Path, message: str) -> None:
    """Leave word that the inputs could not be worked out."""
    with contextlib.suppress(InputError), replacing(folder / FAILED) as temporary:
        kept = Note.kept(message if isinstance(message, Note) else message.splitlines()[0])
        temporary.write_text(json.dumps({"message": kept}), encoding="utf-8")


def forget() -> None:
    """Remove all that is worked out: after a customer was erased, it is made anew without them."""
    for folder in place().glob("*/"):
        with contextlib.suppress(OSError):
            (folder / ABOUT).unlink(missing_ok=True)  # first, so that nobody opens half of it
        shutil.rmtree(folder, ignore_errors=True)
