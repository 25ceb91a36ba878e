"""Who may call which route: host names, origins, tokens and scopes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as AsgiScope

from logos_gateway.json_values import encode_json
from logos_gateway.origins import judge_origin, known_host, may_open_socket
from logos_gateway.problems import PROBLEM_TYPE, ProblemError
from logos_gateway.tokens import Scope, Tokens

#: A browser cannot set headers on a WebSocket; it names the token as one of the subprotocols it offers.
BEARER_PROTOCOL: Final = "logos.bearer."

_OWN_PREFIXES: Final = ("/apps/", "/kernel/", "/gateway/")
_GRANTED: Final = "logos.scopes"
"""Key of the ASGI scope under which the scopes of the request's token are stored."""
_OPEN_PATHS: Final = ("/dashboard", "/openapi.json", "/docs")
_ANY_SCOPE: Final = ("/health", "/ready", "/info", "/version", "/debug/", "/metrics", "/gateway/")
_KERNEL_PREFIXES: Final = ("/relay/", "/filter/", "/lightpush/", "/store/", "/kernel/")


def scope_of_path(path: str) -> Scope | None:
    """Return the scope that a path needs; None: any token."""
    if path.startswith("/admin/") or path == "/gateway/v1/log-level":
        return Scope.ADMIN
    if path.startswith(("/apps/", "/messaging/")):
        return Scope.APPS
    if path.startswith(_KERNEL_PREFIXES):
        return Scope.KERNEL
    return None if path.startswith(_ANY_SCOPE) else Scope.KERNEL


def scopes_of(connection: HTTPConnection) -> frozenset[Scope]:
    """Return the scopes of this request's token; all of them where tokens are not required."""
    granted: frozenset[Scope] = connection.scope.get(_GRANTED, frozenset(Scope))
    return granted


class AccessCounters:
    """Requests refused here, by reason."""

    def __init__(self) -> None:
        reasons = ("host", "origin", "unauthenticated", "scope", "socket_origin")
        self.refused: dict[str, int] = dict.fromkeys(reasons, 0)


class _Head(NamedTuple):
    """The headers that access control depends on."""

    hosts: list[str]
    origins: list[str]
    authorization: str | None
    site: str
    """Sec-Fetch-Site: how the browser relates the calling page to us; empty from programs."""


def _head(scope: AsgiScope) -> _Head:
    hosts: list[str] = []
    origins: list[str] = []
    authorization, site = None, ""
    for name, value in scope["headers"]:
        if name == b"host":
            hosts.append(value.decode("latin-1"))
        elif name == b"origin":
            origins.append(value.decode("latin-1"))
        elif name == b"authorization" and authorization is None:
            authorization = value.decode("latin-1")
        elif name == b"sec-fetch-site":
            site = value.decode("latin-1")
    return _Head(hosts, origins, authorization, site)


class AccessVerdict(NamedTuple):
    """On an HTTP request: refused with a response, or to be served. Either way these headers are added."""

    refusal: Response | None
    headers: Mapping[str, str]


class AccessControl:
    """Checks host, origin, token and scope, in this order."""

    def __init__(
        self,
        *,
        tokens: Tokens | None,
        allow_origins: Sequence[str],
        hosts: Sequence[str] = (),
        counters: AccessCounters,
    ) -> None:
        """`tokens` None: everything is open (the listener is on loopback), except to pages from other sites
        in a browser on this host. `hosts`: names it may be called by, besides loopback's own."""
        self._hosts = tuple(name.lower() for name in hosts)
        self._tokens = tokens
        self._allowed = tuple(allow_origins)
        self._counters = counters

    def judge(self, scope: AsgiScope) -> AccessVerdict:
        """Check an HTTP request."""
        head = _head(scope)
        path: str = scope["path"]
        if not self._good_host(head):
            # Do not repeat the name: an attacker may have chosen it.
            text = "this name is not one of the gateway's: see rest-host"
            return AccessVerdict(_refuse(path, ProblemError(421, "misdirected", text)), {})
        acting = self._tokens is None and _acts(scope)
        decision = judge_origin(head.origins, self._allowed, host="".join(head.hosts), acting=acting)
        refusal = decision.refusal
        if self._tokens is None and not head.origins and _hidden(scope, head):
            refusal = (403, "Origin not allowed")
        if refusal is not None:
            self._counters.refused["origin"] += 1
            status, text = refusal
            code = "unauthorised" if status == 403 else "bad_request"
            return AccessVerdict(_refuse(path, ProblemError(status, code, text)), {})
        if scope["method"] == "OPTIONS":
            return AccessVerdict(_preflight(dict(decision.headers)), {})
        problem = self._judge_token(scope, head.authorization)
        return AccessVerdict(None if problem is None else _refuse(path, problem), decision.headers)

    def judge_socket(self, scope: AsgiScope) -> int:
        """Check a WebSocket. Return the status that refuses it, else 0."""
        head = _head(scope)
        if not self._good_host(head):
            return 421
        origin = ", ".join(head.origins) if head.origins else None
        if not may_open_socket(origin, "".join(head.hosts), self._allowed):
            self._counters.refused["socket_origin"] += 1
            return 403
        offered = [name for name in scope.get("subprotocols", []) if name.startswith(BEARER_PROTOCOL)]
        authorization = head.authorization
        if authorization is None and offered:
            authorization = "Bearer " + offered[0].removeprefix(BEARER_PROTOCOL)
        problem = self._judge_token(scope, authorization)
        return 0 if problem is None else problem.status

    def _good_host(self, head: _Head) -> bool:
        if self._tokens is not None:  # no page has one, whatever its name is
            good = len(head.hosts) < 2
        else:
            good = len(head.hosts) == 1 and known_host(head.hosts[0], self._hosts)
        self._counters.refused["host"] += not good
        return good

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


class AccessMiddleware:
    """`AccessControl` in front of an ASGI application."""

    def __init__(self, app: ASGIApp, *, control: AccessControl) -> None:
        self._app = app
        self._control = control

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            status = self._control.judge_socket(scope)
            if status:
                await _deny_socket(receive, send, status)
            else:
                await self._app(scope, receive, send)
        else:
            refusal, headers = self._control.judge(scope)
            await (refusal or self._app)(scope, receive, adding(send, headers) if headers else send)


def _acts(scope: AsgiScope) -> bool:
    """Return whether the request has effects even if its response is not read: reading may acknowledge."""
    return scope["method"] not in ("GET", "HEAD", "OPTIONS") or scope["path"].startswith(_OWN_PREFIXES)


def _hidden(scope: AsgiScope, head: _Head) -> bool:
    """Return whether another site's page makes the request without an Origin (an image, a link): polling
    routes empty what they return. The gateway's pages may be linked to."""
    return head.site in ("cross-site", "same-site") and not scope["path"].startswith(_OPEN_PATHS)


def _refuse(path: str, problem: ProblemError) -> Response:
    headers = {"WWW-Authenticate": 'Bearer realm="logos"'} if problem.status == 401 else None
    if path.startswith(_OWN_PREFIXES):
        return Response(encode_json(problem.body()), problem.status, headers, PROBLEM_TYPE)
    return PlainTextResponse(problem.detail, problem.status, headers)


def _preflight(added: dict[str, str]) -> Response:
    """Answer OPTIONS with 200, as the reference does; an allowed origin may use what the browser asks for."""
    if added:
        added["Access-Control-Allow-Methods"] = "GET, POST, PUT, DELETE, OPTIONS"
        added["Access-Control-Allow-Headers"] = "Authorization, Content-Type, Idempotency-Key, Last-Event-ID"
        added["Access-Control-Max-Age"] = "600"
    return Response(None, 200, added)


def adding(send: Send, added: Mapping[str, str]) -> Send:
    """Return a `send` that adds these headers to the response."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(added)
        await send(message)

    return sending


async def _deny_socket(receive: Receive, send: Send, status: int) -> None:
    await receive()
    await send({"type": "websocket.http.response.start", "status": status, "headers": []})
    await send({"type": "websocket.http.response.body", "body": b""})
