"""The command line: it parses, calls and prints. The work is in the modules below.

Exit codes: 0 done, 2 bad input (one line why, and the cure), 3 gate not passed, 1 our fault.
"""

from __future__ import annotations

import os
import sys

import typer

from features.errors import ClvError
from serving.commands import (
    data,
    decisions,
    groups,
    lists,
    models,
    predictions,
    reports,
    retention,
    service,
)

__all__ = ["app", "main"]

app = typer.Typer(
    name="clv",
    help="Customer value and churn from an order history.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

for subject in (
    data, models, predictions, service, decisions, lists, groups, retention, reports
):  # fmt: skip
    for name, run in subject.COMMANDS.items():
        app.command(name)(run)


def main() -> None:
    """Run the command line and translate errors into exit codes."""
    # Left from here, where no error is alive any more: what its frames hold (open streams of
    # DuckDB, for example) would be missed by their libraries at the interpreter's end.
    code = _run()
    if code:
        sys.exit(code)


def _run() -> int:
    try:
        code = app(standalone_mode=False)
        return code if isinstance(code, int) else 0  # of a command that ended by typer.Exit
    except ClvError as error:
        return _said(str(error), error.exit_code)
    except typer.Exit as stop:
        return stop.exit_code
    except (typer.Abort, KeyboardInterrupt):
        return _said("stopped", 130)
    except BrokenPipeError:
        # The reader has gone (clv ... | head); the interpreter must not try to flush to it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        return _unexpected(error)
    return 0


def _said(text: str, code: int) -> int:
    print(f"clv: {text}", file=sys.stderr)
    return code


def _unexpected(error: Exception) -> int:
    # The parser's own refusals (an unknown option, a missing argument) carry their text.
    if hasattr(error, "format_message"):
        text = " ".join(error.format_message().split()).rstrip(".")
        # Where typer has asked pydantic, the text leaves out the value that came.
        faults = getattr(error.__cause__, "errors", None)
        if callable(faults):
            text += f". Got {faults()[0]['input']!r}"
        context = getattr(error, "ctx", None)
        place = context.command_path if context else "clv"
        return _said(f"{text}. See {place} --help.", 2)
    if type(error).__module__.lstrip("_") == "duckdb":
        from features.disk import full

        refusal = full(error)
        if refusal is not None:
            return _said(str(refusal), refusal.exit_code)
    if os.environ.get("CLV_DEBUG"):
        raise error
    if isinstance(error, OSError) and error.strerror:
        # A full disk, a missing right, a file where a folder should be: not ours to mend.
        return _said(
            f"Files must be readable and folders writable. Got '{error.strerror}' for "
            f"{error.filename or 'a file'}. Free some space, mend its mode or name another place.",
            2,
        )
    kind = type(error).__name__
    return _said(f"our fault ({kind}). CLV_DEBUG=1 shows where; please report it.", 1)


if __name__ == "__main__":
    main()
