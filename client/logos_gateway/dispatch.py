"""Serve simple routes directly, without FastAPI's dispatch and without a middleware.

FastAPI tries its routes one after the other and solves dependencies that our handlers do not have: at 50
routes that is more than half of what a small request costs. Handlers here take the request as it is, so
nothing of it is needed to call them; what is not found here (documents, pages, unknown paths, WebSockets)
goes on to the FastAPI application, which also describes all routes.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from inspect import signature
from typing import NamedTuple

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from logos_gateway.http_access import AccessControl, AccessMiddleware, adding
from logos_gateway.http_server import answer_at_once
from logos_gateway.operator.request_figures import RequestFigures, RequestFiguresMiddleware, route_group
from logos_process.logs import fields

log = logging.getLogger(__name__)

Endpoint = Callable[[Request], Awaitable[Response]]
ErrorHandler = Callable[[Request, Exception], Awaitable[Response]]


class _Direct(NamedTuple):
    pattern: re.Pattern[str]
    endpoint: Endpoint
    group: str


class DirectRoutes:
    """An ASGI application in front of `app`. `handlers`: responses to exceptions, by class; the first match
    applies, and one for `Exception` should be last."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        state_of: ASGIApp,
        routers: Iterable[APIRouter],
        handlers: Mapping[type[Exception], ErrorHandler],
        access: AccessControl,
        figures: RequestFigures,
    ) -> None:
        """`state_of`: the application that requests refer to, for its `state`."""
        self._rest = RequestFiguresMiddleware(AccessMiddleware(app, control=access), figures=figures)
        self._state_of = state_of
        self._handlers = tuple(handlers.items())
        self._access = access
        self._figures = figures
        self._groups: dict[tuple[str, str], list[_Direct]] = {}
        for router in routers:
            for route in router.routes:
                if isinstance(route, APIRoute) and list(signature(route.endpoint).parameters) == ["request"]:
                    direct = _Direct(route.path_regex, route.endpoint, route_group(route.path))
                    for method in route.methods or ():
                        self._groups.setdefault((method, _first_part(route.path)), []).append(direct)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path: str = scope["path"]
            for direct in self._groups.get((scope["method"], _first_part(path)), ()):
                found = direct.pattern.match(path)
                if found is not None:
                    # Our path parameters are text, which FastAPI's converters would return unchanged.
                    scope["path_params"] = found.groupdict()
                    scope["app"] = self._state_of
                    await self._serve(direct, scope, receive, send)
                    return
        await self._rest(scope, receive, send)

    async def _serve(self, direct: _Direct, scope: Scope, receive: Receive, send: Send) -> None:
        figures, started = self._figures, time.perf_counter()
        figures.open["http"] += 1
        try:
            response, headers = self._access.judge(scope)
            if response is None:
                request = Request(scope, receive, send)
                try:
                    response = await direct.endpoint(request)
                except Exception as error:
                    response = await self._answer_error(request, error)
            if type(response).__call__ is Response.__call__:
                if headers:
                    response.headers.update(headers)
                if answer_at_once(send, response):
                    figures.answered(direct.group, response.status_code, time.perf_counter() - started)
                    return
            elif headers:
                send = adding(send, headers)
            await response(scope, receive, figures.noting(send, direct.group, started))
        finally:
            figures.open["http"] -= 1

    async def _answer_error(self, request: Request, error: Exception) -> Response:
        for kind, handler in self._handlers:
            if isinstance(error, kind):
                if kind is Exception:
                    log.error("a request has failed", exc_info=error, extra=fields(path=request.url.path))
                return await handler(request, error)
        raise error


def _first_part(path: str) -> str:
    return path[1:].partition("/")[0]
