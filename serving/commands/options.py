"""What several commands share: options, numbers parsed from text, JSON printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from features.errors import InputError

__all__ = [
    "AllowGap",
    "AsOf",
    "AsOfs",
    "Config",
    "DataArg",
    "Horizons",
    "Json",
    "Language",
    "ModelOpt",
    "Seed",
    "Workers",
    "numbers",
    "one_horizon",
    "print_json",
]

DataArg = Annotated[str, typer.Argument(help="A folder, a file of orders, or a database URL.")]
AsOf = Annotated[
    str | None,
    typer.Option("--as-of", help="Moment of prediction, YYYY-MM-DD; default: end of the data."),
]
AsOfs = Annotated[str, typer.Option("--as-of", help="One or more dates, separated by commas.")]
Horizons = Annotated[
    str | None, typer.Option(help="Calendar months, 1 to 24, separated by commas: 12,18,24.")
]
Config = Annotated[Path | None, typer.Option(help="Settings; default: clv.toml in DATA.")]
ModelOpt = Annotated[str, typer.Option("--model", help="champion, challenger, VERSION or FOLDER.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Language = Annotated[
    str, typer.Option("--language", help="Language of the words: en, de, hu or nl.")
]
Seed = Annotated[int, typer.Option(min=0, help="Same data and seed, same model.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Threads; default: one per processor.")]
AllowGap = Annotated[
    bool, typer.Option("--allow-gap", help="Accept an --as-of long after the data end.")
]


def print_json(value: Any) -> None:
    """Print one JSON object, dates as text; a number that is not finite is our fault."""
    print(json.dumps(value, allow_nan=False, default=str))


def numbers(
    text: str | None, what: str = "Months", example: str = "12,18,24"
) -> tuple[int, ...] | None:
    """Whole numbers of a list like 12,18,24; InputError names what they stand for."""
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(
            f"{what} must be whole numbers separated by commas. Got {text!r}. Write {example}."
        ) from None


def one_horizon(months: int) -> int:
    """One horizon in calendar months, checked like those of the settings."""
    from features.settings import months as checked

    try:
        return checked((months,))[0]
    except ValueError as error:
        raise InputError(f"--horizon {error}. Write it like --horizon 12.") from None
