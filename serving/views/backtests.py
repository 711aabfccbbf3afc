"""The page of a backtest: our model at every cutoff, and the newest one in full."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from serving.writing import replacing
from training import pages, sections
from training.judgement import Judgement
from training.pages import Document, Section, Text

__all__ = ["document", "write_page"]


def write_page(tests: Sequence[Judgement], out: Path) -> None:
    """Write one HTML file; the old one stays until the new one is whole.

    `tests` are one per cutoff, the newest last.

    Raises
    ------
    InputError
        A place that cannot be written.
    """
    text = pages.html(document(tests))
    with replacing(out) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def document(tests: Sequence[Judgement]) -> Document:
    """The page's content; at least one test, the newest last."""
    newest = tests[-1]
    business = newest.model.settings.business
    lead = (
        f"Our model ({newest.ours}) and its rivals were fitted before each cutoff, without a look "
        "at anything later, and judged on what the same customers then did. "
        f"Money is in {business.currency}, days are those of {business.time_zone}; "
        "churn is no order in the months judged.",
        f"In full below: cutoff {newest.cutoff}, the {newest.months} months after it, "
        f"{sections.count(len(newest.actual))} customers who had ordered before.",
    )
    return Document("Backtest", lead, (_each(tests), *_newest(newest)))


def _each(tests: Sequence[Judgement]) -> Section:
    note = Text("The same recipe at every cutoff; ↑: more is better, ↓: less is better.", "quiet")
    return Section("Every cutoff", (sections.cutoffs(tests), note))


def _newest(test: Judgement) -> list[Section]:
    shown = sections.pictures(test)
    return [
        Section("Models beside each other", (*sections.models(test), *sections.differences(test))),
        Section("Value", (shown["decile"], shown["gain"])),
        Section("Total and months", (sections.total(test), shown["tracking"],
                                     sections.months(test))),
        Section("Calibration of churn", (sections.calibration(test), shown["calibration"])),
        Section("Intervals", (shown["coverage"], *sections.coverage(test))),
        Section("Next order", (sections.returned(test),)),
        Section("Prospects", tuple(sections.prospects(test))),
        Section("A campaign against churn", (sections.campaign(test), shown["profit"])),
        Section("Kinds of customers", (*sections.warnings(test), *sections.slices(test))),
    ]  # fmt: skip
