"""`send_many`: several sends of one app, each with an outcome of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from ipc_schema.errors import IpcError
from ipc_schema.mapi.methods import SendRequest
from ipc_schema.mapi.send_many import SendManyRequest
from ipc_schema.server import Answer, Call, server_fault
from mapi_proc.ipc.router import LaterAnswer

Send = Callable[[SendRequest, bytes], Awaitable[bool]]
"""Accepts one send; the result is whether it is a repeat. Raises `IpcError`, here or with the result."""

_ACCEPTED = ("", "", 0, False)


def begin_sends(call: Call, send: Send) -> LaterAnswer:
    """Begin all sends of a request, in order; what is new of them goes to the disk together.

    Raises `IpcError` if the request is malformed in any of them; nothing is sent then.
    """
    request = call.read(SendManyRequest)
    request.check(call.blobs)
    many = _Many(call, len(request.sends))
    for number, (row, payload) in enumerate(zip(request.sends, call.blobs, strict=True)):
        request_id, content_topic, meta, ephemeral, timestamp = row
        try:
            accepted = send(
                SendRequest(
                    request_id=request_id,
                    content_topic=content_topic,
                    meta=meta,
                    ephemeral=ephemeral,
                    timestamp=timestamp or None,
                ),
                payload,
            )
        except Exception as error:  # an outcome like the others', in its own row
            many.refuse(number, error)
        else:
            many.wait(number, accepted)
    return LaterAnswer(many.done, many.answer)


class _Many:
    """The outcomes of one request. `done` when there are all."""

    def __init__(self, call: Call, count: int) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._call = call
        self._results: list[tuple[str, str, int, bool]] = [_ACCEPTED] * count
        self._left = count
        if not count:
            self.done.set_result(None)

    def wait(self, number: int, accepted: Awaitable[bool]) -> None:
        asyncio.ensure_future(accepted).add_done_callback(partial(self._ended, number))

    def refuse(self, number: int, error: Exception) -> None:
        if not isinstance(error, IpcError):
            error = server_fault(error, self._call.request.method, "apps")
        self._call.counters.errors[str(error.code)] += 1
        text = str(error.to_body()["message"])
        self._set(number, (str(error.code), text, error.retry_after_ms or 0, False))

    def answer(self, _done: None) -> Answer:
        return {"results": self._results}, ()  # as `SendManyReply.to_body`

    def _ended(self, number: int, accepted: asyncio.Future[bool]) -> None:
        error = None if accepted.cancelled() else accepted.exception()
        if isinstance(error, Exception):
            self.refuse(number, error)
        elif error is None and not accepted.cancelled():
            self._set(number, ("", "", 0, True) if accepted.result() else _ACCEPTED)
        # Cancelled at shutdown: the connection ends, and the app repeats what it has no answer to.

    def _set(self, number: int, result: tuple[str, str, int, bool]) -> None:
        self._results[number] = result
        self._left -= 1
        if not self._left and not self.done.done():
            self.done.set_result(None)
