"""Mplex 6.7.0 over a secure channel, for peers without yamux (js-waku in browsers).

Spec: github.com/libp2p/specs/mplex. Mplex has no flow control. To throttle a flooding peer we stop reading
the connection while one stream's buffer is full; if that is not drained in time, the stream is reset.
"""

from __future__ import annotations

from typing import Final

import trio

from kernel_proc.p2p import varint
from kernel_proc.p2p._errors import ProtocolViolation
from kernel_proc.p2p.limits import HostLimits
from kernel_proc.p2p.muxer import SMALL_FRAME, Muxer
from kernel_proc.p2p.noise import MAX_PLAINTEXT, SecureChannel
from kernel_proc.p2p.output import Count
from kernel_proc.p2p.stream import MuxedStream

PROTOCOL: Final = "/mplex/6.7.0"
MAX_MESSAGE: Final = 1 << 20
"""Longer frames end the connection, as in the other implementations (mplex spec: 1 MiB)."""
DRAIN_TIMEOUT: Final = 5.0
"""Seconds a full stream may block the connection before it is reset."""
MAX_VARINT: Final = 9
UNLIMITED: Final = 2**62

(
    NEW_STREAM,
    MESSAGE_RECEIVER,
    MESSAGE_INITIATOR,
    CLOSE_RECEIVER,
    CLOSE_INITIATOR,
    RESET_RECEIVER,
    RESET_INITIATOR,
) = range(7)


class Mplex(Muxer):
    """One mplex session."""

    max_body = MAX_PLAINTEXT - 2 * MAX_VARINT
    may_always_read = False

    def __init__(self, channel: SecureChannel, *, outbound: bool, limits: HostLimits, count: Count) -> None:
        super().__init__(channel, outbound=outbound, limits=limits, count=count)
        self._next_id = 0
        self._varint = 0
        self._varint_shift = 0
        self._header: int | None = None
        self._body_left = 0
        self._body_stream: MuxedStream | None = None
        self._full: set[MuxedStream] = set()
        self._drained = trio.lowlevel.ParkingLot()

    # -- incoming ----------------------------------------------------------

    def feed(self, piece: bytes) -> None:
        position, end = 0, len(piece)
        while position < end and self._ended is None:
            if self._body_left:
                size = min(self._body_left, end - position)
                stream = self._body_stream
                if stream is not None and stream.abort_reason is None:
                    stream.deliver(piece, position, position + size)
                    if self.check_buffer(stream) and stream.buffered > self.limits.stream_window:
                        self._full.add(stream)
                position += size
                self._body_left -= size
                continue
            byte = piece[position]
            position += 1
            self._varint |= (byte & 0x7F) << self._varint_shift
            if byte & 0x80:
                self._varint_shift += 7
                if self._varint_shift >= 7 * MAX_VARINT:
                    raise ProtocolViolation("mplex: varint too long")
                continue
            value, self._varint, self._varint_shift = self._varint, 0, 0
            if self._header is None:
                self._header = value
            else:
                head, self._header = self._header, None
                self._frame(head >> 3, head & 7, value)

    def _frame(self, stream_id: int, flag: int, length: int) -> None:
        if length > MAX_MESSAGE:
            raise ProtocolViolation("mplex: message too long")
        self._body_left, self._body_stream = length, None
        if flag == NEW_STREAM:
            self._incoming(stream_id)
            return
        if flag > RESET_INITIATOR:
            raise ProtocolViolation("mplex: unknown flag")
        # Even flags (receiver = 1, 3, 5; initiator = 2, 4, 6) are sent by the opener of the stream; ids of
        # the two sides are separate namespaces (mplex spec, Opening a new stream).
        stream = self._streams.get((stream_id, flag & 1 == 1))
        if length >= SMALL_FRAME:
            self.earn(length)
        elif stream is None or flag in (MESSAGE_RECEIVER, MESSAGE_INITIATOR):
            self.charge()
        if stream is None:
            return
        if flag in (MESSAGE_RECEIVER, MESSAGE_INITIATOR):
            if not stream.input_ended:
                self._body_stream = stream
        elif flag in (CLOSE_RECEIVER, CLOSE_INITIATOR):
            if not stream.input_ended:
                self.remote_end(stream)
        else:
            self.remote_reset(stream)

    def _incoming(self, stream_id: int) -> None:
        if (stream_id, False) in self._streams:
            raise ProtocolViolation("mplex: stream opened twice")
        if not self.may_accept():
            self.enqueue_control(varint.encode(stream_id << 3 | RESET_RECEIVER) + b"\0")
            return
        stream = MuxedStream(self, stream_id, outbound=False, send_window=UNLIMITED, receive_window=UNLIMITED)
        self.add_stream((stream_id, False), stream)
        self._accept(stream)

    async def after_feed(self) -> None:
        # Holding the reader back is the only back-pressure possible: mplex has no flow control
        # (libp2p/specs/mplex, Implementation notes).
        while self._full:
            with trio.move_on_after(DRAIN_TIMEOUT) as scope:
                while any(self._is_full(stream) for stream in self._full):
                    await self._drained.park()
            if scope.cancelled_caught:
                for stream in list(self._full):
                    if self._is_full(stream):
                        self._count("buffer_overruns")
                        self.stream_reset(stream, "stream is not being read")
            self._full.clear()
            # We kept the peer waiting, so its silence proves nothing.
            self.last_received = trio.current_time()

    def _is_full(self, stream: MuxedStream) -> bool:
        return stream.abort_reason is None and stream.buffered > self.limits.stream_window // 2

    # -- outgoing ----------------------------------------------------------

    def open_stream(self) -> MuxedStream:
        self.check_can_open()
        stream_id, self._next_id = self._next_id, self._next_id + 1
        stream = MuxedStream(self, stream_id, outbound=True, send_window=UNLIMITED, receive_window=UNLIMITED)
        self.add_stream((stream_id, True), stream)
        # The stream name is informational; implementations use the id.
        name = str(stream_id).encode()
        self.enqueue(varint.encode(stream_id << 3 | NEW_STREAM) + varint.encode(len(name)) + name)
        return stream

    def _head(self, stream: MuxedStream, initiator_flag: int, length: int) -> bytes:
        flag = initiator_flag if stream.outbound else initiator_flag - 1
        return varint.encode(stream.stream_id << 3 | flag) + varint.encode(length)

    def data_header(self, stream: MuxedStream, size: int) -> bytes:
        return self._head(stream, MESSAGE_INITIATOR, size)

    def send_end(self, stream: MuxedStream) -> None:
        self.enqueue(self._head(stream, CLOSE_INITIATOR, 0))

    def send_reset(self, stream: MuxedStream) -> None:
        self.enqueue(self._head(stream, RESET_INITIATOR, 0))

    def stream_consumed(self, stream: MuxedStream, count: int) -> None:  # noqa: ARG002 - no credit to give
        if self._full and not self._is_full(stream):
            self._drained.unpark_all()

    def send_ping(self) -> bool:
        return False

    def key_of(self, stream: MuxedStream) -> object:
        return (stream.stream_id, stream.outbound)
