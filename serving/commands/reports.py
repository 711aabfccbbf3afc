"""The command that reports to people: the workbook and the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from serving.commands.options import Config, DataArg, Json, Language, print_json

__all__ = ["COMMANDS"]


def report(
    data: DataArg,
    predictions: Annotated[Path, typer.Option(help="What clv predict wrote.")],
    out: Annotated[Path, typer.Option(help="Workbook or page to write: .xlsx or .html.")],
    top: Annotated[
        int, typer.Option(min=1, help="Customers on the target list, control included.")
    ] = 500,
    horizon: Annotated[
        int | None, typer.Option(help="Months to decide by; default: the shortest predicted.")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="Folder of the model; default: the version that predictions name."),
    ] = None,
    language: Language = "en",
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Write a workbook or a page for marketing, sales, product and service: tables, charts, steps.

    A page (.html) is one file without any list of customers; a workbook (.xlsx) holds them too.

    Example: clv report ./shop --predictions p.csv --out clv.xlsx --language de
    """
    from features import campaigns, formats
    from serving.batch import require_writable
    from serving.decisions import files
    from serving.decisions.loyalty import KINDS
    from serving.decisions.report import report as all_of
    from serving.decisions.report import require_size
    from serving.progress import shown
    from serving.views import page, workbook
    from serving.views.language import words
    from training.run import find_settings, read

    say = words(language)
    require_writable(out, (".xlsx", ".html"))
    table = files.predictions(predictions)
    view = page if out.suffix == ".html" else workbook
    if out.suffix == ".xlsx":
        require_size(len(table))
    files.horizon_of(table, horizon)
    scores = _scores(model)
    settings = find_settings(data, config)
    paid = None
    if "spend" in formats.tables(data, settings):
        paid = campaigns.spend(data, settings)
    with shown(as_json) as progress:
        with read(data, settings, progress, KINDS) as (store, _):
            made = all_of(store, table, settings, spend=paid, horizon=horizon, top=top,
                          scores=scores, progress=progress)  # fmt: skip
        rows = view.write(made, out, say, progress)
    if as_json:
        print_json({**made.as_dict(), "sheets": rows, "out": str(out)})
    else:
        print(workbook.terminal(made, out, rows, say))


def _scores(model: Path | None) -> Callable[[str], Mapping[str, Any]]:
    """The test scores of a version, or of the folder `model`, whose faults are told at once."""
    from serving.loader import scores_of, scores_of_version

    if model is None:
        return scores_of_version
    known = scores_of(model)
    return lambda _: known


COMMANDS: dict[str, Callable[..., None]] = {"report": report}
