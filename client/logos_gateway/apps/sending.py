"""What every request to an app needs, and a send: apart from the routes, since these modules are compiled."""

from __future__ import annotations

import hashlib
import os
import re
import time
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from ipc_schema.mapi.methods import request_id_at
from logos_gateway.apps.journal import Journal
from logos_gateway.bodies import own_body, ready_response
from logos_gateway.json_values import BadBody, decode_json, from_base64
from logos_gateway.problems import ProblemError
from logos_gateway.state import gateway_of

_HEX_ID: Final = re.compile(r"[0-9a-fA-F]{32}")
_UUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_RANDOM_BYTES: Final = 10
"""Of a request id; the rest is its time."""
_IDS_AT_ONCE: Final = 256


class _NewIds:
    """New request ids; the randomness of many is one call of the system."""

    def __init__(self) -> None:
        self._bytes = b""
        self._at = 0

    def next(self) -> bytes:
        at = self._at
        if at == len(self._bytes):
            self._bytes, at = os.urandom(_RANDOM_BYTES * _IDS_AT_ONCE), 0
        self._at = at + _RANDOM_BYTES
        return request_id_at(time.time_ns(), self._bytes[at : self._at])


_new_ids: Final = _NewIds()


def request_id_of(key: str | None) -> bytes:
    """Return the request id for an `Idempotency-Key`: its 16 bytes if it is hex or a UUID, else a hash of it;
    a new one without a key. Raises `ProblemError`."""
    if key is None:
        return _new_ids.next()
    text = key.strip().strip('"')
    if not text or len(text) > 256:
        raise ProblemError(400, "bad_request", "Idempotency-Key: 1 to 256 characters are possible")
    if _HEX_ID.fullmatch(text) or _UUID.fullmatch(text):
        return bytes.fromhex(text.replace("-", ""))
    return hashlib.sha256(b"logos idempotency key\0" + text.encode()).digest()[:16]


async def open_journal(request: Request) -> Journal:
    """Return the connected journal of the app in the path. Raises `LogosError`."""
    # Most requests have no query, and parsing one costs as much as the rest of this function.
    takeover = bool(request.scope["query_string"]) and request.query_params.get("takeover") == "true"
    return await gateway_of(request).journals.open(request.path_params["name"], takeover=takeover)


async def body_object(request: Request) -> dict[str, Any]:
    """Return the body as a JSON object. Raises `ProblemError`."""
    try:
        value = decode_json(await own_body(request))
        if not isinstance(value, dict):
            raise BadBody("expected an object")
    except BadBody as error:
        raise ProblemError(400, "bad_request", f"body: {error}") from None
    return value


async def answer_send(request: Request) -> Response:
    """Send what the body describes, under the id that the `Idempotency-Key` says. Raises `ProblemError`,
    `LogosError`."""
    request_id = request_id_of(_header(request, b"idempotency-key"))
    body = await body_object(request)
    journal = await open_journal(request)
    await send_from(journal, request_id, body)
    shown = request_id.hex()
    location = f"{request.scope['path']}/{shown}".encode("latin-1")
    return ready_response(f'{{"requestId":"{shown}"}}'.encode(), 202, (b"location", location))


def _header(request: Request, wanted: bytes) -> str | None:
    # Starlette's mapping of the headers takes a copy of them.
    for name, value in request.scope["headers"]:
        if name == wanted:
            return str(value, "latin-1")
    return None


async def send_from(journal: Journal, request_id: bytes, body: dict[str, Any]) -> None:
    """Send what a body describes. Raises `ProblemError`, `LogosError`."""
    topic, ephemeral = body.get("contentTopic"), body.get("ephemeral", False)
    if not isinstance(topic, str):
        raise ProblemError(400, "bad_request", "contentTopic: text is needed")
    if not isinstance(ephemeral, bool):
        raise ProblemError(400, "bad_request", "ephemeral: true or false is needed")
    try:
        payload = _bytes(body.get("payload"), "payload")
        meta = b"" if body.get("meta") is None else _bytes(body["meta"], "meta")
    except BadBody as error:
        raise ProblemError(400, "bad_request", str(error)) from None
    await journal.client.send(topic, payload, ephemeral=ephemeral, meta=meta, request_id=request_id)


def _bytes(value: object, what: str) -> bytes:
    return value if isinstance(value, bytes) else from_base64(value, what)
