"""The pages that make something: the list builder, saved lists, downloads; and campaigns."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any, Final

from starlette.responses import Response

from features.errors import InputError
from serving.desk import choosing
from serving.desk.choosing import Form
from serving.desk.frame import PRIVATE, SAFE, Page, Pages, Visit, link
from serving.desk.prepared import Prepared
from serving.views.language import Note

__all__ = ["PAGES"]

FIRST: Final = 20  # rows of a list that are shown
OWN: Final = ("proof", "name", "show", "language")  # fields that choose nothing
TOP: Final = 500  # customers on a list, unless asked
#: The fields and words of errors, by how they begin.
ERRORS: Final = {
    "Somebody must be left": ("list", "desk.lists.e_nobody"),
    "--budget needs": ("offer_cost", "desk.lists.e_cost"),
    "A worksheet at the desk": ("list", "desk.lists.e_sheet"),
    "Contacts at the desk": ("list", "desk.lists.e_contacts"),
    "The files of a list": ("list", "desk.lists.e_files"),
    "A list must be free": ("list", "desk.lists.e_locked"),
    "The folder of lists": ("list", "desk.lists.e_folder"),
    "The name of a list must be new": ("name", "desk.lists.e_taken"),
    "A file for": ("list", "desk.lists.e_people"),
    "Somebody on the list must agree": ("list", "desk.lists.e_agree"),
}
TYPES: Final = {
    ".csv": "text/csv; charset=utf-8",
    ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}


def lists(visit: Visit) -> Response:
    """All saved lists."""
    from serving.desk import saved

    gone = visit.query.get("deleted", "")
    return visit.page("lists.html", saved=saved.every(), gone=gone if _named(gone) else "")


def _named(name: str) -> bool:
    from serving.desk import saved

    return saved.NAME.fullmatch(name) is not None


# Building


def build(visit: Visit) -> Response:
    """The form, and what it asks for."""
    from serving.desk import saved
    from serving.desk.lists import Choices

    shown = visit.prepared
    if shown is None:
        return visit.page("waiting.html")
    if "show" in visit.query:
        choices, form = choosing.read(visit.query, shown, visit.say)
        return _built(visit, shown, choices, form)
    found = saved.find(visit.query.get("from", ""))
    choices, wrong = Choices(top=TOP), {}
    if found:
        try:
            choices = found.choices
        except InputError:
            wrong = {"list": visit.say("desk.lists.e_release")}
    if visit.query.get("segment"):  # where a page of segments leads here
        choices = Choices(top=TOP, segment=(visit.query["segment"],))
    form = choosing.blank(choices, visit.say)
    form.wrong |= wrong
    choosing.require_offered(form, shown, visit.say)
    return _built(visit, shown, None, form)


def _built(
    visit: Visit, shown: Prepared, choices: Any, form: Form, sent: Mapping[str, str] | None = None
) -> Response:
    """The page of the builder, with the list where `choices` are good.

    `sent` is the form that was to save it, in which only the name can be wrong.
    """
    made: dict[str, Any] | None = None
    if choices is not None and (sent is not None or not form.wrong):
        try:
            made = _previewed(visit, shown, choices)
        except InputError as error:
            place, words = _told(visit, str(error))
            form.wrong[place] = words
    asked = {name: text for name, text in (sent or visit.query).items() if name not in OWN}
    return visit.page(
        "build.html", 200 if sent is None else 422, shown=shown, form=form, made=made,
        levels=shown.table("levels") or {}, name=(sent or {}).get("name", ""), asked=asked,
        usual=_usual_cost(visit),
    )  # fmt: skip


def _told(visit: Visit, error: str) -> tuple[str, str]:
    """Where an error belongs, and its words; those that our form cannot cause stay as they are."""
    for start, (place, key) in ERRORS.items():
        if error.startswith(start):
            return place, visit.say(key)
    return "list", visit.told(error)


def _usual_cost(visit: Visit) -> float:
    from features.settings import load

    source = visit.desk.source
    return load(None if source is None else source.settings).judgement.contact_cost


def _composed(visit: Visit, shown: Prepared, choices: Any) -> tuple[Any, Any]:
    from features.settings import load
    from serving.desk.lists import compose

    file = None if visit.desk.source is None else visit.desk.source.settings
    return compose(shown, choices, load(file), file)


def _previewed(visit: Visit, shown: Prepared, choices: Any) -> dict[str, Any]:
    """What is shown of a list: figures, who was left out, and its first rows."""
    from serving.desk.lists import left_out

    made, _ = _composed(visit, shown, choices)
    h = made.months
    rows = []
    if visit.may("export"):
        first = made.chosen.frame.head(FIRST).rename(columns={f"churn_{h}m": "churn"})
        rows = first.assign(value=first[f"clv_{h}m"]).astype(object).to_dict("records")
    words = choices.command("DATA", "PREDICTIONS", "list.csv", h)
    return {
        "listed": made, "facts": made.chosen.as_dict(), "worth": made.worth, "rows": rows,
        "left_out": left_out(made), "command": shlex.join(words), "months": h,
    }  # fmt: skip


def save(visit: Visit) -> Response:
    """Keep the list that was shown under a name."""
    from serving.desk import saved

    shown = visit.prepared
    if shown is None:
        return visit.page("waiting.html")
    sent = {name: str(values[0]) for name, values in visit.form.items()}
    choices, form = choosing.read(sent, shown, visit.say)
    name = sent.get("name", "").strip()
    if form.wrong:  # the list that was shown had no such fault
        return visit.refused(400, "form")
    if not _named(name):
        form.wrong["name"] = visit.say("desk.lists.e_name")
    elif saved.taken(name):
        form.wrong["name"] = visit.say("desk.lists.e_taken")
    else:
        try:
            made, asked = _composed(visit, shown, choices)
            saved.save(name, made, asked, choices, shown, visit.person.name)
        except InputError as error:
            form.wrong["name"] = _told(visit, str(error))[1]
        else:
            return visit.go(link("/desk/list", name=name))
    return _built(visit, shown, choices, form, sent)


def _sent(visit: Visit, name: str) -> str:
    return str((visit.form.get(name) or [""])[0])


# Saved lists


def one(visit: Visit) -> Response:
    """A saved list: what it is, and its files."""
    from serving.desk import saved

    found = saved.find(visit.query.get("name", ""))
    if found is None:
        return visit.refused(404, "missing")
    return _list(visit, found)


def _list(visit: Visit, found: Any, wrong: str = "", status: int = 200) -> Response:
    months = int(found.about["months"])
    command = ""
    try:
        command = shlex.join(found.choices.command("DATA", "PREDICTIONS", "list.csv", months))
    except InputError:
        wrong = wrong or visit.say("desk.lists.e_release")
    return visit.page(
        "list.html", status, saved=found, about=found.about, wrong=wrong, command=command
    )


def download(visit: Visit) -> Response:
    """A file of a saved list; the audit file tells who had it."""
    from pathlib import PurePath

    from serving.desk import saved

    found, form = saved.find(_sent(visit, "name")), _sent(visit, "form")
    if found is None:
        return visit.refused(404, "missing")
    try:
        raw = saved.download(found, form, visit.prepared, visit.person.name)
    except InputError as error:
        return _list(visit, found, _told(visit, str(error))[1], 422)
    ending = saved.DOWNLOADS[form]
    name = PurePath(found.name if form in ("csv", "xlsx") else f"{found.name}-{form}").name
    headers = {"content-disposition": f'attachment; filename="{name}{ending}"'}
    return Response(raw, 200, {**SAFE, **PRIVATE, **headers}, media_type=TYPES[ending])


def ask_delete(visit: Visit) -> Response:
    """Whether it is really to be deleted."""
    from serving.desk import saved

    found = saved.find(visit.query.get("name", ""))
    if found is None:
        return visit.refused(404, "missing")
    return visit.page("delete.html", saved=found)


def delete(visit: Visit) -> Response:
    """Delete a saved list."""
    from serving.desk import saved

    found = saved.find(_sent(visit, "name"))
    if found is None:
        return visit.refused(404, "missing")
    try:
        saved.delete(found, visit.person.name)
    except InputError as error:
        return _list(visit, found, _told(visit, str(error))[1], 422)
    return visit.go(link("/desk/lists", deleted=found.name))


# Campaigns


def campaigns(visit: Visit) -> Response:
    """The campaigns so far, and what each has brought."""
    shown = visit.prepared
    if shown is None:
        return visit.page("waiting.html")
    lacking = shown.missing.get("campaigns")
    rows = [
        row | {"warnings": [Note.back(each) for each in row["warnings"]]}
        for row in shown.table("campaigns") or ()
    ]
    return visit.page("campaigns.html", rows=rows, lacking=lacking)


PAGES: Pages = (
    Page("/desk/lists", lists),
    Page("/desk/lists/new", build),
    Page("/desk/lists/save", save, role="export", sends=True),
    Page("/desk/list", one),
    Page("/desk/list/download", download, role="export", sends=True),
    Page("/desk/list/delete", ask_delete, role="export"),
    Page("/desk/list/deleted", delete, role="export", sends=True),
    Page("/desk/campaigns", campaigns),
)
