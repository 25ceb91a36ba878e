"""From frames to methods and back: checks, limits, deadlines and the mapping of errors, for every ROUTER.

Methods come in three kinds. A plain function is answered at once, inside the socket's own task. A coroutine
function runs in a task of its own, under the request's budget. An ordered one runs after the consumer's
earlier ordered requests, so that what an application sends in one order goes out in that order.
"""

from __future__ import annotations

import inspect
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import trio

from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.frames import FrameError, Request, decode_request, encode_error, encode_reply
from ipc_schema.hello import hello_first
from kernel_proc.ipc.consumers import Consumer, Consumers
from kernel_proc.ipc.sockets import Peer, peer_uid
from kernel_proc.metrics import Counter, Registry
from logos_process.logs import fields

__all__ = ["Answer", "Call", "Dispatcher", "Handler", "ReplySocket", "Route"]

log = logging.getLogger(__name__)

IN_FLIGHT_TOTAL: Final = 4096
"""Requests of all consumers at once: names are free, tasks are not."""

ANSWER_MARGIN: Final = 0.2
"""Seconds of a request's budget that are kept for its answer."""

Answer = tuple[Mapping[str, object], Sequence[bytes]]
"""Body and blobs of a reply."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request as a method sees it. `consumer` is None only where no hello is needed."""

    request: Request
    identity: bytes
    consumer: Consumer | None
    deadline: float
    """trio.current_time() when the caller stops waiting."""

    @property
    def answer_by(self) -> float:
        """When work that asks others must be over, so that the answer still comes in time."""
        return self.deadline - ANSWER_MARGIN

    @property
    def consumer_name(self) -> str:
        """Name of the consumer; only for methods that need a hello."""
        assert self.consumer is not None
        return self.consumer.name

    @property
    def body(self) -> dict[str, object]:
        """The request's body."""
        return self.request.body

    @property
    def blobs(self) -> Sequence[bytes]:
        """The request's blobs."""
        return self.request.blobs


Handler = Callable[[Call], Answer] | Callable[[Call], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Route:
    """How a method is run. `ordered` only means something for coroutine functions."""

    handler: Handler
    ordered: bool = False
    needs_hello: bool = True


class ReplySocket(Protocol):
    """The ROUTER as the dispatcher uses it; an OwnedSocket is one."""

    dropped_gone: int

    def send(self, frames: Sequence[bytes]) -> bool:
        """Send at once; False if the client has left or does not read."""
        ...


class _Failure:
    """Counters of failed requests by code, made once."""

    def __init__(self, registry: Registry, socket: str) -> None:
        self._by_code: dict[str, Counter] = {
            str(code): registry.counter("ipc_errors", socket=socket, code=str(code)) for code in ErrorCode
        }

    def count(self, error: IpcError) -> None:
        self._by_code[str(error.code)].add()


class Dispatcher:
    """Serves one ROUTER. `run` must be running; `on_message` is the socket's handler."""

    def __init__(
        self,
        name: str,
        instance: bytes,
        methods: Mapping[str, Route],
        registry: Registry,
        *,
        consumers: Consumers | None = None,
        allowed_uids: frozenset[int] | None = None,
        in_flight: int = 256,
    ) -> None:
        self._name = name
        self._instance = instance
        self._methods = dict(methods)
        self._consumers = consumers
        self._allowed_uids = allowed_uids
        self._per_consumer = in_flight
        self._nursery: trio.Nursery | None = None
        self._socket: ReplySocket | None = None
        self._in_flight = 0
        self._failures = _Failure(registry, name)
        self._requests = {
            method: registry.counter("ipc_requests", socket=name, method=method)
            for method in (*self._methods, "unknown")
        }

    def allow_all(self) -> None:
        """Ask nobody for a uid: the socket is none that knows it."""
        self._allowed_uids = None

    def attach(self, socket: ReplySocket) -> None:
        """Say where replies go."""
        self._socket = socket

    async def run(self, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Hold the tasks of requests under way. Cancel to stop; what is under way is then not answered."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    # --- one message ---

    def on_message(self, peer: Peer, frames: list[bytes]) -> None:
        """Handle one message of the ROUTER: identity and a request."""
        identity = frames[0]
        try:
            request, delimited = decode_request(frames[1:])
        except FrameError as error:
            self._requests["unknown"].add()
            self._fail(identity, error.correlation_id, error, delimited=error.delimited)
            return
        counter = self._requests.get(request.method)
        (counter or self._requests["unknown"]).add()
        try:
            self._admit(peer, identity, request, delimited=delimited)
        except IpcError as error:
            self._fail(identity, request.correlation_id, error, delimited=delimited)

    def _admit(self, peer: Peer, identity: bytes, request: Request, *, delimited: bool) -> None:
        if self._allowed_uids is not None:
            uid = peer_uid(peer)
            if uid not in self._allowed_uids:
                raise IpcError(ErrorCode.UNAUTHORISED, f"uid {uid} may not use this socket")
        consumer = self._consumers.of(identity) if self._consumers is not None else None
        route = self._methods.get(request.method)
        if self._consumers is not None and consumer is None and (route is None or route.needs_hello):
            raise hello_first()
        if route is None:
            raise IpcError(ErrorCode.UNKNOWN_METHOD, f"there is no method {request.method!r}")
        deadline = trio.current_time() + request.effective_budget_ms / 1000
        call = Call(request, identity, consumer, deadline)
        if not inspect.iscoroutinefunction(route.handler):
            self._run_now(call, route, delimited=delimited)
            return
        if self._nursery is None:
            raise IpcError(ErrorCode.NOT_READY, "the node is starting")
        if consumer is not None and consumer.in_flight >= self._per_consumer:
            raise IpcError(ErrorCode.BUSY, f"{self._per_consumer} requests are under way", retry_after_ms=50)
        if self._in_flight >= IN_FLIGHT_TOTAL:
            raise IpcError(ErrorCode.BUSY, "too many requests are under way", retry_after_ms=200)
        self._in_flight += 1
        if consumer is None:
            self._nursery.start_soon(self._run_task, call, route, delimited, name=f"ipc {request.method}")
            return
        consumer.in_flight += 1
        if not route.ordered:
            self._nursery.start_soon(self._run_task, call, route, delimited, name=f"ipc {request.method}")
            return
        consumer.ordered.append((call, route, delimited))
        if len(consumer.ordered) == 1:
            self._nursery.start_soon(self._run_ordered, consumer, name="ipc ordered")

    def _run_now(self, call: Call, route: Route, *, delimited: bool) -> None:
        try:
            answer = route.handler(call)
            assert isinstance(answer, tuple)
            body, blobs = answer
        except Exception as error:  # mapped to one answer, and logged unless it is an error of the contract
            self._failed(call, error, delimited=delimited)
            return
        self._answer(call, body, blobs, delimited=delimited)

    async def _run_ordered(self, consumer: Consumer) -> None:
        queue = consumer.ordered
        while queue:
            call, route, delimited = queue[0]
            await self._run_task(call, route, delimited)
            queue.popleft()

    async def _run_task(self, call: Call, route: Route, delimited: bool) -> None:
        try:
            if trio.current_time() >= call.deadline:
                raise IpcError(ErrorCode.DEADLINE_EXCEEDED, "the budget ran out before the work started")
            with trio.move_on_at(call.deadline) as scope:
                running = route.handler(call)
                assert not isinstance(running, tuple)
                body, blobs = await running
                self._answer(call, body, blobs, delimited=delimited)
            if scope.cancelled_caught:
                raise IpcError(
                    ErrorCode.DEADLINE_EXCEEDED, "the budget ran out; the work was abandoned half-way"
                )
        except Exception as error:  # as above
            self._failed(call, error, delimited=delimited)
        finally:
            self._in_flight -= 1
            if call.consumer is not None:
                call.consumer.in_flight -= 1

    # --- answers ---

    def _answer(
        self, call: Call, body: Mapping[str, object], blobs: Sequence[bytes], *, delimited: bool
    ) -> None:
        request = call.request
        if request.no_reply:
            return
        try:
            frames = encode_reply(request.correlation_id, self._instance, body, blobs, delimited=delimited)
        except IpcError as error:
            self._failed(call, error, delimited=delimited)
            return
        self._send(call.identity, frames)

    def _failed(self, call: Call, error: Exception, *, delimited: bool) -> None:
        if not isinstance(error, IpcError):
            reference = secrets.token_hex(4)
            log.error(
                "request failed",
                exc_info=error,
                extra=fields(method=call.request.method, reference=reference, socket=self._name),
            )
            error = IpcError(
                ErrorCode.INTERNAL,
                f"a fault of the server, in its log under {reference}",
                detail={"reference": reference},
            )
        self._fail(call.identity, call.request.correlation_id, error, delimited=delimited)

    def _fail(self, identity: bytes, correlation_id: bytes, error: IpcError, *, delimited: bool) -> None:
        self._failures.count(error)
        self._send(identity, encode_error(correlation_id, self._instance, error, delimited=delimited))

    def _send(self, identity: bytes, frames: list[bytes]) -> None:
        socket = self._socket
        assert socket is not None
        gone = socket.dropped_gone
        if (
            not socket.send([identity, *frames])
            and socket.dropped_gone != gone
            and self._consumers is not None
        ):
            self._consumers.forget_connection(identity)
