"""The commands that tell of groups of customers: segments, channels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from serving.commands.options import Config, DataArg, Json, Language, print_json

__all__ = ["COMMANDS"]

Out = Annotated[Path, typer.Option(help="File to write: .csv, .parquet or .xlsx.")]
Horizon = Annotated[
    int | None, typer.Option(help="Months of value and churn; default: the shortest predicted.")
]


def segments(
    predictions: Annotated[Path, typer.Argument(help="What clv predict wrote.")],
    out: Out,
    data: Annotated[
        str | None, typer.Option(help="Orders, for rfm, for rules on features, for categories.")
    ] = None,
    scheme: Annotated[
        str, typer.Option(help="value-churn, rfm, or a file of rules: .toml.")
    ] = "value-churn",
    before: Annotated[
        Path | None, typer.Option(help="Earlier predictions: who moved from where to where.")
    ] = None,
    summary: Annotated[
        Path | None,
        typer.Option(help="File for the table of segments; .xlsx also holds moves and categories."),
    ] = None,
    value_from: Annotated[
        float | None, typer.Option(help="value-churn: money from which a customer is worth much.")
    ] = None,
    churn_from: Annotated[
        float | None, typer.Option(help="value-churn: chance from which a customer likely leaves.")
    ] = None,
    horizon: Horizon = None,
    config: Config = None,
    language: Language = "en",
    as_json: Json = False,
) -> None:
    """Part customers into segments that say what to do, and tell what each is worth.

    Example: clv segments p.csv --data ./shop --before last_quarter.csv --out segments.csv
    """
    from features.reading import find_settings, read
    from features.settings import Settings, load
    from serving.decisions import files, segments
    from serving.decisions.group_words import segmented
    from serving.progress import shown
    from serving.views.language import words
    from serving.writing import require_writable

    say = words(language)
    for place in (out, summary):
        if place is not None:
            require_writable(place, files.KINDS)
    table = files.predictions(predictions)
    earlier = files.predictions(before) if before is not None else None
    months = files.horizon_of(table, horizon)
    if earlier is not None:
        files.horizon_of(earlier, months, "--before")
    settings = find_settings(data, config) if data is not None else (
        load(config) if config is not None else Settings()
    )  # fmt: skip
    chosen = segments.Scheme.of(
        scheme, [table] if earlier is None else [table, earlier], months,
        segments.Lines(value_from, churn_from), settings.segments,
    )  # fmt: skip

    def found(store: Any) -> Any:
        return segments.segmented(table, chosen, months, store=store, before=earlier)

    if data is None:
        made = found(None)
    else:
        with shown(as_json) as progress, read(data, settings, progress) as (store, _):
            made = found(store)
    _save(made, out, summary)
    if as_json:
        print_json(made.as_dict())
    else:
        currency = settings.business.currency if data is not None or config is not None else ""
        print(segmented(made, currency, out, summary, say))


def _save(made: Any, out: Path, summary: Path | None) -> None:
    from serving.decisions import files

    tables = made.tables()
    files.write(made.frame, out, "customers", more=tables)
    if summary is not None:
        rest = {name: table for name, table in tables.items() if name != "segments"}
        files.write(made.table, summary, "segments", more=rest)


def channels(
    data: DataArg,
    predictions: Annotated[Path, typer.Option(help="What clv predict wrote.")],
    out: Out,
    cohort: Annotated[
        str | None, typer.Option(help="Also apart by month or quarter in which they were won.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="First month, 2024-05; default: that of the spend.")
    ] = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Tell what a customer costs and brings by channel: CAC, value, LTV:CAC, ROI, payback.

    Example: clv channels ./shop --predictions p.csv --cohort quarter --out channels.xlsx
    """
    from features.campaigns import spend
    from features.money import Cashflow
    from features.reading import find_settings, read
    from serving.decisions import channels as economics
    from serving.decisions import files
    from serving.decisions.group_words import channels as told
    from serving.progress import shown
    from serving.writing import require_writable

    require_writable(out, files.KINDS)
    table = files.predictions(predictions)
    economics.require(table, cohort, since)
    settings = find_settings(data, config)
    paid = spend(data, settings)
    with shown(as_json) as progress, read(data, settings, progress) as (store, _):
        made = economics.channels(
            store, paid, table, Cashflow.of(settings.business), cohort=cohort, since=since
        )
    files.write(made.table, out, "channels")
    if as_json:
        print_json(made.as_dict())
    else:
        print(told(made, settings.business.currency, out))


COMMANDS: dict[str, Callable[..., None]] = {
    "segments": segments,
    "channels": channels,
}
