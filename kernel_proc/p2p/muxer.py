"""The base of a muxed connection: one reader, one writer while there is something to write, a bounded send
queue, keepalive.

Yamux and mplex add their framing.

The reader never waits for a write: responses go into the send queue with their own limit, so that two peers
cannot deadlock. Queued frames are joined into as few noise messages and socket writes as possible; a
cancelled task cannot leave a partial frame on the wire.
"""

from __future__ import annotations

import abc
import time
from collections.abc import Awaitable, Callable, Iterable

import trio

from kernel_proc.p2p._errors import ConnectionEnded, ProtocolViolation
from kernel_proc.p2p.api import EndCause, PeerIdText, StreamClosed
from kernel_proc.p2p.limits import HostLimits
from kernel_proc.p2p.noise import SecureChannel
from kernel_proc.p2p.scratch import LARGEST
from kernel_proc.p2p.stream import MuxedStream

SEND_BATCH = 128 * 1024
"""Bytes sealed and written to the socket at once; the write timeout applies to this amount."""

SMALL_PIECE = 8
"""A noise message smaller than this cannot even hold a yamux frame header."""
SMALL_FRAME = 16
"""A frame body smaller than this counts as useless. js implementations send the length of each message
separately."""
EARNED_PER_BYTE = 1 / 64
"""Useless frames a peer may send per useful byte."""

LONGEST_TICK = 2.0
"""Ticks come at least every second. A longer gap means that we were suspended, and is not held against the
peer."""

DIRECT_PAUSE = 0.001
"""Seconds between two direct writes on a connection. A burst is written directly once, and the rest of it in
as few socket writes as possible."""
DIRECT_LARGE = 32 * 1024
"""From this size on, joining with others saves nothing: a direct write needs no pause before it."""

TURN = 256 * 1024
"""Bytes written directly before other tasks have a turn; a small write counts as a sixteenth of it."""
READ_HOLD = 0.002
"""Seconds for which a connection is read before other tasks have a turn."""

Count = Callable[[str], None]
"""Increments a named counter of the host."""


class Muxer(abc.ABC):
    """The common part of yamux and mplex. `run` raises nothing but ConnectionEnded."""

    def __init__(self, channel: SecureChannel, *, outbound: bool, limits: HostLimits, count: Count) -> None:
        self.peer_id: PeerIdText = channel.remote_peer.to_base58()
        self.outbound = outbound
        self.limits = limits
        self.buffered = 0
        """Unread bytes of all streams."""
        self.last_received = trio.current_time()
        self._channel = channel
        self._count = count
        self._streams: dict[object, MuxedStream] = {}
        self._inbound_streams = 0
        self._outbound_streams = 0
        self._opened_by_peer = 0
        self._lingering: set[MuxedStream] = set()
        self._queue: list[bytes | memoryview] = []
        self._queued = 0
        self._control_queued = 0
        self._waiting_for_room: set[MuxedStream] = set()
        self._nursery: trio.Nursery | None = None
        """Of the writer, while `run` runs."""
        self._writer_runs = False
        self._reading = False
        """Whether a piece is being read, after which the reader writes what that has queued."""
        self._sending_since: float | None = None
        self._unsent = b""
        """Sealed bytes that a direct write left over. Noise numbers its messages: they go out first."""
        self._unsent_size = 0
        """What they count for in `_queued`."""
        self._direct_at = float("-inf")
        self._turn_used = 0
        self._ended: str | None = None
        self.ended_cause = EndCause.OTHER
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
                    await self._guard(self._read_loop)
                finally:
                    self._nursery = None  # it takes no more tasks soon, while streams still end
        self.end("host stopped", EndCause.HOST_STOPPED)
        assert self._ended is not None
        return self._ended

    async def _guard(self, loop: Callable[[], Awaitable[None]]) -> None:
        try:
            await loop()
        except ConnectionEnded as error:
            if isinstance(error, ProtocolViolation):
                self._count("protocol_violations")
            self.end(error.reason)
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            self.end("connection lost")

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
        self._waiting_for_room.clear()
        self._queue.clear()
        self._unsent = b""
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
                self.last_received = trio.current_time()
                for piece in pieces:
                    self._reading = True
                    try:
                        if len(piece) < SMALL_PIECE:
                            self.charge()
                        self.feed(piece)
                    finally:
                        self._reading = False
                        if self._queue:
                            self._write_queued()
                    if time.perf_counter() - started > READ_HOLD:
                        await trio.lowlevel.checkpoint()
                        started = time.perf_counter()
                await self.after_feed()
                if self.buffered:
                    break  # those who read streams in tasks of their own have a turn first
                pieces = channel.receive_now()

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

    # -- writing ----------------------------------------------------------

    def enqueue(self, *parts: bytes | memoryview) -> None:
        """Queue a data frame for the writer."""
        self._queue.extend(parts)
        for part in parts:
            self._queued += len(part)
        if not self._reading:
            self._wake_writer()

    def enqueue_control(self, frame: bytes) -> None:
        """Queue a response. A peer that provokes responses without reading them is disconnected."""
        self._control_queued += len(frame)
        if self._control_queued > self.limits.control_buffer:
            raise ProtocolViolation("peer does not read our responses")
        self.enqueue(frame)

    def _wake_writer(self) -> None:
        """Start the writer unless it runs: an idle connection has no task for it."""
        if not self._writer_runs and self._nursery is not None and self._ended is None:
            self._writer_runs = True
            self._nursery.start_soon(self._guard, self._write_loop)

    def _write_queued(self) -> None:
        """Write in the reader's task what it has queued: credit must not wait for the writer's turn. What the
        socket does not take, and an error, are left to the writer."""
        if not self._writer_runs and not self._unsent and self._channel.can_send_now:
            batch, size = self._next_batch()
            self._unsent, self._unsent_size = self._channel.send_some(batch), size
            if not self._unsent:
                self._written(size)
        if self._unsent or self._queue:
            self._wake_writer()

    def _written(self, size: int) -> None:
        self._queued -= size
        if self._waiting_for_room and self._queued < self.limits.send_buffer:
            for stream in self._waiting_for_room:
                stream.wake_writer()
            self._waiting_for_room.clear()

    async def _write_loop(self) -> None:
        while self._unsent or self._queue:
            if self._unsent:
                rest, size = self._unsent, self._unsent_size
                self._unsent = b""
            else:
                batch, size = self._next_batch()
                rest = self._channel.send_some(batch)
            if rest:
                self._sending_since = trio.current_time()
                # One task waits for the transport, with whole frames: a cancelled application task cannot
                # tear a frame apart.
                await self._channel.stream.send_all(rest)
                self._sending_since = None
            self._written(size)
        self._writer_runs = False

    def _next_batch(self) -> tuple[list[bytes | memoryview], int]:
        queue = self._queue
        if self._queued <= SEND_BATCH:
            self._queue = []
            self._control_queued = 0
            return queue, self._queued
        size = 0
        for index, part in enumerate(queue):  # noqa: B007 - the index outlives the loop
            size += len(part)
            if size >= SEND_BATCH:
                break
        batch = queue[: index + 1]
        del queue[: index + 1]
        if not queue:
            self._control_queued = 0
        return batch, size

    async def stream_write(self, stream: MuxedStream, data: bytes) -> None:
        """Split `data` into frames, as flow control and queue space permit."""
        position, total, queued = 0, len(data), not data
        while True:
            if stream.abort_reason is not None:
                raise StreamClosed(stream.abort_reason)
            if stream.output_ended:
                raise StreamClosed("closed for writing")
            if position == total:
                break
            if size := self._write_directly(stream, data, position):
                position += size
                continue
            size = min(stream.send_window, total - position, self.max_body)
            if size > 0 and self._queued < self.limits.send_buffer:
                whole = size == total
                self.send_body(stream, data if whole else memoryview(data)[position : position + size])
                position += size
                queued = True
                continue
            await self._wait_to_write(stream, for_room=size > 0)
        # A turn of the loop costs more than a write of some KiB: give one up after several writes.
        self._turn_used += max(total, TURN // 16)
        if self._turn_used < TURN and not queued:
            await trio.lowlevel.checkpoint_if_cancelled()
            return
        self._turn_used = 0
        await trio.lowlevel.checkpoint()

    def stream_write_now(self, stream: MuxedStream, data: bytes) -> bool:
        """Write `data` to the socket in the caller's task, if nothing else is under way and it is within the
        stream's credit. What the socket does not take, and an error, are left to the writer task."""
        now = time.perf_counter()
        if len(data) < DIRECT_LARGE and now - self._direct_at < DIRECT_PAUSE:
            return False
        if len(data) > stream.send_window or not self._write_directly(stream, data, 0):
            return False
        self._direct_at = now
        return True

    def _write_directly(self, stream: MuxedStream, data: bytes, start: int) -> int:
        """Write what the credit allows of `data[start:]`. Return how many bytes: 0 while the connection is
        busy."""
        size = min(stream.send_window, len(data) - start)
        if (
            self._queue
            or self._unsent
            or self._sending_since is not None
            or self._ended is not None
            or stream.abort_reason is not None
            or stream.output_ended
            or size <= 0
            or len(data) > LARGEST
            or not self._channel.can_send_now
        ):
            return 0
        most, stop = self.max_body, start + size
        frames = []
        while start < stop:
            end = min(stop, start - start % most + most)
            frames.append((self.data_header(stream, end - start), start, end))
            start = end
        rest = self._channel.send_data(data, frames, most)
        if rest:
            self._unsent, self._unsent_size = rest, size
            self._queued += size
            self._wake_writer()
        return size

    async def _wait_to_write(self, stream: MuxedStream, *, for_room: bool) -> None:
        if for_room:
            self._waiting_for_room.add(stream)
        with trio.move_on_after(self.limits.write_timeout) as scope:
            await stream.wait_writable()
        if not scope.cancelled_caught:
            return
        self._waiting_for_room.discard(stream)
        self._count("write_timeouts")
        self.stream_reset(stream, "write timeout")

    # -- implemented by yamux and mplex ---------------------------------------------------------

    max_body: int
    """Largest body of an outgoing data frame."""

    @abc.abstractmethod
    def open_stream(self) -> MuxedStream:
        """Open a stream. Raise StreamClosed if the connection has ended or is at its limit."""

    @abc.abstractmethod
    def data_header(self, stream: MuxedStream, size: int) -> bytes:
        """Return the header of a data frame and spend the stream's credit for it."""

    def send_body(self, stream: MuxedStream, body: bytes | memoryview) -> None:
        """Queue a data frame; `body` fits max_body and the send window."""
        self.enqueue(self.data_header(stream, len(body)), body)

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
