"""`/apps/v1/{name}/socket`: the same over one WebSocket, in JSON text or MessagePack binary frames.

Client to gateway, one object per frame: `{op, id?, …}` with `op` one of hello, subscribe, unsubscribe,
subscriptions, send, ack, credit, cancel, pending, find_send, status, ping, or one about reliable channels
(`channels`).
Gateway to client: `{type: "reply", id, …}`, `{type: "error", id, problem}`,
`{type: "events", events: [{cost, event}, …]}` with what is there at the time,
and `{type: "closed", reason}` before the end.

Events cost byte credit: `credit` in the query (1 MiB by default), more by `{op: "credit", bytes}`.
Without credit nothing is sent and nothing is lost. A client that connects again says `after`, the position of
the last event that it received, and `instance`, as its last hello gave it.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, NamedTuple

import msgpack
from fastapi import APIRouter
from starlette.websockets import WebSocket, WebSocketDisconnect

from ipc_schema.hello import SeenPosition
from logos_client.exceptions import LogosError
from logos_gateway.apps.channels import CHANNEL_OPERATIONS, serve_operation
from logos_gateway.apps.encoding import event_parts, plain_event
from logos_gateway.apps.journal import BATCH_BYTES, JournalReader
from logos_gateway.apps.routes import (
    read_subscription,
    reader_label,
    show_pending,
    show_send,
    show_status,
    subscribe_from,
    topics_in,
)
from logos_gateway.apps.sending import request_id_of, send_from
from logos_gateway.apps.window import JournalPosition, WindowEntry
from logos_gateway.json_values import BadBody, decode_json, encode_json
from logos_gateway.problems import ProblemError, problem_of
from logos_gateway.state import gateway_of

router = APIRouter(prefix="/apps/v1", tags=["apps"])

JSON_PROTOCOL: Final = "logos.json.v1"
MSGPACK_PROTOCOL: Final = "logos.msgpack.v1"
DEFAULT_CREDIT: Final = 1 << 20
MAX_CREDIT: Final = 1 << 40
MAX_FRAME: Final = 24 << 20
"""Longest frame accepted from a client: the largest message in base64, plus its envelope."""


class _AppSocket:
    """One WebSocket."""

    def __init__(self, socket: WebSocket, reader: JournalReader, *, binary: bool, credit: int) -> None:
        self._socket = socket
        self._journal = reader.journal
        self._reader = reader
        self._binary = binary
        self._credit = credit
        self._granted = asyncio.Event()
        self._writing = asyncio.Lock()

    async def run(self) -> None:
        """Serve until either side disconnects."""
        events = asyncio.create_task(self._send_events())
        requests = asyncio.create_task(self._serve_requests())
        try:
            await asyncio.wait({events, requests}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (events, requests):
                task.cancel()
            results = await asyncio.gather(events, requests, return_exceptions=True)
        for result in results:
            ended = isinstance(result, asyncio.CancelledError | WebSocketDisconnect | OSError)
            if isinstance(result, BaseException) and not ended:
                raise result

    async def _send_events(self) -> None:
        # A batch ends where the credit does; the rest is read again from the window.
        while entries := await self._reader.next(min(BATCH_BYTES, max(0, self._credit))):
            while self._credit <= 0:
                self._granted.clear()
                await self._granted.wait()
            self._credit -= sum(entry.size for entry in entries)
            async with self._writing:
                await self._put_events(entries)
            self._reader.done(entries)
        await self._write({"type": "closed", "reason": self._reader.ended})
        await self._socket.close(1001)

    async def _serve_requests(self) -> None:
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            request_id: Any = None
            try:
                request = self._decode(message)
                request_id = request.get("id")
                answer = await self._handle(request)
            except ProblemError as error:
                answer = {"type": "error", "id": request_id, "problem": error.body()}
            except LogosError as error:
                answer = {"type": "error", "id": request_id, "problem": problem_of(error)[2]}
            else:
                answer = {**answer, "type": "reply", "id": request_id}
            await self._write(answer)

    def _decode(self, message: Any) -> dict[str, Any]:
        text, data = message.get("text"), message.get("bytes")
        try:
            if data is not None and self._binary:
                value = msgpack.unpackb(data, raw=False, strict_map_key=True)
            elif text is not None and not self._binary:
                value = decode_json(text.encode("utf-8", "surrogatepass"))
            else:
                raise BadBody("expected binary frames" if self._binary else "expected text frames")
        except (BadBody, ValueError, msgpack.UnpackException) as error:
            raise ProblemError(400, "bad_request", f"frame: {error}") from None
        if not isinstance(value, dict):
            raise ProblemError(400, "bad_request", "frame: expected an object")
        return value

    async def _handle(self, request: dict[str, Any]) -> dict[str, Any]:
        client = self._journal.client
        match request.get("op"):
            case "subscribe":
                return {"errors": await subscribe_from(self._journal, read_subscription(request))}
            case "unsubscribe":
                return {"errors": await client.unsubscribe(topics_in(request))}
            case "subscriptions":
                return {"topics": await client.subscriptions()}
            case "send":
                request_id = request_id_of(_text(request, "requestId"))
                await send_from(self._journal, request_id, request)
                return {"requestId": request_id.hex()}
            case "cancel":
                return {"cancelled": await client.cancel(request_id_of(_text(request, "requestId")))}
            case "ack":
                await self._journal.acknowledge(_position(request), self._reader)
                return {}
            case "credit":
                self._grant(request.get("bytes"))
                return {}
            case "find_send":
                found = await client.find_send(request_id_of(_text(request, "requestId")))
                return {"send": None if found is None else show_send(found)}
            case "pending":
                return show_pending(await client.pending())
            case "status":
                return show_status(await client.status())
            case "hello":
                return {
                    "server": client.server,
                    "instance": client.instance.hex(),
                    "network": client.network.to_body(),
                    "limits": client.limits.to_body(),
                    "status": show_status(client.last_status),
                }
            case "ping":
                return {}
            case str(op) if op in CHANNEL_OPERATIONS:
                return await serve_operation(client, request)
        raise ProblemError(400, "bad_request", f"op: {str(request.get('op'))[:40]!r} is not known")

    def _grant(self, amount: object) -> None:
        if not isinstance(amount, int) or isinstance(amount, bool) or not 0 < amount <= MAX_CREDIT:
            raise ProblemError(400, "bad_request", "bytes: a whole number above 0 is needed")
        self._credit = min(self._credit + amount, MAX_CREDIT)
        if self._credit > 0:
            self._granted.set()

    async def _write(self, value: dict[str, Any]) -> None:
        async with self._writing:
            await self._put(value)

    async def _put_events(self, entries: list[WindowEntry]) -> None:
        # One frame for all available events: under load, a frame each would cost more than the events.
        if self._binary:
            shown = [{"cost": one.size, "event": plain_event(one.event, binary=True)} for one in entries]
            await self._put({"type": "events", "events": shown})
        else:
            parts: list[bytes] = []
            for one in entries:
                parts += (*event_parts(one.event, f'{{"cost":{one.size},"event":'), b"},")
            parts[-1] = b"}"
            await self._socket.send_text(f'{{"type":"events","events":[{b"".join(parts).decode()}]}}')

    async def _put(self, value: dict[str, Any]) -> None:
        if self._binary:
            await self._socket.send_bytes(msgpack.packb(value))
        else:
            await self._socket.send_text(encode_json(value).decode())


def _text(request: dict[str, Any], key: str) -> str | None:
    value = request.get(key)
    if value is not None and not isinstance(value, str):
        raise ProblemError(400, "bad_request", f"{key}: text is needed")
    return value


def _position(request: dict[str, Any]) -> JournalPosition:
    try:
        return JournalPosition.parse(f"{request.get('streamId')}:{request.get('seq')}")
    except ValueError as error:
        raise ProblemError(400, "bad_request", f"streamId and seq: {error}") from None


class _Parameters(NamedTuple):
    auto: bool
    """Acknowledge what was written."""
    credit: int
    after: JournalPosition | None
    seen: SeenPosition | None
    label: str


def _parameters(socket: WebSocket) -> _Parameters:
    """Raises ValueError, `ProblemError`."""
    query = socket.query_params
    credit = int(query.get("credit", str(DEFAULT_CREDIT)))
    if not 0 <= credit <= MAX_CREDIT:
        raise ValueError("credit is out of range")
    after = query.get("after")
    position = JournalPosition.parse(after) if after else None
    instance, seen = query.get("instance"), None
    if instance is not None:
        if position is None or len(instance) != 32:
            raise ValueError("instance: 32 hex digits, with after")
        seen = SeenPosition(stream=position.stream_id, seq=position.seq, instance=bytes.fromhex(instance))
    return _Parameters(query.get("ack") == "auto", credit, position, seen, reader_label(query.get("reader")))


@router.websocket("/{name}/socket")
async def app_socket(socket: WebSocket) -> None:
    """Send, subscribe, acknowledge and receive events on one connection."""
    offered = socket.scope.get("subprotocols", [])
    binary = MSGPACK_PROTOCOL in offered and JSON_PROTOCOL not in offered
    chosen = MSGPACK_PROTOCOL if binary else JSON_PROTOCOL if JSON_PROTOCOL in offered else None
    try:
        wanted = _parameters(socket)
        takeover = socket.query_params.get("takeover") == "true"
        name = socket.path_params["name"]
        journal = await gateway_of(socket).journals.open(name, takeover=takeover, seen=wanted.seen)
    except (ValueError, ProblemError, LogosError) as error:
        await socket.accept(chosen)
        # Close codes of our own (RFC 6455 §7.4.2): 4400 for a bad request, 4409 for a name in use, 4503 else.
        code = 4400
        if isinstance(error, LogosError):
            code = 4000 + problem_of(error)[0]
        await socket.close(code, str(error)[:120])
        return
    await socket.accept(chosen)
    async with journal.reader(wanted.after, auto=wanted.auto, label=wanted.label) as reader:
        await _AppSocket(socket, reader, binary=binary, credit=wanted.credit).run()
