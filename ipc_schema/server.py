"""Serve requests without doing I/O: the rules that every ROUTER of the contract shares (SPEC.md, §2).

Admission by uid, hello first, limits on requests in flight, time budgets, and exactly one answer whatever
goes wrong, unencodable replies included. Kernel (trio) and Messaging API (asyncio) put a shell around it that
moves frames and runs tasks.

A method that is a plain function is answered at once. A coroutine function runs in a task of the shell, under
the request's budget. A plain function that `may_wait` is called at once, and returns an awaitable where its
answer has to wait: most requests of the hot paths need no task. An ordered one runs after the earlier ordered
requests of its client, so that messages go out in the order in which the program sent them.
"""

from __future__ import annotations

import inspect
import logging
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar

from ipc_schema.body import Body
from ipc_schema.errors import ErrorCode, IpcError
from ipc_schema.frames import FrameError, Request, decode_request, encode_error, encode_reply
from ipc_schema.hello import hello_first
from ipc_schema.server_client import Client

__all__ = [
    "Answer",
    "Call",
    "Caller",
    "Handler",
    "RequestServer",
    "Route",
    "ServerCounters",
    "ServerShell",
    "answer",
    "server_fault",
]

log = logging.getLogger(__name__)

B = TypeVar("B", bound=Body)

IN_FLIGHT_TOTAL: Final = 4096
"""Most requests in flight over all clients: client names cost nothing, tasks do."""

ANSWER_MARGIN: Final = 0.2
"""Seconds of a request's budget reserved for its answer."""

Answer = tuple[Mapping[str, object], Sequence[bytes]]
"""Body and blobs of a reply."""


def answer(body: Mapping[str, object] | None = None, blobs: Sequence[bytes] = ()) -> Answer:
    """Build a reply, empty by default."""
    return body or {}, blobs


def server_fault(fault: Exception, method: str, socket: str) -> IpcError:
    """Log a fault of a method and return the error that answers it (`internal`), which names the entry."""
    reference = os.urandom(4).hex()
    values = {"method": method, "reference": reference, "socket": socket}
    log.error("request failed", exc_info=fault, extra={"named_values": values})
    return IpcError(
        ErrorCode.INTERNAL,
        f"a fault of the server, in its log under {reference}",
        detail={"reference": reference},
    )


class Caller:
    """The connection that a request came on: its identity, and where known the peer's uid and the socket's
    descriptor."""

    __slots__ = ("descriptor", "identity", "uid")

    def __init__(self, identity: bytes, uid: int | None = None, descriptor: int = -1) -> None:
        self.identity = identity
        self.uid = uid
        self.descriptor = descriptor


class Call:
    """One request as a method sees it. `client` is None only if the socket needs no hello."""

    __slots__ = ("caller", "client", "counters", "deadline", "delimited", "request", "route")

    def __init__(
        self,
        request: Request,
        caller: Caller,
        client: Client | None,
        deadline: float,
        route: Route,
        delimited: bool = False,
        counters: ServerCounters | None = None,
    ) -> None:
        """`deadline`: when the caller stops waiting, by the server's clock. `delimited`: as
        `decode_request` found it. `counters`: the server's."""
        self.request = request
        self.caller = caller
        self.client = client
        self.deadline = deadline
        self.route = route
        self.delimited = delimited
        self.counters = ServerCounters() if counters is None else counters

    @property
    def answer_by(self) -> float:
        """When work that waits on others must be over, so that the answer is still in time."""
        return self.deadline - ANSWER_MARGIN

    @property
    def weight(self) -> int:
        """Return how many requests it counts as: one for each message of a method that takes many."""
        return max(1, len(self.request.blobs)) if self.route.per_blob else 1

    @property
    def client_name(self) -> str:
        """Name of the client; only for methods that need a hello."""
        assert self.client is not None
        return self.client.name

    def read(self, kind: type[B]) -> B:
        """Return the request's body, checked. Raises `IpcError` (`bad_request`) that names the method."""
        return kind.from_body(self.request.body, self.request.method)

    @property
    def blobs(self) -> Sequence[bytes]:
        """The request's blobs."""
        return self.request.blobs

    def row_error(self, error: Exception, socket: str) -> tuple[IpcError, str]:
        """Return the contract's error for one message of a request that takes many, counted, and its text as
        it goes out. What is not of the contract is logged, as a fault of the method on `socket`."""
        if not isinstance(error, IpcError):
            error = server_fault(error, self.request.method, socket)
        self.counters.errors[str(error.code)] += 1
        return error, str(error.to_body()["message"])


Handler = Callable[[Call], Answer] | Callable[[Call], Awaitable[Answer]] | Callable[[Call], "Begun"]
Begun = Answer | Awaitable[Answer]
"""What a handler returns: the answer, or one that comes."""


class Route:
    """How a method runs. `ordered` only applies to coroutine functions and to those that `may_wait`.
    `per_blob`: each blob counts as a request under way. `takes_time`: it is a coroutine function, which
    `inspect` does not recognise once it is compiled."""

    __slots__ = ("handler", "may_wait", "needs_hello", "ordered", "per_blob", "takes_time")

    def __init__(
        self,
        handler: Handler,
        *,
        ordered: bool = False,
        needs_hello: bool = True,
        may_wait: bool = False,
        per_blob: bool = False,
        takes_time: bool | None = None,
    ) -> None:
        """Raises `ValueError` for a compiled handler without `takes_time`."""
        if takes_time is None:
            if not (inspect.isfunction(handler) or inspect.ismethod(handler)):
                raise ValueError(f"{handler!r} is compiled: say whether it takes time")
            takes_time = inspect.iscoroutinefunction(handler)
        self.handler: Callable[[Call], Any] = handler
        self.ordered = ordered
        self.needs_hello = needs_hello
        self.may_wait = may_wait
        self.per_blob = per_blob
        self.takes_time = takes_time


class ServerShell(Protocol):
    """What the core needs from its event loop and socket."""

    def now(self) -> float:
        """Return seconds of the clock that deadlines are given in."""

    def send(self, frames: Sequence[bytes], /) -> bool:
        """Send a message, identity first. Return False if it was dropped (and counted by the socket)."""

    def spawn(self, call: Call, begun: Awaitable[Answer] | None, /) -> None:
        """Run the call in a task.

        The task calls `RequestServer.start`, then under the deadline awaits `begun`, or `work` if it is None,
        then calls `done`, `failed` or `expired`, and `finished` in any case.
        """


@dataclass(slots=True)
class ServerCounters:
    """Counters of a server.

    `errors`: of requests, and of each message of a request that takes many; `malformed`: undecodable
    messages; `unsent`: replies that the client did not take.
    """

    requests: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    malformed: int = 0
    unsent: int = 0
    in_flight: int = 0

    def to_body(self) -> dict[str, int]:
        """Return them for control's `health`."""
        return {
            "requests": self.requests.total() - self.malformed,
            "bad": self.malformed,
            "refused_uid": self.errors["unauthorised"],
            "busy": self.errors["busy"],
            "late": self.errors["deadline_exceeded"],
            "faults": self.errors["internal"],
            "unsent": self.unsent,
            "in_flight": self.in_flight,
        }


class RequestServer:
    """Serves one ROUTER. `receive` takes each message; the shell runs the calls that take time.

    `who(identity)` returns the client that said hello on a connection; None: this socket needs no hello.
    `allowed_uids` None: any peer that reaches the socket.
    """

    def __init__(
        self,
        name: str,
        instance: bytes,
        routes: Mapping[str, Route],
        shell: ServerShell,
        *,
        who: Callable[[bytes], Client | None] | None = None,
        allowed_uids: frozenset[int] | None = None,
        in_flight: int = 256,
    ) -> None:
        self.name = name
        self.counters = ServerCounters()
        self._instance = instance
        self._routes = dict(routes)
        self._shell = shell
        self._who = who
        self._allowed = allowed_uids
        self._per_client = in_flight
        self._strangers: Counter[bytes] = Counter()
        for method in (*routes, "unknown"):
            self.counters.requests[method] = 0
        for code in ErrorCode:
            self.counters.errors[str(code)] = 0

    def allow_all(self) -> None:
        """Skip the uid check: the transport has no peer credentials."""
        self._allowed = None

    # --- input -------

    def receive(self, frames: Sequence[bytes], uid: int | None, descriptor: int = -1) -> None:
        """Handle one message: identity and a request. `uid` is None on tcp, which has no peer credentials."""
        caller = Caller(frames[0], uid, descriptor)
        try:
            request, delimited = decode_request(frames[1:])
        except FrameError as malformed:
            self.counters.malformed += 1
            self.counters.requests["unknown"] += 1
            self._send_error(caller, malformed.correlation_id, malformed, delimited=malformed.delimited)
            return
        route = self._routes.get(request.method)
        self.counters.requests[request.method if route is not None else "unknown"] += 1
        try:
            self._admit(caller, request, route, delimited=delimited)
        except IpcError as error:
            self._send_error(caller, request.correlation_id, error, delimited=delimited)

    def _admit(self, caller: Caller, request: Request, route: Route | None, *, delimited: bool) -> None:
        if self._allowed is not None and caller.uid not in self._allowed:
            raise IpcError(
                ErrorCode.UNAUTHORISED, f"uid {caller.uid} may not use this socket (see allowed-uid)"
            )
        client = self._who(caller.identity) if self._who is not None else None
        if self._who is not None and client is None and (route is None or route.needs_hello):
            raise hello_first()
        if route is None:
            raise IpcError(ErrorCode.UNKNOWN_METHOD, f"there is no method {request.method!r}")
        deadline = self._shell.now() + request.effective_budget_ms / 1000
        call = Call(request, caller, client, deadline, route, delimited, self.counters)
        if route.takes_time or route.may_wait:
            self._check_room(call)  # before anything is begun that could not be finished
        if route.takes_time or (route.may_wait and route.ordered and client is not None and client.ordered):
            self._queue(call)
            return
        try:
            result: Begun = route.handler(call)
        except Exception as error:  # mapped to one answer, and logged unless it is an error of the contract
            self.failed(call, error)
            return
        if isinstance(result, tuple):
            self.done(call, result)
        else:
            self._queue(call, result)

    def _check_room(self, call: Call) -> None:
        client = call.client
        if client is None:
            under_way = self._strangers[call.caller.identity]
        else:
            under_way = client.unanswered if call.request.no_reply else client.in_flight
        # One that alone has more messages than the limit is let in: otherwise it never would be.
        if under_way and under_way + call.weight > self._per_client:
            raise IpcError(ErrorCode.BUSY, f"{under_way} requests are under way", retry_after_ms=50)
        if self.counters.in_flight >= IN_FLIGHT_TOTAL:
            raise IpcError(ErrorCode.BUSY, "too many requests are under way", retry_after_ms=200)

    def _queue(self, call: Call, begun: Awaitable[Answer] | None = None) -> None:
        client, weight = call.client, call.weight
        self.counters.in_flight += weight
        if client is None:
            self._strangers[call.caller.identity] += weight
        else:
            if call.request.no_reply:
                client.unanswered += weight
            else:
                client.in_flight += weight
            if call.route.ordered:
                client.ordered.append(call)
                if len(client.ordered) > 1:
                    return  # `finished` of its predecessor starts it
        self._shell.spawn(call, begun)

    # --- a call in its task ---

    @staticmethod
    async def work(call: Call) -> Answer:
        """Call the handler, and wait for its answer where it has to."""
        result: Begun = call.route.handler(call)
        return result if isinstance(result, tuple) else await result

    def start(self, call: Call) -> bool:
        """Return whether the work may begin. If its budget ran out in a queue, answer so here."""
        if self._shell.now() < call.deadline:
            return True
        self.failed(call, IpcError(ErrorCode.DEADLINE_EXCEEDED, "the budget ran out before the work started"))
        return False

    def done(self, call: Call, result: Answer) -> None:
        """Answer with the method's result."""
        request = call.request
        if request.no_reply:
            return
        try:
            body, blobs = result
            frames = encode_reply(
                request.correlation_id, self._instance, body, blobs, delimited=call.delimited
            )
        except Exception as error:  # too large, or an invalid result: the client still gets an answer
            self.failed(call, error)
            return
        self._send(call.caller, frames)

    def expired(self, call: Call) -> None:
        """Answer a call whose budget ran out while it worked; it was cancelled."""
        self.failed(
            call,
            IpcError(ErrorCode.DEADLINE_EXCEEDED, "the budget ran out; the work was abandoned half-way"),
        )

    def failed(self, call: Call, error: Exception) -> None:
        """Answer with an error: unchanged if it belongs to the contract, else `internal` and a log entry."""
        if not isinstance(error, IpcError):
            error = server_fault(error, call.request.method, self.name)
        self._send_error(call.caller, call.request.correlation_id, error, delimited=call.delimited)

    def finished(self, call: Call) -> None:
        """End the call's task."""
        client, weight = call.client, call.weight
        self.counters.in_flight -= weight
        if client is None:
            self._strangers[call.caller.identity] -= weight
            if self._strangers[call.caller.identity] <= 0:
                del self._strangers[call.caller.identity]
            return
        if call.request.no_reply:
            client.unanswered -= weight
        else:
            client.in_flight -= weight
        if call.route.ordered:
            client.ordered.popleft()
            if client.ordered:
                self._shell.spawn(client.ordered[0], None)

    # --- output ------

    def _send_error(self, caller: Caller, correlation_id: bytes, error: IpcError, *, delimited: bool) -> None:
        self.counters.errors[str(error.code)] += 1
        self._send(caller, encode_error(correlation_id, self._instance, error, delimited=delimited))

    def _send(self, caller: Caller, frames: list[bytes]) -> None:
        if not self._shell.send([caller.identity, *frames]):
            self.counters.unsent += 1
