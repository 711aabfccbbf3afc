"""The commands about staying and bringing others: retention, referrals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from serving.commands.options import AsOf, Config, DataArg, Json, print_json

__all__ = ["COMMANDS"]


def retention(
    data: DataArg,
    out: Annotated[Path, typer.Option(help="Folder to write: tables, pictures and a page.")],
    as_of: AsOf = None,
    months: Annotated[
        int | None,
        typer.Option(min=1, max=60, help="To come again; default: longest of 12, 6, 3, 1."),
    ] = None,
    period: Annotated[
        str | None, typer.Option(help="Cohorts by month or quarter; default: by the history.")
    ] = None,
    silence: Annotated[
        int | None,
        typer.Option(help="Days without an order that end a life; default: [business] churn."),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(help="Columns of customers to show beside; default: surveys and loyalty."),
    ] = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Say who comes again and how long customers stay: by cohort, channel, survey and loyalty.

    Example: clv retention ./shop --out retention
    """
    from features.reading import as_of_in, find_settings, read
    from serving.decisions.retained import retained
    from serving.progress import shown
    from serving.views import retention as view

    view.require_folder(out)
    settings = find_settings(data, config)
    columns = None if by is None else [part.strip() for part in by.split(",")]
    with shown(as_json) as progress, read(data, settings, progress) as (store, _):
        until = as_of_in(store, as_of, settings)
        made = retained(store, settings, until=until, months=months, period=period,
                        silence=silence, by=columns)  # fmt: skip
    names = view.write(made, out)
    print_json(made.as_dict()) if as_json else print(view.terminal(made, out, names))


def referrals(
    data: DataArg,
    predictions: Annotated[Path, typer.Option(help="What clv predict wrote.")],
    out: Annotated[Path, typer.Option(help="File to write: .csv, .parquet or .xlsx.")],
    horizon: Annotated[
        int | None, typer.Option(help="Months of value; default: the shortest predicted.")
    ] = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Say what the customers are worth whom others brought, by who brought them.

    The table customers names them in referrer_id.

    Example: clv referrals ./shop --predictions p.csv --out referrals.csv
    """
    from features.reading import find_settings, read
    from serving.decisions import files
    from serving.decisions.referrals import of_data
    from serving.progress import shown
    from serving.views.referrals import terminal
    from serving.writing import require_writable

    require_writable(out, files.KINDS)
    settings = find_settings(data, config)
    with shown(as_json) as progress, read(data, settings, progress) as (store, _):
        made = of_data(data, predictions, store, settings, horizon)
    files.write(made.table, out, "referrals")
    print_json(made.as_dict()) if as_json else print(terminal(made, out))


COMMANDS: dict[str, Callable[..., None]] = {
    "retention": retention,
    "referrals": referrals,
}
