"""The commands that make lists of customers: target, winback."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from features.errors import InputError
from serving.commands.options import Config, DataArg, Json, Seed, print_json

__all__ = ["COMMANDS"]


@dataclass(frozen=True)
class Wanted:
    """What every list is asked by, in the order of the help."""

    data: DataArg
    predictions: Annotated[Path, typer.Option(help="What clv predict wrote.")]
    out: Annotated[Path, typer.Option(help="File to write: .csv, .parquet or .xlsx.")]
    top: Annotated[int | None, typer.Option(help="Customers on the list, control included.")] = None
    budget: Annotated[float | None, typer.Option(help="Money for contacts.")] = None
    offer_cost: Annotated[
        float | None, typer.Option(help="Money per contact; default: [judgement] contact_cost.")
    ] = None
    offer: Annotated[str, typer.Option(help="What is offered, for the list and the contacts.")] = ""
    control: Annotated[float, typer.Option(help="Share held out by chance, to measure by.")] = 0.1
    exclude: Annotated[
        list[str] | None,
        typer.Option(help="contacted:DAYS, churned, churned:CHANCE, no-consent or COLUMN=VALUE."),
    ] = None
    where: Annotated[
        list[str] | None,
        typer.Option(help='Only those of whom it holds: churn_12m >= 0.3, country == "DE".'),
    ] = None
    channel: Annotated[
        str | None, typer.Option(help="Way of contact; only who consents to it: email, sms, ads.")
    ] = None
    kind: Annotated[str, typer.Option("--format", help="csv, google, meta or klaviyo.")] = "csv"
    campaign: Annotated[str, typer.Option(help="Name of the campaign.")] = ""
    contacts_out: Annotated[
        Path | None,
        typer.Option(help="New file of contacts that clv measure reads: .csv, .parquet."),
    ] = None
    on: Annotated[str | None, typer.Option("--on", help="Date of the contacts, YYYY-MM-DD.")] = None
    horizon: Annotated[
        int | None, typer.Option(help="Months to decide by; default: the shortest predicted.")
    ] = None
    seed: Seed = 0
    config: Config = None
    as_json: Json = False

    @property
    def asked(self) -> Any:
        """The same as the work below knows it."""
        from serving.decisions.listing import Asked

        return Asked(
            self.top, self.budget, self.offer_cost, self.offer, self.control,
            tuple(self.exclude or ()), self.channel, self.horizon, self.kind, self.campaign,
            self.seed, self.on, tuple(self.where or ()),
        )  # fmt: skip


def listing(run: Callable[..., None]) -> Callable[..., None]:
    """A command that takes the options of all lists, and those of `run` beyond its first one."""
    names = [field.name for field in fields(Wanted)]

    def command(**given: Any) -> None:
        run(Wanted(**{name: given.pop(name) for name in names}), **given)

    hints, keyword = get_type_hints(Wanted, include_extras=True), inspect.Parameter.KEYWORD_ONLY
    shared = [
        inspect.Parameter(
            field.name, keyword, annotation=hints[field.name],
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
        )
        for field in fields(Wanted)
    ]  # fmt: skip
    own = list(inspect.signature(run, eval_str=True).parameters.values())[1:]
    parameters = [*shared, *(each.replace(kind=keyword) for each in own)]
    # What the parser reads: it asks a function for its signature, and for its annotations apart.
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    command.__name__, command.__doc__ = run.__name__, run.__doc__
    return command


@listing
def target(
    wanted: Wanted,
    uplift: Annotated[
        Path | None, typer.Option(help="Rank by a model that clv measure --fit-uplift wrote.")
    ] = None,
    prospects: Annotated[
        bool,
        typer.Option("--prospects", help="Those without an order yet, and what one may cost."),
    ] = False,
) -> None:
    """List whom to contact, by expected gain, with a control group to measure it by.

    Example: clv target ./shop --predictions p.csv --top 500 --channel email --out list.csv
    """
    from serving.decisions import prospects as waiting
    from serving.decisions.targets import kept_gain

    model = None
    if uplift is not None:
        from serving.decisions.uplift import load, uplifted

        if prospects:
            raise InputError(
                "--prospects ranks by expected value, since an uplift model has learned from "
                "customers. Got --uplift too. Take one of them."
            )
        model = load(uplift)
    channels: list[Any] = []

    def gain(table: Any, months: int, settings: Any, known: Any) -> Any:
        if prospects:
            table = waiting.channel_of(known, waiting.valued(table, months))
            channels.append(waiting.by_channel(table, months))
            return table, waiting.prospect_gain(table, months)
        if model is not None:
            return uplifted(model, table, known.store)
        return table, kept_gain(table, months, settings.judgement.save_rate)

    def others(table: Any, _: int) -> Any:
        return waiting.others(table, prospects)

    def told() -> Any:
        return waiting.told(channels[0])

    _list(wanted, gain, others, more=told if prospects else None)


@listing
def winback(
    wanted: Wanted,
    lapsed: Annotated[
        float, typer.Option(help="Churn from which a customer has left, if no rule tells.")
    ] = 0.5,
    no_test: Annotated[
        bool, typer.Option("--no-test", help="Do not judge the ranking out of time.")
    ] = False,
) -> None:
    """List whom to win back, by their chance to return and their value then, less the cost.

    Example: clv winback ./shop --predictions p.csv --top 300 --offer-cost 2 --out back.csv
    """
    from serving.decisions import prospects as waiting
    from serving.decisions import winback as wins

    def gain(table: Any, months: int, *_: Any) -> Any:
        return wins.returning(table, months), wins.returning_gain(table, months)

    def active(table: Any, months: int) -> Any:
        rest = [("not lapsed", ~wins.lapsed(table, months, lapsed))]
        return [*waiting.others(table, False), *rest]

    def judged(months: int) -> Any:
        return _judged(wanted, months, lapsed)

    _list(wanted, gain, active, None if no_test else judged)


def _judged(wanted: Wanted, months: int, lapsed: float) -> Any:
    """The ranking at the newest moment whose following months are known."""
    from features.reading import find_settings, read
    from features.spine import add_months
    from serving.decisions.winback import evaluate
    from serving.progress import shown
    from training.backtest import backtest

    settings = find_settings(wanted.data, wanted.config)
    with shown(wanted.as_json) as progress, read(wanted.data, settings, progress) as (store, _):
        cutoff = add_months(store.coverage_end, -months, store.zone)
        try:
            test = backtest(store, cutoff, months, settings, seed=wanted.seed, progress=progress)
        except InputError as error:
            raise InputError(
                f"{error} Or go without this test of the ranking: --no-test."
            ) from None
    return evaluate(test.said, test.cutoff, lapsed)


def _list(
    wanted: Wanted,
    gain: Callable[..., Any],
    left: Callable[..., Any],
    judged: Callable[[int], Any] | None = None,
    more: Callable[[], tuple[dict[str, Any], list[str]]] | None = None,
) -> None:
    from serving.decisions import files, words
    from serving.decisions.listing import listed, save
    from serving.progress import shown
    from serving.writing import KINDS as PLAIN
    from serving.writing import require_writable

    out, contacts_out, asked = wanted.out, wanted.contacts_out, wanted.asked
    require_writable(out, files.KINDS if asked.kind == "csv" else (".csv",))
    if contacts_out is not None:
        require_writable(contacts_out, PLAIN)
        if contacts_out.exists():
            raise InputError(
                f"--contacts-out must be a new file. Got {contacts_out}, which is there. Name "
                "another one and add its lines to your table of contacts."
            )
    with shown(wanted.as_json) as progress:
        made = listed(
            wanted.data, wanted.predictions, asked, gain, config=wanted.config, out=left,
            progress=progress, with_contacts=contacts_out is not None,
        )  # fmt: skip
    past = judged(made.months) if judged else None
    facts, lines = more() if more else ({}, [])
    save(made, asked, out, contacts_out)
    if wanted.as_json:
        print_json(made.as_dict() | ({"out_of_time": past.as_dict()} if past else {}) | facts)
    else:
        print("\n".join([*lines, words.listed(made, out, contacts_out, past)]))


COMMANDS: dict[str, Callable[..., None]] = {
    "target": target,
    "winback": winback,
}
