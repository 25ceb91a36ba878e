"""The base of a muxed connection: its reader, its streams and its keepalive; `output` has the writing half.

Yamux and mplex add their framing.

The reader never waits for a write: responses go into the send queue with their own limit, so that two peers
cannot deadlock.
"""

from __future__ import annotations

import abc
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import trio

from kernel_proc.p2p._errors import ConnectionEnded, ProtocolViolation
from kernel_proc.p2p.api import EndCause, PeerIdText, StreamClosed
from kernel_proc.p2p.limits import HostLimits
from kernel_proc.p2p.noise import SecureChannel
from kernel_proc.p2p.output import Count, MuxerOutput
from kernel_proc.p2p.stream import MuxedStream
from kernel_proc.reactor import watching

SMALL_PIECE: Final = 8
"""A noise message smaller than this cannot even hold a yamux frame header."""
SMALL_FRAME: Final = 16
"""A frame body smaller than this counts as useless. js implementations send the length of each message
separately."""
EARNED_PER_BYTE: Final = 1 / 64
"""Useless frames a peer may send per useful byte."""

LONGEST_TICK: Final = 2.0
"""Ticks come at least every second. A longer gap means that we were suspended, and is not held against the
peer."""

READ_HOLD: Final = 0.002
"""Seconds for which a connection is read before other tasks have a turn."""


class Muxer(MuxerOutput):
    """The common part of yamux and mplex."""

    may_always_read = True
    """Whether nothing but the peer's own credit holds the reader back."""

    def __init__(self, channel: SecureChannel, *, outbound: bool, limits: HostLimits, count: Count) -> None:
        super().__init__(channel, limits, count)
        self.peer_id: PeerIdText = channel.remote_peer.to_base58()
        self.outbound = outbound
        self.buffered = 0
        """Unread bytes of all streams."""
        self.last_received = trio.current_time()
        self._clock = trio.lowlevel.current_clock().current_time
        self._streams: dict[object, MuxedStream] = {}
        self._inbound_streams = 0
        self._outbound_streams = 0
        self._opened_by_peer = 0
        self._lingering: set[MuxedStream] = set()
        self.ended_cause = EndCause.OTHER
        self._failure: Exception | None = None
        """What went wrong with us, not with the peer."""
        self._scope = trio.CancelScope()
        self._accept: Callable[[MuxedStream], None] = self._refuse
        self._last_tick = trio.current_time()
        self._ping_waited: float | None = None
        self._ping_sent_at = 0.0
        self._allowance = float(limits.idle_frames)
        self._allowance_at = trio.current_time()

    # -- inspection ----------------------------------------------------

    @property
    def traffic(self) -> tuple[int, int]:
        """Bytes received and sent over the transport, encryption included."""
        return self._channel.received_bytes, self._channel.sent_bytes

    def open_streams(self) -> list[MuxedStream]:
        """The streams that are open now, of both directions."""
        return list(self._streams.values())

    # -- lifetime -------------------------------------------------------

    @property
    def ended(self) -> str | None:
        """Why the connection ended; None while it is alive."""
        return self._ended

    async def run(self, accept: Callable[[MuxedStream], None]) -> str:
        """Read and write until the connection ends; return the reason. `accept` gets each stream opened by
        the peer."""
        self._accept = accept
        with self._scope:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                if self._queue:
                    self._wake_writer()
                try:
                    with watching(self._channel.descriptor if self.may_always_read else None, self._read_now):
                        await self._guard(self._read_loop)
                finally:
                    self._nursery = None  # it takes no more tasks soon, while streams still end
        if self._failure is not None:
            raise self._failure
        self.end("host stopped", EndCause.HOST_STOPPED)
        assert self._ended is not None
        return self._ended

    async def _guard(self, loop: Callable[[], Awaitable[None]]) -> None:
        try:
            await loop()
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        """End the connection for what its reader or writer raised."""
        if isinstance(error, ConnectionEnded):
            if isinstance(error, ProtocolViolation):
                self._count("protocol_violations")
            self.end(error.reason)
        elif isinstance(error, (trio.BrokenResourceError, trio.ClosedResourceError, OSError)):
            self.end("connection lost")
        else:
            self._failure = error
            self.end(f"internal error: {error!r}")

    def end(self, reason: str, cause: EndCause = EndCause.OTHER) -> None:
        """Close the connection: abort all streams and stop the loops. The first reason is kept."""
        if self._ended is not None:
            return
        self._ended = reason
        self.ended_cause = cause
        for stream in list(self._streams.values()):
            stream.abort(f"connection closed: {reason}")
        self._streams.clear()
        self._lingering.clear()
        self.discard()
        self._scope.cancel()

    # -- reading ----------------------------------------------------------

    async def _read_loop(self) -> None:
        channel = self._channel
        while True:
            pieces = await channel.receive()
            if not pieces:
                raise ConnectionEnded("closed by peer")
            started = time.perf_counter()
            while pieces:
                self.last_received = self._clock()
                for piece in pieces:
                    self._process(piece)
                    if time.perf_counter() - started > READ_HOLD:
                        await trio.lowlevel.checkpoint()
                        started = time.perf_counter()
                await self.after_feed()
                if self.buffered:
                    break  # those who read streams in tasks of their own have a turn first
                pieces = channel.receive_more()

    def _read_now(self) -> None:
        """Read without the reader's task, which waits. At the end of the input trio wakes it."""
        try:
            pieces = self._channel.receive_now()
            if pieces:
                self.last_received = self._clock()
            for piece in pieces:
                self._process(piece)
        except Exception as error:
            self._fail(error)

    def _process(self, piece: bytes) -> None:
        self._reading = True
        try:
            if len(piece) < SMALL_PIECE:
                self.charge()
            self.feed(piece)
        finally:
            self._reading = False
            if self._queue:
                self._write_queued()

    @abc.abstractmethod
    def feed(self, piece: bytes) -> None:
        """Process plaintext. Raise ProtocolViolation."""

    def earn(self, size: int) -> None:
        """Credit the peer for useful bytes."""
        earned = self._allowance + size * EARNED_PER_BYTE
        self._allowance = min(self.limits.idle_frames, earned)

    def charge(self) -> None:
        """Charge a useless frame.

        Each costs us about as much work as a full one, but the peer only a few bytes, so their number is
        limited. Raise ProtocolViolation when the peer exceeds its allowance.
        """
        self._allowance -= 1.0
        if self._allowance >= 0.0:
            return
        now = trio.current_time()
        refill = (now - self._allowance_at) * self.limits.idle_frame_rate
        self._allowance = min(float(self.limits.idle_frames), self._allowance + refill)
        self._allowance_at = now
        if self._allowance < 0.0:
            self._count("idle_frames_refused")
            raise ProtocolViolation("too many frames without payload")

    @property
    def overdrawn(self) -> bool:
        """True if the peer exceeded its allowance of useless frames."""
        return self._allowance < 0.0

    def resume_allowance(self, seconds: float) -> None:
        """Grant only what an allowance overdrawn `seconds` ago has regained, on an earlier connection."""
        self._allowance = min(self._allowance, seconds * self.limits.idle_frame_rate)

    async def after_feed(self) -> None:
        """Hook to hold the reader back in muxers without flow control."""
        return

    # -- implemented by yamux and mplex ---------------------------------------------------------

    @abc.abstractmethod
    def open_stream(self) -> MuxedStream:
        """Open a stream. Raise StreamClosed if the connection has ended or is at its limit."""

    @abc.abstractmethod
    def send_end(self, stream: MuxedStream) -> None:
        """Queue the frame that closes our direction."""

    @abc.abstractmethod
    def send_reset(self, stream: MuxedStream) -> None:
        """Queue the frame that resets the stream."""

    @abc.abstractmethod
    def stream_consumed(self, stream: MuxedStream, count: int) -> None:
        """Handle that the application consumed `count` bytes."""

    @abc.abstractmethod
    def send_ping(self) -> bool:
        """Send a ping frame. Return False if the muxer has none."""

    # -- streams ----------------------------------------------------------

    def _refuse(self, stream: MuxedStream) -> None:
        self.stream_reset(stream, "not accepting streams")

    def check_can_open(self) -> None:
        """Raise StreamClosed if no stream can be opened now."""
        if self._ended is not None:
            raise StreamClosed(f"connection closed: {self._ended}")
        if self._outbound_streams >= self.limits.max_outbound_streams:
            self._count("streams_refused")
            raise StreamClosed("too many open streams on this connection")

    def add_stream(self, key: object, stream: MuxedStream) -> None:
        self._streams[key] = stream
        if stream.outbound:
            self._outbound_streams += 1
        else:
            self._inbound_streams += 1

    def may_accept(self) -> bool:
        """Return whether the peer may open another stream."""
        self._opened_by_peer += 1
        if self._opened_by_peer > self.limits.max_stream_rate:
            raise ProtocolViolation("peer opens streams too fast")
        if self._inbound_streams < self.limits.max_inbound_streams:
            return True
        self._count("streams_refused")
        return False

    @abc.abstractmethod
    def key_of(self, stream: MuxedStream) -> object:
        """Return the stream's key in the table."""

    def _remove(self, stream: MuxedStream) -> None:
        if self._streams.get(key := self.key_of(stream)) is not stream:
            return
        del self._streams[key]
        self._lingering.discard(stream)
        self._waiting_for_room.discard(stream)
        if stream.outbound:
            self._outbound_streams -= 1
        else:
            self._inbound_streams -= 1

    def check_buffer(self, stream: MuxedStream) -> bool:
        """Check the connection's limit of unread bytes, resetting the stream if it is exceeded."""
        if self.buffered <= self.limits.connection_buffer:
            return True
        self._count("buffer_overruns")
        self.stream_reset(stream, "too many unread bytes on this connection")
        return False

    def remote_end(self, stream: MuxedStream) -> None:
        """Handle that the peer closed its direction."""
        stream.end_of_input()
        if stream.output_ended:
            self._remove(stream)

    def remote_reset(self, stream: MuxedStream) -> None:
        self._remove(stream)
        stream.abort("reset by peer")

    def stream_close(self, stream: MuxedStream) -> None:
        """Close our direction. The peer has the linger timeout, counted from its last bytes, to close its
        own."""
        if stream.output_ended or stream.abort_reason is not None or self._ended is not None:
            return
        stream.output_ended = True
        self.send_end(stream)
        stream.wake_writer()
        if stream.input_ended:
            self._remove(stream)
        else:
            self.stream_linger(stream)

    def stream_linger(self, stream: MuxedStream) -> None:
        """Start or restart the linger timeout of a half-closed stream."""
        if self._ended is None and self._streams.get(self.key_of(stream)) is stream:
            stream.linger_until = trio.current_time() + self.limits.linger_timeout
            self._lingering.add(stream)

    def stream_reset(self, stream: MuxedStream, reason: str) -> None:
        if stream.abort_reason is not None:
            return
        known = self._streams.get(self.key_of(stream)) is stream
        self._remove(stream)
        if known and self._ended is None:
            self.send_reset(stream)
        stream.abort(reason)

    @property
    def streams(self) -> Iterable[MuxedStream]:
        """The open streams, for tests and metrics."""
        return self._streams.values()

    # -- keepalive ----------------------------------------------------------

    def tick(self, now: float) -> bool:
        """Check timeouts; called about every second. Return True if a ping stream is due because the muxer
        has no ping frame.

        Silence is counted in ticks rather than wall time: after we were stopped or suspended, the peer gets
        its full time to respond.
        """
        gap = now - self._last_tick
        slept = gap > LONGEST_TICK
        self._last_tick = now
        self._opened_by_peer = 0
        for stream in [s for s in self._lingering if s.linger_until is not None and s.linger_until <= now]:
            self._count("streams_lingered_out")
            self.stream_reset(stream, "peer did not close the stream")
        if self._sending_since is not None and now - self._sending_since > self.limits.write_timeout:
            if not slept:
                self._count("write_timeouts")
                self._count("frozen_evicted")
                self.end("write timeout")
            else:
                self._sending_since = now
            return False
        if self._ping_waited is not None:
            if self.last_received > self._ping_sent_at:
                self._ping_waited = None
            else:
                self._ping_waited += 0.0 if slept else gap
                if self._ping_waited >= self.limits.ping_timeout:
                    self._count("frozen_evicted")
                    self.end("no sign of life")
                return False
        if now - self.last_received >= self.limits.ping_interval:
            self._ping_waited, self._ping_sent_at = 0.0, now
            return not self.send_ping()
        return False
