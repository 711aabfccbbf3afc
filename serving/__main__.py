"""The command line: it parses, calls and prints. The work is in the modules below.

Exit codes: 0 done, 2 bad input (one line why, and the cure), 3 gate not passed, 1 our fault.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from features.errors import ClvError, InputError

__all__ = ["app", "main"]

app = typer.Typer(
    name="clv",
    help="Customer value and churn from an order history.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

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
Seed = Annotated[int, typer.Option(min=0, help="Same data and seed, same model.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Threads; default: one per processor.")]
AllowGap = Annotated[
    bool, typer.Option("--allow-gap", help="Accept an --as-of long after the data end.")
]


def main() -> None:
    """Run the command line and translate errors into exit codes."""
    # Left from here, where no error is alive any more: what its frames hold (open streams of
    # DuckDB, for example) would be missed by their libraries at the interpreter's end.
    code = _run()
    if code:
        sys.exit(code)


def _run() -> int:
    try:
        app(standalone_mode=False)
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


def _print_json(value: Any) -> None:
    print(json.dumps(value, allow_nan=False, default=str))


def _numbers(
    text: str | None, what: str = "Months", example: str = "12,18,24"
) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(
            f"{what} must be whole numbers separated by commas. Got {text!r}. Write {example}."
        ) from None


def _one_horizon(months: int) -> int:
    from features.settings import months as checked

    try:
        return checked((months,))[0]
    except ValueError as error:
        raise InputError(f"--horizon {error}. Write it like --horizon 12.") from None


@app.command()
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
    from features import tables
    from serving.progress import shown
    from training.run import as_of_in, find_settings, read

    settings = find_settings(data, config)
    with shown(as_json) as progress, read(data, settings, progress) as (store, found):
        if as_of is not None:
            as_of_in(store, as_of, settings)
        if quarantine is not None:
            tables.quarantine(found, quarantine)
        _print_json(found.as_dict()) if as_json else print(found.format())
        if strict and found.refused:
            raise InputError(
                f"--strict wants no row refused. Refused were {found.refused:,} of "
                f"{found.rows_in + found.events_in:,}. Mend them (--quarantine FILE lists "
                "them) or go without it."
            )


@app.command()
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
        _print_json(entries) if as_json else print(export.dictionary_text(entries))
        return
    if data is None or as_of is None or out is None:
        raise InputError(
            "clv features needs DATA, --as-of and --out. Write clv features orders.csv "
            "--as-of 2025-01-01 --out features.parquet, or clv features --dictionary."
        )
    with shown(as_json) as progress:
        found = export.features(
            data, as_of.split(","), out, labels=_numbers(labels), model=model, config=config,
            workers=workers, progress=progress,
        )  # fmt: skip
    if as_json:
        _print_json(found)
        return
    print(f"{found['rows']:,} rows, {found['features']} features written to {out}")
    for months, count in found["unripe"].items():
        print(f"{count:,} rows have no label of {months} months: the data do not cover it yet")


@app.command()
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
    from serving import words
    from serving.progress import shown
    from training.run import find_settings
    from training.run import train as run

    settings = find_settings(data, config)
    with shown(as_json) as progress:
        done = run(
            data, as_of=as_of, horizons=_numbers(horizons), settings=settings, seed=seed,
            trials=tune, workers=workers, progress=progress,
        )  # fmt: skip
    _print_json(done.as_dict()) if as_json else print(words.trained(done))


@app.command()
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
    config: Config = None,
    seed: Seed = 0,
    workers: Workers = None,
    as_json: Json = False,
) -> None:
    """Fit before each date and judge our model and every baseline on what followed.

    Example: clv backtest orders.csv --as-of 2024-01-01,2024-07-01 --horizon 12
    """
    from features.spine import instant
    from serving import words
    from serving.batch import require_writable
    from serving.progress import shown
    from training.backtest import backtest as judge
    from training.backtest import rolling
    from training.newcomers import early as read_early
    from training.run import find_settings, read, with_horizons

    if out is not None:
        require_writable(out, (".html",))
    settings = with_horizons(find_settings(data, config), [_one_horizon(horizon)])
    zone = settings.business.time_zone
    asked = [instant(day, zone) for day in as_of.split(",")] if as_of else []
    days = _numbers(early, "Days after the first order", "0,30,90")
    with shown(as_json) as progress, read(data, settings, progress) as (store, _):
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
    if out is not None:
        from serving.views.backtests import write_page

        write_page(found, out)
    if as_json:
        apart = {"early": [[one.as_dict() for one in some] for some in reads]} if days else {}
        _print_json({"backtests": [one.as_dict() for one in found], **apart})
    else:
        print("\n\n".join([words.backtested(found),
                           *(words.early(one) for some in reads for one in some)]))  # fmt: skip
        if out is not None:
            print(f"Written to {out}")


@app.command()
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
    as_json: Json = False,
) -> None:
    """Score every customer with an order before a date.

    Example: clv predict orders.csv --as-of 2025-01-01 --out predictions.csv
    """
    from serving import batch, words
    from serving.loader import load
    from serving.progress import shown

    batch.require_writable(out, batch.KINDS)
    loaded = load(model)
    with shown(as_json) as progress:
        scored = batch.score(
            loaded, data, as_of=as_of, horizons=_numbers(horizons), config=config,
            workers=workers, allow_gap=allow_gap, reasons=reasons, prospects=prospects,
            progress=progress,
        )  # fmt: skip
    batch.write(scored.frame, out)
    batch.keep(scored, loaded.version)
    summary = words.summary(scored, loaded)
    _print_json(summary) if as_json else print(words.scored(summary, out))


@app.command()
def explain(
    data: DataArg,
    customer: Annotated[str, typer.Option(help="Id of the customer, byte for byte.")],
    as_of: AsOf = None,
    horizon: Annotated[int, typer.Option(help="Calendar months, 1 to 24.")] = 12,
    model: ModelOpt = "champion",
    reasons: Annotated[int, typer.Option(min=1, help="Features told one by one.")] = 8,
    config: Config = None,
    allow_gap: AllowGap = False,
    as_json: Json = False,
) -> None:
    """Say in money why one customer is worth what is predicted; the lines add up.

    Example: clv explain orders.csv --as-of 2025-01-01 --customer 0042
    """
    from serving import words
    from serving.loader import load
    from serving.progress import shown
    from serving.reasons import one

    months = _one_horizon(horizon)
    loaded = load(model)
    with shown(as_json) as progress:
        told = one(
            loaded, data, customer, as_of=as_of, months=months, count=reasons, config=config,
            allow_gap=allow_gap, progress=progress,
        )  # fmt: skip
    _print_json(told.as_dict()) if as_json else print(words.explained(told))


@app.command()
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

    months = _one_horizon(horizon)
    loaded = load(model)
    with shown(as_json) as progress:
        found, date = measure(
            loaded, data, as_of=as_of, months=months, config=config, workers=workers,
            allow_gap=allow_gap, progress=progress,
        )  # fmt: skip
    about = words.drivers_summary(found, date, months, loaded)
    _print_json(about) if as_json else print(words.drivers(about))


@app.command()
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


@app.command()
def rollback(
    reason: Annotated[str, typer.Option(help="Why, for the audit line.")] = "",
) -> None:
    """Go back to the champion before.

    Example: clv rollback --reason "complaints"
    """
    from training import registry

    moved = registry.rollback(reason)
    print(f"Version {moved.number} is champion again")


@app.command("export-model")
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


@app.command()
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


@app.command()
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


if __name__ == "__main__":
    main()
