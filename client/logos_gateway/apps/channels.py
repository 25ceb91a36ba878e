"""Reliable channels of an app: routes below `/apps/v1/{name}/channels`, and operations of its WebSocket.

A channel id may be any text, including slashes: in a path it is everything after `channels/`. Events of a
channel are part of the app's stream. Channels with hooks cannot be created here: decrypting their segments
takes a client of the ZeroMQ contract.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import quote

from fastapi import APIRouter, Request
from starlette.responses import Response

from logos_client import MessagingClient, PendingChannelSend
from logos_gateway.apps.sending import body_object, open_journal, request_id_of
from logos_gateway.bodies import json_response, own_body
from logos_gateway.json_values import BadBody, encode_json, from_base64
from logos_gateway.problems import ProblemError

router = APIRouter(prefix="/apps/v1", tags=["apps"])

_MAX_PAYLOAD: Final = 26 << 20
"""About what the Messaging API accepts in 256 segments."""
_OCTETS: Final = "application/octet-stream"


def _channel_id(request: Request) -> str:
    return str(request.path_params["channelId"])


@router.get("/{name}/channels", summary="The app's channels")
async def channels(request: Request) -> Response:
    """Return `{channels}`, including closed ones."""
    return json_response(await _list((await open_journal(request)).client, {}))


@router.post("/{name}/channels", summary="Create a channel, or open one that was closed or is locked")
async def create_channel(request: Request) -> Response:
    """Body: `{channelId, contentTopic, senderId?, profile?, keys? (base64), keepKeys?, parity?}`.

    200 `{senderId}` once it is on disk. `conflict` if the channel is already open.
    """
    body = await body_object(request)
    return json_response(await _create((await open_journal(request)).client, body))


@router.get("/{name}/channels/{channelId:path}/sends/{requestId}", summary="What became of a channel's send")
async def channel_send_fate(request: Request) -> Response:
    """Return the send and its state, also when it is final. 404: unknown, or ended more than a day ago."""
    channel_id, text = _channel_id(request), request.path_params["requestId"]
    journal = await open_journal(request)
    # A channel's id may happen to look like the path of another channel's send.
    if await journal.client.channel_exists(whole := f"{channel_id}/sends/{text}"):
        return json_response(await _status(journal.client, {"channelId": whole}))
    request_id = request_id_of(text)
    # Not from the events that have been read: without a reader the newest of them are still at MAPI.
    found = await journal.client.find_channel_send(channel_id, request_id)
    if found is None:
        raise ProblemError(404, "not_found", f"nothing is known of the send {text[:80]}")
    return json_response(_shown(found))


@router.get("/{name}/channels/{channelId:path}", summary="What a channel waits for")
async def channel_status(request: Request) -> Response:
    """Return counts of what is missing, waiting, being joined, unacknowledged, and kept for repair."""
    body = {"channelId": _channel_id(request)}
    return json_response(await _status((await open_journal(request)).client, body))


@router.delete("/{name}/channels/{channelId:path}", summary="Forget a channel")
async def forget_channel(request: Request) -> Response:
    """Close the channel and delete its state. 204."""
    await _forget((await open_journal(request)).client, {"channelId": _channel_id(request)})
    return Response(None, 204)


@router.post("/{name}/channels/{channelId:path}/close", summary="Close a channel")
async def close_channel(request: Request) -> Response:
    """Close the channel and keep its state. 204."""
    await _close((await open_journal(request)).client, {"channelId": _channel_id(request)})
    return Response(None, 204)


@router.post("/{name}/channels/{channelId:path}/sends", summary="Send a payload to a channel")
async def send_to_channel(request: Request) -> Response:
    """Body: `{payload (base64), ephemeral?}`, or the payload itself as `application/octet-stream`, which may
    be larger. 202 `{requestId}` once it is on disk; its outcome follows as events of the channel.

    With an `Idempotency-Key`, the same request may be repeated after any failure: it is sent once.
    """
    request_id = request_id_of(request.headers.get("idempotency-key"))
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = (
        {"payload": await own_body(request, _MAX_PAYLOAD)} if kind == _OCTETS else await body_object(request)
    )
    body = {**body, "channelId": _channel_id(request)}
    await _send_under(request_id, (await open_journal(request)).client, body)
    shown = request_id.hex()
    location = f"{quote(request.scope['path'])}/{shown}"
    return Response(encode_json({"requestId": shown}), 202, {"Location": location}, "application/json")


# --- shared by routes and WebSocket -----------------------------------------------------------------------


async def _list(client: MessagingClient, _body: dict[str, Any]) -> dict[str, Any]:
    found = await client.channels()
    return {
        "channels": [
            {
                "channelId": one.channel_id,
                "contentTopic": one.content_topic,
                "senderId": one.sender_id,
                "profile": one.profile,
                "encrypted": one.encrypted,
                "open": one.open,
                "locked": one.locked,
                "hooks": one.hooks,
            }
            for one in found
        ]
    }


async def _create(client: MessagingClient, body: dict[str, Any]) -> dict[str, Any]:
    keys, parity = body.get("keys", []), body.get("parity", 0)
    if not isinstance(keys, list):
        raise ProblemError(400, "bad_request", "keys: an array is needed")
    if not isinstance(parity, int | float) or isinstance(parity, bool) or not 0 <= parity <= 1:
        raise ProblemError(400, "bad_request", "parity: 0 to 1 is possible")
    sender_id, profile = body.get("senderId"), body.get("profile", "reference")
    given = [_bytes(key, f"keys[{number}]") for number, key in enumerate(keys)]
    if any(len(key) != 32 for key in given):
        raise ProblemError(400, "bad_request", "keys: of 32 bytes each")
    sender = await client.create_channel(
        _text(body, "channelId"),
        _text(body, "contentTopic"),
        sender_id=None if sender_id is None else _text(body, "senderId"),
        profile=profile if profile == "reference" else _text(body, "profile"),
        keys=given,
        keep_keys=_flag(body, "keepKeys"),
        parity=parity,
    )
    return {"senderId": sender}


async def _status(client: MessagingClient, body: dict[str, Any]) -> dict[str, Any]:
    status = await client.channel_status(_text(body, "channelId"))
    return {**status.to_body(), "sends": [_shown(one) for one in status.sends]}


async def _find_send(client: MessagingClient, body: dict[str, Any]) -> dict[str, Any]:
    request_id = request_id_of(_text(body, "requestId"))
    found = await client.find_channel_send(_text(body, "channelId"), request_id)
    return {"send": None if found is None else _shown(found)}


def _shown(one: PendingChannelSend) -> dict[str, Any]:
    request_id = one.request_id.hex()
    if one.end:
        return {"requestId": request_id, "state": one.end, "sent": one.sent, "detail": one.detail}
    return {"requestId": request_id, "state": "sent" if one.sent else "accepted"}


async def _close(client: MessagingClient, body: dict[str, Any]) -> dict[str, Any]:
    await client.close_channel(_text(body, "channelId"))
    return {}


async def _forget(client: MessagingClient, body: dict[str, Any]) -> dict[str, Any]:
    await client.forget_channel(_text(body, "channelId"))
    return {}


async def _send(client: MessagingClient, body: dict[str, Any]) -> dict[str, Any]:
    key = None if body.get("requestId") is None else _text(body, "requestId")
    request_id = request_id_of(key)
    await _send_under(request_id, client, body)
    return {"requestId": request_id.hex()}


async def _send_under(request_id: bytes, client: MessagingClient, body: dict[str, Any]) -> None:
    channel_id, payload = _text(body, "channelId"), _bytes(body.get("payload"), "payload")
    ephemeral = _flag(body, "ephemeral")
    await client.send_to_channel(channel_id, payload, ephemeral=ephemeral, request_id=request_id)


CHANNEL_OPERATIONS: Final[
    dict[str, Callable[[MessagingClient, dict[str, Any]], Awaitable[dict[str, Any]]]]
] = {
    "channel_create": _create,
    "channel_list": _list,
    "channel_status": _status,
    "channel_close": _close,
    "channel_forget": _forget,
    "channel_send": _send,
    "channel_find_send": _find_send,
}
"""The `op` of a WebSocket request, whose other keys are those of the routes' bodies."""


async def serve_operation(client: MessagingClient, request: dict[str, Any]) -> dict[str, Any]:
    """Serve one of `CHANNEL_OPERATIONS`. Raises `ProblemError`, `LogosError`."""
    return await CHANNEL_OPERATIONS[request["op"]](client, request)


def _text(body: dict[str, Any], key: str) -> str:
    value = body.get(key)
    if not isinstance(value, str):
        raise ProblemError(400, "bad_request", f"{key}: text is needed")
    return value


def _flag(body: dict[str, Any], key: str) -> bool:
    value = body.get(key, False)
    if not isinstance(value, bool):
        raise ProblemError(400, "bad_request", f"{key}: true or false is needed")
    return value


def _bytes(value: object, what: str) -> bytes:
    try:
        return value if isinstance(value, bytes) else from_base64(value, what)
    except BadBody as error:
        raise ProblemError(400, "bad_request", str(error)) from None
