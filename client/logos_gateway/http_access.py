"""Who may call which route: an ASGI middleware for origins, tokens and scopes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as AsgiScope

from logos_gateway.json_values import encode_json
from logos_gateway.origins import judge_origin, may_open_socket
from logos_gateway.problems import PROBLEM_TYPE, ProblemError
from logos_gateway.tokens import Scope, Tokens

__all__ = ["BEARER_PROTOCOL", "AccessCounters", "AccessMiddleware", "scope_of_path", "scopes_of"]

#: A browser cannot set headers on a WebSocket; it names the token as one of the subprotocols it offers.
BEARER_PROTOCOL: Final = "logos.bearer."

_OWN_PREFIXES: Final = ("/apps/", "/kernel/", "/gateway/")
_GRANTED: Final = "logos.scopes"
"""Key of the ASGI scope that holds what the token of the request allows."""
_OPEN_PATHS: Final = ("/dashboard", "/openapi.json", "/docs")
_ANY_SCOPE: Final = ("/health", "/ready", "/info", "/version", "/debug/", "/metrics", "/gateway/")
_KERNEL_PREFIXES: Final = ("/relay/", "/filter/", "/lightpush/", "/store/", "/kernel/")


def scope_of_path(path: str) -> Scope | None:
    """The scope that a path needs; None: any token will do."""
    if path.startswith("/admin/") or path == "/gateway/v1/log-level":
        return Scope.ADMIN
    if path.startswith(("/apps/", "/messaging/")):
        return Scope.APPS
    if path.startswith(_KERNEL_PREFIXES):
        return Scope.KERNEL
    return None if path.startswith(_ANY_SCOPE) else Scope.KERNEL


def scopes_of(connection: HTTPConnection) -> frozenset[Scope]:
    """What the token of this request allows; everything where no tokens are asked for."""
    granted: frozenset[Scope] = connection.scope.get(_GRANTED, frozenset(Scope))
    return granted


class AccessCounters:
    """Requests that were refused here, by reason."""

    def __init__(self) -> None:
        self.refused: dict[str, int] = {"origin": 0, "unauthenticated": 0, "scope": 0, "socket_origin": 0}


class AccessMiddleware:
    """Judges origin, then token, then scope; adds the CORS headers to what is answered."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        tokens: Tokens | None,
        allow_origins: Sequence[str],
        counters: AccessCounters,
    ) -> None:
        """`tokens` None: everything that is served is open (the listener is on loopback)."""
        self._app = app
        self._tokens = tokens
        self._allowed = tuple(allow_origins)
        self._counters = counters

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if scope["type"] == "websocket":
            await self._socket(scope, headers, receive, send)
            return
        decision = judge_origin(headers.getlist("origin"), self._allowed)
        if decision.refusal is not None:
            self._counters.refused["origin"] += 1
            status, text = decision.refusal
            await PlainTextResponse(text, status)(scope, receive, send)
            return
        if scope["method"] == "OPTIONS":
            await _preflight(dict(decision.headers))(scope, receive, send)
            return
        refusal = self._judge_token(scope, headers.get("authorization"))
        if refusal is not None:
            response = _refuse(scope["path"], refusal)
            response.headers.update(decision.headers)
            await response(scope, receive, send)
            return
        await self._app(scope, receive, _adding(send, dict(decision.headers)) if decision.headers else send)

    async def _socket(self, scope: AsgiScope, headers: Headers, receive: Receive, send: Send) -> None:
        if not may_open_socket(headers.get("origin"), headers.get("host", ""), self._allowed):
            self._counters.refused["socket_origin"] += 1
            await _deny_socket(receive, send, 403)
            return
        offered = [name for name in scope.get("subprotocols", []) if name.startswith(BEARER_PROTOCOL)]
        authorization = headers.get("authorization")
        if authorization is None and offered:
            authorization = "Bearer " + offered[0].removeprefix(BEARER_PROTOCOL)
        refusal = self._judge_token(scope, authorization)
        if refusal is not None:
            await _deny_socket(receive, send, refusal.status)
            return
        await self._app(scope, receive, send)

    def _judge_token(self, scope: AsgiScope, authorization: str | None) -> ProblemError | None:
        path = scope["path"]
        if self._tokens is None or path.startswith(_OPEN_PATHS):
            return None
        kind, _, token = (authorization or "").partition(" ")
        scopes = self._tokens.scopes_of(token.strip()) if kind.lower() == "bearer" else None
        if scopes is None:
            self._counters.refused["unauthenticated"] += 1
            return ProblemError(401, "unauthenticated", "a valid bearer token is needed")
        needed = scope_of_path(path)
        if needed is not None and needed not in scopes:
            self._counters.refused["scope"] += 1
            return ProblemError(403, "unauthorised", f"this token does not allow the scope {needed}")
        scope[_GRANTED] = scopes
        return None


def _refuse(path: str, problem: ProblemError) -> Response:
    headers = {"WWW-Authenticate": 'Bearer realm="logos"'} if problem.status == 401 else None
    if path.startswith(_OWN_PREFIXES):
        return Response(encode_json(problem.body()), problem.status, headers, PROBLEM_TYPE)
    return PlainTextResponse(problem.detail, problem.status, headers)


def _preflight(added: dict[str, str]) -> Response:
    """The reference answers OPTIONS with 200; what a browser asks for is allowed to an allowed origin."""
    if added:
        added["Access-Control-Allow-Methods"] = "GET, POST, PUT, DELETE, OPTIONS"
        added["Access-Control-Allow-Headers"] = "Authorization, Content-Type, Idempotency-Key, Last-Event-ID"
        added["Access-Control-Max-Age"] = "600"
    return Response(None, 200, added)


def _adding(send: Send, added: dict[str, str]) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(added)
        await send(message)

    return sending


async def _deny_socket(receive: Receive, send: Send, status: int) -> None:
    await receive()
    await send({"type": "websocket.http.response.start", "status": status, "headers": []})
    await send({"type": "websocket.http.response.body", "body": b""})
