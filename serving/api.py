"""The HTTP service: predictions of customers from their raw orders, and what operators ask for.

`application` gives a plain ASGI application. It answers; hosts, tokens, sizes and queues are
guarded around it (`serving.guard`). Each request reads the model once and is answered by it alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from features.errors import ClvError
from features.records import RecordError, path
from serving.answers import Problem, dumped, problem_of
from serving.desk import is_own
from serving.guard import App, Receive, Scope, Send
from serving.loader import Loaded
from serving.lookup import Lookup
from serving.metrics import Metrics
from serving.online import Scorer, scorer_of
from serving.openapi import document, page
from serving.protocols import described, infer, invocations
from serving.schema import Limits, asked, parsed

__all__ = ["Fixed", "Live", "Options", "application"]

Handler = Callable[[Request], Awaitable[Response]]
PREDICT: Final = "/v1/predict"
INLINE: Final = 200  # orders and events that are scored without leaving the event loop
MOST_WARNINGS: Final = 100
PLAIN: Final = "text/plain; charset=utf-8"


class Live(Protocol):
    """A model that may change while the service runs."""

    @property
    def loaded(self) -> Loaded:
        """The model that serves now."""

    def status(self) -> Mapping[str, Any]:
        """Plain values: ``version``, ``healthy``, ``error`` (a line or None) and what else."""

    def reload(self) -> bool:
        """Look for another model now; true if one serves from here on."""


@dataclass(frozen=True)
class Fixed:
    """A model that never changes."""

    loaded: Loaded

    def status(self) -> dict[str, Any]:
        """Always healthy."""
        return {"version": self.loaded.version, "healthy": True, "error": None}

    def reload(self) -> bool:
        """Never."""
        return False


@dataclass(frozen=True)
class Options:
    """What an operator may choose."""

    predictions: Path | None = None  # a table of predictions, or the folder that keeps them
    max_customers: int = 1_000  # in a request
    max_orders: int = 10_000  # of one customer, and as many events
    max_lines: int = 100_000  # in a request
    name: str = "clv"  # of the model in the Open Inference protocol
    metrics: Metrics | None = None
    tokens: bool = False  # whether they are asked for, as the description tells
    warning: Callable[[], str | None] = lambda: None  # what /health tells beside the model
    desk: Any = None  # the application of the pages for people, if there is one


def application(live: Live, options: Options | None = None) -> App:
    """The service around a model."""
    return _Service(live, options or Options())


class _Service:
    """The answers; as an application it answers `PREDICT` itself, and routes what else there is."""

    def __init__(self, live: Live, options: Options) -> None:
        self.live, self.options = live, options
        self.metrics = options.metrics or Metrics()
        self.limits = Limits(options.max_customers, options.max_orders, options.max_lines)
        self.lookup = Lookup(options.predictions) if options.predictions else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        # Routing and its layers would take as long as reading the request's JSON.
        if scope["type"] != "http" or scope["path"] != PREDICT or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            response = await self._answered(PREDICT, self.predict, request)
        except Exception as error:
            await (await self._failed(request, error))(scope, receive, send)
            raise
        await response(scope, receive, send)

    @cached_property
    def app(self) -> Starlette:
        """Routes, the most asked for first."""
        own = f"/v2/models/{self.options.name}"
        table: list[tuple[str, str, Handler]] = [
            (PREDICT, "POST", self.predict),
            ("/v1/customers/{customer:path}", "GET", self.customer),
            ("/invocations", "POST", self.invocations),
            ("/ping", "GET", self.ping),
            ("/health", "GET", self.health),
            ("/version", "GET", self.version),
            ("/metrics", "GET", self.scrape),
            ("/admin/reload", "POST", self.reload),
            ("/v2", "GET", self.server),
            ("/v2/health/live", "GET", self.alive),
            ("/v2/health/ready", "GET", self.ready),
            (own, "GET", self.model),
            (own + "/ready", "GET", self.model_ready),
            (own + "/infer", "POST", self.infer),
            (own + "/versions/{version}", "GET", self.model),
            (own + "/versions/{version}/ready", "GET", self.model_ready),
            (own + "/versions/{version}/infer", "POST", self.infer),
            ("/openapi.json", "GET", self.openapi),
            ("/docs", "GET", self.docs),
        ]
        routes = [
            Route(place, self._counted(place, handler), methods=[method])
            for place, method, handler in table
        ]
        app = Starlette(routes=routes, exception_handlers={
            HTTPException: self._unrouted, Exception: self._failed,
        })  # fmt: skip
        # A redirect would be built from the caller's own Host header.
        app.router.redirect_slashes = False
        if self.options.desk is not None:
            # Asked last, when no route of ours is meant: the pages cost predictions nothing.
            app.router.default = _desked(self.options.desk, app.router.default)
        return app

    def _counted(self, place: str, handler: Handler) -> Handler:
        """The handler with its problems answered and its time counted."""

        async def answer(request: Request) -> Response:
            return await self._answered(place, handler, request)

        return answer

    async def _answered(self, place: str, handler: Handler, request: Request) -> Response:
        began = time.perf_counter()
        try:
            response = await handler(request)
        except Problem as problem:
            response = self._refused(problem)
        except RecordError as error:
            response = self._refused(problem_of(error))
        except ClientDisconnect:
            return Response(status_code=400)  # nobody is there to read it
        except ClvError:
            # Its message tells what came; that stays here.
            response = self._refused(
                Problem(422, "input", "must hold what the model's settings ask for")
            )
        self.metrics.answered(place, response.status_code, time.perf_counter() - began)
        return response

    def _refused(self, problem: Problem) -> Response:
        self.metrics.refused(problem.kind)
        return Response(
            problem.body(), problem.status, problem.headers, media_type="application/json"
        )

    async def _unrouted(self, _: Request, error: Exception) -> Response:
        """No such route, or not by this method."""
        status = error.status_code if isinstance(error, HTTPException) else 500
        kind, message = {
            404: ("no_such_route", "there is nothing here; GET /docs lists what there is"),
            405: ("method", "this route is asked by another method; see the header Allow"),
        }.get(status, ("refused", "the request cannot be answered"))
        headers = error.headers if isinstance(error, HTTPException) else None
        return self._refused(Problem(status, kind, message, headers=headers))

    async def _failed(self, _: Request, error: Exception) -> Response:  # noqa: ARG002
        """Our fault, in the same form; the error goes on to the log of the guard."""
        return self._refused(Problem(500, "our_fault", "our fault; it has been logged"))

    # --- predictions ---

    async def predict(self, request: Request) -> Response:
        """Customers with raw orders to the rows of the predictions table."""
        scorer = scorer_of(self.live.loaded)
        body = await _body(request, ("application/json",))
        model = scorer.loaded.model
        if len(body) > INLINE * 500:  # to parse alone would hold up the others
            return await asyncio.to_thread(self._predicted, scorer, body)
        wanted = asked(parsed(body), model.settings.business.time_zone, self.limits)
        if wanted.lines > INLINE or wanted.reasons:
            return await asyncio.to_thread(self._predicted, scorer, body)
        return self._predicted(scorer, body, wanted)

    def _predicted(self, scorer: Scorer, body: bytes, wanted: Any = None) -> Response:
        model = scorer.loaded.model
        wanted = wanted or asked(parsed(body), model.settings.business.time_zone, self.limits)
        months = wanted.months or model.settings.horizons.months
        found = scorer.predict(wanted.customers, wanted.as_of, months, wanted.reasons)
        self.metrics.scored(found.predictions, min(months))
        told = [
            {"where": path(note.where), "type": note.rule, "message": note.text}
            for note in found.notes[:MOST_WARNINGS]
        ]
        return _json(
            {
                "model_version": scorer.loaded.version,
                "currency": model.settings.business.currency,
                "predictions": found.predictions,
                "warnings": told,
                "more_warnings": max(0, len(found.notes) - MOST_WARNINGS),
            }
        )

    async def customer(self, request: Request) -> Response:
        """The last batch's row of a known customer."""
        if self.lookup is None:
            raise Problem(404, "no_predictions", "the service was started without --predictions")
        find, name = self.lookup.find, request.path_params["customer"]
        # A newer table is laid out beside the others: that takes a second for a million rows.
        row = find(name) if self.lookup.fresh else await asyncio.to_thread(find, name)
        if row is None:
            raise Problem(404, "unknown_customer", "the newest table holds no such customer")
        return _json({"prediction": row})

    async def invocations(self, request: Request) -> Response:
        """MLflow's scoring protocol."""
        scorer = scorer_of(self.live.loaded)
        body = await _body(request, ("application/json", "text/csv"))
        kind, query = _media_type(request), dict(request.query_params)
        work = (body, kind, query, scorer, self.limits)
        if len(body) > INLINE * 500:
            return _json(await asyncio.to_thread(invocations, *work))
        return _json(invocations(*work))

    async def infer(self, request: Request) -> Response:
        """Open Inference v2."""
        scorer = self._versioned(request)
        body = await _body(request, ("application/json",))
        work = (body, scorer, self.options.name, self.limits)
        if len(body) > INLINE * 500:
            return _json(await asyncio.to_thread(infer, *work))
        return _json(infer(*work))

    def _versioned(self, request: Request) -> Scorer:
        scorer = scorer_of(self.live.loaded)
        if request.path_params.get("version", scorer.loaded.version) != scorer.loaded.version:
            raise Problem(404, "unknown_version", "another version serves; see GET /health")
        return scorer

    # --- what operators ask for ---

    async def ping(self, _: Request) -> Response:
        """A model is loaded: that is all it says; who asks looks at the status alone."""
        return _json({})

    async def health(self, _: Request) -> Response:
        """Which model serves, and whether a newer one was refused."""
        status = dict(self.live.status())
        warning = self.options.warning()
        if warning is not None:
            status["warning"] = warning
        return _json(status, 200 if status.get("healthy") else 503)

    async def reload(self, _: Request) -> Response:
        """Look at the champion's alias now; who may ask is the guard's matter."""
        changed = await asyncio.to_thread(self.live.reload)
        return _json({"changed": changed, **self.live.status()})

    async def version(self, _: Request) -> Response:
        """The version of the service."""
        return Response(release(), media_type=PLAIN)

    async def scrape(self, _: Request) -> Response:
        """Counters for Prometheus."""
        text = self.metrics.text(self.live.status())
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def server(self, _: Request) -> Response:
        """Metadata of the server."""
        return _json({"name": "clv", "version": release(), "extensions": []})

    async def alive(self, _: Request) -> Response:
        """The process answers."""
        return _json({"live": True})

    async def ready(self, _: Request) -> Response:
        """The model may be asked."""
        ready = bool(self.live.status().get("healthy"))
        return _json({"ready": ready}, 200 if ready else 503)

    async def model(self, request: Request) -> Response:
        """Metadata of the model."""
        return _json(described(self._versioned(request), self.options.name))

    async def model_ready(self, request: Request) -> Response:
        """This model may be asked."""
        self._versioned(request)
        ready = bool(self.live.status().get("healthy"))
        return _json({"name": self.options.name, "ready": ready}, 200 if ready else 503)

    async def openapi(self, _: Request) -> Response:
        """The description of the service."""
        return _json(self._document())

    def _document(self) -> dict[str, Any]:
        return document(self.options.name, release(), self.limits, self.options.tokens)

    async def docs(self, _: Request) -> Response:
        """The same as a page that asks nobody else for anything."""
        headers = {
            "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; "
            "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
            "x-content-type-options": "nosniff",
        }
        text = page(self._document())
        return Response(text, headers=headers, media_type="text/html; charset=utf-8")


def _desked(desk: Any, other: Any) -> Any:
    """The pages for people at their paths, `other` at the rest."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        own = scope["type"] == "http" and is_own(scope["path"])
        await (desk if own else other)(scope, receive, send)

    return answer


def _json(value: Any, status: int = 200) -> Response:
    return Response(dumped(value), status, media_type="application/json")


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").split(";")[0].strip().lower()


async def _body(request: Request, kinds: tuple[str, ...]) -> bytes:
    """The body, whose media type is one of `kinds` and whose text is not compressed."""
    given = request.headers.getlist("content-type")
    if len(given) != 1 or _media_type(request) not in kinds:
        raise Problem(415, "media_type", f"the body must be {' or '.join(kinds)}")
    charset = given[0].lower().partition("charset=")[2].strip(' "')
    if charset not in ("", "utf-8", "utf8"):
        raise Problem(415, "media_type", "the body must be in UTF-8")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Problem(415, "media_type", "the body must not be compressed")
    return await request.body()


@cache
def release() -> str:
    """The version of this package."""
    try:
        return version("clv")
    except PackageNotFoundError:  # run from its sources
        return "0"
