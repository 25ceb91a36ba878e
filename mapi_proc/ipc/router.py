"""A ROUTER of the contract on asyncio: requests in, replies out, garbage answered, nobody held up (SPEC.md,
2).

What a request means is its handler's business. A handler returns a reply (or nothing), or raises IpcError,
or returns an awaitable for work that takes time: then at most `in_flight` of one connection run at once,
each inside its budget. Everything else a handler raises is a fault of ours: logged with a reference,
answered `internal`.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

import zmq

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.frames import NO_REPLY, FrameError, Request, decode_request, encode_error, encode_reply
from logos_client._sockets import DrainSocket, PeerCredentials

__all__ = ["DEFAULT_BUDGET_MS", "Answer", "Caller", "Handler", "RouterServer"]

log = logging.getLogger(__name__)

DEFAULT_BUDGET_MS: Final = 10_000


class Answer(NamedTuple):
    """The body and blobs of a reply."""

    body: Mapping[str, object] = {}
    blobs: Sequence[bytes] = ()


class Caller(NamedTuple):
    """Who sent a request: the connection's identity on this ROUTER, and the process behind it (ipc only)."""

    identity: bytes
    credentials: PeerCredentials | None


Result: TypeAlias = Answer | None
Handler: TypeAlias = Callable[[Caller, Request], Result | Awaitable[Result]]


@dataclass(slots=True)
class RouterCounters:
    """`bad`: messages that could not be understood; `unsent`: replies that the peer did not take."""

    requests: int = 0
    bad: int = 0
    refused_uid: int = 0
    busy: int = 0
    late: int = 0
    faults: int = 0
    unsent: int = 0
    in_flight: dict[bytes, int] = field(default_factory=dict)

    def to_body(self) -> dict[str, int]:
        """For control's `health`; of `in_flight` the sum."""
        return {
            "requests": self.requests,
            "bad": self.bad,
            "refused_uid": self.refused_uid,
            "busy": self.busy,
            "late": self.late,
            "faults": self.faults,
            "unsent": self.unsent,
            "in_flight": sum(self.in_flight.values()),
        }


class RouterServer:
    """Owns one bound ROUTER socket. Must be created on a running loop."""

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        instance: bytes,
        handler: Handler,
        *,
        allowed_uids: frozenset[int] | None = None,
        in_flight: int = 256,
        on_gone: Callable[[bytes], None] | None = None,
        on_writable: Callable[[bytes], None] | None = None,
    ) -> None:
        """`allowed_uids` None: anyone that reaches the socket. `on_gone(identity)`: that connection is no
        more; `on_writable(identity)`: it takes messages again after `send` was refused.
        """
        self.counters = RouterCounters()
        self._instance = instance
        self._handler = handler
        self._allowed = allowed_uids
        self._limit = in_flight
        self._tasks: set[asyncio.Task[None]] = set()
        self._socket = DrainSocket(socket, self._receive, on_unroutable=on_gone, on_writable=on_writable)

    @property
    def socket(self) -> DrainSocket:
        return self._socket

    def send(self, frames: Sequence[bytes]) -> bool:
        """Send a message of our own to a connection (its identity first). False: it is gone or
        does not read.
        """
        return self._socket.send(frames)

    def _receive(self, frames: list[bytes]) -> None:
        identity = frames[0]
        try:
            request, delimited = decode_request(frames[1:])
        except FrameError as error:
            self.counters.bad += 1
            self._reply_error(identity, error.correlation_id, error, error.delimited)
            return
        self.counters.requests += 1
        caller = Caller(identity, self._socket.peer_credentials())
        try:
            if self._allowed is not None and not self._may(caller):
                self.counters.refused_uid += 1
                raise IpcError(ErrorCode.UNAUTHORISED, "this user may not use this socket")
            result = self._handler(caller, request)
        except Exception as error:
            self._failed(identity, request, error, delimited)
            return
        if result is None or isinstance(result, Answer):
            self._answer(identity, request, result, delimited)
            return
        under_way = self.counters.in_flight.get(identity, 0)
        if under_way >= self._limit:
            self.counters.busy += 1
            close = getattr(result, "close", None)
            if close is not None:
                close()
            busy = IpcError(ErrorCode.BUSY, f"{under_way} requests are under way", retry_after_ms=50)
            self._reply_error(identity, request.correlation_id, busy, delimited)
            return
        self.counters.in_flight[identity] = under_way + 1
        task = asyncio.get_running_loop().create_task(self._work(identity, request, result, delimited))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _may(self, caller: Caller) -> bool:
        # Without credentials it is tcp on loopback, which was configured on purpose.
        assert self._allowed is not None
        return caller.credentials is None or caller.credentials.uid in self._allowed

    async def _work(
        self, identity: bytes, request: Request, work: Awaitable[Result], delimited: bool
    ) -> None:
        try:
            budget = (request.budget_ms or DEFAULT_BUDGET_MS) / 1000
            try:
                async with asyncio.timeout(budget):
                    result = await work
            except TimeoutError:
                self.counters.late += 1
                late = IpcError(
                    ErrorCode.DEADLINE_EXCEEDED, f"{request.method}: not done within {budget:g} s"
                )
                self._reply_error(identity, request.correlation_id, late, delimited)
                return
            except Exception as error:
                self._failed(identity, request, error, delimited)
                return
            self._answer(identity, request, result, delimited)
        finally:
            left = self.counters.in_flight[identity] - 1
            if left:
                self.counters.in_flight[identity] = left
            else:
                del self.counters.in_flight[identity]

    def _answer(self, identity: bytes, request: Request, result: Result, delimited: bool) -> None:
        if request.flags & NO_REPLY:
            return
        body, blobs = result if result is not None else Answer()
        reply = encode_reply(request.correlation_id, self._instance, body, blobs, delimited=delimited)
        if not self._socket.send([identity, *reply]):
            self.counters.unsent += 1

    def _failed(self, identity: bytes, request: Request, error: Exception, delimited: bool) -> None:
        if not isinstance(error, IpcError):
            self.counters.faults += 1
            reference = os.urandom(6).hex()
            log.error("fault %s in %s", reference, request.method, exc_info=error)
            error = IpcError(
                ErrorCode.INTERNAL, "a fault of the server; see its log", detail={"reference": reference}
            )
        self._reply_error(identity, request.correlation_id, error, delimited)

    def _reply_error(self, identity: bytes, correlation_id: bytes, error: IpcError, delimited: bool) -> None:
        reply = encode_error(correlation_id, self._instance, error, delimited=delimited)
        if not self._socket.send([identity, *reply]):
            self.counters.unsent += 1

    async def close(self) -> None:
        """Give up what is under way and close the socket."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._socket.close()
