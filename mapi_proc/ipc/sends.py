"""`send_many`: several sends of one app, each with an outcome of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.mapi.methods import SendRequest
from ipc_schema.mapi.send_many import SendManyRequest
from ipc_schema.server import Answer, Call
from mapi_proc.ipc.router import LaterAnswer

Send = Callable[[SendRequest, bytes], Awaitable[bool]]
"""Accepts one send; the result is whether it is a repeat. Raises `IpcError`, here or with the result."""

_ACCEPTED: Final = ("", "", 0, False)
_REPEATED: Final = ("", "", 0, True)


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
    many.begun()
    return LaterAnswer(many.done, many.answer)


class _Many:
    """The outcomes of one request. `done` when there are all."""

    def __init__(self, call: Call, count: int) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._call = call
        self._results = [_ACCEPTED] * count
        self._waiting: list[tuple[int, asyncio.Future[bool]]] = []

    def wait(self, number: int, accepted: Awaitable[bool]) -> None:
        """Take the outcome of a send that is on its way."""
        self._waiting.append((number, asyncio.ensure_future(accepted)))

    def refuse(self, number: int, error: Exception) -> None:
        """Take the error of a send."""
        found, text = self._call.row_error(error, "apps")
        self._results[number] = (str(found.code), text, found.retry_after_ms or 0, False)

    def begun(self, _ended: asyncio.Future[bool] | None = None) -> None:
        """All have begun: be done with the last of them."""
        # What goes to the disk together ends together, in order: to be told by the last one is mostly
        # enough, and costs less than by each.
        for _, accepted in reversed(self._waiting):
            if not accepted.done():
                accepted.add_done_callback(self.begun)
                return
        for number, accepted in self._waiting:
            self._end(number, accepted)
        if not self.done.done():
            self.done.set_result(None)

    def answer(self, _done: None) -> Answer:
        """Return the reply."""
        return {"results": self._results}, ()  # as `SendManyReply.to_body`

    def _end(self, number: int, accepted: asyncio.Future[bool]) -> None:
        if accepted.cancelled():  # at shutdown: the app repeats what it has no answer to
            self.refuse(number, IpcError(ErrorCode.NOT_READY, "shutting down"))
        elif isinstance(error := accepted.exception(), Exception):
            self.refuse(number, error)
        elif accepted.result():
            self._results[number] = _REPEATED
