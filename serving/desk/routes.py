"""The pages of the desk and the way to them: who is there, what they may, what they sent.

A page is a plain function of a `Visit`, run in a thread so that predictions do not wait for it.
What it needs of the visitor stands in the table: a role, and whether a form is sent to it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from features.errors import ClvError
from serving.desk import building, gallery, reading
from serving.desk.frame import (
    DRAWN,
    LANGUAGE,
    PRIVATE,
    SAFE,
    Desk,
    Page,
    Pages,
    Visit,
    language_of,
    link,
    static,
    warm,
)  # fmt: skip
from serving.desk.session import COOKIE, HOURS, Person, cookie_of, own_place, same_origin
from serving.views.language import LANGUAGES, Note

__all__ = ["PAGES", "application"]

FORM: Final = "application/x-www-form-urlencoded"
LONGEST: Final = 64_000  # bytes of a form
FIELDS: Final = 500  # of a form
YEAR: Final = 365 * 24 * 3_600
THREADS: Final = 2  # that make pages
PENDING: Final = 8  # pages that are being made or wait for it


def _sign(visit: Visit) -> Response:
    """The page to sign in."""
    if visit.may("read"):
        return visit.go(own_place(visit.query.get("next", "/")))
    return visit.page("sign.html", then=own_place(visit.query.get("next", "/")), wrong=False,
                      hours=HOURS)  # fmt: skip


FRAME: Final[Pages] = (Page("/desk/sign", _sign, role=None),)
PAGES: Final[Pages] = (*FRAME, *reading.PAGES, *building.PAGES)


def application(desk: Desk) -> Starlette:
    """The desk as an application of its own."""
    warm()
    own = _Frame(desk)
    routes = [
        Route("/desk/static/{name}", own.static, methods=["GET"]),
        Route("/desk/picture/{language}/{name}", own.picture, methods=["GET"]),
        Route("/desk/sign", own.sign_in, methods=["POST"]),
        Route("/desk/leave", own.leave, methods=["POST"]),
        *(
            Route(page.path, own.handler(page), methods=["POST" if page.sends else "GET"])
            for page in PAGES
        ),
    ]
    app = Starlette(routes=routes, exception_handlers={
        HTTPException: own.unrouted, Exception: own.failed,
    })  # fmt: skip
    app.router.redirect_slashes = False
    return app


class _RefusedError(Exception):
    """A request that becomes no page."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class _Frame:
    """What is around every page."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self._threads = ThreadPoolExecutor(THREADS, "clv-desk")
        # A page that takes too long goes on in its thread after its visitor was told so.
        self._pending = threading.BoundedSemaphore(PENDING)

    def handler(self, page: Page) -> Callable[[Request], Awaitable[Response]]:
        """The page as a handler of requests."""

        async def answer(request: Request) -> Response:
            began = time.perf_counter()
            try:
                response = await self._answered(request, page)
            except ClientDisconnect:
                return Response(status_code=400)  # nobody is there to read it
            self._count(page.path, response, began)
            return response

        return answer

    def _count(self, route: str, response: Response, began: float) -> None:
        self.desk.metrics.answered(route, response.status_code, time.perf_counter() - began)

    async def _answered(self, request: Request, page: Page) -> Response:
        visit = self._visit(request)
        language = visit.query.get("language")
        if language in LANGUAGES and not page.sends:
            return self._spoken(visit, request, language)
        if page.role is not None and visit.person.role is None:
            place = request.url.path + (f"?{request.url.query}" if request.url.query else "")
            return visit.go(link("/desk/sign", next="/" if page.sends else place))
        if page.role is not None and not visit.may(page.role):
            self.desk.metrics.refused("role")
            return visit.refused(403, "role")
        if page.sends:
            try:
                await self._read(visit, request)
            except _RefusedError as refusal:
                self.desk.metrics.refused(refusal.reason)
                return visit.refused(refusal.status, refusal.reason)
        response = await self._made(page, visit)
        for name, value in (SAFE | PRIVATE).items():
            response.headers.setdefault(name, value)
        self._keep(visit, request, response)
        return response

    async def _made(self, page: Page, visit: Visit) -> Response:
        """The page, made in a thread of the desk: those that predict have their own."""
        if self._pending.acquire(blocking=False):
            work = self._threads.submit(page.make, visit)
            work.add_done_callback(lambda _: self._pending.release())
            try:
                return await asyncio.wrap_future(work)
            except ClvError as error:
                return visit.refused(503, "unready", why=visit.told(Note.why(error)))
        self.desk.metrics.refused("busy")
        response = visit.refused(503, "busy")
        response.headers["retry-after"] = "1"
        return response

    def _visit(self, request: Request) -> Visit:
        sessions, headers = self.desk.sessions, request.headers
        person = sessions.who(headers.get("cookie")) or sessions.stranger()
        spoken = cookie_of(headers.get("cookie"), LANGUAGE)
        language = language_of(spoken, headers.get("accept-language", ""))
        query = dict(parse_qsl(request.url.query, keep_blank_values=True, errors="replace"))
        return Visit(self.desk, person, language, request.url.path, query)

    async def _read(self, visit: Visit, request: Request) -> None:
        """Its form, if a page of ours has sent it in this session."""
        if not same_origin(request.headers):
            raise _RefusedError(403, "origin")
        if request.headers.get("content-type", "").split(";")[0].strip().lower() != FORM:
            raise _RefusedError(415, "form")
        body = await request.body()
        if len(body) > LONGEST:
            raise _RefusedError(413, "form")
        try:
            pairs = parse_qsl(
                body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=FIELDS
            )
        except ValueError:
            raise _RefusedError(400, "form") from None
        form: dict[str, list[str]] = {}
        for name, value in pairs:
            form.setdefault(name, []).append(value)
        if not self.desk.sessions.proven(visit.person, (form.get("proof") or [""])[0]):
            raise _RefusedError(403, "proof")
        visit.form = form

    def _keep(self, visit: Visit, request: Request, response: Response) -> None:
        """A cookie for those who come for the first time: their forms need a session."""
        if self.desk.sessions.who(request.headers.get("cookie")) is None:
            self._set(request, response, COOKIE, self.desk.sessions.cookie(visit.person))

    def _set(self, request: Request, response: Response, name: str, value: str) -> None:
        response.set_cookie(
            name, value, max_age=YEAR if name == LANGUAGE else HOURS * 3_600, path="/",
            secure=_encrypted(request.url.scheme, request.headers), httponly=True,
            samesite="strict",
        )  # fmt: skip

    def _spoken(self, visit: Visit, request: Request, language: str) -> Response:
        """The same page again, in another language from here on."""
        rest = {name: value for name, value in visit.query.items() if name != "language"}
        response = visit.go(link(visit.path, **rest))
        self._set(request, response, LANGUAGE, language)
        return response

    async def static(self, request: Request) -> Response:
        """A file that is the same for everybody."""
        found = static(request.path_params["name"])
        if found is None:
            raise HTTPException(404)
        data, kind, digest = found
        fresh = request.url.query == digest
        kept = {"cache-control": f"public, max-age={YEAR}, immutable" if fresh else "no-cache"}
        return Response(data, 200, {**SAFE, **kept}, media_type=kind)

    async def picture(self, request: Request) -> Response:
        """A picture of a page, for those who may see the page."""
        began, visit = time.perf_counter(), self._visit(request)
        if visit.may("read"):
            # Not among the pages: a page has several, and reading a file keeps nobody waiting.
            response = await asyncio.to_thread(_picture, visit, **request.path_params)
        else:
            response = visit.go("/desk/sign")
        self._count("/desk/picture", response, began)
        return response

    async def sign_in(self, request: Request) -> Response:
        """Take a token and give a session for it."""
        began, visit = time.perf_counter(), self._visit(request)
        try:
            await self._read(visit, request)
        except _RefusedError as refusal:
            self.desk.metrics.refused(refusal.reason)
            return visit.refused(refusal.status, refusal.reason)
        response = self._signed(visit, request)
        self._count("/desk/sign", response, began)
        return response

    def _signed(self, visit: Visit, request: Request) -> Response:
        then = own_place((visit.form.get("next") or ["/"])[0])
        wait = self.desk.tries.wait(request.client.host if request.client else "")
        if wait:
            self.desk.metrics.refused("rate")
            response = visit.refused(429, "often", seconds=wait)
            response.headers["retry-after"] = str(wait)
            return response
        found = self.desk.sessions.signed_in((visit.form.get("token") or [""])[0].strip())
        if found is None:
            self.desk.metrics.refused("token")
            return visit.page("sign.html", 401, then=then, wrong=True, hours=HOURS)
        response = visit.go(then)
        self._set(request, response, COOKIE, found[1])
        return response

    async def leave(self, request: Request) -> Response:
        """End the session of this browser."""
        visit = self._visit(request)
        try:
            await self._read(visit, request)
        except _RefusedError as refusal:
            return visit.refused(refusal.status, refusal.reason)
        await asyncio.to_thread(self.desk.sessions.leave, visit.person)
        response = visit.go("/desk/sign")
        response.delete_cookie(COOKIE, path="/")
        response.headers["clear-site-data"] = '"cache"'
        return response

    async def unrouted(self, request: Request, error: Exception) -> Response:
        """No such page, or not by this method; strangers are told nothing more."""
        status = error.status_code if isinstance(error, HTTPException) else 500
        visit = self._visit(request)
        known = {404: "missing", 405: "method"}.get(status, "form")
        response = visit.refused(status, known)
        response.headers.update((error.headers if isinstance(error, HTTPException) else None) or {})
        return response

    async def failed(self, request: Request, error: Exception) -> Response:  # noqa: ARG002
        """Our fault; the error goes on to the log of the guard."""
        # As to nobody: what the pages of a visitor show beside may be what failed.
        visit = Visit(self.desk, Person(""), self._visit(request).language, "/")
        return visit.refused(500, "fault")


def _picture(visit: Visit, language: str, name: str) -> Response:
    known = visit.prepared and language in LANGUAGES and visit.prepared.pictures(language)
    one = known.get(name.removesuffix(".svg")) if known and name.endswith(".svg") else None
    raw = one and visit.prepared and gallery.read(visit.prepared.folder, language, name[:-4])
    if not one or not raw:
        return visit.refused(404, "missing")
    fresh = visit.query.get("version") == one.version
    # No longer than a session: a picture shows customers.
    kept = {"cache-control": f"private, max-age={HOURS * 3_600}" if fresh else "no-store"}
    return Response(raw, 200, {**DRAWN, **kept}, media_type="image/svg+xml")


def _encrypted(scheme: str, headers: Headers) -> bool:
    """Whether the browser's end of the way is HTTPS; a proxy that ends it says so."""
    return scheme == "https" or headers.get("x-forwarded-proto", "").lower() == "https"
