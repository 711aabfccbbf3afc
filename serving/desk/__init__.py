"""The desk: pages for people from marketing, served beside the API by ``clv serve``.

It shows what `serving.decisions` computed and computes nothing itself. It is an application of its
own, reached by `OWN` alone: who asks the API does not meet it.

    routes     which pages there are
    session    who is there and what they may
    frame      a visit: the words of its language, forms, pages as HTML
    reading    the pages that are read
    building   the pages that make lists, and campaigns; choosing reads their form
    prepared   what all pages show, worked out by preparing in a process of its own
    gallery    the report's pictures, drawn there too; pictures places one customer's orders
    lists      a list as the command makes it; saved keeps it and hands it out
"""

from __future__ import annotations

from typing import Final

__all__ = ["OWN", "is_own"]

#: All that is the desk's: the first page, and what lies below.
OWN: Final = ("/", "/desk/")


def is_own(path: str) -> bool:
    """Whether a path is the desk's."""
    return path == OWN[0] or path.startswith(OWN[1])
