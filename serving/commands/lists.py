"""The commands that make lists of customers: target, winback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from features.errors import InputError
from serving.commands.options import Config, DataArg, Json, Seed, print_json

__all__ = ["COMMANDS"]

Predictions = Annotated[Path, typer.Option(help="What clv predict wrote.")]
Out = Annotated[Path, typer.Option(help="File to write: .csv, .parquet or .xlsx.")]
Top = Annotated[int | None, typer.Option(help="Customers on the list, control included.")]
Budget = Annotated[float | None, typer.Option(help="Money for contacts.")]
OfferCost = Annotated[
    float | None, typer.Option(help="Money per contact; default: [judgement] contact_cost.")
]
Offer = Annotated[str, typer.Option(help="What is offered, for the list and the contacts.")]
Control = Annotated[float, typer.Option(help="Share held out by chance, to measure by.")]
Exclude = Annotated[
    list[str] | None,
    typer.Option(help="contacted:DAYS, churned, churned:CHANCE, no-consent or COLUMN=VALUE."),
]
Channel = Annotated[
    str | None, typer.Option(help="Way of contact; only who consents to it: email, sms, ads.")
]
Format = Annotated[str, typer.Option("--format", help="csv, google, meta or klaviyo.")]
Campaign = Annotated[str, typer.Option(help="Name of the campaign.")]
ContactsOut = Annotated[
    Path | None, typer.Option(help="New file of contacts that clv measure reads: .csv, .parquet.")
]
On = Annotated[str | None, typer.Option("--on", help="Date of the contacts, YYYY-MM-DD.")]
Horizon = Annotated[
    int | None, typer.Option(help="Months to decide by; default: the shortest predicted.")
]


def target(
    data: DataArg,
    predictions: Predictions,
    out: Out,
    top: Top = None,
    budget: Budget = None,
    offer_cost: OfferCost = None,
    offer: Offer = "",
    uplift: Annotated[
        Path | None, typer.Option(help="Rank by a model that clv measure --fit-uplift wrote.")
    ] = None,
    control: Control = 0.1,
    exclude: Exclude = None,
    channel: Channel = None,
    kind: Format = "csv",
    campaign: Campaign = "",
    contacts_out: ContactsOut = None,
    on: On = None,
    horizon: Horizon = None,
    seed: Seed = 0,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """List whom to contact, by expected gain, with a control group to measure it by.

    Example: clv target ./shop --predictions p.csv --top 500 --channel email --out list.csv
    """
    from serving.decisions.listing import Asked
    from serving.decisions.targets import kept_gain

    asked = Asked(top, budget, offer_cost, offer, control, tuple(exclude or ()), channel, horizon,
                  kind, campaign, seed, on)  # fmt: skip

    model = None
    if uplift is not None:
        from serving.decisions.uplift import load, uplifted

        model = load(uplift)

    def gain(table: Any, months: int, settings: Any, store: Any) -> Any:
        if model is not None:
            return uplifted(model, table, store)
        return table, kept_gain(table, months, settings.judgement.save_rate)

    _list(data, predictions, asked, gain, out, contacts_out, config, as_json)


def winback(
    data: DataArg,
    predictions: Predictions,
    out: Out,
    top: Top = None,
    budget: Budget = None,
    offer_cost: OfferCost = None,
    offer: Offer = "",
    lapsed: Annotated[
        float, typer.Option(help="Churn from which a customer has left, if no rule tells.")
    ] = 0.5,
    control: Control = 0.1,
    exclude: Exclude = None,
    channel: Channel = None,
    kind: Format = "csv",
    campaign: Campaign = "",
    contacts_out: ContactsOut = None,
    on: On = None,
    horizon: Horizon = None,
    no_test: Annotated[
        bool, typer.Option("--no-test", help="Do not judge the ranking out of time.")
    ] = False,
    seed: Seed = 0,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """List whom to win back, by their chance to return and their value then, less the cost.

    Example: clv winback ./shop --predictions p.csv --top 300 --offer-cost 2 --out back.csv
    """
    from serving.decisions import winback as wins
    from serving.decisions.listing import Asked

    asked = Asked(top, budget, offer_cost, offer, control, tuple(exclude or ()), channel, horizon,
                  kind, campaign, seed, on)  # fmt: skip

    def gain(table: Any, months: int, *_: Any) -> Any:
        return wins.returning(table, months), wins.returning_gain(table, months)

    def active(table: Any, months: int) -> Any:
        return [("not lapsed", ~wins.lapsed(table, months, lapsed))]

    def judged(months: int) -> Any:
        return _judged(data, config, months, lapsed, seed, as_json)

    _list(data, predictions, asked, gain, out, contacts_out, config, as_json, active,
          None if no_test else judged)  # fmt: skip


def _judged(
    data: str, config: Path | None, months: int, lapsed: float, seed: int, quiet: bool
) -> Any:
    """The ranking at the newest moment whose following months are known."""
    from features.spine import add_months
    from serving.decisions.winback import evaluate
    from serving.progress import shown
    from training.backtest import backtest
    from training.run import find_settings, read

    settings = find_settings(data, config)
    with shown(quiet) as progress, read(data, settings, progress) as (store, _):
        cutoff = add_months(store.coverage_end, -months, store.zone)
        try:
            test = backtest(store, cutoff, months, settings, seed=seed, progress=progress)
        except InputError as error:
            raise InputError(
                f"{error} Or go without this test of the ranking: --no-test."
            ) from None
    return evaluate(test.said, test.cutoff, lapsed)


def _list(
    data: str,
    predictions: Path,
    asked: Any,
    gain: Callable[..., Any],
    out: Path,
    contacts_out: Path | None,
    config: Path | None,
    as_json: bool,
    left: Callable[..., Any] | None = None,
    judged: Callable[[int], Any] | None = None,
) -> None:
    from serving.batch import KINDS as PLAIN
    from serving.batch import require_writable
    from serving.decisions import files, words
    from serving.decisions.listing import listed, save
    from serving.progress import shown

    require_writable(out, files.KINDS if asked.kind == "csv" else (".csv",))
    if contacts_out is not None:
        require_writable(contacts_out, PLAIN)
        if contacts_out.exists():
            raise InputError(
                f"--contacts-out must be a new file. Got {contacts_out}, which is there. Name "
                "another one and add its lines to your table of contacts."
            )
    with shown(as_json) as progress:
        made = listed(
            data, predictions, asked, gain, config=config, out=left, progress=progress,
            with_contacts=contacts_out is not None,
        )  # fmt: skip
    past = judged(made.months) if judged else None
    save(made, asked, out, contacts_out)
    if as_json:
        print_json(made.as_dict() | ({"out_of_time": past.as_dict()} if past else {}))
    else:
        print(words.listed(made, out, contacts_out, past))


COMMANDS: dict[str, Callable[..., None]] = {
    "target": target,
    "winback": winback,
}
