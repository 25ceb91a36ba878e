"""The ASGI applications of the gateway, on FastAPI.

FastAPI, because most readers of this code know its routes and its OpenAPI document. Handlers parse their
own requests, because the reference's texts for bad input must match exactly.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Final

from fastapi import APIRouter, FastAPI, Request
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from logos_client.exceptions import LogosError
from logos_gateway.api_document import describe
from logos_gateway.apps import channels as app_channels
from logos_gateway.apps import routes as app_routes
from logos_gateway.apps import socket as app_socket
from logos_gateway.bodies import TextRefusal, json_response
from logos_gateway.dispatch import DirectRoutes, ErrorHandler
from logos_gateway.http_access import AccessControl, AccessMiddleware
from logos_gateway.operator import kernel_events, node_routes
from logos_gateway.operator.exposition import CONTENT_TYPE, expose
from logos_gateway.operator.pulse import Pulse
from logos_gateway.operator.request_figures import RequestFiguresMiddleware
from logos_gateway.operator.scrape import Scraper
from logos_gateway.pages import dashboard_router, docs_router
from logos_gateway.problems import STATUS_OF, ProblemError
from logos_gateway.reference import admin, filter, lightpush, messaging, node, relay, store  # noqa: A004
from logos_gateway.state import Gateway
from logos_gateway.tokens import Tokens

_OWN: tuple[str, ...] = ("/apps/", "/kernel/", "/gateway/", "/dashboard", "/docs")
UNKNOWN_PATH = "Bad request initiated. Invalid path or method used."

_NOT_SERVED = {
    "/admin/": "/admin endpoints are not available. Please check your configuration: --rest-admin=true",
}


def rest_application(gateway: Gateway, pulse: Pulse, version: str) -> FastAPI:
    """Return all routes and their description; `rest_server` is what is served."""
    app = FastAPI(
        title="Logos gateway",
        version=version,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        redirect_slashes=False,
    )
    app.state.gateway = gateway
    app.state.pulse = pulse
    for router in _routers(gateway):
        app.include_router(router)
    for kind, handler in _HANDLERS.items():
        app.add_exception_handler(kind, handler)
    secured, complete = gateway.config.options.rest_token_file is not None, gateway.config.options.rest
    document = functools.cache(functools.partial(describe, app, secured=secured, complete=complete))
    app.openapi = document  # type: ignore[method-assign]  # FastAPI's way to replace it
    return app


def rest_server(app: FastAPI, gateway: Gateway, tokens: Tokens | None) -> ASGIApp:
    """Return what the listener serves: the application behind access control, with simple routes called
    directly."""
    return DirectRoutes(
        app,
        state_of=app,
        routers=_routers(gateway),
        handlers=_HANDLERS,
        access=_access(gateway, tokens, gateway.config.options.rest_allow_origin),
        figures=gateway.requests,
    )


def _access(gateway: Gateway, tokens: Tokens | None, allow_origins: Sequence[str]) -> AccessControl:
    return AccessControl(
        tokens=tokens,
        allow_origins=allow_origins,
        hosts=gateway.config.options.rest_host,
        counters=gateway.access,
    )


def _routers(gateway: Gateway) -> list[APIRouter]:
    modules = (node, relay, filter, lightpush, store, messaging, admin, app_routes, app_channels, app_socket)
    routers = [module.router for module in modules] if gateway.config.options.rest else []
    routers += [kernel_events.router, node_routes.router, docs_router()]
    return [*routers, dashboard_router()] if gateway.config.options.dashboard else routers


def metrics_application(gateway: Gateway, scraper: Scraper, tokens: Tokens | None) -> Starlette:
    """Return `/metrics`, `/health` and `/ready` for the metrics listener."""

    async def metrics(_request: Request) -> Response:
        page = expose(await scraper.scrape(), gateway.config.metrics_prefix)
        return Response(page, media_type=CONTENT_TYPE)

    async def ready(_request: Request) -> Response:
        try:
            body = await scraper.health("kernel")
        except LogosError as error:
            return PlainTextResponse(f"{error.message}\n", 503)
        return PlainTextResponse(f"{body['state']}\n", 200 if body["ready"] else 503)

    app = Starlette(
        routes=[
            Route("/metrics", metrics),
            Route("/health", node.health),
            Route("/ready", ready),
        ],
        middleware=[
            Middleware(RequestFiguresMiddleware, figures=gateway.requests),
            Middleware(AccessMiddleware, control=_access(gateway, tokens, ())),
        ],
    )
    app.state.gateway = gateway
    return app


# --- errors -----------------------------------------------------------------------------------------------


async def _text_refusal(_request: Request, error: Exception) -> Response:
    assert isinstance(error, TextRefusal)
    return error.response()


async def _problem(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ProblemError)
    return app_routes.problem_response(error)


async def _logos_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, LogosError)
    if request.url.path.startswith(_OWN):
        return app_routes.problem_response(error)
    return PlainTextResponse(error.message, STATUS_OF[error.code])


async def _http_error(request: Request, error: Exception) -> Response:
    """Answer a request without a route: the reference's 400, and 404 or 405 below our own paths."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    if path.startswith(_OWN):
        code = {404: "not_found", 405: "unknown_method"}.get(error.status_code, "bad_request")
        return app_routes.problem_response(ProblemError(error.status_code, code, str(error.detail)))
    for prefix, text in _NOT_SERVED.items():
        if path.startswith(prefix) and not request.app.state.gateway.config.options.rest_admin:
            return PlainTextResponse(text, 404)
    return PlainTextResponse(UNKNOWN_PATH, 400)


async def _fault(_request: Request, _error: Exception) -> Response:
    # uvicorn logs the exception, which Starlette raises again once this answer is sent.
    return json_response({"detail": "internal error"}, 500)


_HANDLERS: Final[dict[type[Exception], ErrorHandler]] = {
    TextRefusal: _text_refusal,
    ProblemError: _problem,
    LogosError: _logos_error,
    HTTPException: _http_error,
    Exception: _fault,
}
