"""The command that reports to people: the workbook and the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from serving.commands.options import Config, DataArg, Json, Language, print_json

__all__ = ["COMMANDS"]

#: What takes long to import and is needed once the data are read; small ones first.
AHEAD: Final = (
    "scipy.stats", "xgboost", "training.model", "serving.decisions.report", "serving.loader",
    "matplotlib.figure", "matplotlib.backends.backend_agg", "serving.views.page",
)  # fmt: skip


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
    from features.events import ASKED
    from features.reading import find_settings, read
    from serving.ahead import importing
    from serving.decisions import files
    from serving.progress import shown
    from serving.views.language import words
    from serving.writing import require_writable

    say = words(language)
    require_writable(out, (".xlsx", ".html"))
    table = files.predictions(predictions)
    if out.suffix == ".xlsx":
        files.require_size(len(table))
    files.horizon_of(table, horizon)
    scores = _scores(model)
    settings = find_settings(data, config)
    paid = None
    if "spend" in formats.tables(data, settings):
        paid = campaigns.spend(data, settings)
    with shown(as_json) as progress, importing(*AHEAD):
        with read(data, settings, progress, ASKED) as (store, _):
            from serving.decisions.report import report as all_of

            made = all_of(store, table, settings, spend=paid, horizon=horizon, top=top,
                          scores=scores, progress=progress)  # fmt: skip
        from serving.views import page, workbook

        view = page if out.suffix == ".html" else workbook
        rows = view.write(made, out, say, progress)
    if as_json:
        print_json({**made.as_dict(), "sheets": rows, "out": str(out)})
    else:
        print(workbook.terminal(made, out, rows, say))


def _scores(model: Path | None) -> Callable[[str], Mapping[str, Any]]:
    """The test scores of a version, or of the folder `model`, whose faults are told at once."""
    if model is not None:
        from serving.loader import scores_of

        known = scores_of(model)
        return lambda _: known

    def of_version(version: str) -> Mapping[str, Any]:
        from serving.loader import scores_of_version

        return scores_of_version(version)

    return of_version


COMMANDS: dict[str, Callable[..., None]] = {"report": report}
