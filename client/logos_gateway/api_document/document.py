"""Build the document from an application's routes and the tables that describe them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from logos_gateway.api_document.own_routes import OWN, SOCKET_PATH, socket_operation
from logos_gateway.api_document.parts import JSON, OCTETS, PROBLEM, TEXT, Operation, Schema, ref
from logos_gateway.api_document.reference_routes import REFERENCE
from logos_gateway.api_document.schemas import SCHEMAS
from logos_gateway.http_access import scope_of_path

OPERATIONS: Final[Mapping[str, Operation]] = {**REFERENCE, **OWN}

_ABOUT: Final = """What a Logos node serves over HTTP.

`/apps`, `/kernel` and `/gateway` are its own: errors are problem details (RFC 9457) with a code and whether
the same request may succeed later. The other routes are those of the reference implementation, with its
texts. Where the gateway has tokens, each operation names the scope that a token needs; `admin` includes the
others."""

_TAGS: Final = {
    "apps": "The journal of an app: durable, resumable, acknowledged.",
    "kernel": "Live events of the kernel.",
    "gateway": "The gateway itself.",
    "node": "Health and identity of the node.",
    "relay": "Publish and poll on the relay network.",
    "filter": "Receive messages pushed by another node.",
    "lightpush": "Publish through another node.",
    "store": "Message history.",
    "messaging": "The Messaging API in the reference's form.",
    "admin": "Peers, statistics, log level; needs `rest-admin`.",
}


class UndescribedError(Exception):
    """A route without a description, or a description without a route."""


def describe(app: FastAPI, *, secured: bool, complete: bool) -> dict[str, Any]:
    """Return the document. `secured`: requests need tokens. `complete`: all groups of routes are served.

    Raises `UndescribedError`.
    """
    document = get_openapi(
        title="Logos gateway",
        version=app.version,
        openapi_version="3.1.0",
        description=_ABOUT,
        routes=app.routes,
    )
    found: set[str] = set()
    for path, item in document["paths"].items():
        for method, operation in item.items():
            key = f"{method.upper()} {path}"
            found.add(key)
            described = OPERATIONS.get(key)
            if described is None:
                raise UndescribedError(f"{key} is served and not described")
            item[method] = _operation(operation, path, described, secured=secured)
    missing = OPERATIONS.keys() - found
    if complete and missing:
        raise UndescribedError(f"described and not served: {', '.join(sorted(missing))}")
    if complete:
        shown = {
            "tags": ["apps"],
            "summary": "Everything of an app on one WebSocket",
            "operationId": "app_socket",
            "description": "Frames are described in docs/clients.md. A page in a browser gives its token as "
            "another subprotocol, logos.bearer.<token>.",
        }
        document["paths"][SOCKET_PATH] = {
            "get": _operation(shown, SOCKET_PATH, socket_operation(), secured=secured)
        }
    document["components"] = {"schemas": SCHEMAS}
    if secured:
        document["components"]["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
    document["tags"] = [{"name": name, "description": text} for name, text in _TAGS.items()]
    return document


def _operation(
    generated: Mapping[str, Any], path: str, described: Operation, *, secured: bool
) -> dict[str, Any]:
    kept = ("tags", "summary", "description", "operationId")
    shown: dict[str, Any] = {key: generated[key] for key in kept if key in generated}
    if described.parameters:
        shown["parameters"] = list(described.parameters)
    if described.body is not None:
        content: dict[str, Any] = {"schema": described.body}
        if described.example is not None:
            content["example"] = described.example
        by_kind: dict[str, Any] = {JSON: content}
        if described.octets:
            by_kind[OCTETS] = {"schema": {"description": described.octets}}
        shown["requestBody"] = {"required": True, "content": by_kind}
    answers: dict[str, Any] = {}
    for status, (about, given) in described.answers.items():
        answers[str(status)] = _answer(about, given)
        if described.headers and status < 300:
            answers[str(status)]["headers"] = {
                name: {"description": text, "schema": {"type": "string"}}
                for name, text in described.headers.items()
            }
    refused: dict[str, Schema] = (
        {PROBLEM: ref("Problem")} if described.problems else {TEXT: {"type": "string"}}
    )
    if secured:
        scope = scope_of_path(path)
        shown["security"] = [{"bearer": [str(scope)] if scope is not None else []}]
        answers.setdefault("401", _answer("No token, or an unknown one", refused))
        if scope is not None:
            answers.setdefault("403", _answer(f"The token does not allow the scope {scope}", refused))
    answers["default"] = _answer("The request was refused, or failed", refused)
    shown["responses"] = answers
    return shown


def _answer(about: str, content: Mapping[str, Schema]) -> dict[str, Any]:
    shown: dict[str, Any] = {"description": about}
    if content:
        shown["content"] = {kind: {"schema": schema} for kind, schema in content.items()}
    return shown
