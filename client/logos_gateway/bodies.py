"""Read request bodies within bounds; plain responses of the reference's API."""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response

from logos_gateway.json_values import encode_json
from logos_gateway.problems import ProblemError

MAX_BODY: Final = 16 * 1024 * 1024
"""Largest body (the reference's limit)."""
BODY_SECONDS: Final = 30.0
"""Seconds within which a whole body must arrive."""
BODY_COMPLETE: Final = "logos.body_complete"
"""Key of a request's state that our listener sets once the whole body has arrived."""


class TextRefusal(Exception):
    """A request answered with a status and plain text, as the reference does."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text

    def response(self) -> Response:
        return PlainTextResponse(self.text, self.status)


async def read_body(request: Request, limit: int = MAX_BODY) -> bytes:
    """Return the body. Raises `TextRefusal`: 413 above the limit, 408 if it arrives too slowly."""
    if BODY_COMPLETE in request.scope.get("state", ()):  # nearly always, and then it needs no timer
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise _gone()
        body: bytes = message["body"]
        if len(body) > limit:
            raise TextRefusal(413, "Request Entity Too Large")
        return body
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise TextRefusal(413, "Request Entity Too Large")
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit:
                    raise TextRefusal(413, "Request Entity Too Large")
                chunks.append(chunk)
    except TimeoutError:
        raise TextRefusal(408, "Request Timeout") from None
    except ClientDisconnect:
        raise _gone() from None
    return b"".join(chunks)


async def own_body(request: Request, limit: int = MAX_BODY) -> bytes:
    """Return a body for one of our own routes. Raises `ProblemError`."""
    try:
        return await read_body(request, limit)
    except TextRefusal as error:
        code = {413: "too_large", 408: "deadline_exceeded"}.get(error.status, "bad_request")
        raise ProblemError(error.status, code, error.text) from None


def _gone() -> TextRefusal:
    return TextRefusal(400, "the connection was closed before the whole body came")


async def reference_body(request: Request, *, text_plain: bool = True) -> bytes:
    """Return a body as the reference's routes accept it. Raises `TextRefusal` with the reference's texts."""
    body = await read_body(request)
    if not body:
        raise TextRefusal(400, "Missing content body")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (text_plain and kind == "text/plain"):
        wanted = "application/json or text/plain" if text_plain else "application/json"
        raise TextRefusal(400, f"Wrong Content-Type, expected {wanted}")
    return body


def json_response(value: object, status: int = 200) -> Response:
    return ready_response(encode_json(value), status)


def ready_response(body: bytes, status: int, *headers: tuple[bytes, bytes]) -> Response:
    """Return a response with JSON that is encoded already, in a third of the time that Starlette takes."""
    response = Response.__new__(Response)
    response.status_code = status
    response.background = None
    response.body = body
    length = b"%d" % len(body)
    response.raw_headers = [(b"content-length", length), (b"content-type", b"application/json"), *headers]
    return response
