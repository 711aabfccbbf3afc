"""What is known of the cost of a customer's orders: two features that a model of margins reads.

They stand in the catalogue of such a model only, so that one that was learned from orders without
costs depends on nothing here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

from features.errors import BundleError
from features.formulas import Expr, Take

__all__ = ["COSTED", "COSTS", "ENTRIES", "known", "version"]

COSTED: Final = "net_spend_costed"
COSTS: Final = "costs"


#: Unit, formula and meaning of each.
ENTRIES: Final[Mapping[str, tuple[str, Expr, str]]] = {
    COSTED: ("currency", Take("costed") / Take("unit"),
             "spend less refunds ever, of lines whose cost is known"),
    COSTS: ("currency", Take("cost") / Take("unit"),
            "what these lines cost ever, less what came back"),
}  # fmt: skip


def version() -> str:
    """Hash of the definitions; a model that reads them carries it."""
    told = repr([(name, str(formula)) for name, (_, formula, _) in ENTRIES.items()])
    return hashlib.sha256(told.encode()).hexdigest()


def known(given: str | None) -> bool:
    """Whether a card that carries this version, or none, reads costs.

    Raises
    ------
    BundleError
        The features were defined otherwise where the card was written.
    """
    if given not in (None, version()):
        raise BundleError(
            f"The features of costs must be those this code computes, {version()}. Got {given!r}. "
            "Train again with this code."
        )
    return given is not None
