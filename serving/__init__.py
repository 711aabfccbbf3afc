"""What others use: predictions, decisions, views.

``from serving import load`` gives a verified model; ``load("champion").predict(orders, as_of=...)``
takes and gives pandas frames.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serving.loader import load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """Import on first use: ``clv --help`` must not wait for numerical libraries."""
    if name == "load":
        from serving import loader

        return loader.load
    raise AttributeError(name)
