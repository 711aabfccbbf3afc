"""Lists kept under a name: what was chosen, what came of it, who made it when.

    CLV_HOME/lists/NAME/about.json    the choices and what the list is; no customer's data
    CLV_HOME/lists/NAME/list.csv      as ``clv target`` writes it
    CLV_HOME/lists/NAME/list.parquet  the same, with its types
    CLV_HOME/lists/NAME/list.xlsx     the same as a worksheet, once somebody has asked for it
    CLV_HOME/lists/NAME/contacts.csv  what ``clv measure`` reads, where a campaign is named

A list is there whole or not at all, its name belongs to whoever was first, and nothing changes it
but that somebody is erased. One worker at a time makes a worksheet, deletes or erases.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pandas as pd

from features.errors import InputError
from serving.decisions import audiences, files
from serving.decisions.known import Known
from serving.decisions.listing import Asked, List, audience_of, parts_of
from serving.decisions.listing import save as write
from serving.decisions.targets import consenting
from serving.desk.lists import Choices
from serving.desk.prepared import Prepared
from serving.writing import replacing
from training import audit, tracking

__all__ = ["DOWNLOADS", "NAME", "Saved", "delete", "download", "every", "find", "forget", "save"]

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,59}")
#: What a saved list can be had as, and the ending of the file.
DOWNLOADS: Final = {
    "csv": ".csv", "xlsx": ".xlsx", **dict.fromkeys(audiences.FORMATS, ".csv"), "contacts": ".csv",
}  # fmt: skip
ABOUT: Final = "about.json"
NEW: Final = ".new-"
STALE: Final = 3_600.0  # seconds after which nobody is still writing
PATIENCE: Final = 120.0  # seconds that another one's work at a list is waited for
SHEET: Final = 100_000  # rows of a worksheet, which takes some ten seconds
NUMBERS: Final = ("cost", "predicted", "control_share")  # of contacts; a minus is no formula


@dataclass(frozen=True)
class Saved:
    """A list that is kept; ``about`` are the plain values of its file."""

    folder: Path
    about: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Its name."""
        return self.folder.name

    @property
    def choices(self) -> Choices:
        """What was chosen.

        Raises
        ------
        InputError
            Another release has saved it, whose choices are not ours.
        """
        told = self.about.get("choices")
        return Choices.of(told if isinstance(told, dict) else {"choices": told})

    @property
    def forms(self) -> list[str]:
        """The forms it can be had in."""
        measured = (self.folder / "contacts.csv").exists()
        return [form for form in DOWNLOADS if form != "contacts" or measured]


def place() -> Path:
    """The folder of all lists."""
    return tracking.home() / "lists"


def every() -> list[Saved]:
    """All lists, the newest first."""
    with contextlib.suppress(OSError):
        found = (find(folder.name) for folder in place().iterdir())
        return sorted((one for one in found if one), key=lambda one: (_when(one), one.name))[::-1]
    return []


def _when(saved: Saved) -> str:
    return str(saved.about.get("when", ""))


def find(name: str) -> Saved | None:
    """The list of a name, None if there is none."""
    if not NAME.fullmatch(name):
        return None
    folder = place() / name
    with contextlib.suppress(OSError, ValueError):
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        # Where case does not matter, another spelling would be found too.
        if isinstance(about, dict) and about.get("name") == name:
            return Saved(folder, about)
    return None


def taken(name: str) -> bool:
    """Whether a name is somebody's, in whatever case."""
    with contextlib.suppress(OSError):
        return name.casefold() in {folder.name.casefold() for folder in place().iterdir()}
    return False


def save(name: str, made: List, asked: Asked, choices: Choices, shown: Prepared, who: str) -> Saved:
    """Keep a list.

    Raises
    ------
    InputError
        The name is none or taken, or the home cannot be written.
    """
    if not NAME.fullmatch(name):
        raise InputError(
            "The name of a list must be letters, digits, - and _, 60 at most. Got "
            f"{name[:70]!r}. Call it after its campaign, such as spring-mail."
        )
    if taken(name):
        raise _taken(name)
    table = parts_of(made, asked)
    about = {
        "name": name, "who": who, "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "choices": choices.as_dict(), "as_of": made.as_of, "months": made.months,
        "model_version": shown.version, "predictions": shown.key, "source": shown.about["source"],
        "currency": made.settings.business.currency, "offer_cost": made.cost,
        "rows": len(table), **made.chosen.as_dict(),
    }  # fmt: skip
    try:
        place().mkdir(mode=0o700, parents=True, exist_ok=True)
        _sweep()
        work = Path(tempfile.mkdtemp(prefix=NEW, dir=place()))
    except OSError as error:
        raise _unwritable(error) from None
    try:
        plain = List(made.chosen, made.months, made.as_of, made.cost, made.settings,
                     made.contacts, None)  # fmt: skip
        write(plain, asked, work / "list.csv", work / "contacts.csv")
        files.write(table, work / "list.parquet")
        (work / ABOUT).write_text(json.dumps(about, indent=1), encoding="utf-8")
        work.rename(place() / name)
    except OSError as error:
        if taken(name):  # between the look and now
            raise _taken(name) from None
        raise _unwritable(error) from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Saved(place() / name, about)


def _taken(name: str) -> InputError:
    return InputError(
        f"The name of a list must be new. Got {name!r}, which is taken. Take another one, or "
        "delete the old list."
    )


def _unwritable(error: OSError) -> InputError:
    return InputError(
        f"The folder of lists must be writable. Got '{error.strerror}' for {place()}. Free some "
        "space or mend its mode."
    )


def _sweep() -> None:
    """Remove what a killed worker left behind."""
    for old in place().glob(f"{NEW}*"):
        with contextlib.suppress(OSError):
            if time.time() - old.stat().st_mtime > STALE:
                shutil.rmtree(old, ignore_errors=True)


def delete(saved: Saved, who: str) -> None:
    """Remove a list; the audit file tells who did.

    Raises
    ------
    InputError
        The audit file or the folder cannot be written.
    """
    gone = place() / f"{NEW}{saved.name}-{time.time_ns()}"
    with _alone(saved.name):
        audit.note("list_deleted", _told(saved, who, saved.about.get("rows")), "the list stays")
        try:
            saved.folder.rename(gone)
        except OSError as error:
            raise _unwritable(error) from None
    shutil.rmtree(gone, ignore_errors=True)


def _told(saved: Saved, who: str, rows: Any) -> dict[str, Any]:
    return {
        "who": who, "list": saved.name, "rows": rows,
        "predictions": saved.about.get("model_version"), "as_of": saved.about.get("as_of"),
    }  # fmt: skip


def download(saved: Saved, form: str, known: Known | None, who: str) -> bytes:
    """A list in one of its `forms`, having left an audit line.

    A platform's file is of those to contact who agree to it now, as `known` tells.

    Raises
    ------
    InputError
        Another form, or one that asks for more than is known; a list that is too long for a
        worksheet, contacts that a spreadsheet would run, a list that is gone meanwhile, a full
        disk; the audit file cannot be written.
    """
    if form not in saved.forms:
        raise InputError(f"A list is had as {', '.join(saved.forms)}. Got {form[:20]!r}.")
    try:
        with tempfile.TemporaryDirectory(prefix="clv-") as work:
            out = Path(work) / f"list{DOWNLOADS[form]}"
            rows = _written(saved, form, known, out)
            raw = out.read_bytes()
    except OSError as error:
        raise _unreadable(saved, error.strerror or type(error).__name__) from None
    told = _told(saved, who, rows) | {"format": form}
    audit.note("list_downloaded", told, "nothing was handed out")
    return raw


def _written(saved: Saved, form: str, known: Known | None, out: Path) -> int:
    """Write the file of a form; how many customers it holds."""
    rows = int(saved.about["rows"])
    if form in ("csv", "contacts"):
        shutil.copyfile(saved.folder / ("list.csv" if form == "csv" else "contacts.csv"), out)
        if form == "contacts":
            _require_plain(out)
        return rows
    if form == "xlsx":
        _worksheet(saved, rows, out)
        return rows
    table = pd.read_parquet(saved.folder / "list.parquet")
    if known is None:
        raise InputError(
            f"A file for {form} needs the table customers. Got none. Start the service with "
            "--data DATA."
        )
    treated = table[table["arm"] == "treatment"].reset_index(drop=True)
    made = audience_of(_agreeing(treated, form, known), form, known, int(saved.about["months"]))
    audiences.write(made, out)
    return len(made)


def _require_plain(contacts: Path) -> None:
    """Refuse contacts that a spreadsheet would run, since ids are read back as they are."""
    texts = pd.read_csv(
        contacts, dtype=str, keep_default_na=False, usecols=lambda name: name not in NUMBERS
    )
    for column in texts:
        if any(files.neutral(text) != text for text in texts[column].unique()):
            raise InputError(
                f"Contacts at the desk must begin with no sign of a formula. Got such a {column}. "
                "Take them by command: clv target ... --contacts-out contacts.csv."
            )


def _worksheet(saved: Saved, rows: int, out: Path) -> None:
    """A copy of the worksheet, which is made once: a sheet of 10,000 rows takes seconds."""
    if rows > SHEET:
        raise InputError(
            f"A worksheet at the desk takes {SHEET:,} rows. Got {rows:,}. Take the list as CSV."
        )
    kept = saved.folder / "list.xlsx"
    with _alone(saved.name):
        if not kept.exists():
            table = pd.read_parquet(saved.folder / "list.parquet")
            try:
                files.write(table, kept, "list")
            except InputError:
                raise _unreadable(saved, "no room for a worksheet") from None
        shutil.copyfile(kept, out)


def _unreadable(saved: Saved, reason: str) -> InputError:
    return InputError(
        f"The files of a list must be there, with room for a copy. Got {reason!r} for the list "
        f"{saved.name!r}. Free some space; if it was deleted, build it anew."
    )


@contextlib.contextmanager
def _alone(name: str) -> Iterator[None]:
    """One thread of all workers at a time; not to be taken twice by the same one."""
    # Beside the lists: a folder with an open file in it can be renamed on few systems.
    path = tracking.home() / "locks" / f"list-{name.casefold()}"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise _unwritable(error) from None
    try:
        deadline = time.monotonic() + PATIENCE
        while not tracking.try_lock(descriptor):
            if time.monotonic() > deadline:
                raise InputError(
                    f"A list must be free within {PATIENCE:.0f} s. Got {name!r}, at which somebody "
                    "else works. Try again later."
                )
            time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)  # frees the lock


def _agreeing(treated: pd.DataFrame, form: str, known: Known) -> pd.DataFrame:
    """Those who agree to be contacted by a platform; consent may have been taken back since."""
    held = consenting(known, audiences.CHANNEL[form], treated["customer_id"].tolist())
    if not held.any():
        raise InputError(f"Somebody on the list must agree to {form}. Nobody does.")
    return treated[held].reset_index(drop=True)


def forget(customers: set[str]) -> int:
    """Take customers out of all lists, as after they were erased; how many rows went.

    Raises
    ------
    InputError
        A list cannot be written.
    """
    gone = 0
    for saved in every():
        with _alone(saved.name):
            now = find(saved.name)
            try:
                gone += _forgotten(now, customers) if now else 0
            except OSError as error:
                raise _unwritable(error) from None
    return gone


def _forgotten(saved: Saved, customers: set[str]) -> int:
    """Rows that went. What they are found by goes last: after a kill, all is done again."""
    folder = saved.folder
    table = pd.read_parquet(folder / "list.parquet")
    here = table["customer_id"].isin(customers)
    if not here.any():
        return 0
    for copy in (folder / "list.xlsx", *folder.glob(".*.tmp")):  # the rest of a killed writer
        copy.unlink(missing_ok=True)
    contacts = folder / "contacts.csv"
    if contacts.exists():
        told = pd.read_csv(contacts, dtype=str, keep_default_na=False)
        files.write(told[~told["customer_id"].isin(customers)], contacts, shown=False)
    kept = table[~here].reset_index(drop=True)
    files.write(kept, folder / "list.csv", "list")
    about = dict(saved.about) | {"rows": len(kept)}
    with replacing(folder / ABOUT) as temporary:
        temporary.write_text(json.dumps(about, indent=1), encoding="utf-8")
    files.write(kept, folder / "list.parquet")
    return int(here.sum())
