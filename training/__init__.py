"""From tables to a registered model.

``from training import train``; ``train(orders)`` takes a pandas frame, a file, a folder or a
database URL.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.run import train

__all__ = ["train"]


def __getattr__(name: str) -> Any:
    """Import on first use: ``clv --help`` must not wait for numerical libraries."""
    if name == "train":
        from training import run

        return run.train
    raise AttributeError(name)
