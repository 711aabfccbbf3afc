"""The commands that decide: value, sample-size, measure, plan."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from features.errors import InputError
from serving.commands.options import Config, DataArg, Json, Seed, print_json

__all__ = ["COMMANDS"]

Level = Annotated[float, typer.Option(help="Chance with which an interval holds the truth.")]


def value(
    data: DataArg,
    predictions: Annotated[Path, typer.Option(help="What clv predict wrote.")],
    out: Annotated[Path, typer.Option(help="File to write: .csv, .parquet or .xlsx.")],
    by: Annotated[
        str | None,
        typer.Option(help="Sums by channel, cohort or columns of predictions or customers: A,B."),
    ] = None,
    summary: Annotated[
        Path | None, typer.Option(help="File of the sums by group to write too.")
    ] = None,
    horizon: Annotated[
        int | None, typer.Option(help="Months to decide by; default: shortest.")
    ] = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Say what every customer was and will be worth, and what to spend on them at most.

    Example: clv value ./shop --predictions p.csv --by channel,cohort --out value.csv
    """
    from features import campaigns, formats
    from features.reading import find_settings, read
    from serving.decisions import files, words
    from serving.decisions.worth import worth
    from serving.progress import shown
    from serving.writing import require_writable

    for place, option in ((out, "--out"), (summary, "--summary")):
        if place is not None:
            require_writable(place, files.KINDS, option)
    if summary is not None and summary.absolute() == out.absolute():
        raise InputError(f"--summary must be another file than --out. Got {out} twice.")
    table = files.predictions(predictions)
    settings = find_settings(data, config)
    paid = None
    if "spend" in formats.tables(data, settings):
        paid = campaigns.spend(data, settings)
    levels = [part.strip() for part in by.split(",")] if by else []
    with shown(as_json) as progress, read(data, settings, progress) as (store, _):
        made = worth(store, table, settings, paid, levels, horizon)
    files.write(made.table(), out, "value")
    if summary is not None:
        files.write(made.summary(), summary, "groups")
    print_json(made.as_dict()) if as_json else print(words.valued(made, out, summary))


def sample_size(
    power: Annotated[float, typer.Option(help="Chance to see the effect if it is there.")],
    rate: Annotated[
        float | None, typer.Option(help="Share that acts without the campaign.")
    ] = None,
    lift: Annotated[float | None, typer.Option(help="Relative: 0.2 is a fifth more.")] = None,
    sd: Annotated[float | None, typer.Option(help="Standard deviation between customers.")] = None,
    difference: Annotated[float | None, typer.Option(help="Difference of means to see.")] = None,
    control: Annotated[float, typer.Option(help="Share of all that is held out.")] = 0.5,
    level: Level = 0.95,
    as_json: Json = False,
) -> None:
    """Say how many customers a campaign needs so that its effect can be seen.

    Example: clv sample-size --rate 0.10 --lift 0.2 --power 0.8
    """
    from serving.decisions import power as powers
    from serving.decisions import words

    asked = {"--rate": rate, "--lift": lift, "--sd": sd, "--difference": difference}
    given = [name for name, value in asked.items() if value is not None]
    if rate is not None and lift is not None and len(given) == 2:
        found = powers.sample_size_rate(rate, lift, power, share=control, level=level)
    elif sd is not None and difference is not None and len(given) == 2:
        found = powers.sample_size_mean(sd, difference, power, share=control, level=level)
    else:
        raise InputError(
            "Sample size takes --rate and --lift, or --sd and --difference. Got "
            f"{', '.join(given) or 'none of them'}. Write --rate 0.10 --lift 0.2 --power 0.8."
        )
    print_json(found.as_dict()) if as_json else print(words.sample_size(found))


def measure(
    data: DataArg,
    campaign: Annotated[str | None, typer.Option(help="A campaign of the table contacts.")] = None,
    days: Annotated[int, typer.Option(help="Days after the contact that count.")] = 90,
    outcome: Annotated[
        str | None,
        typer.Option(help="margin (default), revenue or orders; of a plain table a column."),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(help="Tell apart by columns of contacts (segment, channel) or customers."),
    ] = None,
    arm: Annotated[str | None, typer.Option(help="Plain table: the column of the arms.")] = None,
    control: Annotated[str | None, typer.Option(help="Plain table: value of the control.")] = None,
    before: Annotated[
        str | None, typer.Option(help="Plain table: columns of numbers known before the campaign.")
    ] = None,
    customer: Annotated[str | None, typer.Option(help="Plain table: the column of ids.")] = None,
    share: Annotated[
        float | None, typer.Option(help="Intended share of the control, to check the ratio.")
    ] = None,
    level: Level = 0.95,
    fit_uplift: Annotated[
        Path | None,
        typer.Option(help="New folder for an uplift model of the campaign, for clv target."),
    ] = None,
    seed: Seed = 0,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Say what a campaign brought per customer, against its control group.

    DATA holds orders and the table contacts; or it is one table of an experiment with --arm.

    Example: clv measure ./shop --campaign K03 --days 90 --by acquisition_channel
    """
    from serving.decisions import words

    if (campaign is None) == (arm is None):
        raise InputError(
            "Measure takes --campaign ID of the table contacts, or --arm COLUMN of a plain table. "
            f"Got {'neither' if arm is None else 'both'}. Write clv measure DATA --campaign ID."
        )
    model = None
    levels = [part.strip() for part in by.split(",")] if by else []
    if arm is not None:
        from serving.decisions import effects, files

        if fit_uplift is not None:
            raise InputError(
                "--fit-uplift needs orders and the table contacts, since it learns from behaviour. "
                "Got a plain table. Write clv measure DATA --campaign ID --fit-uplift FOLDER."
            )
        if control is None or outcome is None:
            raise InputError(
                "A plain table takes --arm COLUMN --control VALUE --outcome COLUMN. Got no "
                f"{'--control' if control is None else '--outcome'}. Name it."
            )
        known = [part.strip() for part in before.split(",")] if before else []
        found = effects.measure(
            files.read(data), arm=arm, control=control, outcome=outcome, before=known, by=levels,
            customer=customer, share=share, level=level,
        )  # fmt: skip
        name, currency = data, ""
    else:
        found, currency, model = _campaign(
            data, config, as_json, fit_uplift, seed, campaign=str(campaign), days=days,
            outcome=outcome or "margin", by=levels, share=share, level=level,
        )  # fmt: skip
        name = f"Campaign {campaign}"
        currency = "" if outcome == "orders" else currency
    if as_json:
        print_json(found.as_dict() | ({"uplift": model.as_dict()} if model else {}))
        return
    print(words.measured(found, name, currency))
    if model is not None:
        print(words.uplift(model, fit_uplift))


def _campaign(
    data: str, config: Any, quiet: bool, folder: Path | None, seed: int, **how: Any
) -> tuple[Any, str, Any]:
    """The measurement of a campaign, the currency of its money, and its uplift model."""
    from features.campaigns import contacts
    from features.reading import find_settings, read
    from serving.decisions.campaigns import measured
    from serving.progress import shown

    settings = find_settings(data, config)
    told = contacts(data, settings)
    with shown(quiet) as progress, read(data, settings, progress) as (store, _):
        found = measured(store, told, margin=settings.business.margin, **how)
        model = None
        if folder is not None:
            from serving.decisions import uplift

            some = {key: how[key] for key in ("days", "outcome")}
            model = uplift.of_campaign(
                store,
                told.of(how["campaign"]),
                settings,
                campaign=how["campaign"],
                seed=seed,
                **some,
            )
            uplift.save(model, folder)
    return found, settings.business.currency, model


def plan(
    data: DataArg,
    predictions: Annotated[Path, typer.Option(help="What clv predict wrote.")],
    out: Annotated[Path, typer.Option(help="File to write: .csv, .parquet or .xlsx.")],
    budget: Annotated[float | None, typer.Option(help="Money for one month.")] = None,
    minimum: Annotated[list[str] | None, typer.Option(help="CHANNEL=MONEY, at least.")] = None,
    maximum: Annotated[list[str] | None, typer.Option(help="CHANNEL=MONEY, at most.")] = None,
    responses: Annotated[
        Path | None,
        typer.Option(help="Table channel, scale, elasticity (segment, sd); default: from history."),
    ] = None,
    accept_loss: Annotated[
        bool, typer.Option("--accept-loss", help="Plan though it may well lose money.")
    ] = False,
    discount: Annotated[float | None, typer.Option(help="What if: share off the price.")] = None,
    months: Annotated[int, typer.Option(help="What if: months that the discount lasts.")] = 3,
    segment: Annotated[
        str | None, typer.Option(help="What if: for whom, a segment or COLUMN=VALUE.")
    ] = None,
    lift: Annotated[float, typer.Option(help="What if: relative growth of sales assumed.")] = 0.0,
    horizon: Annotated[int | None, typer.Option(help="Months of value; default: longest.")] = None,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Split a month's budget over channels where it brings most; or ask what a discount costs.

    Example: clv plan ./shop --predictions p.csv --budget 5000 --out plan.csv
    """
    from features.reading import find_settings, read
    from serving.decisions import files, planning, words
    from serving.progress import shown
    from serving.writing import require_writable

    require_writable(out, files.KINDS)
    if budget is None and discount is None:
        raise InputError("Plan takes --budget MONEY or --discount SHARE. Got neither. Name one.")
    table = files.predictions(predictions)
    settings = find_settings(data, config)
    made = what = None
    with shown(as_json) as progress, read(data, settings, progress) as (store, _):
        if budget is not None:
            made = planning.split(
                data, store, table, settings, budget, responses=responses, horizon=horizon,
                minimum=planning.bounds(minimum, "--minimum"),
                maximum=planning.bounds(maximum, "--maximum"), accept_loss=accept_loss,
            )  # fmt: skip
        if discount is not None:
            what = planning.discounted(
                store, table, settings, depth=discount, months=months, segment=segment, lift=lift,
                horizon=horizon,
            )  # fmt: skip
    files.write(planning.table(made, what), out, "plan")
    if as_json:
        print_json({"plan": made and made.as_dict(), "discount": what and what.as_dict()})
    else:
        print(words.planned(made, what, settings.business.currency, out))


COMMANDS: dict[str, Callable[..., None]] = {
    "value": value,
    "sample-size": sample_size,
    "measure": measure,
    "plan": plan,
}
