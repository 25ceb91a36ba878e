"""Static pages of the gateway, from its own package: the dashboard, and `/openapi.json` for people.

A page may load nothing but what is served here, and no inline script or style runs: a message on the network
can never become code in the operator's browser.
"""

from __future__ import annotations

import functools
import hashlib
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Final, NamedTuple

from fastapi import APIRouter, Request
from starlette.responses import Response

from logos_gateway.problems import ProblemError

CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
_TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


class _File(NamedTuple):
    content: bytes
    media_type: str
    etag: str


def _load(folder: str) -> dict[str, _File]:
    """Return all files of a folder of the package, by relative path."""
    found: dict[str, _File] = {}

    def walk(place: Traversable, prefix: str) -> None:
        for entry in place.iterdir():
            if entry.is_dir():
                walk(entry, f"{prefix}{entry.name}/")
            elif (kind := _TYPES.get("." + entry.name.rpartition(".")[2])) is not None:
                content = entry.read_bytes()
                etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
                found[prefix + entry.name] = _File(content, kind, etag)

    walk(resources.files("logos_gateway") / "static" / folder, "")
    return found


def _router(folder: str) -> APIRouter:
    """Return the routes of a folder: `/<folder>` is its index.html; the other files are below it."""
    router = APIRouter(prefix=f"/{folder}", include_in_schema=False)
    files = _load(folder)

    @router.get("")
    @router.get("/{path:path}")
    async def serve(request: Request, path: str = "") -> Response:
        if not path and request.url.path.endswith("/"):
            return Response(None, 308, {"Location": f"../{folder}"})
        file = files.get(path or "index.html")
        if file is None:
            raise ProblemError(404, "not_found", f"there is no {path[:80]!r} here")
        headers = {**_HEADERS, "ETag": file.etag}
        if file.etag in request.headers.get("if-none-match", ""):
            return Response(None, 304, headers)
        return Response(file.content, 200, {**headers, "Content-Type": file.media_type})

    return router


@functools.cache
def dashboard_router() -> APIRouter:
    """Return the routes of `/dashboard`."""
    return _router("dashboard")


@functools.cache
def docs_router() -> APIRouter:
    """Return the routes of `/docs`: `/openapi.json` for people."""
    return _router("docs")
