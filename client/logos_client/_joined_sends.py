"""Join the sends of one turn of the loop in one request, where the server has `send_many` (SPEC.md §4.2).

A request costs more than the small message in it, on both sides, and a server's tasks often send together.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, NamedTuple

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.mapi.methods import SEND
from ipc_schema.mapi.send_many import (
    MAX_SEND_BYTES,
    MAX_SENDS,
    SEND_MANY,
    SendManyReply,
    is_usual_send,
)
from logos_client._connection import RequestConnection
from logos_client._connection_types import fresh, seconds

#: Larger payloads go alone: they gain nothing, and would fill the request.
MAX_JOINED: Final = 64 << 10
#: So do longer content topics: the body of a request is bounded.
_LONG_TOPIC: Final = 1024


class _Send(NamedTuple):
    body: dict[str, Any]
    row: list[Any]
    payload: bytes
    done: asyncio.Future[None]


class JoinedSends:
    """Joins the sends of each turn of the loop."""

    def __init__(self, connection: RequestConnection) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._joined: list[_Send] = []
        self._bytes = 0
        self._timeout: Any = None
        self._tasks: set[asyncio.Task[None]] = set()

    def join(self, body: dict[str, Any], payload: bytes, timeout: Any) -> asyncio.Future[None] | None:
        """Send with the others of this turn. The result comes once it is accepted, and raises as
        `RequestConnection.request`. None: it has to go alone; a malformed one would fail the others."""
        content_topic = body["content_topic"]
        row = [body["request_id"], content_topic, body["meta"], body["ephemeral"], body.get("timestamp", 0)]
        if len(payload) > MAX_JOINED or len(content_topic) > _LONG_TOPIC or not is_usual_send(row):
            return None
        seconds(timeout)  # raises for a wrong one: a slot that is reserved must be used
        if not self._connection.reserve():
            return None  # a joined one that had to wait would be sent even if its caller has given up
        if not self._joined:
            self._loop.call_soon(self._flush)
        elif (
            timeout != self._timeout
            or len(self._joined) == MAX_SENDS
            or self._bytes + len(payload) > MAX_SEND_BYTES
        ):
            self._flush()
            self._loop.call_soon(self._flush)
        self._timeout = timeout
        self._bytes += len(payload)
        done: asyncio.Future[None] = self._loop.create_future()
        self._joined.append(_Send(body, row, payload, done))
        return done

    def _flush(self) -> None:
        joined, self._joined, self._bytes = self._joined, [], 0
        if joined:
            task = self._loop.create_task(self._request(joined, self._timeout))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _request(self, joined: list[_Send], timeout: Any) -> None:
        try:
            if len(joined) == 1:
                send = joined[0]
                await self._connection.request(
                    SEND, send.body, [send.payload], timeout=timeout, repeat=True, reserved=True
                )
                _end(send, None)
            else:
                await self._request_many(joined, timeout)
        except Exception as error:  # whatever it is, it belongs to those who wait
            for send in joined:
                _end(send, error)

    async def _request_many(self, joined: list[_Send], timeout: Any) -> None:
        reply = await self._connection.request(
            SEND_MANY,
            {"sends": [send.row for send in joined]},  # as `SendManyRequest.to_body`
            [send.payload for send in joined],
            timeout=timeout,
            weight=len(joined),
            repeat=True,
            reserved=True,
        )
        results = SendManyReply.from_body(reply.body).results
        if len(results) != len(joined):
            what = f"{SEND_MANY}: {len(results)} results for {len(joined)} sends"
            raise IpcError(ErrorCode.BAD_REQUEST, what)
        for send, (code, text, retry_after, _) in zip(joined, results, strict=True):
            if not code:
                _end(send, None)
                continue
            found: dict[str, object] = {"code": code, "message": text}
            if retry_after:
                found["retry_after_ms"] = retry_after
            _end(send, IpcError.from_body(found))


def _end(send: _Send, error: Exception | None) -> None:
    if send.done.done():
        return
    if error is None:
        send.done.set_result(None)
    else:
        send.done.set_exception(fresh(error) if isinstance(error, IpcError) else error)
