"""The commands that predict and say why: predict, explain, drivers, demo."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from features.errors import InputError
from serving.commands.options import (
    AllowGap,
    AsOf,
    Config,
    DataArg,
    Horizons,
    Json,
    Language,
    ModelOpt,
    Seed,
    Workers,
    numbers,
    one_horizon,
    print_json,
)

__all__ = ["COMMANDS"]


def predict(
    data: DataArg,
    out: Annotated[Path, typer.Option(help="File to write: .csv or .parquet.")],
    as_of: AsOf = None,
    model: ModelOpt = "champion",
    horizons: Horizons = None,
    config: Config = None,
    workers: Workers = None,
    allow_gap: AllowGap = False,
    reasons: Annotated[
        int, typer.Option(min=0, help="Add a column of so many reasons in money per customer.")
    ] = 0,
    prospects: Annotated[
        bool,
        typer.Option("--prospects", help="Also those of table customers who have no order yet."),
    ] = False,
    cashflow: Annotated[
        Path | None, typer.Option(help="File of value by month to write too: .csv or .parquet.")
    ] = None,
    language: Language = "en",
    as_json: Json = False,
) -> None:
    """Score every customer with an order before a date.

    Example: clv predict orders.csv --as-of 2025-01-01 --out predictions.csv
    """
    from serving import batch, words, writing
    from serving.loader import load
    from serving.progress import shown
    from serving.views.language import words as known

    known(language)
    writing.require_writable(out, writing.KINDS)
    if cashflow is not None:
        writing.require_writable(cashflow, writing.KINDS, "--cashflow")
        if cashflow.absolute() == out.absolute():
            raise InputError(f"--cashflow must be another file than --out. Got {cashflow} twice.")
    loaded = load(model)
    with shown(as_json) as progress:
        scored = batch.score(
            loaded, data, as_of=as_of, horizons=numbers(horizons), config=config,
            workers=workers, allow_gap=allow_gap, reasons=reasons, prospects=prospects,
            cashflow=cashflow, out=out, progress=progress, language=language,
        )  # fmt: skip
    summary = words.summary(scored, loaded)
    print_json(summary) if as_json else print(words.scored(summary, out))
    if cashflow is not None and not as_json:
        print(f"Value of each month written to {cashflow}")


def explain(
    data: DataArg,
    customer: Annotated[str, typer.Option(help="Id of the customer, byte for byte.")],
    as_of: AsOf = None,
    horizon: Annotated[int, typer.Option(help="Calendar months, 1 to 24.")] = 12,
    model: ModelOpt = "champion",
    reasons: Annotated[int, typer.Option(min=1, help="Features told one by one.")] = 8,
    config: Config = None,
    allow_gap: AllowGap = False,
    language: Language = "en",
    as_json: Json = False,
) -> None:
    """Say in money why one customer is worth what is predicted; the lines add up.

    Example: clv explain orders.csv --as-of 2025-01-01 --customer 0042
    """
    from serving import words
    from serving.loader import load
    from serving.progress import shown
    from serving.reasons import one
    from serving.views.language import words as known

    months = one_horizon(horizon)
    known(language)
    loaded = load(model)
    with shown(as_json) as progress:
        told = one(
            loaded, data, customer, as_of=as_of, months=months, count=reasons, config=config,
            allow_gap=allow_gap, progress=progress, language=language,
        )  # fmt: skip
    print_json(told.as_dict()) if as_json else print(words.explained(told))


def drivers(
    data: DataArg,
    as_of: AsOf = None,
    horizon: Annotated[int, typer.Option(help="Calendar months, 1 to 24.")] = 12,
    model: ModelOpt = "champion",
    config: Config = None,
    workers: Workers = None,
    allow_gap: AllowGap = False,
    as_json: Json = False,
) -> None:
    """Say which behaviour comes before leaving, with its weight in money.

    Example: clv drivers orders.csv --as-of 2025-01-01 --horizon 12
    """
    from serving import words
    from serving.loader import load
    from serving.progress import shown
    from serving.reasons import drivers as measure

    months = one_horizon(horizon)
    loaded = load(model)
    with shown(as_json) as progress:
        found, date = measure(
            loaded, data, as_of=as_of, months=months, config=config, workers=workers,
            allow_gap=allow_gap, progress=progress,
        )  # fmt: skip
    about = words.drivers_summary(found, date, months, loaded)
    print_json(about) if as_json else print(words.drivers(about))


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the predictions.")] = Path("demo-output"),
    seed: Seed = 0,
) -> None:
    """Run the main job on real orders: CDNOW, 23,570 customers of a music shop, 1997-98.

    Example: clv demo
    """
    from serving.demo import run
    from serving.progress import shown

    with shown() as progress:
        print(run(out, seed, progress))


COMMANDS: dict[str, Callable[..., None]] = {
    "predict": predict,
    "explain": explain,
    "drivers": drivers,
    "demo": demo,
}
