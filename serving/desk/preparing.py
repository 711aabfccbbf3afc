"""Works out the tables of the desk: a process of its own, ``python -m serving.desk.preparing``.

It takes the inputs as a line of JSON on standard input and ends when that is closed: with the
worker of the service that asked for it. The predictions come first, so that there is something to
show while the data are read.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from features import campaigns, formats
from features.errors import ClvError
from features.settings import load as load_settings
from features.spine import instant
from features.store import Store
from serving.decisions import customers, files, overview, segments
from serving.decisions.changes import changes
from serving.decisions.histories import histories
from serving.decisions.known import last_contacts
from serving.decisions.prospects import waiting
from serving.decisions.report import Report, report
from serving.decisions.segments import Lines, Scheme, Segmented
from serving.desk import columns, gallery
from serving.desk.inputs import FORMAT, Inputs, place
from serving.desk.prepared import ABOUT, FAILED, KEPT, Prepared, Reason, fail, family_of
from serving.lookup import latest
from serving.views.language import LANGUAGES, Note
from serving.writing import replacing
from training import tracking

__all__ = ["attempt", "prepare"]

#: Columns that a list may be asked by, where they have few values.
LEVELS: Final = ("acquisition_channel", "country")
FORGOTTEN: Final = 30 * 86_400.0  # seconds after which what other services showed is removed
MOST: Final = 200  # values of such a column
KNOWN: Final = ("days_since_order",)  # features that a list may be asked by
NO_DATA: Final = Reason("no_data", "Start the service with --data DATA, the orders.")
PENDING: Final = Reason("pending", "The data are being read.")
OF_DATA: Final = ("history", "customers", "channels", "retention", "model", "campaigns", "contacts")


def prepare(inputs: Inputs, folder: Path, languages: Sequence[str] | None = None) -> None:
    """Work out everything of `inputs` in `folder`, pictures in `languages` (all) after all else.

    Raises
    ------
    ClvError
        The predictions or the data cannot be read.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    work = _Work(inputs, folder, LANGUAGES if languages is None else languages)
    work.of_predictions()
    if inputs.data is not None:
        try:
            work.of_data(inputs.data)
        except ClvError as error:
            work.without_data(Note.why(error))
            raise
    (folder / FAILED).unlink(missing_ok=True)
    _sweep(folder, inputs.family)
    work.draw()


class _Work:
    """What has been worked out so far."""

    def __init__(self, inputs: Inputs, folder: Path, languages: Sequence[str]) -> None:
        self.inputs, self.folder, self.languages = inputs, folder, languages
        self.report: Report | None = None
        self.settings = load_settings(inputs.settings)
        self.predictions = files.predictions(inputs.table)
        self.months = files.horizon_of(self.predictions, None)
        self.as_of = str(self.predictions["as_of"].iloc[0])
        self.tables: dict[str, Any] = {}
        self.missing: dict[str, Reason] = {}
        self.parts = OF_DATA if inputs.uplift is None else (*OF_DATA, "uplift")
        self.more: dict[str, Any] = {}
        self.unit, self.zone = 1, self.settings.business.time_zone
        self.channels: list[str] = []  # whose consent is known

    def of_predictions(self) -> None:
        """All that the predictions alone tell."""
        columns.write(self.predictions, self.folder / "base.arrow")
        groups = self._groups()
        self.more["segment"] = groups.frame["segment"].to_numpy(object)
        self.tables |= {"figures": _figures(groups), "segments": _rows(groups.table)}
        self.tables["levels"] = self._levels(self.predictions, ("segment", "evidence"))
        self._attempt("changes", self._changes)
        absent = NO_DATA if self.inputs.data is None else PENDING
        self.missing |= dict.fromkeys(self.parts, absent)
        self._put(whole=self.inputs.data is None)

    def of_data(self, data: str) -> None:
        """What the orders, and the tables beside them, tell."""
        from features.reading import read

        for part in self.parts:
            self.missing.pop(part)
        there = formats.tables(data, self.settings)
        spend = campaigns.spend(data, self.settings) if "spend" in there else None
        with read(data, self.settings) as (store, _):
            self.unit, self.zone = store.unit, store.zone
            self._attempt("report", lambda: self._of_report(store, spend))
            self._attempt("history", lambda: self._history(store))
            self._attempt("customers", lambda: self._people(store))
            if "contacts" in there:
                self._attempt("campaigns", lambda: self._campaigns(store, data))
            else:
                told = "Add the table contacts (campaign_id, customer_id, ts, arm)."
                self.missing |= dict.fromkeys(
                    ("campaigns", "contacts"), Reason("no_contacts", told)
                )
            if self.inputs.uplift is not None:
                folder = self.inputs.uplift
                self._attempt("uplift", lambda: self._uplift(store, folder))
        self._put(whole=True)

    def draw(self) -> None:
        """The pictures, which take longest: every page is there without them."""
        if self.report is not None:
            for language in self.languages:
                gallery.draw(self.report, self.folder, language, (self.folder / ABOUT).exists)

    def without_data(self, why: str) -> None:
        """Say of all that the data would tell why it is missing."""
        self.missing |= dict.fromkeys(self.parts, Reason("other", why))
        self._put(whole=False)

    def _attempt(self, part: str, make: Callable[[], Reason | None]) -> None:
        try:
            lacking = make()
        except ClvError as error:
            lacking = Reason("other", Note.why(error))
        if lacking is not None:
            parts = ("channels", "retention", "model") if part == "report" else (part,)
            self.missing |= dict.fromkeys(parts, lacking)

    def _groups(self, before: pd.DataFrame | None = None) -> Segmented:
        some = [self.predictions] if before is None else [self.predictions, before]
        scheme = Scheme.of("value-churn", some, self.months, Lines(), self.settings.segments)
        return segments.segmented(self.predictions, scheme, self.months, before=before)

    def _changes(self) -> Reason | None:
        """Against the newest scoring of an earlier moment that the home keeps."""
        file = _before(self.as_of)
        if file is None:
            return Reason("no_before", "There is no earlier scoring in CLV_HOME/predictions.")
        before = files.predictions(file)
        files.horizon_of(before, self.months, "the earlier scoring")
        groups = self._groups(before)
        found = changes(self.predictions, before, self.months)
        self.more["segment_before"] = groups.frame["segment_before"].to_numpy(object)
        self.tables |= {
            "changes": {"before": found.before, "as_of": found.as_of, **_plain(found.whole),
                        "notes": [Note.kept(note) for note in groups.notes]},
            "rises": _rows(found.rises), "falls": _rows(found.falls),
            "migration": None if groups.moves is None else _rows(groups.moves),
        }  # fmt: skip
        return None

    def _of_report(self, store: Store, spend: pd.DataFrame | None) -> None:
        from serving.loader import scores_of_version

        made = report(store, self.predictions, self.settings, spend=spend, scores=scores_of_version)
        self.report = made
        self.tables |= {
            "figures": _rows(made.figures()), "segments": _rows(made.groups.table),
            "summary": _rows(made.worth.summary()),
        }  # fmt: skip
        parts: dict[str, pd.DataFrame | None] = {
            "categories": made.groups.reach, "quality": made.quality(),
            "tracking": made.tracking(), "slices": made.tested("slices"),
        }  # fmt: skip
        self.tables |= {name: _rows(one) for name, one in parts.items() if one is not None}
        if made.scores:
            self.tables["test"] = _test(made.scores)
        if made.channels is not None:
            self.tables["channels"] = _rows(made.channels.whole)
            about = made.channels.as_dict()
            about.pop("channels")
            self.tables["channels_about"] = _plain(about)
        if made.retained is not None:
            self.tables["retention"] = _plain(made.retained.as_dict())
        for part in ("channels", "retention", "model", "categories"):
            if part in made.missing:
                code = "no_spend" if part == "channels" and spend is None else "other"
                self.missing[part] = Reason(code, made.missing[part])

    def _history(self, store: Store) -> None:
        ids, moment = self.predictions["customer_id"], instant(self.as_of, store.zone)
        found = histories(store, ids, moment)
        for name, values in (("starts", found.starts), ("day", found.day.astype(np.int32)),
                             ("amount", found.amount)):  # fmt: skip
            with replacing(self.folder / f"{name}.npy") as temporary, temporary.open("wb") as file:
                np.save(file, values, allow_pickle=False)
        self.more |= customers.features(store, ids.tolist(), moment, KNOWN)

    def _people(self, store: Store) -> Reason | None:
        names = customers.attribute_names(store)
        if not names:
            return Reason("no_customers", "Add the table customers (customer_id, country, ...).")
        from serving.decisions.campaigns import attributes

        table = attributes(store, self.predictions["customer_id"].tolist(), names)
        text = table.astype(object)
        text = text.where(text.notna(), None)
        columns.write(text, self.folder / "people.arrow")
        self.tables["levels"] |= self._levels(text, LEVELS)
        self.channels = sorted(
            name.removeprefix("consent_") for name in names if name.startswith("consent_")
        )
        return None

    def _campaigns(self, store: Store, data: str) -> None:
        told = campaigns.contacts(data, self.settings)
        self.more["last_contact"] = last_contacts(told, self.predictions["customer_id"])
        self.tables["campaigns"] = [
            _plain(row | {"warnings": [Note.kept(each) for each in row["warnings"]]})
            for row in overview.overview(store, told, self.settings.business.margin)
        ]

    def _uplift(self, store: Store, folder: Path) -> None:
        from serving.decisions.uplift import load, said

        found = said(load(folder), self.predictions, store)
        self.more["uplift_away"] = found.away
        self.tables["uplift"] = found.as_dict()

    def _levels(self, table: pd.DataFrame, names: tuple[str, ...]) -> dict[str, list[str]]:
        """The values that a list may be asked by, sorted."""
        found = {}
        for name in names:
            if name in table:
                levels = sorted({str(value) for value in table[name].dropna().unique()})
                if len(levels) <= MOST:
                    found[name] = levels
        return found

    def _put(self, whole: bool) -> None:
        """Write what is known now; the file that says so comes last."""
        if not whole and _whole(self.folder):
            return  # done before, up to its pictures
        ids = self.predictions["customer_id"]
        columns.write(pd.DataFrame(self.more, index=ids.index), self.folder / "more.arrow")
        _json(self.tables, self.folder / "tables.json")
        about = {
            "format": FORMAT, "family": self.inputs.family, "whole": whole, "as_of": self.as_of,
            "months": self.months, "horizons": list(files.horizons(self.predictions)),
            "currency": self.settings.business.currency,
            "version": str(self.predictions["model_version"].iloc[0]),
            "customers": len(self.predictions),
            "prospects": int(waiting(self.predictions).sum()), "unit": self.unit,
            "zone": self.zone, "source": self.inputs.table.name, "consents": self.channels,
            "pictures": list(self.languages) if self.report is not None else [],
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "missing": {part: [why.code, Note.kept(why.text)]
                        for part, why in self.missing.items()},
        }  # fmt: skip
        _json(about, self.folder / ABOUT)


def _whole(folder: Path) -> bool:
    """Whether all tables of a folder are worked out already."""
    try:
        return Prepared(folder).whole
    except (OSError, ValueError, KeyError):
        return False


def _before(as_of: str) -> Path | None:
    """The newest table that the home keeps of a moment before `as_of`."""
    name = as_of.replace(":", "")
    found = [
        (file.parent.name, file.stat().st_mtime_ns, file)
        for file in latest(tracking.home()).glob("as_of=*/*.parquet")
        if file.parent.name.removeprefix("as_of=") < name
    ]
    return max(found)[2] if found else None


def _figures(groups: Segmented) -> list[dict[str, Any]]:
    """The key figures that the predictions alone tell, in the form of `Report.figures`."""
    h = groups.months
    whole = groups.table[groups.table["segment"] == "All"].iloc[0].to_dict()
    told = [
        ("customers", "customers", "count"), (f"clv_{h}m", f"clv_{h}m", "money"),
        (f"clv_{h}m_per_customer", f"clv_{h}m_per_customer", "money"),
        (f"churn_{h}m", f"churn_{h}m", "share"),
    ]  # fmt: skip
    return [
        _plain({
            "figure": name, "value": whole[column], "low": whole.get(f"{column}_low"),
            "high": whole.get(f"{column}_high"), "unit": unit,
        })
        for name, column, unit in told
    ]  # fmt: skip


def _test(scores: Mapping[str, Any]) -> dict[str, Any]:
    """When the model was tested and on whom, and how sure its metrics are."""
    told = {name: scores.get(name) for name in ("cutoff", "months", "customers", "intervals")}
    held = [row["inside"] for row in scores.get("coverage") or () if row["group"] == "all"]
    told |= {"intervals": told["intervals"] or {}, "inside": next(iter(held), None)}
    return {name: _plain(value) for name, value in told.items()}


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [_plain(row) for row in table.astype(object).to_dict("records")]


def _plain(value: Any) -> Any:
    """As JSON has it: None for what is not a number or missing."""
    if isinstance(value, dict):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _json(value: Any, out: Path) -> None:
    text = json.dumps(value, allow_nan=False)
    with replacing(out) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _sweep(own: Path, family: str) -> None:
    """Remove what nobody looks at any more: all but the newest of the same inputs.

    Other services may share the home: what they show is left alone for a month.
    """
    made = sorted((one.stat().st_mtime, one) for one in place().glob("*/") if one != own)
    same = [one for _, one in made if family_of(one) == family]
    long_ago = time.time() - FORGOTTEN
    old = [one for at, one in made if at < long_ago and family_of(one) != family]
    for each in (*same[: len(same) - KEPT + 1], *old):
        shutil.rmtree(each, ignore_errors=True)


def main() -> int:
    """Take the inputs from standard input; the exit code."""
    with contextlib.suppress(OSError, AttributeError):
        os.nice(10)  # who asks the service comes first
    told = json.loads(sys.stdin.readline())
    threading.Thread(target=_until_alone, daemon=True).start()
    config, uplift = (Path(told[name]) if told[name] else None for name in ("config", "uplift"))
    inputs = Inputs(Path(told["table"]), told["data"], config, uplift)
    return attempt(inputs, Path(told["folder"]))


def attempt(inputs: Inputs, folder: Path) -> int:
    """Work out everything, or leave word in one line why not; the exit code."""
    try:
        prepare(inputs, folder)
    except ClvError as error:
        fail(folder, Note.why(error))
        return error.exit_code
    except MemoryError:
        fail(folder, Note.of("desk.waiting.memory"))
        return 1
    except Exception as error:
        if os.environ.get("CLV_DEBUG"):
            raise
        fail(folder, Note.of("desk.waiting.fault", kind=type(error).__name__))
        return 1
    return 0


def _until_alone() -> None:
    """End with whoever asked: nobody else would read what is made."""
    sys.stdin.read()
    os._exit(3)


if __name__ == "__main__":
    sys.exit(main())
