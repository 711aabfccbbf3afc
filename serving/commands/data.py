"""The commands that read and make data: check, features, simulate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from features.errors import InputError
from serving.commands.options import AsOf, Config, DataArg, Json, Seed, Workers, numbers, print_json

__all__ = ["COMMANDS"]


def check(
    data: DataArg,
    as_of: AsOf = None,
    strict: Annotated[bool, typer.Option("--strict", help="Any refusal is exit code 2.")] = False,
    quarantine: Annotated[
        Path | None, typer.Option(help="Write refused rows with their reason to this CSV file.")
    ] = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Read orders, apply every rule, print what came of it.

    Example: clv check orders.csv --strict --quarantine refused.csv
    """
    from dataclasses import replace

    from features import tables
    from features.campaigns import survey
    from features.reading import as_of_in, find_settings, read
    from serving.progress import shown

    settings = find_settings(data, config)
    with shown(as_json) as progress, read(data, settings, progress) as (store, found):
        if as_of is not None:
            as_of_in(store, as_of, settings)
        if quarantine is not None:
            tables.quarantine(found, quarantine)
        beside = survey(data, settings)
        told = replace(found, rules=(*found.rules, *beside.rules))
        if as_json:
            print_json(told.as_dict() | beside.facts)
        else:
            print("\n".join([told.format(), *beside.lines]))
        refused = found.refused + beside.refused
        if strict and refused:
            whole = found.rows_in + found.events_in + beside.facts.get("contacts_in", 0)
            raise InputError(
                f"--strict wants no row refused. Refused were {refused:,} of {whole:,}. Mend them "
                "(--quarantine FILE lists those of orders and events) or go without it."
            )


def features(
    data: Annotated[str | None, typer.Argument(help="As for the other commands.")] = None,
    as_of: Annotated[
        str | None, typer.Option("--as-of", help="One or more dates, separated by commas.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Parquet file to write.")] = None,
    labels: Annotated[
        str | None, typer.Option(help="Also what happened in so many months: 12,24.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Use this model's vocabulary of channels and categories.")
    ] = None,
    dictionary: Annotated[
        bool, typer.Option("--dictionary", help="Print the data dictionary instead.")
    ] = False,
    config: Config = None,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Write one row per customer and date, one column per feature.

    Example: clv features orders.csv --as-of 2025-01-01,2025-07-01 --out features.parquet
    """
    from serving import export
    from serving.progress import shown

    if dictionary:
        entries = export.dictionary(model)
        print_json(entries) if as_json else print(export.dictionary_text(entries))
        return
    if data is None or as_of is None or out is None:
        raise InputError(
            "clv features needs DATA, --as-of and --out. Write clv features orders.csv "
            "--as-of 2025-01-01 --out features.parquet, or clv features --dictionary."
        )
    with shown(as_json) as progress:
        found = export.features(
            data, as_of.split(","), out, labels=numbers(labels), model=model, config=config,
            workers=workers, progress=progress,
        )  # fmt: skip
    if as_json:
        print_json(found)
        return
    print(f"{found['rows']:,} rows, {found['features']} features written to {out}")
    for months, count in found["unripe"].items():
        print(f"{count:,} rows have no label of {months} months: the data do not cover it yet")


def simulate(
    folder: Annotated[Path, typer.Argument(help="New or empty folder to write.")],
    customers: Annotated[int, typer.Option(help="How many.")],
    profile: Annotated[
        str, typer.Option(help="shop: a whole shop; bench: the fixed benchmark with known truth.")
    ] = "shop",
    years: Annotated[float, typer.Option(help="History of the shop profile.")] = 4.5,
    seed: Seed = 0,
) -> None:
    """Write a simulated shop with known truth.

    Example: clv simulate ./shop --customers 5000 --seed 1
    """
    from features import simulate as simulation

    if profile not in ("shop", "bench"):
        raise InputError(f"--profile must be shop or bench. Got {profile!r}. Choose one of them.")
    if profile == "bench":
        made = simulation.bench(customers, seed)
    else:
        made = simulation.shop(customers, years, seed)
    simulation.write(made, folder)
    for name, table in made.tables.items():
        print(f"{name}: {len(table):,} rows")


COMMANDS: dict[str, Callable[..., None]] = {
    "check": check,
    "features": features,
    "simulate": simulate,
}
