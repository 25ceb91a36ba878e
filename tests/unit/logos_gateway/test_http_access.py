"""Origins, tokens and scopes in front of every route."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import Message

from logos_gateway.http_access import AccessCounters, AccessMiddleware, scope_of_path
from logos_gateway.tokens import Scope, parse_tokens

APPS, KERNEL, ADMIN = "apps-token-123456", "kernel-token-1234", "admin-token-12345"
TOKENS = parse_tokens(f"{APPS} apps\n{KERNEL} kernel\n{ADMIN} admin\n")


def call(
    path: str, *, method: str = "GET", token: str = "", origin: str = "", **settings: Any
) -> tuple[int, dict[str, str], AccessCounters]:
    counters = AccessCounters()
    options = {"tokens": TOKENS, "allow_origins": (), **settings}
    app = AccessMiddleware(PlainTextResponse("in"), counters=counters, **options)
    headers = [(b"authorization", f"Bearer {token}".encode())] if token else []
    headers += [(b"origin", origin.encode())] if origin else []
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
