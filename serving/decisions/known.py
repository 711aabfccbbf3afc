"""What is known of the customers of some predictions beside these: attributes, features, contacts.

A list asks for little of it, and asks in one form wherever it is kept: `OfStore` reads the data,
the desk has it laid out beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from features.campaigns import Contacts
from features.errors import InputError
from features.spine import instant
from features.store import Store
from serving.decisions import customers
from serving.decisions.campaigns import attributes

__all__ = ["NEVER", "Known", "OfStore", "by_level", "last_contacts"]

Flags = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
NEVER: Final = np.iinfo(np.int64).min  # the last contact of who never had one


class Known(Protocol):
    """Tables with a row per row of the predictions, in their order."""

    @property
    def zone(self) -> str:
        """The time zone of naive moments."""

    @property
    def names(self) -> Sequence[str]:
        """The columns of the table customers but the id; none without that table."""

    def attributes(self, columns: Sequence[str], ids: Sequence[str] | None = None) -> pd.DataFrame:
        """Columns of the table customers, of all rows or of `ids`; InputError if it lacks one."""

    def features(self, names: Sequence[str]) -> dict[str, npt.NDArray[np.float64]]:
        """Features at the moment of the predictions, (rows,) by name; NaN without an order."""

    def contacted(self) -> Ints:
        """The last contact, as treated or control, (rows,) microseconds UTC; `NEVER` without one.

        InputError where there is no table contacts.
        """


@dataclass(frozen=True)
class OfStore:
    """What the data tell; `contacts` reads their table contacts when it is asked for."""

    store: Store
    ids: pd.Series
    as_of: str
    contacts: Callable[[], Contacts | None] = lambda: None

    @property
    def zone(self) -> str:
        """The time zone of the business."""
        return self.store.zone

    @property
    def names(self) -> Sequence[str]:
        """See `Known`."""
        return customers.attribute_names(self.store)

    def attributes(self, columns: Sequence[str], ids: Sequence[str] | None = None) -> pd.DataFrame:
        """See `Known`."""
        return attributes(self.store, self.ids.tolist() if ids is None else ids, columns)

    def features(self, names: Sequence[str]) -> dict[str, npt.NDArray[np.float64]]:
        """See `Known`."""
        strange = [name for name in names if name not in customers.feature_names()]
        if strange:
            raise InputError(
                "A condition must name a column of the predictions, a feature (clv features "
                "--dictionary) or a column of the table customers "
                f"({', '.join(self.names) or 'there is none'}). Got '{strange[0]}'. Correct it."
            )
        moment = instant(self.as_of, self.zone)
        return customers.features(self.store, self.ids.tolist(), moment, names)

    def contacted(self) -> Ints:
        """See `Known`."""
        found = self.contacts()
        if found is None:
            raise InputError(
                "Whether somebody was contacted is told by the table contacts. Got none. Add "
                "contacts.csv with campaign_id, customer_id, ts, arm beside the orders."
            )
        return last_contacts(found, self.ids)


def last_contacts(contacts: Contacts, ids: pd.Series) -> Ints:
    """The last contact of each of `ids`, (ids,); `NEVER` without one."""
    newest = contacts.frame.groupby("customer_id")["ts"].max()
    place = newest.index.get_indexer(pd.Index(ids, dtype=object))
    return np.where(place >= 0, newest.to_numpy(np.int64)[place], NEVER)


def by_level(column: pd.Series, test: Callable[[npt.NDArray[np.object_]], Flags]) -> Flags:
    """`test` of every cell, (rows,), asked once for each different one; None is what is missing."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        codes, levels = column.cat.codes.to_numpy(), column.cat.categories.to_numpy(object)
    else:
        codes, found = pd.factorize(column.astype(object))
        levels = np.asarray(found, object)
    cells = np.empty(len(levels) + 1, object)  # the last one, at -1, is what is missing
    cells[:-1] = levels
    return np.asarray(test(cells), np.bool_)[codes]
