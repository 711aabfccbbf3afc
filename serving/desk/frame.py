"""A visit to the desk: who, in which language, with which form; and the page that is answered.

Pages are HTML from the templates beside this file, in which everything is escaped. Nothing is
loaded from elsewhere and nothing runs inside a page: the header says so to the browser.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib import resources
from typing import Any, Final, Protocol
from urllib.parse import quote, urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.responses import Response

from features.rules import minor_digits
from serving.desk.gallery import Pictures
from serving.desk.prepared import Prepared, Source
from serving.desk.session import Person, Sessions, Tries
from serving.views.language import LANGUAGES, Note, Words, slug, words

__all__ = [
    "DRAWN",
    "LANGUAGE",
    "PRIVATE",
    "SAFE",
    "Desk",
    "Page",
    "Pages",
    "Shown",
    "Visit",
    "commands",
    "language_of",
    "link",
    "static",
    "warm",
]

LANGUAGE: Final = "clv_language"  # the cookie
HTML: Final = "text/html; charset=utf-8"
COMMAND: Final = re.compile(r"clv [a-z]+(?: --[a-z]+(?:-[a-z]+)*| [A-Z]{2,}| latest| \d+)*")
#: On every answer. Forms and all else come from here and go nowhere else.
SAFE: Final = {
    "content-security-policy": "default-src 'none'; style-src 'self'; script-src 'self'; "
    "img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # Without it forms would not say where they come from.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
PRIVATE: Final = {"cache-control": "no-store"}
#: Of a picture, which has its look within: nothing is loaded and nothing runs, opened alone too.
DRAWN: Final = SAFE | {
    "content-security-policy": "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "sandbox; frame-ancestors 'none'",
}
TYPES: Final = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8",
                ".svg": "image/svg+xml"}  # fmt: skip


class Model(Protocol):
    """The model that serves, see `serving.live.Live`."""

    @property
    def loaded(self) -> Any:
        """It as `serving.loader.Loaded`."""

    def status(self) -> Mapping[str, Any]:
        """Plain values, such as ``degraded``: whether another model was wanted."""


class Counter(Protocol):
    """What counts answers and refusals, see `serving.metrics.Metrics`."""

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count an answer."""

    def refused(self, reason: str) -> None:
        """Count a refusal."""


@dataclass(frozen=True)
class Desk:
    """What the pages draw on."""

    live: Model
    sessions: Sessions
    metrics: Counter
    source: Source | None = None  # None: the service was not told of predictions
    tries: Tries = field(default_factory=Tries)

    @property
    def currency(self) -> str:
        """Of all money that is shown."""
        return str(self.live.loaded.model.settings.business.currency)


@dataclass(frozen=True)
class Page:
    """A page: its path, what makes it, and what it asks of a visitor.

    A page with `sends` takes forms (POST) whose proof is checked before; others are read (GET).
    """

    path: str
    make: Callable[[Visit], Response]
    role: str | None = "read"  # None: for strangers too
    sends: bool = False


Pages = tuple[Page, ...]


@dataclass
class Visit:
    """One request to the desk, its form read, its sender known."""

    desk: Desk
    person: Person
    language: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    #: Fields of a form by name, in the order they came.
    form: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @cached_property
    def say(self) -> Words:
        """The words of the visitor's language."""
        return words(self.language)

    @cached_property
    def prepared(self) -> Prepared | None:
        """What has been worked out, the same for all of this visit; None if nothing has been."""
        return None if self.desk.source is None else self.desk.source.current()

    def may(self, role: str) -> bool:
        """Whether the visitor's role reaches `role`."""
        return self.person.may(role)

    def lacking(self, part: str) -> str:
        """What to add so that a part can be shown; empty where it can."""
        reason = self.prepared.missing.get(part) if self.prepared else None
        if reason is None:
            return ""
        key = f"desk.lacking.{reason.code}"
        if reason.code != "other" and key in self.say:
            return self.say(key)
        if part == "categories":
            return self.say("desk.lacking.categories")
        return self.say("desk.lacking.other", why=self.told(reason.text))

    def told(self, text: str) -> str:
        """A note in the visitor's language; any other text as English, which it is."""
        own = self.say.told(text)
        return own if isinstance(text, Note) else self.say("desk.show.english", text=own)

    @cached_property
    def pictures(self) -> Pictures | None:
        """The pictures in the visitor's language by name; None while they are being drawn."""
        return {} if self.prepared is None else self.prepared.pictures(self.language)

    @cached_property
    def notices(self) -> list[str]:
        """What to know of all figures: that newer ones are to come, or could not be had."""
        found, said = self.prepared, []
        if found is not None and self.desk.source is not None:
            day, status = Shown(self.say, "").date(found.as_of), self.desk.source.status()
            if status.state == "preparing":
                said.append(self.say("desk.notice.preparing", date=day))
            elif status.state == "failed":
                why = self.told(status.message or "")
                said.append(self.say("desk.notice.failed", date=day, why=why))
        if self.desk.live.status().get("degraded"):
            said.append(self.say("desk.notice.degraded"))
        return said

    def page(self, template: str, status: int = 200, **values: Any) -> Response:
        """A page of a template; it is given `values`, `say`, `show` and the `visit`."""
        text = _templates().get_template(template).render(
            values, visit=self, say=self.say, show=Shown(self.say, self.desk.currency),
            proof=self.desk.sessions.proof(self.person), language=self.language,
            languages={each: words(each)("name") for each in LANGUAGES},
        )  # fmt: skip
        return Response(text, status, {**SAFE, **PRIVATE}, media_type=HTML)

    def go(self, place: str) -> Response:
        """On to another page of the desk."""
        return Response(status_code=303, headers={**SAFE, **PRIVATE, "location": place})

    def refused(self, status: int, reason: str, **values: Any) -> Response:
        """A page that says why there is none: ``desk.refused.REASON`` in words."""
        return self.page("refused.html", status, reason=reason, values=values)


class Shown:
    """Values as people of a language read them; None and not a number are a dash."""

    def __init__(self, say: Words, currency: str) -> None:
        self._say, self.currency = say, currency

    def money(self, value: float | None) -> str:
        """To the currency's smallest unit."""
        known = _known(value)
        return self._none if known is None else _held(self._say.money(known, self.currency))

    def whole(self, value: float | None) -> str:
        """Money of many, in whole units: cents would only be in the way."""
        known = _known(value)
        return self._none if known is None else self._money(self._say.number(known))

    def change(self, value: float | None) -> str:
        """Money with its sign, in whole units."""
        known = _known(value)
        return self._none if known is None else self._money(self.signed(known))

    def signed(self, value: float | None) -> str:
        """A whole number with its sign."""
        known = _known(value)
        if known is None:
            return self._none
        return self._say.number(known, sign=round(known) != 0)

    def parts(self, value: float | None) -> str:
        """Money with its sign, to the smallest unit: a part of a sum."""
        known = _known(value)
        if known is None:
            return self._none
        digits = minor_digits(self.currency)
        return self._money(self._say.number(known, digits, sign=round(known, digits) != 0))

    def count(self, value: float | None) -> str:
        """A whole number."""
        known = _known(value)
        return self._none if known is None else self._say.number(known)

    def number(self, value: float | None, decimals: int = 1) -> str:
        """A number with decimals."""
        known = _known(value)
        return self._none if known is None else self._say.number(known, decimals)

    def share(self, value: float | None, decimals: int = 0) -> str:
        """A share of 1 in per cent."""
        known = _known(value)
        return self._none if known is None else self._say.percent(known, decimals)

    def date(self, day: str | None) -> str:
        """A day; text that is none stays as it is."""
        try:
            # No line ends within a day, neither at a blank nor behind a hyphen.
            return _held(self._say.date(day)).replace("-", "-\u2060") if day else self._none
        except (ValueError, IndexError):
            return str(day)

    def month(self, month: str) -> str:
        """A month of ``2025-01``."""
        return self._say.month(month)

    def segment(self, name: str | None) -> str:
        """The name of a segment; those of others' rules stay as they are."""
        key = f"segments.{slug(name or '')}"
        return self._say(key) if key in self._say else name or self._none

    def step(self, name: str | None) -> str:
        """The next step of a segment, empty if it is none of ours."""
        key = slug(name or "")
        # On a page there is no command to name.
        told = (f"desk.steps.{key}", f"steps.{key}")
        return next((self._say(each) for each in told if each in self._say), "")

    def _money(self, amount: str) -> str:
        return _held(self._say("form.money", amount=amount, currency=self.currency))

    @property
    def _none(self) -> str:
        return self._say("form.not_known")


def _held(text: str) -> str:
    """A text that no line ends in: an amount stays with its currency."""
    return text.replace(" ", "\u00a0")


def _known(value: float | None) -> float | None:
    """The number, None for what is none."""
    return None if value is None or math.isnan(value) else float(value)


def language_of(cookie: str, accepted: str) -> str:
    """The language of a visitor: as chosen, else the first of ours that the browser names."""
    if cookie in LANGUAGES:
        return cookie
    wanted: list[tuple[float, int, str]] = []
    for place, part in enumerate(accepted[:400].split(",")):
        name, _, weight = part.strip().partition(";")
        found = re.fullmatch(r"\s*q=([01](?:\.\d{0,3})?)\s*", weight)
        wanted.append((-float(found[1]) if found else -1.0, place, name.split("-")[0].lower()))
    for weight_, _, name in sorted(wanted):
        if weight_ < 0 and name in LANGUAGES:
            return name
    return LANGUAGES[0]


def commands(text: str) -> Markup:
    """A text with its commands set apart, so that they are copied as they are."""
    first, *rests = COMMAND.split(text)
    made = escape(first)
    for command, rest in zip(COMMAND.findall(text), rests, strict=True):
        made += Markup("<code>{}</code>{}").format(command, rest)
    return made


def arguments(text: str) -> Markup:
    """A command whose words are not broken at their hyphens, whatever width there is."""
    return Markup(" ").join(Markup("<span>{}</span>").format(word) for word in text.split(" "))


def soft(text: str, say: Words) -> str:
    """A heading whose long words may be broken where its language does, should room be scarce."""
    for word in say("desk.frame.breaks").split():
        text = text.replace(word.replace("|", ""), word.replace("|", "\u00ad"))
    return text


def warm() -> None:
    """Compile the templates, which takes longer than to fill them: nobody is to wait for it."""
    for name in _templates().list_templates():
        _templates().get_template(name)


@cache
def _templates() -> Environment:
    """All templates; what is not given to one is our fault and raises."""
    made = Environment(
        loader=PackageLoader("serving.desk"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, auto_reload=False,
    )  # fmt: skip
    made.globals |= {"static": address, "link": link, "spoken": _spoken}
    made.filters |= {"commands": commands, "arguments": arguments, "soft": soft}
    return made


def link(place: str, /, **query: object) -> str:
    """A place of the desk with a query, every byte of which is safe in an address."""
    return f"{place}?{urlencode(query, quote_via=quote)}" if query else place


def _spoken(visit: Visit, language: str) -> str:
    """The same page in another language; after a form the first page."""
    place = visit.path if not visit.form else "/"
    return link(place, **{**visit.query, "language": language})


@cache
def static(name: str) -> tuple[bytes, str, str] | None:
    """A file of the folder static: bytes, type and digest; None if there is none of the name."""
    suffix = f".{name.rpartition('.')[2]}"
    if suffix not in TYPES or not re.fullmatch(r"[a-z]+\.[a-z]+", name):
        return None
    place = resources.files("serving.desk") / "static" / name
    if not place.is_file():
        return None
    data = place.read_bytes()
    return data, TYPES[suffix], hashlib.sha256(data).hexdigest()[:16]


def address(name: str) -> str:
    """The address of a static file, which changes with what is in it."""
    found = static(name)
    if found is None:
        raise LookupError(f"There is no static file {name!r}.")
    return f"/desk/static/{name}?{found[2]}"
