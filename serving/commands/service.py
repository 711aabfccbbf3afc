"""The commands of the service: serve, token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from serving.commands.options import Config, Json, print_json

__all__ = ["COMMANDS"]


def serve(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; default: 127.0.0.1.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="Default: 8080; 0 takes a free one.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes; default: 1.")] = None,
    model: Annotated[
        str | None, typer.Option(help="champion (followed), VERSION or FOLDER.")
    ] = None,
    predictions: Annotated[
        str | None, typer.Option(help="FILE of clv predict, or latest, to look customers up in.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="DATA that the desk shows more of; clv.toml beside it.")
    ] = None,
    uplift: Annotated[
        str | None,
        typer.Option(help="FOLDER of clv measure --fit-uplift; lists of the desk may rank by it."),
    ] = None,
    config: Config = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print every setting and where it comes from.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Answer over HTTP: one customer from raw orders in a millisecond, and a desk for marketing.

    The desk are the pages at /: open the printed address in a browser.

    Settings: options, then CLV_SERVING_KEY in the environment, then [serving] of clv.toml.

    Example: clv serve --port 8080 --workers 2
    """
    from serving import words
    from serving.configured import choose, settings_of

    given = {
        "host": host, "port": port, "workers": workers, "model": model, "predictions": predictions,
        "data": data, "uplift": uplift,
    }  # fmt: skip
    chosen = choose(given, settings_of(data, config))
    if print_config:
        print_json(chosen.as_dict()) if as_json else print(words.configuration(chosen.as_dict()))
        return
    from serving.serve import run

    raise typer.Exit(run(chosen.serving, config=config))


def token(
    name: Annotated[str | None, typer.Argument(help="Whom it is for, such as shop.")] = None,
    role: Annotated[
        str, typer.Option(help="read; export: lists of the desk too; admin: /admin too.")
    ] = "read",
    days: Annotated[
        int | None, typer.Option(min=1, help="Good for so many days; default: for ever.")
    ] = None,
    revoke: Annotated[bool, typer.Option("--revoke", help="Take the token of NAME away.")] = False,
    as_json: Json = False,
) -> None:
    """Make a token for the service and print it once; without NAME list them.

    Example: clv token shop --days 365
    """
    from serving import tokens, words
    from training.tracking import home

    if name is None:
        listed = [each.public() for each in tokens.load(home())]
        print_json({"tokens": listed}) if as_json else print(words.tokens(listed))
    elif revoke:
        tokens.revoke(home(), name)
        print_json({"revoked": name}) if as_json else print(f"Token {name} revoked.")
    else:
        text = tokens.make(home(), name, role, days)
        shown = {"name": name, "role": role, "token": text}
        print_json(shown) if as_json else print(words.token(shown))


COMMANDS: dict[str, Callable[..., None]] = {"serve": serve, "token": token}
