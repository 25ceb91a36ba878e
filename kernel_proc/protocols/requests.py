"""One request and one response per stream, for both sides of store, lightpush, filter-subscribe and peer
exchange.

```
CallError               raised by `call`; `retriable`: try another peer, or the same one later
├── PeerUnreachable     not connected, does not speak the protocol, or the stream broke before we had asked
├── NoAnswer            no response in time, or the stream ended without one
├── BadAnswer           a response that is too long, undecodable, or does not match the request
└── RequestRefused      a response with an error status
IpcError
└── AllFailed           every peer that was tried failed; see `attempts`
```
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence, Set
from types import MappingProxyType
from typing import Final, NamedTuple, TypeVar

import trio

from ipc_schema.errors import ErrorCode, IpcError
from kernel_proc.metrics import Histogram, Sample
from kernel_proc.p2p.api import Host, NotConnected, P2pError, PeerIdText, ProtocolNotSupported, Stream
from kernel_proc.protocols.framing import MessageReader, StreamFrameError, encode_frame
from kernel_proc.protocols.pacing import TOO_MANY_REQUESTS
from kernel_proc.protocols.ratelimit import RateLimiter

log = logging.getLogger(__name__)

T = TypeVar("T")
Handler = Callable[[PeerIdText, bytes], Awaitable[bytes | None]]
"""Map a peer's request to our response (bodies without length prefix). None: reset the stream instead of
answering."""

DURATION_BOUNDS: Final = (0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0)


class ServiceLimits(NamedTuple):
    """Limits of one service. Sizes in bytes, durations in seconds."""

    max_request: int
    read_timeout: float = 10.0
    """From the first byte of a request to its last. Waiting for the first byte is unbounded: js-waku opens
    streams long before it uses them, and the host bounds their number."""
    answer_timeout: float = 30.0
    """For the handler."""
    write_timeout: float = 60.0
    """For a whole response; the host's own timeout applies if the peer reads nothing at all."""
    at_once: int = 32
    """Requests of all peers in progress; further ones get the rate-limit response."""
    at_once_per_peer: int = 16
    streams_per_peer: int = 32
    """Including idle ones. Above it, the host resets the oldest idle stream, or the new one."""


class RequestService:
    """Serve one protocol on a host.

    `rejected` is the response body for a request over a limit; it is sent before the request is read. A
    request with bad framing, or one that does not arrive in time, resets its stream. An exception in `handle`
    is a bug: the host logs and counts it, and the stream is reset.
    """

    def __init__(
        self,
        host: Host,
        protocol: str,
        handle: Handler,
        *,
        service: str,
        rejected: bytes,
        limits: ServiceLimits,
        limiter: RateLimiter | None = None,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self.protocol = protocol
        self.service = service
        """Service name in the metrics."""
        self._host = host
        self._handle = handle
        self._rejected = encode_frame(rejected)
        self._limits = limits
        self._limiter = limiter
        self._clock = clock
        self._active: dict[PeerIdText, int] = {}
        self._total = 0
        self.counters: Counter[str] = Counter()
        """Monotonic: served; rejected (rate limit); busy (too many at once); malformed (bad framing); stalled
        (read or write timeout); abandoned (handler timeout); unanswered; bytes_in; bytes_out."""
        self._seconds = Histogram(DURATION_BOUNDS, {"service": service})

    def mount(self) -> None:
        """Advertise and serve the protocol."""
        self._host.set_stream_handler(self.protocol, self._serve, max_per_peer=self._limits.streams_per_peer)

    @property
    def busy(self) -> Set[PeerIdText]:
        return self._active.keys()

    def samples(self) -> Iterable[Sample]:
        """Yield samples under nwaku's metric names."""
        service, counters = self.service, self.counters
        yield "service_requests", {"service": service, "state": "served"}, counters["served"]
        rejected = counters["rejected"] + counters["busy"]
        yield "service_requests", {"service": service, "state": "rejected"}, rejected
        for direction in ("in", "out"):
            labels = {"service": service, "direction": direction}
            yield "service_network_bytes", labels, counters[f"bytes_{direction}"]
        limit = self._limiter.limit if self._limiter is not None else None
        rate = limit.volume / limit.period if limit is not None else 0.0
        yield "service_requests_limit", {"service": service}, rate
        yield from self._seconds.samples("service_request_handling_duration_seconds")
        for kind in ("malformed", "stalled", "abandoned", "unanswered", "busy"):
            yield "service_errors", {"service": service, "type": kind}, counters[kind]

    # --- one stream ---

    async def _serve(self, stream: Stream) -> None:
        limits, counters, peer_id = self._limits, self.counters, stream.peer_id
        reader = MessageReader(stream, limits.max_request)
        if not await reader.started():
            return
        # As in nwaku, the limit applies before the request is read; clients accept the unknown request id of
        # a 429.
        if self._limiter is not None and not self._limiter.allow(peer_id, self._clock()):
            counters["rejected"] += 1
            await self._write(stream, self._rejected)
            return
        if self._total >= limits.at_once or self._active.get(peer_id, 0) >= limits.at_once_per_peer:
            counters["busy"] += 1
            await self._write(stream, self._rejected)
            return
        self._total += 1
        self._active[peer_id] = self._active.get(peer_id, 0) + 1
        try:
            await self._answer(stream, reader)
        finally:
            self._total -= 1
            self._active[peer_id] -= 1
            if not self._active[peer_id]:
                del self._active[peer_id]

    async def _answer(self, stream: Stream, reader: MessageReader) -> None:
        limits, counters, peer_id = self._limits, self.counters, stream.peer_id
        request: bytes | None = None
        try:
            with trio.move_on_after(limits.read_timeout) as scope:
                request = await reader.read()
        except StreamFrameError as error:
            counters["malformed"] += 1
            log.debug("malformed %s request from %s: %s", self.service, peer_id, error)
            await stream.reset()
            return
        if scope.cancelled_caught or request is None:
            counters["stalled"] += 1
            await stream.reset()
            return
        counters["bytes_in"] += len(request)
        started = self._clock()
        response: bytes | None = None
        with trio.move_on_after(limits.answer_timeout) as scope:
            response = await self._handle(peer_id, request)
        if scope.cancelled_caught:
            counters["abandoned"] += 1
            log.warning("%s request from %s timed out", self.service, peer_id)
        if response is None:
            counters["unanswered"] += 1
            await stream.reset()
            return
        counters["served"] += 1
        self._seconds.observe(self._clock() - started)
        await self._write(stream, encode_frame(response))

    async def _write(self, stream: Stream, frame: bytes) -> None:
        with trio.move_on_after(self._limits.write_timeout) as scope:
            await stream.write(frame)
            self.counters["bytes_out"] += len(frame)
        if scope.cancelled_caught:
            self.counters["stalled"] += 1
            await stream.reset()


# --- client side ---


_UNANSWERED: Final = MappingProxyType({"unanswered": True})
_REFUSED: Final = frozenset({300, 400, 413, 420})
"""Statuses about the request rather than the peer: store's archive errors, bad requests, invalid messages."""


class CallError(Exception):
    """A request that got no usable response."""

    retriable = True
    outcome: Mapping[str, object] = MappingProxyType({})
    """For the caller: the peer's status, or that the request was sent with unknown outcome."""

    @property
    def kind(self) -> str:
        """The error's name in the metrics."""
        return type(self).__name__


class PeerUnreachable(CallError):
    """The peer cannot be asked."""


class NoAnswer(CallError):
    """The request was sent, and no response arrived in time."""

    outcome = _UNANSWERED


class BadAnswer(CallError):
    """The response is unusable."""

    outcome = _UNANSWERED


class RequestRefused(CallError):
    """The peer returned an error status. `final`: any other peer would return the same."""

    def __init__(self, status: int, description: str, *, final: bool = False) -> None:
        super().__init__(f"{status} {description}".strip())
        self.status = status
        self.description = description
        self.final = final
        self.retriable = not final
        self.outcome = {"status": status}

    @property
    def kind(self) -> str:
        return str(self.status)


class Attempt(NamedTuple):
    """A peer that was tried without success."""

    peer: str
    error: CallError


class AllFailed(IpcError):
    """No peer fulfilled the request. Empty `attempts`: there was no peer to ask.

    `bad_request` if a peer rejected the request itself, `rate_limited` if all responses were rate limits,
    else `no_peers`. The detail lists every attempt.
    """

    def __init__(self, service: str, attempts: Sequence[Attempt], missing: str = "") -> None:
        tried = "; ".join(f"{attempt.peer}: {attempt.error}" for attempt in attempts)
        statuses = {attempt.error.outcome.get("status") for attempt in attempts}
        code = ErrorCode.RATE_LIMITED if statuses == {TOO_MANY_REQUESTS} else ErrorCode.NO_PEERS
        rows = [
            {"peer": attempt.peer, "error": str(attempt.error), **attempt.error.outcome}
            for attempt in attempts
        ]
        super().__init__(
            code if statuses.isdisjoint(_REFUSED) else ErrorCode.BAD_REQUEST,
            tried or missing or f"no connected peer serves {service}",
            detail={"attempts": rows} if rows else None,
        )
        self.attempts = tuple(attempts)

    def __str__(self) -> str:
        return self.message


async def call(
    host: Host,
    peer_id: PeerIdText,
    protocols: Sequence[str],
    request: bytes,
    *,
    decode: Callable[[bytes], T],
    max_response: int,
    deadline: float,
) -> T:
    """Send one request body to a connected peer and return its decoded response, within `deadline` seconds.

    Uses the first of `protocols` that the peer supports. Raise CallError, also if `decode` raises ValueError.
    """
    stream: Stream | None = None
    done = False
    try:
        with trio.move_on_after(deadline):
            try:
                stream = await host.open_stream(peer_id, protocols, deadline=deadline)
            except (NotConnected, ProtocolNotSupported) as error:
                raise PeerUnreachable(str(error)) from error
            except P2pError as error:
                raise PeerUnreachable(f"cannot open a stream: {error}") from error
            try:
                # 12, 13, 19, 34/WAKU2: one stream per request, with one length-prefixed message each way.
                await stream.write(encode_frame(request))
                # Half-close: some servers read until the end of the stream.
                await stream.close()
                body = await MessageReader(stream, max_response).read()
                if body is None:
                    raise NoAnswer("the stream was closed without a response")
                response = decode(body)
            except P2pError as error:
                raise NoAnswer(str(error)) from error
            except StreamFrameError as error:
                raise BadAnswer(str(error)) from error
            except ValueError as error:
                raise BadAnswer(f"undecodable response: {error}") from error
            done = True
            return response
        raise NoAnswer(f"no response within {deadline:g} s")
    finally:
        if stream is not None and not done:
            with trio.CancelScope(shield=True):
                await stream.reset()
