"""What can go wrong, drawn as a tree. Exit codes of the command line stand beside it.

ClvError                 1  never raised itself
├── InputError           2  data, a setting or an option is not as it must be
│   └── BundleError      2  a model folder was refused
└── GateError            3  a model may not become champion

A message says what must hold, what came (file, line, column, value) and the cure, in one line.
"""

from __future__ import annotations

__all__ = ["BundleError", "ClvError", "GateError", "InputError"]


class ClvError(Exception):
    """Every error that this project raises on purpose."""

    exit_code = 1


class InputError(ClvError):
    """Data, a setting or an option is not as it must be."""

    exit_code = 2


class BundleError(InputError):
    """A model folder was refused before anything in it was parsed, or failed its golden rows."""


class GateError(ClvError):
    """A model did not earn the place of champion."""

    exit_code = 3
