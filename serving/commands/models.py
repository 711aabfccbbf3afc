"""The commands around models: train, backtest, promote, rollback, export-model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from serving.commands.options import (
    AsOf,
    Config,
    DataArg,
    Horizons,
    Json,
    Seed,
    Workers,
    numbers,
    one_horizon,
    print_json,
)

__all__ = ["COMMANDS"]


def train(
    data: DataArg,
    as_of: AsOf = None,
    horizons: Horizons = None,
    config: Config = None,
    seed: Seed = 0,
    tune: Annotated[
        int,
        typer.Option(min=0, metavar="N", help="Search N settings of the trees first (optuna)."),
    ] = 0,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Train on everything before a date, test out of time, log and register in MLflow.

    Example: clv train orders.csv --as-of 2025-01-01 --horizons 12,24
    """
    from features.reading import find_settings
    from serving import words
    from serving.progress import shown
    from training.run import train as run

    settings = find_settings(data, config)
    with shown(as_json) as progress:
        done = run(
            data, as_of=as_of, horizons=numbers(horizons), settings=settings, seed=seed,
            trials=tune, workers=workers, progress=progress,
        )  # fmt: skip
    print_json(done.as_dict()) if as_json else print(words.trained(done))


def backtest(
    data: DataArg,
    as_of: Annotated[
        str | None,
        typer.Option("--as-of", help="Dates, separated by commas; default: the newest three."),
    ] = None,
    horizon: Annotated[int, typer.Option(help="Calendar months to predict, 1 to 24.")] = 12,
    out: Annotated[Path | None, typer.Option(help="Page of plots to write, .html.")] = None,
    early: Annotated[
        str | None,
        typer.Option(help="Also judge so many days after customers' first orders: 0,30,90."),
    ] = None,
    one_slice: Annotated[
        str | None,
        typer.Option(
            "--slice", metavar="NAME", help="Print this slice of every date, such as country."
        ),
    ] = None,
    config: Config = None,
    seed: Seed = 0,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Fit before each date and judge our model and every baseline on what followed.

    Example: clv backtest orders.csv --as-of 2024-01-01,2024-07-01 --horizon 12
    """
    from features.reading import find_settings, read, with_horizons
    from features.spine import instant
    from serving import words
    from serving.progress import shown
    from serving.writing import require_writable
    from training.backtest import backtest as judge
    from training.backtest import possible_slices, rolling
    from training.labels import require_ripe
    from training.newcomers import early as read_early
    from training.slices import require_slice

    if out is not None:
        require_writable(out, (".html",))
    settings = with_horizons(find_settings(data, config), [one_horizon(horizon)])
    zone = settings.business.time_zone
    asked = [instant(day, zone) for day in as_of.split(",")] if as_of else []
    days = numbers(early, "Days after the first order", "0,30,90")
    with shown(as_json) as progress, read(data, settings, progress) as (store, _):
        if one_slice:
            require_slice(one_slice, possible_slices(store, settings))
        for moment in asked:  # before the first of them is fitted
            require_ripe(moment, horizon, store.coverage_end, zone)
        moments = sorted(set(asked)) or rolling(store, horizon, settings)
        options: dict[str, Any] = {"seed": seed, "workers": workers or 1, "progress": progress}
        found = [
            judge(store, moment, horizon, settings, plain=True, **options) for moment in moments
        ]
        reads = [
            read_early(store, moment, horizon, settings, days, model=one.model,
                       workers=workers or 1)
            for moment, one in zip(moments, found, strict=True) if days
        ]  # fmt: skip
    if one_slice:
        require_slice(one_slice, list(dict.fromkeys(found[-1].slices["slice"])))
    if out is not None:
        from serving.views.backtests import write_page

        write_page(found, out)
    if as_json:
        apart = {"early": [[one.as_dict() for one in some] for some in reads]} if days else {}
        print_json({"backtests": [one.as_dict() for one in found], **apart})
    else:
        print("\n\n".join([words.backtested(found, one_slice),
                           *(words.early(one) for some in reads for one in some)]))  # fmt: skip
        if out is not None:
            print(f"Written to {out}")


def promote(
    version: Annotated[str, typer.Argument(help="Number of the version.")],
    reason: Annotated[str, typer.Option(help="Why, for the audit line.")] = "",
    force: Annotated[
        str | None, typer.Option(help="Why one that the gate refused becomes champion.")
    ] = None,
) -> None:
    """Make a version the champion; one that the gate refused only by --force.

    Example: clv promote 3 --reason "better on the last year"
    """
    from training import registry

    moved = registry.promote(version, reason, force)
    print(f"Version {moved.number} is champion")


def rollback(
    reason: Annotated[str, typer.Option(help="Why, for the audit line.")] = "",
) -> None:
    """Go back to the champion before.

    Example: clv rollback --reason "complaints"
    """
    from training import registry

    moved = registry.rollback(reason)
    print(f"Version {moved.number} is champion again")


def export_model(
    folder: Annotated[Path, typer.Argument(help="New folder to write.")],
    model: Annotated[str, typer.Option(help="champion, challenger or VERSION.")] = "champion",
) -> None:
    """Write a verified model folder that travels; it loads wherever the key is.

    Example: clv export-model ./model --model 3
    """
    from serving.export import export

    version = export(folder, model)
    print(f"Version {version} written to {folder}. Bring the key: CLV_KEY or CLV_HOME/key")


COMMANDS: dict[str, Callable[..., None]] = {
    "train": train,
    "backtest": backtest,
    "promote": promote,
    "rollback": rollback,
    "export-model": export_model,
}
