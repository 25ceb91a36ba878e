"""Origins, tokens and scopes in front of every route."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Message

from logos_gateway.http_access import AccessControl, AccessCounters, AccessMiddleware, scope_of_path
from logos_gateway.tokens import Scope, parse_tokens

APPS, KERNEL, ADMIN = "apps-token-123456", "kernel-token-1234", "admin-token-12345"
TOKENS = parse_tokens(f"{APPS} apps\n{KERNEL} kernel\n{ADMIN} admin\n")


def call(
    path: str,
    *,
    method: str = "GET",
    token: str = "",
    origin: str = "",
    hosts: tuple[str, ...] = ("127.0.0.1:8645",),
    site: str = "",
    names: tuple[str, ...] = (),
    **settings: Any,
) -> tuple[int, dict[str, str], AccessCounters]:
    counters = AccessCounters()
    options = {"tokens": TOKENS, "allow_origins": (), "hosts": names, **settings}
    app = AccessMiddleware(PlainTextResponse("in"), control=AccessControl(counters=counters, **options))
    headers = [(b"authorization", f"Bearer {token}".encode())] if token else []
    headers += [(b"origin", origin.encode())] if origin else []
    headers += [(b"host", host.encode()) for host in hosts]
    headers += [(b"sec-fetch-site", site.encode())] if site else []
    scope = {"type": "http", "method": method, "path": path, "headers": headers}
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], {k.decode(): v.decode() for k, v in sent[0]["headers"]}, counters


@pytest.mark.parametrize(
    ("path", "token", "status"),
    [
        ("/relay/v1/messages/x", "", 401),
        ("/relay/v1/messages/x", "unknown-token-0000", 401),
        ("/relay/v1/messages/x", KERNEL, 200),
        ("/relay/v1/messages/x", APPS, 403),
        ("/messaging/v1/messages", APPS, 200),
        ("/messaging/v1/messages", KERNEL, 403),
        ("/apps/v1/me/events", APPS, 200),
        ("/apps/v1/me/events", KERNEL, 403),
        ("/admin/v1/peers", KERNEL, 403),
        ("/admin/v1/peers", ADMIN, 200),
        ("/apps/v1/me/events", ADMIN, 200),
        ("/metrics", APPS, 200),
        ("/health", KERNEL, 200),
        ("/health", "", 401),
        ("/openapi.json", "", 200),
        ("/something-new", APPS, 403),
    ],
)
def test_scopes(path: str, token: str, status: int) -> None:
    found, headers, counters = call(path, token=token)
    assert found == status
    assert ("www-authenticate" in headers) == (status == 401)
    assert sum(counters.refused.values()) == (status != 200)


def test_without_a_token_file_everything_is_open() -> None:
    assert (call("/admin/v1/peers", tokens=None))[0] == 200


@pytest.mark.parametrize("hosts", [(), ("evil.example:8645",), ("127.0.0.1:8645", "evil.example")])
@pytest.mark.parametrize("path", ["/admin/v1/peers", "/apps/v1/me/events", "/metrics", "/dashboard"])
def test_without_tokens_a_name_that_is_not_ours_is_refused(path: str, hosts: tuple[str, ...]) -> None:
    status, _, counters = call(path, tokens=None, hosts=hosts)
    assert (status, counters.refused["host"]) == (421, 1)


def test_a_configured_name_and_any_name_with_tokens_are_served() -> None:
    for host in ("node.example", "Node.Example:443", "localhost:8645", "[::1]:8645"):
        assert call("/version", tokens=None, hosts=(host,), names=("node.example",))[0] == 200
    assert call("/health", token=KERNEL, hosts=("evil.example",))[0] == 200


@pytest.mark.parametrize(
    ("method", "path", "origin", "site", "status"),
    [
        ("POST", "/relay/v1/auto/messages", "https://evil.example", "cross-site", 403),
        ("DELETE", "/relay/v1/subscriptions", "null", "cross-site", 403),
        ("GET", "/apps/v1/me/events", "https://evil.example", "cross-site", 403),
        ("GET", "/kernel/v1/events", "http://127.0.0.1:3000", "same-site", 403),
        ("GET", "/relay/v1/messages/x", "", "cross-site", 403),  # an image: it would empty the cache
        ("GET", "/version", "https://evil.example", "cross-site", 200),  # its answer cannot be read
        ("POST", "/relay/v1/auto/messages", "http://127.0.0.1:8645", "same-origin", 200),
        ("POST", "/relay/v1/auto/messages", "https://app.example", "cross-site", 200),
        ("POST", "/relay/v1/auto/messages", "", "", 200),
        ("GET", "/relay/v1/messages/x", "", "none", 200),
        ("GET", "/dashboard", "", "cross-site", 200),
    ],
)
def test_without_tokens_pages_from_elsewhere_do_nothing(
    method: str, path: str, origin: str, site: str, status: int
) -> None:
    allowed = ("https://app.example",) if origin == "https://app.example" else ()
    found = call(path, method=method, tokens=None, origin=origin, site=site, allow_origins=allowed)
    assert found[0] == status


def test_our_own_pages_need_no_permission() -> None:
    allowed = ("https://app.example",)
    origin = "http://127.0.0.1:8645"
    assert call("/health", method="PUT", tokens=None, origin=origin, allow_origins=allowed)[0] == 200


def test_origins_come_before_tokens() -> None:
    allowed = ("https://app.example",)
    status, headers, _ = call("/health", origin="https://app.example", allow_origins=allowed)
    assert status == 401
    assert headers["access-control-allow-origin"] == "https://app.example"
    status, headers, counters = call("/health", origin="https://evil", allow_origins=allowed)
    assert (status, counters.refused["origin"]) == (403, 1)
    status, headers, _ = call(
        "/apps/v1/x/sends", method="OPTIONS", origin="https://app.example", allow_origins=allowed
    )
    assert status == 200
    assert "Idempotency-Key" in headers["access-control-allow-headers"]


def test_every_group_has_its_scope() -> None:
    assert scope_of_path("/store/v3/messages") is Scope.KERNEL
    assert scope_of_path("/kernel/v1/events") is Scope.KERNEL
    assert scope_of_path("/version") is None
